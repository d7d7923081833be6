# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Registered memory of a front end, handed out in buffers: small ones for doorbells, larger ones for payloads under way."""

from libc.stdlib cimport free, malloc

from storage.fabric.base cimport STAGING_BYTES


cdef int set_up(Buffers *buffers, uint64_t doorbell_bytes) except -1:
    """Divide the area, which the caller has registered: ``doorbell_bytes`` for doorbells, the rest for staging."""
    cdef int i
    cdef char *staging = buffers.area + doorbell_bytes
    buffers.doorbell_count = <int>(doorbell_bytes // DOORBELL_BYTES)
    buffers.staging_count = <int>((buffers.area_bytes - doorbell_bytes) // STAGING_BYTES)
    buffers.next = <int *>malloc(buffers.doorbell_count * sizeof(int))
    buffers.staging = <char **>malloc((buffers.staging_count + 1) * sizeof(char *))
    if buffers.next == NULL or buffers.staging == NULL:
        tear_down(buffers)
        raise MemoryError("no memory for the lists of buffers")
    for i in range(buffers.doorbell_count):
        buffers.next[i] = i + 1 if i + 1 < buffers.doorbell_count else -1
    buffers.first_free = 0
    buffers.doorbells_free = buffers.doorbell_count
    for i in range(buffers.staging_count):
        buffers.staging[i] = staging + <uint64_t>(buffers.staging_count - 1 - i) * STAGING_BYTES
    buffers.staging_free = buffers.staging_count
    return 0


cdef void tear_down(Buffers *buffers) noexcept:
    free(buffers.next)
    free(buffers.staging)
    buffers.next = NULL
    buffers.staging = NULL
    buffers.doorbells_free = buffers.staging_free = 0


cdef int take_doorbell_buffer(Buffers *buffers) noexcept nogil:
    """The number of a free one, or -1."""
    cdef int number
    if buffers.doorbells_free == 0:
        return -1
    number = buffers.first_free
    buffers.first_free = buffers.next[number]
    buffers.next[number] = -1
    buffers.doorbells_free -= 1
    return number


cdef void give_doorbell_buffers(Buffers *buffers, int first, int last, int count) noexcept nogil:
    """Give back a list of them."""
    buffers.next[last] = buffers.first_free
    buffers.first_free = first
    buffers.doorbells_free += count


cdef char *take_staging_buffer(Buffers *buffers) noexcept nogil:
    """STAGING_BYTES, or NULL when all are in use."""
    if buffers.staging_free == 0:
        return NULL
    buffers.staging_free -= 1
    return buffers.staging[buffers.staging_free]


cdef void give_staging_buffer(Buffers *buffers, char *buffer) noexcept nogil:
    if buffer != NULL and buffers.staging_free < buffers.staging_count:
        buffers.staging[buffers.staging_free] = buffer
        buffers.staging_free += 1


cdef bint is_inside(Buffers *buffers, void *start, uint64_t length_bytes) noexcept nogil:
    """Whether the bytes lie in the registered area."""
    cdef uint64_t position = <uint64_t>(<char *>start - buffers.area)
    return position <= buffers.area_bytes and length_bytes <= buffers.area_bytes - position
