# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Page allocator: hands out pages and cells of the pool, and takes them back.

A page's word in the page table changes by CAS only and names its owner. Which cells of an owned page
are free is the owner's private knowledge; a front end that frees a cell in somebody else's page sets a
bit in the page's head by CAS, and the owner harvests those bits.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from storage.cells cimport CELL_BYTES, CELLS_IN_PAGE
from storage.fabric.base cimport OP_CAS, OP_READ, FabricOp
from storage.fabric.builtins cimport __builtin_ctzll, __builtin_popcountll
from storage.pool cimport GLOBAL_PAGES_USED, Pool
from storage.words cimport (
    CELL_CLASSES,
    PAGE_BYTES,
    PAGE_CELLS,
    PAGE_FREE,
    PAGE_HEAD_BYTES,
    PAGE_PAYLOAD,
    location_cell,
    location_page,
    make_location,
    make_page_word,
    page_kind,
)

cdef enum:
    TABLE_CHUNK = 512    # page words looked at in one READ of 4 KiB
    CLAIM_CHUNK = 64     # pages claimed by one doorbell
    BEYOND_PAGES = 16    # above the limit, for values that are there already
    FOREIGN_CHUNK = 64   # cells of others' pages that are freed by one doorbell
    HARVEST_PAGES = 32   # page heads read in one doorbell when looking for cells freed by others
    HARVEST_WORTH = 32   # cells that such a look has to bring, unless the class has fewer than
    PAGES_FOR_ONE_MORE = 16  # pages


@cython.no_gc_clear
cdef class PageAllocator:
    """Pages and cells for one front end, below a limit that all front ends share."""

    def __cinit__(self, Pool pool):
        cdef uint64_t pages = pool.geometry.page_count
        self.pool = pool
        # calloc of untouched memory: the system backs only the entries that are used.
        self.cell_pages = <CellPage *>calloc(pages, sizeof(CellPage))
        self.known_words = <uint64_t *>calloc(pages, 8)
        self.free_capacity = TABLE_CHUNK
        self.free_stack = <uint32_t *>calloc(TABLE_CHUNK, 4)
        self.holders = <uint32_t *>calloc(pages, 4)
        if self.holders == NULL or self.cell_pages == NULL or self.known_words == NULL or self.free_stack == NULL:
            raise MemoryError("no memory for the page allocator's books")
        for number in range(CELL_CLASSES):
            self.partial[number] = -1
            self.owned[number] = -1
        self.limit_pages = pages

    def __dealloc__(self):
        free(self.cell_pages)
        free(self.known_words)
        free(self.free_stack)
        free(self.holders)
        free(self.suspect_pages)
        free(self.suspect_cells)

    # ------------------------------------------------------------------ cells

    cdef int64_t allocate_cell(self, uint32_t cell_class) noexcept nogil:
        """A free cell's location, or -1 when no page can be had for the class."""
        cdef int32_t page = self.partial[cell_class]
        cdef uint32_t claimed
        cdef uint32_t harvested = 0
        if page < 0:
            if self.pool.front_end_high_water > 1:
                harvested = self._harvest(cell_class)
            # A harvest of next to nothing would be needed again at once. Where one page more is little, it is better.
            if harvested == 0 or (harvested < HARVEST_WORTH and self.class_pages[cell_class] >= PAGES_FOR_ONE_MORE):
                if self.claim_pages(1, &claimed, PAGE_CELLS, cell_class):
                    self.adopt_cell(claimed, cell_class)
            page = self.partial[cell_class]
        return self._take_cell(<uint32_t>page) if page >= 0 else -1

    cdef bint has_beside(self, uint32_t cell_class, uint32_t avoided, uint32_t wanted) noexcept nogil:
        """Whether the pages of the class that are ours have so many free cells without this one's."""
        cdef int32_t page = self.partial[cell_class]
        cdef uint32_t found = 0
        while page >= 0 and found < wanted:
            if page != <int32_t>avoided:
                found += self.cell_pages[page].free_cells
            page = self.cell_pages[page].next_page
        return found >= wanted

    cdef int64_t _take_cell(self, uint32_t page) noexcept nogil:
        """A cell of a page with free ones."""
        cdef CellPage *state = &self.cell_pages[page]
        cdef int word = 0, bit
        while state.free_bits[word] == 0:
            word += 1
        bit = __builtin_ctzll(state.free_bits[word])
        state.free_bits[word] &= state.free_bits[word] - 1
        state.free_cells -= 1
        self.class_cells[state.cell_class] += 1
        if state.free_cells + 1 == state.capacity:
            self.empty_pages[state.cell_class] -= 1
        if state.free_cells == 0:
            self._unlink(page)
        return make_location(page, word * 64 + bit)

    cdef int64_t allocate_beside(self, uint32_t cell_class, uint32_t avoided) noexcept nogil:
        """A free cell in a page that is ours already, and not this one; -1 when there is none."""
        cdef int32_t page = self.partial[cell_class]
        while page == <int32_t>avoided and page >= 0:
            page = self.cell_pages[page].next_page
        return self._take_cell(<uint32_t>page) if page >= 0 else -1

    cdef int adopt_cell(self, uint32_t page, uint32_t cell_class) noexcept nogil:
        """Begin the books of a page of cells that is ours: every cell free."""
        cdef CellPage *state = &self.cell_pages[page]
        cdef uint32_t capacity = CELLS_IN_PAGE[cell_class]
        cdef uint32_t word
        cdef char zeros[PAGE_HEAD_BYTES]
        memset(zeros, 0, PAGE_HEAD_BYTES)
        self.pool.write_from(self.pool.page_offset(page), zeros, PAGE_HEAD_BYTES)
        memset(state, 0, sizeof(CellPage))
        for word in range(capacity // 64):
            state.free_bits[word] = ~<uint64_t>0
        if capacity % 64:
            state.free_bits[capacity // 64] = (<uint64_t>1 << (capacity % 64)) - 1
        state.capacity = capacity
        state.free_cells = capacity
        state.cell_class = cell_class
        self.empty_pages[cell_class] += 1
        self._own(page)
        self._link(page)
        return 0

    cdef void take_over(self, uint32_t page, uint32_t cell_class) noexcept nogil:
        """Begin the books of a page whose owner is dead, and which is ours now: every cell counts as used until it is proved free."""
        cdef CellPage *state = &self.cell_pages[page]
        memset(state, 0, sizeof(CellPage))
        state.capacity = CELLS_IN_PAGE[cell_class]
        state.cell_class = cell_class
        state.next_page = -1
        state.previous_page = -1
        self._own(page)
        self.class_cells[cell_class] += state.capacity

    cdef void hold(self, const uint32_t *pages, uint32_t count, uint32_t holder) noexcept nogil:
        """Claimed pages that no slot names for as long as a large value is being received."""
        cdef uint32_t i
        for i in range(count):
            self.holders[pages[i]] = holder
            if self.suspect_pages != NULL:
                self.suspect_pages[pages[i]] = 0

    cdef void let_go(self, const uint32_t *pages, uint32_t count, uint32_t holder) noexcept nogil:
        """They are published, or were freed. By now another value may hold them."""
        cdef uint32_t i
        for i in range(count):
            if self.holders[pages[i]] == holder:
                self.holders[pages[i]] = 0

    cdef bint free_exactly(self, uint32_t page, uint64_t word) noexcept nogil:
        """Free a page that nobody names, unless its word has changed: somebody else was about to free it."""
        cdef uint64_t freed = make_page_word(word, PAGE_FREE, 0, 0, 0)
        if self.pool.compare_and_swap(self.pool.page_word_offset(page), word, freed) != word:
            return False
        self.known_words[page] = freed
        self._push_free(page)
        self.payload_pages -= 1 if self.payload_pages else 0
        self.used_pages = self.pool.fetch_and_add(self.pool.geometry.globals + GLOBAL_PAGES_USED, -<uint64_t>1) - 1
        return True

    cdef void mark_cell_used(self, uint32_t location) noexcept nogil:
        """Recovery: a published value lives here."""
        cdef uint32_t page = location_page(location)
        cdef uint32_t cell = location_cell(location)
        cdef CellPage *state = &self.cell_pages[page]
        cdef uint64_t bit = <uint64_t>1 << (cell & 63)
        if not state.owned or cell >= state.capacity or not state.free_bits[cell >> 6] & bit:
            return
        state.free_bits[cell >> 6] &= ~bit
        if state.free_cells == state.capacity:
            self.empty_pages[state.cell_class] -= 1
        state.free_cells -= 1
        self.class_cells[state.cell_class] += 1
        if state.free_cells == 0:
            self._unlink(page)

    cdef void free_cell(self, uint32_t location, uint32_t cell_class) noexcept nogil:
        """Take a cell back; nothing may name it any more."""
        cdef uint32_t page = location_page(location)
        cdef uint32_t cell = location_cell(location)
        cdef CellPage *state = &self.cell_pages[page]
        cdef uint64_t bit = <uint64_t>1 << (cell & 63)
        if not state.owned:
            self.free_foreign(&location, 1)
            return
        if cell >= state.capacity:
            return  # a bit of a page's head that its owner died before zeroing, or damage
        if state.free_bits[cell >> 6] & bit:
            return  # free already: a double free must not hand it out twice
        if self.suspect_cells != NULL:
            self.suspect_cells[page * 16 + (cell >> 6)] &= ~bit
        state.free_bits[cell >> 6] |= bit
        state.free_cells += 1
        self.class_cells[state.cell_class] -= 1
        if not state.linked:
            self._link(page)
        if state.free_cells == state.capacity:
            self.empty_pages[cell_class] += 1
            # One empty page a class may stay: SET and DEL in turn would else claim and release at every step.
            if state.next_page >= 0 or state.previous_page >= 0:
                self._release_cell_page(page)

    cdef void free_foreign(self, const uint32_t *locations, uint32_t count) noexcept nogil:
        """Take back cells in pages of other front ends: a bit for each in its page's head, for the owner to find."""
        cdef FabricOp ops[FOREIGN_CHUNK]
        cdef uint64_t seen[FOREIGN_CHUNK]
        cdef uint32_t i, asked
        cdef uint64_t bit, found
        while count:
            asked = count if count < FOREIGN_CHUNK else FOREIGN_CHUNK
            memset(ops, 0, asked * sizeof(FabricOp))
            for i in range(asked):
                ops[i].opcode = OP_READ
                ops[i].offset = self.pool.page_offset(location_page(locations[i])) + (location_cell(locations[i]) >> 6) * 8
                ops[i].local = &seen[i]
                ops[i].length = 8
            if self.pool.submit(ops, asked) != 0:
                return
            for i in range(asked):
                ops[i].opcode = OP_CAS
                ops[i].compare = seen[i]
                ops[i].swap = seen[i] | <uint64_t>1 << (location_cell(locations[i]) & 63)
                ops[i].length = 0
            if self.pool.submit(ops, asked) != 0:
                return
            for i in range(asked):
                bit = <uint64_t>1 << (location_cell(locations[i]) & 63)
                found = ops[i].result
                while found != ops[i].compare and not found & bit:
                    # Somebody else set or took a bit of this word, or this batch did.
                    ops[i].compare = found
                    found = self.pool.compare_and_swap(ops[i].offset, found, found | bit)
            locations += asked
            count -= asked

    cdef void harvest_all(self) noexcept nogil:
        """Take back every cell that other front ends have freed, of all classes."""
        cdef uint32_t number, looked
        cdef uint64_t pages
        for number in range(CELL_CLASSES):
            pages = self.class_pages[number]
            looked = 0
            while looked < pages:
                self._harvest(number)
                looked += HARVEST_PAGES

    cdef void harvest_some(self) noexcept nogil:
        """One look at some pages, of the next class that has any."""
        cdef uint32_t i
        for i in range(CELL_CLASSES):
            self.next_harvested = (self.next_harvested + 1) % CELL_CLASSES
            if self.owned[self.next_harvested] >= 0:
                self._harvest(self.next_harvested)
                return

    cdef uint32_t _harvest(self, uint32_t cell_class) noexcept nogil:
        """Take back the cells of a class that other front ends have freed in some of our pages: how many. Each call looks at the next pages."""
        cdef uint64_t heads[HARVEST_PAGES * 16]
        cdef FabricOp ops[HARVEST_PAGES]
        cdef uint32_t pages[HARVEST_PAGES]
        cdef uint32_t chosen = 0, taken = 0, i, word
        cdef uint64_t bits, bit
        cdef int32_t page = self.owned[cell_class]
        if page < 0:
            return 0
        while chosen < HARVEST_PAGES:
            pages[chosen] = <uint32_t>page
            chosen += 1
            page = self.cell_pages[page].next_owned
            if page == self.owned[cell_class]:
                break
        self.owned[cell_class] = page
        memset(ops, 0, chosen * sizeof(FabricOp))
        for i in range(chosen):
            ops[i].opcode = OP_READ
            ops[i].offset = self.pool.page_offset(pages[i])
            ops[i].local = &heads[i * 16]
            ops[i].length = PAGE_HEAD_BYTES
        if self.pool.submit(ops, chosen) != 0:
            return 0
        for i in range(chosen):
            for word in range(16):
                bits = heads[i * 16 + word]
                if bits == 0:
                    continue
                if not self._is_of(pages[i], cell_class):
                    break  # the rounds take time on a remote pool: it was given back meanwhile
                if self.pool.compare_and_swap(self.pool.page_offset(pages[i]) + word * 8, bits, 0) != bits:
                    continue  # somebody frees right now: the next harvest takes it
                while bits:
                    bit = <uint64_t>__builtin_ctzll(bits)
                    bits &= bits - 1
                    self.free_cell(make_location(pages[i], <uint32_t>(word * 64 + bit)), cell_class)
                    taken += 1
                    if not self._is_of(pages[i], cell_class):
                        break
        return taken

    cdef bint _is_of(self, uint32_t page, uint32_t cell_class) noexcept nogil:
        return self.cell_pages[page].owned and self.cell_pages[page].cell_class == cell_class

    cdef void _own(self, uint32_t page) noexcept nogil:
        """A page of cells is ours from now on: it joins the ring of its class, as the last one to be looked at."""
        cdef CellPage *state = &self.cell_pages[page]
        cdef int32_t first = self.owned[state.cell_class]
        state.owned = True
        self.class_pages[state.cell_class] += 1
        if first < 0:
            state.next_owned = <int32_t>page
            state.previous_owned = <int32_t>page
            self.owned[state.cell_class] = <int32_t>page
            return
        state.next_owned = first
        state.previous_owned = self.cell_pages[first].previous_owned
        self.cell_pages[state.previous_owned].next_owned = <int32_t>page
        self.cell_pages[first].previous_owned = <int32_t>page

    cdef void _disown(self, uint32_t page) noexcept nogil:
        cdef CellPage *state = &self.cell_pages[page]
        state.owned = False
        self.class_pages[state.cell_class] -= 1
        self.cell_pages[state.previous_owned].next_owned = state.next_owned
        self.cell_pages[state.next_owned].previous_owned = state.previous_owned
        if self.owned[state.cell_class] == <int32_t>page:
            self.owned[state.cell_class] = state.next_owned if state.next_owned != <int32_t>page else -1

    cdef void _link(self, uint32_t page) noexcept nogil:
        cdef CellPage *state = &self.cell_pages[page]
        cdef int32_t head = self.partial[state.cell_class]
        state.next_page = head
        state.previous_page = -1
        state.linked = True
        if head >= 0:
            self.cell_pages[head].previous_page = <int32_t>page
        self.partial[state.cell_class] = <int32_t>page

    cdef void _unlink(self, uint32_t page) noexcept nogil:
        cdef CellPage *state = &self.cell_pages[page]
        if not state.linked:
            return
        if state.previous_page >= 0:
            self.cell_pages[state.previous_page].next_page = state.next_page
        else:
            self.partial[state.cell_class] = state.next_page
        if state.next_page >= 0:
            self.cell_pages[state.next_page].previous_page = state.previous_page
        state.linked = False
        state.next_page = -1
        state.previous_page = -1

    cdef void _release_cell_page(self, uint32_t page) noexcept nogil:
        cdef CellPage *state = &self.cell_pages[page]
        self.empty_pages[state.cell_class] -= 1
        self._unlink(page)
        self._disown(page)
        self.payload_pages += 1  # free_pages takes it off again
        self.free_pages(&page, 1)

    cdef uint32_t release_spares(self) noexcept nogil:
        """Give back the empty pages that classes keep; how many there were."""
        cdef uint32_t number, count = 0
        cdef int32_t page, following
        for number in range(CELL_CLASSES):
            # Without the count every page with a free cell would be looked at, for each page that is to come free: .1 ms for a thousand.
            page = self.partial[number] if self.empty_pages[number] else -1
            while page >= 0 and self.empty_pages[number]:
                following = self.cell_pages[page].next_page
                if self.cell_pages[page].free_cells == self.cell_pages[page].capacity:
                    self._release_cell_page(page)
                    count += 1
                    if self.pool.fabric.is_remote:
                        following = self.partial[number]  # the release takes rounds, and others change the list meanwhile
                page = following
        return count

    # ------------------------------------------------------------------ pages

    cdef int64_t allocate_beyond(self, uint32_t cell_class) noexcept nogil:
        """A cell for a value that is there already and only moves: a few pages above the limit may serve it, if the pool has them."""
        cdef int64_t location
        # Added and taken back, since the claim may wait for a memory node and the limit be changed meanwhile.
        self.beyond_pages += BEYOND_PAGES
        location = self.allocate_cell(cell_class)
        self.beyond_pages -= BEYOND_PAGES
        return location

    cdef uint32_t claim_pages(self, uint32_t count, uint32_t *pages, uint32_t kind, uint32_t cell_class) noexcept nogil:
        """Claim ``count`` pages, all or none: ``count``, or 0 when that would pass the limit."""
        cdef FabricOp ops[CLAIM_CHUNK]
        cdef uint32_t candidates[CLAIM_CHUNK]
        cdef uint64_t used_offset = self.pool.geometry.globals + GLOBAL_PAGES_USED
        cdef uint32_t got = 0, asked, i, page
        cdef uint64_t before, limit = self.limit_pages + self.beyond_pages, reserve = 0 if self.beyond_pages else self.reserve_pages
        if limit > self.pool.geometry.page_count:
            limit = self.pool.geometry.page_count
        before = self.pool.fetch_and_add(used_offset, count)
        self.used_pages = before + count
        if before + count + reserve > limit:
            self.pool.fetch_and_add(used_offset, -<uint64_t>count)
            self.used_pages = before
            self._note_claim(kind, cell_class)
            return 0
        self._note_claim(kind, cell_class)
        while got < count:
            asked = 0
            while asked < CLAIM_CHUNK and got + asked < count:
                if self.free_count == 0 and not self._refill():
                    break
                self.free_count -= 1
                page = self.free_stack[self.free_count]
                if page_kind(self.known_words[page]) != PAGE_FREE:
                    continue
                memset(&ops[asked], 0, sizeof(FabricOp))
                ops[asked].opcode = OP_CAS
                ops[asked].offset = self.pool.page_word_offset(page)
                ops[asked].compare = self.known_words[page]
                ops[asked].swap = make_page_word(
                    self.known_words[page], kind, cell_class, self.pool.front_end, self.pool.incarnation
                )
                candidates[asked] = page
                asked += 1
            if asked == 0 or self.pool.submit(ops, asked) != 0:
                break
            for i in range(asked):
                page = candidates[i]
                if ops[i].result == ops[i].compare:
                    self.known_words[page] = ops[i].swap
                    pages[got] = page
                    got += 1
                else:
                    self.known_words[page] = ops[i].result
                    if page_kind(ops[i].result) == PAGE_FREE:
                        self._push_free(page)
        if kind == PAGE_PAYLOAD:
            self.payload_pages += got
        if got < count:
            # The table holds fewer free pages than the counter says (a front end died in between).
            self.payload_pages += 0 if kind == PAGE_PAYLOAD else got
            self.free_pages(pages, got)
            self.pool.fetch_and_add(used_offset, -<uint64_t>(count - got))
            return 0
        return count

    cdef int64_t spare_pages(self) noexcept nogil:
        """Pages that may be claimed here before somebody has to evict; negative when others use the reserve, or the limit was lowered."""
        return <int64_t>self.limit_pages - <int64_t>self.reserve_pages - <int64_t>self.used_pages

    cdef uint64_t excess_pages(self) noexcept nogil:
        """Pages in use above the limit and what may be taken beyond it: it was lowered."""
        cdef uint64_t allowed = self.limit_pages + BEYOND_PAGES
        return self.used_pages - allowed if self.used_pages > allowed else 0

    cdef void _note_claim(self, uint32_t kind, uint32_t cell_class) noexcept nogil:
        """Say when few pages are left, if it is pages that are wanted.

        Not for a class that has many pages: it takes its own cells again, one coldest value after the other, where a page would cost
        the neighbours of the coldest, which are as good as any.
        """
        if self.is_low or self.low_pages == 0 or self.spare_pages() >= <int64_t>self.low_pages:
            return
        if kind == PAGE_CELLS and self.class_pages[cell_class] >= PAGES_FOR_ONE_MORE:
            return
        self.is_low = True
        self._say_low()

    cdef void _say_low(self) noexcept nogil:
        with gil:
            if self.on_low is not None:
                self.on_low()

    cdef void free_pages(self, const uint32_t *pages, uint32_t count) noexcept nogil:
        """Give pages back; nothing may name them any more."""
        cdef FabricOp ops[CLAIM_CHUNK]
        cdef uint32_t done = 0, asked, i, page
        cdef uint64_t freed = 0
        while done < count:
            asked = 0
            while asked < CLAIM_CHUNK and done + asked < count:
                # From the end: the stack then hands them out again in ascending order.
                page = pages[count - 1 - done - asked]
                memset(&ops[asked], 0, sizeof(FabricOp))
                ops[asked].offset = self.pool.page_word_offset(page)
                ops[asked].opcode = OP_CAS
                ops[asked].compare = self.known_words[page]
                ops[asked].swap = make_page_word(self.known_words[page], PAGE_FREE, 0, 0, 0)
                asked += 1
            if self.pool.submit(ops, asked) != 0:
                return
            for i in range(asked):
                page = pages[count - 1 - done - i]
                while ops[i].result != ops[i].compare and page_kind(ops[i].result) != PAGE_FREE:
                    # A page that another front end claimed: its word was not known here.
                    ops[i].compare = ops[i].result
                    ops[i].swap = make_page_word(ops[i].result, PAGE_FREE, 0, 0, 0)
                    ops[i].result = self.pool.compare_and_swap(ops[i].offset, ops[i].compare, ops[i].swap)
                if ops[i].result == ops[i].compare:
                    self.known_words[page] = ops[i].swap
                    self._push_free(page)
                    freed += 1
                else:
                    self.known_words[page] = ops[i].result
            done += asked
        self.payload_pages -= freed if freed <= self.payload_pages else self.payload_pages
        self.used_pages = self.pool.fetch_and_add(self.pool.geometry.globals + GLOBAL_PAGES_USED, -freed) - freed

    cdef int _push_free(self, uint32_t page) noexcept nogil:
        cdef uint32_t *larger
        if self.free_count == self.free_capacity:
            larger = <uint32_t *>realloc(self.free_stack, self.free_capacity * 2 * 4)
            if larger == NULL:
                return -1  # a later look into the page table finds it again
            self.free_stack = larger
            self.free_capacity *= 2
        self.free_stack[self.free_count] = page
        self.free_count += 1
        return 0

    cdef bint _refill(self) noexcept nogil:
        """Look into the page table until a chunk with free pages is found; False after a whole round."""
        cdef uint32_t total = <uint32_t>self.pool.geometry.page_count
        cdef uint32_t looked = 0, count, i, first
        while looked < total:
            first = self.cursor
            count = TABLE_CHUNK if first + TABLE_CHUNK <= total else total - first
            self.cursor = (first + count) % total
            if self.pool.read_into(self.pool.page_word_offset(first), &self.known_words[first], count * 8) != 0:
                return False
            for i in range(count):
                if page_kind(self.known_words[first + count - 1 - i]) == PAGE_FREE:
                    self._push_free(first + count - 1 - i)
            looked += count
            if self.free_count:
                return True
        return False

    # ------------------------------------------------------------------ facts

    def set_limit_bytes(self, uint64_t limit_bytes):
        """Pages in use may not exceed this many bytes; 0 means the whole pool."""
        cdef uint64_t pages = limit_bytes // PAGE_BYTES
        if limit_bytes == 0 or pages > self.pool.geometry.page_count:
            pages = self.pool.geometry.page_count
        self.limit_pages = pages

    def usage(self) -> dict[str, object]:
        """Pages and cells by class, for INFO; cells lists (cell bytes, pages, cells in use, cells in all)."""
        cells = []
        cell_bytes = 0
        for number in range(CELL_CLASSES):
            if self.class_pages[number]:
                cells.append((
                    CELL_BYTES[number], self.class_pages[number], self.class_cells[number],
                    self.class_pages[number] * CELLS_IN_PAGE[number],
                ))
                cell_bytes += self.class_cells[number] * CELL_BYTES[number]
        return {
            "pages": self.pool.geometry.page_count,
            "pages_limit": self.limit_pages,
            "pages_used": self.used_pages,
            "payload_pages": self.payload_pages,
            "cell_pages": sum(self.class_pages[number] for number in range(CELL_CLASSES)),
            "cell_bytes": cell_bytes,
            "cells": cells,
        }
