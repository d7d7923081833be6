# cython: language_level=3
"""Large values on their way: staged ones that are being received, pinned ones that are being sent."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from storage.batch cimport Request
from storage.engine cimport Engine
from storage.fabric.base cimport FabricOp
from storage.hot_values cimport HotValue

cdef enum StageResult:
    STAGE_OK = 0
    STAGE_FULL = 1     # the pool has no room for it
    STAGE_WAIT = 2     # unfinished values hold their share of the pool: wait for one to finish


cdef class StagingArea:
    cdef Engine engine
    cdef uint64_t limit_pages
    cdef uint64_t pages_held
    cdef list unfinished         # their numbers, in order of their beginning; the first may always go on
    cdef uint64_t begun
    cdef object __weakref__


cdef class StagedValue:
    cdef StagingArea area
    cdef Engine engine
    cdef object number
    cdef uint32_t holder         # what its pages are marked with
    cdef readonly uint64_t size_bytes
    cdef uint64_t received
    cdef uint32_t *pages
    cdef uint32_t page_count     # when complete
    cdef uint32_t claimed
    cdef uint64_t in_pages       # bytes that go to pages; the rest is the tail
    cdef char *tail
    # Where no page can be touched in place: the staging buffer being filled, and those that are on their way to the node.
    cdef char *buffer
    cdef uint64_t buffer_start   # of its first byte in the value
    cdef int64_t tickets[8]
    cdef char *sent[8]
    cdef int operation_turn
    cdef FabricOp *operations    # of each of those, until it has arrived
    cdef int sent_count
    cdef bint has_evicted        # for its last pages, so that others should have a turn before the next
    cdef bint failed             # the node was lost before all of it was there
    cdef bint released
    cdef int share_turn(self, StagedValue earlier) except -1
    cdef int reserve(self) except -1
    cdef char *region(self, uint64_t *available) noexcept
    cdef int advance(self, uint64_t count) except -1
    cdef void _send_buffer(self) noexcept
    cdef void _settle(self, int left) noexcept
    cpdef void published(self)
    cpdef void discard(self)


cdef class PinnedValue:
    cdef Engine engine
    cdef readonly uint64_t size_bytes
    cdef uint32_t *pages
    cdef uint32_t page_count
    cdef char *tail
    cdef uint32_t tail_bytes
    # Where no page can be touched in place: the piece at hand, and the one after it on its way here.
    cdef char *buffer
    cdef uint64_t buffer_start
    cdef uint64_t buffer_bytes
    cdef char *next_buffer
    cdef uint64_t next_start
    cdef uint64_t next_bytes
    cdef int64_t next_ticket
    cdef FabricOp operations[2][5]     # of both pieces' transfers, in turn
    cdef int turn
    cdef bint released
    cdef HotValue *copy                # its bytes lie here: nothing is pinned
    cdef HotValue *filling             # gets the bytes as they are fetched, from the first on
    cdef char *piece_at(self, uint64_t position, uint64_t *length) noexcept
    cdef void release_staging(self) noexcept
    cdef bint failed(self) noexcept
    cdef uint64_t _paged_bytes(self) noexcept nogil
    cdef void _keep(self, uint64_t position, const char *bytes, uint64_t length) noexcept nogil
    cdef int64_t _fetch(self, uint64_t position, char *buffer, uint64_t *length) noexcept
    cdef char *run_at(self, uint64_t position, uint64_t *length) noexcept nogil
    cdef int copy_at(self, uint64_t position, char *target, uint64_t length) noexcept nogil
    cpdef void release(self)


cdef class PageRun:
    cdef PinnedValue value
    cdef char *start
    cdef Py_ssize_t length


cdef PinnedValue take_pin(Engine engine, Request *request)
