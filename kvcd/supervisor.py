"""Supervisor: one process that holds a service's sockets and memory, and keeps its workers running on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import Any

import uvloop

from kvcd import logs
from kvcd.access_file import load_users
from kvcd.channel import Message
from kvcd.channel_link import Link
from kvcd.config import Config, available_memory_bytes
from kvcd.daemon import tell_supervisor
from kvcd.directive import ConfigError
from kvcd.listeners import PORTS, held_sockets, remove_unix_socket, unix_listener
from kvcd.persistence import ENDING_SIGNALS, wanted_save
from kvcd.place_keeper import PlaceKeeper, StartFailure
from kvcd.placement import Placement
from kvcd.portable import restored
from kvcd.service import (
    CHANGE,
    CHANGE_USERS,
    CHANGED,
    FAILED,
    POOL_FACTS,
    READY,
    RESET,
    SAVE_AT_END,
    STOP,
    STOPPING,
    TALLY,
    TOTALS,
    USERS_CHANGED,
    WAS_RESET,
)
from kvcd.service_view import ServiceSample, WorkerState
from kvcd.switchboard import Switchboard
from kvcd.totals import Ledger, Tally
from kvcd.worker_process import WorkerProcess
from storage.pool import PoolError

EXIT_FAILURE, EXIT_USAGE = 1, 2
STOP_MARGIN_S = 1.0  # after stop-deadline-ms, in which a worker closes what it has not finished by then
CLOSE_POOL_DEADLINE_S = 60.0  # the last one that leaves a pool file brings it to the disk
SAVE_DEADLINE_S = 600.0  # for a snapshot at the end
SILENCE_LIMIT_S = 5.0  # after which /readyz says that a worker is not heard of; workers report every second


class Supervisor:
    """The service as a whole. Implements ``kvcd.service_view.ServiceView``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._users = load_users(config)  # as they are now, for workers that are started later
        config.on_change("requirepass", lambda value: self._users.follow_password(str(value).encode("utf-8", "surrogateescape")))
        self._log = logs.get_logger("supervisor")
        self._ledger = Ledger()
        self._switchboard = Switchboard(queue_limit_bytes=config.number("channel-queue-limit"), on_overrun=self._overrun)
        self._keepers = [PlaceKeeper(place, starter=self._start, on_end=self._ended) for place in range(config.workers)]
        self._stop = asyncio.Event()
        self._save: bool | None = None  # at the end; None: as the save rules say
        self._run = Placement(workers=config.workers)  # what all workers have in common
        self._start_count = 0
        self._has_served = False
        self._is_announced = False
        self._failure: StartFailure | None = None
        self._sockets: list[socket.socket] = []
        self._unix: socket.socket | None = None
        self._memory_descriptor = -1
        self._pool_bytes = 0

    async def run(self) -> StartFailure | None:
        """Keep workers until the end is asked for; why they could not even start, if so. Raises ConfigError or PoolError."""
        loop = asyncio.get_running_loop()
        for number, directive in ENDING_SIGNALS.items():
            loop.add_signal_handler(number, self._stop_by_signal, directive)
        async with contextlib.AsyncExitStack() as opened:
            opened.callback(self._close)
            self._open()
            if self._config.number("admin-port"):
                from kvcd.admin import AdminServer  # only who has that port needs what it imports

                admin = AdminServer(self._config)
                opened.push_async_callback(admin.close)
                await admin.open()
                admin.show(self)
            self._listen_to_workers()
            keeping = [loop.create_task(keeper.keep()) for keeper in self._keepers]
            asked = loop.create_task(self._stop.wait())
            try:
                # A keeper ends before it is told to only by a fault of ours, which the gathering below raises.
                await asyncio.wait([asked, *keeping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
                await self._stop_workers()
                await asyncio.gather(*keeping)
                await self._switchboard.close()
        return self._failure

    def _stop_by_signal(self, directive: str) -> None:
        self._save = wanted_save(self._config.strings(directive))
        self._stop.set()

    def _open(self) -> None:
        """Take the sockets and the memory that workers come and go on."""
        config = self._config
        if config.number("tls-port"):
            from kvcd.tls import server_context

            server_context(config)  # what is wrong with it is said once, not by each worker
        self._sockets = held_sockets(config)
        for name in (*PORTS, "bind"):
            config.on_change(name, lambda _value: self._hold_anew())
        self._unix = unix_listener(config)
        if not self._sockets and self._unix is None:
            raise ConfigError("nothing to listen on: port and tls-port are 0 and there is no unixsocket")
        if not config.string("pool").startswith("verbs:"):
            self._pool_bytes = config.planned_pool_bytes
        if config.string("pool") == "shm:":
            from storage.opening import make_memory

            self._memory_descriptor = make_memory(self._pool_bytes)

    def _hold_anew(self) -> None:
        """Workers have moved to other addresses, or are about to. Raises ConfigError when these cannot be held."""
        former, self._sockets = self._sockets, held_sockets(self._config, workers_listen=True)
        for sock in former:
            sock.close()

    def _close(self) -> None:
        for sock in self._sockets:
            sock.close()
        if self._unix is not None:
            self._unix.close()
            remove_unix_socket(self._config)
        if self._memory_descriptor >= 0:
            os.close(self._memory_descriptor)

    # -------------------------------------------------------------------- workers

    async def _start(self, place: int) -> tuple[WorkerProcess, Link]:
        placement = Placement(
            place=place,
            workers=len(self._keepers),
            run_id=self._run.run_id,
            started_at_ms=self._run.started_at_ms,
            service_pid=self._run.service_pid,
            start_number=self._start_count,
            epoch=self._ledger.epoch,
            pool_bytes=self._pool_bytes,
            memory_descriptor=self._memory_descriptor,
            unix_descriptor=-1 if self._unix is None else self._unix.fileno(),
        )
        self._start_count += 1
        descriptors = [number for number in (placement.memory_descriptor, placement.unix_descriptor) if number >= 0]
        process = await WorkerProcess.start(self._config, self._users, placement, descriptors=descriptors)
        return process, await self._switchboard.seat(place, process.socket)

    def _ended(self, keeper: PlaceKeeper) -> None:
        """A worker is gone: what it counted stays."""
        self._switchboard.unseat(keeper.place)
        self._ledger.end(keeper.place)
        keeper.lost_nodes = []
        if not self._has_served and all(other.failure is not None for other in self._keepers):
            # None could serve, so none ever will: the first one's reason is the service's.
            self._failure = self._failure or self._keepers[0].failure
            self._stop.set()

    def _overrun(self, place: int) -> None:
        self._keepers[place].kill("it left more messages unread than channel-queue-limit allows")

    async def _stop_workers(self) -> None:
        """All stop at once; whatever does not in time is killed."""
        if self._failure is None:
            tell_supervisor(self._config, "STOPPING=1")
            self._log.notice("stopping: finishing what runs", workers=len(self._keepers))
        saves = bool(self._config["save"]) if self._save is None else self._save
        if not saves or self._failure is not None:
            await self._stop_these(self._keepers, save=False, close_deadline_s=CLOSE_POOL_DEADLINE_S)
            return
        # Whoever saves at the end is the last one: nobody's client can change anything behind it.
        last = next((keeper for keeper in self._keepers if keeper.is_ready), self._keepers[0])
        others = [keeper for keeper in self._keepers if keeper is not last]
        await self._stop_these(others, save=False, close_deadline_s=CLOSE_POOL_DEADLINE_S)
        await self._stop_these([last], save=True, close_deadline_s=CLOSE_POOL_DEADLINE_S + SAVE_DEADLINE_S)

    async def _stop_these(self, keepers: list[PlaceKeeper], *, save: bool, close_deadline_s: float) -> None:
        """Stop some workers at once, told whether to save a snapshot when their clients are gone."""
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(*(self._switchboard.ask(keeper.place, SAVE_AT_END, save) for keeper in keepers if keeper.is_ready))
        for keeper in keepers:
            keeper.stop()
        deadline_s = self._config.number("stop-deadline-ms") / 1000 + STOP_MARGIN_S
        await asyncio.gather(*(keeper.wait_stopped(deadline_s, close_deadline_s) for keeper in keepers))

    # ------------------------------------------------------------ what workers say

    def _listen_to_workers(self) -> None:
        handlers = {
            READY: self._ready,
            FAILED: self._failed,
            STOPPING: self._stopping,
            STOP: self._stop_as_asked,
            TALLY: self._report,
            TOTALS: self._totals,
            CHANGE: self._change,
            CHANGE_USERS: self._change_users,
            RESET: self._reset,
        }
        for topic, handler in handlers.items():
            self._switchboard.on(topic, handler)

    def _stop_as_asked(self, message: Message) -> None:
        """A client has asked for the end."""
        self._save = message.payload
        self._stop.set()

    def _ready(self, message: Message) -> None:
        keeper = self._keepers[message.sender]
        keeper.is_ready = self._has_served = True
        self._switchboard.ready(keeper.place)
        self._log.verbose("worker is ready", worker=keeper.place, worker_pid=keeper.pid)
        if self._is_announced or not all(other.is_ready for other in self._keepers):
            return
        self._is_announced = True
        self._log.notice("Server initialized")
        self._log.notice(
            "Ready to accept connections",
            port=self._config.number("port"),
            pid=os.getpid(),
            workers=len(self._keepers),
            pool=self._config.string("pool"),
            pool_bytes=message.payload["pool_bytes"],
            memory_bytes=available_memory_bytes(),
        )
        tell_supervisor(self._config, "READY=1")

    def _failed(self, message: Message) -> None:
        self._keepers[message.sender].failure = StartFailure(restored(message.payload["text"]), message.payload["status"])

    def _stopping(self, message: Message) -> None:
        self._keepers[message.sender].is_closing = True

    def _report(self, message: Message) -> None:
        self._ledger.note(message.sender, Tally.from_plain(message.payload["tally"]))
        self._keepers[message.sender].lost_nodes = message.payload["lost_nodes"]

    async def _totals(self, message: Message) -> dict[str, Any]:
        self._ledger.note(message.sender, Tally.from_plain(message.payload))
        await self._collect(but=message.sender)
        return self._ledger.total().plain()

    async def _collect(self, *, but: int | None = None) -> None:
        """Bring the ledger up to date with all workers that answer."""
        for answer in await self._switchboard.ask_all(TALLY, but=but):
            self._ledger.note(answer.place, Tally.from_plain(answer.payload))

    async def _change(self, message: Message) -> None:
        """Changes reach all workers in one order; a worker that is started later gets the configuration as it is then."""
        try:
            self._config.set_many([(restored(name), restored(text)) for name, text in message.payload])
        except ConfigError as error:
            self._log.warning("a change of the configuration was not possible in the supervisor", reason=str(error))
        await self._switchboard.ask_all(CHANGED, message.payload)

    async def _change_users(self, message: Message) -> None:
        """As changes of the configuration."""
        self._users.take(message.payload)
        await self._switchboard.ask_all(USERS_CHANGED, message.payload)

    async def _reset(self, message: Message) -> None:
        epoch = self._ledger.reset()
        for answer in await self._switchboard.ask_all(WAS_RESET, epoch):
            self._ledger.note(answer.place, Tally.from_plain(answer.payload))

    # ------------------------------------------------------------- the admin port

    def unready(self) -> list[str]:
        """Name the places without a worker that serves, and memory nodes that do not answer."""
        reasons = []
        for keeper in self._keepers:
            silence_s = self._switchboard.silence_s(keeper.place)
            if not keeper.is_ready:
                reasons.append(f"worker {keeper.place} does not serve yet")
            elif silence_s > SILENCE_LIMIT_S:
                reasons.append(f"worker {keeper.place} was not heard of for {silence_s:.0f} s")
        lost = sorted({name for keeper in self._keepers for name in keeper.lost_nodes})
        return reasons + [f"memory node {name} does not answer" for name in lost]

    async def sample(self) -> ServiceSample:
        """Return the figures of now."""
        _, facts = await asyncio.gather(self._collect(), self._switchboard.ask_all(POOL_FACTS))
        return ServiceSample(
            totals=self._ledger.total(),
            workers=[WorkerState(keeper.place, keeper.is_ready, keeper.restarts) for keeper in self._keepers],
            started_at_ms=self._run.started_at_ms,
            run_id=self._run.run_id,
            maxclients=self._config.number("maxclients"),
            facts=facts[0].payload if facts else {},
        )


async def _supervise(config: Config) -> int:
    log = logs.get_logger("supervisor")
    try:
        failure = await Supervisor(config).run()
    except (PoolError, OSError) as error:
        failure = StartFailure(str(error), EXIT_FAILURE)
    if failure is None:
        log.notice("stopped; bye")
        return 0
    if failure.status == EXIT_USAGE:
        raise ConfigError(failure.text)
    log.warning("cannot start", reason=failure.text)
    sys.stderr.write(f"kvcd: {failure.text}\n")
    return failure.status


def run(config: Config) -> int:
    """Serve with several workers until SIGTERM or SIGINT; the exit status. Raises ConfigError for a configuration that cannot work."""
    return uvloop.run(_supervise(config))
