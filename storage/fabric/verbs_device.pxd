# cython: language_level=3
"""Verbs device: the opened RDMA device of a front end, its registered memory, and the channel that announces completions."""

from libc.stdint cimport uint64_t

from storage.fabric.libibverbs cimport ibv_context, ibv_device_attr, ibv_mr, ibv_pd
from storage.fabric.verbs_link cimport Hub


cdef class VerbsDevice:
    cdef Hub hub
    cdef ibv_context *context
    cdef ibv_pd *domain
    cdef ibv_mr *registration
    cdef ibv_device_attr limits
    cdef readonly object port              # storage.fabric.verbs_devices.Port
    cdef readonly object gid               # storage.fabric.verbs_devices.Gid
    cdef readonly int mtu                  # enum ibv_mtu, the active one
    cdef readonly int max_rd_atomic        # READs and atomics that a queue pair keeps outstanding
    cdef readonly int max_inline_bytes     # of a WRITE that travels in its work request; of the queue pair made last
    cdef int open(self) except -1
    cdef int set_up(self, uint64_t area_bytes) except -1
    cpdef void close(self)
