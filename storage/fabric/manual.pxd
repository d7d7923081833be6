# cython: language_level=3
"""Manual fabric: operations one by one from Python, for tests and tools."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from storage.fabric.base cimport Fabric, FabricOp


@cython.final
cdef class Doorbell:
    cdef Fabric fabric
    cdef FabricOp *ops
    cdef int count
    cdef int64_t ticket
    cdef bint is_open
    cdef list operations     # whose bytes are written from where they are
    cdef list results


cdef class ManualFabric(Fabric):
    cdef int perform(self, FabricOp *ops, int count) except -1
    cdef int transfer(self, int opcode, uint64_t offset, char *data, uint64_t length) except -1
