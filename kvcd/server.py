"""Server: constructs everything, listens, keeps the clock of background work, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kvcd import logs
from kvcd.access_control import AccessControl
from kvcd.channel import Message
from kvcd.client_limits import ClientLimits
from kvcd.command_names import CommandNames
from kvcd.commands import ANSWERS
from kvcd.commands.client import describe
from kvcd.commands.registry import Answering
from kvcd.config import Config
from kvcd.context import ClientState, ServerState, SlowReason
from kvcd.database_order import DatabaseOrder
from kvcd.directive import ConfigError
from kvcd.fastlane import FastLane
from kvcd.listeners import PORTS, Use, possible_clients, raise_descriptor_limit, remove_unix_socket, serve_unix, unix_listener
from kvcd.modes import ServerModes
from kvcd.open_port import NOT_UPDATED, OpenPort
from kvcd.persistence import ENDING_SIGNALS, Persistence, wanted_save
from kvcd.service import SAVE_AT_END, Service
from kvcd.session import Hub, Session
from kvcd.slow_watch import SlowWatch
from kvcd.statistics import Statistics
from kvcd.users import DEFAULT_USER, Users
from storage.database_order import read_order, write_order
from storage.fabric import waiting
from storage.opening import OpenedPool, open_pool
from storage.recovery import recover
from storage.store import Store

if TYPE_CHECKING:
    from kvcd.remote_nodes import RemoteNodes

MAINTENANCE_SHARE = 0.02  # of the time, for expiry and other work of the store; ten times that while much has expired
EVICTION_SLICE_MS = 0.5  # of eviction ahead of need between two turns of the event loop
URGENT_PAUSE_S = 0.02  # between two turns of background work while there is more of it


class Server:
    """One front end: a store, the sessions, and the sockets that they come from.

    Implements ``kvcd.context.ServerState``.
    """

    def __init__(self, config: Config, service: Service, users: Users) -> None:
        self.config = config
        self.service = service
        self.log = logs.get_logger("server")
        self.statistics = Statistics()
        self.names = CommandNames(config.lines("rename-command"))
        self.access = AccessControl(
            config, users, clients=lambda: self.clients.values(), describe=partial(describe, self), now_ms=self.now_ms
        )
        self.databases = config.number("databases")
        self.order = DatabaseOrder(self.databases)
        self.executable = sys.executable
        self.config_file = config.file or ""
        self.expires_in_background = True
        self.persistence = Persistence(config, logs.get_logger("persistence"), lambda: self.changes() + service.changes_elsewhere)
        self.persistence.on_change = lambda _state: self._refuse_writes()
        self.persistence.on_own_change = lambda: service.tell_saves(self.persistence.state())
        self._pool: OpenedPool | None = None
        self._remote: RemoteNodes | None = None
        self._is_maintaining = False
        self._is_urgent = False
        self._is_evicting = False
        self._ports: dict[str, OpenPort] = {}
        self._unix: asyncio.AbstractServer | None = None
        self._operations = (0, time.monotonic())
        self._operations_per_second = 0
        self._stopping = asyncio.Event()
        self._save_at_end: bool | None = None  # None: as the save rules say
        self._is_forced = False  # it ends although that save would fail

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
        return {
            **self._hub.counters(),
            "clients_evicted": self._client_limits.evicted,
            "operations_per_second": self._operations_per_second,
        }

    def swap_databases(self, first: int, second: int) -> None:
        """Exchange two database numbers: the pool remembers it, and its other front ends look there ten times a second."""
        if self._pool is None:
            raise NotImplementedError("ERR SWAPDB is not offered on memory nodes")
        if self.service.placement.workers > 1:
            # Their clients would see the change at different times, between any two commands.
            raise NotImplementedError("ERR SWAPDB is not offered with several workers")
        self._follow_order()
        places = self.order.swapped(first, second)
        write_order(self._pool.pool, places)
        self._change_order(places)

    def _follow_order(self) -> None:
        """Another front end of this pool may have swapped databases."""
        places = None if self._pool is None else read_order(self._pool.pool, self.databases)
        if places is not None and places != self.order.places:
            self._change_order(places)
            self.modes.reordered()

    def _change_order(self, places: list[int]) -> None:
        self.order.change(places, self._hub.clients.values())
        self._hub.first_database = places[0]

    def lost_nodes(self) -> list[str]:
        """Return the names of memory nodes that do not answer."""
        return [] if self._remote is None else self._remote.lost_nodes()

    async def stop(self, *, save: bool | None, now: bool, force: bool) -> bool:
        """Let the service stop soon (SHUTDOWN): this process, or the supervisor and all workers."""
        self.log.notice("a client asked for the end", command="SHUTDOWN")
        if (self.persistence.has_rules if save is None else save) and not force:
            reason = self.persistence.why_not() if self.persistence.can_save else None
            if reason is not None:
                self.log.warning("Error trying to save the DB, can't exit", reason=reason)
                return False
        if self.service.channel.is_alone:
            self._save_at_end, self._is_forced = save, force
            self._stopping.set()
        else:
            self.service.ask_to_stop(save=save)
        return True

    # ------------------------------------------------------------------- life

    async def start(self) -> None:
        """Open the pool, recover what it holds, listen. Raises PoolError, ConfigError or OSError."""
        config = self.config
        self._store = self._open_remote_store() if config.string("pool").startswith("verbs:") else self._open_store()
        self._hub = Hub(self, FastLane(self._store), asyncio.get_running_loop(), logs.get_logger("session"))
        self._hub.next_id = self.service.placement.first_client_id
        self.modes = ServerModes(self, self._hold_back)
        self.slow_watch = SlowWatch(config, self.statistics, self._hub.times, self._hold_back)
        self._client_limits = ClientLimits(config, self._hub.clients, self.log, workers=self.service.placement.workers)
        self._follow_order()
        self._apply_limits()
        for name in ("lfu-log-factor", "lfu-decay-time"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self._apply_limits))
        for name in ("notify-keyspace-events", "tracking-table-max-keys"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self.modes.follow_configuration))
        for name in ("maxmemory", "inflight-share", "pinned-share", "eviction-low-watermark", "eviction-high-watermark"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self._apply_limits))
        for name in ("maxclients", "protected-mode"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self._apply_limits))
        for name in ("lookup-protection-ms", "lookup-protection-share", "lease-share", "pair-eviction"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self._apply_limits))
        for name in ("proto-max-bulk-len", "client-query-buffer-limit", "stall-limit-ms", "chain-inference"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self._apply_limits))
        self.access.on_change(self._apply_access)
        self._hold_back(SlowReason.RENAMED, self.names.changes_fast_names)
        for name in ("save", "stop-writes-on-bgsave-error"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self._refuse_writes))
        for name in ("slowlog-log-slower-than", "slowlog-max-len", "latency-monitor-threshold", "latency-tracking"):
            config.on_change(name, lambda _value: asyncio.get_running_loop().call_soon(self.slow_watch.follow_configuration))
        config.on_change("slowlog-log-slower-than", self.slow_watch.take_threshold)
        config.on_change("maxmemory-policy", lambda value: self._store.set_policy(str(value)))
        config.on_change("maxmemory-policy", lambda _value: asyncio.get_running_loop().call_soon(self._apply_limits))
        self.service.attach(self, on_client_count=self._limit_clients)
        self.modes.attach(self.service.channel)
        for topic, answering in ANSWERS.items():
            self.service.channel.on(topic, partial(_answer, self, answering))
        self.service.channel.on(SAVE_AT_END, self._save_at_end_as_told)
        await self.service.join(on_lost=self._orphaned)
        saves = await self.service.ask_saves()
        if saves is not None:
            self.persistence.apply(saves)
        await self.modes.join()
        await self._listen()

    def _save_at_end_as_told(self, message: Message) -> bool:
        """The supervisor says who saves at the end: the last one that stops."""
        self._save_at_end = message.payload
        return True

    def saves_at_end(self) -> bool:
        """Whether a snapshot is to be saved when the clients are gone."""
        wanted = self.persistence.has_rules if self._save_at_end is None else self._save_at_end
        return wanted and self.persistence.can_save

    def _orphaned(self, reason: str) -> None:
        """The supervisor is gone: others may take the port, and nobody would start this worker anew."""
        self.log.warning("the supervisor is gone: this worker stops", reason=reason)
        self._stopping.set()

    def _open_store(self) -> Store:
        """A pool in memory of this machine, with what an earlier run left there."""
        config = self.config
        pool = self._pool = open_pool(
            config.string("pool"),
            pool_size_bytes=self.service.placement.pool_bytes or config.planned_pool_bytes,
            index_entries=config.number("index-entries") or None,
            log=self.log.notice,
            pool_size_is_default=not config.is_explicit("pool-size"),
            memory_fd=None if self.service.placement.memory_descriptor < 0 else self.service.placement.memory_descriptor,
        )
        store = self._store = Store(pool.pool, policy=config.string("maxmemory-policy"), databases=self.databases)
        if pool.recovered:
            report = recover(store)
            self.log.notice("keys of an earlier run are served", keys=report.keys, seconds=round(report.seconds, 3))
        store.share(pool.locks, alone=pool.alone)
        store.set_maxmemory(config.number("maxmemory"))
        self.persistence.begin(pool, store)
        store.publish_counts()
        pool.ready()
        return store

    def _open_remote_store(self) -> Store:
        """A pool on memory nodes."""
        from kvcd.remote_nodes import RemoteNodes  # only who uses RDMA needs what it imports

        if self.config["save"]:
            self.log.warning("save rules without effect: memory nodes keep their keys themselves, and no snapshot is made of them")
        self._remote = RemoteNodes(self.config, self.log)
        store = Store(self._remote.open(), policy=self.config.string("maxmemory-policy"), databases=self.databases)
        self._remote.start(store)
        return store

    def changes(self) -> int:
        """Changes of values since the start, by all clients of this process."""
        counts = self._store.counters()
        return counts["inserted"] + counts["overwritten"] + counts["deleted"]

    def _refuse_writes(self) -> None:
        """The slow lane knows which commands are refused while snapshots fail."""
        self._hold_back(SlowReason.SAVE_FAILED, self.persistence.refuses_writes)

    def _hold_back(self, reason: int, holds: bool) -> None:
        """Every command of every client takes the slow lane while any reason holds."""
        if reason == SlowReason.PAUSED:
            self._store.set_paused(holds)
        if holds:
            self._hub.slow_reasons |= reason
        else:
            self._hub.slow_reasons &= ~reason

    def _apply_limits(self) -> None:
        """Take over the directives that bound memory and clients."""
        config, hub = self.config, self._hub
        self._store.set_maxmemory(config.number("maxmemory"))
        self._hold_back(SlowReason.OVER_LIMIT, self._store.is_over_limit())
        self._store.set_shares(inflight=_share(config, "inflight-share"), pinned=_share(config, "pinned-share"))
        self._store.set_frequency(log_factor=config.number("lfu-log-factor"), decay_minutes=config.number("lfu-decay-time"))
        self._store.set_protection(
            lookup_ms=config.number("lookup-protection-ms"), lookup_share=_share(config, "lookup-protection-share"),
            lease_share=_share(config, "lease-share"),
        )
        self._store.set_pairs(leave_together=config.flag("pair-eviction"))
        self._store.set_watermarks(
            low=_fine_share(config, "eviction-low-watermark"), high=_fine_share(config, "eviction-high-watermark"), on_low=self._evict_soon
        )
        self._limit_clients()
        hub.stall_limit_ms = config.number("stall-limit-ms")
        hub.lanes_limit = config.number("batches-in-flight")
        hub.batch_size_limit = config.number("batch-size-limit")
        hub.infers_chains = config.flag("chain-inference")
        hub.max_bulk_bytes = config.number("proto-max-bulk-len")
        hub.query_buffer_limit_bytes = config.number("client-query-buffer-limit")
        self._apply_access()
        hub.wake()

    def _apply_access(self) -> None:
        """Take over what the default user may do: every new connection is that one."""
        hub = self._hub
        hub.password_required = self.access.needs_login
        hub.first_slow_reasons = self.access.slow_reasons_of(DEFAULT_USER)
        hub.protected = self.config.flag("protected-mode") and self.access.is_open

    def _limit_clients(self) -> None:
        """Let in as many clients as `maxclients` and the other workers leave."""
        left = max(0, self.config.number("maxclients") - self.service.clients_elsewhere)
        self._hub.max_clients = min(left, possible_clients())

    async def _listen(self) -> None:
        """Open every socket that the configuration names."""
        for directive in PORTS:
            if self.config.number(directive):
                self._ports[directive] = self._port_of(directive)
                await self._ports[directive].open()
        descriptor = self.service.placement.unix_descriptor
        unix = socket.socket(fileno=descriptor) if descriptor >= 0 else unix_listener(self.config)
        if unix is not None:
            self._unix = await serve_unix(lambda: Session(self._hub), unix, self.config.number("tcp-backlog"))
        if not self._ports and self._unix is None:
            raise ConfigError("nothing to listen on: port and tls-port are 0 and there is no unixsocket")
        for name in (*PORTS, "bind"):
            self.config.on_change(name, lambda _value: self._move_ports())

    def _port_of(self, directive: str) -> OpenPort:
        """Return a port that is not open yet. Raises ConfigError for settings of TLS that cannot work."""
        use = Use.SHARED if self.service.placement.workers > 1 else Use.ALONE
        if directive == "port":
            return OpenPort(self.config, lambda: Session(self._hub), use)
        from kvcd.tls_listeners import TlsListeners  # only who speaks TLS loads OpenSSL

        return TlsListeners(self.config, lambda: Session(self._hub), use)

    def _move_ports(self) -> None:
        """Listen where the configuration says now. Raises ConfigError with CONFIG SET's words, which takes the configuration back."""
        try:
            for directive in PORTS:
                if directive not in self._ports and self.config.number(directive):
                    self._ports[directive] = self._port_asked_for(directive)
                if directive in self._ports:
                    self._ports[directive].move()
        except ConfigError:
            # One of them may have moved already: it follows the configuration back.
            asyncio.get_running_loop().call_soon(self._move_ports_back)
            raise

    def _port_asked_for(self, directive: str) -> OpenPort:
        try:
            return self._port_of(directive)
        except ConfigError as error:
            self.log.warning("TLS cannot be spoken with these settings", reason=str(error))
            raise ConfigError(NOT_UPDATED) from None

    def _move_ports_back(self) -> None:
        with contextlib.suppress(ConfigError):
            for port in self._ports.values():
                port.move()

    def stop_soon(self) -> None:
        """Let ``serve`` end."""
        self._stopping.set()

    def stop_by_signal(self, directive: str) -> None:
        """Let ``serve`` end in the way that a directive says."""
        words = self.config.strings(directive)
        self._save_at_end, self._is_forced = wanted_save(words), "force" in words
        self.stop_soon()

    async def serve_on(self) -> None:
        """The end was asked for and cannot be yet."""
        self._stopping.clear()
        await self.serve()

    async def serve(self) -> None:
        """Answer clients and do the background work until the end is asked for."""
        while not self._stopping.is_set():
            interval_s = 1 / self.config.number("hz")
            try:
                await asyncio.wait_for(self._stopping.wait(), interval_s)
            except TimeoutError:
                self._tick(interval_s)

    def _tick(self, interval_s: float) -> None:
        self._follow_order()
        self._hold_back(SlowReason.OVER_LIMIT, self._store.is_over_limit())
        if not self._is_maintaining:
            self._store.set_active_expiry(self.expires_in_background)
            self._is_maintaining = True
            budget_ms = interval_s * 1000 * MAINTENANCE_SHARE
            if self._remote is None:
                self._maintain(budget_ms)
            else:
                waiting.run(self._maintain, budget_ms)
        self.persistence.tick()
        self._hub.check_waiting()
        self._client_limits.enforce(self.now_ms(), has_listeners=self.modes.has_listeners)
        self.service.tell_clients(len(self._hub.clients))
        calls = self._hub.calls() + self.statistics.total_calls
        now_s = time.monotonic()
        if now_s - self._operations[1] >= 1:
            self._operations_per_second = round((calls - self._operations[0]) / (now_s - self._operations[1]))
            self._operations = (calls, now_s)
            self.service.report(self)
            self.service.tell_changes(self.changes())

    def _evict_soon(self) -> None:
        """Few pages are free: make room in the loop's next turn, when the command that took them is answered."""
        if not self._is_evicting:
            self._is_evicting = True
            asyncio.get_running_loop().call_soon(self._evict)

    def _evict(self) -> None:
        if self._pool is None and self._remote is None:
            return
        if self._remote is None:
            self._evict_slice()
        else:
            waiting.run(self._evict_slice)

    def _evict_slice(self) -> None:
        """Evict ahead of need for a little while, and again in the loop's next turn, until enough is free."""
        more = False
        try:
            more = self._store.evict_ahead(EVICTION_SLICE_MS)
        finally:
            self._is_evicting = False
            self.modes.take_removals()
            if more:
                self._evict_soon()

    def _maintain(self, budget_ms: float) -> None:
        """Background work of the store, which may wait for memory nodes."""
        try:
            if self._store.maintain(budget_ms) and self._remote is None and not self._is_urgent:
                self._is_urgent = True
                asyncio.get_running_loop().call_later(URGENT_PAUSE_S, self._maintain_again, budget_ms)
        finally:
            self._is_maintaining = False
            self.modes.take_removals()

    def _maintain_again(self, budget_ms: float) -> None:
        """There was more to do than one turn's share: go on before the next tick."""
        self._is_urgent = False
        if self._pool is not None and not self._is_maintaining:
            self._is_maintaining = True
            self._maintain(budget_ms)

    def may_stop(self) -> bool:
        """Whether the end would lose nothing that is to be saved; otherwise the log says why, and the service goes on as Redis does."""
        reason = self.persistence.why_not() if self.saves_at_end() and not self._is_forced else None
        if reason is not None:
            self.log.warning("Error trying to save the DB, can't exit", reason=reason, way_out='SHUTDOWN NOSAVE, or CONFIG SET save ""')
        return reason is None

    async def finish(self) -> bool:
        """Stop accepting, let what runs finish within `stop-deadline-ms`, close everything, save what is to be saved.

        Whether the snapshot, if there is one to save, was saved.
        """
        for port in self._ports.values():
            port.close()
        if self._unix is not None:
            self._unix.close()
        if self.service.placement.unix_descriptor < 0:
            remove_unix_socket(self.config)
        deadline_s = time.monotonic() + self.config.number("stop-deadline-ms") / 1000
        clients = self._hub.clients
        # Whoever is blocked has nothing that runs, and what it waits for will not come.
        while any(client.is_busy() and not client.is_blocked for client in clients.values()) and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # bounded by the deadline: sessions have no common event for "all sent"
        for client in list(self._hub.clients.values()):
            client.kill()
        await asyncio.sleep(0)  # connections let go of their pages
        await asyncio.sleep(0)
        await self.service.leave(self)
        saved = await self.persistence.save_at_end() if self.saves_at_end() else True
        await self.persistence.stop()
        if self._remote is not None:
            await self._remote.stop()
        return saved

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


def _fine_share(config: Config, name: str) -> float:
    return config.number(name) / 10_000


def _answer(server: ServerState, answering: Answering, message: Message) -> object:
    return answering(server, message.payload)


async def serve(
    config: Config, service: Service, users: Users, *, on_ready: Callable[[Server], object], on_stop: Callable[[], object] = lambda: None
) -> bool:
    """Serve until the end is asked for, by SIGTERM, SIGINT, SHUTDOWN, or because the supervisor is gone.

    Whether the snapshot, if there was one to save, was saved. Raises PoolError, SnapshotError, ConfigError or OSError when it cannot start.
    """
    log = logs.get_logger("server")
    clients = config.number("maxclients")
    possible = raise_descriptor_limit(clients)
    if possible < clients:
        log.warning("fewer clients than maxclients: the descriptor limit (ulimit -n) is lower", maxclients=clients, possible=possible)
    server = Server(config, service, users)
    loop = asyncio.get_running_loop()

    def heed_signals() -> None:
        for number, directive in ENDING_SIGNALS.items():
            if service.channel.is_alone:
                loop.add_signal_handler(number, server.stop_by_signal, directive)
            else:
                loop.add_signal_handler(number, server.stop_soon)  # the supervisor has said who saves

    try:
        if service.placement.workers == 1:
            heed_signals()
        await server.start()
        # Before it serves, a worker has nothing to finish; it may wait for others in the pool then, and a signal just ends it.
        heed_signals()
    except BaseException:
        server.close_pool()
        raise
    on_ready(server)
    saved = False
    try:
        await server.serve()
        while service.channel.is_alone and not server.may_stop():
            await server.serve_on()
    finally:
        on_stop()
        log.notice("stopping: finishing what runs", clients=len(server.clients))
        saved = await server.finish()
    server.close_pool()
    return saved
