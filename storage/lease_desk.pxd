# cython: language_level=3
"""Lease desk: leases blocks to clients, within a share of the memory."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from storage.batch cimport Request
from storage.cluster cimport Cluster, Node


@cython.final
cdef class LeaseDesk:
    cdef Cluster cluster
    cdef public double share          # of the memory in use at most, that may be leased
    cdef readonly uint64_t refused    # leases for which the share had no room
    cdef int64_t _room(self, Node node) noexcept
    cdef int _refuse_lost(self, Request *request) except -1
