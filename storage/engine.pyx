# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Engine: runs batches of requests against the pool, round by round.

Every request is a small state machine. In one round each active request looks at the results of its
operations of the round before and appends new ones to the doorbell that all of them share; so a batch
costs as many dependent rounds as its longest request, whatever its size.
"""

cimport cython
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memset

from storage.batch cimport (
    CONDITION_NX,
    COUNT_AS_EXPIRED,
    KIND_EVICT,
    KIND_LOOKUP,
    KIND_READ,
    SILENT,
    STATUS_BUSY,
    STATUS_FULL,
    STATUS_INDEX_FULL,
    STATUS_MISS,
    STATUS_OK,
    STATUS_UNREACHABLE,
    TOUCH,
    Batch,
    NodeRound,
    Operations,
    Request,
    allocate,
    append_operation,
    note_released,
)
from storage.cells cimport CELL_BYTES, CELLS_IN_PAGE
from storage.change cimport step_change
from storage.fabric.base cimport OP_FAA, OP_READ, OP_WRITE, FabricOp
from storage.fabric.waiting cimport take_turns
from storage.hot_values cimport HotValues
from storage.locations cimport NO_STAMP, Location, LocationCache, is_settled
from storage.lookup cimport read_cell, read_proof, step_lookup
from storage.pages cimport PageAllocator
from storage.pool cimport GLOBAL_CLOCK, Pool
from storage.reclaim cimport Reclaimer
from storage.words cimport (
    CELL_CLASSES,
    CHANGE_COUNTERS,
    LOOKED_UP,
    MAX_DATABASES,
    MAX_DISTANCE,
    MAX_FRONT_ENDS,
    PAGE_HEAD_BYTES,
    SET_BYTES,
    SLOTS_PER_SET,
    STATE_LIVE,
    is_half,
    location_cell,
    location_page,
    make_overflow,
    overflow_count,
    overflow_distance,
    word1_binding,
    word1_distance,
    word1_tag,
    word_binding,
    word_class,
    word_has_ttl,
    word_location,
    word_state,
)

cdef enum:
    REMEMBERED_LEAST = 4     # look-ups of one batch and node that the location cache answers with one READ of the counters
    HEAT_INTERVAL_MS = 1000  # of a block that is remembered heat is written no oftener
    RESTARTS_LIMIT = 250     # of one request; every restart means that somebody else got further
    ROOM_ATTEMPTS_LIMIT = 32 # how often one request may ask for room before it is refused


CHANGE_BEGINS = 1
CHANGE_ENDS = <uint64_t>1 << 32


cdef class Room:
    """Makes no room at all (noeviction); the eviction policy overrides this."""

    cdef bint make_cell(self, uint32_t cell_class, uint32_t cells, uint32_t pages) noexcept nogil:
        return False

    cdef bint make_pages(self, uint32_t count) noexcept nogil:
        return False

    cdef bint make_slot(self, Request *request) noexcept nogil:
        return False

    cdef void note_insert(self, uint32_t slot) noexcept nogil:
        return

    cdef void note_flush(self) noexcept nogil:
        return


@cython.no_gc_clear  # values on their way use it until the end
cdef class Engine:
    """Index and values of one pool for one front end."""

    def __cinit__(self, Pool pool, int number=0, name=None, uint64_t location_entries=65536, uint64_t hot_values_bytes=0):
        self.pool = pool
        self.number = number
        self.name = name
        self.allocator = PageAllocator(pool)
        self.reclaimer = Reclaimer(pool, self.allocator)
        self.room = Room()
        self.leases = Leases(pool)
        self.lookup_protection_ms = 5000
        self.reuse = Reuse(pool)
        self.frequency_log_factor = 10
        self.frequency_decay_minutes = 1
        self.expiry_batch = Batch(64)
        self.database_count = 16
        self.random_state = <uint64_t>0x9E3779B97F4A7C15 ^ (<uint64_t>pool.front_end << 32)  # not all the same samples
        self._take_up_counts()
        if pool.fabric.is_remote and location_entries:
            self.locations = LocationCache(location_entries)
            if pool.read_into(pool.geometry.counters, self.locations.snapshot, sizeof(self.locations.snapshot)) == 0:
                self.locations.has_snapshot = True
            if hot_values_bytes:
                self.hot_values = HotValues(hot_values_bytes)

    # ---------------------------------------------------------------- rounds

    cdef void run(self, Batch batch) noexcept nogil:
        """Answer every request of the batch, all of this node; ``now_ms`` is the time for all of them."""
        cdef NodeRound *round = batch.rounds
        cdef int failed
        if batch.count == 0:
            return
        self.open(batch, round, False)
        while self.build(batch, round):
            failed = self.pool.fabric.execute(round.building.items, round.building.count) if round.building.count else 0
            if not self.settle(batch, round, failed):
                break
        self.close(batch, round)

    cdef void open(self, Batch batch, NodeRound *round, bint are_hashed) noexcept nogil:
        """Begin with this node's requests of a batch."""
        cdef uint32_t i
        cdef Request *request
        self.counts.batches += 1
        batch.now_ms = self.now_ms
        batch.now32 = <uint32_t>self.now_ms
        batch.round = round
        if self.reuse.is_on:
            self.reuse.begin()
        round.phase = self.reclaimer.begin_round()
        round.reads_epochs = True
        round.epoch_moves = self.pool.epoch_moves
        round.reads_counters = False
        round.remembered = 0
        for i in range(batch.count):
            request = &batch.requests[i]
            if batch.node_count > 1 and request.node != self.number:
                continue
            request.node = <uint8_t>self.number
            if request.kind == KIND_EVICT:
                continue
            if not are_hashed:
                hash_request(self.pool, request)
            if not self.has_pairs and is_half(request.key, request.key_bytes):
                self.has_pairs = True
            self.place(request)
            if self.locations is not None and request.kind == KIND_LOOKUP and self.locations.find(
                request.hash_low, request.hash_high, request.epoch
            ) != NULL:
                round.remembered += 1
            elif self.hot_values is not None and request.kind == KIND_READ and self.hot_values.find(
                request.hash_low, request.hash_high, request.epoch
            ) != NULL:
                round.remembered += 1
        # The counters are 4 KiB; below that many sets reading these moves less.
        round.reads_counters = round.remembered >= REMEMBERED_LEAST
        if round.reads_counters and round.counters == NULL:
            round.counters = <uint64_t *>calloc(CHANGE_COUNTERS, 8)
            if round.counters == NULL:
                round.reads_counters = False

    cdef bint build(self, Batch batch, NodeRound *round) noexcept nogil:
        """Write the next doorbell: every request looks at its results and adds what it needs next. False when all are answered."""
        cdef Request *request
        cdef uint32_t i, active
        while True:
            active = 0
            batch.round = round
            round.building.count = 0
            round.is_waiting = False
            self.clock += 1
            if round.reads_epochs:
                self._read_along(batch, round)
            for i in range(batch.count):
                request = &batch.requests[i]
                if request.state == DONE or (batch.node_count > 1 and request.node != self.number):
                    continue
                self._step(batch, request)
                if request.state != DONE:
                    active += 1
                    if request.state == AWAIT_MEMORY or request.state == AWAIT_INDEX:
                        round.is_waiting = True
            if self.pool.fabric.is_lost:
                self._refuse_all(batch)
                return False
            if active == 0:
                return False  # what is released goes behind the last doorbell
            # At last, since a step may wait: a place that is free here must not hold a name that goes out later.
            self._take_released(round, False)
            if round.building.count or round.is_waiting:
                return True
            # Every place of the hazard row is taken by others: they get further meanwhile.
            if not take_turns():
                self._refuse_all(batch)
                return False

    cdef bint settle(self, Batch batch, NodeRound *round, int failed) noexcept nogil:
        """Results of the doorbell are there, or it failed. False when nothing is left to do."""
        cdef Operations swapped
        batch.round = round
        self._drop_emptied(round)
        if failed:
            self._refuse_all(batch)
            return False
        swapped = round.finished
        round.finished = round.building
        round.building = swapped
        if round.reads_epochs:
            round.reads_epochs = False
            if round.clock_op and self.reuse.is_on:
                self.reuse.note_clock(round.finished.items[round.clock_op].result + round.finished.items[round.clock_op].compare)
            self._take_epochs(batch, round)
        if round.is_waiting:
            self._supply(batch)
        return True

    cdef void close(self, Batch batch, NodeRound *round) noexcept nogil:
        """Send off what nobody waits for, and clean up behind the batch."""
        batch.round = round
        self._take_released(round, True)
        if self.pool.front_end_high_water > 1:
            self.publish_counts(round)
        if round.trailing.count:
            self.pool.fabric.forget(self.pool.fabric.post(round.trailing.items, round.trailing.count))
            round.trailing.count = 0
        self._drop_emptied(round)
        if round.reads_counters:
            self.locations.take_snapshot(round.counters)
            round.reads_counters = False
        if self.reuse.is_on:
            self.reuse.end()
        self.reclaimer.end_round(round.phase)
        self.reclaimer.collect(False)
        if self.expired_count and not self.is_expiring:
            if self.keeps_expired:
                self.expired_count = 0
            else:
                self._remove_expired()

    cdef void _read_along(self, Batch batch, NodeRound *round) noexcept nogil:
        """With the first doorbell of a batch: the databases' epochs, and the change counters when they can prove something.

        And the clock of accesses moves by those of batches before.
        """
        cdef uint32_t accesses
        cdef FabricOp *op
        round.clock_op = 0
        emit(batch, OP_READ, self.pool.geometry.databases, round.epochs, self.database_count * 8)
        if round.reads_counters:
            emit(batch, OP_READ, self.pool.geometry.counters, round.counters, CHANGE_COUNTERS * 8)
        if self.reuse.is_on and self.pool.fabric.is_remote:
            accesses = self.reuse.take_pending()
            if accesses:
                round.clock_op = round.building.count
                op = emit(batch, OP_FAA, self.pool.geometry.globals + GLOBAL_CLOCK, NULL, 0)
                op.compare = accesses

    cdef void _take_released(self, NodeRound *round, bint trailing) noexcept nogil:
        """Empty the places of the hazard row that earlier requests of this batch needed."""
        cdef uint32_t i
        cdef FabricOp *op
        for i in range(round.released_count):
            op = append_operation(&round.trailing if trailing else &round.building)
            op.opcode = OP_WRITE
            op.offset = self.pool.hazard_offset(self.pool.front_end, round.released[i])
            op.local = &self.zero
            op.length = 8
        round.emptied_count = round.released_count

    cdef void _drop_emptied(self, NodeRound *round) noexcept nogil:
        """The zeros are out: only now may others take the places, or this zero might wipe out their names."""
        cdef uint32_t i
        for i in range(round.emptied_count):
            self.reclaimer.drop_hazard(round.released[i])
        for i in range(round.emptied_count, round.released_count):
            round.released[i - round.emptied_count] = round.released[i]
        round.released_count -= round.emptied_count
        round.emptied_count = 0

    cdef void _step(self, Batch batch, Request *request) noexcept nogil:
        if request.state == START:
            self.begin(batch, request)
        elif request.kind == KIND_READ or request.kind == KIND_LOOKUP:
            step_lookup(self, batch, request)
        else:
            step_change(self, batch, request)

    cdef void _take_epochs(self, Batch batch, NodeRound *round) noexcept nogil:
        """Another front end flushed a database: its requests begin anew under the new epoch."""
        cdef uint32_t i
        cdef Request *request
        # Other batches may have learnt of a flush since this one's keys were placed.
        if memcmp(round.epochs, self.pool.epochs, self.database_count * 8) == 0 and round.epoch_moves == self.pool.epoch_moves:
            return
        self.note_epochs(round.epochs)
        for i in range(batch.count):
            request = &batch.requests[i]
            if (
                request.state != DONE and (batch.node_count == 1 or request.node == self.number) and request.kind != KIND_EVICT
                and request.epoch != <uint32_t>self.pool.epochs[request.database]
            ):
                self.release_hazard(batch, request)
                self.place(request)
                request.state = START

    cdef void note_epoch(self, uint32_t database, uint64_t seen) noexcept nogil:
        """An epoch was read, or is one's own: if it is new nothing older counts, and what belongs to it is swept."""
        # Epochs only grow; what was read may be older than what is known since. And whoever flushed may learn of it after another batch, which
        # has counted new keys by then.
        if seen <= self.pool.epochs[database]:
            return
        self.pool.epochs[database] = seen
        self.pool.epoch_moves += 1
        self.keys[database] = 0
        self.expires[database] = 0
        self.stored_bytes[database] = 0
        self.room.note_flush()

    cdef void note_epochs(self, const uint64_t *seen) noexcept nogil:
        """The same for all databases."""
        cdef uint32_t i
        for i in range(self.database_count):
            self.note_epoch(i, seen[i])

    cdef void look_at_epochs(self) noexcept nogil:
        """Whether another front end has flushed a database, for one that is asked nothing and would not learn of it."""
        cdef uint64_t seen[MAX_DATABASES]
        if self.pool.read_into(self.pool.geometry.databases, seen, self.database_count * 8) == 0:
            self.note_epochs(seen)

    # ------------------------------------------------------------------ counts

    def _take_up_counts(self) -> None:
        """Whoever had this row before counted keys that are still there."""
        cdef uint32_t i
        if self.pool.read_into(self.pool.counts_offset(self.pool.front_end, 0), self.published, sizeof(self.published)) != 0:
            return
        self.publications = self.published[0].epoch >> 32
        for i in range(MAX_DATABASES):
            if <uint32_t>self.published[i].epoch == <uint32_t>self.pool.epochs[i]:
                self.keys[i] = self.published[i].keys
                self.expires[i] = self.published[i].expires
                self.stored_bytes[i] = self.published[i].stored_bytes

    cdef void forget_counts(self):
        """Begin at zero: every key will be counted anew."""
        memset(self.keys, 0, sizeof(self.keys))
        memset(self.expires, 0, sizeof(self.expires))
        memset(self.stored_bytes, 0, sizeof(self.stored_bytes))
        memset(self.published, 0, sizeof(self.published))
        self.published_changes = <uint64_t>-1  # what is counted anew is to be written even if nothing changes

    cdef uint64_t changes(self) noexcept nogil:
        """How often something was counted."""
        return (
            self.counts.inserted + self.counts.overwritten + self.counts.deleted + self.counts.expired + self.counts.evicted
            + self.pool.epoch_moves
        )

    cdef void publish_counts(self, NodeRound *round) noexcept nogil:
        """Write what has changed of this front end's counts, behind the batch of a round (nobody waits for it), or at once for NULL."""
        cdef uint64_t changes = self.changes()
        cdef uint64_t epoch
        cdef uint32_t i
        cdef FabricOp *op
        if changes == self.published_changes:
            return
        self.published_changes = changes
        self.publications += 1
        for i in range(self.database_count):
            epoch = <uint32_t>self.pool.epochs[i]
            if i == 0:
                epoch |= self.publications << 32
            if (
                self.published[i].epoch == epoch and self.published[i].keys == self.keys[i]
                and self.published[i].expires == self.expires[i] and self.published[i].stored_bytes == self.stored_bytes[i]
            ):
                continue
            self.published[i].epoch = epoch
            self.published[i].keys = self.keys[i]
            self.published[i].expires = self.expires[i]
            self.published[i].stored_bytes = self.stored_bytes[i]
            if round == NULL:
                self.pool.write_from(self.pool.counts_offset(self.pool.front_end, i), &self.published[i], sizeof(DatabaseCounts))
                continue
            op = append_operation(&round.trailing)
            op.opcode = OP_WRITE
            op.offset = self.pool.counts_offset(self.pool.front_end, i)
            op.local = &self.published[i]
            op.length = sizeof(DatabaseCounts)

    cdef bint total_counts(self, uint32_t database, DatabaseCounts *total) noexcept nogil:
        """What all front ends have counted, those that are gone too, and what a recount has put right. False when the node is lost."""
        cdef FabricOp ops[MAX_FRONT_ENDS + 1]
        cdef DatabaseCounts rows[MAX_FRONT_ENDS + 1]
        cdef uint32_t count, i, epoch
        self.look_at_epochs()  # another front end may have flushed
        epoch = <uint32_t>self.pool.epochs[database]
        memset(total, 0, sizeof(DatabaseCounts))
        total.keys = self.keys[database]
        total.expires = self.expires[database]
        total.stored_bytes = self.stored_bytes[database]
        count = MAX_FRONT_ENDS + 1
        memset(ops, 0, sizeof(ops))
        for i in range(count):
            ops[i].opcode = OP_READ
            ops[i].offset = self.pool.counts_offset(i, database)
            ops[i].local = &rows[i]
            ops[i].length = sizeof(DatabaseCounts)
        if self.pool.submit(ops, <int>count) != 0:
            return False
        for i in range(count):
            if i != <uint32_t>self.pool.front_end and <uint32_t>rows[i].epoch == epoch:
                total.keys += rows[i].keys
                total.expires += rows[i].expires
                total.stored_bytes += rows[i].stored_bytes
        return True

    cdef void _supply(self, Batch batch) noexcept nogil:
        """Make room for the requests that wait for memory or for a slot, or refuse them.

        Room is made for all of them together: what one was promised is not counted as free for the next. The first
        that asks is refused when nothing can be had; the ones behind it then wait for the next round instead.
        """
        cdef uint32_t promised_cells[CELL_CLASSES]
        cdef uint32_t promised_pages = 0
        cdef uint32_t i
        cdef Request *request
        cdef bint made, first = True
        memset(promised_cells, 0, sizeof(promised_cells))
        for i in range(batch.count):
            request = &batch.requests[i]
            if request.state != AWAIT_MEMORY and request.state != AWAIT_INDEX:
                continue
            made = False
            if request.memory_attempts < ROOM_ATTEMPTS_LIMIT:
                if request.state == AWAIT_INDEX:
                    made = self.room.make_slot(request)
                elif request.wanted_pages:
                    made = self.room.make_pages(promised_pages + request.wanted_pages)
                    if made:
                        promised_pages += request.wanted_pages
                else:
                    made = self.room.make_cell(
                        request.new_class, promised_cells[request.new_class] + 1, promised_pages
                    )
                    if made:
                        promised_cells[request.new_class] += 1
            if made:
                request.memory_attempts += 1
                request.state = START
            elif first or request.state == AWAIT_INDEX or request.memory_attempts >= ROOM_ATTEMPTS_LIMIT:
                self.finish(batch, request, STATUS_INDEX_FULL if request.state == AWAIT_INDEX else STATUS_FULL)
                continue
            else:
                return
            first = False

    cdef void _refuse_all(self, Batch batch) noexcept nogil:
        """The node is lost: its keys are absent to whoever reads, and refused to whoever changes them."""
        cdef uint32_t i
        for i in range(batch.count):
            if batch.requests[i].state != DONE and (batch.node_count == 1 or batch.requests[i].node == self.number):
                self.finish(batch, &batch.requests[i], STATUS_UNREACHABLE)

    cdef void _remove_expired(self) noexcept nogil:
        """Unlink the expired values that this run came across."""
        cdef Request *request
        cdef uint32_t i, count = self.expired_count
        self.is_expiring = True
        self.expired_count = 0
        for i in range(count):
            request = self.expiry_batch.add()
            if request == NULL:
                break
            request.kind = KIND_EVICT
            request.flags = COUNT_AS_EXPIRED
            request.slot = self.expired[i].slot
            request.expected = self.expired[i].word
        self.run(self.expiry_batch)
        self.expiry_batch.clear()
        self.is_expiring = False

    # ------------------------------------------------------- what states share

    cdef void place(self, Request *request) noexcept nogil:
        """Home and tag of a hashed key in the current epoch of its database."""
        cdef uint64_t epoch = self.pool.epochs[request.database]
        request.epoch = <uint32_t>epoch
        request.home = home_of(request.hash_low, epoch, self.pool.geometry.set_count)
        request.tag = tag_of(request.hash_high, epoch)

    cdef void begin(self, Batch batch, Request *request) noexcept nogil:
        """First operations: read the home set, or the cell of what is remembered, or for EVICT the slot and its cell."""
        cdef Location *location
        cdef uint64_t counter
        request.set_count = 0
        request.extended = False
        request.candidate = -1
        request.is_remembered = False
        if request.kind == KIND_EVICT:
            step_change(self, batch, request)
            return
        if self.hot_values is not None and request.kind == KIND_READ and read_proof(self, batch, request):
            return
        if self.locations is not None and request.kind <= KIND_READ:
            location = self.locations.find(request.hash_low, request.hash_high, request.epoch)
            if location == NULL:
                self.locations.misses += request.attempts == 0
            elif request.kind == KIND_READ or (batch.round.reads_epochs and batch.round.reads_counters):
                request.is_remembered = True
                request.slot = location.slot
                request.word = location.word
                request.stamp = location.stamp
                request.out_expire_ms = location.expire_at_ms
                if request.kind == KIND_READ:
                    # The slot is read again behind the cell, which proves it without any counter.
                    if location.seen:
                        request.stamp = location.seen
                    read_cell(self, batch, request)
                else:
                    request.state = REMEMBERED
                return
            if batch.round.reads_counters and not batch.round.reads_epochs:
                # Younger than the snapshot, and there before the set that is read now.
                counter = batch.round.counters[request.hash_high % CHANGE_COUNTERS]
                request.stamp = counter if is_settled(counter) else NO_STAMP
            else:
                request.stamp = self.locations.stamp_of(request.hash_high)
        self.read_sets(batch, request, 1)
        request.state = SETS

    cdef void read_sets(self, Batch batch, Request *request, uint32_t count) noexcept nogil:
        """Read ``count`` sets from the home on; copies of sets read before are read again."""
        cdef uint64_t total = self.pool.geometry.set_count
        cdef uint32_t first
        if count > total:
            count = <uint32_t>total
        if request.sets == NULL or count > request.set_count:
            request.sets = <char *>allocate(batch, count * SET_BYTES)
        request.set_count = count
        first = count if request.home + count <= total else <uint32_t>(total - request.home)
        emit(batch, OP_READ, self.pool.set_offset(request.home), request.sets, first * SET_BYTES)
        if first < count:
            emit(batch, OP_READ, self.pool.set_offset(0), request.sets + first * SET_BYTES, (count - first) * SET_BYTES)

    cdef int find_candidate(self, Request *request, int from_number) noexcept nogil:
        """Next LIVE slot with the key's tag, as distance * 7 + index, or -1."""
        cdef int distance, index
        cdef uint64_t *words
        cdef uint64_t word, word1
        distance = from_number // SLOTS_PER_SET
        index = from_number % SLOTS_PER_SET
        while distance < request.set_count:
            words = <uint64_t *>(request.sets + distance * SET_BYTES + 16) + index * 2
            while index < SLOTS_PER_SET:
                word1 = words[1]
                if word1_tag(word1) == request.tag:
                    word = words[0]
                    if (
                        word_state(word) == STATE_LIVE and word_binding(word) == word1_binding(word1)
                        and word1_distance(word1) == <uint32_t>distance
                    ):
                        request.word = word
                        request.slot = <uint32_t>(
                            ((request.home + distance) % self.pool.geometry.set_count) * SLOTS_PER_SET + index
                        )
                        return distance * SLOTS_PER_SET + index
                words += 2
                index += 1
            index = 0
            distance += 1
        return -1

    cdef void restart(self, Batch batch, Request *request) noexcept nogil:
        """Somebody changed what this request looked at: look again."""
        if request.is_remembered:
            self.locations.stale += 1
            self.locations.forget(request.hash_low, request.hash_high)
        else:
            self.counts.restarts += 1
            request.attempts += 1
        if request.raised:
            request.raised = False
            self.lower_overflow(request.home)
        if request.attempts >= RESTARTS_LIMIT:
            self.finish(batch, request, STATUS_BUSY)
            return
        self.begin(batch, request)

    cdef void finish(self, Batch batch, Request *request, uint8_t status) noexcept nogil:
        """The request is answered; what it allocated and did not publish goes back."""
        cdef bint is_lost = self.pool.fabric.is_lost
        if is_lost and status != STATUS_OK:
            status = STATUS_UNREACHABLE
        if status == STATUS_UNREACHABLE and request.kind <= KIND_READ:
            status = STATUS_MISS
        request.status = status
        request.state = DONE
        self.release_hazard(batch, request)
        if request.raised and not request.is_published:
            request.raised = False
            self.lower_overflow(request.home)
        # On a lost node nothing is known of what was under way: its books begin anew when it is back.
        if not request.is_published and not is_lost:
            if request.has_new_cell:
                self.allocator.free_cell(request.new_location, request.new_class)
                request.has_new_cell = False
            if request.pages_owned:
                self.allocator.free_pages(request.pages, request.page_count)
                request.pages_owned = False
            if request.has_list_page:
                self.allocator.free_pages(&request.list_page, 1)
                request.has_list_page = False
        if request.flags & SILENT:
            return
        if request.kind == KIND_READ or request.kind == KIND_LOOKUP:
            if status == STATUS_OK:
                self.counts.hits += 1
            elif status == STATUS_MISS:
                self.counts.misses += 1

    cdef void release_hazard(self, Batch batch, Request *request) noexcept nogil:
        """The name in the hazard row goes with the next doorbell, or behind the last."""
        if request.hazard >= 0:
            note_released(batch.round, request.hazard)
            request.hazard = -1

    cdef void count_change(self, Batch batch, Request *request, uint64_t addend) noexcept nogil:
        """Before (CHANGE_BEGINS) and after (CHANGE_ENDS) a LIVE slot word changes: what is remembered of the key cannot be proved any more."""
        cdef FabricOp *op
        if self.pool.fabric.is_remote:
            op = emit(batch, OP_FAA, self.pool.counter_offset(request.hash_high), NULL, 0)
            op.compare = addend

    cdef void remember(self, Request *request) noexcept nogil:
        """Keep where this key was found; its stamp was taken before the slot was read."""
        cdef Location *location
        if self.locations is None or request.stamp == NO_STAMP or request.is_remembered:
            return
        location = self.locations.remember(request.hash_low, request.hash_high)
        location.word = request.word
        location.slot = request.slot
        location.stamp = request.stamp
        location.seen = 0
        location.epoch = request.epoch
        location.expire_at_ms = request.out_expire_ms if word_has_ttl(request.word) else -1

    cdef uint32_t frequency_now(self, const Heat *heat) noexcept nogil:
        """The LFU counter as of now: one less for each decay time since the last access."""
        cdef int32_t idle_ms = <int32_t>(<uint32_t>self.now_ms - heat.last_ms)  # another front end's clock may be ahead
        cdef uint32_t periods = 0
        if self.frequency_decay_minutes and idle_ms > 0:
            periods = <uint32_t>idle_ms // 60000 // self.frequency_decay_minutes
        return heat.frequency - periods if periods < heat.frequency else 0

    cdef uint32_t used_at(self, Batch batch, Request *request, uint32_t before) noexcept nogil:
        """The time of this access as heat holds it. Who looked for it a moment ago is still promised that it is there."""
        # Deeper blocks count as used earlier: of a chain used at one time the tail is evicted first.
        cdef uint32_t moment = (batch.now32 - request.rank) & ~<uint32_t>LOOKED_UP
        return moment | LOOKED_UP if before & LOOKED_UP and batch.now32 - before < self.lookup_protection_ms else moment

    cdef void touch_last(self, Batch batch, Request *request, bint is_lookup) noexcept nogil:
        """Refresh the time of the last access, and nothing else (4 bytes, nobody waits)."""
        cdef FabricOp *op
        cdef Location *location
        request.touched_ms = self.used_at(batch, request, 0) | (LOOKED_UP if is_lookup else 0)
        if self.locations is not None and is_lookup:
            location = self.locations.find(request.hash_low, request.hash_high, request.epoch)
            if location != NULL:
                if location.touched_ms and <int32_t>(request.touched_ms - location.touched_ms) < HEAT_INTERVAL_MS:
                    return  # a message for each block of a hot chain would cost more than its look-up
                location.touched_ms = request.touched_ms
        op = append_operation(&batch.round.trailing)
        op.opcode = OP_WRITE
        op.offset = self.pool.heat_offset(request.slot)
        op.local = &request.touched_ms
        op.length = 4

    cdef void queue_expired(self, uint32_t slot, uint64_t word) noexcept nogil:
        if self.expired_count < 64:
            self.expired[self.expired_count].slot = slot
            self.expired[self.expired_count].word = word
            self.expired_count += 1

    cdef void lower_overflow(self, uint64_t home) noexcept nogil:
        """One entry less lives away from ``home``; with the last one look-ups need the home set alone."""
        cdef uint64_t seen = 0, found, wanted
        cdef uint32_t count
        self.pool.read_into(self.pool.set_offset(home), &seen, 8)
        while True:
            count = overflow_count(seen)
            if count == 0:
                return
            wanted = make_overflow(seen, overflow_distance(seen) if count > 1 else 0, count - 1)
            found = self.pool.compare_and_swap(self.pool.set_offset(home), seen, wanted)
            if found == seen:
                return
            seen = found

    cdef uint64_t cell_offset(self, uint32_t location, uint32_t cell_class) noexcept nogil:
        return (
            self.pool.page_offset(location_page(location)) + PAGE_HEAD_BYTES
            + <uint64_t>location_cell(location) * CELL_BYTES[cell_class]
        )

    cdef bint valid_location(self, uint64_t word) noexcept nogil:
        """Whether a LIVE word points to a cell that exists: a damaged pool, or a word that was read torn, must not send anyone astray."""
        cdef uint32_t location = word_location(word)
        cdef uint32_t cell_class = word_class(word)
        return (
            cell_class < CELL_CLASSES and location_page(location) < self.pool.geometry.page_count
            and location_cell(location) < CELLS_IN_PAGE[cell_class]
        )

    cdef bint is_damaged(self, uint64_t slot, uint64_t word) noexcept nogil:
        """Whether a word that names no cell stays as it is: else one half of it was read before a change and one after it."""
        cdef uint64_t again = 0
        if self.pool.read_into(self.pool.slot_offset(slot), &again, 8) != 0 or again != word:
            return False
        self.counts.damaged += 1
        return True

    cdef void unpin(self, uint32_t first_page) noexcept nogil:
        self.reclaimer.release_pin(first_page)

    cdef void drop_pin(self, Request *request) noexcept nogil:
        """A pinned answer is not sent."""
        request.pinned = False
        if request.filling != NULL:
            self.hot_values.release(request.filling)
            request.filling = NULL
        if request.copy != NULL:
            self.hot_values.release(request.copy)
            request.copy = NULL
        else:
            self.reclaimer.release_pin(request.page_list[0])

    cdef uint64_t next_random(self) noexcept nogil:
        # xorshift64* (Vigna 2016): sampling needs speed and no secrecy.
        self.random_state ^= self.random_state >> 12
        self.random_state ^= self.random_state << 25
        self.random_state ^= self.random_state >> 27
        return self.random_state * <uint64_t>2685821657736338717
