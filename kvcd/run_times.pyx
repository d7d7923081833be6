# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Run times: how long the fast lane's commands take. A clock is read once for each run, never for each command."""

from libc.stdint cimport INT64_MAX, int64_t, uint32_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from kvcd.fastlane cimport FAST_COMMANDS, Pending

cdef enum:
    SMALLEST_POWER = 10   # as kvcd.latency
    PRECISION_BITS = 7

NEVER_NS = INT64_MAX


cdef int64_t realtime_ns() noexcept nogil:
    """The clock that says what has expired, too: one reading serves both. A step of it in the midst of a run spoils that run's time."""
    cdef timespec moment
    clock_gettime(CLOCK_REALTIME, &moment)
    return <int64_t>moment.tv_sec * 1000000000 + moment.tv_nsec


cdef inline int bucket_of(int64_t duration_ns) noexcept nogil:
    """kvcd.latency.bucket_of: the power of two up to which the duration reaches."""
    cdef int power = SMALLEST_POWER
    while power < BUCKETS - 1 and duration_ns >= (<int64_t>1 << power) + (<int64_t>1 << (power - PRECISION_BITS)):
        power += 1
    return power


cdef class RunTimes:
    """The commands of a run share its time evenly: they were carried out together."""

    def __cinit__(self):
        self.in_histogram = True
        self.slow_ns = INT64_MAX

    cdef bint note(self, const Pending *pending, uint32_t count, int64_t duration_ns) noexcept:
        """Count a run's commands; whether it took so long that the slow log wants to know."""
        cdef int64_t each_ns = duration_ns // count
        cdef int bucket = bucket_of(each_ns)
        cdef uint32_t i
        for i in range(count):
            self.total_ns[pending[i].command] += each_ns
        if self.in_histogram:
            for i in range(count):
                self.histogram[pending[i].command][bucket] += 1
        return duration_ns >= self.slow_ns

    def counters(self, names) -> dict[str, int]:
        """Counts since the start: ``ns:get`` and ``took:get:11``; ``names`` are the commands' by number."""
        cdef int command, bucket
        out = {}
        for command in range(1, FAST_COMMANDS):
            if self.total_ns[command]:
                out[f"ns:{names[command]}"] = self.total_ns[command]
            for bucket in range(BUCKETS):
                if self.histogram[command][bucket]:
                    out[f"took:{names[command]}:{bucket}"] = self.histogram[command][bucket]
        return out
