# cython: language_level=3
"""Cluster: all memory nodes of a pool as this front end sees them, and which key lives where."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from storage.adoption cimport Adoption
from storage.batch cimport Batch, Request
from storage.engine cimport DatabaseCounts, Engine
from storage.headroom cimport Headroom
from storage.policy cimport EvictionPolicy


@cython.final
cdef class Node:
    cdef readonly str name
    cdef readonly Engine engine          # None while the node has not been reached yet
    cdef readonly EvictionPolicy policy
    cdef readonly Headroom headroom
    cdef readonly Adoption adoption      # None where no other front end can be
    cdef readonly uint64_t seed
    cdef int64_t looked_at_ms            # when deaths were looked for, on the monotonic clock
    cdef bint is_lost(self) noexcept
    cdef bint count(self, uint32_t database, DatabaseCounts *total) noexcept
    cdef bint may_hold(self, uint32_t database) noexcept


@cython.final
cdef class Cluster:
    cdef readonly list nodes             # replaced as a whole when one of them comes back: runs keep the one they began with
    cdef Node first                      # any that was reached: its pool has the secret
    cdef readonly uint32_t node_count
    cdef int64_t now_ms
    cdef list spare_batches
    cdef uint64_t seeds[32]
    cdef void run(self, Batch batch) noexcept
    cdef void _run_all(self, Batch batch) noexcept
    cdef void hash(self, Request *request) noexcept nogil
    cdef Engine engine_of(self, Request *request)
    cdef Batch take_batch(self)
    cdef void give_batch(self, Batch batch) noexcept
