"""What a command handler sees of the client that asks and of the service that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from protocol.replies import Reply
from storage.interface import StoreInterface
from storage.store import MAX_KEY_BYTES

if TYPE_CHECKING:
    from kvcd.access_control import AccessControl
    from kvcd.client_modes import ClientModes
    from kvcd.command_names import CommandNames
    from kvcd.config import Config
    from kvcd.database_order import DatabaseOrder
    from kvcd.modes import ServerModes
    from kvcd.persistence import Persistence
    from kvcd.service import Service
    from kvcd.statistics import Statistics

__all__ = ["MAX_KEY_BYTES", "ClientState", "Handler", "ServerState", "SlowReason"]


class SlowReason:
    """Why commands that have a fast lane do not take it: bits of ``slow_reasons``, of a client or of all."""

    SAVE_FAILED = 1  # writes are refused
    TRANSACTION = 2  # commands are queued until EXEC
    ACCESS_RULES = 4  # the user may not run everything on every key
    SUBSCRIBED = 8  # RESP2: hardly any command is allowed
    TRACKING = 16  # somebody is to hear what was read or changed
    NOTIFICATIONS = 32  # subscribers are to hear what was changed
    MONITOR = 64  # somebody is shown every command
    REPLIES_OFF = 128
    PAUSED = 256
    RENAMED = 512  # a command with a fast lane is known by another name
    SLOW_LOG = 1024  # nearly every command is slow enough for the slow log
    EXCLUSIVE = 2048  # one client's transaction runs, and nothing of the others meanwhile
    WATCHED = 4096  # somebody watches a key that is absent: whoever creates it is to say so
    NO_TOUCH = 8192  # reads do not count as accesses
    OVER_LIMIT = 16384  # more memory is used than maxmemory allows, and nothing can go: writes are refused


class ClientState(Protocol):
    """One connection, as the handlers know it; the session implements it.

    Addresses are in Redis's form (``127.0.0.1:6379``, ``[::1]:6379``, ``/path/to.sock:0``). Times are Unix
    milliseconds. A handler may change ``name``, ``db``, ``resp``, ``authenticated``, ``user``, ``lib_name``,
    ``lib_ver``, ``last_command``, ``slow_reasons`` and ``close_after_reply``; the rest belongs to the session.
    """

    id: int
    name: bytes
    db: int
    resp: int
    authenticated: bool
    user: bytes
    lib_name: bytes
    lib_ver: bytes
    address: str
    local_address: str
    descriptor: int
    created_at_ms: int
    last_interaction_ms: int
    stalled_since_ms: int  # when what waits to be sent last moved
    last_command: str  # full name as the table has it ("get", "client|list"), "NULL" before the first
    net_input_bytes: int
    net_output_bytes: int
    pending_input_bytes: int  # received and not yet parsed
    pending_output_bytes: int  # written and not yet taken by the kernel
    slow_reasons: int  # SlowReason bits: why this client's commands all take the slow lane; 0 for most
    modes: ClientModes | None  # what the client has switched on; None for most (kvcd.client_modes.modes_of makes them)
    replies_off: bool  # CLIENT REPLY OFF; with SlowReason.REPLIES_OFF
    skips_next: bool  # CLIENT REPLY SKIP: the next command's reply; with SlowReason.REPLIES_OFF
    skipping: bool  # that of the command at hand, for the same reason
    is_blocked: bool  # its command waits for what others do: messages pass it meanwhile
    close_after_reply: bool  # set by a handler: send what is queued, this reply included, then close

    def push(self, message: bytes, limit_bytes: int = 0, behind_reply: bool = False) -> None:
        """Send RESP bytes that are no reply, before that of the command at hand or behind it.

        Who leaves more than the limit unread is closed.
        """
        ...

    def take_pushes(self) -> bytes:
        """Hand over what was pushed since this command began (EXEC puts it between the replies that it gathers)."""
        ...

    def take_late_pushes(self) -> bytes:
        """Hand over what was pushed to go behind the reply of the command at hand."""
        ...

    def kill(self) -> None:
        """Close the connection now, dropping what is queued. Not for the client whose command is running."""
        ...


class ServerState(Protocol):
    """The service, as the handlers know it; ``kvcd.server`` implements it.

    ``counters()`` gives the session layer's monotonic counts: ``connections_received``, ``connections_rejected``,
    ``net_input_bytes``, ``net_output_bytes``, and for each command that the fast lane answered ``calls:<name>``; and
    ``operations_per_second``, a rate that it may leave out. The slow lane's calls are in ``statistics``.
    """

    config: Config
    statistics: Statistics
    service: Service  # what this worker and others make together
    persistence: Persistence
    access: AccessControl  # who may do what
    names: CommandNames  # under which commands are known (rename-command)
    modes: ServerModes  # what clients have switched on beyond one command at a time
    databases: int
    order: DatabaseOrder  # which place of the pool each database number means; ``ClientState.db`` is a place
    executable: str
    config_file: str  # empty without one
    expires_in_background: bool  # False: expired keys stay until somebody asks for them (DEBUG SET-ACTIVE-EXPIRE)

    @property
    def clients(self) -> dict[int, ClientState]:
        """The clients of this process by id."""
        ...

    @property
    def store(self) -> StoreInterface:
        """The store that all clients share."""
        ...

    def now_ms(self) -> int:
        """Return the Unix time in milliseconds that this batch of commands sees."""
        ...

    def counters(self) -> dict[str, int]:
        """Return the session layer's counts since the start."""
        ...

    def changes(self) -> int:
        """Return how often clients of this process changed a value."""
        ...

    def swap_databases(self, first: int, second: int) -> None:
        """Exchange two database numbers, for all clients. Raises NotImplementedError, which says why, where that cannot be."""
        ...

    def lost_nodes(self) -> list[str]:
        """Return the names of memory nodes that do not answer."""
        ...

    async def stop(self, *, save: bool | None, now: bool, force: bool) -> bool:
        """Let the whole service stop soon (SHUTDOWN); False when it goes on, and the log says why.

        ``save`` is None where neither SAVE nor NOSAVE was given.
        """
        ...


Handler = Callable[[ClientState, ServerState, list[bytes]], Awaitable[Reply]]
