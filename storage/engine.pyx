# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Engine: runs batches of requests against the pool, round by round.

Every request is a small state machine. In one round each active request looks at the results of its
operations of the round before and appends new ones to the doorbell that all of them share; so a batch
costs as many dependent rounds as its longest request, whatever its size.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

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
    Operations,
    Request,
    append_operation,
    allocate,
)
from storage.cells cimport CELL_BYTES, CELLS_IN_PAGE
from storage.change cimport step_change
from storage.fabric.base cimport OP_READ, OP_WRITE, FabricOp
from storage.hashing cimport KeyHash, hash_key
from storage.lookup cimport step_lookup
from storage.pages cimport PageAllocator
from storage.pool cimport Pool
from storage.reclaim cimport Reclaimer
from storage.words cimport (
    CELL_CLASSES,
    MAX_DATABASES,
    MAX_DISTANCE,
    PAGE_HEAD_BYTES,
    SET_BYTES,
    SLOTS_PER_SET,
    STATE_LIVE,
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
    word_location,
    word_state,
)

cdef enum:
    RESTARTS_LIMIT = 250     # of one request; every restart means that somebody else got further
    ROOM_ATTEMPTS_LIMIT = 32 # how often one request may ask for room before it is refused


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


cdef class Engine:
    """Index and values of one pool for one front end."""

    def __cinit__(self, Pool pool):
        self.pool = pool
        self.allocator = PageAllocator(pool)
        self.reclaimer = Reclaimer(pool, self.allocator)
        self.room = Room()
        self.expiry_batch = Batch(64)
        self.database_count = 16
        self.random_state = 0x9E3779B97F4A7C15

    # ---------------------------------------------------------------- rounds

    cdef void run(self, Batch batch) noexcept nogil:
        """Answer every request of the batch; ``now_ms`` is the time for all of them."""
        cdef uint64_t epochs[MAX_DATABASES]
        cdef Operations swapped
        cdef FabricOp *op
        cdef Request *request
        cdef uint32_t i, active
        cdef bint first = True, waiting
        if batch.count == 0:
            return
        self.counts.batches += 1
        batch.now32 = <uint32_t>self.now_ms
        for i in range(batch.count):
            self.set_hash(&batch.requests[i])
        while True:
            batch.building.count = 0
            if first:
                op = append_operation(&batch.building)
                op.opcode = OP_READ
                op.offset = self.pool.geometry.databases
                op.local = epochs
                op.length = self.database_count * 8
            active = 0
            waiting = False
            for i in range(batch.count):
                request = &batch.requests[i]
                if request.state == DONE:
                    continue
                self._step(batch, request)
                if request.state != DONE:
                    active += 1
                    if request.state == AWAIT_MEMORY or request.state == AWAIT_INDEX:
                        waiting = True
            if batch.building.count:
                if self.pool.submit(batch.building.items, batch.building.count) != 0:
                    self._refuse_all(batch)
                    break
                swapped = batch.finished
                batch.finished = batch.building
                batch.building = swapped
            if active == 0:
                break
            if first:
                first = False
                if self._epochs_moved(batch, epochs):
                    first = True
                    continue
            if waiting:
                self._supply(batch)
        if batch.trailing.count:
            self.pool.submit(batch.trailing.items, batch.trailing.count)
            batch.trailing.count = 0
        self.reclaimer.collect()
        if self.expired_count:
            self._remove_expired()

    cdef void _step(self, Batch batch, Request *request) noexcept nogil:
        if request.state == START:
            self.begin(batch, request)
        elif request.kind == KIND_READ or request.kind == KIND_LOOKUP:
            step_lookup(self, batch, request)
        else:
            step_change(self, batch, request)

    cdef bint _epochs_moved(self, Batch batch, const uint64_t *seen) noexcept nogil:
        """Another front end flushed a database: hash again under the new epochs and begin anew."""
        cdef uint32_t i
        if memcmp(seen, self.pool.epochs, self.database_count * 8) == 0:
            return False
        for i in range(self.database_count):
            if seen[i] != self.pool.epochs[i]:
                self.pool.epochs[i] = seen[i]
                self.keys[i] = 0
                self.expires[i] = 0
                self.stored_bytes[i] = 0
        for i in range(batch.count):
            batch.requests[i].state = START
            self.set_hash(&batch.requests[i])
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
        cdef uint32_t i
        for i in range(batch.count):
            if batch.requests[i].state != DONE:
                self.finish(batch, &batch.requests[i], STATUS_UNREACHABLE)

    cdef void _remove_expired(self) noexcept nogil:
        """Unlink the expired values that this run came across."""
        cdef Request *request
        cdef uint32_t i, count = self.expired_count
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

    # ------------------------------------------------------- what states share

    cdef void set_hash(self, Request *request) noexcept nogil:
        cdef KeyHash key_hash
        cdef uint64_t epoch
        if request.kind == KIND_EVICT:
            return
        # Database and epoch are part of the hash: a flush makes every older entry unreachable at once.
        epoch = self.pool.epochs[request.database]
        key_hash = hash_key(
            self.pool.secret_low ^ ((epoch << 8 | request.database) * <uint64_t>0x9E3779B97F4A7C15),
            self.pool.secret_high, request.key, request.key_bytes,
        )
        request.epoch = <uint32_t>epoch
        request.hash_low = key_hash.low
        request.hash_high = key_hash.high
        request.home = key_hash.low % self.pool.geometry.set_count
        request.tag = key_hash.high >> 16

    cdef void begin(self, Batch batch, Request *request) noexcept nogil:
        """First operations: read the home set, or for EVICT the slot and its cell."""
        request.set_count = 0
        request.extended = False
        request.candidate = -1
        if request.kind == KIND_EVICT:
            step_change(self, batch, request)
            return
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
        request.first_op = batch.building.count
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
        request.status = status
        request.state = DONE
        if request.raised and not request.is_published:
            request.raised = False
            self.lower_overflow(request.home)
        if request.hazard >= 0:
            emit(batch, OP_WRITE, self.pool.hazard_offset(self.pool.front_end, request.hazard), &request.zero, 8
            )
            self.reclaimer.drop_hazard(request.hazard)
            request.hazard = -1
        if not request.is_published:
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

    cdef void touch_last(self, Batch batch, Request *request) noexcept nogil:
        """Refresh the time of the last access, and nothing else (4 bytes, nobody waits)."""
        cdef FabricOp *op = append_operation(&batch.trailing)
        op.opcode = OP_WRITE
        op.offset = self.pool.heat_offset(request.slot)
        # A millisecond earlier for every block before it: of a chain used at one time the tail is evicted first.
        request.touched_ms = batch.now32 - request.rank
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
        """Whether a LIVE word points to a cell that exists (a damaged pool must not send anyone astray)."""
        cdef uint32_t location = word_location(word)
        cdef uint32_t cell_class = word_class(word)
        if (
            cell_class < CELL_CLASSES and location_page(location) < self.pool.geometry.page_count
            and location_cell(location) < CELLS_IN_PAGE[cell_class]
        ):
            return True
        self.counts.damaged += 1
        return False

    cdef void unpin(self, uint32_t first_page) noexcept nogil:
        self.reclaimer.release_pin(first_page)

    cdef uint64_t next_random(self) noexcept nogil:
        # xorshift64* (Vigna 2016): sampling needs speed and no secrecy.
        self.random_state ^= self.random_state >> 12
        self.random_state ^= self.random_state << 25
        self.random_state ^= self.random_state >> 27
        return self.random_state * <uint64_t>2685821657736338717
