# cython: language_level=3
"""Eviction policy: which value makes room, and which entries are swept away."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from storage.batch cimport Batch, Request
from storage.engine cimport Engine, Room
from storage.fabric.waiting cimport Turnstile
from storage.pairs cimport Pairs
from storage.protection cimport LookupProtection
from storage.words cimport Heat


cdef enum PolicyRule:
    RULE_NONE = 0      # noeviction
    RULE_LRU
    RULE_LFU
    RULE_RANDOM
    RULE_TTL
    RULE_REUSE

# One value that might go. A higher score goes first.
cdef struct Candidate:
    uint64_t word
    double score
    uint32_t slot
    uint32_t last_ms    # of its heat, to see whether it was used since; under allkeys-prefix the access clock


@cython.final
cdef class EvictionPolicy(Room):
    cdef Engine engine
    cdef uint8_t rule
    cdef bint volatile_only
    cdef uint64_t changes          # of the policy
    cdef uint32_t *residents       # slots that this front end filled, in no order
    cdef uint32_t resident_count
    cdef uint32_t resident_capacity
    cdef uint64_t *is_resident     # one bit a slot
    cdef Candidate pool[64]        # best candidates of earlier samples, best first
    cdef uint32_t pooled_slots[64]  # theirs, for a quick look
    cdef uint32_t pool_count
    cdef uint32_t newest[64]       # slots that were filled last, in a ring
    cdef uint8_t newest_marks[1024]  # how many of the ring have these last 10 bits
    cdef uint32_t newest_end       # how many ever were
    cdef uint32_t sweep_cursor     # residents before this position are looked at next
    cdef readonly uint32_t sweep_left  # residents that may belong to a flushed database: those before this position
    cdef uint32_t refilled[64]     # residents whose slot was filled again while the turn was taken
    cdef uint32_t refilled_count
    cdef uint64_t idle_looks       # turns of background work that found nothing known to expire
    cdef uint64_t flushes          # that were noted so far
    cdef uint64_t idle_measures    # turns that could have looked at how many blocks there are
    cdef uint64_t measured_at      # accesses of this front end at the last look
    cdef Batch evictions
    cdef LookupProtection protection
    cdef readonly Pairs pairs
    cdef bint is_ahead                 # nobody waits for what goes now
    cdef uint32_t forced               # how much that would be kept may go, because nothing else is left: FORCED_*
    cdef int wanted_class              # cells of which somebody waits; -1: for a page
    cdef Turnstile turnstile           # one stack at a time samples, evicts and sweeps
    cdef bint _evict_for(self, uint32_t cell_class, bint wants_page) noexcept nogil
    cdef bint _make_room(self, int cell_class, uint32_t cells, uint32_t pages) noexcept nogil
    cdef bint _has_room(self, int cell_class, uint32_t cells, uint32_t pages) noexcept nogil
    cdef bint evict_ahead(self) noexcept nogil
    cdef bint _make_slot(self, Request *request) noexcept nogil
    cdef int _coldest_slot(self, Request *request, Heat *heats, uint32_t total) noexcept nogil
    cdef uint32_t _sweep(self, uint32_t count, bint flushed, uint32_t *examined) noexcept nogil
    cdef bint _refill(self) noexcept nogil
    cdef bint _refill_by_reuse(self, uint32_t samples) noexcept nogil
    cdef bint _fits(self, uint32_t fitting) noexcept nogil
    cdef bint refuses(self, const Heat *heat, uint32_t admitted) noexcept nogil
    cdef void measure(self) noexcept nogil
    cdef uint32_t _offer_foreign(self) noexcept nogil
    cdef bint _wait_for_others(self, int cell_class, uint32_t cells, uint32_t pages) noexcept nogil
    cdef bint _serves(self, uint64_t word) noexcept nogil
    cdef bint _is_young(self, uint32_t slot) noexcept nogil
    cdef bint _is_kept(self, const Heat *heat, uint32_t slot) noexcept nogil
    cdef int find_leased(self, const uint32_t *slots, const uint64_t *words, Heat *heats, uint32_t count, bint *leased) noexcept nogil
    cdef void _survey(self) noexcept nogil
    cdef void _sample(self) noexcept nogil
    cdef bint _drop_stale(self, uint64_t changes) noexcept nogil
    cdef void _drop(self, uint32_t place) noexcept nogil
    cdef double _score(self, Heat *heat, int64_t expire_at_ms) noexcept nogil
    cdef void _offer(self, Candidate candidate) noexcept nogil
    cdef void _forget(self, uint32_t position) noexcept nogil
    cdef void _ask_for(self, uint32_t slot, uint64_t word, uint16_t flags) noexcept nogil
    cdef void _note_leased(self, uint32_t slot) noexcept nogil
    cdef void _evict_one(self, Candidate candidate) noexcept nogil
    cdef void _evict_like(self, Candidate first, uint32_t cell_class, uint32_t together) noexcept nogil
    cdef int32_t _evict_page(self, Candidate victim, double score) noexcept nogil
    cdef int32_t _evict_cells(self, uint32_t page, uint32_t cell_class, Candidate victim, bint must_hold, double score) noexcept nogil
    cdef void _evict_foreign_page(self) noexcept nogil
    cdef uint32_t sweep(self, uint32_t count, bint flushed, uint32_t *examined) noexcept nogil
