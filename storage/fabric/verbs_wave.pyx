# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Wave: the part of a doorbell that is posted as one chain, and where its bytes lie in registered buffers."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from storage.fabric.base cimport OP_CAS, OP_FENCE, OP_READ, OP_STAGED, OP_WRITE, FabricOp
from storage.fabric.libibverbs cimport (
    IBV_SEND_FENCE,
    IBV_SEND_INLINE,
    IBV_SEND_SIGNALED,
    IBV_WR_ATOMIC_CMP_AND_SWP,
    IBV_WR_ATOMIC_FETCH_AND_ADD,
    IBV_WR_RDMA_READ,
    IBV_WR_RDMA_WRITE,
    ibv_send_wr,
    ibv_sge,
)
from storage.fabric.verbs_buffers cimport DOORBELL_BYTES, Buffers, doorbell_buffer, take_doorbell_buffer
from storage.fabric.verbs_link cimport Hub, Link, QueuePair, Ticket

cdef enum:
    SIGNAL_EVERY = 64            # work requests: completions are noticed in time, and cost little
    SIGNAL_BYTES = 1 << 20       # or bytes, whichever comes first


cdef inline uint32_t piece_bytes(FabricOp *op, uint32_t done_bytes) noexcept nogil:
    """How much of an operation one work request carries."""
    cdef uint32_t rest
    if op.opcode >= OP_CAS:
        return 8
    rest = op.length - done_bytes
    return rest if op.flags & OP_STAGED or rest < DOORBELL_BYTES else <uint32_t>DOORBELL_BYTES


cdef inline uint32_t buffer_bytes(QueuePair *queue, FabricOp *op, uint32_t length) noexcept nogil:
    """How much of a doorbell buffer that needs."""
    if op.opcode < OP_CAS and (op.flags & OP_STAGED or (op.opcode == OP_WRITE and length <= queue.max_inline)):
        return 0
    return (length + 7) & ~<uint32_t>7


cdef inline void advance(FabricOp *op, uint32_t length, int *next_op, uint32_t *next_byte) noexcept nogil:
    next_byte[0] += length
    if op.opcode >= OP_CAS or next_byte[0] >= op.length:
        next_op[0] += 1
        next_byte[0] = 0


cdef bint may_take_buffer(Link *link) noexcept nogil:
    """Whether a doorbell buffer is free for this node.

    Each has an equal share: one that does not answer must not hold all of them until its deadline.
    """
    cdef Buffers *buffers = &link.hub.buffers
    return buffers.doorbells_free > 0 and (link.buffers_held == 0 or link.buffers_held < buffers.doorbell_count // link.hub.link_count)


cdef int take_buffer(Link *link, Ticket *ticket) noexcept nogil:
    """Add a doorbell buffer to the wave; its number, or -1."""
    cdef Buffers *buffers = &link.hub.buffers
    cdef int number
    if not may_take_buffer(link):
        return -1
    number = take_doorbell_buffer(buffers)
    if ticket.buffer_count == 0:
        ticket.first_buffer = number
    else:
        buffers.next[ticket.last_buffer] = number
    ticket.last_buffer = number
    ticket.buffer_count += 1
    link.buffers_held += 1
    return number


cdef int lay_out(Link *link, Ticket *ticket, uint32_t room) noexcept nogil:
    """Make the ticket's next wave, a chain of at most ``room`` work requests at ``hub.requests``; how many they are.

    What WRITEs carry is copied, so that the operations need not be touched again before the wave is over.
    """
    cdef Hub *hub = link.hub
    cdef QueuePair *queue = &link.queues[ticket.is_bulk]
    cdef ibv_send_wr *request = NULL
    cdef ibv_sge *element
    cdef FabricOp *op
    cdef uint32_t length, needed, unsignalled_bytes = 0
    cdef uint32_t used = DOORBELL_BYTES
    cdef char *buffer = NULL
    cdef char *local
    cdef int number, count = 0, unsignalled = 0
    cdef bint fetches = False
    ticket.wave_op = ticket.next_op
    ticket.wave_byte = ticket.next_byte
    while ticket.next_op < ticket.count and <uint32_t>count < room:
        op = &ticket.ops[ticket.next_op]
        length = piece_bytes(op, ticket.next_byte)
        if length == 0:
            advance(op, 0, &ticket.next_op, &ticket.next_byte)
            continue
        needed = buffer_bytes(queue, op, length)
        if needed > DOORBELL_BYTES - used:
            number = take_buffer(link, ticket)
            if number < 0:
                break
            buffer = doorbell_buffer(&hub.buffers, number)
            used = 0
        if request != NULL:
            request.next = &hub.requests[count]
        request = &hub.requests[count]
        element = &hub.elements[count]
        request.wr_id = (queue.posted + <uint64_t>count) << 1 | ticket.is_bulk
        request.sg_list = element
        request.num_sge = 1
        request.send_flags = 0
        local = <char *>op.local + ticket.next_byte
        if needed:
            if op.opcode == OP_WRITE:
                memcpy(buffer + used, local, length)
            local = buffer + used
            used += needed
        elif not op.flags & OP_STAGED:
            request.send_flags = IBV_SEND_INLINE
        element.addr = <uint64_t>local
        element.length = length
        element.lkey = hub.buffers.lkey
        # What follows a READ or an atomic may overtake it; what follows a WRITE may not.
        if op.flags & OP_FENCE and fetches:
            request.send_flags |= IBV_SEND_FENCE
        if op.opcode == OP_WRITE or op.opcode == OP_READ:
            request.opcode = IBV_WR_RDMA_WRITE if op.opcode == OP_WRITE else IBV_WR_RDMA_READ
            request.wr.rdma.remote_addr = link.address + op.offset + ticket.next_byte
            request.wr.rdma.rkey = link.rkey
        else:
            request.opcode = IBV_WR_ATOMIC_CMP_AND_SWP if op.opcode == OP_CAS else IBV_WR_ATOMIC_FETCH_AND_ADD
            request.wr.atomic.remote_addr = link.address + op.offset
            request.wr.atomic.compare_add = op.compare
            request.wr.atomic.swap = op.swap
            request.wr.atomic.rkey = link.rkey
        fetches = fetches or op.opcode != OP_WRITE
        unsignalled += 1
        unsignalled_bytes += length
        if unsignalled == SIGNAL_EVERY or unsignalled_bytes >= SIGNAL_BYTES or ticket.is_bulk:
            request.send_flags |= IBV_SEND_SIGNALED
            unsignalled = 0
            unsignalled_bytes = 0
        queue.ring[(queue.posted + <uint64_t>count) % queue.depth] = ticket
        count += 1
        advance(op, length, &ticket.next_op, &ticket.next_byte)
    if count == 0:
        return 0
    request.next = NULL
    request.send_flags |= IBV_SEND_SIGNALED
    return count


cdef void take_results(Link *link, Ticket *ticket) noexcept nogil:
    """Copy what the finished wave fetched to where the operations want it. For the ticket's owner only.

    Walks as ``lay_out`` did, which keeps no list of what it put where.
    """
    cdef QueuePair *queue = &link.queues[ticket.is_bulk]
    cdef FabricOp *op
    cdef uint32_t length, needed
    cdef uint32_t used = DOORBELL_BYTES
    cdef int number = -1
    cdef char *place
    while ticket.wave_op != ticket.next_op or ticket.wave_byte != ticket.next_byte:
        op = &ticket.ops[ticket.wave_op]
        length = piece_bytes(op, ticket.wave_byte)
        needed = buffer_bytes(queue, op, length) if length else 0
        if needed:
            if needed > DOORBELL_BYTES - used:
                number = ticket.first_buffer if number < 0 else link.hub.buffers.next[number]
                used = 0
            place = doorbell_buffer(&link.hub.buffers, number) + used
            used += needed
            if op.opcode == OP_READ:
                memcpy(<char *>op.local + ticket.wave_byte, place, length)
            elif op.opcode != OP_WRITE:
                op.result = (<uint64_t *>place)[0]
        advance(op, length, &ticket.wave_op, &ticket.wave_byte)
