# cython: language_level=3
"""LZF: unpacks what redis-server packed, piece by piece."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    LZF_HISTORY = 8192      # the farthest that a back reference reaches
    LZF_PIECE = 65536       # most bytes unpacked by one call

@cython.final
cdef class LzfUnpacker:
    cdef unsigned char output[8192 + 65536]
    cdef uint32_t begin             # of what the last call unpacked
    cdef uint32_t end
    cdef uint64_t left              # bytes that the value still lacks
    cdef uint64_t unpacked
    cdef uint32_t state
    cdef uint32_t run               # bytes left of the literal run or the reference under way
    cdef uint32_t distance
    cdef const char *wrong          # what is wrong with the data; NULL while nothing is
    cdef void start(self, uint64_t size) noexcept nogil
    cdef size_t unpack(self, const unsigned char *data, size_t length) noexcept nogil
    cdef void _copy(self, uint32_t count) noexcept nogil
    cdef void _filled(self, uint32_t count) noexcept nogil
    cdef bint is_idle(self) noexcept nogil
