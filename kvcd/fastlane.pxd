# cython: language_level=3
"""Fast lane: commands that are answered without a Python object each."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from protocol.parser cimport RequestParser
from protocol.writer cimport OutBuffer
from storage.batch cimport Batch, Request
from storage.cluster cimport Cluster
from storage.reuse cimport ChainWorth
from storage.store cimport Store

cdef enum FastCommand:
    COMMAND_NONE = 0    # not a command of this lane, or not in a form that it takes
    COMMAND_GET
    COMMAND_SET
    COMMAND_MGET
    COMMAND_MSET
    COMMAND_EXISTS
    COMMAND_DEL
    COMMAND_UNLINK
    COMMAND_STRLEN
    COMMAND_TTL
    COMMAND_PTTL
    COMMAND_PING
    COMMAND_PREFIX_MATCH
    COMMAND_PREFIX_EXISTS
    COMMAND_PREFIX_GET
    COMMAND_PREFIX_SET
    FAST_COMMANDS

cdef enum TakeResult:
    TAKEN = 0
    NOT_FAST = 1     # the slow lane answers it
    RUN_FIRST = 2    # run what was taken, then offer it again

cdef enum RunResult:
    RUN_DONE = 0
    RUN_WAITS = 1    # nothing was done: too much is pinned by unread replies; offer all again after a release

cdef enum ChainPhase:
    PHASE_NONE = 0
    PHASE_LOOKUP
    PHASE_GET
    PHASE_SET

# What a connection's commands say of the chain it is at. Wrong guesses cost hits, nothing else.
cdef struct Chain:
    uint8_t phase
    uint32_t asked     # keys that its look-up named
    uint32_t found     # of these, the leading ones that were there
    uint32_t place     # blocks of the chain before the next one
    uint32_t made      # accesses that were counted since it began
    uint32_t unknown   # keys that its look-up named and that are neither there nor remembered
    ChainWorth worth   # of its blocks
    uint32_t strange   # blocks of it that were stored and had never been heard of
    bint is_looked_up  # it began with a look-up
    uint64_t last_hash # of the last of its blocks that is known to be there
    uint64_t stem      # mark of what the last key has in common with its partner, or 0
    uint8_t stem_command
    uint16_t stem_place
    uint16_t stem_flags
    uint16_t stem_depth
    uint64_t stem_parent

# One command of the run and its requests.
cdef struct Pending:
    uint8_t command
    uint32_t first
    uint32_t count
    const char *argument       # PING's
    size_t argument_bytes


@cython.final
cdef class FastLane:
    cdef readonly Store store
    cdef Cluster cluster
    cdef OutBuffer out                # replies of the batch at hand
    cdef Batch batch
    cdef Pending *pending
    cdef uint32_t pending_count
    cdef size_t first_frame           # where the run's first command begins in the buffer
    cdef bint has_write
    cdef uint64_t generation
    cdef uint64_t *touched            # keys of the run, for dependencies between its commands
    cdef list staged                  # (request number, StagedValue) of this run
    cdef uint64_t calls[FAST_COMMANDS]
    cdef uint32_t payload_reads       # requests of the run that may need a pin
    cdef int64_t now_ms
    cdef Chain *chain                 # of the connection whose commands are taken
    cdef bint infers_chains           # from the order of its EXISTS, GET and SET
    cdef void set_time(self) noexcept
    cdef int take(self, RequestParser parser, char *base, uint32_t database, list staged_values) except -1
    cdef void drop(self) noexcept
    cdef bint _pins_are_short(self) noexcept
    cdef bytes _unreachable(self, Request *request)
    cdef int run(self, int resp, list chunks) except -1
    cdef int _add_keys(self, RequestParser parser, char *base, uint32_t database, int command, int kind, int flags) except -1
    cdef int _take_set(self, RequestParser parser, char *base, uint32_t database, list staged_values) except -1
    cdef int _take_pairs(self, RequestParser parser, char *base, uint32_t database, list staged_values) except -1
    cdef int _take_prefix_set(self, RequestParser parser, char *base, uint32_t database, list staged_values) except -1
    cdef uint16_t _behind(self, uint32_t place) noexcept
    cdef void _place_block(self, Request *request, int command) noexcept
    cdef void _place_key(self, Request *request, int command) noexcept
    cdef bint _is_end(self, uint32_t place) noexcept
    cdef int _plan_chain(self, RequestParser parser, char *base, uint32_t database, int first, uint32_t place, uint32_t *unknown) except -1
    cdef int _set_value(self, Request *request, RequestParser parser, char *base, int number, list staged_values) except -1
    cdef bint _depends(self, RequestParser parser, char *base, int first, int step, uint32_t database, bint write) noexcept
    cdef bint _touch(self, uint64_t key) noexcept
    cdef void _forget_touched(self) noexcept
    cdef int _answer(self, Pending *pending, OutBuffer *out, int resp, list chunks) except -1
    cdef int _answer_value(self, Request *request, OutBuffer *out, int resp, list chunks) except -1
    cdef int _answer_full(self, int status, OutBuffer *out) noexcept
    cdef void _unpin(self, Pending *pending, uint32_t from_number) noexcept


cdef int fast_command(const char *name, size_t length) noexcept nogil
