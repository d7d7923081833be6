# cython: language_level=3
"""Hazards and retirement: memory is used again only when nobody can be reading it."""

cimport cython
from libc.stdint cimport int16_t, uint8_t, uint32_t, uint64_t

from storage.pages cimport PageAllocator
from storage.pool cimport Pool
from storage.words cimport HAZARDS_PER_ROW, MAX_FRONT_ENDS

cdef enum:
    PIN_ROOM = 3072 # hazards that pins may hold; the rest stays for reads in flight
    RETIRED_DUE = 64   # values that are retired together where looking at the rows takes a round trip
    RETIRED_PAGES_DUE = 256
    HAZARDS_KEPT = 256  # hazards that are compared from one short list; with more every row is searched


# A value that was unlinked: its cell, and its pages when it had any.
cdef struct Retired:
    uint32_t location
    uint32_t cell_class
    uint32_t page_count
    uint8_t phase      # of the grace periods, when it was unlinked
    uint32_t *pages


@cython.final
cdef class Reclaimer:
    cdef Pool pool
    cdef PageAllocator allocator
    cdef Retired *retired
    cdef uint32_t retired_count
    cdef uint32_t retired_capacity
    cdef uint64_t retired_pages
    cdef bint is_collecting
    cdef uint64_t row[HAZARDS_PER_ROW]       # what this front end's hazard row holds
    cdef uint32_t pins[HAZARDS_PER_ROW]      # how many readers share each
    cdef uint32_t pin_pages[HAZARDS_PER_ROW]
    cdef uint64_t pin_since[HAZARDS_PER_ROW] # the engine's clock when it was found to hold
    cdef uint64_t published_high_water       # how far others look in this row
    cdef readonly uint32_t pin_count
    cdef uint32_t in_use                     # places of the row that are taken
    cdef int16_t high_water                  # no place from here on is taken
    cdef int16_t free_hint                   # no place before this one is free
    cdef uint64_t pinned_pages
    cdef uint64_t pinned_limit_pages         # beyond it no further value is sent before one is done
    # Grace periods: everything of the phase before the present one must be over before one has passed.
    cdef uint8_t phase
    cdef uint32_t open_rounds[2]             # batches under way
    cdef uint32_t retired_of[2]              # values unlinked and not freed
    cdef uint32_t pins_of[2]                 # values being sent
    cdef uint8_t pin_phase[HAZARDS_PER_ROW]
    cdef uint64_t *all_rows                  # copies of the other rows, as far as each is used
    cdef uint32_t row_used[MAX_FRONT_ENDS]
    cdef void retire(self, uint32_t location, uint32_t cell_class, const uint32_t *pages, uint32_t page_count) noexcept nogil
    cdef void collect(self, bint now) noexcept nogil
    cdef uint8_t begin_round(self) noexcept nogil
    cdef void end_round(self, uint8_t phase) noexcept nogil
    cdef uint8_t present_phase(self) noexcept nogil
    cdef void turn(self) noexcept nogil
    cdef bint is_settled(self) noexcept nogil
    cdef int _read_rows(self) noexcept nogil
    cdef void _free_unnamed(self, Retired *entries, uint32_t total, uint32_t rows) noexcept nogil
    cdef void _keep(self, Retired entry) noexcept nogil
    cdef void lower_published(self) noexcept nogil
    cdef void _free_foreign(self, const uint32_t *locations, uint32_t count, uint32_t *of_phase) noexcept nogil
    cdef bint _is_named(self, Retired entry, uint32_t rows) noexcept nogil
    cdef int16_t take_hazard(self, uint64_t name, bint for_pin) noexcept nogil
    cdef void drop_hazard(self, int16_t index) noexcept nogil
    cdef int16_t find_pin(self, uint32_t first_page) noexcept nogil
    cdef void add_pin(self, int16_t index, uint32_t pages, uint64_t clock) noexcept nogil
    cdef bint release_pin(self, uint32_t first_page) noexcept nogil


cdef inline uint64_t hazard_of_cell(uint32_t location) noexcept nogil:
    return (<uint64_t>1 << 62) | location

cdef inline uint64_t hazard_of_page(uint32_t page) noexcept nogil:
    return (<uint64_t>1 << 63) | page
