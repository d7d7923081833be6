# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Simulated fabric: in-process bytes that nothing else can reach; every operation is counted.

The READs of one doorbell are performed in a random order where the rules of RDMA allow it (a READ
may pass a READ, nothing passes a WRITE or an atomic), so code that leans on their order fails
here. ``journal`` (a list, or None) receives (kind, offset, length) of every operation. ``before_round``
(a callable, or None) is called with the same list before each doorbell, so that a test can let another
front end act there; the doorbells of that other one call nobody.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from storage.fabric.base cimport OP_CAS, OP_FENCE, OP_READ, OP_WRITE, STAGING_BYTES, Fabric, FabricOp

DEF EFAULT = 14

_NAMES = ("READ", "WRITE", "CAS", "FAA")


cdef list _described(FabricOp *ops, int count):
    return [(_NAMES[ops[i].opcode], ops[i].offset, ops[i].length if ops[i].opcode < 2 else 8) for i in range(count)]


cdef class SimulatedFabric(Fabric):
    """A pool in private memory under RDMA's ordering rules, for tests."""

    def __cinit__(self, uint64_t size_bytes, uint64_t seed=1):
        self.kind = "sim"
        self.ordered_reads = False
        self.is_remote = True
        self.size_bytes = size_bytes
        self.generator = seed * 2 + 1
        self.journal = None
        self.before_round = None
        self.memory = <char *>calloc(size_bytes, 1)
        if self.memory == NULL:
            raise MemoryError(f"no memory for a simulated pool of {size_bytes} bytes")

    def __dealloc__(self):
        free(self.memory)

    cdef uint64_t next_random(self) noexcept nogil:
        # xorshift64* (Vigna 2016): reproducible from the seed, good enough to shuffle.
        self.generator ^= self.generator >> 12
        self.generator ^= self.generator << 25
        self.generator ^= self.generator >> 27
        return self.generator * <uint64_t>2685821657736338717

    cdef int journal_operations(self, void *ops, int count) except -1 with gil:
        self.journal.extend(_described(<FabricOp *>ops, count))
        return 0

    cdef int call_hook(self, void *ops, int count) except -1 with gil:
        self.in_hook = True
        try:
            self.before_round(_described(<FabricOp *>ops, count))
        finally:
            self.in_hook = False
        return 0

    cdef int execute(self, FabricOp *ops, int count) noexcept nogil:
        cdef int i, start, end, other
        cdef FabricOp *op
        if self.before_round is not None and not self.in_hook:
            self.call_hook(ops, count)
        self.counts.rounds += 1
        for i in range(count):
            if ops[i].offset + ops[i].length > self.size_bytes or ops[i].offset + 8 > self.size_bytes:
                return -EFAULT
            if ops[i].opcode >= OP_CAS and ops[i].offset & 7:
                return -EFAULT
        start = 0
        while start < count:
            op = &ops[start]
            if op.opcode == OP_READ:
                end = start + 1
                while end < count and ops[end].opcode == OP_READ and not ops[end].flags & OP_FENCE:
                    end += 1
                # A run of READs: rotate it by a random amount and walk it in a random direction.
                other = <int>(self.next_random() % <uint64_t>(end - start))
                for i in range(end - start):
                    op = &ops[start + (other + i) % (end - start)]
                    memcpy(op.local, self.memory + op.offset, op.length)
                    self.counts.reads += 1
                    self.counts.read_bytes += op.length
                start = end
                continue
            if op.opcode == OP_WRITE:
                memcpy(self.memory + op.offset, op.local, op.length)
                self.counts.writes += 1
                self.counts.write_bytes += op.length
            else:
                op.result = (<uint64_t *>(self.memory + op.offset))[0]
                if op.opcode == OP_CAS:
                    self.counts.compare_and_swaps += 1
                    if op.result == op.compare:
                        (<uint64_t *>(self.memory + op.offset))[0] = op.swap
                else:
                    self.counts.fetch_and_adds += 1
                    (<uint64_t *>(self.memory + op.offset))[0] = op.result + op.compare
            start += 1
        if self.journal is not None:
            self.journal_operations(ops, count)
        return 0

    cdef char *take_staging(self) noexcept nogil:
        return <char *>malloc(STAGING_BYTES)

    cdef void give_staging(self, char *buffer) noexcept nogil:
        free(buffer)

    def peek(self, uint64_t offset, uint64_t length) -> bytes:
        """Bytes of the pool, for tests that look behind the fabric."""
        if offset + length > self.size_bytes:
            raise IndexError(f"{offset}+{length} lies beyond the pool's {self.size_bytes} bytes")
        return self.memory[offset : offset + length]

    def poke(self, uint64_t offset, bytes data) -> None:
        """Overwrite bytes of the pool, for tests that damage it."""
        if offset + len(data) > self.size_bytes:
            raise IndexError(f"{offset}+{len(data)} lies beyond the pool's {self.size_bytes} bytes")
        memcpy(self.memory + offset, <char *>data, len(data))
