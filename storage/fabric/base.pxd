# cython: language_level=3
"""Fabric: the one-sided operations that are the only way to touch a pool."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum OpCode:
    OP_READ = 0
    OP_WRITE = 1
    OP_CAS = 2
    OP_FAA = 3

cdef enum OpFlag:
    # Wait for the earlier operations before starting this one (a full fence on shm).
    OP_FENCE = 1
    # `local` lies in memory that take_staging gave out: the bytes move without another copy.
    OP_STAGED = 2

cdef enum:
    STAGING_BYTES = 262144   # of one staging buffer: four pages

# One operation of a doorbell: 48 bytes, filled by the engine, executed by the fabric.
cdef struct FabricOp:
    uint64_t offset     # in bytes, from the beginning of the node's region
    void *local         # READ: where the bytes go; WRITE: where they come from
    uint64_t compare    # CAS: the expected word; FAA: the addend
    uint64_t swap       # CAS: the new word
    uint64_t result     # CAS and FAA: the word as it was before
    uint32_t length     # READ and WRITE, in bytes
    uint8_t opcode
    uint8_t flags

cdef struct FabricCounts:
    uint64_t rounds
    uint64_t unwaited     # of these, doorbells that nobody waited for
    uint64_t reads
    uint64_t writes
    uint64_t compare_and_swaps
    uint64_t fetch_and_adds
    uint64_t read_bytes
    uint64_t write_bytes

cdef class Fabric:
    cdef readonly str kind
    cdef readonly uint64_t size_bytes
    # Whether the READs of one doorbell are performed in the order in which they were posted.
    cdef readonly bint ordered_reads
    # Whether an operation takes a round trip to another machine: there it pays to remember what was read.
    cdef readonly bint is_remote
    # Set when the node was lost: every operation fails from then on, for good. A node that comes back gets a new object.
    cdef readonly bint is_lost
    cdef FabricCounts counts
    cdef int execute(self, FabricOp *ops, int count) noexcept nogil
    cdef int64_t post(self, FabricOp *ops, int count) noexcept nogil
    cdef int64_t post_bulk(self, FabricOp *ops, int count) noexcept nogil
    cdef int wait(self, int64_t ticket) noexcept nogil
    cdef void forget(self, int64_t ticket) noexcept nogil
    cdef char *address(self, uint64_t offset, uint64_t length) noexcept nogil
    cdef char *take_staging(self) noexcept nogil
    cdef void give_staging(self, char *buffer) noexcept nogil
    cpdef void close(self)
