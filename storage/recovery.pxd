# cython: language_level=3
"""Recovery: rebuilds one front end's books, and the pool's own, from what an earlier process left."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from storage.engine cimport Engine
from storage.fabric.base cimport FabricOp
from storage.pages cimport PageAllocator
from storage.policy cimport EvictionPolicy
from storage.pool cimport Pool
from storage.words cimport CellHeader


# A LIVE slot that is being judged.
cdef struct Found:
    uint64_t word
    uint64_t word1
    uint32_t slot
    uint32_t needed      # bytes of the cell up to the end of its page list
    uint32_t pages       # payload pages in the list
    uint32_t list_at     # where the list begins in the cell

# A value with pages that passed: counted when all are known, since two may name one page.
cdef struct Paged:
    uint64_t word
    uint32_t slot
    uint32_t home
    uint8_t distance
    uint8_t database
    uint64_t stored_bytes     # key and value


cdef class Recovery:
    cdef Pool pool
    cdef Engine engine
    cdef PageAllocator allocator
    cdef EvictionPolicy policy
    cdef uint32_t *page_owner     # slot + 1 of the value that names a payload page; 0: none; CONTESTED: two did
    cdef uint8_t *away_count      # of each home set: entries that live in following sets,
    cdef uint8_t *away_distance   # and how far
    cdef Paged *paged
    cdef uint32_t paged_count
    cdef uint32_t paged_capacity
    cdef char *sets
    cdef char *heads
    cdef char *long_cells
    cdef uint32_t *list_scratch
    cdef Found *found
    cdef uint32_t found_count
    cdef FabricOp *swaps          # compare-and-swaps of one doorbell
    cdef uint32_t swap_count
    cdef set doomed               # slots whose values name a page that another names too
    cdef uint64_t kept
    cdef uint64_t expiring
    cdef uint64_t reservations
    cdef uint64_t flushed
    cdef uint64_t broken
    cdef uint64_t cell_pages
    cdef uint64_t payload_pages
    cdef uint64_t freed_pages
    cdef uint64_t overflow_words
    cdef int swap(self, uint64_t offset, uint64_t expected, uint64_t word) except -1
    cdef int flush_swaps(self) except -1
    cdef int free_slot(self, uint32_t slot, uint64_t word) except -1
    cdef int read_page_table(self) except -1
    cdef int walk_sets(self) except -1
    cdef int take_slot(self, uint32_t slot, uint64_t word, uint64_t word1) except -1
    cdef int judge_found(self) except -1
    cdef int judge_long(self, Found *batch, uint32_t count) except -1
    cdef int parse(self, Found *found, CellHeader *header) noexcept
    cdef int settle(self, Found *found, char *cell) except -1
    cdef bint is_reachable(self, Found *found, CellHeader *header, char *key, uint64_t *home) noexcept
    cdef bint claim_list(self, Found *found, const uint32_t *pages, uint32_t count) except -1
    cdef int keep(self, uint32_t slot, uint64_t word, uint8_t database, uint64_t home, uint32_t distance, uint64_t stored_bytes) except -1
    cdef int keep_paged(self) except -1
    cdef int rebuild_page_table(self) except -1
    cdef int rebuild_overflow_words(self) except -1
    cdef int empty_hazards(self) except -1
    cdef int empty(self, uint64_t offset, uint64_t size) except -1
