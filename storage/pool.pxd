# cython: language_level=3
"""Pool: where everything lies, and this front end's place in it."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from storage.fabric.base cimport Fabric, FabricOp
from storage.words cimport (
    CHANGE_COUNTERS,
    COUNTS_BYTES,
    FRONT_END_ROW_BYTES,
    HAZARDS_PER_ROW,
    HEAT_BYTES,
    MAX_DATABASES,
    PAGE_BYTES,
    SET_BYTES,
    SET_HEADER_BYTES,
    SLOT_BYTES,
    SLOTS_PER_SET,
    WordFormat,
)


# Node-local offsets and sizes, in bytes unless the name says otherwise.
cdef struct Geometry:
    uint64_t pool_bytes
    uint64_t set_count
    uint64_t slot_count
    uint64_t page_count
    uint64_t front_ends
    uint64_t hazards
    uint64_t counters
    uint64_t globals
    uint64_t databases
    uint64_t leases
    uint64_t counts
    uint64_t sets
    uint64_t heat
    uint64_t ghosts
    uint64_t ghost_buckets
    uint64_t page_words
    uint64_t pages


# Words of the globals region.
cdef enum GlobalWord:
    GLOBAL_PAGES_USED = 0
    GLOBAL_HIGH_WATER = 8     # front ends ever attached: highest number + 1
    GLOBAL_TICKET = 16        # grace periods asked for so far
    GLOBAL_DEATHS = 24        # front ends that have gone so far
    GLOBAL_AUDITS = 32        # corrections of the pages in use
    GLOBAL_CLOCK = 64         # accesses to blocks so far, in a cache line of its own
    GLOBAL_GHOST_BUCKETS = 72 # of the ghosts, how many are in use; 0 until something was evicted

# Words of a front end's row.
cdef enum RowWord:
    ROW_LIFE = 0              # incarnation * 2, + 1 while somebody is it
    ROW_HAZARDS = 8           # how many places of its hazard row others must look at
    ROW_TICKET = 16           # the last grace period that it has let pass


@cython.final
cdef class Pool:
    cdef readonly Fabric fabric
    cdef readonly bytes secret
    cdef Geometry geometry
    cdef WordFormat word_format
    cdef uint64_t secret_low
    cdef uint64_t secret_high
    cdef readonly int front_end
    cdef readonly uint32_t incarnation
    cdef uint64_t epochs[MAX_DATABASES]
    cdef uint64_t epoch_moves     # how often one of them was seen to move
    cdef uint32_t front_end_high_water
    cdef uint32_t refresh_high_water(self) noexcept nogil
    cdef uint64_t read_ticket(self) noexcept nogil
    cdef int submit(self, FabricOp *ops, int count) noexcept nogil
    cdef int read_into(self, uint64_t offset, void *target, uint32_t length) noexcept nogil
    cdef int write_from(self, uint64_t offset, const void *source, uint32_t length) noexcept nogil
    cdef uint64_t compare_and_swap(self, uint64_t offset, uint64_t expected, uint64_t word) noexcept nogil
    cdef uint64_t fetch_and_add(self, uint64_t offset, uint64_t addend) noexcept nogil

    cdef inline uint64_t set_offset(self, uint64_t number) noexcept nogil:
        return self.geometry.sets + number * SET_BYTES

    cdef inline uint64_t slot_offset(self, uint64_t slot) noexcept nogil:
        return (
            self.geometry.sets + (slot // SLOTS_PER_SET) * SET_BYTES + SET_HEADER_BYTES
            + (slot % SLOTS_PER_SET) * SLOT_BYTES
        )

    cdef inline uint64_t heat_offset(self, uint64_t slot) noexcept nogil:
        return self.geometry.heat + slot * HEAT_BYTES

    cdef inline uint64_t page_word_offset(self, uint64_t page) noexcept nogil:
        return self.geometry.page_words + page * 8

    cdef inline uint64_t page_offset(self, uint64_t page) noexcept nogil:
        return self.geometry.pages + page * PAGE_BYTES

    cdef inline uint64_t counter_offset(self, uint64_t hash_high) noexcept nogil:
        return self.geometry.counters + (hash_high % CHANGE_COUNTERS) * 8

    cdef inline uint64_t row_offset(self, uint64_t front_end) noexcept nogil:
        return self.geometry.front_ends + front_end * FRONT_END_ROW_BYTES

    cdef inline uint64_t hazard_offset(self, uint64_t front_end, uint64_t index) noexcept nogil:
        return self.geometry.hazards + (front_end * HAZARDS_PER_ROW + index) * 8

    cdef inline uint64_t counts_offset(self, uint64_t row, uint64_t database) noexcept nogil:
        return self.geometry.counts + (row * MAX_DATABASES + database) * COUNTS_BYTES

    cdef inline uint64_t epoch_offset(self, uint64_t database) noexcept nogil:
        return self.geometry.databases + database * 8
