"""Server: constructs everything, listens, keeps the clock of background work, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import secrets
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import uvloop

from kvcd import logs
from kvcd.commands.statistics import Statistics
from kvcd.config import Config, available_memory_bytes
from kvcd.context import ClientState
from kvcd.daemon import tell_supervisor
from kvcd.directive import ConfigError
from kvcd.fastlane import FastLane
from kvcd.output_limits import OutputWatch
from kvcd.session import Hub, Session
from storage.fabric import waiting
from storage.opening import OpenedPool, open_pool
from storage.pool import PoolError
from storage.recovery import recover
from storage.store import Store

if TYPE_CHECKING:
    from kvcd.remote_nodes import RemoteNodes

MAINTENANCE_SHARE = 0.02  # of the time, for expiry and other work of the store; ten times that while much has expired
URGENT_PAUSE_S = 0.02  # between two turns of background work while there is more of it
OWN_DESCRIPTORS = 64  # kept back from clients: listeners, the pool, the log, and connections that are being refused
EXIT_FAILURE = 1


class Server:
    """One front end: a store, the sessions, and the sockets that they come from.

    Implements ``kvcd.context.ServerState``.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log = logs.get_logger("server")
        self.statistics = Statistics()
        self.databases = config.number("databases")
        self.started_at_ms = time.time_ns() // 1_000_000
        self.run_id = secrets.token_hex(20)
        self.port = config.number("port")
        self.executable = sys.executable
        self.config_file = config.file or ""
        self._pool: OpenedPool | None = None
        self._remote: RemoteNodes | None = None
        self._is_maintaining = False
        self._is_urgent = False
        self._listeners: list[asyncio.AbstractServer] = []
        self._output_watch = OutputWatch()
        self._operations = (0, time.monotonic())
        self._operations_per_second = 0

    # ------------------------------------------------------------ what handlers ask

    @property
    def clients(self) -> dict[int, ClientState]:
        """Connected clients by id."""
        return self._hub.clients

    @property
    def store(self) -> Store:
        """The store that all clients share."""
        return self._store

    def now_ms(self) -> int:
        """Return the Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def counters(self) -> dict[str, int]:
        """Return the session layer's counts since the start."""
        return {**self._hub.counters(), "operations_per_second": self._operations_per_second}

    # ------------------------------------------------------------------- life

    async def start(self) -> None:
        """Open the pool, recover what it holds, listen. Raises PoolError, ConfigError or OSError."""
        config = self.config
        self._store = self._open_remote_store() if config.string("pool").startswith("verbs:") else self._open_store()
        self._hub = Hub(self, FastLane(self._store), asyncio.get_running_loop(), logs.get_logger("session"))
        self._apply_limits()
        for name in ("maxmemory", "inflight-share", "pinned-share", "maxclients", "requirepass", "protected-mode"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self._apply_limits))
        for name in ("proto-max-bulk-len", "client-query-buffer-limit", "stall-limit-ms"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self._apply_limits))
        config.on_change("maxmemory-policy", lambda value: self._store.set_policy(str(value)))
        await self._listen()

    def _open_store(self) -> Store:
        """A pool in memory of this machine, with what an earlier run left there."""
        config = self.config
        pool = self._pool = open_pool(
            config.string("pool"),
            pool_size_bytes=self._pool_size_bytes(),
            index_entries=config.number("index-entries") or None,
            log=self.log.notice,
            pool_size_is_default=not config.is_explicit("pool-size"),
        )
        store = Store(pool.pool, policy=config.string("maxmemory-policy"), databases=self.databases)
        if pool.recovered:
            report = recover(store)
            self.log.notice("keys of an earlier run are served", keys=report.keys, seconds=round(report.seconds, 3))
        store.share(pool.locks, alone=pool.alone)
        pool.ready()
        return store

    def _open_remote_store(self) -> Store:
        """A pool on memory nodes."""
        from kvcd.remote_nodes import RemoteNodes  # only who uses RDMA needs what it imports

        self._remote = RemoteNodes(self.config, self.log)
        store = Store(self._remote.open(), policy=self.config.string("maxmemory-policy"), databases=self.databases)
        self._remote.start(store)
        return store

    def _pool_size_bytes(self) -> int:
        """Size of the pool: what is asked for, and by default never less than an explicit maxmemory needs."""
        size_bytes = self.config.pool_size_bytes
        wanted_bytes = self.config.number("maxmemory")
        if not self.config.is_explicit("pool-size") and wanted_bytes > 0:
            # A sixteenth more: the index, heat and page table come out of the same pool.
            size_bytes = max(size_bytes, wanted_bytes + wanted_bytes // 16)
        return size_bytes

    def _apply_limits(self) -> None:
        """Take over the directives that bound memory and clients."""
        config, hub = self.config, self._hub
        self._store.set_maxmemory(config.number("maxmemory"))
        self._store.set_shares(inflight=_share(config, "inflight-share"), pinned=_share(config, "pinned-share"))
        hub.max_clients = min(config.number("maxclients"), _possible_clients())
        hub.stall_limit_ms = config.number("stall-limit-ms")
        hub.lanes_limit = config.number("batches-in-flight")
        hub.batch_size_limit = config.number("batch-size-limit")
        hub.max_bulk_bytes = config.number("proto-max-bulk-len")
        hub.query_buffer_limit_bytes = config.number("client-query-buffer-limit")
        hub.password_required = bool(config.string("requirepass"))
        hub.protected = config.flag("protected-mode") and not hub.password_required
        hub.wake()

    async def _listen(self) -> None:
        """Open every socket that the configuration names."""
        config, loop = self.config, asyncio.get_running_loop()
        keepalive_s = config.number("tcp-keepalive")
        backlog = config.number("tcp-backlog")
        if self.port:
            for host in config.strings("bind") or ("*",):
                for sock in _tcp_sockets(host, self.port):
                    if keepalive_s:
                        _keep_alive(sock, keepalive_s)
                    self._listeners.append(await loop.create_server(lambda: Session(self._hub), sock=sock, backlog=backlog))
            if not self._listeners:
                raise ConfigError(f"none of the addresses of 'bind' ({' '.join(config.strings('bind'))}) is on this machine")
        path = config.string("unixsocket")
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            try:
                self._listeners.append(await loop.create_unix_server(lambda: Session(self._hub), path=path, backlog=backlog))
            except OSError as error:
                raise ConfigError(f"unixsocket {path}: {error.strerror}") from None
            if config["unixsocketperm"]:
                os.chmod(path, config.number("unixsocketperm"))
        if not self._listeners:
            raise ConfigError("nothing to listen on: port is 0 and there is no unixsocket")

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Answer clients and do the background work until ``stop`` is set."""
        while not stop.is_set():
            interval_s = 1 / self.config.number("hz")
            try:
                await asyncio.wait_for(stop.wait(), interval_s)
            except TimeoutError:
                self._tick(interval_s)

    def _tick(self, interval_s: float) -> None:
        if not self._is_maintaining:
            self._is_maintaining = True
            budget_ms = interval_s * 1000 * MAINTENANCE_SHARE
            if self._remote is None:
                self._maintain(budget_ms)
            else:
                waiting.run(self._maintain, budget_ms)
        self._hub.check_waiting()
        for number in self._output_watch.too_slow(self._hub.clients, self.config.output_limit(), self.now_ms()):
            slow = self._hub.clients[number]
            self.log.warning(
                "closing a client that does not read its replies (client-output-buffer-limit)",
                client=number,
                unread_bytes=slow.pending_output_bytes,
            )
            slow.kill()
        idle_limit_ms = self.config.number("timeout") * 1000
        if idle_limit_ms:
            oldest_ms = self.now_ms() - idle_limit_ms
            for client in list(self._hub.clients.values()):
                if max(client.last_interaction_ms, client.stalled_since_ms) < oldest_ms:
                    client.kill()
        calls = self._hub.calls() + self.statistics.total_calls
        now_s = time.monotonic()
        if now_s - self._operations[1] >= 1:
            self._operations_per_second = round((calls - self._operations[0]) / (now_s - self._operations[1]))
            self._operations = (calls, now_s)

    def _maintain(self, budget_ms: float) -> None:
        """Background work of the store, which may wait for memory nodes."""
        try:
            if self._store.maintain(budget_ms) and self._remote is None and not self._is_urgent:
                self._is_urgent = True
                asyncio.get_running_loop().call_later(URGENT_PAUSE_S, self._maintain_again, budget_ms)
        finally:
            self._is_maintaining = False

    def _maintain_again(self, budget_ms: float) -> None:
        """There was more to do than one turn's share: go on before the next tick."""
        self._is_urgent = False
        if self._pool is not None and not self._is_maintaining:
            self._is_maintaining = True
            self._maintain(budget_ms)

    async def stop(self) -> None:
        """Stop accepting, let what runs finish within `stop-deadline-ms`, close everything, leave the pool in order."""
        for listener in self._listeners:
            listener.close()
        if self.config.string("unixsocket") and self._listeners:
            with contextlib.suppress(OSError):
                os.unlink(self.config.string("unixsocket"))
        deadline_s = time.monotonic() + self.config.number("stop-deadline-ms") / 1000
        while any(client.is_busy() for client in self._hub.clients.values()) and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # bounded by the deadline: sessions have no common event for "all sent"
        for client in list(self._hub.clients.values()):
            client.kill()
        await asyncio.sleep(0)  # connections let go of their pages
        await asyncio.sleep(0)
        if self._remote is not None:
            await self._remote.stop()

    def close_pool(self) -> None:
        """Let go of the pool; nothing may use it afterwards."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._remote is not None:
            self._remote.close()
            self._remote = None


def _share(config: Config, name: str) -> float:
    return config.number(name) / 100


def _tcp_sockets(host: str, port: int) -> list[socket.socket]:
    """Bound sockets for one entry of `bind`; none when it begins with a dash and the machine lacks the address."""
    optional = host.startswith("-")
    name = host.removeprefix("-")
    name = {"*": "0.0.0.0", "::*": "::"}.get(name, name)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        if optional:
            return []
        raise ConfigError(f"bind {name}: {error.strerror}") from None
    sockets = []
    for family, kind, protocol, _canonical, address in found[:1]:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError:
            if optional:
                continue
            raise
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            sock.close()
            if optional and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {port} on {name} is taken: another server listens there (redis-server?); stop it, or give another --port"
                ) from None
            raise ConfigError(f"bind {name} port {port}: {error.strerror}") from None
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _keep_alive(sock: socket.socket, idle_s: int) -> None:
    """Probe silent peers; accepted connections inherit this from the listening socket."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle_s // 3))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _possible_clients() -> int:
    """Return how many clients the descriptor limit leaves room for."""
    return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_DESCRIPTORS)


def _raise_descriptor_limit(clients: int) -> int:
    """Ask the system for a descriptor for each client; returns how many clients fit."""
    wanted = clients + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return min(clients, _possible_clients())


async def _serve(config: Config) -> int:
    log = logs.get_logger("server")
    clients = config.number("maxclients")
    possible = _raise_descriptor_limit(clients)
    if possible < clients:
        log.warning("fewer clients than maxclients: the descriptor limit (ulimit -n) is lower", maxclients=clients, possible=possible)
    server = Server(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await server.start()
    except (PoolError, OSError) as error:
        log.warning("cannot start", reason=str(error))
        sys.stderr.write(f"kvcd: {error}\n")
        server.close_pool()
        return EXIT_FAILURE
    except ConfigError:
        server.close_pool()
        raise
    log.notice(
        "Ready to accept connections",
        port=server.port,
        pid=os.getpid(),
        pool=config.string("pool"),
        pool_bytes=server.store.memory()["pool_bytes"],
        memory_bytes=available_memory_bytes(),
    )
    tell_supervisor(config, "READY=1")
    try:
        await server.serve_until(stop)
    finally:
        tell_supervisor(config, "STOPPING=1")
        log.notice("stopping: finishing what runs", clients=len(server.clients))
        await server.stop()
    server.close_pool()
    log.notice("stopped; bye")
    return 0


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises ConfigError for a configuration that cannot work."""
    return uvloop.run(_serve(config))
