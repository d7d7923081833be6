# cython: language_level=3
"""Pairs: two keys that are of use only together, as LMCache stores a block under <key>metadata and <key>kv_bytes."""

cimport cython

from storage.batch cimport Batch
from storage.engine cimport Engine
from storage.protection cimport LookupProtection


@cython.final
cdef class Pairs:
    cdef Engine engine
    cdef Batch batch             # finds partners
    cdef bint leave_together
    cdef void join(self, Batch evictions, LookupProtection protection, bint is_forced) noexcept nogil
