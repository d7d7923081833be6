# cython: language_level=3
"""Registered memory of a front end, handed out in buffers: small ones for doorbells, larger ones for payloads under way."""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    DOORBELL_BYTES = 65536   # of one buffer in which the small operations of a doorbell leave and arrive

cdef struct Buffers:
    char *area               # doorbell buffers, then staging buffers
    uint64_t area_bytes
    uint32_t lkey
    int doorbell_count
    int doorbells_free
    int first_free
    int *next                # of each doorbell buffer: the one behind it in its list, or -1
    int staging_count
    int staging_free
    char **staging           # those that are free, the last one given back on top: it is still in the cache


cdef inline char *doorbell_buffer(Buffers *buffers, int number) noexcept nogil:
    return buffers.area + <uint64_t>number * DOORBELL_BYTES


cdef int set_up(Buffers *buffers, uint64_t doorbell_bytes) except -1
cdef void tear_down(Buffers *buffers) noexcept
cdef int take_doorbell_buffer(Buffers *buffers) noexcept nogil
cdef void give_doorbell_buffers(Buffers *buffers, int first, int last, int count) noexcept nogil
cdef char *take_staging_buffer(Buffers *buffers) noexcept nogil
cdef void give_staging_buffer(Buffers *buffers, char *buffer) noexcept nogil
cdef bint is_inside(Buffers *buffers, void *start, uint64_t length_bytes) noexcept nogil
