"""A service without a pool for tests of handlers: a client and a server of plain fields, and a small RESP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import hiredis

from kvcd.access_control import AccessControl
from kvcd.access_file import load_users
from kvcd.client_modes import ClientModes
from kvcd.command_names import CommandNames
from kvcd.commands import dispatch
from kvcd.commands.client import describe
from kvcd.config import Config
from kvcd.context import ClientState
from kvcd.database_order import DatabaseOrder
from kvcd.logs import get_logger
from kvcd.modes import ServerModes
from kvcd.persistence import Persistence
from kvcd.placement import Placement
from kvcd.service import Service as WholeService
from kvcd.statistics import Statistics
from protocol.encoder import encode
from protocol.replies import Reply
from tests.model import ModelStore


@dataclass(eq=False)
class PlainClient:
    """``kvcd.context.ClientState`` in plain fields."""

    id: int = 1
    name: bytes = b""
    db: int = 0
    resp: int = 2
    authenticated: bool = True
    user: bytes = b"default"
    lib_name: bytes = b""
    lib_ver: bytes = b""
    address: str = "127.0.0.1:50000"
    local_address: str = "127.0.0.1:6379"
    descriptor: int = 8
    created_at_ms: int = 0
    last_interaction_ms: int = 0
    stalled_since_ms: int = 0
    last_command: str = "NULL"
    net_input_bytes: int = 0
    net_output_bytes: int = 0
    pending_input_bytes: int = 0
    pending_output_bytes: int = 0
    slow_reasons: int = 0
    close_after_reply: bool = False
    modes: ClientModes | None = None
    replies_off: bool = False
    skips_next: bool = False
    skipping: bool = False
    is_blocked: bool = False
    pushed: list[bytes] = field(default_factory=list)
    killed: bool = False

    def push(self, message: bytes, limit_bytes: int = 0, behind_reply: bool = False) -> None:
        """Note what was sent."""
        self.pushed.append(message)

    def take_pushes(self) -> bytes:
        """Return nothing: what was sent is noted already."""
        return b""

    def kill(self) -> None:
        """Note that the connection was closed."""
        self.killed = True


@dataclass
class PlainServer:
    """``kvcd.context.ServerState`` over the model store, whose clock is the service's."""

    store: ModelStore = field(default_factory=ModelStore)
    config: Config = field(default_factory=Config)
    statistics: Statistics = field(default_factory=Statistics)
    clients: dict[int, ClientState] = field(default_factory=dict)
    service: WholeService = field(default_factory=lambda: WholeService(Placement(run_id="0123456789" * 4, started_at_ms=0)))
    databases: int = 16
    order: DatabaseOrder = field(default_factory=lambda: DatabaseOrder(16))
    executable: str = "kvcd"
    config_file: str = ""
    expires_in_background: bool = True
    counts: dict[str, int] = field(default_factory=dict)
    stops: list[tuple[bool | None, bool, bool]] = field(default_factory=list)
    may_stop: bool = True
    persistence: Persistence = field(init=False)
    access: AccessControl = field(init=False)
    names: CommandNames = field(default_factory=CommandNames)
    modes: ServerModes = field(init=False)

    def __post_init__(self) -> None:
        """Begin without a pool that could be saved."""
        self.persistence = Persistence(self.config, get_logger("persistence"), lambda: 0)
        users = load_users(self.config)
        self.access = AccessControl(
            self.config, users, clients=lambda: self.clients.values(), describe=partial(describe, self), now_ms=self.now_ms
        )
        self.modes = ServerModes(self, lambda _reason, _holds: None)

    def now_ms(self) -> int:
        """Return the model's time."""
        return self.store.now_ms

    def counters(self) -> dict[str, int]:
        """Return what the test says that sessions counted."""
        return dict(self.counts)

    def swap_databases(self, first: int, second: int) -> None:
        """Exchange two database numbers."""
        self.order.change(self.order.swapped(first, second), self.clients.values())

    def lost_nodes(self) -> list[str]:
        """Return nothing: the model has no nodes."""
        return []

    async def stop(self, *, save: bool | None, now: bool, force: bool) -> bool:
        """Note what was asked."""
        self.stops.append((save, now, force))
        return self.may_stop


@dataclass
class Service:
    """One client and one server, for tests that call handlers directly."""

    client: PlainClient = field(default_factory=PlainClient)
    server: PlainServer = field(default_factory=PlainServer)

    def __post_init__(self) -> None:
        """Let the server know its client."""
        self.server.clients[self.client.id] = self.client

    def connect(self, **fields: object) -> PlainClient:
        """Add another client."""
        client = PlainClient(id=max(self.server.clients) + 1, **fields)  # type: ignore[arg-type]
        self.server.clients[client.id] = client
        return client

    def do(self, *args: object) -> Reply:
        """Run one command without an event loop: a handler that suspends on this store is an error."""
        words = [arg.encode() if isinstance(arg, str) else b"%d" % arg if isinstance(arg, int) else arg for arg in args]
        running = dispatch(self.client, self.server, words)  # type: ignore[arg-type]
        try:
            running.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        running.close()
        raise AssertionError(f"{args!r} suspended")


@asynccontextmanager
async def resp_server(path: str, server: PlainServer, now_ms: object = None) -> AsyncIterator[None]:
    """Serve RESP on a unix socket from handlers and model; ``now_ms`` (a callable) moves the clock before each read."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = PlainClient(
            id=max(server.clients, default=0) + 1, db=server.order.place(0), authenticated=not server.config.string("requirepass")
        )
        server.clients[client.id] = client
        frames = hiredis.Reader()
        try:
            while data := await reader.read(65536):
                frames.feed(data)
                if callable(now_ms):
                    server.store.now_ms = now_ms()
                while (frame := frames.gets()) is not False:
                    writer.write(encode(await dispatch(client, server, frame), client.resp))
                    if client.close_after_reply:
                        return
                await writer.drain()
        finally:
            del server.clients[client.id]
            writer.close()

    listener = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        listener.close()
        await listener.wait_closed()
