# cython: language_level=3
"""Session: one connection, from the bytes of its socket to the bytes of its replies."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from kvcd.fastlane cimport Chain, FastLane
from kvcd.run_times cimport RunTimes
from protocol.parser cimport RequestParser
from protocol.writer cimport OutBuffer
from storage.staging cimport PinnedValue, StagedValue

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


@cython.final
cdef class Hub:
    cdef public object server            # ServerState: what handlers are given
    cdef readonly FastLane lane
    cdef char *read_buffer               # shared: a session that keeps nothing reads into it
    cdef size_t read_buffer_bytes
    cdef readonly list lanes             # all that were made
    cdef list idle_lanes
    cdef object lane_waiters             # stacks that wait for a lane
    cdef readonly bint is_remote         # whether the store may wait for other machines: sessions run on stacks of their own then
    cdef public int lanes_limit          # batches of clients that are under way at a time
    cdef list spare_buffers
    cdef int64_t now_ms
    cdef public dict clients             # id -> Session
    cdef public object loop
    cdef public object log
    cdef public object password_required # whether new connections must authenticate
    cdef public int slow_reasons         # kvcd.context.SlowReason bits: every command of every client takes the slow lane, which looks at it
    cdef public int first_slow_reasons   # those that a new client begins with
    cdef public bint protected           # protected mode: no password, open to the network
    cdef public uint64_t max_clients
    cdef public uint64_t query_buffer_limit_bytes
    cdef public uint64_t max_bulk_bytes
    cdef public int batch_size_limit     # commands of one client before others have their turn
    cdef public bint infers_chains       # of blocks, from the order of plain commands
    cdef public int64_t stall_limit_ms   # a client that moves nothing for so long while others wait for its memory is closed
    cdef readonly uint64_t connections_received
    cdef readonly uint64_t connections_rejected
    cdef readonly uint64_t net_input_bytes
    cdef readonly uint64_t net_output_bytes
    cdef uint64_t sent_in_turn_bytes      # of queued replies, since the last turn of the loop that was full
    cdef bint is_turn_full
    cdef public uint64_t next_id         # of the next client; workers of one service count from different numbers
    cdef public int first_database       # where in the pool the database is that new clients begin with
    cdef readonly RunTimes times         # of the fast lane
    cdef int64_t run_began_ns            # the clock when the run at hand began, as far as it is known; else 0
    cdef dict waiting                    # sessions that wait for memory or pins -> since when
    cdef bint waking
    cdef bint has_sent_enough(self) except -1
    cdef void set_time(self) noexcept
    cdef FastLane take_lane(self)
    cdef void give_lane(self, FastLane lane) except *
    cdef int take_over_buffer(self) except -1
    cdef void give_buffer(self, char *buffer) except *


@cython.final
cdef class Session:
    # --- what command handlers see (kvcd.context.ClientState)
    cdef readonly uint64_t id
    cdef public bytes name
    cdef public int db
    cdef int _resp
    cdef bint _authenticated
    cdef public bytes user
    cdef public bytes lib_name
    cdef public bytes lib_ver
    cdef readonly str address
    cdef readonly str local_address
    cdef readonly int descriptor
    cdef readonly int64_t created_at_ms
    cdef readonly int64_t last_interaction_ms
    cdef str _last_command
    cdef int fast_command
    cdef readonly uint64_t net_input_bytes
    cdef readonly uint64_t net_output_bytes
    cdef public bint close_after_reply
    cdef public int slow_reasons         # the same for this client's commands
    cdef public object modes             # kvcd.client_modes.ClientModes: what it has switched on, None for most
    cdef public bint replies_off         # CLIENT REPLY OFF
    cdef public bint skips_next          # CLIENT REPLY SKIP: of the command after this one
    cdef public bint is_blocked          # its command waits for what others do (CLIENT PAUSE, WAIT): messages pass it meanwhile
    # --- the connection
    cdef Hub hub
    cdef FastLane lane                   # what answers this client's commands; over RDMA only while it does
    cdef object transport
    cdef RequestParser parser
    cdef Chain chain                     # that it asks for at the moment
    cdef char *own                       # bytes of an unfinished command, or NULL
    cdef size_t own_capacity
    cdef size_t held                     # bytes in `own` that are not yet parsed, or part of an unfinished command
    cdef char *region                    # what the next read fills
    cdef size_t region_bytes
    cdef public bint skipping            # the reply of the command at hand
    cdef list pushes                     # messages that are no replies and go before the next one
    cdef list late_pushes                # such as go behind the reply of the command at hand
    cdef uint64_t pushed_bytes           # in all of them
    cdef bint is_push_planned            # the loop's next turn sends them
    cdef object queue                    # chunks that the socket did not take yet
    cdef uint64_t queued_bytes
    cdef size_t chunk_position           # how much of the first chunk is sent
    cdef bint is_encrypted               # TLS: only the transport may write
    cdef bint transport_busy             # the transport holds bytes: no direct send until it resumes us
    cdef bint reading_paused
    cdef bint closed
    cdef bint in_command                 # a slow command has suspended
    cdef bint processing
    # Over RDMA: what is done for this client runs on a stack of its own, which may wait while others are served.
    cdef bint working
    cdef bint uses_shared                # it still needs what lies in the shared read buffer
    cdef char *borrowed                  # the shared read buffer that it still uses, or NULL
    cdef object todo                     # what came up meanwhile
    cdef bint yielded                    # had its turn: goes on in the loop's next one
    cdef bint is_waiting                 # listed in the hub's `waiting`
    cdef list staged                     # finished large arguments of the command in progress
    cdef StagedValue receiving
    cdef uint64_t swallow                # payload bytes to be dropped: the pool had no room for them
    cdef bint staging_failed
    cdef object refusal                  # what the command is answered then
    cdef uint64_t refused_length         # of the value that is being swallowed
    cdef readonly int64_t stalled_since_ms
    cdef void _fail(self) except *
    cdef int _start(self, int work, object argument) except -1
    cdef int _do(self, int work, object argument) except -1
    cdef void _detach(self) except *
    cdef int _received(self, size_t count) except -1
    cdef bint _is_held_up(self) noexcept
    cdef int _process(self, char *base, size_t end) except -1
    cdef int _parse(self, char *base, size_t *end) except -1
    cdef int _finish_run(self) except -1
    cdef int _slow(self, char *base) except -1
    cdef int _begin_large(self, char *base, size_t *end) except -1
    cdef int _swallow(self, size_t count) except -1
    cdef int _receive(self, size_t count) except -1
    cdef bint _takes_value(self, char *base, int *key_number)
    cdef int _reply(self, object reply) except -1
    cdef int _write_pushes(self, list messages) except -1
    cdef int _send_pushes(self) except -1
    cdef int _queue_chunks(self, list chunks) except -1
    cdef int _send(self) except -1
    cdef int _drain(self) except -1
    cdef int _gather(self, iovec *pieces, uint64_t limit_bytes) except -1
    cdef ssize_t _give_piece(self, const iovec *at_hand) except -1
    cdef int _note_sent(self, uint64_t sent, bint by_transport) except -1
    cdef void _keep(self, char *base, size_t end) except *
    cdef void _pause(self) except *
    cdef void _resume(self) except *
    cdef void _wait(self) except *
    cdef int _end_receiving(self, StagedValue staged, uint64_t length) except -1
    cdef int _run_slow(self, list args) except -1
    cdef void _drop_staged(self) except *
    cdef int _protocol_error(self, str text) except -1
    cdef void _close_when_sent(self) except *
    cdef void _release(self) except *
