# cython: language_level=3
"""Store: the surface that command handlers and the fast lane use."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from storage.batch cimport Batch, Request
from storage.cluster cimport Cluster, Node
from storage.lease_desk cimport LeaseDesk
from storage.removals cimport Removals
from storage.staging cimport PinnedValue, StagedValue, StagingArea


@cython.final
cdef class Store:
    cdef readonly Cluster cluster
    cdef readonly StagingArea staging
    cdef readonly int databases
    cdef str policy_name
    cdef tuple shares                  # of the limit: unfinished values, unread ones
    cdef tuple frequency               # of the LFU counter: log factor, decay in minutes
    cdef Removals removals             # keys that expired or were evicted, while somebody wants to hear of them
    cdef readonly LeaseDesk desk
    cdef bint pairs_leave_together
    cdef tuple lookup_protection       # milliseconds, share of the blocks
    cdef tuple watermarks              # of the limit: low and high mark of free pages
    cdef object on_low
    cdef bint expires_actively
    cdef bint is_paused
    cdef object manual_clock_ms
    cdef readonly uint64_t maxmemory
    cdef public object on_release
    cdef public object on_death        # called with the name of a node and the number of a front end that was declared dead there
    cdef int64_t now(self) noexcept
    cdef void set_time(self) noexcept
    cdef int _protect(self, Node node) except -1
    cdef void _run(self, Batch batch) noexcept
    cdef object _unreachable(self, Request *request)
    cdef object _entry(self, Request *request, bint payload)
    cdef PinnedValue _take_pin(self, Request *request)
    cdef StagedValue stage(self, int database, const char *key, uint32_t key_bytes, uint64_t size_bytes)
    cdef int _set_value(self, Request *request, object value, list held) except -1
