# cython: language_level=3
"""Simulated fabric: in-process bytes that nothing else can reach; every operation is counted."""

from libc.stdint cimport uint64_t

from storage.fabric.base cimport Fabric


cdef class SimulatedFabric(Fabric):
    cdef char *memory
    cdef uint64_t generator
    cdef public object journal
    cdef public object before_round
    cdef bint in_hook
    cdef uint64_t next_random(self) noexcept nogil
    cdef int journal_operations(self, void *ops, int count) except -1 with gil
    cdef int call_hook(self, void *ops, int count) except -1 with gil
