# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Location cache: which slot holds a key, as this front end last read it, and how to prove that it still does.

Blocks are asked for again and again, and hardly ever change: the slot words of the last ones are kept. Whoever replaces or removes a
value adds one to the lower half of its key's change counter before and one to the upper half after it does so. A remembered word is
current when its counter stands where it stood in a snapshot that was taken before the word was read, with both halves equal.
One READ of all counters so proves any number of blocks at once; docs/pool.md has the argument.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from storage.words cimport CHANGE_COUNTERS

NO_STAMP = <uint64_t>1


cdef class LocationCache:
    """Set-associative, four ways, the least recently used of a set gives way."""

    def __cinit__(self, uint64_t entries=65536):
        cdef uint64_t sets = 1
        while sets * WAYS < entries:
            sets *= 2
        self.set_mask = sets - 1
        self.entries = <Location *>calloc(sets * WAYS, sizeof(Location))
        if self.entries == NULL:
            raise MemoryError("no memory for the location cache: give a smaller location-cache-entries")

    def __dealloc__(self):
        free(self.entries)

    cdef Location *find(self, uint64_t hash_low, uint64_t hash_high, uint32_t epoch) noexcept nogil:
        """What is remembered of a key in this epoch of its database, or NULL."""
        cdef Location *way = &self.entries[(hash_low & self.set_mask) * WAYS]
        cdef int i
        for i in range(WAYS):
            if way.word and way.hash_low == hash_low and way.hash_high == hash_high:
                if way.epoch != epoch:
                    way.word = 0
                    return NULL
                self.clock += 1
                way.used = self.clock
                return way
            way += 1
        return NULL

    cdef Location *remember(self, uint64_t hash_low, uint64_t hash_high) noexcept nogil:
        """The entry of a key, its own or one that gives way, with the hash filled in; the caller fills the rest."""
        cdef Location *way = &self.entries[(hash_low & self.set_mask) * WAYS]
        cdef Location *chosen = way
        cdef int i
        for i in range(WAYS):
            if way.word and way.hash_low == hash_low and way.hash_high == hash_high:
                chosen = way
                break
            if chosen.word and (way.word == 0 or <uint32_t>(self.clock - way.used) > <uint32_t>(self.clock - chosen.used)):
                chosen = way
            way += 1
        if chosen.hash_low != hash_low or chosen.hash_high != hash_high or chosen.word == 0:
            chosen.hash_low = hash_low
            chosen.hash_high = hash_high
            chosen.touched_ms = 0
        self.clock += 1
        chosen.used = self.clock
        return chosen

    cdef void forget(self, uint64_t hash_low, uint64_t hash_high) noexcept nogil:
        """What is remembered of the key has proved wrong."""
        cdef Location *way = &self.entries[(hash_low & self.set_mask) * WAYS]
        cdef int i
        for i in range(WAYS):
            if way.hash_low == hash_low and way.hash_high == hash_high:
                way.word = 0
            way += 1

    cdef void take_snapshot(self, const uint64_t *counters) noexcept nogil:
        """Words that are read from now on are stamped with these."""
        memcpy(self.snapshot, counters, sizeof(self.snapshot))
        self.has_snapshot = True
