# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Large values on their way: staged ones that are being received, pinned ones that are being sent."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from storage.batch cimport Request
from storage.engine cimport Engine
from storage.fabric.base cimport OP_READ, OP_STAGED, OP_WRITE, STAGING_BYTES, Fabric, FabricOp
from storage.hot_values cimport payload_copy
from storage.words cimport HEAD_BYTES_MAX, MAX_CELL_BYTES, MAX_VALUE_BYTES, PAGE_BYTES, PAGE_PAYLOAD

cdef enum:
    WINDOW_PAGES = 64          # claimed ahead of the bytes: 4 MiB at a time, what one recv can bring
    EVICTED_PAGES = 4          # evicted for at a time where fewer are free: 4 000 of the smallest values at most, some 2 ms
    BUFFER_PAGES = 4           # of one staging buffer: STAGING_BYTES
    SENT_LIMIT = 8             # buffers of one value that are on their way to its node: 2 MiB


@cython.no_gc_clear
cdef class StagingArea:
    """What all unfinished values may hold together, and who may go on when that is used up."""

    def __cinit__(self, Engine engine):
        self.engine = engine
        self.limit_pages = engine.pool.geometry.page_count // 4
        self.unfinished = []

    def set_limit_bytes(self, uint64_t limit_bytes) -> None:
        """Pages that unfinished values may hold together; the oldest one may pass it."""
        self.limit_pages = max(1, limit_bytes // PAGE_BYTES)

    @property
    def held_bytes(self) -> int:
        """Bytes of pool pages that unfinished values hold."""
        return self.pages_held * PAGE_BYTES


@cython.no_gc_clear  # dropped in a cycle with its store it gives its pages back all the same
cdef class StagedValue:
    """A large argument that is received straight into pool pages and not yet published.

    Pages are claimed as bytes arrive, never on the strength of the announced length. ``discard`` gives
    them back; ``published`` says that they belong to a published value now.
    """

    def __cinit__(self, StagingArea area, uint64_t size_bytes, uint32_t key_bytes, Engine engine=None):
        cdef uint64_t whole = size_bytes // PAGE_BYTES
        cdef uint32_t rest = <uint32_t>(size_bytes % PAGE_BYTES)
        cdef uint64_t list_bytes = whole * 4
        self.area = area
        self.engine = area.engine if engine is None else engine
        self.size_bytes = size_bytes
        self.released = True  # nothing to give back, should this end in an exception
        if size_bytes > MAX_VALUE_BYTES:
            raise ValueError(f"a value of {size_bytes} bytes; the largest has {MAX_VALUE_BYTES}")
        if HEAD_BYTES_MAX + key_bytes + list_bytes > MAX_CELL_BYTES:
            list_bytes = 4  # the list goes to a page of its own
        if rest and HEAD_BYTES_MAX + key_bytes + list_bytes + rest > MAX_CELL_BYTES and list_bytes > 4:
            list_bytes = 4 if HEAD_BYTES_MAX + key_bytes + 4 + rest <= MAX_CELL_BYTES else list_bytes
        if rest and HEAD_BYTES_MAX + key_bytes + list_bytes + rest <= MAX_CELL_BYTES:
            self.in_pages = whole * PAGE_BYTES
            self.page_count = <uint32_t>whole
            self.tail = <char *>malloc(rest)
            if self.tail == NULL:
                raise MemoryError("no memory for the tail of a value")
        else:
            self.in_pages = size_bytes
            self.page_count = <uint32_t>(whole + (1 if rest else 0))
        self.pages = <uint32_t *>malloc((self.page_count + 1) * 4)
        if self.pages == NULL:
            raise MemoryError("no memory for a page list")
        # A number and not the object: one that is dropped gives its pages back.
        area.begun += 1
        self.number = area.begun
        self.holder = <uint32_t>area.begun or 1
        area.unfinished.append(self.number)
        self.released = False

    def __dealloc__(self):
        if not self.released:
            self._release(True)
        free(self.pages)
        free(self.tail)
        free(self.operations)

    cdef int share_turn(self, StagedValue earlier) except -1:
        """Count as one with an earlier value of the same command, or the first would be the one that the second waits for."""
        cdef list unfinished = self.area.unfinished
        unfinished.remove(self.number)
        self.number = earlier.number
        unfinished.insert(unfinished.index(self.number), self.number)
        return 0

    cdef int reserve(self) except -1:
        """Claim the pages that the next bytes need; a StageResult."""
        cdef uint64_t used_pages = (self.received + PAGE_BYTES) // PAGE_BYTES
        cdef uint32_t wanted
        cdef uint8_t phase
        cdef Fabric fabric = self.engine.pool.fabric
        if self.received >= self.in_pages:
            return STAGE_OK
        if fabric.is_remote and self.buffer == NULL:
            if self.sent_count == SENT_LIMIT:
                self._settle(SENT_LIMIT - 1)
            self.buffer = fabric.take_staging()
            if self.buffer == NULL and self.sent_count:
                self._settle(0)
                self.buffer = fabric.take_staging()
            if self.buffer == NULL:
                return STAGE_WAIT
            self.buffer_start = self.received
        if self.claimed >= used_pages:
            return STAGE_OK
        if self.page_count >= self.engine.allocator.limit_pages:
            return STAGE_FULL  # not even an empty pool holds it and its cell: nothing is evicted for it
        wanted = self.page_count - self.claimed
        if wanted > WINDOW_PAGES:
            wanted = WINDOW_PAGES
        if wanted > EVICTED_PAGES and self.engine.allocator.spare_pages() < <int64_t>wanted:
            # A little at a time, and others have their turn in between; what background eviction has made free is taken as a whole.
            wanted = EVICTED_PAGES
            if self.engine.allocator.spare_pages() > EVICTED_PAGES:
                wanted = <uint32_t>self.engine.allocator.spare_pages()
            if self.claimed + wanted < used_pages:
                wanted = <uint32_t>(used_pages - self.claimed)
        if self.area.pages_held + wanted > self.area.limit_pages and self.area.unfinished[0] is not self.number:
            return STAGE_WAIT
        # No grace period passes between claiming and holding them.
        phase = self.engine.reclaimer.begin_round()
        if self.engine.allocator.claim_pages(wanted, self.pages + self.claimed, PAGE_PAYLOAD, 0) == 0:
            self.engine.reclaimer.collect(True)
            self.has_evicted = True
            if not self.engine.room.make_pages(wanted) or self.engine.allocator.claim_pages(
                wanted, self.pages + self.claimed, PAGE_PAYLOAD, 0
            ) == 0:
                self.engine.reclaimer.end_round(phase)
                return STAGE_FULL
        self.engine.allocator.hold(self.pages + self.claimed, wanted, self.holder)
        self.engine.reclaimer.end_round(phase)
        self.claimed += wanted
        self.area.pages_held += wanted
        return STAGE_OK

    cdef char *region(self, uint64_t *available) noexcept:
        """Where the next bytes go and how many fit there in one piece; ``reserve`` came first."""
        cdef uint32_t page, last
        cdef uint64_t offset
        if self.received >= self.in_pages:
            available[0] = self.size_bytes - self.received
            return self.tail + (self.received - self.in_pages)
        if self.buffer != NULL:
            available[0] = self.buffer_start + STAGING_BYTES - self.received
            if available[0] > <uint64_t>self.claimed * PAGE_BYTES - self.received:
                available[0] = <uint64_t>self.claimed * PAGE_BYTES - self.received
            if available[0] > self.in_pages - self.received:
                available[0] = self.in_pages - self.received
            return self.buffer + (self.received - self.buffer_start)
        page = <uint32_t>(self.received // PAGE_BYTES)
        offset = self.received % PAGE_BYTES
        last = page
        while last + 1 < self.claimed and self.pages[last + 1] == self.pages[last] + 1:
            last += 1
        available[0] = <uint64_t>(last - page + 1) * PAGE_BYTES - offset
        if available[0] > self.in_pages - self.received:
            available[0] = self.in_pages - self.received
        return self.engine.pool.fabric.address(self.engine.pool.page_offset(self.pages[page]), PAGE_BYTES) + offset

    cdef int advance(self, uint64_t count) except -1:
        """``count`` bytes were put where ``region`` said. With the last ones a remote node has them all, or ``failed`` is set."""
        self.received += count
        if self.buffer != NULL and (self.received >= self.in_pages or self.received == self.buffer_start + STAGING_BYTES):
            self._send_buffer()
        if self.received == self.size_bytes:
            self._settle(0)
        return 0

    cdef void _send_buffer(self) noexcept:
        """Write the filled buffer to its pages; nobody waits for that yet."""
        cdef FabricOp *ops
        cdef Fabric fabric = self.engine.pool.fabric
        cdef uint64_t end = self.received if self.received < self.in_pages else self.in_pages
        cdef uint64_t position = self.buffer_start
        cdef int count = 0
        if self.operations == NULL:
            self.operations = <FabricOp *>malloc(SENT_LIMIT * BUFFER_PAGES * sizeof(FabricOp))
            if self.operations == NULL:
                self.failed = True
                return
        # Each of the buffers under way has its own: what finds no room in the send queue is posted later.
        ops = self.operations + self.operation_turn * BUFFER_PAGES
        self.operation_turn = (self.operation_turn + 1) % SENT_LIMIT
        memset(ops, 0, BUFFER_PAGES * sizeof(FabricOp))
        while position < end:
            ops[count].opcode = OP_WRITE
            ops[count].flags = OP_STAGED
            ops[count].offset = self.engine.pool.page_offset(self.pages[position // PAGE_BYTES])
            ops[count].local = self.buffer + (position - self.buffer_start)
            ops[count].length = <uint32_t>(PAGE_BYTES if end - position > PAGE_BYTES else end - position)
            position += PAGE_BYTES
            count += 1
        self.tickets[self.sent_count] = fabric.post_bulk(ops, count)
        self.sent[self.sent_count] = self.buffer
        self.sent_count += 1
        self.buffer = NULL

    cdef void _settle(self, int left) noexcept:
        """Wait until no more than ``left`` buffers are on their way."""
        cdef Fabric fabric = self.engine.pool.fabric
        cdef int i, done = 0
        while self.sent_count - done > left:
            if fabric.wait(self.tickets[done]) != 0:
                self.failed = True
            fabric.give_staging(self.sent[done])
            done += 1
        for i in range(done, self.sent_count):
            self.tickets[i - done] = self.tickets[i]
            self.sent[i - done] = self.sent[i]
        self.sent_count -= done

    def receive(self, const unsigned char[::1] data) -> int:
        """Take bytes as a socket would bring them; how many were taken before the pool or its share was full."""
        cdef uint64_t taken = 0, available = 0, total = <uint64_t>data.shape[0]
        cdef char *place
        if self.released or total > self.size_bytes - self.received:
            raise ValueError("more bytes than were announced, or none are wanted any more")
        while taken < total:
            if self.reserve() != STAGE_OK:
                break
            place = self.region(&available)
            if available > total - taken:
                available = total - taken
            memcpy(place, &data[taken], available)
            self.advance(available)
            taken += available
        return taken

    @property
    def is_complete(self) -> bool:
        """Whether all bytes have arrived."""
        return self.received == self.size_bytes

    def tobytes(self) -> bytes:
        """Copy the value out."""
        cdef bytearray out = bytearray(self.received)
        cdef char *target = out
        cdef uint64_t position = 0, length
        while position < self.received and position < self.in_pages:
            length = PAGE_BYTES if self.in_pages - position > PAGE_BYTES else self.in_pages - position
            self.engine.pool.read_into(
                self.engine.pool.page_offset(self.pages[position // PAGE_BYTES]), target + position, <uint32_t>length
            )
            position += length
        if self.received > self.in_pages:
            memcpy(target + self.in_pages, self.tail, self.received - self.in_pages)
        return bytes(out)

    cpdef void published(self):
        """The pages belong to a published value now."""
        self._release(False)

    cpdef void discard(self):
        """Give the pages back; harmless after the value was published."""
        self._release(True)

    def _release(self, bint give_back) -> None:
        if self.released:
            return
        self.released = True
        self._settle(0)
        if self.buffer != NULL:
            self.engine.pool.fabric.give_staging(self.buffer)
            self.buffer = NULL
        self.area.pages_held -= self.claimed
        if give_back and self.claimed:
            self.engine.allocator.free_pages(self.pages, self.claimed)
        self.engine.allocator.let_go(self.pages, self.claimed, self.holder)
        try:
            self.area.unfinished.remove(self.number)
        except ValueError:
            pass


cdef PinnedValue take_pin(Engine engine, Request *request):
    """The pin of an answered READ as an object; its deallocation releases it."""
    cdef PinnedValue value = PinnedValue.__new__(PinnedValue)
    value.engine = engine
    value.size_bytes = request.out_bytes
    value.page_count = request.out_page_count
    value.tail_bytes = request.out_tail_bytes
    value.pages = <uint32_t *>malloc(value.page_count * 4)
    value.tail = <char *>malloc(value.tail_bytes if value.tail_bytes else 1)
    if value.pages == NULL or value.tail == NULL:
        value.released = True
        engine.drop_pin(request)
        raise MemoryError("no memory for a page list")
    value.next_ticket = -1
    memcpy(value.pages, request.page_list, value.page_count * 4)
    memcpy(value.tail, request.out, value.tail_bytes)
    value.copy, value.filling = request.copy, request.filling
    request.copy = NULL
    request.filling = NULL
    request.pinned = False
    return value


@cython.no_gc_clear  # as above: its pin goes back
cdef class PinnedValue:
    """A published large value whose pages cannot be used for anything else until ``release``."""

    def __dealloc__(self):
        self.release()
        free(self.pages)
        free(self.tail)

    cpdef void release(self):
        """The value is no longer read through this object."""
        if not self.released:
            self.released = True
            self.release_staging()
            if self.filling != NULL:
                self.engine.hot_values.release(self.filling)
            if self.copy != NULL:
                self.engine.hot_values.release(self.copy)
            else:
                self.engine.unpin(self.pages[0])
            self.filling = NULL
            self.copy = NULL

    cdef uint64_t _paged_bytes(self) noexcept nogil:
        cdef uint64_t in_pages = <uint64_t>self.page_count * PAGE_BYTES
        return in_pages if in_pages < self.size_bytes else self.size_bytes

    cdef void _keep(self, uint64_t position, const char *bytes, uint64_t length) noexcept nogil:
        """Bytes were fetched: they are the next ones of the copy that is being made, or not. With the last it may answer."""
        cdef HotValue *copy = self.filling
        if copy == NULL or position != copy.filled_bytes:
            return
        memcpy(payload_copy(copy) + position, bytes, length)
        copy.filled_bytes += length
        if copy.filled_bytes == copy.payload_bytes:
            self.filling = NULL
            self.engine.hot_values.enlist(copy)
            self.engine.hot_values.release(copy)

    cdef char *piece_at(self, uint64_t position, uint64_t *length) noexcept:
        """A piece of the value that begins at ``position``, fetched when need be; NULL when the node is lost.

        It stays until the next call, or ``release_staging``. While a fetched piece is being used the next one is on its way.
        """
        cdef Fabric fabric = self.engine.pool.fabric
        cdef uint64_t end = self._paged_bytes()
        cdef int64_t ticket
        if position >= end or self.copy != NULL or not fabric.is_remote:
            return self.run_at(position, length)
        if self.buffer != NULL and self.buffer_start <= position < self.buffer_start + self.buffer_bytes:
            length[0] = self.buffer_start + self.buffer_bytes - position
            return self.buffer + (position - self.buffer_start)
        if self.buffer == NULL:
            self.buffer = fabric.take_staging()
        if self.next_ticket >= 0 and self.next_start == position:
            if self.buffer != NULL:
                fabric.give_staging(self.buffer)
            self.buffer, self.buffer_start, self.buffer_bytes = self.next_buffer, self.next_start, self.next_bytes
            ticket = self.next_ticket
            self.next_buffer = NULL
            self.next_ticket = -1
        elif self.buffer == NULL:
            length[0] = 0  # every staging buffer is in use: the caller copies through `copy_at`
            return NULL
        else:
            self.buffer_start = position
            ticket = self._fetch(position, self.buffer, &self.buffer_bytes)
        if self.next_ticket < 0 and self.buffer_start + self.buffer_bytes < end:
            self.next_buffer = fabric.take_staging()
            if self.next_buffer != NULL:
                self.next_start = self.buffer_start + self.buffer_bytes
                self.next_ticket = self._fetch(self.next_start, self.next_buffer, &self.next_bytes)
                if self.next_ticket < 0:
                    fabric.give_staging(self.next_buffer)
                    self.next_buffer = NULL
        if fabric.wait(ticket) != 0:
            length[0] = 0
            self.release_staging()
            return NULL
        self._keep(self.buffer_start, self.buffer, self.buffer_bytes)
        length[0] = self.buffer_bytes
        return self.buffer

    cdef int64_t _fetch(self, uint64_t position, char *buffer, uint64_t *length) noexcept:
        """Ask for what follows ``position``, up to a buffer's size."""
        cdef FabricOp *ops = self.operations[self.turn]
        cdef uint64_t end = self._paged_bytes(), filled = 0, step
        cdef int count = 0
        self.turn = 1 - self.turn
        memset(ops, 0, (BUFFER_PAGES + 1) * sizeof(FabricOp))
        if end - position > STAGING_BYTES:
            end = position + STAGING_BYTES
        while position < end:
            step = PAGE_BYTES - position % PAGE_BYTES
            if step > end - position:
                step = end - position
            ops[count].opcode = OP_READ
            ops[count].flags = OP_STAGED
            ops[count].offset = self.engine.pool.page_offset(self.pages[position // PAGE_BYTES]) + position % PAGE_BYTES
            ops[count].local = buffer + filled
            ops[count].length = <uint32_t>step
            count += 1
            filled += step
            position += step
        length[0] = filled
        return self.engine.pool.fabric.post_bulk(ops, count)

    cdef bint failed(self) noexcept:
        """Whether the rest of the value cannot be had any more."""
        return self.copy == NULL and self.engine.pool.fabric.is_lost

    cdef void release_staging(self) noexcept:
        """Let go of the fetched pieces: a client that does not read must not keep others from fetching theirs."""
        cdef Fabric fabric = self.engine.pool.fabric
        if self.next_ticket >= 0:
            fabric.wait(self.next_ticket)
            self.next_ticket = -1
        if self.next_buffer != NULL:
            fabric.give_staging(self.next_buffer)
            self.next_buffer = NULL
        if self.buffer != NULL:
            fabric.give_staging(self.buffer)
            self.buffer = NULL

    cdef char *run_at(self, uint64_t position, uint64_t *length) noexcept nogil:
        """The contiguous piece of memory that begins at ``position``; NULL where it cannot be touched in place."""
        cdef uint64_t in_pages = <uint64_t>self.page_count * PAGE_BYTES
        cdef uint32_t page, last
        cdef char *place
        if in_pages > self.size_bytes:
            in_pages = self.size_bytes
        if position >= in_pages:
            length[0] = self.size_bytes - position
            return self.tail + (position - in_pages)
        if self.copy != NULL:
            length[0] = in_pages - position
            return payload_copy(self.copy) + position
        page = <uint32_t>(position // PAGE_BYTES)
        last = page
        while last + 1 < self.page_count and self.pages[last + 1] == self.pages[last] + 1:
            last += 1
        length[0] = <uint64_t>(last + 1) * PAGE_BYTES - position
        if length[0] > in_pages - position:
            length[0] = in_pages - position
        place = self.engine.pool.fabric.address(self.engine.pool.page_offset(self.pages[page]), PAGE_BYTES)
        if place == NULL:
            return NULL
        return place + position % PAGE_BYTES

    cdef int copy_at(self, uint64_t position, char *target, uint64_t length) noexcept nogil:
        """Copy a piece out through the fabric."""
        cdef uint64_t in_pages = <uint64_t>self.page_count * PAGE_BYTES
        cdef uint64_t step
        if in_pages > self.size_bytes:
            in_pages = self.size_bytes
        while length:
            if self.copy != NULL and position < in_pages:
                step = in_pages - position if length > in_pages - position else length
                memcpy(target, payload_copy(self.copy) + position, step)
                target += step
                position += step
                length -= step
                continue
            if position >= in_pages:
                memcpy(target, self.tail + (position - in_pages), length)
                return 0
            step = PAGE_BYTES - position % PAGE_BYTES
            if step > length:
                step = length
            if step > in_pages - position:
                step = in_pages - position
            if self.engine.pool.read_into(
                self.engine.pool.page_offset(self.pages[position // PAGE_BYTES]) + position % PAGE_BYTES, target, <uint32_t>step
            ) != 0:
                return -1
            self._keep(position, target, step)
            target += step
            position += step
            length -= step
        return 0

    def tobytes(self) -> bytes:
        """Copy the whole value out."""
        cdef bytearray out = bytearray(self.size_bytes)
        if self.copy_at(0, <char *>out, self.size_bytes) != 0:
            raise OSError("the memory node does not answer")
        return bytes(out)

    def slice(self, uint64_t position, uint64_t length) -> PageRun:
        """A buffer over at most ``length`` bytes from ``position``: as many as lie in one piece."""
        cdef PageRun run = PageRun.__new__(PageRun)
        cdef uint64_t available = 0
        run.value = self
        run.start = self.run_at(position, &available)
        run.length = <Py_ssize_t>(available if available < length else length)
        if run.start == NULL:
            raise BufferError("these pages cannot be touched in place")
        return run


cdef class PageRun:
    """Buffer over a piece of a pinned value; keeps the pin as long as anyone holds a view of it."""

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.length, 1, flags)

    def __len__(self):
        return self.length
