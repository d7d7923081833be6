# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Batch: requests that go to the pool together, their scratch memory and their doorbells."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport abort, free, malloc, realloc
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


cdef class Batch:
    """Requests of one run and everything that they need until all are answered.

    Memory handed out by ``allocate`` and pointers in answered requests live until ``clear``.
    """

    def __cinit__(self, unsigned int capacity=256):
        self.capacity = capacity
        # Not a constant: for one the compiler writes `rep stos`, which costs 50 ns here; libc's memset costs 8.
        self.request_bytes = sizeof(Request)
        self.requests = <Request *>malloc(capacity * sizeof(Request))
        if self.requests == NULL:
            raise MemoryError("no memory for a batch")

    def __dealloc__(self):
        cdef ArenaBlock *following
        free(self.requests)
        free(self.building.items)
        free(self.finished.items)
        free(self.trailing.items)
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
        self.count = 0
        shrink(&self.building)
        shrink(&self.finished)
        shrink(&self.trailing)
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
