# cython: language_level=3
"""Store: the surface that command handlers and the fast lane use."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from storage.batch cimport Batch, Request
from storage.engine cimport Engine
from storage.policy cimport EvictionPolicy
from storage.staging cimport StagingArea


@cython.final
cdef class Store:
    cdef readonly Engine engine
    cdef readonly EvictionPolicy policy
    cdef readonly StagingArea staging
    cdef Batch batch
    cdef object manual_clock_ms
    cdef readonly uint64_t index_entries
    cdef readonly uint64_t maxmemory
    cdef uint64_t pinned_limit_pages
    cdef public object on_release
    cdef int64_t now(self) noexcept
    cdef void set_time(self) noexcept
    cdef Request *_request(self, int kind, int database, bytes key) except NULL
    cdef void _run(self) noexcept
    cdef object _entry(self, Request *request, bint payload)
    cdef int _set_value(self, Request *request, object value, list held) except -1
