# cython: language_level=3
"""libibverbs, found at run time: the structures of its stable interface that a front end uses, and the functions, once loaded."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

# Written down here and not taken from a header, so that kvcd is built without one and runs where no library is;
# tests/rdma/test_libibverbs.py holds sizes and offsets against the real header.

cdef enum:
    # enum ibv_wr_opcode
    IBV_WR_RDMA_WRITE = 0
    IBV_WR_RDMA_READ = 4
    IBV_WR_ATOMIC_CMP_AND_SWP = 5
    IBV_WR_ATOMIC_FETCH_AND_ADD = 6
    # enum ibv_send_flags
    IBV_SEND_FENCE = 1
    IBV_SEND_SIGNALED = 2
    IBV_SEND_INLINE = 8
    # enum ibv_wc_status
    IBV_WC_SUCCESS = 0
    IBV_WC_WR_FLUSH_ERR = 5
    IBV_WC_REM_INV_REQ_ERR = 9
    IBV_WC_REM_ACCESS_ERR = 10
    IBV_WC_RETRY_EXC_ERR = 12
    # enum ibv_access_flags
    IBV_ACCESS_LOCAL_WRITE = 1
    # enum ibv_qp_type
    IBV_QPT_RC = 2
    # enum ibv_qp_state
    IBV_QPS_INIT = 1
    IBV_QPS_RTR = 2
    IBV_QPS_RTS = 3
    IBV_QPS_ERR = 6
    # enum ibv_qp_attr_mask
    IBV_QP_STATE = 1 << 0
    IBV_QP_ACCESS_FLAGS = 1 << 3
    IBV_QP_PKEY_INDEX = 1 << 4
    IBV_QP_PORT = 1 << 5
    IBV_QP_AV = 1 << 7
    IBV_QP_PATH_MTU = 1 << 8
    IBV_QP_TIMEOUT = 1 << 9
    IBV_QP_RETRY_CNT = 1 << 10
    IBV_QP_RNR_RETRY = 1 << 11
    IBV_QP_RQ_PSN = 1 << 12
    IBV_QP_MAX_QP_RD_ATOMIC = 1 << 13
    IBV_QP_MIN_RNR_TIMER = 1 << 15
    IBV_QP_SQ_PSN = 1 << 16
    IBV_QP_MAX_DEST_RD_ATOMIC = 1 << 17
    IBV_QP_DEST_QPN = 1 << 20
    # enum ibv_atomic_cap
    IBV_ATOMIC_NONE = 0

cdef struct ibv_device      # opaque
cdef struct ibv_srq         # never made

cdef struct ibv_sge:
    uint64_t addr
    uint32_t length
    uint32_t lkey

cdef struct ibv_send_rdma:
    uint64_t remote_addr
    uint32_t rkey

cdef struct ibv_send_atomic:
    uint64_t remote_addr
    uint64_t compare_add
    uint64_t swap
    uint32_t rkey

cdef union ibv_send_target:
    ibv_send_rdma rdma
    ibv_send_atomic atomic

cdef struct ibv_send_wr:
    uint64_t wr_id
    ibv_send_wr *next
    ibv_sge *sg_list
    int num_sge
    int opcode
    unsigned int send_flags
    uint32_t imm_data
    ibv_send_target wr
    uint32_t remote_srqn
    uint64_t bind_mw[6]     # of memory windows and segmentation, unused

cdef struct ibv_wc:
    uint64_t wr_id
    int status
    int opcode
    uint32_t vendor_err
    uint32_t byte_len
    uint32_t imm_data
    uint32_t qp_num
    uint32_t src_qp
    unsigned int wc_flags
    uint16_t pkey_index
    uint16_t slid
    uint8_t sl
    uint8_t dlid_path_bits

# The table of an opened device. Only what is called per operation goes through it; the rest are exported functions.
cdef struct ibv_context_ops:
    void *unused_before_poll[11]
    int (*poll_cq)(void *queue, int count, ibv_wc *completions) noexcept nogil
    int (*req_notify_cq)(void *queue, int solicited_only) noexcept nogil
    void *unused_before_post[12]
    int (*post_send)(void *pair, ibv_send_wr *requests, ibv_send_wr **refused) noexcept nogil
    void *unused_behind_post[6]

cdef struct ibv_context:
    ibv_device *device
    ibv_context_ops ops
    int cmd_fd
    int async_fd
    int num_comp_vectors

cdef struct ibv_pd:
    ibv_context *context
    uint32_t handle

cdef struct ibv_mr:
    ibv_context *context
    ibv_pd *pd
    void *addr
    size_t length
    uint32_t handle
    uint32_t lkey
    uint32_t rkey

cdef struct ibv_comp_channel:
    ibv_context *context
    int fd
    int refcnt

# Of queues only the beginnings: locks follow.
cdef struct ibv_cq:
    ibv_context *context
    ibv_comp_channel *channel
    void *cq_context
    uint32_t handle
    int cqe

cdef struct ibv_qp:
    ibv_context *context
    void *qp_context
    ibv_pd *pd
    ibv_cq *send_cq
    ibv_cq *recv_cq
    ibv_srq *srq
    uint32_t handle
    uint32_t qp_num
    int state
    int qp_type

cdef struct ibv_qp_cap:
    uint32_t max_send_wr
    uint32_t max_recv_wr
    uint32_t max_send_sge
    uint32_t max_recv_sge
    uint32_t max_inline_data

cdef struct ibv_qp_init_attr:
    void *qp_context
    ibv_cq *send_cq
    ibv_cq *recv_cq
    ibv_srq *srq
    ibv_qp_cap cap
    int qp_type
    int sq_sig_all

cdef union ibv_gid:
    uint8_t raw[16]
    uint64_t words[2]

cdef struct ibv_global_route:
    ibv_gid dgid
    uint32_t flow_label
    uint8_t sgid_index
    uint8_t hop_limit
    uint8_t traffic_class

cdef struct ibv_ah_attr:
    ibv_global_route grh
    uint16_t dlid
    uint8_t sl
    uint8_t src_path_bits
    uint8_t static_rate
    uint8_t is_global
    uint8_t port_num

cdef struct ibv_qp_attr:
    int qp_state
    int cur_qp_state
    int path_mtu
    int path_mig_state
    uint32_t qkey
    uint32_t rq_psn
    uint32_t sq_psn
    uint32_t dest_qp_num
    unsigned int qp_access_flags
    ibv_qp_cap cap
    ibv_ah_attr ah_attr
    ibv_ah_attr alt_ah_attr
    uint16_t pkey_index
    uint16_t alt_pkey_index
    uint8_t en_sqd_async_notify
    uint8_t sq_draining
    uint8_t max_rd_atomic
    uint8_t max_dest_rd_atomic
    uint8_t min_rnr_timer
    uint8_t port_num
    uint8_t timeout
    uint8_t retry_cnt
    uint8_t rnr_retry
    uint8_t alt_port_num
    uint8_t alt_timeout
    uint32_t rate_limit

# As long as the header's; the exported ibv_query_port fills all but the last field, which newer programs know.
cdef struct ibv_port_attr:
    int state
    int max_mtu
    int active_mtu
    int gid_tbl_len
    uint32_t port_cap_flags
    uint32_t max_msg_sz
    uint32_t bad_pkey_cntr
    uint32_t qkey_viol_cntr
    uint16_t pkey_tbl_len
    uint16_t lid
    uint16_t sm_lid
    uint8_t lmc
    uint8_t max_vl_num
    uint8_t sm_sl
    uint8_t subnet_timeout
    uint8_t init_type_reply
    uint8_t active_width
    uint8_t active_speed
    uint8_t phys_state
    uint8_t link_layer
    uint8_t flags
    uint16_t port_cap_flags2

cdef struct ibv_device_attr:
    char fw_ver[64]
    uint64_t node_guid
    uint64_t sys_image_guid
    uint64_t max_mr_size
    uint64_t page_size_cap
    uint32_t vendor_id
    uint32_t vendor_part_id
    uint32_t hw_ver
    int max_qp
    int max_qp_wr
    unsigned int device_cap_flags
    int max_sge
    int max_sge_rd
    int max_cq
    int max_cqe
    int max_mr
    int max_pd
    int max_qp_rd_atom
    int max_ee_rd_atom
    int max_res_rd_atom
    int max_qp_init_rd_atom
    int max_ee_init_rd_atom
    int atomic_cap
    int unused_behind_atomic[14]
    uint16_t max_pkeys
    uint8_t local_ca_ack_delay
    uint8_t phys_port_cnt

# The exported functions, by their names without ibv_.
cdef struct Verbs:
    ibv_device **(*get_device_list)(int *count) noexcept nogil
    void (*free_device_list)(ibv_device **devices) noexcept nogil
    const char *(*get_device_name)(ibv_device *device) noexcept nogil
    ibv_context *(*open_device)(ibv_device *device) noexcept nogil
    int (*close_device)(ibv_context *context) noexcept nogil
    int (*query_device)(ibv_context *context, ibv_device_attr *attributes) noexcept nogil
    int (*query_port)(ibv_context *context, uint8_t port, ibv_port_attr *attributes) noexcept nogil
    ibv_pd *(*alloc_pd)(ibv_context *context) noexcept nogil
    int (*dealloc_pd)(ibv_pd *domain) noexcept nogil
    ibv_mr *(*reg_mr)(ibv_pd *domain, void *memory, size_t length, int access) noexcept nogil
    int (*dereg_mr)(ibv_mr *registration) noexcept nogil
    ibv_comp_channel *(*create_comp_channel)(ibv_context *context) noexcept nogil
    int (*destroy_comp_channel)(ibv_comp_channel *channel) noexcept nogil
    ibv_cq *(*create_cq)(ibv_context *context, int entries, void *owner, ibv_comp_channel *channel, int vector) noexcept nogil
    int (*destroy_cq)(ibv_cq *queue) noexcept nogil
    int (*get_cq_event)(ibv_comp_channel *channel, ibv_cq **queue, void **owner) noexcept nogil
    void (*ack_cq_events)(ibv_cq *queue, unsigned int count) noexcept nogil
    ibv_qp *(*create_qp)(ibv_pd *domain, ibv_qp_init_attr *attributes) noexcept nogil
    int (*modify_qp)(ibv_qp *pair, ibv_qp_attr *attributes, int mask) noexcept nogil
    int (*destroy_qp)(ibv_qp *pair) noexcept nogil
    const char *(*wc_status_str)(int status) noexcept nogil

cdef Verbs *load() except NULL
