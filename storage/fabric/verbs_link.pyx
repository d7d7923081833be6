# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Link: the two queue pairs that lead to one memory node, and the doorbells under way on them.

A doorbell is posted as a chain of work requests. Where it finds no room (in the send queue, in the registered buffers) the rest is
posted later, in waves, by whoever waits for it. Completions are noticed by whoever polls: a stack that spins, the event loop
when the completion channel becomes readable, the main stack that blocks. All of that happens in one thread.

Work requests of a queue pair complete in their order, also when it has failed and flushes the rest: so one number says what is
done, and only every so many of them ask for a completion.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EFAULT, EHOSTUNREACH, EINVAL, ENOBUFS, ENOMEM, ENOTCONN
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec

from storage.fabric.base cimport OP_CAS, OP_READ, OP_STAGED, OP_WRITE
from storage.fabric.libibverbs cimport IBV_QP_STATE, IBV_QPS_ERR, IBV_WC_SUCCESS, ibv_qp_attr, ibv_wc
from storage.fabric.verbs_buffers cimport give_doorbell_buffers, is_inside
from storage.fabric.verbs_wave cimport lay_out, may_take_buffer, take_results
from storage.fabric.waiting cimport may_wait, suspend

from storage.fabric.waiting import current, resume_soon

cdef extern from "<errno.h>" nogil:
    int ECANCELED

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *, unsigned long, int)
    short POLLIN

cdef enum:
    POLLED = 32                  # completions taken at once
    INDEX_BITS = 16              # of a ticket's number
    TICKETS_LIMIT = 1 << INDEX_BITS
    FLUSH_LIMIT_NS = 50_000_000  # a failed queue pair flushes in microseconds; one that does not is destroyed
    FLUSH_PAUSE_NS = 50_000


cdef inline uint64_t clock_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


# ---- Tickets

cdef Ticket *take_ticket(Link *link) noexcept nogil:
    """A free one, or NULL when there is no memory or too many are out."""
    cdef Ticket *ticket = link.first_free
    cdef Ticket **larger
    if ticket != NULL:
        link.first_free = ticket.next
    else:
        if link.ticket_count == TICKETS_LIMIT:
            return NULL
        if link.ticket_count & (link.ticket_count - 1) == 0:
            larger = <Ticket **>realloc(link.tickets, (link.ticket_count * 2 if link.ticket_count else 1) * sizeof(Ticket *))
            if larger == NULL:
                return NULL
            link.tickets = larger
        ticket = <Ticket *>calloc(1, sizeof(Ticket))
        if ticket == NULL:
            return NULL
        ticket.index = link.ticket_count
        link.tickets[link.ticket_count] = ticket
        link.ticket_count += 1
    ticket.is_taken = True
    ticket.next_op = ticket.wave_op = 0
    ticket.next_byte = ticket.wave_byte = 0
    ticket.in_flight = ticket.status = ticket.buffer_count = 0
    ticket.is_forgotten = ticket.is_starved = ticket.was_fed = False
    ticket.stack = NULL
    ticket.next = NULL
    return ticket


cdef void release_ticket(Link *link, Ticket *ticket) noexcept nogil:
    release_buffers(link, ticket)
    ticket.ops = NULL
    ticket.is_taken = False
    ticket.generation += 1
    ticket.next = link.first_free
    link.first_free = ticket


cdef Ticket *find_ticket(Link *link, int64_t number) noexcept nogil:
    cdef uint64_t index = <uint64_t>number & (TICKETS_LIMIT - 1)
    cdef Ticket *ticket
    if number < 0 or index >= link.ticket_count:
        return NULL
    ticket = link.tickets[index]
    if not ticket.is_taken or ticket.is_forgotten or ticket.generation != <uint64_t>number >> INDEX_BITS:
        return NULL
    return ticket


cdef void release_buffers(Link *link, Ticket *ticket) noexcept nogil:
    cdef Hub *hub = link.hub
    cdef int i
    if ticket.buffer_count == 0:
        return
    give_doorbell_buffers(&hub.buffers, ticket.first_buffer, ticket.last_buffer, ticket.buffer_count)
    link.buffers_held -= ticket.buffer_count
    ticket.buffer_count = 0
    for i in range(hub.link_count):
        feed(<Link *>hub.links[i], &(<Link *>hub.links[i]).queues[0])


# ---- Posting

cdef int post_wave(Link *link, Ticket *ticket) noexcept nogil:
    """Post as many of the ticket's operations as there is room for, as one chain; how many work requests that are."""
    cdef Hub *hub = link.hub
    cdef QueuePair *queue = &link.queues[ticket.is_bulk]
    cdef ibv_send_wr *refused = NULL
    cdef uint32_t room = queue.depth - <uint32_t>(queue.posted - queue.done)
    cdef int count, error
    if room == 0:
        poll(link)
        room = queue.depth - <uint32_t>(queue.posted - queue.done)
    if link.is_lost:
        return 0
    count = lay_out(link, ticket, room)
    if count == 0:
        return 0
    ticket.since_ns = clock_ns()
    error = queue.pair.context.ops.post_send(queue.pair, hub.requests, &refused)
    if error:
        count = <int>(refused - hub.requests) if refused != NULL else 0
    queue.posted += count
    ticket.in_flight += count
    if error:
        lose(link, POST_REFUSED, error, 0)
    return count


# ---- Room: who finds none stands in line

cdef void starve(QueuePair *queue, Ticket *ticket) noexcept nogil:
    ticket.is_starved = True
    if ticket.was_fed:
        ticket.next = queue.first_starved
        queue.first_starved = ticket
        if queue.last_starved == NULL:
            queue.last_starved = ticket
    else:
        ticket.since_ns = clock_ns()
        ticket.next = NULL
        if queue.last_starved == NULL:
            queue.first_starved = ticket
        else:
            queue.last_starved.next = ticket
        queue.last_starved = ticket
    ticket.was_fed = False


cdef void call_first_starved(Link *link, QueuePair *queue) noexcept nogil:
    """Take the first out of the line and let it look again."""
    cdef Ticket *ticket = queue.first_starved
    queue.first_starved = ticket.next
    if queue.first_starved == NULL:
        queue.last_starved = NULL
    ticket.next = NULL
    ticket.is_starved = False
    ticket.was_fed = True
    if ticket.stack != NULL:
        wake(link, ticket)


cdef void feed(Link *link, QueuePair *queue) noexcept nogil:
    """Call the first of the line when there may be room; it calls the next once it has posted.

    One whose owner does not wait for it yet may not do so for long: those behind it are called as well.
    """
    cdef bint sleeps
    while queue.first_starved != NULL and queue.posted - queue.done < queue.depth and (
        queue is &link.queues[1] or may_take_buffer(link)
    ):
        sleeps = queue.first_starved.stack != NULL
        call_first_starved(link, queue)
        if sleeps:
            return


cdef void leave_line(Link *link, QueuePair *queue, Ticket *ticket) noexcept nogil:
    """Out of the line wherever it stands."""
    cdef Ticket *before = NULL
    cdef Ticket *here = queue.first_starved
    while here != NULL and here is not ticket:
        before = here
        here = here.next
    if here == NULL:
        return
    if before == NULL:
        queue.first_starved = ticket.next
    else:
        before.next = ticket.next
    if queue.last_starved is ticket:
        queue.last_starved = before
    ticket.is_starved = False


cdef void begin(Link *link, Ticket *ticket) noexcept nogil:
    """Post the next wave, or stand in line."""
    cdef QueuePair *queue = &link.queues[ticket.is_bulk]
    if queue.first_starved != NULL and not ticket.was_fed:
        starve(queue, ticket)
    elif post_wave(link, ticket) > 0:
        ticket.was_fed = False
        feed(link, queue)
    elif link.is_lost:
        if ticket.status == 0 and ticket.next_op < ticket.count:
            ticket.status = -EHOSTUNREACH
    elif ticket.next_op < ticket.count:
        starve(queue, ticket)


# ---- Completions

cdef void wake(Link *link, Ticket *ticket) noexcept with gil:
    """Let the stack that sleeps for the ticket go on in the loop's next turn."""
    stack = <object>ticket.stack
    Py_DECREF(stack)
    ticket.stack = NULL
    link.sleeping -= 1
    resume_soon(stack)


cdef void complete(Link *link, QueuePair *queue, uint64_t number) noexcept nogil:
    """Work request ``number`` is over, and with it those before it."""
    cdef Ticket *ticket
    # Of queue pairs that were destroyed a completion may still lie in the queue.
    if number < queue.done or number >= queue.posted:
        return
    while queue.done <= number:
        ticket = queue.ring[queue.done % queue.depth]
        queue.done += 1
        ticket.in_flight -= 1
        if ticket.in_flight == 0:
            if ticket.is_forgotten:
                release_ticket(link, ticket)
                continue
            if ticket.status != 0:
                release_buffers(link, ticket)
            if ticket.stack != NULL:
                wake(link, ticket)


cdef void poll(Link *link) noexcept nogil:
    """Take the completions that are there."""
    cdef ibv_wc completions[POLLED]
    cdef ibv_wc *completion
    cdef bint was_lost = link.is_lost
    cdef int i, count
    cdef uint64_t now
    if link.completions == NULL:
        return
    while True:
        count = link.completions.context.ops.poll_cq(link.completions, POLLED, completions)
        if count <= 0:
            if count < 0:
                mark_lost(link, POLL_REFUSED, -count, 0)
            break
        now = clock_ns()
        for i in range(count):
            completion = &completions[i]
            if completion.status != IBV_WC_SUCCESS:
                mark_lost(link, OPERATION_FAILED, completion.status, completion.vendor_err)
            link.queues[completion.wr_id & 1].progress_ns = now
            complete(link, &link.queues[completion.wr_id & 1], completion.wr_id >> 1)
        if count < POLLED:
            break
    if link.is_lost:
        if not was_lost:
            flush(link)
        return
    feed(link, &link.queues[0])
    feed(link, &link.queues[1])


cdef void arm(Link *link) noexcept nogil:
    """Ask for an event at the next completion. Whoever then finds nothing by polling may sleep."""
    if link.completions != NULL:
        link.completions.context.ops.req_notify_cq(link.completions, 0)


# ---- Waiting

cdef int64_t post(Link *link, FabricOp *ops, int count, bint is_bulk) noexcept nogil:
    """Begin a doorbell; its ticket's number, or a negative errno when nothing was begun."""
    cdef FabricCounts *counts = link.counts
    cdef Ticket *ticket
    cdef FabricOp *op
    cdef uint64_t length
    cdef int i
    if not link.is_connected or link.is_lost:
        return -EHOSTUNREACH if link.is_lost else -ENOTCONN
    for i in range(count):
        op = &ops[i]
        length = op.length if op.opcode < OP_CAS else 8
        if op.offset > link.size_bytes or length > link.size_bytes - op.offset:
            return -EFAULT
        if op.opcode >= OP_CAS:
            if op.offset & 7:
                return -EFAULT
        elif op.flags & OP_STAGED and not is_inside(&link.hub.buffers, op.local, length):
            return -EFAULT
        if is_bulk and (op.opcode >= OP_CAS or not op.flags & OP_STAGED):
            return -EINVAL
    ticket = take_ticket(link)
    if ticket == NULL:
        return -ENOMEM
    counts.rounds += 1
    for i in range(count):
        op = &ops[i]
        if op.opcode == OP_READ:
            counts.reads += 1
            counts.read_bytes += op.length
        elif op.opcode == OP_WRITE:
            counts.writes += 1
            counts.write_bytes += op.length
        elif op.opcode == OP_CAS:
            counts.compare_and_swaps += 1
        else:
            counts.fetch_and_adds += 1
    ticket.ops = ops
    ticket.count = count
    ticket.is_bulk = is_bulk
    begin(link, ticket)
    return <int64_t>(<uint64_t>ticket.generation << INDEX_BITS | ticket.index)


cdef int wait_for(Link *link, int64_t number) noexcept nogil:
    """Wait for a doorbell, posting what is left of it; 0 or a negative errno."""
    cdef Ticket *ticket = find_ticket(link, number)
    cdef uint64_t now, spin_until = 0
    cdef int status
    if ticket == NULL:
        return -EINVAL if number >= 0 else <int>number
    while True:
        poll(link)
        if ticket.in_flight == 0 and not ticket.is_starved:
            if ticket.status == 0:
                take_results(link, ticket)
                release_buffers(link, ticket)
            if ticket.status != 0 or ticket.next_op == ticket.count:
                break
            begin(link, ticket)
            continue
        now = clock_ns()
        if spin_until == 0:
            spin_until = now + link.spin_ns
        if now < spin_until:
            continue
        if not sleep(link, ticket):
            abandon(link, ticket)
            return -ECANCELED
        spin_until = 0
    status = ticket.status
    release_ticket(link, ticket)
    return status


cdef bint sleep(Link *link, Ticket *ticket) noexcept nogil:
    """Let time pass until something may have changed for the ticket. False when its stack is being ended."""
    cdef bint is_alive
    arm(link)
    poll(link)
    if ticket.in_flight == 0 and not ticket.is_starved:
        return True
    if not may_wait():
        block(link)
        return True
    with gil:
        stack = current()
        Py_INCREF(stack)
        ticket.stack = <void *>stack
        stack = None
    link.sleeping += 1
    is_alive = suspend()
    if ticket.stack != NULL:  # woken by somebody else
        with gil:
            Py_DECREF(<object>ticket.stack)
        ticket.stack = NULL
        link.sleeping -= 1
    return is_alive


cdef void block(Link *link) noexcept nogil:
    """Sleep in the kernel until the device reports something, or for a part of the deadline."""
    cdef pollfd descriptor
    cdef int pause_ms = <int>(link.deadline_ns // 20_000_000)
    judge(link)
    if link.is_lost:
        return
    descriptor.fd = link.hub.channel.fd
    descriptor.events = POLLIN
    descriptor.revents = 0
    c_poll(&descriptor, 1, pause_ms if pause_ms > 0 else 1)
    serve_events(link.hub)


cdef void abandon(Link *link, Ticket *ticket) noexcept nogil:
    """Its owner is ending: nothing of it may be touched any more, what is in flight runs out."""
    cdef QueuePair *queue = &link.queues[ticket.is_bulk]
    cdef bint was_fed = ticket.was_fed
    if ticket.is_starved:
        leave_line(link, queue, ticket)
    ticket.is_forgotten = True
    if ticket.in_flight == 0:
        release_ticket(link, ticket)
    if was_fed:
        feed(link, queue)


cdef void forget(Link *link, int64_t number) noexcept nogil:
    """Nobody waits for a doorbell of WRITEs. What found no room yet is posted before this returns."""
    cdef Ticket *ticket = find_ticket(link, number)
    if ticket == NULL:
        return
    link.counts.unwaited += 1
    if ticket.next_op < ticket.count and ticket.status == 0:
        wait_for(link, number)
        return
    ticket.is_forgotten = True
    if ticket.in_flight == 0:
        release_ticket(link, ticket)


# ---- Loss

cdef void mark_lost(Link *link, Loss loss, int code, uint32_t detail) noexcept nogil:
    """From now on everything that is not done fails."""
    cdef Ticket *ticket
    cdef uint32_t i
    if link.is_lost:
        return
    link.is_lost = True
    link.lost_flag[0] = True
    link.loss = loss
    link.loss_code = code
    link.loss_detail = detail
    for i in range(link.ticket_count):
        ticket = link.tickets[i]
        if ticket.is_taken and ticket.status == 0 and (ticket.in_flight > 0 or ticket.next_op < ticket.count):
            ticket.status = -EHOSTUNREACH


cdef void flush(Link *link) noexcept nogil:
    """End what is in flight: afterwards the device touches no memory for this node."""
    cdef ibv_qp_attr attributes
    cdef timespec pause
    cdef uint64_t give_up_ns = clock_ns() + FLUSH_LIMIT_NS
    cdef int i
    memset(&attributes, 0, sizeof(attributes))
    attributes.qp_state = IBV_QPS_ERR
    pause.tv_sec = 0
    pause.tv_nsec = FLUSH_PAUSE_NS
    for i in range(2):
        if link.queues[i].pair != NULL:
            link.hub.verbs.modify_qp(link.queues[i].pair, &attributes, IBV_QP_STATE)
        while link.queues[i].first_starved != NULL:
            call_first_starved(link, &link.queues[i])
    poll(link)
    while link.queues[0].done != link.queues[0].posted or link.queues[1].done != link.queues[1].posted:
        if clock_ns() > give_up_ns:
            destroy_pairs(link)
            return
        nanosleep(&pause, NULL)
        poll(link)


cdef void destroy_pairs(Link *link) noexcept nogil:
    cdef QueuePair *queue
    cdef int i
    for i in range(2):
        queue = &link.queues[i]
        if queue.pair != NULL:
            link.hub.verbs.destroy_qp(queue.pair)
            queue.pair = NULL
        if queue.posted != queue.done:
            complete(link, queue, queue.posted - 1)


cdef void lose(Link *link, Loss loss, int code, uint32_t detail) noexcept nogil:
    """Give the node up: every doorbell under way ends with -EHOSTUNREACH, every later one fails at once."""
    if not link.is_lost:
        mark_lost(link, loss, code, detail)
        flush(link)


cdef void judge(Link *link) noexcept nogil:
    """Lose the node when its oldest operation is past the deadline, and nothing was done meanwhile; for after a poll.

    Of one queue pair everything completes in order: one that gets nothing done for that long is stuck, one that does is not, however much
    is queued behind.
    """
    cdef QueuePair *queue
    cdef uint64_t since, now = clock_ns()
    cdef int i
    for i in range(2):
        queue = &link.queues[i]
        if queue.posted != queue.done:
            since = queue.ring[queue.done % queue.depth].since_ns
            if queue.progress_ns > since:
                since = queue.progress_ns
            if now > since + link.deadline_ns:
                lose(link, DEADLINE_PASSED, 0, 0)
                return
        # Who waits for buffers that others keep fails alone; the node is not to blame.
        while queue.first_starved != NULL and now > queue.first_starved.since_ns + link.deadline_ns:
            queue.first_starved.status = -ENOBUFS
            call_first_starved(link, queue)


# ---- The device's links together

cdef int attach(Hub *hub, Link *link) except -1:
    """Serve the link with the others."""
    if hub.link_count == LINKS_LIMIT:
        raise ValueError(f"a front end uses at most {LINKS_LIMIT} memory nodes: close one")
    hub.links[hub.link_count] = link
    hub.link_count += 1
    return 0


cdef void close(Link *link) noexcept nogil:
    """End what is under way, and give queue pairs and completion queue back to the device."""
    cdef Hub *hub = link.hub
    cdef int i
    if link.completions == NULL:
        return
    lose(link, GIVEN_UP, 0, 0)
    destroy_pairs(link)
    hub.verbs.destroy_cq(link.completions)
    link.completions = NULL
    for i in range(hub.link_count):
        if hub.links[i] is <void *>link:
            hub.link_count -= 1
            hub.links[i] = hub.links[hub.link_count]
            break
    for i in range(hub.link_count):
        feed(<Link *>hub.links[i], &(<Link *>hub.links[i]).queues[0])


cdef void free_tickets(Link *link) noexcept:
    cdef uint32_t i
    for i in range(link.ticket_count):
        release_buffers(link, link.tickets[i])
        free(link.tickets[i])
    free(link.tickets)
    link.tickets = NULL
    link.ticket_count = 0
    link.first_free = NULL


cdef void serve_events(Hub *hub) noexcept nogil:
    """Take the channel's events, ask for the next, and wake whose doorbells are done."""
    cdef ibv_cq *completions
    cdef void *owner
    cdef Link *link
    cdef int i
    while hub.verbs.get_cq_event(hub.channel, &completions, &owner) == 0:
        hub.verbs.ack_cq_events(completions, 1)
    for i in range(hub.link_count - 1, -1, -1):
        link = <Link *>hub.links[i]
        if link.sleeping:
            arm(link)
            poll(link)


cdef void expire(Hub *hub) noexcept nogil:
    """Judge every node by its deadline."""
    cdef int i
    for i in range(hub.link_count - 1, -1, -1):
        poll(<Link *>hub.links[i])
        judge(<Link *>hub.links[i])
