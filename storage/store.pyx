# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Store: the surface that command handlers and the fast lane use."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from storage.interface import NO_EXPIRY, Condition, DatabaseSize, Entry, PrefixInfo, Status, ValueType, WriteResult

from storage.batch cimport (
    CONDITION_ALWAYS,
    EXACT,
    HAS_PARENT,
    KEEP_TTL,
    KEEP_VALUE,
    KIND_DELETE,
    KIND_LOOKUP,
    KIND_READ,
    KIND_WRITE,
    SILENT,
    STATUS_BUSY,
    STATUS_OK,
    STATUS_UNREACHABLE,
    TOUCH,
    WANT_PAYLOAD,
    Batch,
    Request,
    allocate,
)
from storage.cells cimport CELL_BYTES
from storage.engine cimport Engine
from storage.fabric.base cimport OP_READ, FabricOp
from storage.pages cimport PageAllocator
from storage.policy cimport EvictionPolicy
from storage.pool cimport Pool
from storage.staging cimport PinnedValue, StagedValue, StagingArea, take_pin
from storage.words cimport (
    CELL_HAS_PARENT,
    HEAT_BYTES,
    MAX_DATABASES,
    MAX_KEY_BYTES_C,
    MAX_VALUE_BYTES,
    PAGE_BYTES,
    SET_BYTES,
    SLOTS_PER_SET,
    STATE_LIVE,
    CellHeader,
    Heat,
    cell_expiry_ms,
    cell_prefix_bytes,
    word_class,
    word_location,
    word_state,
)

cdef enum:
    BATCH_REQUESTS = 512    # requests of one run; longer ones are cut
    SCAN_SETS = 32          # index sets read at a time by SCAN: 4 KiB
    SCAN_HEAD_BYTES = 64    # the smallest cell; header and key of most
    SCAN_ATTEMPTS = 100     # every further one means that another front end wrote the key again
    HEAD_BYTES_MAX = 40
    FLUSH_SWEEP_ENTRIES = 20000  # looked at before a flush is answered, 5 ms
    MAINTAIN_ENTRIES = 1024      # looked at between two looks at the clock
    SCAN_SETS_LIMIT = 8192  # index sets that one SCAN call looks at before it answers with what it has

MAX_KEY_BYTES = MAX_KEY_BYTES_C
_STATUS = {int(status): status for status in Status}


cdef class Store:
    """Keys and values of every database in one pool, for one front end.

    Implements ``storage.interface.StoreInterface``. On shared memory no coroutine ever suspends.
    """

    def __cinit__(self, Pool pool, str policy="allkeys-lru", int databases=16):
        if not 1 <= databases <= MAX_DATABASES:
            raise ValueError(f"databases must lie between 1 and {MAX_DATABASES}")
        self.engine = Engine(pool)
        self.engine.database_count = databases
        self.policy = EvictionPolicy(self.engine, policy)
        self.engine.room = self.policy
        self.staging = StagingArea(self.engine)
        self.batch = Batch(BATCH_REQUESTS)
        self.manual_clock_ms = None
        self.pinned_limit_pages = pool.geometry.page_count // 4
        self.set_time()

    # ------------------------------------------------------------------- time

    cdef int64_t now(self) noexcept:
        cdef timespec moment
        if self.manual_clock_ms is not None:
            return self.manual_clock_ms
        clock_gettime(CLOCK_REALTIME, &moment)
        return <int64_t>moment.tv_sec * 1000 + moment.tv_nsec // 1000000

    cdef void set_time(self) noexcept:
        self.engine.now_ms = self.now()

    def set_clock(self, now_ms) -> None:
        """Use this time (Unix milliseconds) until told otherwise; None goes back to the system's clock."""
        self.manual_clock_ms = now_ms
        self.set_time()

    # ------------------------------------------------------------------ limits

    def set_maxmemory(self, uint64_t limit_bytes) -> None:
        """Bytes of pages that values may use; 0 means the whole pool."""
        self.maxmemory = limit_bytes
        self.engine.allocator.set_limit_bytes(limit_bytes)

    def set_shares(self, *, double inflight, double pinned) -> None:
        """Shares of the limit (0 to 1) that unfinished and unread values may hold."""
        cdef uint64_t limit_bytes = self.engine.allocator.limit_pages * PAGE_BYTES
        self.staging.set_limit_bytes(<uint64_t>(limit_bytes * inflight))
        self.pinned_limit_pages = max(1, <uint64_t>(limit_bytes * pinned) // PAGE_BYTES)

    @property
    def pool(self) -> Pool:
        """The pool that the keys and values live in."""
        return self.engine.pool

    def release_spares(self) -> int:
        """Give back the empty pages that cell classes keep for their next value; how many there were."""
        return self.engine.allocator.release_spares()

    def set_policy(self, str name) -> None:
        """Switch the eviction policy; KeyError for an unknown name."""
        self.policy.choose(name)

    # ---------------------------------------------------------------- requests

    cdef Request *_request(self, int kind, int database, bytes key) except NULL:
        cdef Request *request
        if PyBytes_GET_SIZE(key) > MAX_KEY_BYTES_C:
            raise ValueError(f"a key of {PyBytes_GET_SIZE(key)} bytes; the largest has {MAX_KEY_BYTES_C}")
        request = self.batch.add()
        assert request != NULL
        request.kind = kind
        request.database = database
        request.key = PyBytes_AS_STRING(key)
        request.key_bytes = <uint32_t>PyBytes_GET_SIZE(key)
        return request

    cdef void _run(self) noexcept:
        self.set_time()
        self.engine.run(self.batch)

    cdef object _entry(self, Request *request, bint payload):
        cdef PinnedValue value
        data = b""
        if payload:
            if request.pinned:
                value = take_pin(
                    self.engine, request.page_list, request.out_page_count, request.out, request.out_tail_bytes,
                    request.out_bytes,
                )
                request.pinned = False
                data = value.tobytes()
                value.release()
            else:
                data = PyBytes_FromStringAndSize(request.out, request.out_tail_bytes)
        return Entry(
            data, request.out_bytes, request.out_expire_ms, ValueType(request.out_type), request.word,
            (<uint32_t>self.engine.now_ms - request.last_ms_before) // 1000, request.heat.hits,
        )

    def _read_sync(self, int database, keys, bint payload, bint touch) -> list:
        cdef Request *request
        cdef uint32_t i
        cdef list out = [None] * len(keys), waiting = list(range(len(keys))), part, again
        while waiting:
            part, again = waiting[:BATCH_REQUESTS], []
            try:
                for number in part:
                    request = self._request(KIND_READ, database, keys[number])
                    request.flags = (WANT_PAYLOAD if payload else 0) | (TOUCH if touch else 0)
                self._run()
                for i in range(self.batch.count):
                    request = &self.batch.requests[i]
                    if request.status == STATUS_UNREACHABLE:
                        raise ConnectionError("the memory node does not answer")
                    if request.status == STATUS_BUSY:
                        again.append(part[i])  # its turn comes when the others' pins are released
                    elif request.status == STATUS_OK:
                        out[part[i]] = self._entry(request, payload)
            finally:
                for i in range(self.batch.count):
                    if self.batch.requests[i].pinned:
                        self.engine.unpin(self.batch.requests[i].page_list[0])
                self.batch.clear()
            if len(again) == len(part):
                raise BlockingIOError("every pin is in use")
            waiting = again + waiting[BATCH_REQUESTS:]
        return out

    async def read(self, int database, bytes key, *, bint payload=True, bint touch=True):
        """Return the live entry under ``key`` or None."""
        return self._read_sync(database, (key,), payload, touch)[0]

    async def read_many(self, int database, keys, *, bint payload=True, bint touch=True):
        """Like ``read`` for many keys in a few rounds of the fabric."""
        return self._read_sync(database, list(keys), payload, touch)

    def pin(self, int database, bytes key) -> PinnedValue | None:
        """The large value under ``key`` as an object that keeps its pages; None for a miss or one without pages."""
        cdef Request *request
        self.batch.clear()
        try:
            request = self._request(KIND_READ, database, key)
            request.flags = WANT_PAYLOAD | TOUCH
            self._run()
            if request.status != STATUS_OK or not request.pinned:
                return None
            return take_pin(
                self.engine, request.page_list, request.out_page_count, request.out, request.out_tail_bytes, request.out_bytes
            )
        finally:
            self.batch.clear()

    cdef int _set_value(self, Request *request, object value, list held) except -1:
        """Point the request at the value's bytes; what must stay alive meanwhile goes to ``held``."""
        cdef StagedValue staged
        cdef const unsigned char[::1] view
        if isinstance(value, StagedValue):
            staged = value
            if staged.released or staged.received != staged.size_bytes:
                raise ValueError("a staged value that is incomplete, discarded or published already")
            request.value = staged.tail
            request.value_bytes = staged.size_bytes
            request.pages = staged.pages
            request.page_count = staged.page_count
            return 0
        if not len(value):
            return 0
        view = value
        held.append(view)
        if view.shape[0] > MAX_VALUE_BYTES:
            raise ValueError(f"a value of {view.shape[0]} bytes; the largest has {MAX_VALUE_BYTES}")
        request.value = <const char *>&view[0]
        request.value_bytes = view.shape[0]
        return 0

    def _write_sync(
        self, int database, bytes key, value, condition, expire_at_ms, keep_ttl, token, exact, keep_value, bytes parent=None
    ):
        cdef Request *request
        cdef list held = []
        cdef uint64_t parent_hash = 0
        cdef uint32_t depth = 0
        self.batch.clear()
        if parent is not None:
            request = self._request(KIND_READ, database, parent)
            request.flags = SILENT
            self._run()
            parent_hash = request.hash_low
            depth = min(65535, request.out_depth + 1 if request.status == STATUS_OK else 1)
            self.batch.clear()
        request = self._request(KIND_WRITE, database, key)
        try:
            request.condition = int(condition)
            request.expire_at_ms = expire_at_ms
            if parent is not None:
                request.flags |= HAS_PARENT
                request.parent_hash = parent_hash
                request.depth = <uint16_t>depth
            if keep_ttl:
                request.flags |= KEEP_TTL
            if exact:
                request.flags |= EXACT
                request.expected = token
            if keep_value:
                request.flags |= KEEP_VALUE
            else:
                self._set_value(request, value, held)
            self._run()
            if request.status == STATUS_OK and isinstance(value, StagedValue):
                value.published()
            return _STATUS.get(request.status, Status.CONFLICT)
        finally:
            self.batch.clear()

    async def write(
        self, int database, bytes key, value, *, condition=Condition.ALWAYS, int64_t expire_at_ms=-1, bint keep_ttl=False,
        bint want_previous=False, bytes parent=None,
    ):
        """Store ``value`` under ``key``, in a chain behind ``parent`` when there is one."""
        if not want_previous:
            while True:
                status = self._write_sync(database, key, value, condition, expire_at_ms, keep_ttl, 0, False, False, parent)
                if status is not Status.CONFLICT:
                    return WriteResult(status)
        while True:
            # The previous value is the one that the exact word named when it was replaced.
            previous = self._read_sync(database, (key,), True, True)[0]
            if condition == Condition.NX and previous is not None:
                return WriteResult(Status.PRESENT, previous)
            if previous is None:
                if condition == Condition.XX:
                    return WriteResult(Status.MISS)
                status = self._write_sync(database, key, value, Condition.NX, expire_at_ms, False, 0, False, False)
                if status is not Status.PRESENT:
                    return WriteResult(status)
                continue
            status = self._write_sync(
                database, key, value, Condition.ALWAYS, expire_at_ms, keep_ttl, previous.token, True, False
            )
            if status is not Status.CONFLICT:
                return WriteResult(status, previous)

    async def write_many(self, int database, pairs):
        """Store all pairs (MSET); later pairs win over earlier ones with the same key."""
        last = {}
        for key, value in pairs:
            old = last.pop(key, None)
            if isinstance(old, StagedValue):
                old.discard()
            last[key] = value
        for key, value in last.items():
            status = Status.CONFLICT
            while status is Status.CONFLICT:
                status = self._write_sync(database, key, value, Condition.ALWAYS, NO_EXPIRY, False, 0, False, False)
            if status is not Status.OK:
                return status
        return Status.OK

    async def replace(self, int database, bytes key, token, value, *, int64_t expire_at_ms):
        """Replace the exact entry that ``token`` names: its value (None keeps it) and its expiry."""
        return self._write_sync(
            database, key, value, Condition.ALWAYS, expire_at_ms, False, token, True, value is None
        )

    def _delete_sync(self, int database, keys, token=None) -> list:
        cdef Request *request
        cdef uint32_t i
        cdef list out = []
        seen = set()
        for start in range(0, len(keys), BATCH_REQUESTS):
            try:
                for key in keys[start : start + BATCH_REQUESTS]:
                    if key in seen:
                        continue
                    seen.add(key)
                    request = self._request(KIND_DELETE, database, key)
                    if token is not None:
                        request.flags |= EXACT
                        request.expected = token
                self._run()
                for i in range(self.batch.count):
                    out.append(_STATUS.get(self.batch.requests[i].status, Status.CONFLICT))
            finally:
                self.batch.clear()
        return out

    async def delete(self, int database, keys):
        """Delete keys; returns how many were there."""
        return self._delete_sync(database, list(keys)).count(Status.OK)

    async def delete_exact(self, int database, bytes key, token):
        """Delete the exact entry that ``token`` names; OK or CONFLICT."""
        return self._delete_sync(database, (key,), token)[0]

    async def exists(self, int database, keys):
        """Presence of each key, in order; a key that is there counts as used."""
        cdef Request *request
        cdef uint32_t i
        cdef list out = []
        keys = list(keys)
        for start in range(0, len(keys), BATCH_REQUESTS):
            try:
                for key in keys[start : start + BATCH_REQUESTS]:
                    request = self._request(KIND_LOOKUP, database, key)
                    request.flags = TOUCH
                self._run()
                for i in range(self.batch.count):
                    out.append(self.batch.requests[i].status == STATUS_OK)
            finally:
                self.batch.clear()
        return out

    # ------------------------------------------------------------- whole database

    def _scan_sets(self, uint64_t first, uint32_t count, int database) -> list:
        """Live keys of a database in ``count`` sets from ``first`` on."""
        cdef char sets[SCAN_SETS * SET_BYTES]
        cdef uint64_t words[SCAN_SETS * SLOTS_PER_SET]
        cdef uint32_t slots[SCAN_SETS * SLOTS_PER_SET]
        cdef FabricOp *ops
        cdef char *cells
        cdef CellHeader *header
        cdef uint32_t i, number, live = 0, size
        cdef uint64_t *slot
        cdef int64_t expiry
        cdef list out = []
        cdef Pool pool = self.engine.pool
        if pool.read_into(pool.set_offset(first), sets, count * SET_BYTES) != 0:
            raise ConnectionError("the memory node does not answer")
        for i in range(count):
            for number in range(SLOTS_PER_SET):
                slot = <uint64_t *>(sets + i * SET_BYTES + 16 + number * 16)
                if word_state(slot[0]) == STATE_LIVE and self.engine.valid_location(slot[0]):
                    words[live] = slot[0]
                    slots[live] = <uint32_t>((first + i) * SLOTS_PER_SET + number)
                    live += 1
        if live == 0:
            return out
        # Heads first: they hold most keys; longer ones are read again whole.
        cells = <char *>allocate(self.batch, live * SCAN_HEAD_BYTES)
        ops = <FabricOp *>allocate(self.batch, live * sizeof(FabricOp))
        memset(ops, 0, live * sizeof(FabricOp))
        for i in range(live):
            ops[i].opcode = OP_READ
            ops[i].offset = self.engine.cell_offset(word_location(words[i]), word_class(words[i]))
            ops[i].local = cells + i * SCAN_HEAD_BYTES
            ops[i].length = SCAN_HEAD_BYTES
        if pool.submit(ops, live) != 0:
            raise ConnectionError("the memory node does not answer")
        for i in range(live):
            header = <CellHeader *>(cells + i * SCAN_HEAD_BYTES)
            if header.slot != slots[i] or header.echo != <uint32_t>words[i]:
                # Overwritten since the set was read: the key may be there all the same.
                key = self._key_in_slot(slots[i], database)
                if key is not None:
                    out.append(key)
                continue
            if header.database != database or header.epoch != <uint32_t>pool.epochs[database]:
                continue
            expiry = cell_expiry_ms(header)
            if expiry >= 0 and expiry <= self.engine.now_ms:
                continue
            size = cell_prefix_bytes(header)
            if size + header.key_bytes <= SCAN_HEAD_BYTES:
                out.append(PyBytes_FromStringAndSize(cells + i * SCAN_HEAD_BYTES + size, header.key_bytes))
            else:
                key = self._key_in_slot(slots[i], database)
                if key is not None:
                    out.append(key)
        return out

    def _key_in_slot(self, uint32_t slot, int database) -> bytes | None:
        """The live key in a slot, read until header, key and slot belong together."""
        cdef uint64_t word = 0, after = 0
        cdef uint32_t size
        cdef char *cell
        cdef CellHeader *header
        cdef int64_t expiry
        cdef Pool pool = self.engine.pool
        for _attempt in range(SCAN_ATTEMPTS):
            if pool.read_into(pool.slot_offset(slot), &word, 8) != 0:
                raise ConnectionError("the memory node does not answer")
            if word_state(word) != STATE_LIVE or not self.engine.valid_location(word):
                return None
            size = CELL_BYTES[word_class(word)]
            if size > HEAD_BYTES_MAX + MAX_KEY_BYTES_C:
                size = HEAD_BYTES_MAX + MAX_KEY_BYTES_C
            copy = bytearray(size)
            cell = copy
            header = <CellHeader *>cell
            if (
                pool.read_into(self.engine.cell_offset(word_location(word), word_class(word)), cell, size) != 0
                or pool.read_into(pool.slot_offset(slot), &after, 8) != 0
            ):
                raise ConnectionError("the memory node does not answer")
            if after != word:
                continue
            if (
                header.slot != slot or header.echo != <uint32_t>word or header.database != database
                or header.epoch != <uint32_t>pool.epochs[database] or cell_prefix_bytes(header) + header.key_bytes > size
            ):
                return None
            expiry = cell_expiry_ms(header)
            if expiry >= 0 and expiry <= self.engine.now_ms:
                return None
            size = cell_prefix_bytes(header)
            return PyBytes_FromStringAndSize(cell + size, header.key_bytes)
        return None

    async def scan(self, int database, uint64_t cursor, int count):
        """Next cursor (0 at the end) and about ``count`` live keys; entries never move between slots."""
        cdef uint64_t total = self.engine.pool.geometry.set_count
        cdef uint64_t looked = 0
        cdef uint32_t step
        cdef list out = []
        self.set_time()
        if self.engine.keys[database] <= 0 and self.engine.pool.refresh_high_water() <= 1:
            return 0, out
        try:
            while cursor < total and len(out) < count and looked < SCAN_SETS_LIMIT:
                # Few sets at a time when few keys are wanted: COUNT 10 should not bring 200.
                step = SCAN_SETS if count - len(out) >= SCAN_SETS else max(1, count - len(out))
                if looked >= 256:
                    step = SCAN_SETS
                if cursor + step > total:
                    step = <uint32_t>(total - cursor)
                out += self._scan_sets(cursor, step, database)
                cursor += step
                looked += step
                self.batch.clear()
        finally:
            self.batch.clear()
        return (0 if cursor >= total else cursor), out

    async def random_key(self, int database):
        """Some live key, or None when the database is empty."""
        cdef uint64_t total = self.engine.pool.geometry.set_count
        cdef uint64_t start, looked = 0
        cdef uint32_t step
        cdef uint32_t slot
        self.set_time()
        if self.engine.keys[database] <= 0 and self.engine.pool.refresh_high_water() <= 1:
            return None
        try:
            for _attempt in range(64):
                if self.policy.resident_count == 0:
                    break
                slot = self.policy.residents[self.engine.next_random() % self.policy.resident_count]
                keys = self._scan_sets(slot // SLOTS_PER_SET, 1, database)
                self.batch.clear()
                if keys:
                    return keys[self.engine.next_random() % len(keys)]
            # Rare keys of this database among many of others: walk from a random set on.
            start = self.engine.next_random() % total
            while looked < total:
                step = SCAN_SETS
                if start + step > total:
                    step = <uint32_t>(total - start)
                keys = self._scan_sets(start, step, database)
                self.batch.clear()
                if keys:
                    return keys[self.engine.next_random() % len(keys)]
                looked += step
                start = (start + step) % total
            return None
        finally:
            self.batch.clear()

    def database_size(self, int database):
        """Counts for DBSIZE and INFO keyspace."""
        return DatabaseSize(max(0, self.engine.keys[database]), max(0, self.engine.expires[database]))

    async def flush(self, database):
        """Empty one database, or all of them: at once for every reader, memory comes back by and by."""
        cdef uint32_t examined = 0
        self.set_time()
        for number in range(self.engine.database_count) if database is None else (database,):
            self.engine.pool.advance_epoch(number)
            self.engine.keys[number] = 0
            self.engine.expires[number] = 0
            self.engine.stored_bytes[number] = 0
        # The first slice now: small databases are clean before the reply goes out.
        self.policy.begin_flushed_sweep()
        self.policy.sweep(FLUSH_SWEEP_ENTRIES, True, &examined)
        if self.on_release is not None:
            self.on_release()

    def maintain(self, double budget_ms) -> bool:
        """Background work for about ``budget_ms``: flushed and expired entries, and what a lower limit leaves no room for.

        True when it should soon be called again, before its usual time.
        """
        cdef uint32_t examined = 0, removed
        cdef int64_t total_expires = 0
        cdef int i
        cdef timespec begin, moment
        cdef double spent
        cdef bint shrinking, many, passed = self.policy.resident_count == 0
        cdef bint several = self.engine.pool.refresh_high_water() > 1
        self.set_time()
        clock_gettime(CLOCK_MONOTONIC, &begin)
        for i in range(self.engine.database_count):
            total_expires += self.engine.expires[i]
        if several:
            self.engine.allocator.harvest_all()
        while True:
            shrinking = self.policy.shrink()
            many = False
            if self.policy.sweep_left or (not passed and (total_expires > 0 or several)):
                removed = self.policy.sweep(MAINTAIN_ENTRIES, self.policy.sweep_left > 0, &examined)
                # Redis's rule: where more than a tenth of what was looked at had expired, look on for longer.
                many = removed * 10 > examined
                passed = self.policy.sweep_cursor == 0 or examined == 0
            elif not shrinking:
                return False
            clock_gettime(CLOCK_MONOTONIC, &moment)
            spent = (moment.tv_sec - begin.tv_sec) * 1e3 + (moment.tv_nsec - begin.tv_nsec) / 1e6
            if spent > budget_ms * (10 if many else 1):
                return many or shrinking or self.policy.sweep_left > 0

    # -------------------------------------------------------------------- chains

    async def prefix_info(self, int database, bytes key):
        """Chain facts of one key, or None when it is absent. Counting children looks at every resident."""
        cdef Request *request
        cdef uint64_t own_hash, parent_hash
        cdef uint32_t depth, hits, last_ms
        cdef uint64_t size_bytes
        self.batch.clear()
        try:
            request = self._request(KIND_READ, database, key)
            request.flags = SILENT
            self.set_time()
            self.engine.run(self.batch)
            if request.status != STATUS_OK:
                return None
            own_hash = request.hash_low
            parent_hash = request.out_parent_hash
            depth = request.out_depth
            size_bytes = request.out_bytes
            hits = request.heat.hits
            last_ms = request.heat.last_ms
        finally:
            self.batch.clear()
        parent = self._key_with_hash(database, parent_hash) if parent_hash else None
        return PrefixInfo(
            parent, depth, self._count_children(database, own_hash), hits,
            self.engine.now_ms - <uint32_t>(<uint32_t>self.engine.now_ms - last_ms), size_bytes, 0, 0,
        )

    def _key_with_hash(self, int database, uint64_t hash_low) -> bytes | None:
        """The live key of this hash, or None."""
        cdef uint64_t home = hash_low % self.engine.pool.geometry.set_count
        cdef uint64_t total = self.engine.pool.geometry.set_count
        cdef Request *request
        for distance in range(8):
            try:
                keys = self._scan_sets((home + distance) % total, 1, database)
            finally:
                self.batch.clear()
            for key in keys:
                try:
                    request = self._request(KIND_LOOKUP, database, key)
                    self.engine.set_hash(request)
                    if request.hash_low == hash_low:
                        return key
                finally:
                    self.batch.clear()
        return None

    def _count_children(self, int database, uint64_t own_hash) -> int:
        """Resident values that name this hash as their parent."""
        cdef uint32_t start = 0, i, count, children = 0, total = self.policy.resident_count
        cdef uint64_t words[256]
        cdef char heads[256 * 40]
        cdef FabricOp ops[256]
        cdef CellHeader *header
        cdef uint64_t parent
        cdef Pool pool = self.engine.pool
        while start < total:
            count = 256 if total - start > 256 else total - start
            memset(ops, 0, sizeof(ops))
            for i in range(count):
                ops[i].opcode = OP_READ
                ops[i].offset = pool.slot_offset(self.policy.residents[start + i])
                ops[i].local = &words[i]
                ops[i].length = 8
            if pool.submit(ops, count) != 0:
                return children
            for i in range(count):
                ops[i].offset = 0
                if word_state(words[i]) == STATE_LIVE and self.engine.valid_location(words[i]):
                    ops[i].offset = self.engine.cell_offset(word_location(words[i]), word_class(words[i]))
                ops[i].local = heads + i * 40
                ops[i].length = 40
            if pool.submit(ops, count) != 0:
                return children
            for i in range(count):
                header = <CellHeader *>(heads + i * 40)
                if (
                    word_state(words[i]) != STATE_LIVE or header.echo != <uint32_t>words[i] or not header.flags & CELL_HAS_PARENT
                    or header.database != database or header.epoch != <uint32_t>pool.epochs[database]
                ):
                    continue
                memcpy(&parent, heads + i * 40 + cell_prefix_bytes(header) - 8, 8)
                children += parent == own_hash
            start += count
        return children

    # --------------------------------------------------------------------- facts

    def counters(self) -> dict[str, int]:
        """Monotonic counts for INFO and PREFIX.STATS."""
        counts = dict(self.engine.counts)
        operations = self.engine.pool.fabric.operation_counts()
        return {**counts, **{f"fabric_{name}": value for name, value in operations.items()}}

    def memory(self) -> dict[str, object]:
        """The pool's state for INFO memory, in bytes unless the name says otherwise."""
        usage = self.engine.allocator.usage()
        geometry = self.engine.pool.layout()
        keys = sum(self.engine.keys[number] for number in range(self.engine.database_count))
        stored_bytes = sum(self.engine.stored_bytes[number] for number in range(self.engine.database_count))
        held_bytes = usage["cell_bytes"] + usage["payload_pages"] * PAGE_BYTES
        entry_bytes = SET_BYTES / SLOTS_PER_SET + HEAT_BYTES
        page_bytes = usage["pages_used"] * PAGE_BYTES
        cell_page_bytes = usage["cell_pages"] * PAGE_BYTES
        return {
            "used_bytes": page_bytes,
            "limit_bytes": usage["pages_limit"] * PAGE_BYTES,
            "pool_bytes": geometry["pool_bytes"],
            "page_bytes": PAGE_BYTES,
            "pages": usage["pages"],
            "pages_used": usage["pages_used"],
            "pages_payload": usage["payload_pages"],
            "pages_cells": usage["cell_pages"],
            "index_entries": geometry["slot_count"],
            "index_used": keys,
            "index_load": keys / geometry["slot_count"],
            "index_bytes": geometry["slot_count"] * entry_bytes,
            "stored_bytes": stored_bytes,
            "value_overhead_bytes_per_key": (held_bytes - stored_bytes) / keys if keys else 0.0,
            "index_bytes_per_key": geometry["slot_count"] * entry_bytes / keys if keys else 0.0,
            "index_bytes_per_key_at_half_load": entry_bytes * 2,
            "cell_bytes_used": usage["cell_bytes"],
            "cell_fragmentation": cell_page_bytes / usage["cell_bytes"] if usage["cell_bytes"] else 1.0,
            "cells": usage["cells"],
            "ghost_bytes": 0,
            "staged_bytes": self.staging.held_bytes,
            "pinned_bytes": self.engine.reclaimer.pinned_pages * PAGE_BYTES,
            "retired_values": self.engine.reclaimer.retired_count,
            "damaged": self.engine.counts.damaged,
        }
