# cython: language_level=3
"""Protection after a look-up: who was told that a block is there finds it there for a while."""

cimport cython
from libc.stdint cimport uint32_t

from storage.words cimport Heat


cdef enum:
    AGES = 64


@cython.final
cdef class LookupProtection:
    cdef uint32_t window_ms      # lookup-protection-ms; 0: off
    cdef double share            # of the limit, at most
    cdef uint32_t cutoff_ms      # how long ago a look-up may be that protects; the window, or less where more than the share would be protected
    cdef double ages[AGES]       # bytes seen, by the logarithm of how long ago their look-up was
    cdef double drawn            # blocks
    cdef uint32_t asked          # how often since the last survey
    cdef void set_limits(self, uint32_t window_ms, double share) noexcept nogil
    cdef bint is_due(self) noexcept nogil
    cdef void note(self, const Heat *heat, uint32_t now_ms, double size_bytes) noexcept nogil
    cdef void reckon(self, uint32_t drawn, uint32_t blocks, double limit_bytes) noexcept nogil
    cdef bint covers(self, const Heat *heat, uint32_t now_ms) noexcept nogil
