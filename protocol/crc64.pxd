# cython: language_level=3
"""CRC-64 as RDB files and DUMP payloads use it (Jones)."""

from libc.stdint cimport uint64_t

cdef uint64_t crc64_of(uint64_t crc, const unsigned char *data, size_t length) noexcept nogil
