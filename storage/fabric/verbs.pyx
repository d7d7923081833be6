# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Verbs fabric: one memory node, reached by an RDMA device's one-sided operations.

``storage.fabric.verbs_link`` does what happens per operation, and makes no Python object.
"""

import ipaddress
import os
import secrets

cimport cython
from libc.errno cimport EINVAL, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from storage.fabric cimport verbs_link
from storage.fabric.base cimport FabricOp
from storage.fabric.libibverbs cimport (
    IBV_QP_ACCESS_FLAGS,
    IBV_QP_AV,
    IBV_QP_DEST_QPN,
    IBV_QP_MAX_DEST_RD_ATOMIC,
    IBV_QP_MAX_QP_RD_ATOMIC,
    IBV_QP_MIN_RNR_TIMER,
    IBV_QP_PATH_MTU,
    IBV_QP_PKEY_INDEX,
    IBV_QP_PORT,
    IBV_QP_RETRY_CNT,
    IBV_QP_RNR_RETRY,
    IBV_QP_RQ_PSN,
    IBV_QP_SQ_PSN,
    IBV_QP_STATE,
    IBV_QP_TIMEOUT,
    IBV_QPS_INIT,
    IBV_QPS_RTR,
    IBV_QPS_RTS,
    IBV_QPT_RC,
    IBV_WC_REM_ACCESS_ERR,
    IBV_WC_REM_INV_REQ_ERR,
    IBV_WC_RETRY_EXC_ERR,
    ibv_qp_attr,
    ibv_qp_init_attr,
)
from storage.fabric.manual cimport ManualFabric
from storage.fabric.verbs_buffers cimport give_staging_buffer, take_staging_buffer
from storage.fabric.verbs_device cimport VerbsDevice
from storage.fabric.verbs_link cimport (
    BULK_DEPTH,
    DEADLINE_PASSED,
    GIVEN_UP,
    NOT_LOST,
    OPERATION_FAILED,
    POLL_REFUSED,
    SMALL_DEPTH,
    Link,
    QueuePair,
    Ticket,
)

from storage.fabric.control_messages import PACKET_NUMBER_MOST, QueuePairAddress
from storage.fabric.verbs_device import device_error
from storage.fabric.verbs_devices import INFINIBAND, VerbsError

cdef enum:
    HOP_LIMIT = 64               # RoCE v2 may be routed
    ACKNOWLEDGEMENT_TIMEOUT = 14 # 67 ms
    RETRIES = 6                  # with 7 Soft-RoCE was seen never to give up
    RECEIVER_NOT_READY_RETRIES = 7
    RECEIVER_NOT_READY_TIMER = 12
    SPIN_US = 20                 # a network's round trip takes 2 to 20; a wait in the kernel costs about as much

# What a WRITE may carry in its work request, tried in this order: cells of small values fit in the first.
_INLINE_BYTES = (220, 128, 64, 0)


cdef str _completion_text(Link *link):
    text = link.hub.verbs.wc_status_str(link.loss_code).decode()
    if link.loss_code == IBV_WC_REM_ACCESS_ERR or link.loss_code == IBV_WC_REM_INV_REQ_ERR:
        text += ": the memory node lends no such memory (any more)"
    elif link.loss_code == IBV_WC_RETRY_EXC_ERR:
        text += ": the memory node does not answer"
    return f"{text} (status {link.loss_code}, vendor error {link.loss_detail})"


@cython.no_gc_clear  # the link uses the device until it is closed
cdef class VerbsFabric(ManualFabric):
    """One memory node's region.

    Made in two steps, since each side must know the other's queue pairs: ``prepare`` makes two, one for small operations and one for
    payloads; the control connection carries ``queue_pairs`` to the node; ``connect`` takes its answer. An operation that fails, or
    gets no answer within ``deadline_ms``, loses the node: all operations under way end with EHOSTUNREACH, and so does every later one.
    """

    def __cinit__(self, VerbsDevice device, int deadline_ms=1000):
        cdef Link *link = &self.link
        if device.context == NULL:
            raise ValueError("the RDMA device is closed")
        if deadline_ms < 1:
            raise ValueError(f"a deadline of {deadline_ms} ms; at least 1 is needed")
        self.kind = "verbs"
        self.is_remote = True
        self.ordered_reads = False
        self.device = device
        link.hub = &device.hub
        link.counts = &self.counts
        link.lost_flag = &self.is_lost
        link.deadline_ns = <uint64_t>deadline_ms * 1_000_000
        link.spin_ns = SPIN_US * 1000
        self.acknowledgement_timeout = ACKNOWLEDGEMENT_TIMEOUT
        # Not to be guessed, and not those of queue pairs that just ended.
        self.packet_numbers = tuple(secrets.randbelow(PACKET_NUMBER_MOST + 1) for _ in range(2))
        depths = [min(depth, device.limits.max_qp_wr) for depth in (SMALL_DEPTH, BULK_DEPTH)]
        link.completions = device.hub.verbs.create_cq(device.context, sum(depths), NULL, device.hub.channel, 0)
        if link.completions == NULL:
            raise device_error(device.port.device, "makes no completion queue", errno)
        try:
            verbs_link.attach(&device.hub, link)
            self.make_queue_pair(&link.queues[0], depths[0])
            self.make_queue_pair(&link.queues[1], depths[1])
        except BaseException:
            verbs_link.close(link)
            raise

    @classmethod
    def prepare(cls, VerbsDevice device, int deadline_ms=1000):
        """Make the queue pairs. Raises VerbsError when the device makes no more."""
        return cls(device, deadline_ms)

    cdef int make_queue_pair(self, QueuePair *queue, int depth) except -1:
        cdef ibv_qp_init_attr wanted
        cdef ibv_qp_attr attributes
        cdef VerbsDevice device = self.device
        cdef int error
        queue.depth = depth
        queue.ring = <Ticket **>calloc(depth, sizeof(Ticket *))
        if queue.ring == NULL:
            raise MemoryError("no memory for a queue pair")
        for inline_bytes in _INLINE_BYTES:
            memset(&wanted, 0, sizeof(wanted))
            wanted.send_cq = wanted.recv_cq = self.link.completions
            wanted.qp_type = IBV_QPT_RC
            wanted.cap.max_send_wr = depth
            wanted.cap.max_recv_wr = 1
            wanted.cap.max_send_sge = wanted.cap.max_recv_sge = 1
            wanted.cap.max_inline_data = inline_bytes
            queue.pair = device.hub.verbs.create_qp(device.domain, &wanted)
            if queue.pair != NULL or errno != EINVAL:
                break
        if queue.pair == NULL:
            raise device_error(device.port.device, f"makes no queue pair of {depth} requests", errno)
        queue.max_inline = device.max_inline_bytes = wanted.cap.max_inline_data
        memset(&attributes, 0, sizeof(attributes))
        attributes.qp_state = IBV_QPS_INIT
        attributes.port_num = device.port.number
        error = device.hub.verbs.modify_qp(
            queue.pair, &attributes, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS
        )
        if error:
            raise device_error(device.port.device, "does not ready a queue pair", error)
        return 0

    @property
    def queue_pairs(self) -> list:
        """What the memory node must know of this side."""
        device = self.device
        return [
            QueuePairAddress(
                number=self.link.queues[i].pair.qp_num,
                psn=self.packet_numbers[i],
                lid=device.port.lid,
                gid=device.gid.address,
                mtu=device.mtu,
                max_rd_atomic=device.max_rd_atomic,
            )
            for i in range(2)
            if self.link.queues[i].pair != NULL
        ]

    def connect(self, replies, node) -> None:
        """Connect to the node's queue pairs: its answer to ``queue_pairs``, and its description. Raises VerbsError."""
        if self.link.is_connected or self.link.is_lost:
            raise ValueError("a fabric is connected once: prepare another")
        if len(replies) != 2:
            raise ValueError(f"{len(replies)} queue pairs in answer to 2")
        self.connect_queue_pair(&self.link.queues[0], self.packet_numbers[0], replies[0], node)
        self.connect_queue_pair(&self.link.queues[1], self.packet_numbers[1], replies[1], node)
        self.link.address = node.address
        self.link.rkey = node.rkey
        self.link.size_bytes = self.size_bytes = node.size_bytes
        self.link.is_connected = True

    cdef int connect_queue_pair(self, QueuePair *queue, int packet_number, object reply, object node) except -1:
        cdef VerbsDevice device = self.device
        cdef ibv_qp_attr attributes
        cdef int error
        gid = ipaddress.IPv6Address(node.gid).packed
        memset(&attributes, 0, sizeof(attributes))
        attributes.qp_state = IBV_QPS_RTR
        attributes.path_mtu = min(device.mtu, node.mtu)
        attributes.dest_qp_num = reply.number
        attributes.rq_psn = reply.psn
        attributes.max_dest_rd_atomic = 1  # nobody reads here
        attributes.min_rnr_timer = RECEIVER_NOT_READY_TIMER
        attributes.ah_attr.port_num = device.port.number
        if device.port.link_layer == INFINIBAND:
            attributes.ah_attr.dlid = node.lid
        else:
            attributes.ah_attr.is_global = 1
            memcpy(&attributes.ah_attr.grh.dgid, <char *>gid, 16)
            attributes.ah_attr.grh.sgid_index = device.gid.index
            attributes.ah_attr.grh.hop_limit = HOP_LIMIT
        error = device.hub.verbs.modify_qp(
            queue.pair,
            &attributes,
            IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
        )
        if not error:
            attributes.qp_state = IBV_QPS_RTS
            attributes.sq_psn = packet_number
            attributes.timeout = self.acknowledgement_timeout
            attributes.retry_cnt = RETRIES
            attributes.rnr_retry = RECEIVER_NOT_READY_RETRIES
            attributes.max_rd_atomic = min(device.max_rd_atomic, node.max_rd_atomic)
            error = device.hub.verbs.modify_qp(
                queue.pair,
                &attributes,
                IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC,
            )
        if error:
            raise VerbsError(
                f"no queue pair from {device.port.device} (GID {device.gid}) to the memory node's GID {node.gid}, LID {node.lid}: "
                f"{os.strerror(error)}. Both GIDs must be of one kind and network: choose others by --gid-index"
            )
        return 0

    @property
    def spin_us(self) -> int:
        """How long a wait polls before it sleeps."""
        return self.link.spin_ns // 1000

    @spin_us.setter
    def spin_us(self, int spin_us) -> None:
        self.link.spin_ns = <uint64_t>max(0, spin_us) * 1000

    @property
    def outstanding_count(self) -> int:
        """Work requests under way."""
        return sum(self.link.queues[i].posted - self.link.queues[i].done for i in range(2))

    @property
    def lost_reason(self):
        """Why the node was lost, as text; None while it is not."""
        if self.link.loss == NOT_LOST:
            return None
        if self.link.loss == GIVEN_UP:
            return self.given_up_because or "closed"
        if self.link.loss == DEADLINE_PASSED:
            return f"no answer for {self.link.deadline_ns // 1_000_000} ms"
        if self.link.loss == OPERATION_FAILED:
            return _completion_text(&self.link)
        return f"the RDMA device refuses to {'poll' if self.link.loss == POLL_REFUSED else 'send'}: {os.strerror(self.link.loss_code)}"

    def lose(self, str reason) -> None:
        """Give the node up, as when its control connection ended: as if an operation had failed. Harmless when repeated."""
        if not self.link.is_lost:
            self.given_up_because = reason
            verbs_link.lose(&self.link, GIVEN_UP, 0, 0)

    cdef int64_t post(self, FabricOp *ops, int count) noexcept nogil:
        return verbs_link.post(&self.link, ops, count, False)

    cdef int64_t post_bulk(self, FabricOp *ops, int count) noexcept nogil:
        return verbs_link.post(&self.link, ops, count, True)

    cdef int wait(self, int64_t ticket) noexcept nogil:
        return verbs_link.wait_for(&self.link, ticket)

    cdef void forget(self, int64_t ticket) noexcept nogil:
        verbs_link.forget(&self.link, ticket)

    cdef int execute(self, FabricOp *ops, int count) noexcept nogil:
        return verbs_link.wait_for(&self.link, verbs_link.post(&self.link, ops, count, False))

    cdef char *take_staging(self) noexcept nogil:
        return take_staging_buffer(&self.link.hub.buffers)

    cdef void give_staging(self, char *buffer) noexcept nogil:
        give_staging_buffer(&self.link.hub.buffers, buffer)

    cpdef void close(self):
        """End what is under way and destroy the queue pairs. Harmless when repeated."""
        verbs_link.close(&self.link)

    def __dealloc__(self):
        verbs_link.close(&self.link)
        verbs_link.free_tickets(&self.link)
        free(self.link.queues[0].ring)
        free(self.link.queues[1].ring)
