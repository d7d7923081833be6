# cython: language_level=3
"""Leases: how many bytes of a pool are leased, and until when."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from storage.pool cimport Pool


cdef enum:
    LEASE_TERMS = 512        # words of the pool: one for each term, over and over
    LEASE_TERM_SHIFT = 13    # a term has 8192 ms: an hour and nine minutes in all
    LONGEST_LEASE_MS = 3600000


@cython.final
cdef class Leases:
    cdef Pool pool
    cdef int64_t pending[LEASE_TERMS]     # bytes that are not yet in the pool's books
    cdef uint64_t terms[LEASE_TERMS]      # of what is pending
    cdef bint is_dirty
    cdef void add(self, int64_t until_ms, int64_t size_bytes, int64_t now_ms) noexcept nogil
    cdef void flush(self, int64_t now_ms) noexcept nogil
    cdef int64_t total(self, int64_t now_ms) noexcept nogil
