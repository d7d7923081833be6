# cython: language_level=3
"""Simulated fabric: in-process bytes that nothing else can reach; every operation is counted."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from storage.fabric.base cimport Fabric, FabricOp


# A doorbell that was posted and is not over.
cdef struct Posted:
    int64_t ticket
    FabricOp *ops          # the caller's: touched when it posts and when its wait ends, never in between
    FabricOp *copies
    char *bytes            # what WRITEs carry and READs fetch
    int count
    int left               # operations that were not performed yet
    int status
    bint is_forgotten
    Posted *next

# One operation of it.
cdef struct Task:
    Posted *posted
    FabricOp *op           # the copy
    uint32_t done_bytes    # a piece of it begins here
    uint32_t end_bytes     # and ends here
    uint32_t number        # among the doorbell's

# Operations of one queue pair, in the order in which they were posted.
cdef struct TaskQueue:
    Task *items
    int count
    int capacity


@cython.no_gc_clear  # the memory, and whose it is, are needed until the end
cdef class SimulatedFabric(Fabric):
    cdef char *memory
    cdef object owner                # who frees the memory, when it is not this one
    cdef uint64_t generator
    cdef public object journal
    cdef public object before_round
    cdef public bint suspends
    cdef public bint tears
    cdef public object cuts          # offsets of the pool, ascending, at which READs and WRITEs fall into pieces
    cdef public object on_over       # called with a stack whose doorbell is over, instead of waiting.resume_soon
    cdef public uint32_t staging_limit
    cdef readonly uint32_t staging_used
    cdef bint in_hook
    cdef bint performs_last
    cdef Posted *posted
    cdef int64_t last_ticket
    cdef TaskQueue queues[2]         # small operations, payloads
    cdef dict sleeping               # stacks by the ticket that they wait for
    cdef uint64_t next_random(self) noexcept nogil
    cdef int journal_operations(self, void *ops, int count) except -1 with gil
    cdef int call_hook(self, void *ops, int count) except -1 with gil
    cdef int announce(self, FabricOp *ops, int count) noexcept nogil
    cdef int perform_now(self, FabricOp *ops, int count) noexcept nogil
    cdef void perform_piece(self, FabricOp *op, uint32_t begin, uint32_t end) noexcept nogil
    cdef int64_t enqueue(self, FabricOp *ops, int count, int bulk) noexcept nogil
    cdef int add_task(self, TaskQueue *queue, Posted *posted, FabricOp *op, uint32_t begin, uint32_t end) noexcept nogil
    cdef int add_pieces(self, TaskQueue *queue, Posted *posted, FabricOp *op) except -1 with gil
    cdef bint may_come_next(self, TaskQueue *queue, int place) noexcept nogil
    cdef bint perform_one(self) noexcept nogil
    cdef void is_done(self, TaskQueue *queue, int place) noexcept nogil
    cdef void is_over(self, Posted *posted) noexcept nogil
    cdef void free_posted(self, Posted *posted) noexcept nogil
    cdef void drain(self) noexcept nogil
    cdef int finish(self, Posted *posted) noexcept nogil
