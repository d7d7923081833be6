# cython: language_level=3
"""Times of the fast lane's runs, by command."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from kvcd.fastlane cimport FAST_COMMANDS, Pending

cdef enum:
    BUCKETS = 40  # by powers of two, 2 ** 10 ns to 2 ** 39 ns, nine minutes

cdef int64_t realtime_ns() noexcept nogil

cdef class RunTimes:
    cdef uint64_t total_ns[FAST_COMMANDS]
    cdef uint64_t histogram[FAST_COMMANDS][BUCKETS]
    cdef public bint in_histogram
    cdef public int64_t slow_ns    # a run that takes so long is worth a line in the slow log
    cdef bint note(self, const Pending *pending, uint32_t count, int64_t duration_ns) noexcept
