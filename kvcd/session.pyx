# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Session: one connection, from the bytes of its socket to the bytes of its replies.

A compiled asyncio.BufferedProtocol. What one read brings is one batch of pipelined commands. Replies go out by
send(2) at once; what the socket does not take waits in a queue of chunks, and while anything waits there
nothing more is read. Large arguments are received straight into pool pages, large values are sent from them.
"""

import os
from collections import deque

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from kvcd.commands import dispatch
from kvcd.commands.arguments import OUT_OF_MEMORY
from kvcd.context import SlowReason
from kvcd.fastlane cimport NOT_FAST, RUN_FIRST, RUN_WAITS, TAKEN, FastLane
from kvcd.run_times cimport RunTimes, realtime_ns
from protocol.command_table import lookup
from protocol.encoder cimport encode_into
from protocol.parser cimport PARSE_COMMAND, PARSE_ERROR, PARSE_LARGE, RequestParser
from protocol.replies import NO_REPLY, Error
from storage.fabric import waiting
from protocol.writer cimport OutBuffer, out_clear, out_raw
from storage.fabric.waiting cimport suspend
from storage.staging cimport STAGE_FULL, STAGE_WAIT, PinnedValue, StagedValue

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int, const void *, size_t, int)
    int MSG_DONTWAIT, MSG_NOSIGNAL

    cdef struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen

    ssize_t sendmsg(int, const msghdr *, int)

cdef enum:
    READ_BUFFER_BYTES = 262144     # one read; 64 pipelined commands of 4 KiB
    OWN_BUFFER_BYTES = 16384       # least room of a session that keeps an unfinished command
    PIECE_BYTES = 262144           # of a large value, given to the transport when the socket is full
    SENT_AT_ONCE_BYTES = 4194304   # of large values in one go: other clients wait meanwhile
    SENT_IN_TURN_BYTES = 16777216  # of all clients' in one turn of the loop: 200 that came together made others wait .3 s, now .02
    PIECES_TOGETHER = 64           # offered to the socket in one call: a head of 10 bytes as a packet of its own cost as much as 30 KB of value
    SPARE_BUFFERS = 16
    UNAUTHENTICATED_OUTPUT_BYTES = 17408  # unread replies of a client that has not logged in: Redis's 16 KiB and 1 KiB

# What a session may have to do, on a stack of its own where the store may wait.
cdef enum Work:
    RECEIVED
    WRITABLE
    GO_ON
    TRY_AGAIN
    STEP
    PUSH

cdef int REPLIES_OFF = SlowReason.REPLIES_OFF

_FAST_NAMES = (
    "NULL", "get", "set", "mget", "mset", "exists", "del", "unlink", "strlen", "ttl", "pttl", "ping", "prefix.match",
    "prefix.exists", "prefix.get", "prefix.set",
)
# redis-server's words, which clients show.
_PROTECTED_MODE = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. In this "
    b"mode connections are only accepted from the loopback interface. If you want to connect from external computers to Redis you may "
    b"adopt one of the following solutions: 1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the "
    b"loopback interface by connecting to Redis from the same host the server is running, however MAKE SURE Redis is not publicly "
    b"accessible from internet if you do so. Use CONFIG REWRITE to make this change permanent. 2) Alternatively you can just disable the "
    b"protected mode by editing the Redis configuration file, and setting the protected mode option to 'no', and then restarting the "
    b"server. 3) If you started the server manually just for testing, restart it with the '--protected-mode no' option. 4) Setup a an "
    b"authentication password for the default user. NOTE: You only need to do one of the above things in order for the server to start "
    b"accepting connections from the outside.\r\n"
)


cdef class Hub:
    """What all sessions of a server share: the fast lane, the read buffer, the list of clients."""

    def __cinit__(self, object server, FastLane lane, object loop, object log):
        self.server = server
        self.lane = lane
        self.lanes = [lane]
        self.idle_lanes = [lane]
        self.lane_waiters = deque()
        self.lanes_limit = 64
        self.spare_buffers = []
        self.is_remote = lane.store.is_remote
        self.loop = loop
        self.log = log
        self.clients = {}
        self.waiting = {}
        self.max_clients = 10000
        self.batch_size_limit = 1024
        self.query_buffer_limit_bytes = 1 << 30
        self.max_bulk_bytes = 512 << 20
        self.stall_limit_ms = 10000
        self.read_buffer_bytes = READ_BUFFER_BYTES
        self.read_buffer = <char *>malloc(READ_BUFFER_BYTES)
        if self.read_buffer == NULL:
            raise MemoryError("no memory for the read buffer")
        self.next_id = 1
        self.times = RunTimes()
        lane.store.on_release = self.wake

    def __dealloc__(self):
        free(self.read_buffer)
        for address in self.spare_buffers or ():  # None where the collector of cycles was here before
            free(<void *><size_t>address)

    cdef void set_time(self) noexcept:
        """Time for everything until the next call."""
        cdef int64_t now_ns = 0
        if self.lane.store.manual_clock_ms is not None:
            self.lane.set_time()
        else:
            now_ns = realtime_ns()
            self.lane.now_ms = now_ns // 1000000
        self.run_began_ns = 0 if self.is_remote else now_ns  # there others go on while one waits
        self.now_ms = self.lane.now_ms

    cdef bint has_sent_enough(self) except -1:
        """Whether all clients together were sent as much as fits a turn of the loop; the count begins anew with the next one."""
        if self.sent_in_turn_bytes < SENT_IN_TURN_BYTES:
            return False
        if not self.is_turn_full:
            self.is_turn_full = True
            self.loop.call_soon(self._begin_turn)  # before those that are put off
        return True

    def _begin_turn(self):
        self.is_turn_full = False
        self.sent_in_turn_bytes = 0

    cdef FastLane take_lane(self):
        """A lane of its own for a batch that may wait; waits itself when `lanes_limit` of them are under way."""
        cdef FastLane lane
        while not self.idle_lanes:
            if len(self.lanes) < self.lanes_limit:
                lane = FastLane(self.lane.store)
                self.lanes.append(lane)
                self.idle_lanes.append(lane)
                break
            self.lane_waiters.append(waiting.current())
            if not suspend():
                raise ConnectionError("the server stops")
        lane = self.idle_lanes.pop()
        lane.now_ms = self.now_ms
        return lane

    cdef void give_lane(self, FastLane lane) except *:
        lane.drop()
        lane.out.length = 0
        self.idle_lanes.append(lane)
        if self.lane_waiters:
            waiting.resume_soon(self.lane_waiters.popleft())

    cdef int take_over_buffer(self) except -1:
        """The shared read buffer goes on being used by the client that read last: the others get another."""
        cdef char *fresh
        if self.spare_buffers:
            self.read_buffer = <char *><size_t>self.spare_buffers.pop()
            return 0
        fresh = <char *>malloc(READ_BUFFER_BYTES)
        if fresh == NULL:
            raise MemoryError("no memory for another read buffer")
        self.read_buffer = fresh
        return 0

    cdef void give_buffer(self, char *buffer) except *:
        if len(self.spare_buffers) < SPARE_BUFFERS:
            self.spare_buffers.append(<size_t>buffer)
        else:
            free(buffer)

    def wake(self) -> None:
        """Memory or a pin came free: sessions that wait try again, soon."""
        if self.waiting and not self.waking:
            self.waking = True
            self.loop.call_soon(self._wake)

    def _wake(self) -> None:
        self.waking = False
        waiting, self.waiting = self.waiting, {}
        for session, since_ms in waiting.items():
            session.try_again(since_ms)

    def check_waiting(self) -> None:
        """Close the client that holds others up: the one whose unsent or unfinished value moved longest ago."""
        cdef Session session, slowest = None
        self.set_time()
        if not self.waiting or min(self.waiting.values()) > self.now_ms - self.stall_limit_ms:
            return
        for session in self.clients.values():
            if session.holds_memory() and session not in self.waiting and (
                slowest is None or session.stalled_since_ms < slowest.stalled_since_ms
            ):
                slowest = session
        if slowest is not None and slowest.stalled_since_ms <= self.now_ms - self.stall_limit_ms:
            self.log.warning("closing the slowest client: others wait for the memory it holds", client=slowest.id, address=slowest.address)
            slowest.kill()
        self.wake()

    def calls(self) -> int:
        """Commands that the fast lane has answered."""
        return sum([(<FastLane>lane).total_calls() for lane in self.lanes])

    def counters(self) -> dict[str, int]:
        """Counts of the session layer (kvcd.context.ServerState.counters)."""
        calls = {}
        for lane in self.lanes:
            for name, count in (<FastLane>lane).call_counts().items():
                calls[name] = calls.get(name, 0) + count
        return {
            "connections_received": self.connections_received,
            "connections_rejected": self.connections_rejected,
            "net_input_bytes": self.net_input_bytes,
            "net_output_bytes": self.net_output_bytes,
            **calls,
            **self.times.counters(_FAST_NAMES),
        }


cdef class Session:
    """One client's connection."""

    def __cinit__(self, Hub hub):
        self.hub = hub
        self.name = b""
        self.user = b"default"
        self.lib_name = b""
        self.lib_ver = b""
        self._resp = 2
        self._last_command = "NULL"
        self.descriptor = -1
        self.address = ""
        self.local_address = ""
        self.parser = RequestParser()
        self.staged = []
        self.todo = deque()
        if not hub.is_remote:
            self.lane = hub.lane

    def __dealloc__(self):
        free(self.own)

    # ------------------------------------------------- what handlers may ask

    @property
    def resp(self) -> int:
        """Protocol version, 2 or 3."""
        return self._resp

    @resp.setter
    def resp(self, int version):
        self._resp = version

    @property
    def authenticated(self) -> bool:
        """Whether this client may run every command."""
        return self._authenticated

    @authenticated.setter
    def authenticated(self, bint value):
        self._authenticated = value
        self.parser.authenticated = value

    @property
    def last_command(self) -> str:
        """Full name of the last command, "NULL" before the first."""
        return _FAST_NAMES[self.fast_command] if self.fast_command else self._last_command

    @last_command.setter
    def last_command(self, str name):
        self.fast_command = 0
        self._last_command = name

    @property
    def pending_input_bytes(self) -> int:
        """Received and not yet parsed."""
        return self.held

    @property
    def pending_output_bytes(self) -> int:
        """Written and not yet taken by the kernel."""
        return self.queued_bytes + self.pushed_bytes

    def kill(self) -> None:
        """Close the connection now, dropping what is queued."""
        if not self.closed and self.transport is not None:
            self.transport.abort()

    def push(self, bytes message, uint64_t limit_bytes=0, bint behind_reply=False) -> None:
        """Send a message that is no reply, before that of the command at hand or behind it, and many in few writes.

        A client that leaves more than ``limit_bytes`` unread (0: no limit) is closed.
        """
        if self.closed:
            return
        if limit_bytes and self.queued_bytes + self.pushed_bytes + <uint64_t>PyBytes_GET_SIZE(message) > limit_bytes:
            self.hub.log.warning(
                "closing a client that does not read its messages (client-output-buffer-limit)",
                client=self.id, unread_bytes=self.queued_bytes + self.pushed_bytes,
            )
            self.closed = True
            self.pushes = self.late_pushes = None
            self.pushed_bytes = 0
            self.transport.abort()
            return
        self.pushed_bytes += PyBytes_GET_SIZE(message)
        if behind_reply and (self.processing or (self.in_command and not self.is_blocked)):
            if self.late_pushes is None:
                self.late_pushes = []
            self.late_pushes.append(message)
            return
        if self.pushes is None:
            self.pushes = []
        self.pushes.append(message)
        if not self.is_push_planned and not self.processing:
            self.is_push_planned = True
            self.hub.loop.call_soon(self._push)

    def _push(self) -> None:
        self.is_push_planned = False
        if self.pushes and not self.closed:
            self._start(PUSH, None)

    def take_pushes(self) -> bytes:
        """Hand over what was pushed since this command began, to whoever puts it between replies of its own."""
        cdef bytes together = b"" if self.pushes is None else b"".join(self.pushes)
        self.pushes = None
        self.pushed_bytes -= PyBytes_GET_SIZE(together)
        return together

    def take_late_pushes(self) -> bytes:
        """Hand over what was to go behind the reply of the command at hand."""
        cdef bytes together = b"" if self.late_pushes is None else b"".join(self.late_pushes)
        self.late_pushes = None
        self.pushed_bytes -= PyBytes_GET_SIZE(together)
        return together

    cdef int _write_pushes(self, list messages) except -1:
        """Append messages to the replies at hand."""
        cdef bytes message
        for message in messages:
            self.pushed_bytes -= PyBytes_GET_SIZE(message)
            if out_raw(&self.lane.out, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message)) != 0:
                raise MemoryError("no memory for a message")
        messages.clear()
        return 0

    cdef int _send_pushes(self) except -1:
        """Send the messages; in the midst of a batch they go with its replies."""
        if not self.pushes or self.processing:
            return 0
        return self._queue_chunks([self.take_pushes()])

    def is_busy(self) -> bool:
        """Whether something is still to be sent, or runs."""
        return self.in_command or bool(self.queue) or self.transport_busy or self.working

    def holds_memory(self) -> bool:
        """Whether pool memory waits for this client: an unsent value, an unfinished one, or one of an unfinished command."""
        return self.receiving is not None or bool(self.staged) or bool(self.queue) or self.transport_busy

    # -------------------------------------------------------- asyncio protocol

    def connection_made(self, transport) -> None:
        """Register the client, or turn it away."""
        cdef Hub hub = self.hub
        self.transport = transport
        hub.connections_received += 1
        hub.set_time()
        self.created_at_ms = self.last_interaction_ms = self.stalled_since_ms = hub.now_ms
        sock = transport.get_extra_info("socket")
        self.descriptor = sock.fileno()
        self.is_encrypted = transport.get_extra_info("sslcontext") is not None
        # uvloop's TLS says "full" as soon as it holds so much, its TCP only when it holds more.
        transport.set_write_buffer_limits(1 if self.is_encrypted else 0)
        self.address = _shown_address(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        self.local_address = _shown_address(transport.get_extra_info("sockname"), None)
        if hub.protected and not _is_local(transport.get_extra_info("peername")):
            hub.connections_rejected += 1
            self._refuse(_PROTECTED_MODE)
            return
        if <uint64_t>len(hub.clients) >= hub.max_clients:
            hub.connections_rejected += 1
            self._refuse(b"-ERR max number of clients reached\r\n")
            return
        self.id = hub.next_id
        hub.next_id += 1
        hub.clients[self.id] = self
        self.db = hub.first_database
        self.authenticated = not hub.password_required
        self.slow_reasons = hub.first_slow_reasons
        self.parser.max_bulk_bytes = hub.max_bulk_bytes

    def _refuse(self, bytes text) -> None:
        self.closed = True
        self.transport.write(text)
        self.transport.close()

    def connection_lost(self, error) -> None:
        """Give back whatever the connection held."""
        self.closed = True
        self.hub.clients.pop(self.id, None)
        if self.modes is not None:
            self.hub.server.modes.forget(self)
        if not self.working:
            self._release()  # else when what is under way for it has ended

    cdef void _release(self) except *:
        cdef StagedValue staged
        if self.receiving is not None:
            self.receiving.discard()
            self.receiving = None
        for staged in self.staged:
            if staged is not None:
                staged.discard()
        self.staged.clear()
        if self.queue:
            for chunk in self.queue:
                if isinstance(chunk, PinnedValue):
                    (<PinnedValue>chunk).release()
            self.queue.clear()
        self.queued_bytes = 0
        self.hub.waiting.pop(self, None)
        self.hub.wake()

    def eof_received(self) -> bool:
        """The client will send no more; what it asked is answered, then the connection closes."""
        if self.queue or self.in_command or self.working:
            self.close_after_reply = True
            return True
        return False

    def pause_writing(self) -> None:
        """The transport holds bytes: what follows must wait behind them."""
        self.transport_busy = True

    def resume_writing(self) -> None:
        """The transport is empty again, and has let go of what it held."""
        self.transport_busy = False
        self.hub.wake()
        self._start(WRITABLE, None)

    def get_buffer(self, hint):
        """Where the next read goes: pages of a value, this session's own buffer, or the shared one."""
        cdef uint64_t available = 0
        cdef size_t capacity
        cdef char *larger
        if self.receiving is not None:
            self.region = self.receiving.region(&available)
            self.region_bytes = available
        elif self.swallow:
            self.region = self.hub.read_buffer
            self.region_bytes = min(<uint64_t>self.hub.read_buffer_bytes, self.swallow)
        elif self.held == 0:
            self.region = self.hub.read_buffer
            self.region_bytes = self.hub.read_buffer_bytes
        else:
            if self.own_capacity - self.held < OWN_BUFFER_BYTES // 2:
                capacity = self.own_capacity * 2
                if self.parser.wanted() > capacity - self.held:
                    capacity = self.held + self.parser.wanted() + OWN_BUFFER_BYTES
                larger = <char *>realloc(self.own, capacity)
                if larger == NULL:
                    raise MemoryError("no memory for an unfinished command")
                self.own = larger
                self.own_capacity = capacity
            self.region = self.own + self.held
            # Not all the room there is: what follows this command, perhaps a large value, is to fit what is claimed at a time.
            self.region_bytes = min(self.own_capacity - self.held, self.parser.wanted() + self.hub.read_buffer_bytes)
        # uvloop's TLS asks a buffer for its length, which a session has none of.
        return memoryview(self) if self.is_encrypted else self

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.region, self.region_bytes, 0, flags)

    def buffer_updated(self, size_t count) -> None:
        """A read brought ``count`` bytes."""
        cdef Hub hub = self.hub
        if self.closed:
            return
        hub.set_time()
        self.last_interaction_ms = hub.now_ms
        self.net_input_bytes += count
        hub.net_input_bytes += count
        if hub.is_remote:
            self.uses_shared = self.region == hub.read_buffer and not self.swallow
            self._start(RECEIVED, count)
        else:
            self._received(count)

    cdef int _received(self, size_t count) except -1:
        try:
            if self.receiving is not None:
                self._receive(count)
            elif self.swallow:
                self._swallow(count)
            elif self.held == 0:
                self._process(self.region, count)
            else:
                self.held += count
                self._process(self.own, self.held)
        except Exception:
            self._fail()
        return 0

    cdef void _fail(self) except *:
        """A connection's error ends that connection, with one line. Nothing of its batch is left to the next client."""
        self.hub.log.exception("closing a client after an internal error", client=self.id, address=self.address)
        self.lane.drop()
        self.lane.out.length = 0
        self.kill()

    # ------------------------------------------------------------------- stacks

    cdef int _start(self, int work, object argument) except -1:
        """Do something for this client: now, or where the store may wait on a stack of its own and after what that is at."""
        if not self.hub.is_remote:
            return self._do(work, argument)
        if self.working:
            self.todo.append((work, argument))
            return 0
        self.working = True
        if not waiting.run(self._work, work, argument):
            self._detach()
        return 0

    def _work(self, int work, object argument) -> None:
        """Body of such a stack."""
        cdef Hub hub = self.hub
        try:
            self.lane = hub.take_lane()
            try:
                self._do(work, argument)
                while self.todo:
                    work, argument = self.todo.popleft()
                    self._do(work, argument)
            finally:
                hub.give_lane(self.lane)
                self.lane = None
        finally:
            self.working = False
            self.uses_shared = False
            if self.borrowed != NULL:
                hub.give_buffer(self.borrowed)
                self.borrowed = NULL
        if self.closed:
            self._release()
        elif not self._is_held_up():
            self._resume()

    cdef void _detach(self) except *:
        """The stack waits. Nothing is read until it is done, and the buffer that it works on is its own till then."""
        if self.uses_shared and self.borrowed == NULL:
            self.borrowed = self.hub.read_buffer
            self.hub.take_over_buffer()
        self._pause()

    cdef int _do(self, int work, object argument) except -1:
        if self.closed:
            return 0
        self.lane.now_ms = self.hub.now_ms
        try:
            if work == RECEIVED:
                self._received(argument)
            elif work == WRITABLE:
                self._drain()
                if not self.queue and not self.transport_busy:
                    self._go_on()
            elif work == GO_ON:
                self._go_on()
            elif work == TRY_AGAIN:
                self._try_again(argument)
            elif work == PUSH:
                self._send_pushes()
            else:
                self._step(argument)
        except Exception:
            self._fail()
        return 0

    cdef bint _is_held_up(self) noexcept:
        """Whether nothing may be read for now.

        Replies that nobody takes hold up who has logged in; who has not is read on, and closed when they are too many.
        """
        return (bool(self.queue) or self.transport_busy) and self._authenticated or self.in_command or self.yielded or self.is_waiting

    # -------------------------------------------------------------- processing

    cdef int _process(self, char *base, size_t end) except -1:
        """Parse and answer what lies between ``base`` and ``end``; keep what is unfinished."""
        self.processing = True
        try:
            if self.pushes:
                self._write_pushes(self.pushes)  # they came before what is answered now
            self._parse(base, &end)
        finally:
            self.processing = False
            self.hub.run_began_ns = 0
        if self.closed:
            self.lane.out.length = 0  # what it had coming; the next client's replies begin here
            return 0
        self._keep(base, end)
        self.uses_shared = False
        if self.held > self.hub.query_buffer_limit_bytes:
            self.hub.log.warning("closing a client: its unfinished command exceeds client-query-buffer-limit", client=self.id)
            self.transport.abort()
            return 0
        if self.pushes:
            self._write_pushes(self.pushes)
        if self.late_pushes and not self.in_command:
            self._write_pushes(self.late_pushes)
        self._send()
        return 0

    cdef int _parse(self, char *base, size_t *end) except -1:
        """Take command after command. Stops at the end of the bytes, or where this client has to wait."""
        cdef int status, taken
        cdef RequestParser parser = self.parser
        cdef FastLane lane = self.lane
        cdef int turns = self.hub.batch_size_limit
        lane.chain = &self.chain
        lane.infers_chains = self.hub.infers_chains
        while not self.closed and not self.close_after_reply and not (self.queue and self._authenticated) and not self.in_command:
            if turns == 0:
                break
            if lane.pending_count and parser.position < end[0] and base[parser.position] != c'*':
                # An inline command is unescaped in place and could not be parsed twice: first what came before.
                if self._finish_run() != 0:
                    return 0
                continue
            status = parser.parse(base, end[0])
            if status == PARSE_COMMAND:
                turns -= 1
                taken = NOT_FAST
                if self._authenticated and not self.staging_failed and not (self.hub.slow_reasons | self.slow_reasons) and (not parser.is_inline or parser.argc == 1):
                    taken = lane.take(parser, base, self.db, self.staged)
                    if taken == RUN_FIRST:
                        if self._finish_run() != 0:
                            return 0
                        taken = lane.take(parser, base, self.db, self.staged)
                if taken == TAKEN:
                    self.fast_command = lane.pending[lane.pending_count - 1].command
                    if self.staged or parser.is_inline:
                        # Neither can be offered again, and neither waits: this run ends here.
                        self._finish_run()
                        self._drop_staged()
                    continue
                if lane.pending_count and self._finish_run() != 0:
                    return 0
                self._slow(base)
            elif status == PARSE_LARGE:
                if lane.pending_count and self._finish_run() != 0:
                    return 0
                if self._begin_large(base, end) == 0:
                    return 0
            else:
                if lane.pending_count and self._finish_run() != 0:
                    return 0
                if status == PARSE_ERROR:
                    self._protocol_error(parser.error.decode("latin-1"))
                return 0
        if lane.pending_count and self._finish_run() != 0:
            return 0
        if turns == 0 and not self.yielded and not self.closed and parser.position < end[0]:
            self.yielded = True
            self.hub.loop.call_soon(self._next_turn)
        return 0

    def _next_turn(self) -> None:
        """Others had their turn since `batch-size-limit` cut this client's batch."""
        self.yielded = False
        self._start(GO_ON, None)

    cdef int _finish_run(self) except -1:
        """Answer the commands taken so far; nonzero when they wait for pins, to be parsed again then."""
        cdef list chunks = []
        cdef FastLane lane = self.lane
        cdef uint32_t count = lane.pending_count
        cdef int64_t started_ns, ended_ns, duration_ns
        cdef const char *key = NULL
        cdef uint32_t key_bytes = 0
        if count == 0:
            return 0
        if lane.pending[0].count:
            key = lane.batch.requests[lane.pending[0].first].key
            key_bytes = lane.batch.requests[lane.pending[0].first].key_bytes
        started_ns = self.hub.run_began_ns
        if started_ns == 0:
            started_ns = realtime_ns()
        if lane.run(self._resp, chunks) == RUN_WAITS:
            self.parser.rewind(lane.first_frame)
            self._wait()
            return 1
        ended_ns = realtime_ns()
        duration_ns = max(ended_ns - started_ns, 0)
        if self.hub.run_began_ns:
            self.hub.run_began_ns = ended_ns
        if self.hub.times.note(lane.pending, count, duration_ns):
            words = [_FAST_NAMES[lane.pending[0].command].upper().encode()]
            if key != NULL:
                words.append(PyBytes_FromStringAndSize(key, key_bytes))
            self.hub.server.slow_watch.note_run(self, words, count, duration_ns, self.hub.now_ms)
        if chunks:
            chunks.append(PyBytes_FromStringAndSize(lane.out.data, lane.out.length))  # at least the end of the last value's line
            lane.out.length = 0
            self._queue_chunks(chunks)
        elif lane.out.length > 1048576:
            self._send()
        return 0

    # --------------------------------------------------------------- slow lane

    cdef int _slow(self, char *base) except -1:
        """Answer one command by its handler."""
        cdef RequestParser parser = self.parser
        cdef int i
        cdef list args = []
        self.hub.run_began_ns = 0
        if self.staging_failed:
            self._drop_staged()
            return self._reply(self.refusal)
        for i in range(parser.argc):
            if parser.args[i].staged:
                args.append(self.staged[parser.args[i].offset])
            else:
                args.append(PyBytes_FromStringAndSize(base + parser.args[i].offset, parser.args[i].length))
        if args[0].lower() in (b"post", b"host:"):
            self.hub.log.warning("possible attack: a browser was made to send commands here; closing", address=self.address)
            self.transport.abort()
            self.closed = True
            return 0
        return self._run_slow(args)

    cdef int _run_slow(self, list args) except -1:
        coroutine = dispatch(self, self.hub.server, args)
        try:
            future = coroutine.send(None)
        except StopIteration as stop:
            self._drop_staged()
            return self._reply(stop.value)
        except ConnectionError as error:
            self._drop_staged()
            return self._reply(Error(f"ERR {error}"))
        # The store has to wait for a memory node: so does this client, and nobody else.
        self.in_command = True
        self._pause()
        self._follow(coroutine, future)
        return 0

    def _follow(self, coroutine, future) -> None:
        future._asyncio_future_blocking = False
        future.add_done_callback(lambda done: self._start(STEP, coroutine))

    def _step(self, coroutine) -> None:
        """Drive a suspended command on."""
        try:
            future = coroutine.send(None)
        except StopIteration as stop:
            reply = stop.value
        except ConnectionError as error:
            reply = Error(f"ERR {error}")
        except Exception:
            self._fail()
            return
        else:
            self._follow(coroutine, future)
            return
        self.in_command = False
        if self.closed:
            return
        self._drop_staged()
        self._reply(reply)
        self._send()
        self._go_on()

    cdef int _reply(self, object reply) except -1:
        """Write the reply of the command at hand, if it is to be heard, and the messages before and behind it."""
        if self.slow_reasons & REPLIES_OFF:
            if self.replies_off or self.skipping:
                reply = NO_REPLY
            self.skipping = self.skips_next
            self.skips_next = False
            if not self.replies_off and not self.skipping:
                self.slow_reasons &= ~REPLIES_OFF
        if self.pushes:
            self._write_pushes(self.pushes)
        if reply is not NO_REPLY:
            encode_into(&self.lane.out, reply, self._resp)
        if self.late_pushes:
            self._write_pushes(self.late_pushes)
        return 0

    cdef int _protocol_error(self, str text) except -1:
        self.hub.log.verbose("protocol error", client=self.id, address=self.address, error=text)
        self._reply(Error(f"ERR {text}"))
        self.close_after_reply = True
        return 0

    # ----------------------------------------------------------- large arguments

    cdef bint _takes_value(self, char *base, int *key_number):
        """Whether the argument that comes now is a value of its command, and which argument is its key."""
        cdef RequestParser parser = self.parser
        cdef int number = parser.argc, first = 1
        cdef bytes name
        if number < 2 or self.staging_failed:
            return False
        name = base[parser.args[0].offset : parser.args[0].offset + parser.args[0].length].lower()
        if parser.args[1].staged:
            return False
        key_number[0] = 1
        if name == b"prefix.set":
            while first < number and not parser.args[first].staged:
                word = base[parser.args[first].offset : parser.args[first].offset + parser.args[first].length].lower()
                if word == b"nx":
                    first += 1
                elif word in (b"ex", b"px", b"parent"):
                    first += 2
                else:
                    break
            if number <= first or (number - first) % 2 == 0:
                return False
            key_number[0] = number - 1
            return not parser.args[number - 1].staged and parser.args[number - 1].length <= 16384
        spec = lookup(name)
        if spec is None or spec.first_value == 0 or number < spec.first_value:
            return False
        if spec.value_step:
            if (number - spec.first_value) % spec.value_step:
                return False
            key_number[0] = number - 1
        elif number != spec.first_value:
            return False
        return not parser.args[key_number[0]].staged and parser.args[key_number[0]].length <= 16384

    cdef int _begin_large(self, char *base, size_t *end) except -1:
        """A large argument begins at the parser's position. Nonzero when parsing may go on at once."""
        cdef RequestParser parser = self.parser
        cdef uint64_t available = 0, take, done = 0, part
        cdef int key_number = 0
        cdef StagedValue staged
        cdef int result
        cdef char *place
        if self.staging_failed or not self._takes_value(base, &key_number):
            if not self.staging_failed:
                parser.decline_large()
                return 1
            result = STAGE_FULL
            staged = None
        else:
            staged = None
            result = STAGE_FULL
            self.refusal = OUT_OF_MEMORY
            try:
                staged = self.lane.store.stage(
                    self.db, base + parser.args[key_number].offset, <uint32_t>parser.args[key_number].length, parser.large_length
                )
            except ConnectionError as error:
                self.refusal = Error(f"ERR {error}")
            if staged is not None:
                if self.staged:
                    staged.share_turn(self.staged[0])
                result = staged.reserve()
            if result == STAGE_WAIT:
                staged.discard()
                self._wait()
                return 0
        take = end[0] - parser.position
        if take > parser.large_length:
            take = parser.large_length
        if result == STAGE_FULL:
            if staged is not None:
                self.refusal = _no_room_for(staged)
                staged.discard()
            self.staging_failed = True
            if take == parser.large_length:
                parser.position += take
                return self._end_receiving(None, parser.large_length)
            self.refused_length = parser.large_length
            self.swallow = parser.large_length - take
            end[0] = parser.position
            return 0
        while done < take:
            staged.reserve()
            place = staged.region(&available)
            part = available if available < take - done else take - done
            memcpy(place, base + parser.position + done, part)
            staged.advance(part)
            done += part
        self.stalled_since_ms = self.hub.now_ms
        if take == parser.large_length:
            parser.position += take
            return self._end_receiving(staged, parser.large_length)
        # The rest is read straight into the pages; of this buffer only the frame's beginning stays.
        end[0] = parser.position
        self.receiving = staged
        return 0

    cdef int _end_receiving(self, StagedValue staged, uint64_t length) except -1:
        if staged is not None and staged.failed:
            self._lose_value(staged)
            staged = None
        self.parser.staged_done(len(self.staged), length)
        self.staged.append(staged)
        return 1

    cdef int _receive(self, size_t count) except -1:
        """Bytes of a large argument came straight into its pages."""
        cdef StagedValue staged = self.receiving
        cdef int result
        staged.advance(count)
        self.stalled_since_ms = self.hub.now_ms
        if staged.received == staged.size_bytes:
            self.receiving = None
            self._end_receiving(staged, staged.size_bytes)
            return self._process(self.own, self.held)
        result = staged.reserve()
        if result == STAGE_WAIT:
            self._wait()
        elif result == STAGE_FULL:
            self._refuse_value()
        elif staged.has_evicted:
            # Else libuv would read on, up to 32 times, and evict before each.
            staged.has_evicted = False
            self._wait()
            self.hub.wake()
        return 0

    def _lose_value(self, StagedValue staged) -> None:
        """The memory node was lost before it had the whole value."""
        self.staging_failed = True
        self.refusal = _no_room_for(staged)
        staged.discard()

    def _refuse_value(self) -> None:
        """The pool has no room for what is being received: read past it, then answer with the error."""
        cdef StagedValue staged = self.receiving
        self.receiving = None
        self.staging_failed = True
        self.refusal = _no_room_for(staged)
        self.refused_length = staged.size_bytes
        self.swallow = staged.size_bytes - staged.received
        staged.discard()

    cdef int _swallow(self, size_t count) except -1:
        self.swallow -= count
        if self.swallow == 0:
            self._end_receiving(None, self.refused_length)
            return self._process(self.own, self.held)
        return 0

    cdef void _drop_staged(self) except *:
        """The command is answered: large arguments that it did not publish go back."""
        cdef StagedValue staged
        self.staging_failed = False
        if not self.staged:
            return
        for staged in self.staged:
            if staged is not None:
                staged.discard()
        self.staged.clear()
        self.hub.wake()

    # ------------------------------------------------------------------ sending

    cdef int _queue_chunks(self, list chunks) except -1:
        """Append bytes and pinned values to what is to be sent."""
        if self.queue is None:
            self.queue = deque()
        if not self.queue:
            self.stalled_since_ms = self.hub.now_ms
        for chunk in chunks:
            if isinstance(chunk, bytes):
                if not chunk:
                    continue
                self.queued_bytes += PyBytes_GET_SIZE(chunk)
            else:
                self.queued_bytes += (<PinnedValue>chunk).size_bytes
            self.queue.append(chunk)
        return self._drain()

    cdef int _send(self) except -1:
        """Send the replies at hand; what the socket does not take is queued."""
        cdef OutBuffer *out = &self.lane.out
        cdef ssize_t sent = 0
        cdef size_t length = out.length
        if length == 0:
            if self.close_after_reply:
                self._close_when_sent()
            return 0
        out.length = 0
        if self.closed:
            return 0
        if not self.queue and not self.transport_busy and not self.is_encrypted:
            sent = send(self.descriptor, out.data, length, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    # The peer is gone; the read side will hear of it. What cannot be delivered is dropped.
                    self.transport.abort()
                    return 0
                sent = 0
            self.net_output_bytes += sent
            self.hub.net_output_bytes += sent
        if <size_t>sent < length:
            if not self._authenticated and (
                length - sent + self.queued_bytes + <size_t>self.transport.get_write_buffer_size() > UNAUTHENTICATED_OUTPUT_BYTES
            ):
                self.hub.log.verbose("closing a client that has not logged in and does not read its replies", client=self.id)
                self.transport.abort()
                return 0
            self._queue_chunks([PyBytes_FromStringAndSize(out.data + sent, length - sent)])
        if out.capacity > 4194304:
            out_clear(out, 0)
        if self.close_after_reply:
            self._close_when_sent()
        return 0

    cdef int _drain(self) except -1:
        """Send what is queued until the socket is full; the transport tells when it is not any more."""
        cdef iovec pieces[PIECES_TOGETHER]
        cdef msghdr message
        cdef ssize_t sent
        cdef uint64_t budget = SENT_AT_ONCE_BYTES
        while self.queue and not self.transport_busy and not self.closed:
            if budget == 0 or self.hub.has_sent_enough():
                # Others wait too: go on in the loop's next turn.
                self.transport_busy = True
                self.hub.loop.call_soon(self.resume_writing)
                return 0
            memset(&message, 0, sizeof(message))
            message.msg_iov = pieces
            message.msg_iovlen = self._gather(pieces, budget)
            if self.closed:
                return 0  # closed while it waited: the descriptor may be another client's by now
            if message.msg_iovlen == 0 and (<PinnedValue>self.queue[0]).failed():
                self.hub.log.warning("closing a client: the memory node of a value that it was being sent is lost", client=self.id)
                self.transport.abort()
                return 0
            sent = -1
            if message.msg_iovlen and not self.is_encrypted:
                sent = sendmsg(self.descriptor, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                if sent < 0:
                    if errno == EINTR:
                        continue
                    if errno != EAGAIN:
                        self.transport.abort()
                        return 0
            if sent >= 0:
                self._note_sent(sent, False)
            else:
                sent = self._give_piece(&pieces[0] if message.msg_iovlen else NULL)
            budget -= sent if <uint64_t>sent < budget else budget
        if self.close_after_reply and not self.queue:
            self._close_when_sent()
        return 0

    cdef int _gather(self, iovec *pieces, uint64_t limit_bytes) except -1:
        """What is queued, as it lies in memory. None where the first value cannot be touched: its node is lost, or has no buffer free."""
        cdef PinnedValue value
        cdef uint64_t position = self.chunk_position, total, available = 0
        cdef char *place
        cdef int count = 0
        for chunk in self.queue:
            value = None if isinstance(chunk, bytes) else <PinnedValue>chunk
            total = PyBytes_GET_SIZE(chunk) if value is None else value.size_bytes
            while position < total:
                if value is None:
                    place = PyBytes_AS_STRING(chunk) + position
                    available = total - position
                else:
                    place = value.piece_at(position, &available)
                    if place == NULL:
                        return count
                if available > limit_bytes:
                    available = limit_bytes
                pieces[count].iov_base = place
                pieces[count].iov_len = available
                count += 1
                position += available
                limit_bytes -= available
                # What is fetched stays in its buffer until the next piece is asked for, and others want such buffers.
                if count == PIECES_TOGETHER or limit_bytes == 0 or (value is not None and self.hub.is_remote):
                    return count
            position = 0
        return count

    cdef ssize_t _give_piece(self, const iovec *at_hand) except -1:
        """Let the transport wait for the socket, with one piece in its hands; the bytes of it, 0 when there was none to give."""
        cdef PinnedValue value
        cdef uint64_t left
        chunk = self.queue[0]
        if isinstance(chunk, bytes):
            piece = memoryview(chunk)[self.chunk_position :]
        else:
            value = <PinnedValue>chunk
            if not self.hub.is_remote:
                piece = memoryview(value.slice(self.chunk_position, PIECE_BYTES))
            elif at_hand != NULL:
                # A copy, since the staging buffer is wanted by others while this client reads on.
                piece = PyBytes_FromStringAndSize(<char *>at_hand.iov_base, at_hand.iov_len if at_hand.iov_len < PIECE_BYTES else PIECE_BYTES)
                value.release_staging()
            else:
                left = value.size_bytes - self.chunk_position
                piece = bytearray(PIECE_BYTES if left > PIECE_BYTES else left)
                if value.copy_at(self.chunk_position, piece, len(piece)) != 0 or self.closed:
                    return 0
        self.transport.write(piece)
        self._note_sent(len(piece), True)
        return len(piece)

    cdef int _note_sent(self, uint64_t sent, bint by_transport) except -1:
        """So much of the queue is on its way."""
        cdef uint64_t left
        self.hub.sent_in_turn_bytes += sent
        self.queued_bytes -= sent
        self.net_output_bytes += sent
        self.hub.net_output_bytes += sent
        self.stalled_since_ms = self.hub.now_ms
        while sent:
            chunk = self.queue[0]
            left = (PyBytes_GET_SIZE(chunk) if isinstance(chunk, bytes) else (<PinnedValue>chunk).size_bytes) - self.chunk_position
            if sent < left:
                self.chunk_position += sent
                break
            sent -= left
            self.queue.popleft()
            self.chunk_position = 0
            if not isinstance(chunk, bytes) and not by_transport:
                # With its last piece in the transport's hands a value stays pinned until that lets go of it.
                (<PinnedValue>chunk).release()
                self.hub.wake()
        return 0

    cdef void _close_when_sent(self) except *:
        if not self.queue and not self.closed:
            self.closed = True
            self.transport.close()

    # ------------------------------------------------------------------ waiting

    cdef void _keep(self, char *base, size_t end) except *:
        """Keep the bytes of the unfinished command, and forget the rest."""
        cdef size_t start = self.parser.keep_from()
        cdef size_t length = end - start
        if length == 0:
            self.held = 0
            if self.own != NULL:
                free(self.own)
                self.own = NULL
                self.own_capacity = 0
        elif base != self.own:
            self.own_capacity = length * 2 if length * 2 > OWN_BUFFER_BYTES else OWN_BUFFER_BYTES
            self.own = <char *>realloc(self.own, self.own_capacity)
            if self.own == NULL:
                raise MemoryError("no memory for an unfinished command")
            memcpy(self.own, base + start, length)
            self.held = length
        else:
            if start:
                memmove(self.own, self.own + start, length)
            self.held = length
        if start:
            self.parser.rebase(start)
        if self._is_held_up():
            self._pause()

    cdef void _pause(self) except *:
        if not self.reading_paused and not self.closed:
            self.reading_paused = True
            self.transport.pause_reading()

    cdef void _resume(self) except *:
        # Not while a stack of this client's is under way: it resumes reading when it is done.
        if self.reading_paused and not self.closed and not self.working:
            self.reading_paused = False
            self.transport.resume_reading()

    cdef void _wait(self) except *:
        """Wait for memory or pins that others hold."""
        if not self.is_waiting:
            self.is_waiting = True
            self.hub.waiting[self] = self.hub.now_ms
        self._pause()

    def try_again(self, since_ms) -> None:
        """Memory or a pin came free since ``_wait``."""
        self._start(TRY_AGAIN, since_ms)

    def _try_again(self, since_ms) -> None:
        cdef int result
        self.is_waiting = False
        if self.closed:
            return
        if self.receiving is not None:
            result = self.receiving.reserve()
            if result == STAGE_WAIT:
                self.is_waiting = True
                self.hub.waiting[self] = since_ms
                return
            if result == STAGE_FULL:
                self._refuse_value()
            self._resume()
            return
        self._go_on()
        if self.is_waiting:
            self.hub.waiting[self] = since_ms

    def _go_on(self) -> None:
        """What held this client up is over: answer what it has sent meanwhile, then read on."""
        if self.closed or self.processing or self.in_command or self.yielded:
            return
        try:
            if self.held and self.receiving is None and not self.swallow:
                self.hub.set_time()
                self.lane.now_ms = self.hub.now_ms
                self._process(self.own, self.held)
        except Exception:
            self._fail()
            return
        if not self._is_held_up():
            self._resume()


cdef object _no_room_for(StagedValue staged):
    """The error for a value that could not be received to its end: its pool is full, or its memory node is lost."""
    if staged.engine.pool.fabric.is_lost:
        return Error(f"ERR memory node {staged.engine.name} unreachable")
    return OUT_OF_MEMORY


def _is_local(peer) -> bool:
    """Whether a connection comes from this machine: a Unix socket or a loopback address."""
    if not isinstance(peer, tuple):
        return True
    host = peer[0].removeprefix("::ffff:")
    return host == "::1" or host.startswith("127.")


def _shown_address(name, fallback) -> str:
    """An address in Redis's form."""
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    path = name or fallback or ""
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return f"{path}:0"
