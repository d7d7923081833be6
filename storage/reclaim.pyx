# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Hazards and retirement: memory is used again only when nobody can be reading it.

A reader writes the name of what it is about to read into its front end's row, and then looks at the slot
again (hazard pointers; Michael 2004). Whoever took a value out of its slot retires it here; it is freed
after a look at the rows of all front ends that began after the slot was changed and did not find it.
"""

cimport cython
from libc.stdint cimport int16_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from storage.fabric.base cimport OP_READ, OP_WRITE, FabricOp
from storage.pages cimport PageAllocator
from storage.pool cimport GLOBAL_HIGH_WATER, ROW_HAZARDS, ROW_LIFE, Pool
from storage.words cimport FRONT_END_ROW_BYTES, HAZARDS_PER_ROW, MAX_FRONT_ENDS, location_page

cdef enum:
    KEPT = 0xFFFF   # no cell class
    ROW_WORDS = 8   # of a front end's row
    FOREIGN_TOGETHER = 64  # cells of others' pages that are freed together


@cython.no_gc_clear
cdef class Reclaimer:
    """This front end's hazard row and the values that it unlinked but may not free yet."""

    def __cinit__(self, Pool pool, PageAllocator allocator):
        self.pool = pool
        self.allocator = allocator
        self.all_rows = <uint64_t *>calloc(MAX_FRONT_ENDS * HAZARDS_PER_ROW, 8)
        if self.all_rows == NULL:
            raise MemoryError("no memory for hazard rows")

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.retired_count):
            free(self.retired[i].pages)
        free(self.retired)
        free(self.all_rows)

    cdef void retire(
        self, uint32_t location, uint32_t cell_class, const uint32_t *pages, uint32_t page_count
    ) noexcept nogil:
        """An unlinked value: free its cell and pages as soon as no hazard names them."""
        cdef Retired entry
        entry.location = location
        entry.cell_class = cell_class
        entry.page_count = page_count
        entry.pages = NULL
        entry.phase = self.present_phase()
        self.retired_of[entry.phase] += 1
        if page_count:
            entry.pages = <uint32_t *>malloc(page_count * 4)
            if entry.pages == NULL:
                abort()
            memcpy(entry.pages, pages, page_count * 4)
        self._keep(entry)

    cdef void _keep(self, Retired entry) noexcept nogil:
        cdef uint32_t larger
        if self.retired_count == self.retired_capacity:
            larger = self.retired_capacity * 2 if self.retired_capacity else 256
            self.retired = <Retired *>realloc(self.retired, larger * sizeof(Retired))
            if self.retired == NULL:
                abort()
            self.retired_capacity = larger
        self.retired[self.retired_count] = entry
        self.retired_count += 1
        self.retired_pages += entry.page_count

    cdef void collect(self, bint now) noexcept nogil:
        """Free whatever no hazard names; the rest waits for the next call.

        Where looking takes a round trip, or there are other rows to be read, it is done for many values together, unless ``now``.
        """
        cdef Retired *entries
        cdef uint32_t count
        cdef int rows
        if self.retired_count == 0 or self.is_collecting:
            return
        if (
            not now and (self.pool.fabric.is_remote or self.pool.front_end_high_water > 1)
            and self.retired_count < RETIRED_DUE and self.retired_pages < RETIRED_PAGES_DUE
        ):
            return
        # What is retired while the rows are being read was unlinked too late for them.
        self.is_collecting = True
        entries = self.retired
        count = self.retired_count
        self.retired = NULL
        self.retired_count = 0
        self.retired_capacity = 0
        self.retired_pages = 0
        rows = self._read_rows()
        self._free_unnamed(entries, count if rows >= 0 else 0, <uint32_t>rows if rows > 0 else 0)
        if rows < 0:
            # Lost: nothing is known, so nothing is freed.
            while count:
                count -= 1
                self._keep(entries[count])
        free(entries)
        self.is_collecting = False

    cdef int _read_rows(self) noexcept nogil:
        """Copy the used part of every other row; how many rows there are, or -1."""
        cdef FabricOp ops[MAX_FRONT_ENDS]
        cdef uint64_t heads[MAX_FRONT_ENDS * ROW_WORDS]
        cdef uint64_t high_water = 0, word
        cdef uint32_t rows = self.pool.front_end_high_water, i, asked, used
        while True:
            memset(ops, 0, 2 * sizeof(FabricOp))
            ops[0].opcode = OP_READ
            ops[0].offset = self.pool.geometry.globals + GLOBAL_HIGH_WATER
            ops[0].local = &high_water
            ops[0].length = 8
            ops[1].opcode = OP_READ
            ops[1].offset = self.pool.row_offset(0)
            ops[1].local = heads
            ops[1].length = rows * FRONT_END_ROW_BYTES
            # One's own row needs no look at the pool: what it holds there is known here.
            if self.pool.submit(ops, 2 if rows > 1 else 1) != 0:
                return -1
            high_water = <uint32_t>high_water  # the upper half counts who came and went
            if high_water <= rows or high_water > MAX_FRONT_ENDS:
                break
            # A front end joined: its row counts too.
            rows = <uint32_t>high_water
            self.pool.front_end_high_water = rows
        asked = 0
        for i in range(rows):
            self.row_used[i] = 0
            if i == <uint32_t>self.pool.front_end or rows == 1:
                continue
            word = heads[i * ROW_WORDS + ROW_HAZARDS // 8]
            used = <uint32_t>word if word < HAZARDS_PER_ROW else <uint32_t>HAZARDS_PER_ROW
            if not heads[i * ROW_WORDS + ROW_LIFE // 8] & 1:
                used = 0  # nobody is there, or somebody who died, or who comes too late to find what was unlinked before
            self.row_used[i] = used
            if used:
                memset(&ops[asked], 0, sizeof(FabricOp))
                ops[asked].opcode = OP_READ
                ops[asked].offset = self.pool.hazard_offset(i, 0)
                ops[asked].local = self.all_rows + i * HAZARDS_PER_ROW
                ops[asked].length = used * 8
                asked += 1
        if asked and self.pool.submit(ops, <int>asked) != 0:
            return -1
        return <int>rows

    cdef void _free_unnamed(self, Retired *entries, uint32_t total, uint32_t rows) noexcept nogil:
        cdef uint64_t hazards[HAZARDS_KEPT]
        cdef uint32_t foreign[FOREIGN_TOGETHER]
        cdef uint32_t foreign_of[2]
        cdef uint32_t count = 0, foreign_count = 0, i, j, own = <uint32_t>self.pool.front_end
        cdef uint64_t name
        cdef bint named, many = False
        memset(foreign_of, 0, sizeof(foreign_of))
        for i in range(rows):
            for j in range(<uint32_t>self.high_water if i == own else self.row_used[i]):
                name = self.row[j] if i == own else self.all_rows[i * HAZARDS_PER_ROW + j]
                if name == 0:
                    continue
                if count < HAZARDS_KEPT:
                    hazards[count] = name
                    count += 1
                else:
                    many = True
        # What is named stays; all names are looked at before anything is freed, which may take rounds of its own.
        for i in range(total):
            named = False
            for j in range(count):
                if hazards[j] == hazard_of_cell(entries[i].location) or (
                    entries[i].page_count and hazards[j] == hazard_of_page(entries[i].pages[0])
                ):
                    named = True
                    break
            if not named and many:
                named = self._is_named(entries[i], rows)
            if named:
                self._keep(entries[i])
                entries[i].cell_class = KEPT
        for i in range(total):
            if entries[i].cell_class == KEPT:
                continue
            if self.allocator.cell_pages[location_page(entries[i].location)].owned:
                self.allocator.free_cell(entries[i].location, entries[i].cell_class)
                self.retired_of[entries[i].phase] -= 1
            else:
                # Each one is a CAS in memory that others write: many of them at once.
                foreign[foreign_count] = entries[i].location
                foreign_of[entries[i].phase] += 1
                foreign_count += 1
            if entries[i].page_count:
                self.allocator.free_pages(entries[i].pages, entries[i].page_count)
                free(entries[i].pages)
            if foreign_count == FOREIGN_TOGETHER:
                self._free_foreign(foreign, foreign_count, foreign_of)
                foreign_count = 0
        self._free_foreign(foreign, foreign_count, foreign_of)

    cdef void _free_foreign(self, const uint32_t *locations, uint32_t count, uint32_t *of_phase) noexcept nogil:
        self.allocator.free_foreign(locations, count)
        # Only now: no grace period may pass while something unlinked is not free.
        self.retired_of[0] -= of_phase[0]
        self.retired_of[1] -= of_phase[1]
        of_phase[0] = of_phase[1] = 0

    cdef bint _is_named(self, Retired entry, uint32_t rows) noexcept nogil:
        """The slow look through every row, when there are more hazards than the fast one keeps."""
        cdef uint32_t i, j
        cdef uint64_t name
        cdef bint own
        for i in range(rows):
            own = i == <uint32_t>self.pool.front_end
            for j in range(<uint32_t>self.high_water if own else self.row_used[i]):
                name = self.row[j] if own else self.all_rows[i * HAZARDS_PER_ROW + j]
                if name and (
                    name == hazard_of_cell(entry.location) or (entry.page_count and name == hazard_of_page(entry.pages[0]))
                ):
                    return True
        return False

    cdef void lower_published(self) noexcept nogil:
        """Nothing of this row is in use: others need not look at it."""
        if self.in_use == 0 and self.published_high_water:
            self.published_high_water = 0
            self.pool.write_from(self.pool.row_offset(self.pool.front_end) + ROW_HAZARDS, &self.published_high_water, 8)

    cdef int16_t take_hazard(self, uint64_t name, bint for_pin) noexcept nogil:
        """A free place of the row, now ours for ``name``; -1 when none is free. The caller writes it out."""
        cdef int16_t i
        if for_pin and self.pin_count >= PIN_ROOM:
            return -1
        for i in range(self.free_hint, HAZARDS_PER_ROW):
            if self.row[i] == 0:
                self.row[i] = name
                self.free_hint = i + 1
                self.in_use += 1
                if i >= self.high_water:
                    self.high_water = i + 1
                return i
        self.free_hint = HAZARDS_PER_ROW
        return -1

    cdef void drop_hazard(self, int16_t index) noexcept nogil:
        """The place is free again; the caller has written, or writes, a zero there."""
        self.row[index] = 0
        self.in_use -= 1
        if self.in_use == 0:
            self.high_water = 0
        if index < self.free_hint:
            self.free_hint = index

    # ------------------------------------------------------------ grace periods

    cdef uint8_t begin_round(self) noexcept nogil:
        """A batch begins; the phase to end it with."""
        self.open_rounds[self.phase] += 1
        return self.phase

    cdef void end_round(self, uint8_t phase) noexcept nogil:
        """The batch is over: what it unlinked is retired, what it read is pinned or done with."""
        self.open_rounds[phase] -= 1

    cdef uint8_t present_phase(self) noexcept nogil:
        """What happens now counts to this phase: to the older one for as long as a batch of it may have done it."""
        return self.phase ^ 1 if self.open_rounds[self.phase ^ 1] else self.phase

    cdef void turn(self) noexcept nogil:
        """A grace period begins: what comes from now on is of the other phase. Only when the one before has passed."""
        self.phase ^= 1

    cdef bint is_settled(self) noexcept nogil:
        """Whether nothing of the phase before is left: no batch, nothing unlinked and not freed, nothing being sent."""
        cdef uint8_t before = self.phase ^ 1
        return self.open_rounds[before] == 0 and self.retired_of[before] == 0 and self.pins_of[before] == 0

    cdef int16_t find_pin(self, uint32_t first_page) noexcept nogil:
        """Where this value is pinned already, or -1."""
        cdef int16_t i
        if self.pin_count == 0:
            return -1
        for i in range(self.high_water):
            if self.pins[i] and self.row[i] == hazard_of_page(first_page):
                return i
        return -1

    cdef void add_pin(self, int16_t index, uint32_t pages, uint64_t clock) noexcept nogil:
        cdef uint8_t phase = self.present_phase()
        if self.pins[index]:
            self.pins_of[self.pin_phase[index]] -= 1  # its slot was seen to name it just now, so nobody had unlinked it before
        self.pins_of[phase] += 1
        self.pin_phase[index] = phase
        if self.pins[index] == 0:
            self.pin_since[index] = clock
            self.pin_count += 1
            self.pin_pages[index] = pages
            self.pinned_pages += pages
        self.pins[index] += 1

    cdef bint release_pin(self, uint32_t first_page) noexcept nogil:
        """One reader of a pinned value is done; True when it was the last."""
        cdef int16_t index = self.find_pin(first_page)
        cdef uint64_t zero = 0
        cdef FabricOp op
        if index < 0:
            return False
        self.pins[index] -= 1
        if self.pins[index]:
            return False
        self.pins_of[self.pin_phase[index]] -= 1
        self.pin_count -= 1
        self.pinned_pages -= self.pin_pages[index]
        # The zero goes out before the place is free for another name; nobody waits for it.
        memset(&op, 0, sizeof(op))
        op.opcode = OP_WRITE
        op.offset = self.pool.hazard_offset(self.pool.front_end, index)
        op.local = &zero
        op.length = 8
        self.pool.fabric.forget(self.pool.fabric.post(&op, 1))
        self.drop_hazard(index)
        self.collect(False)
        return True
