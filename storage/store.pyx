# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Store: the surface that command handlers and the fast lane use."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from storage.interface import NO_EXPIRY, Condition, DatabaseSize, Entry, KeptAs, PrefixInfo, Status, ValueType, WriteResult

from storage.adoption cimport Adoption
from storage.batch cimport (
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
)
from storage.cluster cimport Cluster, Node
from storage.engine cimport DatabaseCounts, Engine, home_of
from storage.lease_desk cimport LeaseDesk
from storage.policy cimport EvictionPolicy
from storage.scans cimport SCAN_SETS, count_children, keys_in_sets
from storage.staging cimport PinnedValue, StagedValue, StagingArea, take_pin
from storage.words cimport (
    HEAT_BYTES,
    LOOKED_UP,
    MAX_DATABASES,
    MAX_KEY_BYTES_C,
    MAX_VALUE_BYTES,
    PAGE_BYTES,
    SET_BYTES,
    SLOTS_PER_SET,
    Heat,
)

cdef enum:
    BATCH_REQUESTS = 512    # requests of one run; longer ones are cut
    FLUSH_SWEEP_ENTRIES = 20000  # looked at before a flush is answered, 5 ms
    MAINTAIN_ENTRIES = 1024      # looked at between two looks at the clock
    IDLE_LOOKS = 10              # turns between two looks for what expired where this front end knows of nothing that will
    ADOPTION_UNITS = 16          # reads of some KiB between two looks at the clock
    ADOPTION_BUDGET_MS = 5       # of a turn while there is something to adopt
    DEATH_LOOK_MS = 200
    REMOTE_DEATH_LOOK_MS = 1000  # where each look is a message to the memory node for each other front end
    SPARING_BELOW_MS = 100       # a larger budget is somebody's who wants all of it done
    SCAN_SETS_LIMIT = 8192  # index sets that one SCAN call looks at before it answers with what it has
    CURSOR_NODE_SHIFT = 40  # a SCAN cursor: node above, set of its index below

MAX_KEY_BYTES = MAX_KEY_BYTES_C
LONGEST_IDLE_MS = 2**31 - 1  # that heat's clock of 32 bits tells from the future
MEET_DEADLINE_S = 0.5  # for the only other front end to write down what it counted; it looks up ten times a second
_STATUS = {int(status): status for status in Status}
_KEPT_AS = (KeptAs.VALUE, KeptAs.RAW, KeptAs.TEXT, KeptAs.VALUE)


cdef class Store:
    """Keys and values of every database in one pool, for one front end.

    Implements ``storage.interface.StoreInterface``. No coroutine ever suspends: over RDMA the stack that it runs on does (see
    storage.fabric.waiting), so other requests run between any two rounds of this one.
    """

    def __cinit__(self, pool, str policy="allkeys-lru", int databases=16):
        cdef Cluster cluster
        cdef Node node
        if not 1 <= databases <= MAX_DATABASES:
            raise ValueError(f"databases must lie between 1 and {MAX_DATABASES}")
        if isinstance(pool, Cluster):
            cluster = pool
        else:
            cluster = Cluster([Node("", Engine(pool), policy)])
        self.cluster = cluster
        self.databases = databases
        self.policy_name = policy
        self.shares = (0.25, 0.25)
        self.frequency = (10, 1)
        self.lookup_protection = (5000, 0.1)
        self.pairs_leave_together = True
        self.expires_actively = True
        self.desk = LeaseDesk(cluster)
        self.watermarks = (0.0, 0.0)
        self.staging = StagingArea(cluster.first.engine)
        for node in cluster.nodes:
            self._settle(node)
        self.manual_clock_ms = None
        self.set_time()

    def _settle(self, Node node) -> None:
        """Give a node its part of every limit."""
        if node.engine is None:
            return
        node.engine.database_count = self.databases
        node.engine.removals = self.removals
        node.engine.keeps_expired = self.is_paused
        node.policy.choose(self.policy_name)
        node.engine.frequency_log_factor, node.engine.frequency_decay_minutes = self.frequency
        self._protect(node)
        node.engine.allocator.set_limit_bytes(self.maxmemory // self.cluster.node_count)
        self.staging.set_limit_bytes(<uint64_t>(
            sum([(<Node>other).engine.allocator.limit_pages for other in self._nodes()]) * <double>PAGE_BYTES * self.shares[0]
        ))
        node.engine.allocator.on_low = self.on_low
        node.headroom.set_shares(low=self.watermarks[0], high=self.watermarks[1])
        node.engine.reclaimer.pinned_limit_pages = max(1, <uint64_t>(node.engine.allocator.limit_pages * <double>self.shares[1]))

    def share(self, membership, *, bint alone) -> None:
        """Other front ends may use this pool, of one node: ``membership`` proves which of them are dead.

        ``alone``: nobody else is there yet, and what earlier ones left was recovered.
        """
        cdef Node node = self.cluster.nodes[0]
        node.share(membership, alone=alone)
        if not alone and node.engine.pool.front_end_high_water == 2:
            node.adoption.meet(MEET_DEADLINE_S)

    def publish_counts(self) -> None:
        """Write down how many keys were counted here, for who comes next; otherwise that is done where somebody is there to read it."""
        for node in self._nodes():
            (<Node>node).engine.publish_counts(NULL)

    def replace_node(self, int number, Node node) -> None:
        """A memory node is back: from now on its keys are served by this one. What the old one knew is void."""
        nodes = list(self.cluster.nodes)
        nodes[number] = node
        self.cluster.replace(nodes)
        self._settle(node)
        if self.on_release is not None:
            self.on_release()

    # ------------------------------------------------------------------- time

    cdef int64_t now(self) noexcept:
        cdef timespec moment
        if self.manual_clock_ms is not None:
            return self.manual_clock_ms
        clock_gettime(CLOCK_REALTIME, &moment)
        return <int64_t>moment.tv_sec * 1000 + moment.tv_nsec // 1000000

    cdef void set_time(self) noexcept:
        cdef Node node
        self.cluster.now_ms = self.now()
        for node in self.cluster.nodes:
            if node.engine is not None:
                node.engine.now_ms = self.cluster.now_ms

    def set_clock(self, now_ms) -> None:
        """Use this time (Unix milliseconds) until told otherwise; None goes back to the system's clock."""
        self.manual_clock_ms = now_ms
        self.set_time()

    # ------------------------------------------------------------------ limits

    def set_maxmemory(self, uint64_t limit_bytes) -> None:
        """Bytes of pages that values may use, over all nodes; 0 means the whole pool."""
        self.maxmemory = limit_bytes
        for node in self.cluster.nodes:
            self._settle(node)

    def is_over_limit(self) -> bool:
        """Whether the limit leaves room for nothing at all, or is far below what is used while nothing may be evicted."""
        cdef uint64_t excess = 0, limit = 0
        cdef Node node
        if self.maxmemory == 0:
            return False
        for node in self._nodes():
            excess += node.engine.allocator.excess_pages()
            limit += node.engine.allocator.limit_pages
        return limit == 0 or (self.policy_name == "noeviction" and excess > 0)

    def set_shares(self, *, double inflight, double pinned) -> None:
        """Shares of the limit (0 to 1) that unfinished and unread values may hold."""
        self.shares = (inflight, pinned)
        for node in self.cluster.nodes:
            self._settle(node)

    def set_watermarks(self, *, double low, double high, on_low=None) -> None:
        """Keep pages free ahead of need: shares (0 to 1) of each node's limit, see storage.headroom. Low 0: whoever writes evicts.

        ``on_low`` is called from within a write when few are free: it has ``evict_ahead`` called soon, as ``maintain`` does some time.
        """
        self.watermarks = (low, high)
        self.on_low = on_low
        for node in self.cluster.nodes:
            self._settle(node)

    def evict_ahead(self, double budget_ms) -> bool:
        """Make pages free ahead of need for about ``budget_ms``: True when there is more to do."""
        self.set_time()
        nodes = self._nodes()
        return any([self._evict_ahead_on(node, budget_ms / len(nodes)) for node in nodes])

    def _evict_ahead_on(self, Node node, double budget_ms) -> bool:
        cdef timespec begin, moment
        clock_gettime(CLOCK_MONOTONIC, &begin)
        while not self.is_paused and not node.is_lost() and node.headroom.step():
            clock_gettime(CLOCK_MONOTONIC, &moment)
            if (moment.tv_sec - begin.tv_sec) * 1e3 + (moment.tv_nsec - begin.tv_nsec) / 1e6 >= budget_ms:
                return True
        return False

    # ----------------------------------------------------- who watches what changes

    def watch_removals(self, bint wanted) -> None:
        """Note from now on which keys expire or are evicted here, or stop that."""
        if wanted == (self.removals is not None):
            return
        self.removals = Removals() if wanted else None
        for node in self.cluster.nodes:
            if (<Node>node).engine is not None:
                (<Node>node).engine.removals = self.removals

    def take_removals(self) -> list:
        """What was noted since the last call: whether it was evicted (else it expired), its database, its key."""
        return self.removals.take() if self.removals is not None else []

    def take_lost_removals(self) -> int:
        """How many keys found no room among those since the last call."""
        return self.removals.take_lost() if self.removals is not None else 0

    async def stamps(self, int database, keys) -> list:
        """What each key is at this moment, None while it is absent: equal stamps mean that nobody changed it in between.

        Neither counts as an access.
        """
        cdef Request *request
        cdef Batch batch
        cdef uint32_t i
        cdef list out = []
        keys = list(keys)
        for start in range(0, len(keys), BATCH_REQUESTS):
            batch = self.cluster.take_batch()
            try:
                for key in keys[start : start + BATCH_REQUESTS]:
                    request = _add(batch, KIND_READ, database, key)
                    request.flags = SILENT
                self._run(batch)
                for i in range(batch.count):
                    request = &batch.requests[i]
                    if request.status == STATUS_UNREACHABLE:
                        raise self._unreachable(request)
                    out.append((<object>request.slot << 64) | request.word if request.status == STATUS_OK else None)
            finally:
                self.cluster.give_batch(batch)
        return out

    @property
    def engine(self) -> Engine:
        """The engine of the only node, or of the first."""
        return self.cluster.first.engine

    @property
    def policy(self) -> EvictionPolicy:
        """The eviction policy of the only node, or of the first."""
        return self.cluster.first.policy

    @property
    def pool(self):
        """The pool of the only node, or of the first."""
        return self.cluster.first.engine.pool

    @property
    def is_remote(self) -> bool:
        """Whether the pool lies on other machines: whoever uses the store then runs on a stack that may wait."""
        return self.cluster.first.engine.pool.fabric.is_remote

    def release_spares(self) -> int:
        """Give back what nobody reads any more, and the empty pages that cell classes keep for their next value; how many these were."""
        cdef Node node
        cdef uint64_t count = 0
        for node in self._nodes():
            node.engine.reclaimer.collect(True)
            count += node.engine.allocator.release_spares()
        return count

    def set_active_expiry(self, bint is_on) -> None:
        """Whether ``maintain`` looks for keys that have expired; otherwise they stay until somebody asks for them."""
        self.expires_actively = is_on

    def set_paused(self, bint is_paused) -> None:
        """Whether clients were promised that nothing changes: then nothing expires by itself or by being read, nor is evicted ahead of need."""
        cdef Node node
        self.is_paused = is_paused
        for node in self._nodes():
            node.engine.keeps_expired = is_paused

    def set_policy(self, str name) -> None:
        """Switch the eviction policy; KeyError for an unknown name."""
        cdef Node node
        for node in self._nodes():
            node.policy.choose(name)
        self.policy_name = name

    def set_frequency(self, *, uint32_t log_factor, uint32_t decay_minutes) -> None:
        """How slowly the LFU counter grows with accesses, and after how many minutes without one it falls by one (0: never)."""
        self.frequency = (log_factor, decay_minutes)
        for node in self.cluster.nodes:
            self._settle(node)

    def _nodes(self) -> list:
        """The nodes that answer."""
        return [node for node in self.cluster.nodes if not (<Node>node).is_lost()]

    def lost_node_of(self, int database, keys) -> str | None:
        """The name of a memory node that does not answer and that one of these keys lives on, or None."""
        cdef Batch batch
        cdef Request *request
        cdef Node node
        if self.cluster.node_count == 1 and not self.cluster.first.is_lost():
            return None
        batch = self.cluster.take_batch()
        try:
            for key in keys:
                if PyBytes_GET_SIZE(key) > MAX_KEY_BYTES_C:
                    continue
                batch.clear()
                request = _add(batch, KIND_LOOKUP, database, key)
                self.cluster.hash(request)
                node = self.cluster.nodes[request.node]
                if node.is_lost():
                    return node.name
            return None
        finally:
            self.cluster.give_batch(batch)

    cdef object _unreachable(self, Request *request):
        return ConnectionError(f"memory node {(<Node>self.cluster.nodes[request.node]).name} unreachable")

    # ---------------------------------------------------------------- requests

    cdef void _run(self, Batch batch) noexcept:
        self.set_time()
        self.cluster.run(batch)

    cdef object _entry(self, Request *request, bint payload):
        cdef PinnedValue value
        data = b""
        if payload:
            if request.pinned:
                value = self._take_pin(request)
                data = value.tobytes()
                value.release()
            else:
                data = PyBytes_FromStringAndSize(request.out, request.out_tail_bytes)
        return Entry(
            data, request.out_bytes, request.out_expire_ms, ValueType(request.out_type), (<object>request.slot << 64) | request.word,
            (<uint32_t>self.cluster.now_ms - request.last_ms_before) // 1000, request.heat.hits,
            self.cluster.engine_of(request).frequency_now(&request.heat), _KEPT_AS[request.out_kept_as & 3],
        )

    cdef PinnedValue _take_pin(self, Request *request):
        return take_pin(self.cluster.engine_of(request), request)

    def _read_sync(self, int database, keys, bint payload, bint touch) -> list:
        cdef Request *request
        cdef Batch batch
        cdef uint32_t i
        cdef list out = [None] * len(keys), waiting = list(range(len(keys))), part, again
        while waiting:
            part, again = waiting[:BATCH_REQUESTS], []
            batch = self.cluster.take_batch()
            try:
                for number in part:
                    request = _add(batch, KIND_READ, database, keys[number])
                    request.flags = (WANT_PAYLOAD if payload else 0) | (TOUCH if touch else 0)
                self._run(batch)
                for i in range(batch.count):
                    request = &batch.requests[i]
                    if request.status == STATUS_BUSY:
                        again.append(part[i])  # its turn comes when the others' pins are released
                    elif request.status == STATUS_OK:
                        out[part[i]] = self._entry(request, payload)
            finally:
                for i in range(batch.count):
                    if batch.requests[i].pinned:
                        self.cluster.engine_of(&batch.requests[i]).drop_pin(&batch.requests[i])
                self.cluster.give_batch(batch)
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
        cdef Batch batch = self.cluster.take_batch()
        try:
            request = _add(batch, KIND_READ, database, key)
            request.flags = WANT_PAYLOAD | TOUCH
            self._run(batch)
            if request.status != STATUS_OK or not request.pinned:
                return None
            return self._take_pin(request)
        finally:
            self.cluster.give_batch(batch)

    cdef StagedValue stage(self, int database, const char *key, uint32_t key_bytes, uint64_t size_bytes):
        """A place for a value of ``size_bytes`` that is about to arrive for this key; ConnectionError when its node is lost."""
        cdef Batch batch = self.cluster.take_batch()
        cdef Request *request
        cdef Node node
        try:
            request = batch.add()
            request.kind = KIND_WRITE
            request.database = database
            request.key = key
            request.key_bytes = key_bytes
            self.cluster.hash(request)
            node = self.cluster.nodes[request.node]
            if node.is_lost():
                raise self._unreachable(request)
            return StagedValue(self.staging, size_bytes, key_bytes, node.engine)
        finally:
            self.cluster.give_batch(batch)

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
        self, int database, bytes key, value, condition, expire_at_ms, keep_ttl, token, exact, keep_value, bytes parent=None,
        kept_as=0,
    ):
        cdef Request *request
        cdef Batch batch = self.cluster.take_batch()
        cdef list held = []
        cdef uint64_t parent_hash = 0
        cdef uint32_t depth = 0
        try:
            if parent is not None:
                request = _add(batch, KIND_READ, database, parent)
                request.flags = SILENT
                self._run(batch)
                parent_hash = request.hash_low
                depth = min(65535, request.out_depth + 1 if request.status == STATUS_OK else 1)
                batch.clear()
            request = _add(batch, KIND_WRITE, database, key)
            request.condition = int(condition)
            request.expire_at_ms = expire_at_ms
            request.kept_as = int(kept_as)
            if parent is not None:
                request.flags |= HAS_PARENT
                request.parent_hash = parent_hash
                request.depth = <uint16_t>depth
            if keep_ttl:
                request.flags |= KEEP_TTL
            if exact:
                _expect(request, token)
            if keep_value:
                request.flags |= KEEP_VALUE
            else:
                self._set_value(request, value, held)
            self._run(batch)
            if request.status == STATUS_UNREACHABLE:
                raise self._unreachable(request)
            if request.status == STATUS_OK and isinstance(value, StagedValue):
                value.published()
            return _STATUS.get(request.status, Status.CONFLICT)
        finally:
            self.cluster.give_batch(batch)

    async def write(
        self, int database, bytes key, value, *, condition=Condition.ALWAYS, int64_t expire_at_ms=-1, bint keep_ttl=False,
        bint want_previous=False, bytes parent=None, kept_as=0,
    ):
        """Store ``value`` under ``key``, in a chain behind ``parent`` when there is one."""
        if not want_previous:
            while True:
                status = self._write_sync(database, key, value, condition, expire_at_ms, keep_ttl, 0, False, False, parent, kept_as)
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
                status = self._write_sync(database, key, value, Condition.NX, expire_at_ms, False, 0, False, False, None, kept_as)
                if status is not Status.PRESENT:
                    return WriteResult(status)
                continue
            status = self._write_sync(
                database, key, value, Condition.ALWAYS, expire_at_ms, keep_ttl, previous.token, True, False, None, kept_as
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

    async def replace(self, int database, bytes key, token, value, *, int64_t expire_at_ms, kept_as=0):
        """Replace the exact entry that ``token`` names: its value (None keeps it) and its expiry."""
        return self._write_sync(
            database, key, value, Condition.ALWAYS, expire_at_ms, False, token, True, value is None, None, kept_as
        )

    def _delete_sync(self, int database, keys, token=None) -> list:
        cdef Request *request
        cdef Batch batch
        cdef uint32_t i
        cdef list out = []
        lost = None
        seen = set()
        for start in range(0, len(keys), BATCH_REQUESTS):
            batch = self.cluster.take_batch()
            try:
                for key in keys[start : start + BATCH_REQUESTS]:
                    if key in seen:
                        continue
                    seen.add(key)
                    request = _add(batch, KIND_DELETE, database, key)
                    if token is not None:
                        _expect(request, token)
                self._run(batch)
                for i in range(batch.count):
                    request = &batch.requests[i]
                    if request.status == STATUS_UNREACHABLE:
                        lost = self._unreachable(request)
                    out.append(_STATUS.get(request.status, Status.CONFLICT))
            finally:
                self.cluster.give_batch(batch)
        if lost is not None:
            raise lost
        return out

    async def delete(self, int database, keys):
        """Delete keys; returns how many were there. ConnectionError when a key's node is lost: the others are deleted then."""
        return self._delete_sync(database, list(keys)).count(Status.OK)

    async def delete_exact(self, int database, bytes key, token):
        """Delete the exact entry that ``token`` names; OK or CONFLICT."""
        return self._delete_sync(database, (key,), token)[0]

    async def exists(self, int database, keys):
        """Presence of each key, in order; a key that is there counts as used."""
        cdef Request *request
        cdef Batch batch
        cdef uint32_t i
        cdef list out = []
        keys = list(keys)
        for start in range(0, len(keys), BATCH_REQUESTS):
            batch = self.cluster.take_batch()
            try:
                for key in keys[start : start + BATCH_REQUESTS]:
                    request = _add(batch, KIND_LOOKUP, database, key)
                    request.flags = TOUCH
                self._run(batch)
                for i in range(batch.count):
                    out.append(batch.requests[i].status == STATUS_OK)
            finally:
                self.cluster.give_batch(batch)
        return out

    # -------------------------------------------------------------------- leases

    async def lease(self, int database, keys, int64_t until_ms):
        """Lease the leading keys that are there until a time: how many are safe from eviction till then at least."""
        self.set_time()
        return self.desk.lease(database, keys, until_ms)

    async def set_use(self, int database, bytes key, *, idle_ms=None, frequency=None):
        """Let a key that is there have been used so long ago, or so often (Redis's LFU counter, 0 to 255)."""
        cdef Batch batch = self.cluster.take_batch()
        cdef Request *request
        cdef Engine engine
        cdef Heat heat
        try:
            request = _add(batch, KIND_READ, database, key)
            request.flags = SILENT
            self._run(batch)
            if request.status != STATUS_OK:
                return
            engine = self.cluster.engine_of(request)
            if engine.pool.read_into(engine.pool.heat_offset(request.slot), &heat, HEAT_BYTES) != 0:
                return
            if idle_ms is not None:
                heat.last_ms = (<uint32_t>self.cluster.now_ms - <uint32_t>min(idle_ms, LONGEST_IDLE_MS)) & ~<uint32_t>LOOKED_UP
            if frequency is not None:
                heat.frequency = frequency
            engine.pool.write_from(engine.pool.heat_offset(request.slot), &heat, HEAT_BYTES)
        finally:
            self.cluster.give_batch(batch)

    async def unlease(self, int database, keys):
        """End the leases of some keys: how many had one."""
        self.set_time()
        return self.desk.unlease(database, keys)

    def set_protection(self, *, uint32_t lookup_ms, double lookup_share, double lease_share) -> None:
        """How long a look-up protects from eviction and how much of the blocks at most, and the share of memory that may be leased."""
        self.lookup_protection = (lookup_ms, lookup_share)
        self.desk.share = lease_share
        for node in self._nodes():
            self._protect(node)

    def set_pairs(self, *, bint leave_together) -> None:
        """Whether two keys that belong together are evicted together (storage.pairs)."""
        self.pairs_leave_together = leave_together
        for node in self._nodes():
            self._protect(node)

    cdef int _protect(self, Node node) except -1:
        node.policy.pairs.leave_together = self.pairs_leave_together
        node.engine.lookup_protection_ms, share = self.lookup_protection
        node.policy.protection.set_limits(node.engine.lookup_protection_ms, share)
        return 0

    # ------------------------------------------------------------- whole database

    def _keys_in_sets(self, Node node, uint64_t first, uint32_t count, int database) -> list:
        cdef Batch batch = self.cluster.take_batch()
        try:
            return keys_in_sets(node.engine, batch, first, count, database)
        finally:
            self.cluster.give_batch(batch)

    async def scan(self, int database, uint64_t cursor, int count):
        """Next cursor (0 at the end) and about ``count`` live keys; entries never move between slots.

        Nodes are walked one after the other; one that does not answer is passed over, as its keys are absent to readers.
        """
        cdef uint64_t total, position = cursor & ((<uint64_t>1 << CURSOR_NODE_SHIFT) - 1)
        cdef uint64_t number = cursor >> CURSOR_NODE_SHIFT
        cdef uint64_t looked = 0
        cdef uint32_t step
        cdef list out = []
        cdef Node node
        self.set_time()
        while number < self.cluster.node_count:
            node = self.cluster.nodes[number]
            total = 0
            if not node.is_lost() and node.may_hold(database):
                total = node.engine.pool.geometry.set_count
            while position < total and len(out) < count and looked < SCAN_SETS_LIMIT:
                # Few sets at a time when few keys are wanted: COUNT 10 should not bring 200.
                step = SCAN_SETS if count - len(out) >= SCAN_SETS else max(1, count - len(out))
                if looked >= 256 or node.engine.pool.fabric.is_remote:
                    step = SCAN_SETS
                if position + step > total:
                    step = <uint32_t>(total - position)
                try:
                    out += self._keys_in_sets(node, position, step, database)
                except ConnectionError:
                    position = total
                    break
                position += step
                looked += step
            if position < total:
                return number << CURSOR_NODE_SHIFT | position, out
            number += 1
            position = 0
            if len(out) >= count and number < self.cluster.node_count:
                return number << CURSOR_NODE_SHIFT, out
        return 0, out

    async def random_key(self, int database):
        """Some live key, or None when the database is empty."""
        cdef Node node
        self.set_time()
        nodes = [
            node for node in self._nodes() if (<Node>node).may_hold(database)
        ]
        if not nodes:
            return None
        # In proportion to what each holds, so that every key is about equally likely.
        weights = [max(1, (<Node>node).engine.keys[database]) for node in nodes]
        chosen = (<Node>nodes[0]).engine.next_random() % sum(weights)
        for position, weight in enumerate(weights):
            if chosen < weight:
                break
            chosen -= weight
        for node in nodes[position:] + nodes[:position]:
            try:
                key = self._random_key_of(node, database)
            except ConnectionError:
                continue  # lost meanwhile
            if key is not None:
                return key
        return None

    def _random_key_of(self, Node node, int database):
        cdef Engine engine = node.engine
        cdef uint64_t total = engine.pool.geometry.set_count
        cdef uint64_t start, looked = 0
        cdef uint32_t step, slot
        for _attempt in range(64):
            if node.policy.resident_count == 0:
                break
            slot = node.policy.residents[engine.next_random() % node.policy.resident_count]
            keys = self._keys_in_sets(node, slot // SLOTS_PER_SET, 1, database)
            if keys:
                return keys[engine.next_random() % len(keys)]
        # Rare keys of this database among many of others: walk from a random set on.
        start = engine.next_random() % total
        while looked < total:
            step = SCAN_SETS
            if start + step > total:
                step = <uint32_t>(total - start)
            keys = self._keys_in_sets(node, start, step, database)
            if keys:
                return keys[engine.next_random() % len(keys)]
            looked += step
            start = (start + step) % total
        return None

    def database_size(self, int database):
        """Counts for DBSIZE and INFO keyspace; those of lost nodes do not count."""
        cdef int64_t keys = 0, expires = 0
        cdef Node node
        cdef DatabaseCounts total
        for node in self._nodes():
            if node.count(database, &total):
                keys += max(0, total.keys)
                expires += max(0, total.expires)
        return DatabaseSize(keys, expires)

    async def flush(self, database):
        """Empty one database, or all of them: at once for every reader, memory comes back by and by.

        ConnectionError when a node is lost, after all others were emptied: what it holds may come back with it.
        """
        cdef uint32_t examined = 0
        cdef Node node
        self.set_time()
        lost = self.cluster.lost()
        for node in self._nodes():
            try:
                for number in range(self.databases) if database is None else (database,):
                    node.engine.note_epoch(<int>number, node.engine.pool.advance_epoch(number))
            except ConnectionError:
                lost.append(node.name)
                continue
            # The first slice now: small databases are clean before the reply goes out.
            node.policy.sweep(FLUSH_SWEEP_ENTRIES, True, &examined)
        if self.on_release is not None:
            self.on_release()
        if lost:
            raise ConnectionError(f"memory node {lost[0]} unreachable")

    def maintain(self, double budget_ms) -> bool:
        """Background work for about ``budget_ms``: flushed and expired entries, and what a lower limit leaves no room for.

        True when it should soon be called again, before its usual time.
        """
        self.set_time()
        nodes = self._nodes()
        return any([self._maintain_node(node, budget_ms / len(nodes)) for node in nodes])

    def _maintain_node(self, Node node, double budget_ms) -> bool:
        cdef uint32_t examined = 0, removed
        cdef int64_t total_expires = 0
        cdef int i
        cdef timespec begin, moment
        cdef double spent
        cdef Engine engine = node.engine
        cdef EvictionPolicy policy = node.policy
        cdef bint shrinking, many, sparing, passed = policy.resident_count == 0
        cdef bint several = engine.pool.refresh_high_water() > 1 or node.adoption is not None, sweeping = False
        clock_gettime(CLOCK_MONOTONIC, &begin)
        if node.adoption is not None:
            sweeping = self._adopt(node, begin.tv_sec * <int64_t>1000000 + begin.tv_nsec // 1000)
        for i in range(engine.database_count):
            total_expires += engine.expires[i]
        engine.reclaimer.collect(True)
        engine.reclaimer.lower_published()
        engine.leases.flush(engine.now_ms)
        policy.measure()
        # Each of these looks is a round trip, ten times a second and for nothing most of the time: there a little at a time.
        node.headroom.set_marks(engine.pool.front_end_high_water > 1)
        sparing = budget_ms < SPARING_BELOW_MS and (engine.pool.fabric.is_remote or (several and total_expires <= 0))
        if several:
            if sparing:
                engine.allocator.harvest_some()
            else:
                engine.allocator.harvest_all()
                if engine.allocator.spare_pages() < 0:
                    engine.allocator.release_spares()  # somebody may be waiting for them
            engine.look_at_epochs()
        if sparing and total_expires <= 0:
            policy.idle_looks += 1
            passed = passed or policy.idle_looks % IDLE_LOOKS != 0
        while not node.is_lost():
            shrinking = not self.is_paused and node.headroom.step()
            many = False
            if policy.sweep_left or (
                self.expires_actively and not self.is_paused and not passed and (total_expires > 0 or several)
            ):
                removed = policy.sweep(MAINTAIN_ENTRIES, policy.sweep_left > 0, &examined)
                # Redis's rule: where more than a tenth of what was looked at had expired, look on for longer.
                many = removed * 10 > examined
                passed = policy.sweep_cursor == 0 or examined == 0 or (sparing and total_expires <= 0)
            elif not shrinking:
                return sweeping
            clock_gettime(CLOCK_MONOTONIC, &moment)
            spent = (moment.tv_sec - begin.tv_sec) * 1e3 + (moment.tv_nsec - begin.tv_nsec) / 1e6
            if spent > budget_ms * (10 if many else 1):
                return sweeping or many or shrinking or policy.sweep_left > 0
        return False

    def _adopt(self, Node node, int64_t begin_us) -> bool:
        """A part of what is to be done for front ends that died; True when there is more, and it need not wait for anybody."""
        cdef timespec moment
        cdef Adoption adoption = node.adoption
        cdef int64_t now_ms = begin_us // 1000
        if now_ms - node.looked_at_ms >= (REMOTE_DEATH_LOOK_MS if self.is_remote else DEATH_LOOK_MS):
            node.looked_at_ms = now_ms
            for number in adoption.look_for_dead():
                if self.on_death is not None:
                    self.on_death(node.name, number)
            node.engine.pool.lower_high_water()
        node.engine.publish_counts(NULL)
        adoption.now_ms = <uint64_t>now_ms
        if not adoption.attend():
            if adoption.audit():
                return False
            while adoption.recount(ADOPTION_UNITS, <uint64_t>now_ms):
                clock_gettime(CLOCK_MONOTONIC, &moment)
                if moment.tv_sec * <int64_t>1000000 + moment.tv_nsec // 1000 - begin_us > ADOPTION_BUDGET_MS * 1000:
                    return True
            return False
        while adoption.work(ADOPTION_UNITS):
            clock_gettime(CLOCK_MONOTONIC, &moment)
            if moment.tv_sec * <int64_t>1000000 + moment.tv_nsec // 1000 - begin_us > ADOPTION_BUDGET_MS * 1000:
                return True
        # Our own part of a grace period that was just asked for.
        adoption.attend()
        return False

    # -------------------------------------------------------------------- chains

    def survey(self, int database):
        """Begin to look for the hottest blocks of a database."""
        from storage.hottest import HotSurvey  # it looks into stores

        return HotSurvey(self, database)

    async def prefix_info(self, int database, bytes key):
        """Chain facts of one key, or None when it is absent. Counting children looks at every resident."""
        cdef Request *request
        cdef Batch batch = self.cluster.take_batch()
        cdef Node node
        cdef uint64_t own_hash, parent_hash
        cdef uint32_t children = 0
        try:
            request = _add(batch, KIND_READ, database, key)
            request.flags = SILENT
            self._run(batch)
            if request.status != STATUS_OK:
                return None
            own_hash = request.hash_low
            parent_hash = request.out_parent_hash
            facts = (
                request.heat.hits, self.cluster.now_ms - <uint32_t>(<uint32_t>self.cluster.now_ms - request.heat.last_ms),
                request.out_bytes, request.out_lease_ms if request.out_lease_ms > self.cluster.now_ms else 0, request.node,
            )
            depth = request.out_depth
        finally:
            self.cluster.give_batch(batch)
        parent = self._key_with_hash(database, parent_hash) if parent_hash else None
        for node in self._nodes():
            children += count_children(node.engine, node.policy, database, own_hash)
        return PrefixInfo(parent, depth, children, *facts)

    def _key_with_hash(self, int database, uint64_t hash_low) -> bytes | None:
        """The live key of this hash, or None."""
        cdef Batch batch = self.cluster.take_batch()
        cdef Request *request
        cdef Node node
        cdef uint64_t total, home
        try:
            for node in self._nodes():
                total = node.engine.pool.geometry.set_count
                home = home_of(hash_low, node.engine.pool.epochs[database], total)
                for distance in range(8):
                    for key in self._keys_in_sets(node, (home + distance) % total, 1, database):
                        batch.clear()
                        request = _add(batch, KIND_LOOKUP, database, key)
                        self.cluster.hash(request)
                        if request.hash_low == hash_low:
                            return key
            return None
        finally:
            self.cluster.give_batch(batch)

    # --------------------------------------------------------------------- facts

    def counters(self) -> dict[str, int]:
        """Monotonic counts for INFO and PREFIX.STATS, over all nodes."""
        cdef Node node
        total = {"leases_refused": self.desk.refused}
        for node in self.cluster.nodes:
            if node.engine is None:
                continue
            counts = dict(node.engine.counts)
            for name, value in node.engine.pool.fabric.operation_counts().items():
                counts[f"fabric_{name}"] = value
            if node.engine.locations is not None:
                counts["location_cache_hits"] = node.engine.locations.hits
                counts["location_cache_stale"] = node.engine.locations.stale
                counts["location_cache_misses"] = node.engine.locations.misses
            if node.engine.hot_values is not None:
                counts["hot_value_hits"] = node.engine.hot_values.hits
                counts["hot_value_stale"] = node.engine.hot_values.stale
                counts["hot_values"] = node.engine.hot_values.listed
                counts["hot_value_bytes"] = node.engine.hot_values.used_bytes
            if node.engine.reuse.is_on:
                counts["reuse_refused"] = node.engine.reuse.refused
                counts["reuse_turns"] = node.engine.reuse.turns
            if node.adoption is not None:
                for name, value in node.adoption.facts().items():
                    counts[f"adoption_{name}"] = value
            for name, value in counts.items():
                total[name] = total.get(name, 0) + value
        return total

    def reuse_facts(self) -> dict[str, float]:
        """What allkeys-prefix has learned on the first node, see storage.reuse; nothing under other policies."""
        cdef Node node
        for node in self._nodes():
            if node.engine.reuse.is_on:
                return node.engine.reuse.facts()
        return {}

    def memory(self) -> dict[str, object]:
        """The pool's state for INFO memory, in bytes unless the name says otherwise, over all nodes that answer."""
        cdef Node node
        cdef DatabaseCounts total
        summed = {
            "pages": 0, "pages_limit": 0, "pages_used": 0, "payload_pages": 0, "cell_pages": 0, "cell_bytes": 0, "pool_bytes": 0,
            "slot_count": 0, "leased": 0, "keys": 0, "stored_bytes": 0, "pinned": 0, "retired": 0, "damaged": 0,
        }
        classes = {}
        for node in self._nodes():
            usage = node.engine.allocator.usage()
            for cell_bytes, pages, used, cells in usage.pop("cells"):
                before = classes.get(cell_bytes, (0, 0, 0))
                classes[cell_bytes] = (before[0] + pages, before[1] + used, before[2] + cells)
            geometry = node.engine.pool.layout()
            usage["pool_bytes"] = geometry["pool_bytes"]
            if node.adoption is not None:
                usage.update(node.adoption.pages_in_use())
            usage["slot_count"] = geometry["slot_count"]
            usage["keys"] = usage["stored_bytes"] = 0
            for number in range(self.databases):
                if node.count(number, &total):
                    usage["keys"] += total.keys
                    usage["stored_bytes"] += total.stored_bytes
            usage["pinned"] = node.engine.reclaimer.pinned_pages * PAGE_BYTES
            usage["leased"] = max(0, node.engine.leases.total(self.cluster.now_ms))
            usage["retired"] = node.engine.reclaimer.retired_count
            usage["damaged"] = node.engine.counts.damaged
            for name, value in usage.items():
                summed[name] += value
        keys = summed["keys"]
        slots = max(1, summed["slot_count"])
        held_bytes = summed["cell_bytes"] + summed["payload_pages"] * PAGE_BYTES
        entry_bytes = SET_BYTES / SLOTS_PER_SET + HEAT_BYTES
        return {
            "used_bytes": summed["pages_used"] * PAGE_BYTES,
            "limit_bytes": summed["pages_limit"] * PAGE_BYTES,
            "pool_bytes": summed["pool_bytes"],
            "page_bytes": PAGE_BYTES,
            "pages": summed["pages"],
            "pages_used": summed["pages_used"],
            "pages_payload": summed["payload_pages"],
            "leased_bytes": summed["leased"],
            "pages_cells": summed["cell_pages"],
            "index_entries": summed["slot_count"],
            "index_used": keys,
            "index_load": keys / slots,
            "index_bytes": summed["slot_count"] * entry_bytes,
            "stored_bytes": summed["stored_bytes"],
            "value_overhead_bytes_per_key": (held_bytes - summed["stored_bytes"]) / keys if keys else 0.0,
            "index_bytes_per_key": summed["slot_count"] * entry_bytes / keys if keys else 0.0,
            "index_bytes_per_key_at_half_load": entry_bytes * 2,
            "cell_bytes_used": summed["cell_bytes"],
            "cell_fragmentation": summed["cell_pages"] * PAGE_BYTES / summed["cell_bytes"] if summed["cell_bytes"] else 1.0,
            "cells": [(cell_bytes, *classes[cell_bytes]) for cell_bytes in sorted(classes)],
            "ghost_bytes": 0,
            "staged_bytes": self.staging.held_bytes,
            "pinned_bytes": summed["pinned"],
            "retired_values": summed["retired"],
            "damaged": summed["damaged"],
        }


cdef int _expect(Request *request, object token) except -1:
    """Act only on the entry that a token names: a slot, and the word that it held."""
    request.flags |= EXACT
    request.expected = <uint64_t>(token & 0xFFFFFFFFFFFFFFFF)
    request.expected_slot = <uint32_t>(token >> 64)
    return 0


cdef Request *_add(Batch batch, int kind, int database, bytes key) except NULL:
    """One more request of the batch. ValueError for a key that is too long."""
    cdef Request *request
    if PyBytes_GET_SIZE(key) > MAX_KEY_BYTES_C:
        raise ValueError(f"a key of {PyBytes_GET_SIZE(key)} bytes; the largest has {MAX_KEY_BYTES_C}")
    request = batch.add()
    assert request != NULL
    request.kind = kind
    request.database = database
    request.key = PyBytes_AS_STRING(key)
    request.key_bytes = <uint32_t>PyBytes_GET_SIZE(key)
    return request
