# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Recovery: rebuilds one front end's books, and the pool's own, from what an earlier process left.

One pass over the index. A LIVE slot is kept when its cell names it back, when the key in the cell hashes to this very set
and tag under the database's current epoch, and when its cell and every page of its list lie where the page table has cells of
that class and payload. Everything else is set FREE; then the page table, the overflow words and the counters are made to say what the kept values
say. Every step leaves a pool that recovery can begin with again, so it may itself be killed at any instruction.
"""

import time
from dataclasses import dataclass, fields

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from storage.interface import ValueType
from storage.pool import PoolError

from storage.cells cimport CELL_BYTES, CELLS_IN_PAGE, class_for
from storage.batch cimport Request
from storage.cluster cimport Node
from storage.engine cimport Engine, hash_request, home_of, tag_of
from storage.fabric.base cimport OP_CAS, OP_READ, FabricOp
from storage.pages cimport PageAllocator
from storage.policy cimport EvictionPolicy
from storage.pool cimport GLOBAL_HIGH_WATER, GLOBAL_PAGES_USED, Pool
from storage.store cimport Store
from storage.words cimport (
    CELL_CLASSES,
    CELL_HAS_EXPIRY,
    CELL_HAS_LEASE,
    CELL_HAS_PARENT,
    CELL_KEPT_AS,
    CELL_LIST_PAGE,
    CELL_PAGED,
    CHANGE_COUNTERS,
    COUNTS_BYTES,
    FRONT_END_ROW_BYTES,
    HAZARDS_PER_ROW,
    MAX_CELL_BYTES,
    MAX_DATABASES,
    MAX_FRONT_ENDS,
    MAX_KEY_BYTES_C,
    PAGE_BYTES,
    PAGE_CELLS,
    PAGE_FREE,
    PAGE_HEAD_BYTES,
    PAGE_PAYLOAD,
    SET_BYTES,
    SET_HEADER_BYTES,
    SLOT_BYTES,
    SLOTS_PER_SET,
    STATE_FREE,
    STATE_LIVE,
    STATE_RESERVED,
    CellHeader,
    cell_expiry_ms,
    cell_lease_ms,
    cell_prefix_bytes,
    freed_word,
    location_cell,
    location_page,
    make_overflow,
    make_page_word,
    page_class,
    page_kind,
    word1_binding,
    word1_distance,
    word1_tag,
    word_binding,
    word_class,
    word_has_ttl,
    word_is_paged,
    word_location,
    word_state,
)

cdef enum:
    CHUNK_SETS = 512        # index sets of one READ: 64 KiB
    HEADS = 512             # cells of one doorbell; their first 256 bytes hold nearly every key
    HEAD_BYTES = 256
    LONG_CELLS = 32         # cells of one doorbell that are read whole: 1 MiB
    SWAPS = 512
    TABLE_CHUNK = 8192      # page words of one READ: 64 KiB
    EMPTY_CHUNK_BYTES = 65536
    KNOWN_FLAGS = CELL_HAS_EXPIRY | CELL_HAS_LEASE | CELL_HAS_PARENT | CELL_PAGED | CELL_LIST_PAGE | CELL_KEPT_AS

cdef enum Verdict:
    BROKEN = 0
    FLUSHED = 1
    SANE = 2

cdef uint32_t CONTESTED = 0xFFFFFFFF
cdef uint8_t LAST_TYPE = max(ValueType)


@dataclass(frozen=True)
class RecoveryReport:
    """What was found in a pool whose last user is gone, and what was put right."""

    keys: int            # values kept, in all databases
    expires: int         # of these, with an expiry
    reservations: int    # slots that were being filled when their front end ended
    flushed: int         # values of an earlier epoch of their database
    broken: int          # slots whose cell, key or pages do not prove them
    cell_pages: int
    payload_pages: int
    freed_pages: int     # claimed by nobody who is left
    overflow_words: int  # that said something else than the kept values
    seconds: float       # the whole pass took


def recover(Store store) -> RecoveryReport:
    """Rebuild the books of ``store`` from its pool, whose every other user is gone; of several nodes, those of all.

    The store must be fresh: not a single request before. Raises PoolError when somebody else changes the pool meanwhile,
    MemoryError when there is no room for the books (16 bytes a page and 2 a set, until it returns).
    """
    reports = [recover_node(node) for node in store.cluster.nodes if (<Node>node).engine is not None]
    return RecoveryReport(*(sum(getattr(report, field.name) for report in reports) for field in fields(RecoveryReport)))


def recover_node(Node node) -> RecoveryReport:
    """The same for one node alone."""
    if node.policy.resident_count or node.engine.counts.batches:
        raise ValueError("recovery begins with a store that has served nothing yet")
    recovery = Recovery(node.engine, node.policy)
    return recovery.run()


cdef class Recovery:
    """Scratch memory and findings of one pass."""

    def __cinit__(self, Engine engine, EvictionPolicy policy):
        cdef uint64_t pages = engine.pool.geometry.page_count
        cdef uint64_t sets = engine.pool.geometry.set_count
        self.pool = engine.pool
        self.engine = engine
        self.allocator = engine.allocator
        self.policy = policy
        self.doomed = set()
        self.paged_capacity = 1024
        self.page_owner = <uint32_t *>calloc(pages, 4)
        self.away_count = <uint8_t *>calloc(sets, 1)
        self.away_distance = <uint8_t *>calloc(sets, 1)
        self.paged = <Paged *>malloc(self.paged_capacity * sizeof(Paged))
        self.sets = <char *>malloc(CHUNK_SETS * SET_BYTES)
        self.heads = <char *>malloc(HEADS * HEAD_BYTES)
        self.long_cells = <char *>malloc(LONG_CELLS * <size_t>MAX_CELL_BYTES)
        self.list_scratch = <uint32_t *>malloc(PAGE_BYTES)
        self.found = <Found *>malloc(HEADS * sizeof(Found))
        self.swaps = <FabricOp *>malloc(SWAPS * sizeof(FabricOp))
        if (
            self.page_owner == NULL or self.away_count == NULL or self.away_distance == NULL or self.paged == NULL
            or self.sets == NULL or self.heads == NULL or self.long_cells == NULL or self.list_scratch == NULL
            or self.found == NULL or self.swaps == NULL
        ):
            raise MemoryError("no memory for the books of recovery")

    def __dealloc__(self):
        free(self.page_owner)
        free(self.away_count)
        free(self.away_distance)
        free(self.paged)
        free(self.sets)
        free(self.heads)
        free(self.long_cells)
        free(self.list_scratch)
        free(self.found)
        free(self.swaps)

    def run(self) -> RecoveryReport:
        """The order matters: slots before the pages that they named, all values before any overflow word."""
        began_s = time.monotonic()
        self.empty_hazards()
        self.read_page_table()
        self.walk_sets()
        self.keep_paged()
        self.flush_swaps()
        self.rebuild_page_table()
        self.rebuild_overflow_words()
        return RecoveryReport(
            self.kept, self.expiring, self.reservations, self.flushed, self.broken, self.cell_pages, self.payload_pages,
            self.freed_pages, self.overflow_words, time.monotonic() - began_s,
        )

    # ------------------------------------------------------------------ writing

    cdef int swap(self, uint64_t offset, uint64_t expected, uint64_t word) except -1:
        """One more CAS of the doorbell that is being written."""
        cdef FabricOp *op
        if self.swap_count == SWAPS:
            self.flush_swaps()
        op = &self.swaps[self.swap_count]
        self.swap_count += 1
        memset(op, 0, sizeof(FabricOp))
        op.opcode = OP_CAS
        op.offset = offset
        op.compare = expected
        op.swap = word
        return 0

    cdef int flush_swaps(self) except -1:
        cdef uint32_t i, count = self.swap_count
        self.swap_count = 0
        if count == 0:
            return 0
        if self.pool.submit(self.swaps, count) != 0:
            raise PoolError("the pool does not answer")
        for i in range(count):
            if self.swaps[i].result != self.swaps[i].compare:
                raise PoolError(
                    f"somebody else changes the pool: word {self.swaps[i].result:#x} at {self.swaps[i].offset}, expected "
                    f"{self.swaps[i].compare:#x}"
                )
        return 0

    cdef int free_slot(self, uint32_t slot, uint64_t word) except -1:
        return self.swap(self.pool.slot_offset(slot), word, freed_word(self.pool.word_format, word))

    # ------------------------------------------------------------------ reading

    cdef int empty_hazards(self) except -1:
        """Nobody reads any more. This front end is the only one, so the high-water mark falls to it."""
        cdef uint64_t mark = 0
        cdef uint64_t counters[CHANGE_COUNTERS]
        cdef uint64_t wanted = <uint64_t>self.pool.front_end + 1, rows
        self.empty(self.pool.geometry.hazards, <uint64_t>MAX_FRONT_ENDS * HAZARDS_PER_ROW * 8)
        self.pool.read_into(self.pool.geometry.globals + GLOBAL_HIGH_WATER, &mark, 8)
        if <uint32_t>mark != wanted:
            self.swap(self.pool.geometry.globals + GLOBAL_HIGH_WATER, mark, (((mark >> 32) + 1) << 32) | wanted)
            self.flush_swaps()
        # What earlier front ends counted; what is kept is counted anew.
        self.empty(self.pool.geometry.counts, (MAX_FRONT_ENDS + 1) * MAX_DATABASES * COUNTS_BYTES)
        # A change that died between its two counts: nobody is in the middle of one now.
        self.pool.read_into(self.pool.geometry.counters, counters, sizeof(counters))
        for rows in range(CHANGE_COUNTERS):
            if <uint32_t>counters[rows] != <uint32_t>(counters[rows] >> 32):
                self.swap(
                    self.pool.geometry.counters + rows * 8, counters[rows],
                    (<uint64_t><uint32_t>counters[rows] << 32) | <uint32_t>counters[rows],
                )
        self.flush_swaps()
        # Nobody else is: rows that say so were their last users' who died.
        data = self.pool.read(self.pool.geometry.front_ends, MAX_FRONT_ENDS * FRONT_END_ROW_BYTES)
        for rows in range(MAX_FRONT_ENDS):
            if rows != <uint64_t>self.pool.front_end and data[rows * FRONT_END_ROW_BYTES] & 1:
                self.pool.declare_dead(<int>rows)
        self.engine.forget_counts()
        self.pool.front_end_high_water = <uint32_t>wanted
        return 0

    cdef int empty(self, uint64_t offset, uint64_t size) except -1:
        """Zero a region; what was never used is not written, and needs no memory."""
        cdef uint64_t position = 0
        cdef uint32_t length
        while position < size:
            length = EMPTY_CHUNK_BYTES if size - position > EMPTY_CHUNK_BYTES else <uint32_t>(size - position)
            data = self.pool.read(offset + position, length)
            if data != bytes(length):
                self.pool.write(offset + position, bytes(length))
            position += length
        return 0

    cdef int read_page_table(self) except -1:
        cdef uint64_t total = self.pool.geometry.page_count, page = 0
        cdef uint32_t count
        while page < total:
            count = TABLE_CHUNK if total - page > TABLE_CHUNK else <uint32_t>(total - page)
            if self.pool.read_into(self.pool.page_word_offset(page), &self.allocator.known_words[page], count * 8) != 0:
                raise PoolError("the pool does not answer")
            page += count
        return 0

    cdef int walk_sets(self) except -1:
        cdef uint64_t total = self.pool.geometry.set_count, first = 0
        cdef uint32_t count, i, number
        cdef uint64_t *words
        while first < total:
            count = CHUNK_SETS if total - first > CHUNK_SETS else <uint32_t>(total - first)
            if self.pool.read_into(self.pool.set_offset(first), self.sets, count * SET_BYTES) != 0:
                raise PoolError("the pool does not answer")
            for i in range(count):
                words = <uint64_t *>(self.sets + i * SET_BYTES + SET_HEADER_BYTES)
                for number in range(SLOTS_PER_SET):
                    if word_state(words[0]) != STATE_FREE:
                        self.take_slot(<uint32_t>((first + i) * SLOTS_PER_SET + number), words[0], words[1])
                    words += SLOT_BYTES // 8
            first += count
        self.judge_found()
        return 0

    cdef int take_slot(self, uint32_t slot, uint64_t word, uint64_t word1) except -1:
        """A slot that is not FREE: undo a reservation, refuse what cannot be, put the rest on the list."""
        cdef uint32_t cell_class = word_class(word), page = location_page(word_location(word))
        cdef uint64_t page_word
        cdef Found *found
        if word_state(word) == STATE_RESERVED:
            self.reservations += 1
            return self.free_slot(slot, word)
        if (
            word_state(word) != STATE_LIVE or cell_class >= CELL_CLASSES or page >= self.pool.geometry.page_count
            or location_cell(word_location(word)) >= CELLS_IN_PAGE[cell_class] or word1_binding(word1) != word_binding(word)
        ):
            self.broken += 1
            return self.free_slot(slot, word)
        page_word = self.allocator.known_words[page]
        if page_kind(page_word) != PAGE_CELLS or page_class(page_word) != cell_class:
            self.broken += 1
            return self.free_slot(slot, word)
        if self.found_count == HEADS:
            self.judge_found()
        found = &self.found[self.found_count]
        self.found_count += 1
        memset(found, 0, sizeof(Found))
        found.slot = slot
        found.word = word
        found.word1 = word1
        return 0

    # ------------------------------------------------------------------ judging

    cdef int judge_found(self) except -1:
        """Read the heads of the cells on the list, then whole the few whose key or page list reaches further."""
        cdef FabricOp ops[HEADS]
        cdef Found batch[LONG_CELLS]
        cdef uint32_t i, size, count = self.found_count, longer = 0
        cdef int verdict
        cdef Found *found
        self.found_count = 0
        if count == 0:
            return 0
        memset(ops, 0, count * sizeof(FabricOp))
        for i in range(count):
            found = &self.found[i]
            size = CELL_BYTES[word_class(found.word)]
            ops[i].opcode = OP_READ
            ops[i].offset = self.engine.cell_offset(word_location(found.word), word_class(found.word))
            ops[i].local = self.heads + i * HEAD_BYTES
            ops[i].length = HEAD_BYTES if size > HEAD_BYTES else size
        if self.pool.submit(ops, count) != 0:
            raise PoolError("the pool does not answer")
        for i in range(count):
            found = &self.found[i]
            verdict = self.parse(found, <CellHeader *>(self.heads + i * HEAD_BYTES))
            if verdict == SANE and found.needed > HEAD_BYTES:
                if longer == LONG_CELLS:
                    self.judge_long(batch, longer)
                    longer = 0
                batch[longer] = found[0]
                longer += 1
            elif verdict == SANE:
                self.settle(found, self.heads + i * HEAD_BYTES)
            else:
                self.flushed += verdict == FLUSHED
                self.broken += verdict == BROKEN
                self.free_slot(found.slot, found.word)
        self.judge_long(batch, longer)
        return 0

    cdef int judge_long(self, Found *batch, uint32_t count) except -1:
        cdef FabricOp ops[LONG_CELLS]
        cdef uint32_t i
        if count == 0:
            return 0
        memset(ops, 0, count * sizeof(FabricOp))
        for i in range(count):
            ops[i].opcode = OP_READ
            ops[i].offset = self.engine.cell_offset(word_location(batch[i].word), word_class(batch[i].word))
            ops[i].local = self.long_cells + <size_t>i * MAX_CELL_BYTES
            ops[i].length = batch[i].needed
        if self.pool.submit(ops, count) != 0:
            raise PoolError("the pool does not answer")
        for i in range(count):
            self.settle(&batch[i], self.long_cells + <size_t>i * MAX_CELL_BYTES)
        return 0

    cdef int parse(self, Found *found, CellHeader *header) noexcept:
        """Judge the header alone: a Verdict; fills in where key and page list end."""
        cdef uint64_t word = found.word, total, pages
        cdef uint32_t base, rest, list_bytes
        cdef bint paged = word_is_paged(word)
        if (
            header.slot != found.slot or header.echo != <uint32_t>word or header.flags & ~<uint32_t>KNOWN_FLAGS
            or header.tail_in_cell > 1 or header.value_type > LAST_TYPE or header.key_bytes > MAX_KEY_BYTES_C
            or (header.flags & CELL_HAS_EXPIRY != 0) != word_has_ttl(word) or (header.flags & CELL_PAGED != 0) != paged
            or (not paged and (header.flags & CELL_LIST_PAGE or header.tail_in_cell))
            or (header.flags & CELL_HAS_EXPIRY and cell_expiry_ms(header) < 0)
            or (header.flags & CELL_HAS_LEASE and cell_lease_ms(header) <= 0)
        ):
            return BROKEN
        if header.epoch != <uint32_t>self.pool.epochs[header.database]:
            return FLUSHED
        base = cell_prefix_bytes(header) + header.key_bytes
        found.list_at = base
        found.needed = base
        if paged:
            pages = header.value_bytes // PAGE_BYTES
            rest = header.value_bytes % PAGE_BYTES
            total = base
            if rest and header.tail_in_cell:
                total += rest
            elif rest:
                pages += 1
            if pages == 0 or pages > PAGE_BYTES // 4 or (header.tail_in_cell and rest == 0):
                return BROKEN
            list_bytes = 4 if header.flags & CELL_LIST_PAGE else <uint32_t>pages * 4
            total += list_bytes
            found.pages = <uint32_t>pages
            found.needed += list_bytes
        else:
            total = base + <uint64_t>header.value_bytes
        # Cells are always of the smallest class that holds them, so a damaged length mostly shows here.
        if total > MAX_CELL_BYTES or class_for(<uint32_t>total) != word_class(word):
            return BROKEN
        return SANE

    cdef int settle(self, Found *found, char *cell) except -1:
        """The cell is there up to the end of its page list: keep the value, or set its slot FREE."""
        cdef CellHeader *header = <CellHeader *>cell
        cdef uint32_t *pages
        cdef uint32_t count = found.pages, list_page
        cdef Paged *entry
        cdef Paged *larger
        cdef uint64_t home = 0
        cdef bint good = self.is_reachable(found, header, cell + cell_prefix_bytes(header), &home)
        if good and count:
            pages = self.list_scratch
            memcpy(pages, cell + found.list_at, 4 if header.flags & CELL_LIST_PAGE else count * 4)
            if header.flags & CELL_LIST_PAGE:
                list_page = pages[0]
                # The page of the list is claimed first, and read only when it may be one.
                good = self.claim_list(found, &list_page, 1)
                if good:
                    if self.pool.read_into(self.pool.page_offset(list_page), pages, count * 4) != 0:
                        raise PoolError("the pool does not answer")
                    good = self.claim_list(found, pages, count)
                    if not good and self.page_owner[list_page] == found.slot + 1:
                        self.page_owner[list_page] = 0
            else:
                good = self.claim_list(found, pages, count)
        if not good:
            self.broken += 1
            return self.free_slot(found.slot, found.word)
        if count == 0:
            return self.keep(
                found.slot, found.word, header.database, home, word1_distance(found.word1),
                header.key_bytes + <uint64_t>header.value_bytes,
            )
        if self.paged_count == self.paged_capacity:
            larger = <Paged *>realloc(self.paged, <size_t>self.paged_capacity * 2 * sizeof(Paged))
            if larger == NULL:
                raise MemoryError("no memory for the books of recovery")
            self.paged = larger
            self.paged_capacity *= 2
        entry = &self.paged[self.paged_count]
        self.paged_count += 1
        entry.word = found.word
        entry.slot = found.slot
        entry.home = <uint32_t>home
        entry.distance = <uint8_t>word1_distance(found.word1)
        entry.stored_bytes = header.key_bytes + <uint64_t>header.value_bytes
        entry.database = header.database
        return 0

    cdef bint is_reachable(self, Found *found, CellHeader *header, char *key, uint64_t *home) noexcept:
        """Whether a look-up of the key would find this slot; a damaged key, database or epoch does not pass."""
        cdef uint64_t epoch = self.pool.epochs[header.database]
        cdef Request request
        request.database = header.database
        request.key = key
        request.key_bytes = header.key_bytes
        hash_request(self.pool, &request)
        home[0] = home_of(request.hash_low, epoch, self.pool.geometry.set_count)
        return (
            tag_of(request.hash_high, epoch) == word1_tag(found.word1) and word1_distance(found.word1) < self.pool.geometry.set_count
            and (home[0] + word1_distance(found.word1)) % self.pool.geometry.set_count == found.slot // SLOTS_PER_SET
        )

    cdef bint claim_list(self, Found *found, const uint32_t *pages, uint32_t count) except -1:
        """Enter the value as the owner of its pages; all or none. Who names the same page loses it, and so does the other."""
        cdef uint32_t i, owner, claimed = 0, mine = found.slot + 1
        cdef bint good = True
        for i in range(count):
            if pages[i] >= self.pool.geometry.page_count or page_kind(self.allocator.known_words[pages[i]]) != PAGE_PAYLOAD:
                good = False
                break
            owner = self.page_owner[pages[i]]
            if owner:
                if owner != CONTESTED and owner != mine:
                    self.doomed.add(owner - 1)
                    self.page_owner[pages[i]] = CONTESTED
                good = False
                break
            self.page_owner[pages[i]] = mine
            claimed += 1
        if not good:
            for i in range(claimed):
                self.page_owner[pages[i]] = 0
        return good

    # ------------------------------------------------------------------ keeping

    cdef int keep(self, uint32_t slot, uint64_t word, uint8_t database, uint64_t home, uint32_t distance, uint64_t stored_bytes) except -1:
        cdef uint32_t page = location_page(word_location(word))
        if not self.allocator.cell_pages[page].owned:
            self.allocator.adopt_cell(page, word_class(word))
        self.allocator.mark_cell_used(word_location(word))
        self.engine.keys[database] += 1
        self.engine.stored_bytes[database] += stored_bytes
        self.kept += 1
        if word_has_ttl(word):
            self.engine.expires[database] += 1
            self.expiring += 1
        self.policy.note_insert(slot)
        if distance:
            self.away_count[home] += 1
            if distance > self.away_distance[home]:
                self.away_distance[home] = <uint8_t>distance
        return 0

    cdef int keep_paged(self) except -1:
        """Values with pages, now that it is known which pages two of them name."""
        cdef uint32_t i
        cdef Paged *entry
        cdef uint64_t page
        for i in range(self.paged_count):
            entry = &self.paged[i]
            if self.doomed and entry.slot in self.doomed:
                self.broken += 1
                self.free_slot(entry.slot, entry.word)
            else:
                self.keep(entry.slot, entry.word, entry.database, entry.home, entry.distance, entry.stored_bytes)
        for page in range(self.pool.geometry.page_count):
            if self.page_owner[page] == CONTESTED or (self.doomed and self.page_owner[page] - 1 in self.doomed):
                self.page_owner[page] = 0
        return 0

    # --------------------------------------------------------------- rebuilding

    cdef int rebuild_page_table(self) except -1:
        """Pages of kept values stay; all others are FREE. Then the word that counts pages in use is set."""
        cdef uint64_t page, known, wanted, seen = 0, used
        for page in range(self.pool.geometry.page_count):
            known = self.allocator.known_words[page]
            wanted = known
            if self.allocator.cell_pages[page].owned:
                self.cell_pages += 1
                wanted = make_page_word(
                    known, PAGE_CELLS, self.allocator.cell_pages[page].cell_class, self.pool.front_end, self.pool.incarnation
                )
            elif self.page_owner[page]:
                self.payload_pages += 1
            elif page_kind(known) != PAGE_FREE:
                self.freed_pages += 1
                wanted = make_page_word(known, PAGE_FREE, 0, 0, 0)
            if wanted != known:
                self.swap(self.pool.page_word_offset(page), known, wanted)
                self.allocator.known_words[page] = wanted
        self.flush_swaps()
        used = self.cell_pages + self.payload_pages
        self.pool.read_into(self.pool.geometry.globals + GLOBAL_PAGES_USED, &seen, 8)
        if seen != used:
            self.swap(self.pool.geometry.globals + GLOBAL_PAGES_USED, seen, used)
            self.flush_swaps()
        self.allocator.used_pages = used
        self.allocator.payload_pages = self.payload_pages
        return 0

    cdef int rebuild_overflow_words(self) except -1:
        cdef uint64_t total = self.pool.geometry.set_count, first = 0, word
        cdef uint32_t count, i, distance, away
        while first < total:
            count = CHUNK_SETS if total - first > CHUNK_SETS else <uint32_t>(total - first)
            if self.pool.read_into(self.pool.set_offset(first), self.sets, count * SET_BYTES) != 0:
                raise PoolError("the pool does not answer")
            for i in range(count):
                word = (<uint64_t *>(self.sets + i * SET_BYTES))[0]
                distance = self.away_distance[first + i]
                away = self.away_count[first + i]
                if <uint32_t>word != (away << 4 | distance):
                    self.overflow_words += 1
                    self.swap(self.pool.set_offset(first + i), word, make_overflow(word, distance, away))
            first += count
        return self.flush_swaps()
