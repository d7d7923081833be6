# cython: language_level=3
"""Adoption: what front ends held when they died comes back into use."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from storage.engine cimport DatabaseCounts, Engine
from storage.pages cimport PageAllocator
from storage.policy cimport EvictionPolicy
from storage.pool cimport Pool
from storage.words cimport CHANGE_COUNTERS, MAX_FRONT_ENDS


cdef enum Phase:
    PHASE_IDLE = 0
    PHASE_TABLE      # page table: pages of the dead become ours, ours are in doubt
    PHASE_SETTLE     # what was under way then has to end
    PHASE_INDEX      # every slot clears what it names
    PHASE_GRACE      # whoever unlinked something before the slot was looked at has to free it
    PHASE_FREE       # what is still in doubt belongs to nobody

# A home set whose overflow word says more than its slots do.
cdef struct Overflow:
    uint64_t word
    uint32_t home


@cython.final
cdef class Adoption:
    cdef Pool pool
    cdef Engine engine
    cdef PageAllocator allocator
    cdef EvictionPolicy policy
    cdef object membership           # None: nobody can be proven dead
    cdef bint has_begun              # a front end that comes to others looks once, whatever has been
    cdef uint64_t deaths_seen        # when the last sweep began
    cdef uint64_t acknowledged       # the last grace period that this front end has let pass
    cdef uint64_t pending            # the one that it has yet to let pass, or 0
    cdef uint64_t awaited            # the one that the sweep waits for
    cdef int phase
    cdef uint64_t position           # next page or set to be looked at
    cdef uint64_t lives[MAX_FRONT_ENDS]
    cdef uint64_t suspects           # pages in doubt
    cdef Overflow *overflows
    cdef uint32_t overflow_count
    cdef uint64_t counters[CHANGE_COUNTERS]
    cdef uint64_t now_ms             # on the clock of whoever calls, which only grows
    cdef bint is_unfinished          # something moved during the sweep that is to be put right: another follows
    cdef uint64_t again_at_ms        # when; 0: none is due
    cdef uint64_t again_pause_ms
    cdef bint is_spoilt              # a slot changed too often to be looked at: this sweep frees nothing, another follows
    cdef uint64_t looked_at_ms       # when deaths were last looked for
    cdef int audits                  # samples of the page table that are still to be taken
    cdef int64_t least_excess        # of pages in use by the word over those by the table, in the samples so far
    cdef int64_t most_excess
    cdef uint64_t audited            # the audit word when the first sample was taken
    cdef bint is_recount_due         # somebody died: it may have changed keys that it had not counted yet
    cdef bint is_recounting
    cdef uint64_t recount_at_ms      # not before
    cdef uint64_t recount_pause_ms
    cdef uint64_t recount_position
    cdef uint64_t recount_ticket     # the grace period that a finished recount waits for; 0: none yet
    cdef DatabaseCounts *recounted
    cdef uint64_t versions[MAX_FRONT_ENDS]
    cdef readonly uint64_t recounts
    cdef readonly uint64_t sweeps
    cdef readonly uint64_t adopted_pages
    cdef readonly uint64_t freed_pages
    cdef readonly uint64_t freed_cells
    cdef readonly uint64_t freed_reservations
    cdef readonly uint64_t lowered_overflows
    cdef readonly uint64_t settled_counters
    cdef readonly uint64_t corrected_pages
    cdef bint attend(self) noexcept nogil
    cdef bint work(self, uint32_t units) noexcept nogil
    cdef bint _read_lives(self) noexcept nogil
    cdef bint _is_live(self, uint32_t front_end, uint32_t incarnation) noexcept nogil
    cdef bint _is_due(self, uint64_t deaths) noexcept nogil
    cdef bint _begin(self, uint64_t deaths) noexcept nogil
    cdef void _end(self) noexcept nogil
    cdef bint _look_at_table(self) noexcept nogil
    cdef bint _look_at_page(self, uint32_t page, uint64_t word) noexcept nogil
    cdef bint _ask_for_grace(self) noexcept nogil
    cdef bint _has_passed(self, uint64_t ticket) noexcept nogil
    cdef bint _look_at_index(self) noexcept nogil
    cdef void _look_at_slot(self, uint32_t slot, uint64_t word) noexcept nogil
    cdef bint _read_word(self, uint32_t slot, uint64_t *word) noexcept nogil
    cdef void _clear_pages_of(self, uint32_t slot, uint64_t word) noexcept nogil
    cdef void _note_overflow(self, uint64_t home, char *sets, uint32_t count) noexcept nogil
    cdef void _free_unclaimed(self) noexcept nogil
    cdef void _lower_overflows(self) noexcept nogil
    cdef void _settle_counters(self) noexcept nogil
    cdef bint audit(self) noexcept nogil
    cdef bint recount(self, uint32_t units, uint64_t now_ms) noexcept nogil
    cdef bint _read_versions(self, uint64_t *versions) noexcept nogil
    cdef bint _is_quiet(self) noexcept nogil
    cdef bint _recount_sets(self, uint64_t first, uint32_t count) noexcept nogil
    cdef void _end_recount(self, uint64_t now_ms, bint is_over) noexcept nogil
    cdef bint _correct_counts(self) noexcept nogil
