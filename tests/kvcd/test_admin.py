"""Admin port: what each path answers, what is no request, slow and many clients, and the metrics of real services."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvcd import admin, logs
from kvcd.admin import AdminServer
from kvcd.config import Config
from kvcd.directive import ConfigError
from kvcd.metrics import exposition
from kvcd.service_view import ServiceSample, WorkerState
from kvcd.statistics import CommandCount
from kvcd.totals import Tally
from tests.kvcd.worker_servers import WorkerServer, worker_pids
from tests.servers import ServerProcess, Servers, free_port

DEADLINE_S = 30


@pytest.fixture(autouse=True)
def _kvcds_log() -> None:
    logs.configure(Config())


class View:
    """A service in any state."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def unready(self) -> list[str]:
        return self.reasons

    async def sample(self) -> ServiceSample:
        totals = Tally(
            counters={"hits": 7, "calls:get": 3, "rounds": 4},
            baseline={"hits": 5},
            commands={"info": CommandCount(2, 1.5e6, 1, 1)},
            errors={"ERR": 2},
            cpu_s={"user": 1.5, "sys": 0.5},
            clients=9,
        )
        facts = {"memory": {"pool_bytes": 64, "index_used": 2}, "databases": {"3": [5, 1]}}
        return ServiceSample(totals, [WorkerState(0, True, 0), WorkerState(1, False, 4)], 1000, "ab", 100, facts)


@asynccontextmanager
async def serving(view: View | None = None) -> AsyncIterator[int]:
    """Serve a view; yields the port."""
    port = free_port()
    server = AdminServer(Config.load(["--admin-port", str(port)], environment={}))
    if view is not None:
        server.show(view)
    await server.open()
    try:
        yield port
    finally:
        await server.close()


async def ask(port: int, request: bytes, *, half_close: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Send bytes; return status, headers and body."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        if half_close:
            writer.write_eof()
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
    if not answer:
        return 0, {}, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status.startswith("HTTP/1.1 ")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def test_each_path() -> None:
    """Health, readiness with its reasons, metrics; HEAD has the same head and no body."""
    view = View()
    async with serving(view) as port:
        assert (await ask(port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"))[::2] == (200, b'{"status":"ok"}\n')
        status, headers, body = await ask(port, b"GET /readyz?verbose HTTP/1.0\r\n\r\n")
        assert (status, json.loads(body)) == (200, {"ready": True, "reasons": []})
        assert headers["Content-Type"] == "application/json"
        assert int(headers["Content-Length"]) == len(body)
        view.reasons = ["worker 1 does not serve yet"]
        status, _, body = await ask(port, b"GET /readyz HTTP/1.1\r\n\r\n")
        assert (status, json.loads(body)) == (503, {"ready": False, "reasons": ["worker 1 does not serve yet"]})
        status, headers, body = await ask(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 1000
        status, headers, body = await ask(port, b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n")
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")


async def test_before_the_pool_is_open() -> None:
    """Alive, not ready, and metrics of nothing."""
    async with serving() as port:
        assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200
        assert (await ask(port, b"GET /readyz HTTP/1.1\r\n\r\n"))[0] == 503
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /healthz HTTP/1.1\r\n\r\n", 405),
        (b"PING\r\n", 400),
        (b"*1\r\n$4\r\nPING\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n: empty\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nA: " + b"a" * 17000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n" + b"A: aaaaaaaaaaaaaaaaaaaa\r\n" * 700 + b"\r\n", 431),
        (b"a" * 100_000, 431),
    ],
)
async def test_what_is_refused(request_bytes: bytes, status: int) -> None:
    """With the fitting status; 405 says what is allowed."""
    async with serving(View()) as port:
        found, headers, _ = await ask(port, request_bytes)
        # What the server did not read may make the kernel answer with a reset before the answer is seen.
        assert found == status or (found == 0 and status in (405, 431))
        assert ("Allow" in headers) == (found == 405)
        assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200


async def test_who_leaves_early_gets_nothing() -> None:
    """A half request and the end of the stream."""
    async with serving(View()) as port:
        assert (await ask(port, b"GET /heal", half_close=True))[0] == 0
        assert (await ask(port, b"", half_close=True))[0] == 0


async def test_slow_and_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing is closed after the deadline; beyond the limit connections are closed at once, and others go on afterwards."""
    monkeypatch.setattr(admin, "EXCHANGE_DEADLINE_S", 0.3)
    monkeypatch.setattr(admin, "CONNECTIONS_LIMIT", 3)
    async with serving(View()) as port:
        began_s = time.monotonic()
        idle = [asyncio.create_task(ask(port, b"GET /healthz HTTP/1.1\r\n")) for _ in range(8)]
        assert {(await task)[0] for task in idle} == {0}
        assert 0.2 < time.monotonic() - began_s < DEADLINE_S
        assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200


async def test_a_taken_port_is_named() -> None:
    """As for the service's own port; what is only an image's default must not keep a stack from starting."""
    async with serving(View()) as port:
        second = AdminServer(Config.load(["--admin-port", str(port)], environment={}))
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is taken"):
            await second.open()
        environment = {"KVCD_DEFAULT_ADMIN_PORT": str(port)}
        third = AdminServer(Config.load([], environment=environment))
        await third.open()
        await third.close()


def values(text: str) -> dict[str, float]:
    """Return the samples of an exposition, by name with labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_metrics_are_what_prometheus_reads() -> None:
    """Names with units, a help text each, counters that a reset does not touch."""
    body, content_type = exposition(await View().sample(), "")
    assert content_type.startswith("text/plain")
    found = values(body.decode())
    assert found["kvcd_keyspace_hits_total"] == 7
    assert found["kvcd_commands_total{command=get}"] == 3
    assert found["kvcd_commands_total{command=info}"] == 2
    assert found["kvcd_command_seconds_total{command=info}"] == 1.5
    assert found["kvcd_store_events_total{event=rounds}"] == 4
    assert found["kvcd_worker_up{worker=1}"] == 0
    assert found["kvcd_worker_restarts_total{worker=1}"] == 4
    assert found["kvcd_pool_size_bytes"] == 64
    assert found["kvcd_database_keys{db=3}"] == 5
    assert found["kvcd_start_time_seconds"] == 1
    assert all(name.startswith("kvcd_") for name in found)


# ------------------------------------------------------------------- real services


def fetch(port: int, path: str) -> tuple[int, str]:
    """GET over HTTP by somebody else's client."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until_ready(port: int, *, ready: bool) -> list[str]:
    """Wait until /readyz says so; return its reasons."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        status, body = fetch(port, "/readyz")
        if (status == 200) == ready:
            reasons: list[str] = json.loads(body)["reasons"]
            return reasons
    raise AssertionError(f"/readyz never said {ready}")


def test_one_process_shows_itself(servers: Servers) -> None:
    """With one worker the process has the port itself; off by default."""
    port = free_port()
    with servers.kvcd(admin_port=port) as server:
        server.call("SET", "k", "v")
        server.call("GET", "k")
        assert until_ready(port, ready=True) == []
        found = values(fetch(port, "/metrics")[1])
        assert found["kvcd_commands_total{command=set}"] == 1
        assert found["kvcd_worker_up{worker=0}"] == 1
        assert found["kvcd_database_keys{db=0}"] == 1
        assert found["kvcd_pool_size_bytes"] == 64 * 1024**2


def test_a_service_of_two_shows_totals_and_who_is_missing(worker_server: WorkerServer) -> None:
    """Sums over both; while one is stopped it is named, and the others' figures still come; a killed one is counted as restarted."""
    server, port = worker_server.process, worker_server.admin_port
    before = values(fetch(port, "/metrics")[1]).get("kvcd_commands_total{command=echo}", 0.0)
    for worker in (0, 1):
        with worker_server.connect_to(worker) as wire:
            for _ in range(5):
                assert wire.call("ECHO", "x") == b"x"
    assert values(fetch(port, "/metrics")[1])["kvcd_commands_total{command=echo}"] == before + 10
    stopped = worker_pids(server)[1]
    os.kill(stopped, signal.SIGSTOP)
    try:
        reasons = until_ready(port, ready=False)
        assert reasons[0].startswith("worker 1 was not heard of for")
        found = values(fetch(port, "/metrics")[1])
        assert found["kvcd_commands_total{command=echo}"] == before + 10
        assert found["kvcd_pool_size_bytes"] > 0
        assert fetch(port, "/healthz")[0] == 200
    finally:
        os.kill(stopped, signal.SIGCONT)
    until_ready(port, ready=True)
    restarts = values(fetch(port, "/metrics")[1])["kvcd_worker_restarts_total{worker=1}"]
    os.kill(stopped, signal.SIGKILL)
    until_ready(port, ready=False)
    until_ready(port, ready=True)
    found = values(fetch(port, "/metrics")[1])
    assert found["kvcd_worker_restarts_total{worker=1}"] == restarts + 1
    assert found["kvcd_commands_total{command=echo}"] == before + 10


def test_the_port_is_off_by_default(kvcd_server: ServerProcess) -> None:
    """Nobody asked for it."""
    with kvcd_server.connect() as wire:
        assert wire.call("CONFIG", "GET", "admin-port") == [b"admin-port", b"0"]
