# cython: language_level=3
"""Page allocator: hands out pages and cells of the pool, and takes them back."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from storage.pool cimport Pool
from storage.words cimport CELL_CLASSES


# What the owner of a page of cells knows about it; nobody else reads this.
cdef struct CellPage:
    uint64_t free_bits[16]  # one bit a cell, set when free
    int32_t next_page       # neighbours in the class's list of pages with a free cell
    int32_t previous_page
    int32_t next_owned      # neighbours in the ring of the class's pages
    int32_t previous_owned
    uint16_t free_cells
    uint16_t capacity
    uint8_t cell_class
    bint owned
    bint linked


@cython.final
cdef class PageAllocator:
    cdef Pool pool
    cdef CellPage *cell_pages
    cdef uint64_t *known_words      # each page's word as it was last seen
    cdef uint32_t *free_stack       # pages believed free
    cdef uint32_t free_count
    cdef uint32_t free_capacity
    cdef uint32_t cursor            # where the next look into the page table begins
    cdef int32_t owned[CELL_CLASSES]  # of each class the page whose head is looked at next, -1 for none
    cdef uint32_t next_harvested      # class of the last look of background work
    cdef int32_t partial[CELL_CLASSES]
    cdef uint64_t limit_pages
    cdef uint64_t beyond_pages      # above the limit that may be claimed just now
    cdef uint64_t reserve_pages     # of these, left to front ends that have nothing to evict
    cdef uint64_t low_pages         # beside the reserve: who leaves fewer free for values' pages says so
    cdef bint is_low                # and nobody has seen to it yet
    cdef object on_low              # called when that begins, or None
    cdef uint32_t empty_pages[CELL_CLASSES]  # of each class, pages without a used cell
    cdef uint64_t used_pages        # of the whole pool, as last seen
    cdef uint64_t class_pages[CELL_CLASSES]
    cdef uint64_t class_cells[CELL_CLASSES]
    cdef uint64_t payload_pages
    cdef uint32_t *holders          # of a payload page: the unfinished large value that holds it, 0 for none
    cdef uint64_t *suspect_pages    # while a sweep for what the dead left is under way: words of payload pages in doubt, 0 for others
    cdef uint64_t *suspect_cells    # while a sweep for what the dead left is under way: 16 words a page, a bit for each cell in doubt
    cdef int64_t allocate_cell(self, uint32_t cell_class) noexcept nogil
    cdef int64_t allocate_beyond(self, uint32_t cell_class) noexcept nogil
    cdef int64_t allocate_beside(self, uint32_t cell_class, uint32_t avoided) noexcept nogil
    cdef bint has_beside(self, uint32_t cell_class, uint32_t avoided, uint32_t wanted) noexcept nogil
    cdef int64_t _take_cell(self, uint32_t page) noexcept nogil
    cdef void free_cell(self, uint32_t location, uint32_t cell_class) noexcept nogil
    cdef uint32_t claim_pages(self, uint32_t count, uint32_t *pages, uint32_t kind, uint32_t cell_class) noexcept nogil
    cdef void free_pages(self, const uint32_t *pages, uint32_t count) noexcept nogil
    cdef uint32_t release_spares(self) noexcept nogil
    cdef int adopt_cell(self, uint32_t page, uint32_t cell_class) noexcept nogil
    cdef void take_over(self, uint32_t page, uint32_t cell_class) noexcept nogil
    cdef void hold(self, const uint32_t *pages, uint32_t count, uint32_t holder) noexcept nogil
    cdef void let_go(self, const uint32_t *pages, uint32_t count, uint32_t holder) noexcept nogil
    cdef bint free_exactly(self, uint32_t page, uint64_t word) noexcept nogil
    cdef void mark_cell_used(self, uint32_t location) noexcept nogil
    cdef void _link(self, uint32_t page) noexcept nogil
    cdef void _unlink(self, uint32_t page) noexcept nogil
    cdef int _push_free(self, uint32_t page) noexcept nogil
    cdef bint _refill(self) noexcept nogil
    cdef void _release_cell_page(self, uint32_t page) noexcept nogil
    cdef void _own(self, uint32_t page) noexcept nogil
    cdef void _disown(self, uint32_t page) noexcept nogil
    cdef bint _is_of(self, uint32_t page, uint32_t cell_class) noexcept nogil
    cdef int64_t spare_pages(self) noexcept nogil
    cdef uint64_t excess_pages(self) noexcept nogil
    cdef void _note_claim(self, uint32_t kind, uint32_t cell_class) noexcept nogil
    cdef void _say_low(self) noexcept nogil
    cdef void harvest_some(self) noexcept nogil
    cdef uint32_t _harvest(self, uint32_t cell_class) noexcept nogil
    cdef void harvest_all(self) noexcept nogil
    cdef void free_foreign(self, const uint32_t *locations, uint32_t count) noexcept nogil
