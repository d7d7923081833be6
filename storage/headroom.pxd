# cython: language_level=3
"""Headroom: pages that are kept free, so that a write rarely has to evict."""

cimport cython
from libc.stdint cimport uint64_t

from storage.engine cimport Engine
from storage.policy cimport EvictionPolicy


@cython.final
cdef class Headroom:
    cdef Engine engine
    cdef EvictionPolicy policy
    cdef double low_share           # of the pages that may be used
    cdef double high_share
    cdef bint several               # front ends may use this pool, as last told
    cdef readonly uint64_t high_pages
    cdef uint64_t idle_steps       # evicted in a row without a page that came free
    cdef void set_marks(self, bint several) noexcept nogil
    cdef bint is_short(self) noexcept nogil
    cdef bint step(self) noexcept nogil
    cdef bint _give_up(self) noexcept nogil
