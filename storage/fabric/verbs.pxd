# cython: language_level=3
"""Verbs fabric: one memory node, reached by an RDMA device's one-sided operations."""

from storage.fabric.manual cimport ManualFabric
from storage.fabric.verbs_device cimport VerbsDevice
from storage.fabric.verbs_link cimport Link, QueuePair


cdef class VerbsFabric(ManualFabric):
    cdef Link link
    cdef readonly VerbsDevice device
    # The device sends again after 4.096 us * 2^this without an acknowledgement, up to 6 times; counts when connecting.
    cdef public int acknowledgement_timeout
    cdef tuple packet_numbers
    cdef str given_up_because
    cdef int make_queue_pair(self, QueuePair *queue, int depth) except -1
    cdef int connect_queue_pair(self, QueuePair *queue, int packet_number, object reply, object node) except -1
    cpdef void close(self)
