# cython: language_level=3
"""Removals: the keys that expired or were evicted, for whoever wants to tell of them."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum Removal:
    REMOVED_EXPIRED = 0
    REMOVED_EVICTED = 1


@cython.final
cdef class Removals:
    cdef char *records             # reason, database, key length in two bytes, key; one behind the other
    cdef size_t used_bytes
    cdef readonly uint64_t lost    # that found no room since they were taken last
    cdef void note(self, uint8_t reason, uint8_t database, const char *key, uint32_t key_bytes) noexcept nogil
