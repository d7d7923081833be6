# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Export: reads every value of one pool, with all that belongs to it, while others change it."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from storage.batch cimport KIND_READ, SILENT, STATUS_BUSY, STATUS_OK, WANT_PAYLOAD, Batch, Request
from storage.cells cimport CELL_BYTES
from storage.engine cimport Engine, home_of
from storage.fabric.base cimport OP_READ, FabricOp
from storage.hashing cimport hash_key
from storage.pool cimport Pool
from storage.staging cimport PinnedValue
from storage.store cimport Store
from storage.words cimport (
    CELL_HAS_PARENT,
    CELL_PAGED,
    HEAD_BYTES_MAX,
    MAX_DATABASES,
    MAX_DISTANCE,
    MAX_KEY_BYTES_C,
    SET_BYTES,
    SLOTS_PER_SET,
    STATE_LIVE,
    CellHeader,
    cell_expiry_ms,
    cell_prefix_bytes,
    overflow_distance,
    word1_distance,
    word_class,
    word_is_paged,
    word_location,
    word_state,
)

cdef enum:
    STEP_SETS = 64            # index sets read at a time: 8 KiB
    STEP_SLOTS = 448          # of those
    SCRATCH_BYTES = 524288    # cells read at a time: what stays in the second-level cache
    WORD_ATTEMPTS = 8         # a word is torn once, hardly twice
    ATTEMPTS = 1000           # every further one means that others wrote the key again while it was being copied

NEIGHBOURS = MAX_DISTANCE     # a key's slot lies in its home set or in one of so many that follow


@cython.final
@cython.freelist(256)
cdef class ExportedValue:
    """A key as it was at one instant. ``value`` None: it is large, and ``pinned`` has it, or ``Exporter.read_again`` gets it."""

    cdef readonly uint32_t database
    cdef readonly bytes key
    cdef readonly bytes value
    cdef readonly PinnedValue pinned
    cdef readonly uint64_t set_number
    cdef readonly uint64_t size_bytes
    cdef readonly int64_t expire_at_ms    # Unix milliseconds, -1 without
    cdef readonly uint64_t parent_hash    # 0 without
    cdef readonly uint32_t depth


@cython.final
cdef class Exporter:
    """Walks through the index once, as one more front end; changes nothing, heat and counts included.

    A key that moves to another slot meanwhile (deleted and set again) may be met twice, within ``NEIGHBOURS`` sets of the first
    time, or not at all. Nothing is returned of a database once it was flushed. Of a pool on
    memory nodes it would see the first node only.
    """

    cdef Store store
    cdef Engine engine
    cdef Pool pool
    cdef char *scratch
    cdef uint64_t epochs[MAX_DATABASES]       # when the walk began
    cdef uint64_t current[MAX_DATABASES]
    cdef uint64_t words[STEP_SLOTS]
    cdef uint64_t after[STEP_SLOTS]
    cdef uint32_t slots[STEP_SLOTS]
    cdef FabricOp ops[STEP_SLOTS]
    cdef readonly uint64_t damaged            # entries that cannot be right, passed over

    def __cinit__(self, Store store):
        self.store = store
        self.engine = store.cluster.first.engine
        self.pool = self.engine.pool
        self.scratch = <char *>malloc(SCRATCH_BYTES)
        if self.scratch == NULL:
            raise MemoryError("no memory to copy cells to")
        self._read_epochs(self.epochs)

    def __dealloc__(self):
        free(self.scratch)

    @property
    def set_count(self) -> int:
        """Index sets, which ``read`` walks through."""
        return self.pool.geometry.set_count

    cdef int _read_epochs(self, uint64_t *epochs) except -1:
        memset(self.ops, 0, sizeof(FabricOp))
        self.ops[0].opcode = OP_READ
        self.ops[0].offset = self.pool.geometry.databases
        self.ops[0].local = epochs
        self.ops[0].length = MAX_DATABASES * 8
        return self._submit(1)

    cdef int _submit(self, int count) except -1:
        if self.pool.submit(self.ops, count) != 0:
            raise ConnectionError("the pool cannot be read")
        return 0

    # -------------------------------------------------------------------- walk

    def count(self) -> dict[int, tuple[int, int]]:
        """About how many keys each database has, and how many of them expire, in one quick pass."""
        cdef char sets[STEP_SETS * SET_BYTES]
        cdef uint64_t keys[MAX_DATABASES]
        cdef uint64_t expires[MAX_DATABASES]
        cdef uint64_t first = 0
        cdef uint32_t i, live
        cdef CellHeader *header
        memset(keys, 0, sizeof(keys))
        memset(expires, 0, sizeof(expires))
        while first < self.pool.geometry.set_count:
            live = self._live_slots(sets, first, self._step(first, self.pool.geometry.set_count))
            memset(self.ops, 0, live * sizeof(FabricOp))
            for i in range(live):
                self._read_cell(&self.ops[i], self.words[i], i * 64, sizeof(CellHeader))
            self._submit(live)
            for i in range(live):
                header = <CellHeader *>(self.scratch + i * 64)
                if header.slot == self.slots[i] and header.epoch == <uint32_t>self.epochs[header.database]:
                    keys[header.database] += 1
                    expires[header.database] += (self.words[i] >> 2) & 1
            first += STEP_SETS
        return {number: (keys[number], expires[number]) for number in range(MAX_DATABASES) if keys[number]}

    def read(self, uint64_t first, uint64_t count) -> list:
        """Values whose slots lie in ``count`` index sets from ``first`` on; large ones without their bytes."""
        cdef char sets[STEP_SETS * SET_BYTES]
        cdef uint64_t end = min(first + count, self.pool.geometry.set_count)
        cdef uint32_t live, attempt
        cdef list out = []
        while first < end:
            self.store.set_time()
            self._read_epochs(self.current)
            live = self._live_slots(sets, first, self._step(first, end))
            for attempt in range(ATTEMPTS):
                if live == 0:
                    break
                live = self._read_values(live, out)
            if live:
                raise BlockingIOError(f"a key was written {ATTEMPTS} times while it was being copied")
            first += STEP_SETS
        return out

    cdef uint32_t _step(self, uint64_t first, uint64_t end) noexcept:
        return <uint32_t>(end - first) if end - first < STEP_SETS else STEP_SETS

    cdef uint32_t _live_slots(self, char *sets, uint64_t first, uint32_t count) except? 0xFFFFFFFF:
        """Note words and slots of what is LIVE in these sets; how many there are."""
        cdef uint32_t i, number, slot, live = 0
        cdef uint64_t word
        memset(self.ops, 0, sizeof(FabricOp))
        self.ops[0].opcode = OP_READ
        self.ops[0].offset = self.pool.set_offset(first)
        self.ops[0].local = sets
        self.ops[0].length = count * SET_BYTES
        self._submit(1)
        for i in range(count):
            for number in range(SLOTS_PER_SET):
                word = (<uint64_t *>(sets + i * SET_BYTES + 16 + number * 16))[0]
                slot = <uint32_t>((first + i) * SLOTS_PER_SET + number)
                word = self._believed(slot, word)
                if word_state(word) == STATE_LIVE:
                    self.words[live] = word
                    self.slots[live] = slot
                    live += 1
        return live

    cdef uint64_t _believed(self, uint32_t slot, uint64_t word) except? 0xFFFFFFFFFFFFFFFF:
        """The word, or the slot's of now where it names no cell: it may have been read half before and half after a change."""
        cdef uint32_t attempt
        for attempt in range(WORD_ATTEMPTS):
            if word_state(word) != STATE_LIVE or self.engine.valid_location(word):
                return word
            if self.pool.read_into(self.pool.slot_offset(slot), &word, 8) != 0:
                raise ConnectionError("the pool cannot be read")
        self.damaged += 1
        return 0

    cdef uint32_t _cell_bytes(self, uint64_t word) noexcept nogil:
        """How much of a cell is wanted: all of it, but no page list."""
        cdef uint32_t size = CELL_BYTES[word_class(word)]
        if word_is_paged(word) and size > HEAD_BYTES_MAX + MAX_KEY_BYTES_C:
            return HEAD_BYTES_MAX + MAX_KEY_BYTES_C
        return size

    cdef void _read_cell(self, FabricOp *op, uint64_t word, uint32_t at, uint32_t length) noexcept nogil:
        op.opcode = OP_READ
        op.offset = self.engine.cell_offset(word_location(word), word_class(word))
        op.local = self.scratch + at
        op.length = length

    cdef uint32_t _read_values(self, uint32_t live, list out) except? 0xFFFFFFFF:
        """Read the noted slots' cells; how many have changed meanwhile, which are noted anew.

        A cell is used again only after its slot was changed: while the slot still holds the word that was read before the
        cell, what was copied in between is what it named.
        """
        cdef uint32_t begin = 0, end, size, used, i, again = 0
        while begin < live:
            used = 0
            end = begin
            memset(self.ops, 0, (live - begin) * sizeof(FabricOp))
            while end < live:
                size = (self._cell_bytes(self.words[end]) + 15) & ~<uint32_t>15
                if used + size > SCRATCH_BYTES:
                    break
                self._read_cell(&self.ops[end - begin], self.words[end], used, self._cell_bytes(self.words[end]))
                used += size
                end += 1
            self._submit(end - begin)
            self._check_slots(begin, end)
            used = 0
            for i in range(begin, end):
                size = (self._cell_bytes(self.words[i]) + 15) & ~<uint32_t>15
                if self.after[i] == self.words[i]:
                    self._take(i, self.scratch + used, out)
                else:
                    # Never beyond i: the copies of what follows are still to be looked at.
                    self.words[again] = self._believed(self.slots[i], self.after[i])
                    self.slots[again] = self.slots[i]
                    again += word_state(self.words[again]) == STATE_LIVE
                used += size
            begin = end
        return again

    cdef int _check_slots(self, uint32_t begin, uint32_t end) except -1:
        cdef uint32_t i
        memset(self.ops, 0, (end - begin) * sizeof(FabricOp))
        for i in range(begin, end):
            self.ops[i - begin].opcode = OP_READ
            self.ops[i - begin].offset = self.pool.slot_offset(self.slots[i])
            self.ops[i - begin].local = &self.after[i]
            self.ops[i - begin].length = 8
        return self._submit(end - begin)

    cdef int _take(self, uint32_t number, char *cell, list out) except -1:
        cdef CellHeader *header = <CellHeader *>cell
        cdef uint32_t prefix = cell_prefix_bytes(header), room = self._cell_bytes(self.words[number])
        cdef bint paged = header.flags & CELL_PAGED
        cdef int64_t expiry = cell_expiry_ms(header)
        cdef ExportedValue entry
        if (
            header.slot != self.slots[number] or header.echo != <uint32_t>self.words[number]
            or prefix + header.key_bytes > room or (not paged and <uint64_t>prefix + header.key_bytes + header.value_bytes > room)
        ):
            self.damaged += 1
            return 0
        if (
            header.epoch != <uint32_t>self.epochs[header.database] or header.epoch != <uint32_t>self.current[header.database]
            or (expiry >= 0 and expiry <= self.engine.now_ms)
        ):
            return 0
        entry = ExportedValue.__new__(ExportedValue)
        entry.database = header.database
        entry.key = PyBytes_FromStringAndSize(cell + prefix, header.key_bytes)
        if not paged:
            entry.value = PyBytes_FromStringAndSize(cell + prefix + header.key_bytes, header.value_bytes)
        entry.set_number = self.slots[number] // SLOTS_PER_SET
        entry.size_bytes = header.value_bytes
        entry.expire_at_ms = expiry
        entry.depth = header.depth
        if header.flags & CELL_HAS_PARENT:
            memcpy(&entry.parent_hash, cell + prefix - 8, 8)
        out.append(entry)
        return 0

    # ------------------------------------------------------------------ one key

    def read_again(self, ExportedValue found) -> ExportedValue | None:
        """The key's value of now, pinned when it is large, or None when the key has gone. Raises BlockingIOError when nothing can be pinned."""
        cdef Batch batch = self.store.cluster.take_batch()
        cdef Request *request
        cdef ExportedValue entry
        try:
            request = batch.add()
            request.kind = KIND_READ
            request.database = <unsigned char>found.database
            request.key = PyBytes_AS_STRING(found.key)
            request.key_bytes = <uint32_t>PyBytes_GET_SIZE(found.key)
            request.flags = WANT_PAYLOAD | SILENT
            self.store._run(batch)
            if request.status == STATUS_BUSY:
                raise BlockingIOError("every pin is in use")
            if request.status != STATUS_OK:
                return None
            entry = ExportedValue.__new__(ExportedValue)
            entry.database = found.database
            entry.key = found.key
            entry.set_number = found.set_number
            entry.size_bytes = request.out_bytes
            entry.expire_at_ms = request.out_expire_ms
            entry.parent_hash = request.out_parent_hash
            entry.depth = request.out_depth
            if request.pinned:
                entry.pinned = self.store._take_pin(request)
            else:
                entry.value = PyBytes_FromStringAndSize(request.out, request.out_tail_bytes)
            return entry
        finally:
            self.store.cluster.give_batch(batch)

    def key_of(self, uint32_t database, uint64_t hash_low) -> bytes | None:
        """The key of this hash while it is there: how a block's parent gets its name."""
        cdef char sets[(MAX_DISTANCE + 1) * SET_BYTES]
        cdef uint64_t total = self.pool.geometry.set_count
        cdef uint64_t home = home_of(hash_low, self.epochs[database], total)
        cdef uint32_t distance, number, farthest = 0
        cdef uint64_t *slot
        cdef bytes key
        distance = 0
        while distance <= farthest and distance < total:
            if self.pool.read_into(self.pool.set_offset((home + distance) % total), sets, SET_BYTES) != 0:
                raise ConnectionError("the pool cannot be read")
            if distance == 0:
                farthest = overflow_distance((<uint64_t *>sets)[0])
            for number in range(SLOTS_PER_SET):
                slot = <uint64_t *>(sets + 16 + number * 16)
                if word_state(slot[0]) != STATE_LIVE or word1_distance(slot[1]) != distance:
                    continue
                key = self._key_at(slot[0], database, hash_low)
                if key is not None:
                    return key
            distance += 1
        return None

    cdef bytes _key_at(self, uint64_t word, uint32_t database, uint64_t hash_low):
        """The key that a word names, if it has this hash; a cell that was used again since then has another."""
        cdef CellHeader *header = <CellHeader *>self.scratch
        cdef uint32_t size, prefix
        if not self.engine.valid_location(word):
            return None
        size = self._cell_bytes(word)
        if size > HEAD_BYTES_MAX + MAX_KEY_BYTES_C:
            size = HEAD_BYTES_MAX + MAX_KEY_BYTES_C
        if self.pool.read_into(self.engine.cell_offset(word_location(word), word_class(word)), self.scratch, size) != 0:
            raise ConnectionError("the pool cannot be read")
        prefix = cell_prefix_bytes(header)
        if header.database != database or header.echo != <uint32_t>word or prefix + header.key_bytes > size:
            return None
        if hash_key(
            self.pool.secret_low ^ (<uint64_t>database * <uint64_t>0x9E3779B97F4A7C15), self.pool.secret_high,
            self.scratch + prefix, header.key_bytes,
        ).low != hash_low:
            return None
        return PyBytes_FromStringAndSize(self.scratch + prefix, header.key_bytes)
