# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Eviction policy: which value makes room, and which entries are swept away.

Victims are sampled, as Redis does it: some random entries are scored, the best are remembered in a small
pool across samples, and the best of the pool goes. Sampling draws from the list of slots that this front
end has filled, so it costs the same at any load of the index.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from posix.time cimport nanosleep, timespec

from storage.batch cimport COUNT_AS_EXPIRED, KIND_EVICT, MOVE, STATUS_LEASED, STATUS_OK, Batch, Request, allocate
from storage.cells cimport CELL_BYTES, CELLS_IN_PAGE
from storage.engine cimport DatabaseCounts, Engine, Room, slot_words
from storage.fabric.base cimport OP_READ, FabricOp
from storage.fabric.waiting cimport Turnstile, take_turns
from storage.pages cimport CellPage
from storage.pairs cimport Pairs
from storage.pool cimport GLOBAL_PAGES_USED
from storage.protection cimport LookupProtection
from storage.words cimport (
    CELL_CLASSES,
    HEAT_BYTES,
    HEAT_LEASED,
    MAX_CELLS_PER_PAGE,
    PAGE_BYTES,
    PAGE_CELLS,
    SET_BYTES,
    SET_HEADER_BYTES,
    SLOTS_PER_SET,
    STATE_LIVE,
    CellHeader,
    Heat,
    cell_expiry_ms,
    cell_lease_ms,
    location_page,
    make_location,
    page_class,
    page_kind,
    word_class,
    word_has_ttl,
    word_is_paged,
    word_location,
    word_state,
)

cdef enum:
    SURVEYED = 64           # residents drawn for how much is protected after a look-up
    SAMPLES = 24            # entries scored at a time; Redis: 5 at a time into a pool of 16
    POOL_SIZE = 64
    REUSE_SAMPLES = 64      # entries scored for every victim; with 32 of them hit ratios are .001 lower, with 16 .003
    VICTIMS_TOGETHER = 4    # for these samples, where scoring and looking up cost more than the value does: below SMALL_VICTIM_BYTES,
    SMALL_VICTIM_BYTES = 2048
    MIDDLE_VICTIM_BYTES = 16384  # and half of them below this. In one batch each costs 1 us less, for one waits for memory beside the other
    POOLED_CHECKED = 8      # best candidates that are looked at again each time: all 64 cost 2 us a victim, and each comes to the top
    VICTIMS_PER_REFILL = 4  # 6 samples for each victim; with 16 a set of hot keys lost two thirds in a test
    SWEEP_CHUNK = 256       # entries looked at in one doorbell by the sweeper
    HEADER_READ_BYTES = 40  # cell header, expiry and lease
    MISSES_LIMIT = 64       # samples in a row without any candidate before a policy gives up
    FLUSHED_AT_A_TIME = 1024
    REFILLED_LIMIT = 64     # slots filled again while residents are looked at that are told apart; beyond it nothing is forgotten
    FOREIGN_SETS = 32       # index sets of one look at what others stored: 4 KiB
    FOREIGN_SETS_LIMIT = 65536  # of one search by who has hardly anything of its own
    FOREIGN_PAGES = 512
    FEW_RESIDENTS = 64      # with fewer a front end has hardly anything of its own
    FULL_SHARE = 128        # a pool with less than this part of its pages free is full: new blocks are weighed
    REMOTE_MEASURES = 10    # turns of background work, of which one looks at how many blocks there are
    STALE_LIMIT = 8         # candidates that are looked at when a new block is weighed
    WAITS_LIMIT = 60        # of 5 ms
    NEWEST = 64             # entries stored last that are no victims under allkeys-prefix, at most;
    NEWEST_MARKS = 1024
    NEWEST_SHARE = 64       # a 64th of all,
    NEWEST_LEAST = 2        # and at least these, where they are not a quarter of all
    FEW_PAGES = 8           # of a class of cells: to have one of them whole, a good part of what the class holds would go
    FEW_SHARE = 64          # and few they are only in a pool of so many times as many
    FEW_MISSES = 4          # samples in a row without a candidate before that happens
    FORCED_NOT = 0
    FORCED_FEW = 1          # values in cells of classes with few pages may go for the sake of a page,
    FORCED_LOOKED_UP = 2    # also what somebody was just told of,
    FORCED_YOUNG = 3        # and what was just stored or asked for
    IDLE_VALUES_LIMIT = 16384  # evicted in a row for one that waits without a page that came free, some 15 ms: then it is refused

_RULES = {
    "allkeys-prefix": (RULE_REUSE, False),
    "noeviction": (RULE_NONE, False),
    "allkeys-lru": (RULE_LRU, False),
    "allkeys-lfu": (RULE_LFU, False),
    "allkeys-random": (RULE_RANDOM, False),
    "volatile-lru": (RULE_LRU, True),
    "volatile-lfu": (RULE_LFU, True),
    "volatile-random": (RULE_RANDOM, True),
    "volatile-ttl": (RULE_TTL, True),
}


cdef double median(const double *values, double *scratch, uint32_t count) noexcept nogil:
    """The middle one of some values, the greater of two; ``scratch`` has room for as many. By Hoare's selection."""
    cdef int64_t first = 0, last = <int64_t>count - 1, wanted = count // 2, left, right
    cdef double pivot, held
    if count == 0:
        return 0
    memcpy(scratch, values, count * sizeof(double))
    while first < last:
        pivot = scratch[(first + last) // 2]
        left = first
        right = last
        while left <= right:
            while scratch[left] < pivot:
                left += 1
            while scratch[right] > pivot:
                right -= 1
            if left <= right:
                held = scratch[left]
                scratch[left] = scratch[right]
                scratch[right] = held
                left += 1
                right -= 1
        if wanted <= right:
            last = right
        elif wanted >= left:
            first = left
        else:
            break
    return scratch[wanted]


cdef class EvictionPolicy(Room):
    """Redis's policies by name, over the entries that this front end filled."""

    def __cinit__(self, Engine engine, str name="allkeys-lru"):
        cdef uint64_t slots = engine.pool.geometry.slot_count
        self.engine = engine
        self.evictions = Batch(2 * MAX_CELLS_PER_PAGE + 4)
        self.pairs = Pairs(engine)
        self.turnstile = Turnstile()
        self.protection = LookupProtection()
        self.resident_capacity = 1024
        self.residents = <uint32_t *>malloc(self.resident_capacity * 4)
        self.is_resident = <uint64_t *>calloc((slots + 63) // 64, 8)
        if self.residents == NULL or self.is_resident == NULL:
            raise MemoryError("no memory for the list of resident entries")
        self.choose(name)

    def __dealloc__(self):
        free(self.residents)
        free(self.is_resident)

    def choose(self, str name) -> None:
        """Switch to the policy ``name``; raises KeyError for an unknown one."""
        cdef bint was_on = self.engine.reuse.is_on
        self.rule, self.volatile_only = _RULES[name]
        self.changes += 1
        self.pool_count = 0
        self.engine.reuse.switch(self.rule == RULE_REUSE)
        if self.engine.reuse.is_on and not was_on:
            self.measure()

    # -------------------------------------------------------------- residents

    cdef void note_insert(self, uint32_t slot) noexcept nogil:
        """A slot was filled: it may be sampled from now on."""
        cdef uint64_t bit = <uint64_t>1 << (slot & 63)
        cdef uint32_t *larger
        if self.newest_end >= NEWEST:
            self.newest_marks[self.newest[self.newest_end & (NEWEST - 1)] & (NEWEST_MARKS - 1)] -= 1
        self.newest[self.newest_end & (NEWEST - 1)] = slot
        self.newest_marks[slot & (NEWEST_MARKS - 1)] += 1
        self.newest_end += 1
        if self.is_resident[slot >> 6] & bit:
            if self.turnstile.is_taken:
                # Somebody may have read this slot while it was free, and be about to forget it.
                if self.refilled_count < REFILLED_LIMIT:
                    self.refilled[self.refilled_count] = slot
                self.refilled_count += 1
            return
        if self.resident_count == self.resident_capacity:
            larger = <uint32_t *>realloc(self.residents, <size_t>self.resident_capacity * 8)
            if larger == NULL:
                return  # not sampled: the probed sets' own eviction still reaches it
            self.residents = larger
            self.resident_capacity *= 2
        self.residents[self.resident_count] = slot
        self.resident_count += 1
        self.is_resident[slot >> 6] |= bit

    cdef void _forget(self, uint32_t position) noexcept nogil:
        cdef uint32_t slot = self.residents[position]
        cdef uint32_t i
        if self.refilled_count > REFILLED_LIMIT:
            return
        for i in range(self.refilled_count):
            if self.refilled[i] == slot:
                return
        self.is_resident[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
        self.resident_count -= 1
        self.residents[position] = self.residents[self.resident_count]

    # -------------------------------------------------------------- make room

    cdef bint make_cell(self, uint32_t cell_class, uint32_t cells, uint32_t pages) noexcept nogil:
        """Room for ``cells`` cells of the class beside ``pages`` pages that are promised already."""
        cdef bint made
        if not self.turnstile.enter():
            return False
        self.refilled_count = 0
        made = self._make_room(<int>cell_class, cells, pages)
        self.turnstile.leave()
        return made

    cdef bint make_pages(self, uint32_t count) noexcept nogil:
        """Evict until ``count`` pages may be claimed; False when that cannot be reached."""
        cdef bint made
        if count >= self.engine.allocator.limit_pages:
            return False  # a value of so many pages leaves none for its own cell: nothing is evicted for it
        if not self.turnstile.enter():
            return False
        self.refilled_count = 0
        made = self._make_room(-1, 0, count)
        self.turnstile.leave()
        return made

    cdef bint _make_room(self, int cell_class, uint32_t cells, uint32_t pages) noexcept nogil:
        """Evict until ``pages`` pages may be claimed and ``cells`` cells of the class (-1: none) beside them.

        Bounded: a page costs its values at most, 1 016 of the smallest, and where no page comes free IDLE_VALUES_LIMIT are the end.
        """
        cdef uint64_t used, evicted, idle = 0
        cdef uint32_t examined = 0
        if self.rule == RULE_REUSE and self.engine.reuse.evicted_at == 0:
            self.measure()
        self.engine.reclaimer.collect(True)
        self.engine.allocator.release_spares()
        if self._has_room(cell_class, cells, pages):
            return True
        if self.engine.pool.refresh_high_water() > 1:
            self.engine.allocator.harvest_all()
            self.engine.allocator.release_spares()
        # What a flush has made unreachable goes before anything that is still of use, whatever the policy.
        while self.sweep_left and not self._has_room(cell_class, cells, pages):
            self._sweep(FLUSHED_AT_A_TIME, True, &examined)
            self.engine.reclaimer.collect(True)
            self.engine.allocator.release_spares()
            if examined == 0:
                break
        while not self._has_room(cell_class, cells, pages):
            used = self.engine.allocator.used_pages
            evicted = self.engine.counts.evicted
            if not self._evict_for(<uint32_t>cell_class if cell_class >= 0 else 0, cell_class < 0):
                return self._wait_for_others(cell_class, cells, pages)
            self.engine.reclaimer.collect(True)
            # Values in use, or scattered among ones that must stay, free no page.
            idle = 0 if self.engine.allocator.used_pages < used else idle + self.engine.counts.evicted - evicted + 1
            if idle > IDLE_VALUES_LIMIT:
                return False
        return True

    cdef bint _has_room(self, int cell_class, uint32_t cells, uint32_t pages) noexcept nogil:
        cdef uint32_t free_cells = 0
        cdef int32_t page
        if cell_class >= 0:
            page = self.engine.allocator.partial[cell_class]
            while page >= 0 and free_cells < cells:
                free_cells += self.engine.allocator.cell_pages[page].free_cells
                page = self.engine.allocator.cell_pages[page].next_page
            if free_cells >= cells:
                return True
            pages += (cells - free_cells + CELLS_IN_PAGE[cell_class] - 1) // CELLS_IN_PAGE[cell_class]
        return self.engine.allocator.used_pages + pages + self.engine.allocator.reserve_pages <= self.engine.allocator.limit_pages

    cdef bint evict_ahead(self) noexcept nogil:
        """Evict one value, or those of one page, for whoever will need a page; False when nothing can go, or somebody is at it."""
        cdef bint evicted
        if not self.turnstile.enter():
            return False
        self.refilled_count = 0
        self.engine.allocator.release_spares()
        self.is_ahead = True
        evicted = self._evict_for(0, True)
        self.is_ahead = False
        self.engine.reclaimer.collect(True)
        self.turnstile.leave()
        return evicted

    cdef bint make_slot(self, Request *request) noexcept nogil:
        """Every probed set is full: evict the entry of theirs that was used longest ago."""
        cdef bint made
        if not self.turnstile.enter():
            return False
        self.refilled_count = 0
        made = self._make_slot(request)
        self.turnstile.leave()
        return made

    cdef bint _make_slot(self, Request *request) noexcept nogil:
        cdef Heat heats[8 * SLOTS_PER_SET]
        cdef FabricOp ops[8 * SLOTS_PER_SET]
        cdef uint32_t total = request.set_count * SLOTS_PER_SET, i
        cdef uint64_t slot
        cdef Candidate candidate
        cdef int best = -1
        cdef uint32_t examined = 0
        while self.sweep_left:
            # Unreachable entries of a flushed database may fill the sets.
            if self._sweep(FLUSHED_AT_A_TIME, True, &examined):
                return True
            if examined == 0:
                break
        if self.rule == RULE_NONE or total > 8 * SLOTS_PER_SET:
            return False
        memset(ops, 0, sizeof(ops))
        for i in range(total):
            slot = ((request.home + i // SLOTS_PER_SET) % self.engine.pool.geometry.set_count) * SLOTS_PER_SET + i % SLOTS_PER_SET
            ops[i].opcode = OP_READ
            ops[i].offset = self.engine.pool.heat_offset(slot)
            ops[i].local = &heats[i]
            ops[i].length = HEAT_BYTES
        if self.engine.pool.submit(ops, total) != 0:
            return False
        self.forced = FORCED_FEW
        best = self._coldest_slot(request, heats, total)
        while best < 0 and self.forced < FORCED_YOUNG:
            self.forced += 1
            best = self._coldest_slot(request, heats, total)
        if best < 0:
            return False
        candidate.slot = <uint32_t>(
            ((request.home + best // SLOTS_PER_SET) % self.engine.pool.geometry.set_count) * SLOTS_PER_SET + best % SLOTS_PER_SET
        )
        candidate.word = slot_words(request, best)[0]
        candidate.last_ms = heats[best].last if self.rule == RULE_REUSE else heats[best].last_ms
        candidate.score = 1
        self._evict_one(candidate)
        return True

    cdef int _coldest_slot(self, Request *request, Heat *heats, uint32_t total) noexcept nogil:
        """The number of the entry in the probed sets that goes first, or -1."""
        cdef uint32_t i, slot
        cdef uint64_t word
        cdef bint leased
        cdef int best = -1
        for i in range(total):
            word = slot_words(request, i)[0]
            slot = <uint32_t>(
                ((request.home + i // SLOTS_PER_SET) % self.engine.pool.geometry.set_count) * SLOTS_PER_SET + i % SLOTS_PER_SET
            )
            if word_state(word) != STATE_LIVE or (self.volatile_only and not word_has_ttl(word)) or self._is_kept(&heats[i], slot):
                continue
            if heats[i].flags & HEAT_LEASED:
                if self.find_leased(&slot, &word, &heats[i], 1, &leased) != 0 or leased:
                    continue
            if self.rule == RULE_REUSE:
                if best < 0 or self.engine.reuse.age(&heats[i]) > self.engine.reuse.age(&heats[best]):
                    best = i
            elif best < 0 or <uint32_t>self.engine.now_ms - heats[i].last_ms > <uint32_t>self.engine.now_ms - heats[best].last_ms:
                best = i
        return best

    cdef bint _evict_for(self, uint32_t cell_class, bint wants_page) noexcept nogil:
        """Evict so that a cell of the class, or a page, comes free. True when something was evicted."""
        cdef Candidate best, chosen, instead
        cdef uint32_t i
        cdef uint64_t changes = self.changes
        cdef int fitting = -1
        cdef uint32_t together = 1, last
        cdef int32_t evicted
        if self.rule == RULE_NONE:
            return False
        # Some samples for every victim, as Redis takes them: fewer, and most of what is sampled goes, cold or not.
        if not wants_page and CELL_BYTES[cell_class] < MIDDLE_VICTIM_BYTES:
            together = VICTIMS_TOGETHER if CELL_BYTES[cell_class] < SMALL_VICTIM_BYTES else VICTIMS_TOGETHER // 2
        self.wanted_class = -1 if wants_page else <int>cell_class
        last = FORCED_FEW if self.is_ahead else FORCED_YOUNG if self.rule == RULE_REUSE else FORCED_LOOKED_UP
        self.forced = FORCED_NOT if self.rule == RULE_REUSE else FORCED_FEW
        self._sample()
        # Looking for keys must not keep others from storing theirs; ahead of need what is protected or young stays.
        while self.pool_count == 0 and self.forced < last:
            self.forced += 1
            self._sample()
        if self._drop_stale(changes):
            return True
        if self.pool_count == 0:
            return False
        best = self.pool[0]
        for i in range(self.pool_count):
            if word_is_paged(self.pool[i].word) or (not wants_page and word_class(self.pool[i].word) == cell_class):
                fitting = i
                break
        # A value whose memory serves directly goes first, unless the best victim is far colder.
        instead.score = -1e300
        if fitting >= 0 and self._fits(<uint32_t>fitting):
            chosen = self.pool[fitting]
        else:
            if fitting >= 0:
                instead = self.pool[fitting]
                self._drop(<uint32_t>fitting)
            fitting = 0
            chosen = best
        self._drop(<uint32_t>fitting)
        if word_is_paged(chosen.word) or (not wants_page and word_class(chosen.word) == cell_class):
            self._evict_like(chosen, cell_class, together)
            return True
        # Cells of another size: only a whole page of them is of use.
        evicted = self._evict_page(chosen, instead.score)
        if evicted <= 0:
            self._evict_one(chosen)
        if evicted < 0:
            self._evict_one(instead)
        # Freed first, where that is put off: a page whose cells are only retired is not empty yet.
        self.engine.reclaimer.collect(True)
        self.engine.allocator.release_spares()
        return True

    cdef void _sample(self) noexcept nogil:
        """Fill the pool of candidates where it needs it."""
        cdef uint32_t i = self.pool_count
        while i > 0:
            i -= 1
            if not self._serves(self.pool[i].word):
                self._drop(i)
        if self.protection.window_ms and self.protection.is_due():
            self._survey()
        if self.rule == RULE_REUSE:
            self._refill_by_reuse(REUSE_SAMPLES)
        elif self.pool_count <= POOL_SIZE - (1 if self.volatile_only else VICTIMS_PER_REFILL):
            self._refill()  # of samples many have no TTL, while Redis draws from those that have one

    cdef void _survey(self) noexcept nogil:
        """Draw some residents, for how much of the memory is protected."""
        cdef FabricOp ops[SURVEYED * 2]
        cdef Heat heats[SURVEYED]
        cdef uint64_t words[SURVEYED]
        cdef CellHeader headers[SURVEYED]
        cdef uint32_t count = SURVEYED if self.resident_count > SURVEYED else self.resident_count, live = 0, i, slot
        if count == 0:
            return
        memset(ops, 0, sizeof(ops))
        for i in range(count):
            slot = self.residents[i if count < SURVEYED else <uint32_t>(self.engine.next_random() % self.resident_count)]
            ops[i].opcode = OP_READ
            ops[i].offset = self.engine.pool.slot_offset(slot)
            ops[i].local = &words[i]
            ops[i].length = 8
            ops[count + i].opcode = OP_READ
            ops[count + i].offset = self.engine.pool.heat_offset(slot)
            ops[count + i].local = &heats[i]
            ops[count + i].length = HEAT_BYTES
        if self.engine.pool.submit(ops, count * 2) != 0:
            return
        for i in range(count):
            if word_state(words[i]) == STATE_LIVE and self.engine.valid_location(words[i]):
                ops[live].offset = self.engine.cell_offset(word_location(words[i]), word_class(words[i]))
                ops[live].local = &headers[live]
                ops[live].length = sizeof(CellHeader)
                words[live] = words[i]
                heats[live] = heats[i]
                live += 1
        if live and self.engine.pool.submit(ops, live) != 0:
            return
        for i in range(live):
            if headers[i].echo == <uint32_t>words[i]:
                self.protection.note(&heats[i], <uint32_t>self.engine.now_ms, <double>headers[i].value_bytes + headers[i].key_bytes)
        self.protection.reckon(count, self.resident_count, <double>self.engine.allocator.limit_pages * PAGE_BYTES)

    cdef bint _serves(self, uint64_t word) noexcept nogil:
        """Whether the memory of a value is of use to who waits: it has pages, a cell of the wanted class, or one of many of its size.

        Redis's policies go by age and nothing else.
        """
        cdef uint64_t pages
        if self.rule != RULE_REUSE or self.forced >= FORCED_FEW or word_is_paged(word) or <int>word_class(word) == self.wanted_class:
            return True
        pages = self.engine.allocator.class_pages[word_class(word)]
        return pages >= FEW_PAGES or pages * FEW_SHARE > self.engine.allocator.limit_pages

    cdef bint _is_young(self, uint32_t slot) noexcept nogil:
        """Whether this front end filled the slot so lately that who stored there has hardly had the time to come back.

        By allkeys-prefix alone a block that nobody had heard of would be the next victim, before its client could ask for it once.
        """
        cdef uint32_t count = self.resident_count // NEWEST_SHARE, i
        if self.newest_marks[slot & (NEWEST_MARKS - 1)] == 0:
            return False
        count = NEWEST_LEAST if count < NEWEST_LEAST else NEWEST if count > NEWEST else count
        if count > self.resident_count // 4:
            count = self.resident_count // 4
        for i in range(count):
            if self.newest[(self.newest_end - 1 - i) & (NEWEST - 1)] == slot:
                return True
        return False

    cdef bint _is_kept(self, const Heat *heat, uint32_t slot) noexcept nogil:
        """Whether somebody was just told that this block is there, or has just stored it."""
        return self.forced < FORCED_LOOKED_UP and self.protection.covers(heat, <uint32_t>self.engine.now_ms) or (
            self.rule == RULE_REUSE and self.forced < FORCED_YOUNG and self._is_young(slot)
        )

    cdef int find_leased(self, const uint32_t *slots, const uint64_t *words, Heat *heats, uint32_t count, bint *leased) noexcept nogil:
        """Tell which of some LIVE entries are leased: their cells say so. A mark in heat that is out of date is taken away."""
        cdef FabricOp ops[REUSE_SAMPLES]
        cdef char headers[REUSE_SAMPLES * HEADER_READ_BYTES]
        cdef uint32_t numbers[REUSE_SAMPLES]
        cdef uint32_t asked = 0, i
        cdef CellHeader *header
        cdef uint8_t flags
        for i in range(count):
            leased[i] = False
            if heats[i].flags & HEAT_LEASED and word_state(words[i]) == STATE_LIVE and self.engine.valid_location(words[i]):
                memset(&ops[asked], 0, sizeof(FabricOp))
                ops[asked].opcode = OP_READ
                ops[asked].offset = self.engine.cell_offset(word_location(words[i]), word_class(words[i]))
                ops[asked].local = &headers[asked * HEADER_READ_BYTES]
                ops[asked].length = HEADER_READ_BYTES
                numbers[asked] = i
                asked += 1
        if asked == 0:
            return 0
        if self.engine.pool.submit(ops, asked) != 0:
            return -1
        for i in range(asked):
            header = <CellHeader *>&headers[i * HEADER_READ_BYTES]
            leased[numbers[i]] = header.echo != <uint32_t>words[numbers[i]] or cell_lease_ms(header) > self.engine.now_ms
            if not leased[numbers[i]]:
                flags = heats[numbers[i]].flags & ~<uint32_t>HEAT_LEASED
                self.engine.pool.write_from(self.engine.pool.heat_offset(slots[numbers[i]]) + HEAT_BYTES - 1, &flags, 1)
        return 0

    cdef bint _fits(self, uint32_t fitting) noexcept nogil:
        """Whether a candidate is nearly as good a victim as the best."""
        if self.rule == RULE_REUSE:
            return self.pool[fitting].score >= self.pool[0].score - self.engine.reuse.capacity * 0.1
        return self.pool[fitting].score * 2 >= self.pool[0].score

    cdef void measure(self) noexcept nogil:
        """How many blocks there are: what the rule calls its capacity."""
        cdef DatabaseCounts total
        cdef int64_t blocks = 0
        cdef uint32_t i
        if not self.engine.reuse.is_on:
            return
        if self.engine.pool.fabric.is_remote:
            # Each look is some round trips: none for a front end that is asked nothing, and few for others.
            self.idle_measures += 1
            if self.engine.reuse.evicted_at and (self.engine.reuse.own == self.measured_at or self.idle_measures % REMOTE_MEASURES != 0):
                return
            self.measured_at = self.engine.reuse.own
        for i in range(self.engine.database_count):
            if self.engine.pool.front_end_high_water <= 1:
                blocks += self.engine.keys[i]
            elif self.engine.keys[i] and self.engine.total_counts(i, &total):
                blocks += total.keys
        self.engine.reuse.set_capacity(<uint64_t>blocks if blocks > 0 else 0)

    cdef bint refuses(self, const Heat *heat, uint32_t admitted) noexcept nogil:
        """Whether a new block is worth less than what would have to go for it, ``admitted`` others having come before it in this command.

        Only while the pool is full.
        """
        cdef Heat now
        cdef uint32_t i
        cdef uint64_t changes = self.changes
        cdef bint refused = False
        if self.rule != RULE_REUSE or not self.engine.reuse.follows_rule:
            return False
        if not self.engine.reuse.is_full() and self._has_room(-1, 0, 2 + self.engine.allocator.limit_pages // FULL_SHARE):
            return False
        if not self.turnstile.enter():
            return False
        self.refilled_count = 0
        self.forced = FORCED_FEW
        self._refill_by_reuse(REUSE_SAMPLES)
        self._drop_stale(changes)
        if admitted >= POOL_SIZE:
            admitted = POOL_SIZE - 1
        for i in range(STALE_LIMIT):
            if self.pool_count <= admitted:
                break
            if self.engine.pool.read_into(self.engine.pool.heat_offset(self.pool[admitted].slot), &now, HEAT_BYTES) == 0 and (
                now.last == self.pool[admitted].last_ms
            ):
                refused = self.engine.reuse.age(heat) - <double>self.engine.reuse.clock > self.pool[admitted].score
                break
            # Used since: not a victim any more.
            self._drop(admitted)
        self.turnstile.leave()
        self.engine.reuse.refused += refused
        return refused

    cdef bint _drop_stale(self, uint64_t changes) noexcept nogil:
        """Whether the policy was changed after the ``changes`` that were known, while samples were read: what they were taken for counts no more."""
        if self.changes == changes:
            return False
        self.pool_count = 0
        return True

    cdef void _drop(self, uint32_t place) noexcept nogil:
        """A candidate leaves the pool."""
        self.pool_count -= 1
        memmove(&self.pool[place], &self.pool[place + 1], (self.pool_count - place) * sizeof(Candidate))
        memmove(&self.pooled_slots[place], &self.pooled_slots[place + 1], (self.pool_count - place) * 4)

    cdef bint _refill_by_reuse(self, uint32_t samples) noexcept nogil:
        """Score random residents by their heat alone, and look at the slots of those that get into the pool."""
        cdef FabricOp ops[REUSE_SAMPLES + POOLED_CHECKED]
        cdef Heat heats[REUSE_SAMPLES]
        cdef Heat pooled[POOLED_CHECKED]
        cdef uint32_t pooled_slots[POOLED_CHECKED]
        cdef bint leased[REUSE_SAMPLES]
        cdef uint64_t words[REUSE_SAMPLES]
        cdef uint32_t slots[REUSE_SAMPLES]
        cdef uint32_t positions[REUSE_SAMPLES]
        cdef uint32_t count, i, chosen, misses = 0, found = 0, checked, before
        cdef double worst
        cdef Candidate candidate
        cdef bint several = self.engine.pool.front_end_high_water > 1
        while found == 0 and self.pool_count == 0 or misses == 0:
            misses += 1
            if misses > (MISSES_LIMIT if self.forced else FEW_MISSES):
                return False
            if several and (self.resident_count == 0 or misses & 1 == 0):
                found += self._offer_foreign()
                if self.resident_count == 0:
                    return found > 0
                continue
            if self.resident_count == 0:
                return False
            before = self.resident_count
            count = samples if self.resident_count > samples else self.resident_count
            memset(ops, 0, count * sizeof(FabricOp))
            for i in range(count):
                positions[i] = i if count < samples else <uint32_t>(self.engine.next_random() % self.resident_count)
                slots[i] = self.residents[positions[i]]
                ops[i].opcode = OP_READ
                ops[i].offset = self.engine.pool.heat_offset(slots[i])
                ops[i].local = &heats[i]
                ops[i].length = HEAT_BYTES
            # Candidates that were used since are none.
            checked = self.pool_count if self.pool_count < POOLED_CHECKED else POOLED_CHECKED
            memset(&ops[count], 0, checked * sizeof(FabricOp))
            for i in range(checked):
                pooled_slots[i] = self.pool[i].slot
                ops[count + i].opcode = OP_READ
                ops[count + i].offset = self.engine.pool.heat_offset(pooled_slots[i])
                ops[count + i].local = &pooled[i]
                ops[count + i].length = HEAT_BYTES
            if self.engine.pool.submit(ops, count + checked) != 0:
                return False
            i = checked
            while i > 0:
                i -= 1
                if i < self.pool_count and self.pool[i].slot == pooled_slots[i] and self.pool[i].last_ms != pooled[i].last:
                    self._drop(i)
            worst = -1e300 if self.pool_count < POOL_SIZE else self.pool[self.pool_count - 1].score
            chosen = 0
            for i in range(count):
                if self._score(&heats[i], 0) <= worst:
                    found += 1
                    continue
                if self._is_kept(&heats[i], slots[i]):
                    continue
                memset(&ops[chosen], 0, sizeof(FabricOp))
                ops[chosen].opcode = OP_READ
                ops[chosen].offset = self.engine.pool.slot_offset(slots[i])
                ops[chosen].local = &words[chosen]
                ops[chosen].length = 8
                heats[chosen] = heats[i]
                slots[chosen] = slots[i]
                positions[chosen] = positions[i]
                chosen += 1
            if chosen and (
                self.engine.pool.submit(ops, chosen) != 0 or self.find_leased(slots, words, heats, chosen, leased) != 0
            ):
                return False
            for i in range(chosen):
                if word_state(words[i]) != STATE_LIVE or leased[i] or not self._serves(words[i]):
                    continue
                candidate.slot = slots[i]
                candidate.word = words[i]
                candidate.last_ms = heats[i].last
                candidate.score = self._score(&heats[i], 0)
                self._offer(candidate)
                found += 1
            for i in range(chosen):
                # Dead entries leave the list, which may have changed while the words were read.
                if word_state(words[i]) != STATE_LIVE:
                    if positions[i] < self.resident_count and self.residents[positions[i]] == slots[i]:
                        self._forget(positions[i])
            if self.resident_count < before:
                misses = 1  # among many that are gone: the next look finds fewer of these
        return self.pool_count > 0

    cdef bint _refill(self) noexcept nogil:
        """Score some random residents into the pool; False when no candidate was found."""
        cdef FabricOp ops[SAMPLES * 2]
        cdef FabricOp expiry_ops[SAMPLES]
        cdef uint64_t words[SAMPLES]
        cdef Heat heats[SAMPLES]
        cdef char headers[SAMPLES * HEADER_READ_BYTES]
        cdef uint32_t positions[SAMPLES]
        cdef uint32_t slots[SAMPLES]
        cdef bint leased[SAMPLES]
        cdef uint32_t count, i, misses = 0, found = 0, slot, before
        cdef Candidate candidate
        cdef bint several = self.engine.pool.front_end_high_water > 1
        while found == 0 and misses < MISSES_LIMIT:
            misses += 1
            if several and (self.resident_count == 0 or misses & 1 == 0):
                # What other front ends stored is found by looking anywhere in the index.
                found += self._offer_foreign()
                if self.resident_count == 0:
                    break
                continue
            if self.resident_count == 0:
                break
            before = self.resident_count
            count = SAMPLES if self.resident_count > SAMPLES else self.resident_count
            memset(ops, 0, sizeof(ops))
            memset(expiry_ops, 0, sizeof(expiry_ops))
            for i in range(count):
                positions[i] = i if count < SAMPLES else <uint32_t>(self.engine.next_random() % self.resident_count)
                slot = self.residents[positions[i]]
                slots[i] = slot
                ops[i].opcode = OP_READ
                ops[i].offset = self.engine.pool.slot_offset(slot)
                ops[i].local = &words[i]
                ops[i].length = 8
                ops[count + i].opcode = OP_READ
                ops[count + i].offset = self.engine.pool.heat_offset(slot)
                ops[count + i].local = &heats[i]
                ops[count + i].length = HEAT_BYTES
            if self.engine.pool.submit(ops, count * 2) != 0 or self.find_leased(slots, words, heats, count, leased) != 0:
                return False
            if self.rule == RULE_TTL:
                for i in range(count):
                    expiry_ops[i].opcode = OP_READ
                    expiry_ops[i].offset = (
                        self.engine.cell_offset(word_location(words[i]), word_class(words[i]))
                        if word_state(words[i]) == STATE_LIVE and self.engine.valid_location(words[i]) else 0
                    )
                    expiry_ops[i].local = &headers[i * HEADER_READ_BYTES]
                    expiry_ops[i].length = HEADER_READ_BYTES
                if self.engine.pool.submit(expiry_ops, count) != 0:
                    return False
            for i in range(count):
                if word_state(words[i]) != STATE_LIVE or (self.volatile_only and not word_has_ttl(words[i])):
                    continue
                if leased[i] or self._is_kept(&heats[i], slots[i]):
                    continue
                if positions[i] >= self.resident_count:
                    continue
                candidate.slot = self.residents[positions[i]]
                if ops[i].offset != self.engine.pool.slot_offset(candidate.slot):
                    continue  # the list has changed while the words were read
                candidate.word = words[i]
                candidate.last_ms = heats[i].last_ms
                candidate.score = self._score(
                    &heats[i], cell_expiry_ms(<CellHeader *>&headers[i * HEADER_READ_BYTES]) if self.rule == RULE_TTL else 0
                )
                self._offer(candidate)
                found += 1
            # Dead entries leave the list; from the end, so that positions stay true.
            for i in range(count):
                if word_state(words[count - 1 - i]) != STATE_LIVE and positions[count - 1 - i] < self.resident_count:
                    slot = self.residents[positions[count - 1 - i]]
                    if ops[count - 1 - i].offset == self.engine.pool.slot_offset(slot):
                        self._forget(positions[count - 1 - i])
            if self.resident_count < before:
                misses = 1  # among many that are gone: the next look finds fewer of these
        return found > 0

    cdef double _score(self, Heat *heat, int64_t expire_at_ms) noexcept nogil:
        """How much an entry deserves to go."""
        cdef double idle_ms = <double>(<uint32_t>self.engine.now_ms - heat.last_ms) + 1
        if self.rule == RULE_REUSE:
            # Less the clock: the same at any time, so that candidates of earlier samples compare.
            return self.engine.reuse.age(heat) - <double>self.engine.reuse.clock
        if self.rule == RULE_LFU:
            return 256.0 - self.engine.frequency_now(heat) + idle_ms / 4294967296.0
        if self.rule == RULE_RANDOM:
            return 1.0
        if self.rule == RULE_TTL:
            return 1e15 - <double>expire_at_ms
        return idle_ms

    cdef uint32_t _offer_foreign(self) noexcept nogil:
        """Score values with pages, whoever stored them, from a random place of the index on; how many were found.

        Only those: a cell goes back to its page's owner, pages are free for all at once.
        """
        cdef char sets[FOREIGN_SETS * SET_BYTES]
        cdef Heat heats[FOREIGN_SETS * SLOTS_PER_SET]
        cdef char header[HEADER_READ_BYTES]
        cdef uint64_t total = self.engine.pool.geometry.set_count, first
        cdef uint32_t looked = 0, found = 0, count, i, number, slot
        cdef uint32_t limit = FOREIGN_SETS_LIMIT if self.resident_count < FEW_RESIDENTS else FOREIGN_SETS
        cdef uint64_t word
        cdef bint leased
        cdef Candidate candidate
        first = self.engine.next_random() % total
        while looked < limit and looked < total and found < SAMPLES:
            count = FOREIGN_SETS if total - first > FOREIGN_SETS else <uint32_t>(total - first)
            if self.engine.pool.read_into(self.engine.pool.set_offset(first), sets, count * SET_BYTES) != 0 or self.engine.pool.read_into(
                self.engine.pool.heat_offset(first * SLOTS_PER_SET), heats, count * SLOTS_PER_SET * HEAT_BYTES
            ) != 0:
                return found
            for i in range(count):
                for number in range(SLOTS_PER_SET):
                    word = (<uint64_t *>(sets + i * SET_BYTES + SET_HEADER_BYTES))[number * 2]
                    if (
                        word_state(word) != STATE_LIVE or not word_is_paged(word) or (self.volatile_only and not word_has_ttl(word))
                        or not self.engine.valid_location(word)
                    ):
                        continue
                    slot = <uint32_t>((first + i) * SLOTS_PER_SET + number)
                    if self._is_kept(&heats[i * SLOTS_PER_SET + number], slot):
                        continue
                    if self.find_leased(&slot, &word, &heats[i * SLOTS_PER_SET + number], 1, &leased) != 0:
                        return found
                    if leased:
                        continue
                    if self.rule == RULE_TTL and self.engine.pool.read_into(
                        self.engine.cell_offset(word_location(word), word_class(word)), header, HEADER_READ_BYTES
                    ) != 0:
                        return found
                    candidate.slot = slot
                    candidate.word = word
                    candidate.last_ms = (
                        heats[i * SLOTS_PER_SET + number].last if self.rule == RULE_REUSE else heats[i * SLOTS_PER_SET + number].last_ms
                    )
                    candidate.score = self._score(
                        &heats[i * SLOTS_PER_SET + number], cell_expiry_ms(<CellHeader *>header) if self.rule == RULE_TTL else 0
                    )
                    self._offer(candidate)
                    found += 1
            looked += count
            first = (first + count) % total
        return found

    # ------------------------------------------------------- other front ends

    cdef bint _wait_for_others(self, int cell_class, uint32_t cells, uint32_t pages) noexcept nogil:
        """Nothing of one's own can go, but others have the pool full of small values: take theirs out, and wait for the pages.

        Their owners give empty pages back at their next look, a tenth of a second at most. Only a front end that has hardly anything
        ever gets here, and only when the reserve is used up: the alternative is an error.
        """
        cdef timespec pause
        cdef uint32_t turn
        if self.engine.pool.front_end_high_water < 2 or self.rule == RULE_NONE:
            return False
        pause.tv_sec = 0
        pause.tv_nsec = 5000000
        for turn in range(WAITS_LIMIT):
            if turn % 4 == 0:
                self._evict_foreign_page()
            if self.engine.pool.fabric.is_remote:
                if not take_turns():
                    return False
            nanosleep(&pause, NULL)
            self.engine.pool.read_into(
                self.engine.pool.geometry.globals + GLOBAL_PAGES_USED, &self.engine.allocator.used_pages, 8
            )
            if self._has_room(cell_class, cells, pages):
                return True
        return False

    cdef void _evict_foreign_page(self) noexcept nogil:
        """Evict the values of one page of cells, from a random place of the page table on."""
        cdef uint64_t words[FOREIGN_PAGES]
        cdef uint64_t total = self.engine.pool.geometry.page_count, first, looked = 0
        cdef uint32_t count, i
        cdef Candidate victim
        first = self.engine.next_random() % total
        while looked < total:
            count = FOREIGN_PAGES if total - first > FOREIGN_PAGES else <uint32_t>(total - first)
            if self.engine.pool.read_into(self.engine.pool.page_word_offset(first), words, count * 8) != 0:
                return
            for i in range(count):
                if page_kind(words[i]) == PAGE_CELLS and page_class(words[i]) < CELL_CLASSES:
                    memset(&victim, 0, sizeof(victim))
                    victim.word = <uint64_t>make_location(<uint32_t>(first + i), 0) << 32
                    if self._evict_cells(<uint32_t>(first + i), page_class(words[i]), victim, False, -1e300):
                        return
            looked += count
            first = (first + count) % total

    cdef void _offer(self, Candidate candidate) noexcept nogil:
        """Insert into the pool, best first; the worst falls out when it is full."""
        cdef uint32_t i, place, before = 0, same = 0
        for i in range(self.pool_count):
            same += self.pooled_slots[i] == candidate.slot
        if same:
            # Sampled before: it has aged since, or is another value by now.
            while self.pooled_slots[before] != candidate.slot:
                before += 1
            self._drop(before)
        place = self.pool_count
        while place > 0 and self.pool[place - 1].score < candidate.score:
            place -= 1
        if place >= POOL_SIZE:
            return
        if self.pool_count < POOL_SIZE:
            self.pool_count += 1
        memmove(&self.pool[place + 1], &self.pool[place], (self.pool_count - 1 - place) * sizeof(Candidate))
        memmove(&self.pooled_slots[place + 1], &self.pooled_slots[place], (self.pool_count - 1 - place) * 4)
        self.pool[place] = candidate
        self.pooled_slots[place] = candidate.slot

    cdef void _evict_one(self, Candidate candidate) noexcept nogil:
        """Evict exactly what was scored, unless it was used or changed since."""
        self._evict_like(candidate, 0, 1)

    cdef void _evict_like(self, Candidate first, uint32_t cell_class, uint32_t together) noexcept nogil:
        """The same for up to ``together`` candidates: beside the first those in cells of the class that are nearly as good."""
        cdef Candidate victims[VICTIMS_TOGETHER]
        cdef FabricOp ops[VICTIMS_TOGETHER]
        cdef Heat heats[VICTIMS_TOGETHER]
        cdef uint32_t count = 1, i = 0
        cdef bint looks = self.rule == RULE_LRU or self.rule == RULE_LFU or self.rule == RULE_REUSE
        victims[0] = first
        while i < self.pool_count and count < together:
            if word_is_paged(self.pool[i].word) or word_class(self.pool[i].word) != cell_class or not self._fits(i):
                i += 1
                continue
            victims[count] = self.pool[i]
            count += 1
            self._drop(i)
        memset(ops, 0, sizeof(ops))
        for i in range(count):
            ops[i].opcode = OP_READ
            ops[i].offset = self.engine.pool.heat_offset(victims[i].slot)
            ops[i].local = &heats[i]
            ops[i].length = HEAT_BYTES
        if self.engine.pool.submit(ops, count) != 0:
            return
        self.evictions.clear()
        for i in range(count):
            if looks and victims[i].score and victims[i].last_ms and (
                (heats[i].last if self.rule == RULE_REUSE else heats[i].last_ms) != victims[i].last_ms
            ):
                continue
            if not self._is_kept(&heats[i], victims[i].slot):
                self._ask_for(victims[i].slot, victims[i].word, 0)
        self.pairs.join(self.evictions, self.protection, self.forced >= FORCED_LOOKED_UP)
        self.engine.run(self.evictions)
        for i in range(self.evictions.count):
            if self.evictions.requests[i].status == STATUS_LEASED:
                self._note_leased(self.evictions.requests[i].slot)

    cdef void _note_leased(self, uint32_t slot) noexcept nogil:
        """A lease whose mark in heat was lost to another writer: the samplers are to pass it over."""
        cdef Heat heat
        if self.engine.pool.read_into(self.engine.pool.heat_offset(slot), &heat, HEAT_BYTES) == 0:
            heat.flags |= HEAT_LEASED
            self.engine.pool.write_from(self.engine.pool.heat_offset(slot) + HEAT_BYTES - 1, &heat.flags, 1)

    cdef int32_t _evict_page(self, Candidate victim, double score) noexcept nogil:
        """Evict every value whose cell lies in the victim's page, which is ours; how many.

        None when the victim is not among them any more: since it was sampled the page may have come to hold the newest values. And
        none, -1, when most of what would go deserves it less than what has this score.
        """
        cdef uint32_t page = location_page(word_location(victim.word))
        if not self.engine.allocator.cell_pages[page].owned:
            return 0
        return self._evict_cells(page, self.engine.allocator.cell_pages[page].cell_class, victim, True, score)

    cdef int32_t _evict_cells(self, uint32_t page, uint32_t cell_class, Candidate victim, bint must_hold, double score) noexcept nogil:
        """Empty a page of cells, found by the cells' back-pointers; how many were evicted. ``must_hold``: nothing without the victim.

        ``score``: what most of those that go must have at least, or none does, and -1 is returned.

        The colder half goes, the victim in it. What must not go, and in a page of ours the hotter half, moves to free cells of the
        class's other pages; where these are too few it stays, and what has gone from here makes room for that of the next page.
        """
        cdef CellPage *state = &self.engine.allocator.cell_pages[page]
        cdef char *headers
        cdef CellHeader *header
        cdef uint64_t *words
        cdef Heat *heats
        cdef double *scores
        cdef uint32_t *live
        cdef FabricOp *ops
        cdef uint32_t cell, count = 0, alive = 0, i, asked = 0, cold = 0, evicted = 0, capacity = CELLS_IN_PAGE[cell_class], staying = 0
        cdef uint64_t slot_count = self.engine.pool.geometry.slot_count
        cdef bint is_there = False
        cdef double middle
        self.evictions.clear()
        headers = <char *>allocate(self.evictions, capacity * HEADER_READ_BYTES)
        words = <uint64_t *>allocate(self.evictions, capacity * 8)
        heats = <Heat *>allocate(self.evictions, capacity * HEAT_BYTES)
        scores = <double *>allocate(self.evictions, capacity * 2 * sizeof(double))
        live = <uint32_t *>allocate(self.evictions, capacity * 4)
        ops = <FabricOp *>allocate(self.evictions, capacity * 2 * sizeof(FabricOp))
        memset(ops, 0, capacity * 2 * sizeof(FabricOp))
        for cell in range(capacity):
            if state.owned and state.free_bits[cell >> 6] & (<uint64_t>1 << (cell & 63)):
                continue
            ops[count].opcode = OP_READ
            ops[count].offset = self.engine.cell_offset(make_location(page, cell), cell_class)
            ops[count].local = &headers[count * HEADER_READ_BYTES]
            ops[count].length = HEADER_READ_BYTES
            count += 1
        if count == 0 or self.engine.pool.submit(ops, count) != 0:
            return 0
        memset(ops, 0, capacity * 2 * sizeof(FabricOp))
        for i in range(count):
            header = <CellHeader *>&headers[i * HEADER_READ_BYTES]
            cell = header.slot if header.slot < slot_count else 0
            ops[2 * i].opcode = OP_READ
            ops[2 * i].offset = self.engine.pool.slot_offset(cell)
            ops[2 * i].local = &words[i]
            ops[2 * i].length = 8
            ops[2 * i + 1].opcode = OP_READ
            ops[2 * i + 1].offset = self.engine.pool.heat_offset(cell)
            ops[2 * i + 1].local = &heats[i]
            ops[2 * i + 1].length = HEAT_BYTES
        if self.engine.pool.submit(ops, count * 2) != 0:
            return 0
        for i in range(count):
            header = <CellHeader *>&headers[i * HEADER_READ_BYTES]
            if (
                word_state(words[i]) != STATE_LIVE or <uint32_t>words[i] != header.echo
                or location_page(word_location(words[i])) != page or header.slot >= slot_count
            ):
                continue  # not published, or unlinked already
            scores[alive] = self._score(&heats[i], cell_expiry_ms(header))
            if header.slot == victim.slot and words[i] == victim.word:
                is_there = True
                scores[alive] = 1e300
            elif (
                (self.volatile_only and not word_has_ttl(words[i])) or cell_lease_ms(header) > self.engine.now_ms
                or self._is_kept(&heats[i], header.slot)
            ):
                scores[alive] = -1e300
                staying += 1
            live[alive] = i
            alive += 1
        if must_hold and not is_there:
            return 0
        middle = -1e299
        if state.owned and self.rule != RULE_RANDOM:
            middle = median(scores, scores + capacity, alive)
        for i in range(alive):
            cold += scores[i] >= middle and scores[i] >= score
            asked += scores[i] >= middle and scores[i] > -1e299
        if score > -1e299 and cold * 2 < asked:
            return -1
        for i in range(alive):
            header = <CellHeader *>&headers[live[i] * HEADER_READ_BYTES]
            if scores[i] >= middle and scores[i] > -1e299:
                self._ask_for(header.slot, words[live[i]], 0)
        asked = self.evictions.count
        self.pairs.join(self.evictions, self.protection, self.forced >= FORCED_LOOKED_UP)
        self.engine.run(self.evictions)
        for i in range(self.evictions.count):
            evicted += self.evictions.requests[i].status == STATUS_OK
        staying = alive - asked
        if staying == 0 or not state.owned or not self.engine.allocator.has_beside(cell_class, page, staying):
            return evicted
        self.evictions.count = 0
        for i in range(alive):
            header = <CellHeader *>&headers[live[i] * HEADER_READ_BYTES]
            if not (scores[i] >= middle and scores[i] > -1e299):
                self._ask_for(header.slot, words[live[i]], MOVE)
        self.engine.run(self.evictions)
        return evicted

    cdef void _ask_for(self, uint32_t slot, uint64_t word, uint16_t flags) noexcept nogil:
        """One more of the values that go, or move."""
        cdef Request *request = self.evictions.add()
        request.kind = KIND_EVICT
        request.flags = flags
        request.slot = slot
        request.expected = word

    # ------------------------------------------------------------------ sweep

    cdef void note_flush(self) noexcept nogil:
        """A database was flushed: every resident may be one of its entries."""
        self.sweep_cursor = self.resident_count
        self.sweep_left = self.resident_count
        self.flushes += 1

    cdef uint32_t sweep(self, uint32_t count, bint flushed, uint32_t *examined) noexcept nogil:
        """Look at the next ``count`` residents and remove the expired, or those of a flushed database; how many were removed."""
        cdef uint32_t removed
        examined[0] = 0
        if not self.turnstile.enter():
            return 0
        self.refilled_count = 0
        removed = self._sweep(count, flushed, examined)
        self.turnstile.leave()
        return removed

    cdef uint32_t _sweep(self, uint32_t count, bint flushed, uint32_t *examined) noexcept nogil:
        """The same for who has the turn already.

        From the end of the list to its beginning: what takes a removed one's place was looked at before.
        """
        cdef uint64_t *words
        cdef char *headers
        cdef FabricOp *ops
        cdef CellHeader *header
        cdef Request *request
        cdef uint32_t numbers[SWEEP_CHUNK]
        cdef uint32_t i, chunk, first, removed = 0, looked = 0, asked, slot
        cdef uint64_t flushes
        cdef int64_t expiry
        examined[0] = 0
        while looked < count and self.resident_count:
            flushes = self.flushes
            if self.sweep_left:
                flushed = True  # even if nothing was left when the turn was asked for
            self.evictions.clear()
            if self.sweep_cursor > self.resident_count:
                self.sweep_cursor = self.resident_count
            if self.sweep_left > self.sweep_cursor:
                self.sweep_left = self.sweep_cursor
            if self.sweep_cursor == 0:
                self.sweep_cursor = self.resident_count
            chunk = SWEEP_CHUNK if count - looked > SWEEP_CHUNK else count - looked
            if chunk > self.sweep_cursor:
                chunk = self.sweep_cursor
            first = self.sweep_cursor - chunk
            words = <uint64_t *>allocate(self.evictions, chunk * 8)
            headers = <char *>allocate(self.evictions, chunk * HEADER_READ_BYTES)
            ops = <FabricOp *>allocate(self.evictions, chunk * sizeof(FabricOp))
            memset(ops, 0, chunk * sizeof(FabricOp))
            for i in range(chunk):
                ops[i].opcode = OP_READ
                ops[i].offset = self.engine.pool.slot_offset(self.residents[first + i])
                ops[i].local = &words[i]
                ops[i].length = 8
            if self.engine.pool.submit(ops, chunk) != 0:
                return removed
            memset(ops, 0, chunk * sizeof(FabricOp))
            asked = 0
            for i in range(chunk):
                if word_state(words[i]) == STATE_LIVE and (flushed or word_has_ttl(words[i])) and self.engine.valid_location(words[i]):
                    ops[asked].opcode = OP_READ
                    ops[asked].offset = self.engine.cell_offset(word_location(words[i]), word_class(words[i]))
                    ops[asked].local = headers + i * HEADER_READ_BYTES
                    ops[asked].length = HEADER_READ_BYTES
                    asked += 1
                else:
                    (<CellHeader *>(headers + i * HEADER_READ_BYTES)).echo = 0  # no LIVE word's low half is 0
            if asked and self.engine.pool.submit(ops, asked) != 0:
                return removed
            for i in range(chunk):
                header = <CellHeader *>(headers + i * HEADER_READ_BYTES)
                slot = self.residents[first + i]
                if header.echo != <uint32_t>words[i] or header.slot != slot:
                    continue
                expiry = cell_expiry_ms(header)
                if (expiry >= 0 and expiry <= self.engine.now_ms) or (
                    # A newer one than is known here is that of somebody who knows of another flush already.
                    flushed and <int32_t>(header.epoch - <uint32_t>self.engine.pool.epochs[header.database]) < 0
                ):
                    numbers[self.evictions.count] = i
                    request = self.evictions.add()
                    request.kind = KIND_EVICT
                    request.flags = COUNT_AS_EXPIRED
                    request.slot = slot
                    request.expected = words[i]
            self.engine.run(self.evictions)
            for i in range(self.evictions.count):
                if self.evictions.requests[i].status == STATUS_OK:
                    removed += 1
                    words[numbers[i]] = 0
            i = chunk
            while i > 0:
                i -= 1
                if word_state(words[i]) != STATE_LIVE:
                    self._forget(first + i)
            looked += chunk
            if self.flushes == flushes:
                # Else one came while this chunk was being read: the sweep has begun again, at the end.
                self.sweep_cursor = first
                if self.sweep_left > first:
                    self.sweep_left = first
            if first == 0:
                break  # the next call begins at the end again: within one pass nothing is looked at twice
        if self.sweep_left > self.resident_count:
            self.sweep_left = self.resident_count  # the rest is gone
        examined[0] = looked
        return removed
