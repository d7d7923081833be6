# cython: language_level=3
"""Manual fabric: operations one by one from Python, for tests and tools."""

from libc.stdint cimport uint64_t

from storage.fabric.base cimport Fabric, FabricOp


cdef class ManualFabric(Fabric):
    cdef int perform(self, FabricOp *ops, int count) except -1
    cdef int transfer(self, int opcode, uint64_t offset, char *data, uint64_t length) except -1
