# cython: language_level=3
"""Location cache: which slot holds a key, as this front end last read it, and how to prove that it still does."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from storage.words cimport CHANGE_COUNTERS

# No change counter ever has this value: as many changes would have begun as ended, less one.
cdef enum:
    WAYS = 4

cdef uint64_t NO_STAMP

cdef struct Location:
    uint64_t hash_low
    uint64_t hash_high
    uint64_t word          # slot word 0, LIVE; 0: nothing is remembered here
    uint64_t stamp         # the key's change counter as it was before the slot was read
    int64_t expire_at_ms   # -1: never
    uint64_t seen          # the counter as the last GET read it: a stamp for whoever reads the slot after that; 0: none did
    uint32_t slot
    uint32_t epoch
    uint32_t touched_ms    # when this front end last wrote the slot's heat
    uint32_t used          # for replacement


@cython.final
cdef class LocationCache:
    cdef Location *entries
    cdef uint64_t set_mask
    cdef uint32_t clock
    cdef uint64_t snapshot[CHANGE_COUNTERS]
    cdef bint has_snapshot
    cdef uint64_t hits       # answered or located by what was remembered
    cdef uint64_t stale      # remembered, but something with this counter has changed since
    cdef uint64_t misses     # not remembered
    cdef Location *find(self, uint64_t hash_low, uint64_t hash_high, uint32_t epoch) noexcept nogil
    cdef Location *remember(self, uint64_t hash_low, uint64_t hash_high) noexcept nogil
    cdef void forget(self, uint64_t hash_low, uint64_t hash_high) noexcept nogil
    cdef void take_snapshot(self, const uint64_t *counters) noexcept nogil

    cdef inline uint64_t stamp_of(self, uint64_t hash_high) noexcept nogil:
        """The key's counter in the last snapshot, or NO_STAMP while a change is under way there."""
        cdef uint64_t counter
        if not self.has_snapshot:
            return NO_STAMP
        counter = self.snapshot[hash_high % CHANGE_COUNTERS]
        return counter if is_settled(counter) else NO_STAMP


cdef inline bint is_settled(uint64_t counter) noexcept nogil:
    """Whether as many changes have ended (high half) as have begun (low half)."""
    return <uint32_t>counter == <uint32_t>(counter >> 32)
