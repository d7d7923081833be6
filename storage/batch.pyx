# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Batch: requests that go to the pool together, their scratch memory and their doorbells."""

from libc.stdint cimport int16_t, uint32_t
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memset

from storage.fabric.base cimport FabricOp

cdef enum:
    ARENA_BLOCK_BYTES = 262144
    KEPT_OPERATIONS = 16384   # a doorbell that grew beyond this is cut back afterwards


cdef int grow(Operations *operations) noexcept nogil:
    """Room for twice as many operations."""
    cdef uint32_t larger = operations.capacity * 2 if operations.capacity else 256
    operations.items = <FabricOp *>realloc(operations.items, larger * sizeof(FabricOp))
    if operations.items == NULL:
        abort()  # a few kilobytes of bookkeeping cannot be had: nothing sensible is left to do
    operations.capacity = larger
    return 0


cdef void shrink(Operations *operations) noexcept nogil:
    operations.count = 0
    if operations.capacity > KEPT_OPERATIONS:
        free(operations.items)
        operations.items = NULL
        operations.capacity = 0


cdef void note_released(NodeRound *round, int16_t place) noexcept nogil:
    """A place of the hazard row is to be emptied with the next doorbell."""
    cdef uint32_t larger
    if round.released_count == round.released_capacity:
        larger = round.released_capacity * 2 if round.released_capacity else 64
        round.released = <int16_t *>realloc(round.released, larger * sizeof(int16_t))
        if round.released == NULL:
            abort()
        round.released_capacity = larger
    round.released[round.released_count] = place
    round.released_count += 1


cdef class Batch:
    """Requests of one run and everything that they need until all are answered.

    Memory handed out by ``allocate`` and pointers in answered requests live until ``clear``.
    """

    def __cinit__(self, unsigned int capacity=256, unsigned int nodes=1):
        self.capacity = capacity
        self.node_count = nodes
        self.rounds = <NodeRound *>calloc(nodes, sizeof(NodeRound))
        self.round = self.rounds
        # Not a constant: for one the compiler writes `rep stos`, which costs 50 ns here; libc's memset costs 8.
        self.request_bytes = sizeof(Request)
        self.requests = <Request *>malloc(capacity * sizeof(Request))
        if self.requests == NULL or self.rounds == NULL:
            raise MemoryError("no memory for a batch")

    def __dealloc__(self):
        cdef ArenaBlock *following
        cdef uint32_t i
        free(self.requests)
        if self.rounds != NULL:
            for i in range(self.node_count):
                free(self.rounds[i].building.items)
                free(self.rounds[i].finished.items)
                free(self.rounds[i].trailing.items)
                free(self.rounds[i].counters)
                free(self.rounds[i].released)
            free(self.rounds)
        while self.first_block != NULL:
            following = self.first_block.next
            free(self.first_block)
            self.first_block = following

    cdef Request *add(self) noexcept nogil:
        """A fresh request, or NULL when the batch is full."""
        cdef Request *request
        if self.count == self.capacity:
            return NULL
        request = &self.requests[self.count]
        self.count += 1
        memset(request, 0, self.request_bytes)
        request.expire_at_ms = -1
        request.hazard = -1
        return request

    cdef void clear(self) noexcept nogil:
        """Forget all requests; the first block of scratch memory stays for the next run."""
        cdef ArenaBlock *following
        cdef uint32_t i
        self.count = 0
        for i in range(self.node_count):
            shrink(&self.rounds[i].building)
            shrink(&self.rounds[i].finished)
            shrink(&self.rounds[i].trailing)
        if self.first_block != NULL:
            self.first_block.used = 0
            self.block = self.first_block.next
            while self.block != NULL:
                following = self.block.next
                free(self.block)
                self.block = following
            self.first_block.next = NULL
            self.block = self.first_block

    cdef void *allocate_block(self, size_t size) noexcept nogil:
        """``size`` bytes (a multiple of 16) from a new block: the current one has no room for them."""
        cdef ArenaBlock *fresh
        cdef size_t wanted = ARENA_BLOCK_BYTES if size < ARENA_BLOCK_BYTES // 4 else size
        fresh = <ArenaBlock *>malloc(ARENA_HEAD_BYTES + wanted)
        if fresh == NULL:
            abort()
        fresh.next = NULL
        fresh.size = wanted
        fresh.used = size
        if self.block == NULL:
            self.first_block = fresh
        else:
            self.block.next = fresh
        self.block = fresh
        return <char *>fresh + ARENA_HEAD_BYTES
