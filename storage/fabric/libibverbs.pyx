# cython: language_level=3
"""libibverbs, found at run time: the structures of its stable interface that a front end uses, and the functions, once loaded."""

from storage.fabric.verbs_devices import VerbsError

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *, int)
    void *dlsym(void *, const char *)
    const char *dlerror()
    int RTLD_NOW

MISSING_LIBRARY = (
    "RDMA's library cannot be loaded ({reason}). On Debian and Ubuntu: apt install libibverbs1 ibverbs-providers; elsewhere the package "
    "rdma-core; kvcd doctor shows what is missing"
)

# The functions stand in the structure in the order of their names here.
_NAMES = (
    b"get_device_list", b"free_device_list", b"get_device_name", b"open_device", b"close_device", b"query_device", b"query_port",
    b"alloc_pd", b"dealloc_pd", b"reg_mr", b"dereg_mr", b"create_comp_channel", b"destroy_comp_channel", b"create_cq", b"destroy_cq",
    b"get_cq_event", b"ack_cq_events", b"create_qp", b"modify_qp", b"destroy_qp", b"wc_status_str",
)

cdef Verbs _verbs
cdef bint _is_loaded = False


cdef Verbs *load() except NULL:
    """The library's functions; loaded when first asked for. Raises VerbsError where it is not installed."""
    global _is_loaded
    cdef void *library
    cdef void **function = <void **>&_verbs
    if _is_loaded:
        return &_verbs
    library = dlopen(b"libibverbs.so.1", RTLD_NOW)
    if library == NULL:
        raise VerbsError(MISSING_LIBRARY.format(reason=dlerror().decode()))
    assert len(_NAMES) * sizeof(void *) == sizeof(Verbs)
    for name in _NAMES:
        symbol = b"ibv_" + name
        function[0] = dlsym(library, symbol)
        if function[0] == NULL:
            raise VerbsError(MISSING_LIBRARY.format(reason=dlerror().decode()))
        function += 1
    _is_loaded = True
    return &_verbs


def structure_layout() -> dict[str, dict[str, int]]:
    """Offsets in bytes of the fields that are used, by structure; under "" its size, where it is declared whole."""
    cdef ibv_sge *sge = NULL
    cdef ibv_send_wr *send = NULL
    cdef ibv_wc *wc = NULL
    cdef ibv_context *context = NULL
    cdef ibv_pd *domain = NULL
    cdef ibv_mr *registration = NULL
    cdef ibv_comp_channel *channel = NULL
    cdef ibv_cq *queue = NULL
    cdef ibv_qp *pair = NULL
    cdef ibv_qp_cap *cap = NULL
    cdef ibv_qp_init_attr *init = NULL
    cdef ibv_global_route *route = NULL
    cdef ibv_ah_attr *address = NULL
    cdef ibv_qp_attr *attr = NULL
    cdef ibv_port_attr *port = NULL
    cdef ibv_device_attr *device = NULL
    return {
        "ibv_sge": {
            "": sizeof(ibv_sge), "addr": <size_t>&sge.addr, "length": <size_t>&sge.length, "lkey": <size_t>&sge.lkey,
        },
        "ibv_send_wr": {
            "": sizeof(ibv_send_wr), "wr_id": <size_t>&send.wr_id, "next": <size_t>&send.next, "sg_list": <size_t>&send.sg_list,
            "num_sge": <size_t>&send.num_sge, "opcode": <size_t>&send.opcode, "send_flags": <size_t>&send.send_flags,
            "wr.rdma.remote_addr": <size_t>&send.wr.rdma.remote_addr, "wr.rdma.rkey": <size_t>&send.wr.rdma.rkey,
            "wr.atomic.remote_addr": <size_t>&send.wr.atomic.remote_addr, "wr.atomic.compare_add": <size_t>&send.wr.atomic.compare_add,
            "wr.atomic.swap": <size_t>&send.wr.atomic.swap, "wr.atomic.rkey": <size_t>&send.wr.atomic.rkey,
        },
        "ibv_wc": {
            "": sizeof(ibv_wc), "wr_id": <size_t>&wc.wr_id, "status": <size_t>&wc.status, "opcode": <size_t>&wc.opcode,
            "vendor_err": <size_t>&wc.vendor_err, "qp_num": <size_t>&wc.qp_num,
        },
        "ibv_context_ops": {"": sizeof(ibv_context_ops)},
        "ibv_context": {
            "device": <size_t>&context.device, "ops.poll_cq": <size_t>&context.ops.poll_cq,
            "ops.req_notify_cq": <size_t>&context.ops.req_notify_cq, "ops.post_send": <size_t>&context.ops.post_send,
            "cmd_fd": <size_t>&context.cmd_fd, "async_fd": <size_t>&context.async_fd,
        },
        "ibv_pd": {"": sizeof(ibv_pd), "context": <size_t>&domain.context},
        "ibv_mr": {
            "": sizeof(ibv_mr), "addr": <size_t>&registration.addr, "length": <size_t>&registration.length,
            "lkey": <size_t>&registration.lkey, "rkey": <size_t>&registration.rkey,
        },
        "ibv_comp_channel": {"": sizeof(ibv_comp_channel), "fd": <size_t>&channel.fd, "refcnt": <size_t>&channel.refcnt},
        "ibv_cq": {"context": <size_t>&queue.context, "channel": <size_t>&queue.channel, "cq_context": <size_t>&queue.cq_context},
        "ibv_qp": {
            "context": <size_t>&pair.context, "send_cq": <size_t>&pair.send_cq, "qp_num": <size_t>&pair.qp_num,
            "state": <size_t>&pair.state, "qp_type": <size_t>&pair.qp_type,
        },
        "ibv_qp_cap": {
            "": sizeof(ibv_qp_cap), "max_send_wr": <size_t>&cap.max_send_wr, "max_recv_wr": <size_t>&cap.max_recv_wr,
            "max_send_sge": <size_t>&cap.max_send_sge, "max_recv_sge": <size_t>&cap.max_recv_sge,
            "max_inline_data": <size_t>&cap.max_inline_data,
        },
        "ibv_qp_init_attr": {
            "": sizeof(ibv_qp_init_attr), "qp_context": <size_t>&init.qp_context, "send_cq": <size_t>&init.send_cq,
            "recv_cq": <size_t>&init.recv_cq, "cap": <size_t>&init.cap, "qp_type": <size_t>&init.qp_type,
            "sq_sig_all": <size_t>&init.sq_sig_all,
        },
        "ibv_global_route": {
            "": sizeof(ibv_global_route), "dgid": <size_t>&route.dgid, "sgid_index": <size_t>&route.sgid_index,
            "hop_limit": <size_t>&route.hop_limit,
        },
        "ibv_ah_attr": {
            "": sizeof(ibv_ah_attr), "grh": <size_t>&address.grh, "dlid": <size_t>&address.dlid, "is_global": <size_t>&address.is_global,
            "port_num": <size_t>&address.port_num,
        },
        "ibv_qp_attr": {
            "": sizeof(ibv_qp_attr), "qp_state": <size_t>&attr.qp_state, "path_mtu": <size_t>&attr.path_mtu,
            "rq_psn": <size_t>&attr.rq_psn, "sq_psn": <size_t>&attr.sq_psn, "dest_qp_num": <size_t>&attr.dest_qp_num,
            "qp_access_flags": <size_t>&attr.qp_access_flags, "ah_attr": <size_t>&attr.ah_attr, "pkey_index": <size_t>&attr.pkey_index,
            "max_rd_atomic": <size_t>&attr.max_rd_atomic, "max_dest_rd_atomic": <size_t>&attr.max_dest_rd_atomic,
            "min_rnr_timer": <size_t>&attr.min_rnr_timer, "port_num": <size_t>&attr.port_num, "timeout": <size_t>&attr.timeout,
            "retry_cnt": <size_t>&attr.retry_cnt, "rnr_retry": <size_t>&attr.rnr_retry,
        },
        "ibv_port_attr": {
            "": sizeof(ibv_port_attr), "state": <size_t>&port.state, "active_mtu": <size_t>&port.active_mtu, "lid": <size_t>&port.lid,
            "link_layer": <size_t>&port.link_layer,
        },
        "ibv_device_attr": {
            "": sizeof(ibv_device_attr), "max_qp_wr": <size_t>&device.max_qp_wr, "max_cqe": <size_t>&device.max_cqe,
            "max_qp_rd_atom": <size_t>&device.max_qp_rd_atom, "max_qp_init_rd_atom": <size_t>&device.max_qp_init_rd_atom,
            "atomic_cap": <size_t>&device.atomic_cap,
        },
    }


def enumerations() -> dict[str, int]:
    """The constants that are used, by the header's names."""
    return {
        "IBV_WR_RDMA_WRITE": IBV_WR_RDMA_WRITE, "IBV_WR_RDMA_READ": IBV_WR_RDMA_READ,
        "IBV_WR_ATOMIC_CMP_AND_SWP": IBV_WR_ATOMIC_CMP_AND_SWP, "IBV_WR_ATOMIC_FETCH_AND_ADD": IBV_WR_ATOMIC_FETCH_AND_ADD,
        "IBV_SEND_FENCE": IBV_SEND_FENCE, "IBV_SEND_SIGNALED": IBV_SEND_SIGNALED, "IBV_SEND_INLINE": IBV_SEND_INLINE,
        "IBV_WC_SUCCESS": IBV_WC_SUCCESS, "IBV_WC_WR_FLUSH_ERR": IBV_WC_WR_FLUSH_ERR, "IBV_WC_REM_INV_REQ_ERR": IBV_WC_REM_INV_REQ_ERR,
        "IBV_WC_REM_ACCESS_ERR": IBV_WC_REM_ACCESS_ERR, "IBV_WC_RETRY_EXC_ERR": IBV_WC_RETRY_EXC_ERR,
        "IBV_ACCESS_LOCAL_WRITE": IBV_ACCESS_LOCAL_WRITE, "IBV_QPT_RC": IBV_QPT_RC, "IBV_QPS_INIT": IBV_QPS_INIT,
        "IBV_QPS_RTR": IBV_QPS_RTR, "IBV_QPS_RTS": IBV_QPS_RTS, "IBV_QPS_ERR": IBV_QPS_ERR, "IBV_QP_STATE": IBV_QP_STATE,
        "IBV_QP_ACCESS_FLAGS": IBV_QP_ACCESS_FLAGS, "IBV_QP_PKEY_INDEX": IBV_QP_PKEY_INDEX, "IBV_QP_PORT": IBV_QP_PORT,
        "IBV_QP_AV": IBV_QP_AV, "IBV_QP_PATH_MTU": IBV_QP_PATH_MTU, "IBV_QP_TIMEOUT": IBV_QP_TIMEOUT,
        "IBV_QP_RETRY_CNT": IBV_QP_RETRY_CNT, "IBV_QP_RNR_RETRY": IBV_QP_RNR_RETRY, "IBV_QP_RQ_PSN": IBV_QP_RQ_PSN,
        "IBV_QP_MAX_QP_RD_ATOMIC": IBV_QP_MAX_QP_RD_ATOMIC, "IBV_QP_MIN_RNR_TIMER": IBV_QP_MIN_RNR_TIMER,
        "IBV_QP_SQ_PSN": IBV_QP_SQ_PSN, "IBV_QP_MAX_DEST_RD_ATOMIC": IBV_QP_MAX_DEST_RD_ATOMIC, "IBV_QP_DEST_QPN": IBV_QP_DEST_QPN,
        "IBV_ATOMIC_NONE": IBV_ATOMIC_NONE,
    }
