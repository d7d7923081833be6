# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Hot values: copies of values that are read again and again, in this front end's own memory.

A value never changes under one slot word, so a copy is current while the slot still holds the word under which it was read: a few
bytes instead of the value. docs/pool.md says how that is proved. Which copy gives way: SIEVE (Zhang et al., NSDI 2024), a queue
whose hand passes over what was used since it last came by; one pass of blocks that nobody wants again does not empty it.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

cdef enum:
    LARGEST_SHARE = 8            # of the whole: one value may have so much
    BYTES_PER_BUCKET = 4096


cdef class HotValues:
    """Copies by the hash of their keys, bounded in bytes."""

    def __cinit__(self, uint64_t capacity_bytes):
        cdef uint64_t buckets = 64
        while buckets * BYTES_PER_BUCKET < capacity_bytes:
            buckets *= 2
        self.capacity_bytes = capacity_bytes
        self.bucket_mask = buckets - 1
        self.buckets = <HotValue **>calloc(buckets, sizeof(HotValue *))
        if self.buckets == NULL:
            raise MemoryError("no memory for hot values: give a smaller hot-values-size")

    def __dealloc__(self):
        # What is being sent keeps its engine, and with it this: all that is left is in the list.
        while self.newest != NULL:
            self.strike(self.newest)
        free(self.buckets)

    cdef HotValue *find(self, uint64_t hash_low, uint64_t hash_high, uint32_t epoch) noexcept nogil:
        """The copy of a key's value in this epoch of its database, or NULL."""
        cdef HotValue *value = self.buckets[hash_low & self.bucket_mask]
        while value != NULL:
            if value.hash_low == hash_low and value.hash_high == hash_high:
                if value.epoch != epoch:
                    self.strike(value)
                    return NULL
                return value
            value = value.next_in_bucket
        return NULL

    cdef HotValue *make(self, uint32_t cell_bytes, uint64_t payload_bytes) noexcept nogil:
        """A place for a copy, held by the caller, who fills it and ``release``s it; NULL when it is too large or there is no room."""
        cdef uint64_t size = sizeof(HotValue) + ((cell_bytes + 15) & ~<uint32_t>15) + payload_bytes
        cdef HotValue *value
        if size > self.capacity_bytes // LARGEST_SHARE:
            return NULL
        while self.used_bytes + size > self.capacity_bytes:
            value = self._next_victim()
            if value == NULL:
                return NULL  # all of it is being sent, or filled
            self.strike(value)
        value = <HotValue *>malloc(size)
        if value == NULL:
            return NULL
        memset(value, 0, sizeof(HotValue))
        value.cell_bytes = cell_bytes
        value.payload_bytes = payload_bytes
        value.references = 1
        self.used_bytes += size
        return value

    cdef void enlist(self, HotValue *value) noexcept nogil:
        """The copy is whole: it may answer from now on, instead of an older one of its key."""
        cdef HotValue *older = self.find(value.hash_low, value.hash_high, value.epoch)
        cdef HotValue **bucket = &self.buckets[value.hash_low & self.bucket_mask]
        if older != NULL:
            self.strike(older)
        value.next_in_bucket = bucket[0]
        bucket[0] = value
        value.older = self.newest
        value.newer = NULL
        if self.newest != NULL:
            self.newest.newer = value
        else:
            self.oldest = value
        self.newest = value
        value.is_listed = True
        value.references += 1
        self.listed += 1

    cdef void strike(self, HotValue *value) noexcept nogil:
        """The copy answers no more; its memory goes when nobody is sending it."""
        cdef HotValue **place = &self.buckets[value.hash_low & self.bucket_mask]
        if not value.is_listed:
            return
        while place[0] != value:
            place = &place[0].next_in_bucket
        place[0] = value.next_in_bucket
        if self.hand == value:
            self.hand = value.newer
        if value.newer != NULL:
            value.newer.older = value.older
        else:
            self.newest = value.older
        if value.older != NULL:
            value.older.newer = value.newer
        else:
            self.oldest = value.newer
        value.is_listed = False
        self.listed -= 1
        self.release(value)

    cdef void release(self, HotValue *value) noexcept nogil:
        """One less holds the copy."""
        value.references -= 1
        if value.references == 0:
            self.used_bytes -= sizeof(HotValue) + ((value.cell_bytes + 15) & ~<uint32_t>15) + value.payload_bytes
            free(value)

    cdef HotValue *_next_victim(self) noexcept nogil:
        """The first from the hand on, towards the newer ones, that was not used since it last came by."""
        cdef HotValue *value = self.hand if self.hand != NULL else self.oldest
        while value != NULL and value.was_used:
            value.was_used = False
            value = value.newer if value.newer != NULL else self.oldest
        if value != NULL:
            self.hand = value.newer
        return value
