# cython: language_level=3
"""Fabric: the one-sided operations that are the only way to touch a pool."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum OpCode:
    OP_READ = 0
    OP_WRITE = 1
    OP_CAS = 2
    OP_FAA = 3

cdef enum OpFlag:
    # Wait for this node's earlier operations before starting this one (a full fence on shm).
    OP_FENCE = 1

# One operation of a doorbell: 56 bytes, filled by the engine, executed by the fabric.
cdef struct FabricOp:
    uint64_t offset     # node-local, in bytes
    void *local         # READ: where the bytes go; WRITE: where they come from
    uint64_t compare    # CAS: the expected word; FAA: the addend
    uint64_t swap       # CAS: the new word
    uint64_t result     # CAS and FAA: the word as it was before
    uint32_t length     # READ and WRITE, in bytes
    uint16_t node
    uint8_t opcode
    uint8_t flags

cdef struct FabricCounts:
    uint64_t rounds
    uint64_t reads
    uint64_t writes
    uint64_t compare_and_swaps
    uint64_t fetch_and_adds
    uint64_t read_bytes
    uint64_t write_bytes

cdef class Fabric:
    cdef readonly str kind
    cdef readonly int node_count
    cdef readonly uint64_t size_bytes
    # Whether the READs of one doorbell are performed in the order in which they were posted.
    cdef readonly bint ordered_reads
    cdef FabricCounts counts
    cdef int execute(self, FabricOp *ops, int count) noexcept nogil
    cdef char *address(self, uint32_t node, uint64_t offset, uint64_t length) noexcept nogil
    cpdef void close(self)
