# cython: language_level=3
"""Link: the two queue pairs that lead to one memory node, and the doorbells under way on them."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from storage.fabric.base cimport FabricCounts, FabricOp
from storage.fabric.libibverbs cimport Verbs, ibv_comp_channel, ibv_cq, ibv_qp, ibv_send_wr, ibv_sge
from storage.fabric.verbs_buffers cimport Buffers

cdef enum:
    SMALL_DEPTH = 1024       # work requests of the queue pair for small operations
    BULK_DEPTH = 256         # of the one for payloads: 64 MiB under way
    LINKS_LIMIT = 256        # memory nodes of one front end

cdef enum Loss:
    NOT_LOST
    OPERATION_FAILED         # its completion said so
    DEADLINE_PASSED
    POST_REFUSED
    POLL_REFUSED
    GIVEN_UP                 # from outside

# One doorbell. In flight are the work requests of its present wave; the next wave is posted by the doorbell's owner, who alone may
# touch the operations, since they may lie on a stack that is swapped out.
cdef struct Ticket:
    FabricOp *ops
    int count
    int next_op              # the first operation that is not posted whole
    uint32_t next_byte       # how much of it is
    int wave_op              # the same for the beginning of the wave: everything before it is done
    uint32_t wave_byte
    int in_flight
    int first_buffer         # the wave's doorbell buffers, a list
    int last_buffer
    int buffer_count
    int status               # 0, or the negative errno with which it ends
    uint32_t index
    uint32_t generation
    bint is_taken
    bint is_bulk
    bint is_forgotten        # nobody waits
    bint is_starved          # stands in the queue pair's line for room
    bint was_fed             # has just left that line, and goes back to its head if the room is gone again
    uint64_t since_ns        # when the wave was posted, or the wait for room began
    void *stack              # that sleeps until in_flight is 0 or there is room; a reference
    Ticket *next             # in the line, or among the free ones

cdef struct QueuePair:
    ibv_qp *pair
    Ticket **ring            # whose each work request is, by its number
    uint32_t depth
    uint32_t max_inline
    uint64_t posted          # number of the next work request
    uint64_t done            # number of the oldest in flight
    uint64_t progress_ns     # when something was last seen to be done
    Ticket *first_starved
    Ticket *last_starved

# What the links of one device share.
cdef struct Hub:
    Verbs *verbs
    ibv_comp_channel *channel
    Buffers buffers
    ibv_send_wr *requests    # scratch, for one chain
    ibv_sge *elements
    void **links
    int link_count

cdef struct Link:
    Hub *hub
    ibv_cq *completions
    QueuePair queues[2]      # small operations, payloads
    uint64_t address         # of the region, in the node's own memory
    uint64_t size_bytes
    uint32_t rkey
    uint64_t deadline_ns
    uint64_t spin_ns
    FabricCounts *counts
    bint *lost_flag          # the fabric's own, set with is_lost
    bint is_connected
    bint is_lost
    Loss loss
    int loss_code            # ibv_wc_status or errno
    uint32_t loss_detail     # the vendor's
    int buffers_held
    int sleeping             # stacks
    Ticket **tickets
    uint32_t ticket_count
    Ticket *first_free

cdef int64_t post(Link *link, FabricOp *ops, int count, bint is_bulk) noexcept nogil
cdef int wait_for(Link *link, int64_t number) noexcept nogil
cdef void forget(Link *link, int64_t number) noexcept nogil
cdef void lose(Link *link, Loss loss, int code, uint32_t detail) noexcept nogil
cdef int attach(Hub *hub, Link *link) except -1
cdef void close(Link *link) noexcept nogil
cdef void free_tickets(Link *link) noexcept
cdef void serve_events(Hub *hub) noexcept nogil
cdef void expire(Hub *hub) noexcept nogil
