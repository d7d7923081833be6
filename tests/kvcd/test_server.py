"""Server: starting and stopping in order, its sockets, its limits on clients, protected mode, a pool that outlives it."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.servers import ROOT, ServerProcess, Servers, free_port
from tests.wire import ReplyError, Wire, encode

DEADLINE_S = 30
MIB = 1024 * 1024
SIOCGIFADDR = 0x8915


def own_address() -> str | None:
    """Return an address of this machine that is not a loopback one, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(sock, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue
            address = socket.inet_ntoa(found[20:24])
            if not address.startswith("127."):
                return address
    return None


# ------------------------------------------------------------ start and stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_replies_finish(servers: Servers, number: signal.Signals) -> None:
    """A client that reads slowly still gets all of its reply; new ones are not accepted; the status is 0."""
    with servers.kvcd(pool_size="128mb", stop_deadline_ms=20_000) as server:
        data = os.urandom(24 * MIB)
        assert server.call("SET", "large", data) == b"OK"
        with server.connect(timeout_s=DEADLINE_S, receive_buffer=64 * 1024) as slow:
            slow.send(encode("GET", "large") + encode("PING"))
            assert slow.reader.readline() == b"$%d\r\n" % len(data)
            server.process.send_signal(number)
            while "stopping" not in server.log:
                assert server.is_running()
            _until_refused(server)
            assert slow.bulk(len(data)) == data
            assert slow.rest() == b"+PONG\r\n"
        assert server.wait() == 0
        assert "stopped; bye" in server.log
        assert "Traceback" not in server.log


def _until_refused(server: ServerProcess) -> None:
    """Connect until nobody listens any more; what was waiting to be accepted is not served."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        try:
            server.connect().close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
    raise AssertionError("still accepting")


def test_the_deadline_ends_a_client_that_reads_nothing(servers: Servers) -> None:
    """The server does not wait for it longer than `stop-deadline-ms`."""
    with servers.kvcd(pool_size="128mb", stop_deadline_ms=300) as server:
        assert server.call("SET", "large", bytes(24 * MIB)) == b"OK"
        with server.connect(receive_buffer=64 * 1024) as slow, server.connect() as half:
            slow.send(encode("GET", "large"))
            slow.reader.readline()
            half.send(encode("SET", "k", bytes(MIB))[: MIB // 2])
            began_s = time.monotonic()
            assert server.stop(deadline_s=10) == 0
            assert time.monotonic() - began_s < 5


def test_idle_clients_do_not_hold_up_the_end(servers: Servers) -> None:
    """With nothing running it ends at once, whatever the deadline."""
    with servers.kvcd(stop_deadline_ms=60_000) as server, server.connect() as idle:
        assert idle.call("PING") == b"PONG"
        assert server.stop(deadline_s=10) == 0
        assert idle.rest() == b""


@pytest.mark.parametrize("words", [("WAIT", 1, 0), ("SET", "a", 1)])
def test_clients_that_are_held_back_do_not_hold_up_the_end(servers: Servers, words: tuple[object, ...]) -> None:
    """Nothing runs for who waits for replicas, or for the end of a pause."""
    with servers.kvcd(stop_deadline_ms=60_000) as server, server.connect() as held:
        assert server.call("CLIENT", "PAUSE", 100_000, "WRITE") == b"OK"
        held.send(encode(*words))
        while server.info()["blocked_clients"] != "1":
            assert server.is_running()
        assert server.stop(deadline_s=10) == 0
        assert held.rest() == b""


def test_a_taken_port_is_named(servers: Servers, kvcd_server: ServerProcess) -> None:
    """And the status is an error's."""
    server = servers.launch_kvcd("--port", str(kvcd_server.port), "--pool-size", "64mb")
    assert server.wait() not in (0, -signal.SIGKILL)
    assert f"port {kvcd_server.port} on 127.0.0.1 is taken" in server.log
    assert "Traceback" not in server.log
    assert kvcd_server.call("PING") == b"PONG"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "0"], "nothing to listen on"),
        (["--bind", "no.such.host.invalid", "--port", "{port}"], "bind no.such.host.invalid"),
        (["--bind", "-192.0.2.77", "--port", "{port}"], "none of the addresses"),
        (["--port", "{port}", "--pool", "file:/nowhere/at/all"], "/nowhere/at/all"),
        (["--port", "{port}", "--unixsocket", "/nowhere/socket"], "/nowhere/socket"),
        (["--port", "{port}", "--pool", "cloud:"], "cloud:"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_line(servers: Servers, words: list[str], said: str) -> None:
    """No traceback, and a status that a supervisor sees."""
    server = servers.launch_kvcd(*(word.replace("{port}", str(free_port())) for word in words), "--pool-size", "64mb")
    assert server.wait() > 0
    assert said in server.log
    assert "Traceback" not in server.log


def test_a_file_pool_keeps_its_keys_over_a_restart(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> None:
    """After an orderly end and after a kill, large and small values and their expiries; a second server shares it meanwhile."""
    path = tmp_path_factory.mktemp("pool") / "kvcd.pool"
    flags: dict[str, Any] = {"pool": f"file:{path}", "pool_size": "64mb"}
    large = os.urandom(3 * MIB + 5)
    with servers.kvcd(**flags) as server:
        with server.connect() as wire:
            wire.send(encode("SET", "small", "s") + encode("SET", "large", large, "EX", 1000))
            wire.send(encode("SELECT", 3) + encode("SET", "third", "3"))
            assert wire.replies(4) == [b"OK"] * 4
        with servers.kvcd(**flags) as second:
            assert second.call("MGET", "small", "large") == [b"s", large]
        assert server.stop() == 0
    server = servers.kvcd(**flags)
    with server.connect() as wire:
        assert wire.call("MGET", "small", "large") == [b"s", large]
        assert wire.call("TTL", "large") in range(900, 1001)
        assert wire.call("SET", "small", "again") == b"OK"
        wire.send(encode("SET", "half", large)[: MIB])
    server.kill()
    with servers.kvcd(**flags) as server, server.connect() as wire:
        assert wire.call("MGET", "small", "large", "half") == [b"again", large, None]
        wire.send(encode("SELECT", 3) + encode("GET", "third") + encode("DBSIZE"))
        assert wire.replies(3) == [b"OK", b"3", 1]


# ----------------------------------------------------------------- sockets


def test_a_unix_socket_with_its_mode(servers: Servers) -> None:
    """With and without TCP beside it; the file goes with the server, and a stale one is replaced."""
    path = f"{servers.folder}/kvcd.sock"
    for _ in range(2):
        with servers.kvcd(unixsocket=path, unixsocketperm="700") as server:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
            with Wire(path) as wire:
                large = os.urandom(5 * MIB)
                sender = wire.send_in_background(encode("SET", "k", large) + encode("GET", "k"))
                assert wire.replies(2) == [b"OK", large]
                sender.join()
                line = wire.call("CLIENT", "INFO")
                assert isinstance(line, bytes)
                assert f"addr={path}:0".encode() in line
            assert server.call("EXISTS", "k") == 1
            assert server.stop() == 0
        assert not os.path.exists(path)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)


def test_protected_mode_turns_away_who_comes_from_another_address(servers: Servers) -> None:
    """Without a password only loopback and unix sockets are served; with one, or without the mode, everyone is."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    path = f"{servers.folder}/protected.sock"
    with servers.kvcd(bind="0.0.0.0", unixsocket=path) as server:
        outside = (address, server.port)
        with Wire(outside) as wire:
            said = wire.rest()
            assert said.startswith(b"-DENIED ")
            assert said.count(b"\r\n") == 1
        assert server.call("PING") == b"PONG"
        with Wire(path) as wire:
            assert wire.call("PING") == b"PONG"
        assert server.info()["rejected_connections"] == "1"
        server.call("CONFIG", "SET", "protected-mode", "no")
        with Wire(outside) as wire:
            assert wire.call("PING") == b"PONG"
        server.call("CONFIG", "SET", "protected-mode", "yes")
        with Wire(outside) as wire:
            assert wire.rest().startswith(b"-DENIED ")
        server.call("CONFIG", "SET", "requirepass", "sesame")
        with Wire(outside) as wire:
            assert str(wire.call("PING")).startswith("NOAUTH")
            assert wire.call("AUTH", "sesame") == b"OK"


# ------------------------------------------------------------------ limits


def test_one_client_too_many_is_told_so(servers: Servers) -> None:
    """And may come when another has gone."""
    with servers.kvcd(maxclients=5) as server:
        wires = [server.connect() for _ in range(5)]
        for wire in wires:
            assert wire.call("PING") == b"PONG"
        with server.connect() as late:
            assert late.rest() == b"-ERR max number of clients reached\r\n"
        wires.pop().close()
        _until_served(server)
        for wire in wires:
            assert wire.call("PING") == b"PONG"
            wire.close()
        _until_served(server)
        assert int(server.info()["rejected_connections"]) >= 1
        assert server.call("CONFIG", "SET", "maxclients", "1") == b"OK"


def _until_served(server: ServerProcess) -> None:
    """Connect until the server has noticed that another client went."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        with server.connect() as wire:
            try:
                if wire.call("PING") == b"PONG":
                    return
            except ConnectionError:
                continue
    raise AssertionError("no place came free")


def test_more_clients_than_descriptors(servers: Servers) -> None:
    """With a low `ulimit -n` the last ones are told, and nothing spins or dies."""
    with servers.kvcd(descriptors=150) as server:
        assert "fewer clients than maxclients" in server.log
        wires = [server.connect() for _ in range(86)]
        try:
            assert [wire.call("PING") for wire in wires] == [b"PONG"] * 86
            for _ in range(100):
                with server.connect() as late:
                    assert late.rest() == b"-ERR max number of clients reached\r\n"
            assert wires[0].call("SET", "k", bytes(MIB)) == b"OK"
        finally:
            for wire in wires:
                wire.close()


def test_idle_clients_are_closed_and_busy_ones_are_not(servers: Servers) -> None:
    """`timeout` counts from the last byte in either direction."""
    with servers.kvcd(timeout=1, pool_size="128mb") as server:
        data = os.urandom(16 * MIB)
        with server.connect() as writer:
            assert writer.call("SET", "large", data) == b"OK"
        with server.connect(receive_buffer=64 * 1024) as reading, server.connect() as idle, server.connect() as active:
            reading.send(encode("GET", "large"))
            assert reading.reader.readline() == b"$%d\r\n" % len(data)
            received = bytearray()
            began_s = time.monotonic()
            while time.monotonic() - began_s < 2.5:
                received += reading.reader.read(64 * 1024) if len(received) < 10 * MIB else b""
                assert active.call("PING") == b"PONG"
                threading.Event().wait(0.02)  # the pace of a slow client
            assert idle.rest() == b""
            received += reading.reader.read(len(data) - len(received))
            assert bytes(received) == data


def test_settings_take_effect_at_once(servers: Servers) -> None:
    """CONFIG SET of the limits that the sessions use."""
    with servers.kvcd(maxmemory_policy="noeviction") as server, server.connect() as wire:
        assert wire.call("CONFIG", "SET", "proto-max-bulk-len", "1mb") == b"OK"
        with server.connect() as other:
            other.send(encode("SET", "k", bytes(MIB)) + b"*2\r\n$3\r\nGET\r\n$1048577\r\n")
            assert other.reply() == b"OK"
            assert b"invalid bulk length" in other.rest()
        assert wire.call("CONFIG", "SET", "maxmemory", "2mb") == b"OK"
        replies = [wire.call("SET", f"k{number}", bytes(300_000)) for number in range(20)]
        assert b"OK" in replies
        assert isinstance(replies[-1], ReplyError)
        assert wire.call("CONFIG", "SET", "maxmemory", "0") == b"OK"
        assert wire.call("SET", "k", bytes(300_000)) == b"OK"


def test_a_killed_test_run_leaves_no_server(servers: Servers) -> None:
    """The fixture's own promise: the server ends with the process that started it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.servers import Servers\n"
        "import os, signal\n"
        "server = Servers().kvcd()\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, timeout=DEADLINE_S, check=False)
    number = int(done.stdout)
    end_s = time.monotonic() + DEADLINE_S
    while os.path.exists(f"/proc/{number}") and b"State:\tZ" not in _status(number):
        assert time.monotonic() < end_s


def _status(number: int) -> bytes:
    try:
        with open(f"/proc/{number}/status", "rb") as file:
            return file.read()
    except OSError:
        return b"State:\tZ"


# -------------------------------------------------------------------- idle


@pytest.mark.long
def test_ten_thousand_idle_connections(servers: Servers) -> None:
    """Each costs little: what the process grows by is under 6 KiB a connection, in all under 100 MB."""
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 200:
        pytest.skip(f"the hard limit of open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 200, hard))
    path = f"{servers.folder}/idle.sock"
    wires: list[socket.socket] = []
    try:
        with servers.kvcd(maxclients=count + 10, descriptors=count + 200, unixsocket=path) as server:
            before = server.private_bytes()
            for _ in range(count):
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(DEADLINE_S)
                sock.connect(path)
                wires.append(sock)
                sock.sendall(b"PING\r\n")
                assert sock.recv(100) == b"+PONG\r\n"
            grown = server.private_bytes() - before
            print(f"{grown / count:.0f} bytes a connection")
            assert grown < 100 * MIB
            assert grown / count < 6 * 1024
            for sock in wires:
                sock.close()
            assert server.call("PING") == b"PONG"
    finally:
        for sock in wires:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_small_database_comes_in_one_scan(kvcd_server: ServerProcess) -> None:
    """However large the index is: clients rely on it."""
    assert kvcd_server.call("SCAN", 0) == [b"0", []]
    kvcd_server.call("MSET", "a", 1, "b", 2, "c", 3)
    cursor, keys = kvcd_server.call("SCAN", 0)  # type: ignore[misc]
    assert cursor == b"0"
    assert sorted(keys) == [b"a", b"b", b"c"]
