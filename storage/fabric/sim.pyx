# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Simulated fabric: in-process bytes that nothing else can reach; every operation is counted.

As it is made, a doorbell is performed when it is posted. The READs of one doorbell come in a random order where the rules of RDMA allow it
(a READ may pass a READ, nothing passes a WRITE or an atomic), so code that leans on their order fails here. ``journal`` (a list, or
None) receives (kind, offset, length) of every operation. ``before_round`` (a callable, or None) is called with the same list before each
doorbell, so that a test can let another front end act there; the doorbells of that other one call nobody.

With ``suspends`` a doorbell is queued, as on a queue pair, and nothing happens until ``advance`` performs an operation here or there: whoever waits on a stack of its
own is suspended meanwhile (storage.fabric.waiting), the main stack performs what is queued itself. Operations leave the queue in any order that
RDMA allows: all wait for the WRITEs before them, READs and atomics for the atomics before them, and what is fenced for everything;
otherwise they overtake each other. With ``tears`` READs and WRITEs are cut at any four bytes, and others act in between; with ``cuts`` they
fall into pieces there, which come in any order. Who wants every order names the next operation himself (``choices``, ``perform``).
``share`` gives another front end's view of the same memory, with queues of its own: between those there is no order at all.
"""

from bisect import bisect_left, bisect_right

cimport cython
from libc.errno cimport EFAULT, EHOSTUNREACH, EINTR
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove

from storage.fabric.base cimport OP_CAS, OP_FENCE, OP_READ, OP_STAGED, OP_WRITE, STAGING_BYTES, Fabric, FabricOp
from storage.fabric.waiting cimport may_wait, suspend

from storage.fabric.waiting import current, resume_soon

cdef enum:
    WINDOW = 16           # operations at the head of a queue that may overtake each other at random
    TASKS_OF_DOORBELL = 65536

_NAMES = ("READ", "WRITE", "CAS", "FAA")


cdef list _described(FabricOp *ops, int count):
    return [(_NAMES[ops[i].opcode], ops[i].offset, ops[i].length if ops[i].opcode < 2 else 8) for i in range(count)]


cdef bint stays_behind(FabricOp *earlier, FabricOp *later) noexcept nogil:
    """Whether RDMA performs two operations of one queue pair in the order in which they were posted."""
    if earlier == later:
        return False  # pieces of one message
    if earlier.opcode == OP_WRITE or later.flags & OP_FENCE:
        return True
    return earlier.opcode >= OP_CAS and later.opcode != OP_WRITE


@cython.no_gc_clear
cdef class SimulatedFabric(Fabric):
    """A pool in private memory under RDMA's ordering rules, for tests."""

    def __cinit__(self, uint64_t size_bytes, uint64_t seed=1, SimulatedFabric of=None):
        self.kind = "sim"
        self.ordered_reads = False
        self.is_remote = True
        self.size_bytes = size_bytes
        self.generator = seed * 2 + 1
        self.journal = None
        self.before_round = None
        self.sleeping = {}
        if of is not None:
            self.owner = of if of.owner is None else of.owner
            self.memory = of.memory
            return
        self.memory = <char *>calloc(size_bytes, 1)
        if self.memory == NULL:
            raise MemoryError(f"no memory for a simulated pool of {size_bytes} bytes")

    def __dealloc__(self):
        cdef Posted *posted
        while self.posted != NULL:
            posted = self.posted
            self.posted = posted.next
            free(posted.copies)
            free(posted.bytes)
            free(posted)
        free(self.queues[0].items)
        free(self.queues[1].items)
        if self.owner is None:
            free(self.memory)

    def share(self, uint64_t seed=1) -> SimulatedFabric:
        """Another front end's fabric on the same memory."""
        return SimulatedFabric(self.size_bytes, seed, self)

    cdef uint64_t next_random(self) noexcept nogil:
        # xorshift64* (Vigna 2016): reproducible from the seed, good enough to shuffle.
        self.generator ^= self.generator >> 12
        self.generator ^= self.generator << 25
        self.generator ^= self.generator >> 27
        return self.generator * <uint64_t>2685821657736338717

    cdef int journal_operations(self, void *ops, int count) except -1 with gil:
        self.journal.extend(_described(<FabricOp *>ops, count))
        return 0

    cdef int call_hook(self, void *ops, int count) except -1 with gil:
        self.in_hook = True
        try:
            self.before_round(_described(<FabricOp *>ops, count))
        finally:
            self.in_hook = False
        return 0

    # -------------------------------------------------------------- doorbells

    cdef int execute(self, FabricOp *ops, int count) noexcept nogil:
        return self.wait(self.post(ops, count))

    cdef int64_t post(self, FabricOp *ops, int count) noexcept nogil:
        cdef int status = self.announce(ops, count)
        if status != 0:
            return status
        if self.suspends:
            return self.enqueue(ops, count, 0)
        return self.perform_now(ops, count)

    cdef int64_t post_bulk(self, FabricOp *ops, int count) noexcept nogil:
        cdef int status = self.announce(ops, count)
        if status != 0:
            return status
        if self.suspends:
            return self.enqueue(ops, count, 1)
        return self.perform_now(ops, count)

    cdef int announce(self, FabricOp *ops, int count) noexcept nogil:
        """What comes before a doorbell: tests that act there, and the checks of its operations."""
        cdef int i
        if self.is_lost:
            return -EHOSTUNREACH
        if self.before_round is not None and not self.in_hook:
            self.call_hook(ops, count)
        self.counts.rounds += 1
        for i in range(count):
            if ops[i].offset + ops[i].length > self.size_bytes or ops[i].offset + 8 > self.size_bytes:
                return -EFAULT
            if ops[i].opcode >= OP_CAS and ops[i].offset & 7:
                return -EFAULT
        if self.is_lost:
            if self.performs_last:
                self.perform_now(ops, count)
            return -EHOSTUNREACH
        if self.journal is not None:
            self.journal_operations(ops, count)
        return 0

    cdef int wait(self, int64_t ticket) noexcept nogil:
        cdef Posted *posted = self.posted
        if ticket <= 0:
            return <int>ticket
        while posted != NULL and posted.ticket != ticket:
            posted = posted.next
        if posted == NULL:
            abort()  # waited for twice, or forgotten before
        while posted.left:
            if not may_wait():
                self.perform_one()
                continue
            with gil:
                self.sleeping[ticket] = current()
            if not suspend():
                posted.is_forgotten = True
                if posted.left == 0:
                    self.free_posted(posted)
                return -EINTR
        return self.finish(posted)

    cdef void forget(self, int64_t ticket) noexcept nogil:
        cdef Posted *posted = self.posted
        self.counts.unwaited += 1
        if ticket <= 0:
            return
        while posted != NULL and posted.ticket != ticket:
            posted = posted.next
        if posted == NULL:
            abort()
        posted.is_forgotten = True
        if posted.left == 0:
            self.free_posted(posted)

    # ------------------------------------------------- performed when posted

    cdef int perform_now(self, FabricOp *ops, int count) noexcept nogil:
        cdef int i, start = 0, end, other
        cdef FabricOp *op
        self.drain()
        while start < count:
            op = &ops[start]
            if op.opcode == OP_READ:
                end = start + 1
                while end < count and ops[end].opcode == OP_READ and not ops[end].flags & OP_FENCE:
                    end += 1
                # A run of READs: rotate it by a random amount and walk it in a random direction.
                other = <int>(self.next_random() % <uint64_t>(end - start))
                for i in range(end - start):
                    op = &ops[start + (other + i) % (end - start)]
                    self.perform_piece(op, 0, op.length)
                start = end
                continue
            self.perform_piece(op, 0, op.length)
            start += 1
        return 0

    cdef void perform_piece(self, FabricOp *op, uint32_t begin, uint32_t end) noexcept nogil:
        """Perform an operation, or of a READ or WRITE the bytes from ``begin`` to ``end``."""
        cdef char *place = self.memory + op.offset
        if op.opcode == OP_READ:
            memcpy(<char *>op.local + begin, place + begin, end - begin)
            self.counts.reads += end == op.length
            self.counts.read_bytes += end - begin
        elif op.opcode == OP_WRITE:
            memcpy(place + begin, <char *>op.local + begin, end - begin)
            self.counts.writes += end == op.length
            self.counts.write_bytes += end - begin
        else:
            op.result = (<uint64_t *>place)[0]
            if op.opcode == OP_CAS:
                self.counts.compare_and_swaps += 1
                if op.result == op.compare:
                    (<uint64_t *>place)[0] = op.swap
            else:
                self.counts.fetch_and_adds += 1
                (<uint64_t *>place)[0] = op.result + op.compare

    # ----------------------------------------------------- performed by and by

    cdef int64_t enqueue(self, FabricOp *ops, int count, int bulk) noexcept nogil:
        """Queue a doorbell: its ticket."""
        cdef Posted *posted = <Posted *>calloc(1, sizeof(Posted))
        cdef TaskQueue *queue = &self.queues[bulk]
        cdef size_t size = 0
        cdef char *place
        cdef int i
        if posted == NULL:
            abort()
        if count == 0:
            free(posted)
            return 0
        posted.copies = <FabricOp *>malloc(count * sizeof(FabricOp))
        for i in range(count):
            if ops[i].opcode < OP_CAS and not ops[i].flags & OP_STAGED:
                size += ops[i].length
        posted.bytes = <char *>malloc(size + 1)
        if posted.copies == NULL or posted.bytes == NULL:
            abort()
        memcpy(posted.copies, ops, count * sizeof(FabricOp))
        place = posted.bytes
        for i in range(count):
            if ops[i].opcode < OP_CAS and not ops[i].flags & OP_STAGED:
                if ops[i].opcode == OP_WRITE:
                    memcpy(place, ops[i].local, ops[i].length)
                posted.copies[i].local = place
                place += ops[i].length
            if self.cuts is not None and ops[i].opcode < OP_CAS:
                self.add_pieces(queue, posted, &posted.copies[i])
            else:
                self.add_task(queue, posted, &posted.copies[i], 0, ops[i].length)
        self.last_ticket += 1
        posted.ticket = self.last_ticket
        posted.ops = ops
        posted.count = count
        posted.next = self.posted
        self.posted = posted
        return posted.ticket

    cdef int add_task(self, TaskQueue *queue, Posted *posted, FabricOp *op, uint32_t begin, uint32_t end) noexcept nogil:
        """Queue an operation, or a piece of it."""
        if queue.count == queue.capacity:
            queue.capacity = queue.capacity * 2 + 64
            queue.items = <Task *>realloc(queue.items, queue.capacity * sizeof(Task))
            if queue.items == NULL:
                abort()
        queue.items[queue.count].posted = posted
        queue.items[queue.count].op = op
        queue.items[queue.count].done_bytes = begin
        queue.items[queue.count].end_bytes = end
        queue.items[queue.count].number = posted.left
        queue.count += 1
        posted.left += 1
        return 0

    cdef int add_pieces(self, TaskQueue *queue, Posted *posted, FabricOp *op) except -1 with gil:
        """Queue a READ or WRITE in the pieces into which ``cuts`` divide it."""
        cdef uint64_t begin = op.offset, end = op.offset + op.length
        cdef uint64_t place
        for cut in self.cuts[bisect_right(self.cuts, op.offset) : bisect_left(self.cuts, end)]:
            place = cut
            self.add_task(queue, posted, op, <uint32_t>(begin - op.offset), <uint32_t>(place - op.offset))
            begin = place
        self.add_task(queue, posted, op, <uint32_t>(begin - op.offset), op.length)
        return 0

    cdef bint may_come_next(self, TaskQueue *queue, int place) noexcept nogil:
        """Whether none of the operations before it must be performed first."""
        cdef int i
        for i in range(place):
            if stays_behind(queue.items[i].op, queue.items[place].op):
                return False
        return True

    cdef bint perform_one(self) noexcept nogil:
        """Perform one of the queued operations that may come next, or a part of it; False when there is none."""
        cdef TaskQueue *queue
        cdef Task *task
        cdef int candidates[WINDOW]
        cdef int i, window, found = 0
        cdef uint32_t end
        if self.queues[0].count + self.queues[1].count == 0:
            return False
        i = <int>(self.next_random() >> 33) & 1
        queue = &self.queues[i] if self.queues[i].count else &self.queues[1 - i]
        window = queue.count if queue.count < WINDOW else WINDOW
        for i in range(window):
            if self.may_come_next(queue, i):
                candidates[found] = i
                found += 1
        i = candidates[(self.next_random() >> 33) % <uint64_t>found]  # the first has none before it
        task = &queue.items[i]
        end = task.end_bytes
        if self.tears and task.op.opcode < OP_CAS and end - task.done_bytes > 4 and self.next_random() >> 63:
            end = task.done_bytes + 4 + <uint32_t>((self.next_random() >> 33) % <uint64_t>((end - task.done_bytes) // 4)) * 4
            if end > task.end_bytes:
                end = task.end_bytes
        self.perform_piece(task.op, task.done_bytes, end)
        if task.op.opcode < OP_CAS and end < task.end_bytes:
            task.done_bytes = end
            return True
        self.is_done(queue, i)
        return True

    cdef void is_done(self, TaskQueue *queue, int place) noexcept nogil:
        """The operation was performed: it leaves the queue, and with the last of a doorbell that is over."""
        cdef Posted *posted = queue.items[place].posted
        queue.count -= 1
        memmove(&queue.items[place], &queue.items[place + 1], (queue.count - place) * sizeof(Task))
        posted.left -= 1
        if posted.left == 0:
            self.is_over(posted)

    def choices(self) -> list:
        """Operations that may be performed next: (identity, kind, offset, length, whether it is fenced, queue, message).

        The message is the place in its doorbell of the operation that this is, or is a piece of.
        Of one queue the identities ascend in the order of posting. They are the same in every run in which this front end saw the same.
        """
        cdef list found = []
        cdef Task *task
        cdef int number, i
        for number in range(2):
            for i in range(self.queues[number].count):
                if not self.may_come_next(&self.queues[number], i):
                    continue
                task = &self.queues[number].items[i]
                found.append((
                    task.posted.ticket * TASKS_OF_DOORBELL + task.number, _NAMES[task.op.opcode], task.op.offset + task.done_bytes,
                    task.end_bytes - task.done_bytes if task.op.opcode < OP_CAS else 8, task.op.flags & OP_FENCE != 0, number,
                    <int>(task.op - task.posted.copies),
                ))
        return found

    def perform(self, int64_t identity) -> bool:
        """Perform one of the ``choices``; whether the pool is another one since."""
        cdef Task *task
        cdef FabricOp *op
        cdef int number, i
        cdef bint changes
        for number in range(2):
            for i in range(self.queues[number].count):
                task = &self.queues[number].items[i]
                if task.posted.ticket * TASKS_OF_DOORBELL + task.number == identity:
                    if not self.may_come_next(&self.queues[number], i):
                        raise ValueError(f"operation {identity} must wait for others")
                    op = task.op
                    if op.opcode == OP_WRITE:
                        changes = memcmp(
                            self.memory + op.offset + task.done_bytes, <char *>op.local + task.done_bytes, task.end_bytes - task.done_bytes
                        ) != 0
                    self.perform_piece(op, task.done_bytes, task.end_bytes)
                    if op.opcode >= OP_CAS:
                        changes = (<uint64_t *>(self.memory + op.offset))[0] != op.result
                    elif op.opcode == OP_READ:
                        changes = False
                    self.is_done(&self.queues[number], i)
                    return changes
        raise KeyError(f"no operation {identity} is queued")

    cdef void is_over(self, Posted *posted) noexcept nogil:
        """All its operations are done, or the node was lost."""
        if posted.is_forgotten:
            self.free_posted(posted)
            return
        with gil:
            stack = self.sleeping.pop(posted.ticket, None)
            if stack is not None:
                (self.on_over or resume_soon)(stack)

    cdef int finish(self, Posted *posted) noexcept nogil:
        """Its owner runs again: hand over what was fetched."""
        cdef int i, status = posted.status
        cdef FabricOp *copy
        if status == 0:
            for i in range(posted.count):
                copy = &posted.copies[i]
                posted.ops[i].result = copy.result
                if copy.opcode == OP_READ and not copy.flags & OP_STAGED:
                    memcpy(posted.ops[i].local, copy.local, copy.length)
        self.free_posted(posted)
        return status

    cdef void free_posted(self, Posted *posted) noexcept nogil:
        cdef Posted **link = &self.posted
        while link[0] != posted:
            link = &link[0].next
        link[0] = posted.next
        free(posted.copies)
        free(posted.bytes)
        free(posted)

    cdef void drain(self) noexcept nogil:
        """Perform all that is queued."""
        while self.perform_one():
            pass

    @property
    def pending(self) -> int:
        """Operations that are queued."""
        return self.queues[0].count + self.queues[1].count

    @property
    def doorbells(self) -> int:
        """Doorbells that were ever queued; the first parts of the identities of ``choices`` count them."""
        return self.last_ticket

    def advance(self, int count=1) -> int:
        """Perform up to ``count`` queued operations, or parts of them; how many these were.

        Stacks whose doorbells are over are ready then: ``waiting.resume_ready`` lets them go on.
        """
        cdef int done = 0
        while done < count and self.perform_one():
            done += 1
        return done

    def lose(self, *, bint performed=False) -> None:
        """The node is lost: what is under way fails, and so does everything later.

        Called from ``before_round`` it takes the doorbell at hand with it. ``performed``: it was all done, only the answers are lost.
        """
        cdef Posted *posted
        cdef list tickets = []
        if self.is_lost:
            return
        if performed:
            self.drain()
        self.performs_last = performed
        self.is_lost = True
        self.queues[0].count = self.queues[1].count = 0
        posted = self.posted
        while posted != NULL:
            posted.status = -EHOSTUNREACH
            posted.left = 0
            tickets.append(posted.ticket)
            posted = posted.next
        for ticket in reversed(tickets):
            posted = self.posted
            while posted.ticket != ticket:
                posted = posted.next
            self.is_over(posted)

    # ------------------------------------------------------------------ memory

    cdef char *take_staging(self) noexcept nogil:
        if self.staging_limit and self.staging_used >= self.staging_limit:
            return NULL
        self.staging_used += 1
        return <char *>malloc(STAGING_BYTES)

    cdef void give_staging(self, char *buffer) noexcept nogil:
        self.staging_used -= 1
        free(buffer)

    def peek(self, uint64_t offset, uint64_t length) -> bytes:
        """Bytes of the pool, for tests that look behind the fabric."""
        if offset + length > self.size_bytes:
            raise IndexError(f"{offset}+{length} lies beyond the pool's {self.size_bytes} bytes")
        return self.memory[offset : offset + length]

    def poke(self, uint64_t offset, bytes data) -> None:
        """Overwrite bytes of the pool, for tests that damage it."""
        if offset + len(data) > self.size_bytes:
            raise IndexError(f"{offset}+{len(data)} lies beyond the pool's {self.size_bytes} bytes")
        memcpy(self.memory + offset, <char *>data, len(data))
