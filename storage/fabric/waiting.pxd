# cython: language_level=3
"""Waiting: functions that may wait for a memory node, each on a stack of its own."""

cimport cython


@cython.final
cdef class Turnstile:
    cdef readonly bint is_taken
    cdef object waiting
    cdef int waiting_count
    cdef bint enter(self) noexcept nogil
    cdef void leave(self) noexcept nogil


cdef bint may_wait() noexcept nogil
cdef bint suspend() noexcept nogil
cdef bint take_turns() noexcept nogil
