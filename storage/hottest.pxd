# cython: language_level=3
"""Hottest: the blocks of a database that are asked for most, found in slices."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from storage.cluster cimport Node
from storage.store cimport Store


cdef enum:
    HOTTEST = 4096    # blocks that are kept

cdef struct HotSlot:
    uint64_t word
    double heat
    uint32_t slot
    uint32_t last_ms
    uint32_t hits


@cython.final
cdef class HotSurvey:
    cdef Store store
    cdef int database
    cdef uint32_t node                # being looked at
    cdef uint64_t next_set
    cdef HotSlot found[HOTTEST]       # of this node, a heap: the coolest first
    cdef uint32_t count
    cdef list blocks
    cdef void _offer(self, HotSlot slot) noexcept nogil
    cdef int _look(self, Node node) except -1
    cdef int _read_keys(self, Node node) except -1
