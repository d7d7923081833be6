# cython: language_level=3
"""Reuse: how soon a block is wanted again, learned from the accesses of one front end."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from storage.pool cimport Pool
from storage.words cimport Heat

cdef enum:
    RING_BUCKETS = 1024     # a window of 64 capacities in sixteenths
    GHOSTS_PER_BUCKET = 8
    GHOST_BYTES = 16
    GHOST_BUCKET_BYTES = 128

cdef enum HeatFlag:
    HEAT_TAIL = 1           # the last block of its request
    HEAT_COUNTED = 2        # last, count and bonus mean something

# What is remembered of a block that is not there. Advisory.
cdef packed struct Ghost:
    uint64_t tag_count      # tag of the key in bits 16-63, count in bits 0-15; 0: nothing
    uint32_t last
    uint16_t bonus
    uint8_t flags
    uint8_t spare

# What the blocks of the chain at hand are worth, over the accesses of one connection: none of them more than one before it.
cdef struct ChainWorth:
    float bonus             # the least so far, in accesses
    uint32_t place          # of the last block


@cython.final
cdef class Reuse:
    cdef Pool pool
    cdef readonly bint is_on         # under allkeys-prefix
    cdef uint64_t clock             # accesses of all front ends, as last seen, and one's own since
    cdef uint64_t moment            # the clock before the batch at hand
    cdef uint32_t pending           # accesses that the pool's clock does not count yet
    cdef uint64_t own               # accesses of this front end
    cdef uint64_t own_before
    cdef uint64_t clock_before
    cdef double share               # of all accesses, this front end's
    cdef double capacity            # blocks that fit
    cdef double median              # of intervals between two accesses
    cdef double median_inverse
    cdef double made[2]             # accesses of bodies and tails
    cdef double back[2]             # and those that were not the first
    cdef double tail_penalty
    cdef uint32_t shift             # width of a bucket of the rings
    cdef int64_t tick               # number of the bucket that the clock is in
    cdef int32_t by_last[RING_BUCKETS]
    cdef int32_t by_key[RING_BUCKETS]
    cdef double last_threshold
    cdef double key_threshold
    cdef double duel
    cdef readonly bint follows_rule # else least recently used
    cdef readonly uint64_t turns    # changes of the leader
    cdef uint64_t ghost_buckets     # in use, as last seen
    cdef uint64_t evicted_at        # clock of the last eviction
    cdef readonly uint64_t refused  # blocks that were not admitted
    cdef void begin(self) noexcept nogil
    cdef void end(self) noexcept nogil
    cdef uint32_t take_pending(self) noexcept nogil
    cdef void note_clock(self, uint64_t seen) noexcept nogil
    cdef void set_capacity(self, uint64_t blocks) noexcept nogil
    cdef void access(self, Heat *heat, bint is_known, uint32_t place, uint32_t unknown, bint is_tail, bint is_stored, ChainWorth *chain) noexcept nogil
    cdef void preview(self, Heat *heat, bint is_known, uint32_t place, uint32_t unknown, bint is_tail, ChainWorth *chain) noexcept nogil
    cdef void _learn(self, const Heat *heat, double interval) noexcept nogil
    cdef double age(self, const Heat *heat) noexcept nogil
    cdef bint is_full(self) noexcept nogil
    cdef void size_ghosts(self) noexcept nogil
    cdef void note_eviction(self) noexcept nogil
    cdef uint64_t bucket_offset(self, uint64_t tag) noexcept nogil
    cdef bint find_ghost(self, const char *bucket, uint64_t tag, Heat *heat, uint32_t *place) noexcept nogil
    cdef uint32_t make_ghost(self, const char *bucket, uint64_t tag, const Heat *heat, Ghost *ghost) noexcept nogil
    cdef void _compute(
        self, Heat *heat, bint is_known, double interval, uint32_t place, uint32_t unknown, bint is_tail, bint is_stored, ChainWorth *chain
    ) noexcept nogil
    cdef void _advance(self) noexcept nogil
    cdef void _judge(self, int64_t ticks) noexcept nogil
    cdef double _threshold(self, const int32_t *ring, double blocks) noexcept nogil
    cdef int64_t _clamped(self, int64_t key) noexcept nogil
    cdef bint _is_recent(self, const Ghost *ghost) noexcept nogil
    cdef void _widen(self) noexcept nogil


cdef inline float wide(uint16_t value) noexcept nogil:
    """A float of which the upper half was kept."""
    cdef uint32_t bits = <uint32_t>value << 16
    return (<float *>&bits)[0]


cdef inline uint16_t narrow(float value) noexcept nogil:
    """The upper half of a float, rounded: 8 bits of precision."""
    cdef uint32_t bits = (<uint32_t *>&value)[0] + 0x8000
    return <uint16_t>(bits >> 16)
