# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Adoption: what front ends held when they died comes back into use, while others live and work.

A front end is declared dead by somebody who holds the proof of it (its lock; over RDMA the memory node's word that its queue
pairs are closed): its row says so from then on, and a count of deaths moves. Every front end that sees it move makes one sweep:

1. Page table. Pages whose owner is dead are claimed by CAS. All cells in use and all payload pages of its own are in doubt now.
2. A grace period: batches that were under way have published what they allocated, or freed it.
3. Index. Every slot takes what it names out of doubt. What is left was named by no slot.
4. Another grace period: whoever unlinked a value before its slot was looked at has freed it by now, which takes it out of doubt.
5. What is still in doubt was held by the dead: allocated and not published, or unlinked and not freed. It is free.

A grace period is a ticket that every living front end lets pass when nothing of its own is left from before it saw the
ticket: no batch, no unlinked value, no reader (quiescent states; McKenney and Slingwine 1998). A front end that is stopped lets
none pass, so that nothing that it may still touch is used again.
"""

import time

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from storage.cells cimport CELL_BYTES, CELLS_IN_PAGE
from storage.engine cimport DatabaseCounts, Engine
from storage.fabric.base cimport OP_READ, FabricOp
from storage.pages cimport CellPage
from storage.policy cimport EvictionPolicy
from storage.pool cimport GLOBAL_AUDITS, GLOBAL_DEATHS, GLOBAL_PAGES_USED, GLOBAL_TICKET, ROW_TICKET, Pool
from storage.words cimport (
    CELL_CLASSES,
    CELL_LIST_PAGE,
    CELL_PAGED,
    CHANGE_COUNTERS,
    FRONT_END_ROW_BYTES,
    MAX_CELL_BYTES,
    MAX_DATABASES,
    MAX_DISTANCE,
    MAX_FRONT_ENDS,
    PAGE_BYTES,
    PAGE_CELLS,
    PAGE_FREE,
    PAGE_PAYLOAD,
    SET_BYTES,
    SET_HEADER_BYTES,
    SLOTS_PER_SET,
    STATE_FREE,
    STATE_LIVE,
    STATE_RESERVED,
    CellHeader,
    cell_prefix_bytes,
    freed_word,
    location_cell,
    location_page,
    make_location,
    make_overflow,
    make_page_word,
    overflow_count,
    overflow_distance,
    page_class,
    page_incarnation,
    page_kind,
    page_owner,
    word1_binding,
    word1_distance,
    word_binding,
    word_class,
    word_has_ttl,
    word_is_paged,
    word_location,
    word_state,
)

MEET_PAUSE_S = 0.005  # at start, when there is nobody to serve

cdef enum:
    TABLE_CHUNK = 512      # page words of one READ: 4 KiB
    CHUNK_SETS = 64        # index sets of one READ: 8 KiB, and the sets behind them that a home may overflow into
    HEAD_BYTES = 256       # of a cell, which hold nearly every key and page list
    SLOT_ATTEMPTS = 100    # every further one means that somebody else changed the slot
    OVERFLOWS_LIMIT = 1024 # homes whose word is put right by one sweep; the next takes the others
    AUDIT_SAMPLES = 8
    AGAIN_PAUSE_MS = 1000        # before a third sweep for what moved during two; longer each time,
    AGAIN_PAUSE_MAX_MS = 60000   # and at most this
    RECOUNT_PAUSE_MS = 1000      # after a recount that somebody's change spoilt; twice as long each time,
    RECOUNT_PAUSE_MAX_MS = 60000 # and at most this
    LIST_PAGES = 16384     # numbers in a page list of one page


cdef class Adoption:
    """One front end's part in it, for one node."""

    def __cinit__(self, Engine engine, EvictionPolicy policy, object membership=None, bint alone=False):
        cdef uint64_t deaths = 0
        self.pool = engine.pool
        self.engine = engine
        self.allocator = engine.allocator
        self.policy = policy
        self.membership = membership
        self.acknowledged = self.pool.read_ticket()
        # Who comes to others looks once, whatever has been; who is alone has recovered everything.
        self.has_begun = alone
        self.pool.read_into(self.pool.geometry.globals + GLOBAL_DEATHS, &deaths, 8)
        self.deaths_seen = deaths

    def __dealloc__(self):
        free(self.overflows)
        free(self.recounted)

    # ------------------------------------------------------------------ deaths

    def look_for_dead(self) -> list[int]:
        """Numbers of front ends that were found dead and are declared so now. Holds each proof for only as long."""
        found = []
        if self.membership is None or not self._read_lives():
            return found
        for number in range(MAX_FRONT_ENDS):
            if not self.lives[number] & 1 or number == self.pool.front_end:
                continue
            if self.membership.prove_dead(number, (self.lives[number] >> 1) & 0x7FFF):
                try:
                    if self.pool.declare_dead(number, self.lives[number]):
                        found.append(number)
                finally:
                    self.membership.release(number)
        return found

    cdef bint _read_lives(self) noexcept nogil:
        cdef uint64_t rows[MAX_FRONT_ENDS * 8]
        cdef uint32_t number
        if self.pool.read_into(self.pool.row_offset(0), rows, MAX_FRONT_ENDS * FRONT_END_ROW_BYTES) != 0:
            return False
        for number in range(MAX_FRONT_ENDS):
            self.lives[number] = rows[number * 8]
        return True

    cdef bint _is_live(self, uint32_t front_end, uint32_t incarnation) noexcept nogil:
        """As of the last look at the rows. Whoever claims something has entered before, so look at the rows after the claim."""
        return (
            front_end < MAX_FRONT_ENDS and self.lives[front_end] & 1 and (self.lives[front_end] >> 1) & 0x7FFF == incarnation
        )

    # ----------------------------------------------------------- grace periods

    cdef bint attend(self) noexcept nogil:
        """Let a grace period pass when nothing from before it is left; called regularly. True when a sweep is due."""
        cdef uint64_t words[4]
        if self.pool.read_into(self.pool.geometry.globals, words, 32) != 0:
            return False
        self.allocator.used_pages = words[GLOBAL_PAGES_USED // 8]
        if self.pending == 0 and words[GLOBAL_TICKET // 8] != self.acknowledged:
            self.pending = words[GLOBAL_TICKET // 8]
            self.engine.reclaimer.turn()
        if self.pending:
            self.engine.reclaimer.collect(True)
            if self.engine.reclaimer.is_settled() and self.pool.write_from(
                self.pool.row_offset(self.pool.front_end) + ROW_TICKET, &self.pending, 8
            ) == 0:
                self.acknowledged = self.pending
                self.pending = 0
        return self.phase != PHASE_IDLE or self._is_due(words[GLOBAL_DEATHS // 8])

    cdef bint _is_due(self, uint64_t deaths) noexcept nogil:
        return not self.has_begun or deaths != self.deaths_seen or (self.again_at_ms != 0 and self.now_ms >= self.again_at_ms)

    cdef bint _ask_for_grace(self) noexcept nogil:
        self.awaited = self.pool.fetch_and_add(self.pool.geometry.globals + GLOBAL_TICKET, 1) + 1
        return not self.pool.fabric.is_lost

    cdef bint _has_passed(self, uint64_t ticket) noexcept nogil:
        """Whether every front end that lives has let the grace period of this ticket pass."""
        cdef uint64_t rows[MAX_FRONT_ENDS * 8]
        cdef uint32_t number
        if self.pool.read_into(self.pool.row_offset(0), rows, MAX_FRONT_ENDS * FRONT_END_ROW_BYTES) != 0:
            return False
        for number in range(MAX_FRONT_ENDS):
            if rows[number * 8] & 1 and rows[number * 8 + ROW_TICKET // 8] < ticket:
                return False
        return True

    def meet(self, double deadline_s) -> bool:
        """Wait until every living front end has looked up since now, and so has written down what it counted; blocks.

        Who is alone writes nothing down, so this is for the second that comes. False when somebody did not look up in time.
        """
        cdef double end_s = time.monotonic() + deadline_s
        self.engine.publish_counts(NULL)
        if not self._ask_for_grace():
            return False
        while True:
            self.attend()
            if self._has_passed(self.awaited):
                return True
            if time.monotonic() > end_s:
                return False
            time.sleep(MEET_PAUSE_S)

    # ------------------------------------------------------------------- sweep

    cdef bint work(self, uint32_t units) noexcept nogil:
        """A part of the sweep: at most ``units`` reads of some KiB. False when there is nothing to do, or it has to wait."""
        cdef uint64_t deaths = 0
        if self.phase == PHASE_IDLE:
            if self.pool.read_into(self.pool.geometry.globals + GLOBAL_DEATHS, &deaths, 8) != 0:
                return False
            if not self._is_due(deaths) or not self._begin(deaths):
                return False
        while units:
            units -= 1
            if self.phase == PHASE_TABLE:
                if not self._look_at_table():
                    return False
            elif self.phase == PHASE_INDEX:
                if not self._look_at_index():
                    return False
            elif self.phase == PHASE_SETTLE or self.phase == PHASE_GRACE:
                if not self._has_passed(self.awaited):
                    return False
                self.position = 0
                self.phase += 1
                if self.phase == PHASE_INDEX and self.pool.fabric.is_remote:
                    self.pool.read_into(self.pool.geometry.counters, self.counters, sizeof(self.counters))
            else:
                self._free_unclaimed()
                self._end()
                return False
        return True

    cdef bint _begin(self, uint64_t deaths) noexcept nogil:
        cdef uint64_t pages = self.pool.geometry.page_count
        self.allocator.suspect_pages = <uint64_t *>calloc(pages, 8)
        self.allocator.suspect_cells = <uint64_t *>calloc(pages * 16, 8)
        self.overflows = <Overflow *>calloc(OVERFLOWS_LIMIT, sizeof(Overflow))
        if self.allocator.suspect_pages == NULL or self.allocator.suspect_cells == NULL or self.overflows == NULL:
            self._end()
            return False  # no memory for it now: the next call tries again
        self.has_begun = True
        self.deaths_seen = deaths
        self.overflow_count = 0
        self.suspects = 0
        self.position = 0
        self.is_spoilt = False
        self.is_unfinished = False
        self.again_at_ms = 0
        self.sweeps += 1
        self.phase = PHASE_TABLE
        return True

    cdef void _end(self) noexcept nogil:
        free(self.allocator.suspect_pages)
        free(self.allocator.suspect_cells)
        free(self.overflows)
        self.allocator.suspect_pages = NULL
        self.allocator.suspect_cells = NULL
        self.overflows = NULL
        self.phase = PHASE_IDLE
        self.audits = AUDIT_SAMPLES
        self.is_recount_due = True
        self.recount_pause_ms = RECOUNT_PAUSE_MS
        self.recount_at_ms = 0
        if self.is_spoilt:
            self.has_begun = False
        if self.is_unfinished:
            # At once, and then less and less often: what moves all the time may go on moving.
            self.again_at_ms = self.now_ms + self.again_pause_ms + 1
            self.again_pause_ms = min(self.again_pause_ms * 2 + AGAIN_PAUSE_MS, <uint64_t>AGAIN_PAUSE_MAX_MS)
        else:
            self.again_pause_ms = 0

    cdef bint _look_at_table(self) noexcept nogil:
        """The next page words: what the dead own becomes ours, what is ours comes into doubt."""
        cdef uint64_t words[TABLE_CHUNK]
        cdef uint64_t total = self.pool.geometry.page_count
        cdef uint32_t count, i
        if self.position >= total:
            self.position = 0
            if not self._ask_for_grace():
                return False
            self.phase = PHASE_SETTLE
            return True
        count = TABLE_CHUNK if total - self.position > TABLE_CHUNK else <uint32_t>(total - self.position)
        if self.pool.read_into(self.pool.page_word_offset(self.position), words, count * 8) != 0 or not self._read_lives():
            return False
        for i in range(count):
            if page_kind(words[i]) != PAGE_FREE and not self._look_at_page(<uint32_t>self.position + i, words[i]):
                return False
        self.position += count
        return True

    cdef bint _look_at_page(self, uint32_t page, uint64_t word) noexcept nogil:
        cdef uint32_t kind = page_kind(word), i
        cdef uint64_t mine, used
        cdef CellPage *state = &self.allocator.cell_pages[page]
        if page_owner(word) != <uint32_t>self.pool.front_end or page_incarnation(word) != self.pool.incarnation:
            if self._is_live(page_owner(word), page_incarnation(word)):
                return True
            if kind == PAGE_CELLS and page_class(word) >= CELL_CLASSES:
                return True  # damaged: left alone
            mine = make_page_word(word, kind, page_class(word), self.pool.front_end, self.pool.incarnation)
            if self.pool.compare_and_swap(self.pool.page_word_offset(page), word, mine) != word:
                return not self.pool.fabric.is_lost  # another adopter has it, or it was freed
            self.adopted_pages += 1
            self.allocator.known_words[page] = mine
            word = mine
            if kind == PAGE_CELLS:
                self.allocator.take_over(page, page_class(word))
            else:
                self.allocator.payload_pages += 1
        if kind == PAGE_CELLS and state.owned:
            for i in range(16):
                used = ~<uint64_t>0 if state.capacity >= (i + 1) * 64 else (
                    (<uint64_t>1 << (state.capacity - i * 64)) - 1 if state.capacity > i * 64 else 0
                )
                self.allocator.suspect_cells[page * 16 + i] = used & ~state.free_bits[i]
        elif kind == PAGE_PAYLOAD and self.allocator.holders[page] == 0:
            self.allocator.suspect_pages[page] = word
            self.suspects += 1
        return True

    cdef bint _look_at_index(self) noexcept nogil:
        """The next sets: what their slots name is in no doubt."""
        cdef char sets[(CHUNK_SETS + MAX_DISTANCE) * SET_BYTES]
        cdef char second[CHUNK_SETS * SET_BYTES]
        cdef uint64_t total = self.pool.geometry.set_count, first = self.position, word
        cdef uint32_t count, read, wrapped, i, number
        cdef uint64_t *words
        if first >= total:
            self.position = 0
            if not self._ask_for_grace():
                return False
            self.phase = PHASE_GRACE
            return True
        count = CHUNK_SETS if total - first > CHUNK_SETS else <uint32_t>(total - first)
        read = count + MAX_DISTANCE if total > MAX_DISTANCE else count
        wrapped = 0 if first + read <= total else <uint32_t>(first + read - total)
        if self.pool.read_into(self.pool.set_offset(first), sets, (read - wrapped) * SET_BYTES) != 0:
            return False
        if wrapped and self.pool.read_into(self.pool.set_offset(0), sets + (read - wrapped) * SET_BYTES, wrapped * SET_BYTES) != 0:
            return False
        # Twice, since a word may be read half before and half after a change: what it never said must not be believed.
        if self.pool.read_into(self.pool.set_offset(first), second, count * SET_BYTES) != 0 or not self._read_lives():
            return False
        for i in range(count):
            words = <uint64_t *>(sets + i * SET_BYTES + SET_HEADER_BYTES)
            for number in range(SLOTS_PER_SET):
                word = (<uint64_t *>(second + i * SET_BYTES + SET_HEADER_BYTES))[number * 2]
                if words[0] != word and not self._read_word(<uint32_t>((first + i) * SLOTS_PER_SET + number), &word):
                    return False
                if word_state(word) != STATE_FREE:
                    self._look_at_slot(<uint32_t>((first + i) * SLOTS_PER_SET + number), word)
                words += 2
            if overflow_count((<uint64_t *>(sets + i * SET_BYTES))[0]):
                self._note_overflow(first + i, sets + i * SET_BYTES, read - i)
        self.position += count
        return True

    cdef bint _read_word(self, uint32_t slot, uint64_t *word) noexcept nogil:
        """What a slot says, read until two looks agree; False when the node is lost."""
        cdef uint64_t before = 0
        cdef uint32_t attempt
        if self.pool.read_into(self.pool.slot_offset(slot), &before, 8) != 0:
            return False
        for attempt in range(SLOT_ATTEMPTS):
            if self.pool.read_into(self.pool.slot_offset(slot), word, 8) != 0:
                return False
            if word[0] == before:
                return True
            before = word[0]
        self.is_spoilt = True
        return True

    cdef void _look_at_slot(self, uint32_t slot, uint64_t word) noexcept nogil:
        cdef uint32_t location = word_location(word), page, cell
        cdef uint64_t *suspects
        if word_state(word) == STATE_RESERVED:
            # While RESERVED the location is incarnation and front end.
            if not self._is_live(location & 0xFF, location >> 8) and self.pool.compare_and_swap(
                self.pool.slot_offset(slot), word, freed_word(self.pool.word_format, word)
            ) == word:
                self.freed_reservations += 1
            return
        if word_state(word) != STATE_LIVE or not self.engine.valid_location(word):
            return
        page = location_page(location)
        cell = location_cell(location)
        if self.allocator.cell_pages[page].owned:
            suspects = &self.allocator.suspect_cells[page * 16 + (cell >> 6)]
            suspects[0] &= ~(<uint64_t>1 << (cell & 63))
            # Sampled and swept by whoever owns its cell, which may be new to it.
            if not self.policy.is_resident[slot >> 6] & (<uint64_t>1 << (slot & 63)):
                self.policy.note_insert(slot)
        if word_is_paged(word) and self.suspects:
            self._clear_pages_of(slot, word)

    cdef void _clear_pages_of(self, uint32_t slot, uint64_t word) noexcept nogil:
        """Read the page list of a value; a slot that changes meanwhile is read again."""
        cdef char head[HEAD_BYTES]
        cdef char cell[MAX_CELL_BYTES]
        cdef uint32_t list_pages[LIST_PAGES + 1]
        cdef char *found
        cdef CellHeader *header
        cdef uint32_t attempt, base, pages, size, i
        cdef uint64_t again, offset, rest
        cdef uint32_t *pages_at
        for attempt in range(SLOT_ATTEMPTS):
            size = CELL_BYTES[word_class(word)]
            offset = self.engine.cell_offset(word_location(word), word_class(word))
            if self.pool.read_into(offset, head, HEAD_BYTES if size > HEAD_BYTES else size) != 0:
                break
            found = head
            header = <CellHeader *>head
            pages = 0
            if header.echo == <uint32_t>word and header.slot == slot and header.flags & CELL_PAGED:
                base = cell_prefix_bytes(header) + header.key_bytes
                pages = header.value_bytes // PAGE_BYTES
                rest = header.value_bytes % PAGE_BYTES
                if rest and not header.tail_in_cell:
                    pages += 1
                i = 4 if header.flags & CELL_LIST_PAGE else pages * 4
                if pages > LIST_PAGES or base + i > size:
                    return  # damaged: names nothing that could be used
                if base + i > HEAD_BYTES:
                    if self.pool.read_into(offset, cell, base + i) != 0:
                        break
                    found = cell
                pages_at = <uint32_t *>(found + base)
                if header.flags & CELL_LIST_PAGE:
                    if pages_at[0] < self.pool.geometry.page_count:
                        i = pages_at[0]
                        if self.pool.read_into(self.pool.page_offset(i), list_pages, pages * 4) != 0:
                            break
                        list_pages[pages] = i
                        pages += 1
                        pages_at = list_pages
                    else:
                        pages = 0
            if not self._read_word(slot, &again):
                break
            if again == word:
                for i in range(pages):
                    if pages_at[i] < self.pool.geometry.page_count:
                        self.allocator.suspect_pages[pages_at[i]] = 0
                return
            word = again
            if word_state(word) != STATE_LIVE or not word_is_paged(word) or not self.engine.valid_location(word):
                return
        self.is_spoilt = True

    # ---------------------------------------------------------------- overflow

    cdef void _note_overflow(self, uint64_t home, char *sets, uint32_t count) noexcept nogil:
        """Remember a home whose word says that more entries live away from it than can be seen."""
        cdef uint64_t word = (<uint64_t *>sets)[0]
        if self.overflow_count < OVERFLOWS_LIMIT and overflow_count(word) > count_away(sets, count, False):
            self.overflows[self.overflow_count].home = <uint32_t>home
            self.overflows[self.overflow_count].word = word
            self.overflow_count += 1

    cdef void _lower_overflows(self) noexcept nogil:
        """An overflow word that nobody has touched through a grace period counts what nobody is about to put or take there."""
        cdef char sets[(MAX_DISTANCE + 1) * SET_BYTES]
        cdef uint64_t total = self.pool.geometry.set_count, home, word
        cdef uint32_t i, count, first, away
        self.is_unfinished = self.overflow_count == OVERFLOWS_LIMIT
        for i in range(self.overflow_count):
            home = self.overflows[i].home
            word = self.overflows[i].word
            count = MAX_DISTANCE + 1 if total > MAX_DISTANCE else <uint32_t>total
            first = count if home + count <= total else <uint32_t>(total - home)
            if self.pool.read_into(self.pool.set_offset(home), sets, first * SET_BYTES) != 0:
                return
            if first < count and self.pool.read_into(self.pool.set_offset(0), sets + first * SET_BYTES, (count - first) * SET_BYTES) != 0:
                return
            away = count_away(sets, count, True)
            if (<uint64_t *>sets)[0] != word:
                self.is_unfinished = True
                continue
            if overflow_count(word) <= away:
                continue
            # The distance may stay too large; it falls to 0 with the last entry.
            if self.pool.compare_and_swap(
                self.pool.set_offset(home), word, make_overflow(word, overflow_distance(word) if away else 0, away)
            ) == word:
                self.lowered_overflows += 1

    cdef void _settle_counters(self) noexcept nogil:
        """A change counter whose halves differ, and which nobody has moved through a grace period, counts a change that died."""
        cdef uint64_t now[CHANGE_COUNTERS]
        cdef uint64_t word, missing
        cdef uint32_t i
        if not self.pool.fabric.is_remote or self.pool.read_into(self.pool.geometry.counters, now, sizeof(now)) != 0:
            return
        for i in range(CHANGE_COUNTERS):
            word = now[i]
            if <uint32_t>word == <uint32_t>(word >> 32):
                continue
            if word != self.counters[i]:
                # A change under way, or one that died beside others.
                self.is_unfinished = self.is_unfinished or <uint32_t>self.counters[i] != <uint32_t>(self.counters[i] >> 32)
                continue
            missing = <uint32_t>(<uint32_t>word - <uint32_t>(word >> 32))
            if self.pool.compare_and_swap(self.pool.geometry.counters + i * 8, word, word + (missing << 32)) == word:
                self.settled_counters += 1

    # -------------------------------------------------------------------- free

    cdef void _free_unclaimed(self) noexcept nogil:
        """Both grace periods have passed: what is still in doubt belongs to nobody."""
        cdef uint64_t page, bits
        cdef uint32_t word, cell, cell_class
        if self.is_spoilt or self.pool.fabric.is_lost:
            return
        # What others freed in our pages is written there.
        self.allocator.harvest_all()
        for page in range(self.pool.geometry.page_count):
            if self.allocator.suspect_pages[page] and self.allocator.free_exactly(<uint32_t>page, self.allocator.suspect_pages[page]):
                self.freed_pages += 1
            for word in range(16):
                while self.allocator.cell_pages[page].owned and self.allocator.suspect_cells[page * 16 + word]:
                    bits = self.allocator.suspect_cells[page * 16 + word]
                    cell = word * 64
                    while not bits & 1:
                        bits >>= 1
                        cell += 1
                    cell_class = self.allocator.cell_pages[page].cell_class
                    # Clears its bit too.
                    self.allocator.free_cell(make_location(<uint32_t>page, cell), cell_class)
                    self.freed_cells += 1
        self.allocator.release_spares()
        self._lower_overflows()
        self._settle_counters()
        for word in range(self.engine.database_count):
            if self.pool.epochs[word]:
                # Entries that are residents only now may be of a database that was flushed before.
                self.policy.note_flush()
                break

    # ------------------------------------------------------------------- audit

    cdef bint audit(self) noexcept nogil:
        """Compare the count of pages in use with the page table; True while more samples are wanted.

        Somebody may have died between counting a page and claiming it, or freeing and counting. Claims under way move a sample by
        a little, in either direction: what all samples of a row agree on is the error.
        """
        cdef uint64_t words[TABLE_CHUNK]
        cdef uint64_t globals_words[5]
        cdef uint64_t total = self.pool.geometry.page_count, first = 0
        cdef int64_t excess, used = 0
        cdef uint32_t count, i
        if self.audits == 0:
            return False
        if self.pool.read_into(self.pool.geometry.globals, globals_words, sizeof(globals_words)) != 0:
            return False
        while first < total:
            count = TABLE_CHUNK if total - first > TABLE_CHUNK else <uint32_t>(total - first)
            if self.pool.read_into(self.pool.page_word_offset(first), words, count * 8) != 0:
                return False
            for i in range(count):
                used += page_kind(words[i]) != PAGE_FREE
            first += count
        excess = <int64_t>globals_words[GLOBAL_PAGES_USED // 8] - used
        if self.audits == AUDIT_SAMPLES:
            self.audited = globals_words[GLOBAL_AUDITS // 8]
            self.least_excess = self.most_excess = excess
        elif excess < self.least_excess:
            self.least_excess = excess
        elif excess > self.most_excess:
            self.most_excess = excess
        self.audits -= 1
        if self.audits:
            return True
        excess = self.least_excess if self.least_excess > 0 else self.most_excess if self.most_excess < 0 else 0
        if excess == 0 or self.pool.compare_and_swap(
            self.pool.geometry.globals + GLOBAL_AUDITS, self.audited, self.audited + 1
        ) != self.audited:
            return False  # right, or somebody else has put it right
        self.allocator.used_pages = self.pool.fetch_and_add(
            self.pool.geometry.globals + GLOBAL_PAGES_USED, -<uint64_t>excess
        ) - <uint64_t>excess
        self.corrected_pages += <uint64_t>(excess if excess > 0 else -excess)
        self.audits = AUDIT_SAMPLES  # until a whole row agrees that nothing is wrong
        return True

    # ----------------------------------------------------------------- recount

    cdef bint recount(self, uint32_t units, uint64_t now_ms) noexcept nogil:
        """Count all keys, when somebody died who may have changed some and not counted it; True while there is more to look at.

        It holds only if nobody changes anything meanwhile, so it is tried when it is quiet, and again later. Who was within a batch has changed keys
        and says so when it ends: a grace period comes before the last look at whether it was quiet.
        """
        cdef uint64_t total = self.pool.geometry.set_count
        cdef uint32_t count
        if not self.is_recount_due or now_ms < self.recount_at_ms or self.pool.fabric.is_lost:
            return False
        if not self.is_recounting:
            self.recounted = <DatabaseCounts *>calloc(MAX_DATABASES, sizeof(DatabaseCounts))
            if self.recounted == NULL or not self._read_versions(self.versions):
                self._end_recount(now_ms, False)
                return False
            self.is_recounting = True
            self.recount_position = 0
            self.recount_ticket = 0
        while units and self.recount_position < total:
            units -= 1
            count = CHUNK_SETS if total - self.recount_position > CHUNK_SETS else <uint32_t>(total - self.recount_position)
            if not self._recount_sets(self.recount_position, count):
                self._end_recount(now_ms, False)
                return False
            self.recount_position += count
        if not self._is_quiet():
            self._end_recount(now_ms, False)
            return False
        if self.recount_position < total:
            return True
        if self.recount_ticket == 0:
            self.recount_ticket = self.pool.fetch_and_add(self.pool.geometry.globals + GLOBAL_TICKET, 1) + 1
        if not self._has_passed(self.recount_ticket):
            return False
        self._end_recount(now_ms, self._correct_counts())
        return False

    cdef bint _read_versions(self, uint64_t *versions) noexcept nogil:
        """How often each front end has counted something, all of ours written out."""
        cdef FabricOp ops[MAX_FRONT_ENDS]
        cdef uint32_t i
        self.engine.publish_counts(NULL)
        memset(ops, 0, sizeof(ops))
        for i in range(MAX_FRONT_ENDS):
            ops[i].opcode = OP_READ
            ops[i].offset = self.pool.counts_offset(i, 0)
            ops[i].local = &versions[i]
            ops[i].length = 8
        return self.pool.submit(ops, MAX_FRONT_ENDS) == 0

    cdef bint _is_quiet(self) noexcept nogil:
        cdef uint64_t now[MAX_FRONT_ENDS]
        return (
            self.engine.reclaimer.open_rounds[0] + self.engine.reclaimer.open_rounds[1] == 0 and self._read_versions(now)
            and memcmp(now, self.versions, sizeof(now)) == 0
        )

    cdef bint _recount_sets(self, uint64_t first, uint32_t count) noexcept nogil:
        cdef char sets[CHUNK_SETS * SET_BYTES]
        cdef CellHeader headers[CHUNK_SETS * SLOTS_PER_SET]
        cdef FabricOp ops[CHUNK_SETS * SLOTS_PER_SET]
        cdef uint64_t words[CHUNK_SETS * SLOTS_PER_SET]
        cdef uint32_t i, number, live = 0
        cdef uint64_t word
        cdef DatabaseCounts *counts
        if self.pool.read_into(self.pool.set_offset(first), sets, count * SET_BYTES) != 0:
            return False
        for i in range(count):
            for number in range(SLOTS_PER_SET):
                word = (<uint64_t *>(sets + i * SET_BYTES + SET_HEADER_BYTES))[number * 2]
                if word_state(word) != STATE_LIVE or not self.engine.valid_location(word):
                    continue
                memset(&ops[live], 0, sizeof(FabricOp))
                ops[live].opcode = OP_READ
                ops[live].offset = self.engine.cell_offset(word_location(word), word_class(word))
                ops[live].local = &headers[live]
                ops[live].length = sizeof(CellHeader)
                words[live] = word
                live += 1
        if live and self.pool.submit(ops, <int>live) != 0:
            return False
        for i in range(live):
            if headers[i].echo != <uint32_t>words[i]:
                return False  # changed while it was looked at
            counts = &self.recounted[headers[i].database]
            if headers[i].epoch == <uint32_t>self.pool.epochs[headers[i].database]:
                counts.keys += 1
                counts.expires += word_has_ttl(words[i])
                counts.stored_bytes += headers[i].key_bytes + <int64_t>headers[i].value_bytes
        return True

    cdef void _end_recount(self, uint64_t now_ms, bint is_over) noexcept nogil:
        free(self.recounted)
        self.recounted = NULL
        self.is_recounting = False
        if is_over:
            self.is_recount_due = False
            return
        self.recount_at_ms = now_ms + self.recount_pause_ms
        self.recount_pause_ms = min(self.recount_pause_ms * 2, <uint64_t>RECOUNT_PAUSE_MAX_MS)

    cdef bint _correct_counts(self) noexcept nogil:
        """Write what is missing in the rows of all front ends into a row of its own; False when somebody has changed something after all."""
        cdef DatabaseCounts found[MAX_DATABASES]
        cdef DatabaseCounts correction
        cdef uint64_t audits = 0
        cdef uint32_t i
        self.pool.read_into(self.pool.geometry.globals + GLOBAL_AUDITS, &audits, 8)
        # Somebody who finds the same at the same time writes the same; who began earlier must not overwrite what is newer.
        if self.pool.compare_and_swap(self.pool.geometry.globals + GLOBAL_AUDITS, audits, audits + 1) != audits:
            return False
        for i in range(self.engine.database_count):
            if not self.engine.total_counts(i, &found[i]):
                return False
        # The grace period has passed and it is still quiet: what the index holds and what the rows say are of one moment.
        if not self._is_quiet():
            return False
        for i in range(self.engine.database_count):
            if found[i].keys == self.recounted[i].keys and found[i].expires == self.recounted[i].expires and (
                found[i].stored_bytes == self.recounted[i].stored_bytes
            ):
                continue
            if self.pool.read_into(self.pool.counts_offset(MAX_FRONT_ENDS, i), &correction, sizeof(correction)) != 0:
                return False
            if <uint32_t>correction.epoch != <uint32_t>self.pool.epochs[i]:
                memset(&correction, 0, sizeof(correction))
                correction.epoch = <uint32_t>self.pool.epochs[i]
            correction.keys += self.recounted[i].keys - found[i].keys
            correction.expires += self.recounted[i].expires - found[i].expires
            correction.stored_bytes += self.recounted[i].stored_bytes - found[i].stored_bytes
            if self.pool.write_from(self.pool.counts_offset(MAX_FRONT_ENDS, i), &correction, sizeof(correction)) != 0:
                return False
            self.recounts += 1
        return True

    def facts(self) -> dict[str, int]:
        """Counts for INFO, since this front end began."""
        return {
            "sweeps": self.sweeps, "adopted_pages": self.adopted_pages, "freed_pages": self.freed_pages,
            "freed_cells": self.freed_cells, "freed_reservations": self.freed_reservations,
            "lowered_overflows": self.lowered_overflows, "settled_counters": self.settled_counters,
            "corrected_pages": self.corrected_pages, "corrected_counts": self.recounts,
        }

    def pages_in_use(self) -> dict[str, int]:
        """Pages of cells and of payload by the page table, whoever owns them."""
        cdef uint64_t words[TABLE_CHUNK]
        cdef uint64_t total = self.pool.geometry.page_count, first = 0, payload = 0, cells = 0
        cdef uint32_t count, i
        while first < total:
            count = TABLE_CHUNK if total - first > TABLE_CHUNK else <uint32_t>(total - first)
            if self.pool.read_into(self.pool.page_word_offset(first), words, count * 8) != 0:
                break
            for i in range(count):
                payload += page_kind(words[i]) == PAGE_PAYLOAD
                cells += page_kind(words[i]) == PAGE_CELLS
            first += count
        return {"payload_pages": payload, "cell_pages": cells, "pages_used": payload + cells}

    def hurry(self) -> bool:
        """Sweep once more without the pause that was to come before it; False when nothing is left to be put right."""
        if self.again_at_ms == 0:
            return False
        self.again_at_ms = 1
        return True

    @property
    def is_idle(self) -> bool:
        """Whether no sweep is under way or due, as far as was seen."""
        return self.phase == PHASE_IDLE and self.has_begun


cdef uint32_t count_away(char *sets, uint32_t count, bint reserved) noexcept nogil:
    """How many entries of the first set's home live in the sets behind it, or are being put there."""
    cdef uint32_t distance, number, away = 0
    cdef uint64_t *words
    for distance in range(1, count if count <= MAX_DISTANCE + 1 else MAX_DISTANCE + 1):
        words = <uint64_t *>(sets + distance * SET_BYTES + SET_HEADER_BYTES)
        for number in range(SLOTS_PER_SET):
            if (
                word_state(words[0]) != STATE_FREE and (reserved or word_state(words[0]) == STATE_LIVE) and word1_distance(words[1]) == distance
                and word1_binding(words[1]) == word_binding(words[0])
            ):
                away += 1
            words += 2
    return away
