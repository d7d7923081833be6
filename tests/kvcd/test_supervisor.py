"""Supervisor: starting, restarting and stopping workers, ports that are taken, deaths of every process there is."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from kvcd import logs, place_keeper
from kvcd.channel_link import Link
from kvcd.config import Config
from kvcd.directive import ConfigError
from kvcd.listeners import Use, held_sockets, service_sockets
from kvcd.place_keeper import PlaceKeeper, StartFailure
from kvcd.worker_process import WorkerProcess, how_it_ended
from tests.kvcd.worker_servers import WorkerServer, fields_of, is_running, start, worker_pids
from tests.servers import ServerProcess, Servers, free_port
from tests.wire import encode

DEADLINE_S = 30
MIB = 1024 * 1024


def until_gone(pids: list[int]) -> None:
    """Wait until none of the processes runs."""
    end_s = time.monotonic() + DEADLINE_S
    while any(map(is_running, pids)):
        assert time.monotonic() < end_s, f"still there: {[pid for pid in pids if is_running(pid)]}"


def until_logged(server: ServerProcess, *words: str) -> None:
    """Wait until one line of the log has all the words."""
    end_s = time.monotonic() + DEADLINE_S
    while not any(all(word in line for word in words) for line in server.log.splitlines()):
        assert time.monotonic() < end_s, f"never logged {words}:\n{server.log}"


# ------------------------------------------------------------------------- starting


def test_a_taken_port_is_named(servers: Servers, kvcd_server: ServerProcess, worker_server: WorkerServer) -> None:
    """Whoever has it: one process, or the workers of another service; and for one process that comes second."""
    for port, workers in ((kvcd_server.port, "2"), (worker_server.process.port, "2"), (worker_server.process.port, "1")):
        server = servers.launch_kvcd("--port", str(port), "--pool-size", "64mb", "--workers", workers)
        assert server.wait() == 2
        assert f"port {port} on 127.0.0.1 is taken: another server listens there" in server.log
        assert "Traceback" not in server.log
    assert worker_server.process.call("PING") == b"PONG"


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["--workers", "0"], "--workers 0: argument must be between 1 and 256 inclusive", 2),
        (["--workers", "2", "--pool", "file:/nowhere/at/all"], "/nowhere/at/all", 1),
        (["--workers", "2", "--pool", "cloud:"], "cloud:", 1),
        (["--workers", "2", "--pool-size", "8000000000gb"], "cannot be had", 1),
        (["--workers", "2", "--unixsocket", "/nowhere/socket"], "/nowhere/socket", 2),
        (["--workers", "2", "--admin-port", "{taken}"], "is taken", 2),
    ],
)
def test_what_cannot_be_started_is_said_once(
    servers: Servers, kvcd_server: ServerProcess, words: list[str], said: str, status: int
) -> None:
    """As by one process: one line on the standard error output, no traceback, the status of one process."""
    flags = ["--port", str(free_port()), *(() if "--pool-size" in words else ("--pool-size", "64mb"))]
    server = servers.launch_kvcd(*flags, *(word.replace("{taken}", str(kvcd_server.port)) for word in words))
    assert server.wait() == status
    assert said in server.log
    assert len([line for line in server.log.splitlines() if line.startswith("kvcd") and "--help" not in line]) == 1
    assert "Traceback" not in server.log


def test_nothing_to_listen_on(servers: Servers) -> None:
    """As with one process."""
    server = servers.launch_kvcd("--port", "0", "--workers", "2")
    assert server.wait() == 2
    assert "nothing to listen on" in server.log


def test_manners_of_a_service(servers: Servers, tmp_path: Path) -> None:
    """Pid file and systemd hear of the supervisor, once; the Unix socket is all workers' and goes with the last; lines name workers."""
    pid_file, unix, notify_path = tmp_path / "pid", f"{servers.folder}/many.sock", f"{servers.folder}/notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(notify_path)
        notify.settimeout(DEADLINE_S)
        os.environ["NOTIFY_SOCKET"] = notify_path
        try:
            flags: dict[str, Any] = {"pidfile": pid_file, "unixsocket": unix, "unixsocketperm": "700", "supervised": "systemd"}
            service = start(servers, loglevel="verbose", **flags)
        finally:
            del os.environ["NOTIFY_SOCKET"]
        server = service.process
        assert notify.recv(100) == b"READY=1"
        assert pid_file.read_text() == f"{server.pid}\n"
        assert os.stat(unix).st_mode & 0o777 == 0o700
        pids = worker_pids(server)
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGTERM)
        service.wait_for_other(0, pids[0])
        assert os.path.exists(unix)
        with server.connect() as wire:
            assert fields_of(wire)["process_id"] == str(server.pid)
        assert server.stop() == 0
        assert notify.recv(100) == b"STOPPING=1"
    assert not os.path.exists(unix)
    assert not pid_file.exists()
    assert server.log.count("Ready to accept connections") == 1
    assert '"exit_status":0' in server.log
    assert '"worker":1' in server.log
    until_gone(pids)


# --------------------------------------------------------------------------- deaths


def test_all_workers_die_and_the_keys_stay(servers: Servers) -> None:
    """The supervisor has the memory: whoever comes next finds what was written."""
    service = start(servers)
    with service.process as server:
        server.call("MSET", "a", "1", "b", bytes(3 * MIB))
        for _ in range(2):
            pids = worker_pids(server)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for worker, pid in enumerate(pids):
                service.wait_for_other(worker, pid)
            assert server.call("MGET", "a", "b") == [b"1", bytes(3 * MIB)]
        until_logged(server, "another takes its place", '"signal":"SIGKILL"', '"worker":1')


def test_a_file_pool_outlives_the_service(servers: Servers, tmp_path: Path) -> None:
    """Stopped in order or killed altogether; another number of workers takes it up again, and another service shares it meanwhile."""
    flags: dict[str, Any] = {"pool": f"file:{tmp_path / 'kvcd.pool'}"}
    with start(servers, **flags).process as service, servers.kvcd(**flags) as beside:
        assert service.call("SET", "a", "1") == b"OK"
        assert beside.call("GET", "a") == b"1"
        assert beside.call("SET", "b", bytes(MIB)) == b"OK"
    service = start(servers, workers=3, **flags).process
    service.may_be_killed = True  # type: ignore[attr-defined]
    assert service.call("MGET", "a", "b") == [b"1", bytes(MIB)]
    pids = worker_pids(service)
    assert len(pids) == 3
    for pid in (service.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    until_gone(pids)
    service.wait()
    with servers.kvcd(**flags) as server:
        assert server.call("MGET", "a", "b") == [b"1", bytes(MIB)]


def test_the_supervisor_dies_and_leaves_nothing(servers: Servers) -> None:
    """Its workers stop in order by themselves; port and admin port are free."""
    service = start(servers)
    server = service.process
    server.may_be_killed = True  # type: ignore[attr-defined]
    pids = worker_pids(server)
    with server.connect() as wire:
        wire.call("PING")
        os.kill(server.pid, signal.SIGKILL)
        until_gone(pids)
        assert wire.rest() == b""
    for port in (server.port, service.admin_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            probe.listen()
    server.wait()
    assert "the supervisor is gone: this worker stops" in server.log


def test_the_port_is_held_while_nobody_listens(servers: Servers) -> None:
    """With all workers stopped nobody else can take it."""
    with start(servers).process as server:
        pids = worker_pids(server)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert is_taken(server.port)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def is_taken(port: int) -> bool:
    """Whether another server could not bind there."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False


def test_a_held_port_is_for_workers_alone() -> None:
    """Nobody else gets it while no worker listens, and any number of them may; it is not to be had while somebody listens."""
    config = Config.load(["--port", str(free_port()), "--bind", "127.0.0.1"], environment={})
    with contextlib.ExitStack() as opened:
        (held,) = held_sockets(config)
        opened.enter_context(held)
        assert is_taken(config.number("port"))
        for _ in range(2):
            (sock,) = service_sockets(config, Use.SHARED)
            opened.enter_context(sock).listen()
        with socket.create_connection(("127.0.0.1", config.number("port"))):
            pass
        for refused in (held_sockets, service_sockets):
            with pytest.raises(ConfigError, match="is taken"):
                refused(config)
    assert not is_taken(config.number("port"))


# ----------------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_replies_finish(servers: Servers, number: signal.Signals) -> None:
    """On all workers at once; the status is 0."""
    service = start(servers, pool_size="128mb", stop_deadline_ms=20_000)
    with service.process as server:
        data = os.urandom(24 * MIB)
        assert server.call("SET", "large", data) == b"OK"
        with service.connect_to(0, receive_buffer=64 * 1024) as slow, service.connect_to(1) as idle:
            slow.send(encode("GET", "large") + encode("PING"))
            assert slow.reader.readline() == b"$%d\r\n" % len(data)
            os.kill(server.pid, number)
            assert idle.rest() == b""
            assert slow.bulk(len(data)) == data
            assert slow.rest() == b"+PONG\r\n"
        assert server.wait() == 0
        assert "stopped; bye" in server.log
        assert "killing" not in server.log
        assert "Traceback" not in server.log


def test_a_worker_that_does_not_stop_is_killed(servers: Servers) -> None:
    """After `stop-deadline-ms`, with a line in the log; the others stop in order before that."""
    with start(servers, stop_deadline_ms=200).process as server:
        pids = worker_pids(server)
        os.kill(pids[1], signal.SIGSTOP)
        began_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began_s < 10
        until_logged(server, "killing a worker", "it did not stop in time", '"worker":1')
        assert server.log.count("killing a worker") == 1
    until_gone(pids)


# -------------------------------------------------------- one place, without processes


@pytest.fixture
def _kvcds_log() -> None:
    logs.configure(Config())


class FakeWorker:
    """A worker process that ends when the test says so."""

    def __init__(self) -> None:
        self.pid = 4711
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.signals: list[signal.Signals] = []

    async def wait(self) -> int:
        return await self.ended

    def send_signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if not self.ended.done() and number == signal.SIGKILL:
            self.ended.set_result(-9)


class FakeLink:
    """A link whose last frame was read long ago."""

    async def wait_until_lost(self, deadline_s: float) -> None:
        return


class Nursery:
    """Hands out fake workers, and writes down how long the keeper meant to wait between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, lives: int, serve: bool) -> None:
        self.started: list[FakeWorker] = []
        self.pauses: list[float] = []
        self.lives, self.serve = lives, serve
        self.keeper = PlaceKeeper(3, starter=self._start, on_end=lambda _keeper: None)
        monkeypatch.setattr(self.keeper, "_pause", self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def _start(self, place: int) -> tuple[WorkerProcess, Link]:
        assert place == 3
        worker = FakeWorker()
        self.started.append(worker)
        if len(self.started) <= self.lives:
            self.keeper.is_ready = self.serve
            worker.ended.set_result(-11)
        else:
            self.keeper.stop()
            worker.ended.set_result(0)
        return worker, FakeLink()  # type: ignore[return-value]


@pytest.mark.usefixtures("_kvcds_log")
async def test_pauses_grow_while_a_worker_never_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubling up to ten seconds; the reason of the last end is kept."""
    nursery = Nursery(monkeypatch, lives=9, serve=False)
    await nursery.keeper.keep()
    assert nursery.pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert nursery.keeper.restarts == 9
    assert nursery.started[-1].signals == [signal.SIGTERM]


@pytest.mark.usefixtures("_kvcds_log")
async def test_a_worker_that_served_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more often than every tenth of a second."""
    nursery = Nursery(monkeypatch, lives=3, serve=True)
    await nursery.keeper.keep()
    assert len(nursery.pauses) == 3
    assert all(0.05 < pause <= place_keeper.LEAST_BETWEEN_STARTS_S for pause in nursery.pauses)


@pytest.mark.usefixtures("_kvcds_log")
async def test_a_program_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for a process, say."""
    failures: list[StartFailure | None] = []
    keeper: PlaceKeeper

    async def refuse(place: int) -> tuple[WorkerProcess, Link]:
        raise OSError("no memory")

    def ended(ending: PlaceKeeper) -> None:
        failures.append(ending.failure)
        if len(failures) == 3:
            ending.stop()

    keeper = PlaceKeeper(0, starter=refuse, on_end=ended)
    monkeypatch.setattr(place_keeper, "FIRST_PAUSE_S", 0.001)
    await keeper.keep()
    assert failures == [StartFailure("a worker cannot be started: no memory", 1)] * 3


@pytest.mark.usefixtures("_kvcds_log")
@pytest.mark.parametrize("is_closing", [False, True])
async def test_who_closes_its_pool_gets_more_time(is_closing: bool) -> None:
    """A file pool has to reach its disk; a worker that says nothing is killed at the first deadline."""
    worker = FakeWorker()

    async def begin(place: int) -> tuple[WorkerProcess, Link]:
        return worker, FakeLink()  # type: ignore[return-value]

    keeper = PlaceKeeper(0, starter=begin, on_end=lambda _keeper: None)
    task = asyncio.create_task(keeper.keep())
    while keeper.pid is None:  # noqa: ASYNC110  it starts within a few turns of the loop
        await asyncio.sleep(0)
    keeper.stop()
    keeper.is_closing = is_closing
    stopping = asyncio.create_task(keeper.wait_stopped(0.05, DEADLINE_S))
    if is_closing:
        await asyncio.wait([stopping], timeout=0.2)
        assert worker.signals == [signal.SIGTERM]
        worker.ended.set_result(0)
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(task, stopping)
    assert worker.signals == [signal.SIGTERM] + ([] if is_closing else [signal.SIGKILL])


def test_how_it_ended() -> None:
    """Statuses as a person reads them."""
    assert how_it_ended(0) == {"exit_status": 0}
    assert how_it_ended(3) == {"exit_status": 3}
    assert how_it_ended(-9) == {"signal": "SIGKILL"}
    assert how_it_ended(-11) == {"signal": "SIGSEGV"}
    assert how_it_ended(-35) == {"signal": "35"}
