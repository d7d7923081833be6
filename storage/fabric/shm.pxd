# cython: language_level=3
"""Shared-memory fabric: one mapping, reached by copies and the processor's atomics."""

from storage.fabric.base cimport Fabric


cdef class SharedMemoryFabric(Fabric):
    cdef char *base
    cdef readonly int descriptor
    cdef readonly object path
