# cython: language_level=3
"""Hot values: copies of values that are read again and again, in this front end's own memory."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

# One copy: these fields, then the copy of its cell, then that of its pages. Its bytes never change once it is listed.
cdef struct HotValue:
    uint64_t hash_low
    uint64_t hash_high
    uint64_t word           # slot word 0 under which the bytes were read
    uint64_t stamp          # the key's change counter, read before the slot last was
    uint64_t next_stamp     # the same as the last access read it: a stamp for whoever looks at the slot after that
    int64_t expire_at_ms    # -1: never
    uint32_t slot
    uint32_t epoch
    uint32_t cell_bytes
    uint32_t references     # of the list, of whoever fills it, of everyone who is sending it
    uint64_t payload_bytes
    uint64_t filled_bytes
    bint is_listed
    bint was_used           # since the hand last passed
    HotValue *newer
    HotValue *older
    HotValue *next_in_bucket


@cython.final
cdef class HotValues:
    cdef readonly uint64_t capacity_bytes
    cdef readonly uint64_t used_bytes    # of all copies, those too that are only being sent
    cdef readonly uint64_t listed
    cdef uint64_t hits
    cdef uint64_t stale
    cdef HotValue **buckets
    cdef uint64_t bucket_mask
    cdef HotValue *newest
    cdef HotValue *oldest
    cdef HotValue *hand
    cdef HotValue *find(self, uint64_t hash_low, uint64_t hash_high, uint32_t epoch) noexcept nogil
    cdef HotValue *make(self, uint32_t cell_bytes, uint64_t payload_bytes) noexcept nogil
    cdef void enlist(self, HotValue *value) noexcept nogil
    cdef void strike(self, HotValue *value) noexcept nogil
    cdef void release(self, HotValue *value) noexcept nogil
    cdef HotValue *_next_victim(self) noexcept nogil


cdef inline char *cell_copy(HotValue *value) noexcept nogil:
    return <char *>value + sizeof(HotValue)


cdef inline char *payload_copy(HotValue *value) noexcept nogil:
    return <char *>value + sizeof(HotValue) + ((value.cell_bytes + 15) & ~<uint32_t>15)


cdef inline int32_t changes_since(uint64_t counter, uint64_t stamp) noexcept nogil:
    """How many changes a key's counter has seen since its stamp was read, those included that were under way then.

    One half of each: a counter that was read half before and half after a change tells no less.
    """
    return <int32_t>(<uint32_t>counter - <uint32_t>(stamp >> 32))


cdef inline uint64_t later_stamp(uint64_t one, uint64_t other) noexcept nogil:
    return other if <int32_t>(<uint32_t>(other >> 32) - <uint32_t>(one >> 32)) > 0 else one
