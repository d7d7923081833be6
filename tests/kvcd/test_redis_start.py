"""Started as harnesses start redis-server: its files, its log lines, sockets, renamed commands, protected mode."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from kvcd.access_file import load_users
from kvcd.command_names import CommandNames
from kvcd.config import Config, ConfigError
from tests.differential import RawConnection
from tests.kvcd.worker_servers import start as start_workers
from tests.servers import ServerProcess, Servers, free_port

DEADLINE_S = 20
PROGRAM = [sys.executable, "-m", "kvcd"]
DEBIAN_FILE = Path("/etc/redis/redis.conf")

# In the manner of the file that redis's own test suite generates.
SUITE_FILE = """\
# Redis configuration for testing.

always-show-logo yes
notify-keyspace-events KEA
daemonize no
pidfile /var/run/redis.pid
port {port}
timeout 0
loglevel verbose
logfile ''
databases 16
latency-monitor-threshold 1
repl-diskless-sync-delay 0

save 900 1
save 300 10
save 60000 10000

rdbcompression yes
dbfilename dump.rdb
dir ./

slave-serve-stale-data yes
appendonly no
appendfsync everysec
no-appendfsync-on-rewrite no
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
activerehashing yes

enable-protected-configs yes
enable-debug-command yes
enable-module-command yes

propagation-error-behavior panic

# Make sure shutdown doesn't fail if there's an initial AOFRW
shutdown-on-sigterm force
save ''
pidfile {folder}/redis.pid
unixsocket {folder}/socket
"""


def launch(servers: Servers, *words: str) -> ServerProcess:
    """Start `kvcd WORDS`, as somebody would who takes it for redis-server."""
    server = ServerProcess([*PROGRAM, *words], port=0, folder=servers.folder)
    servers.started.append(server)
    return server


def test_the_file_of_redis_own_suite_starts_a_server_that_says_what_the_suite_waits_for(servers: Servers, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "redis.conf"
    file.write_text(SUITE_FILE.format(port=port, folder=servers.folder))
    server = launch(servers, str(file), "--pool-size", "64mb")
    assert server.wait_until_ready(), server.log
    server.port = port
    assert re.search(f" PID: {server.pid}.*Server initialized.*Ready to accept connections", server.log, re.DOTALL)
    assert re.search(rf"(?m)^{server.pid}:M \d\d [A-Z][a-z]{{2}} 20\d\d \d\d:\d\d:\d\d\.\d{{3}} \* Ready to accept", server.log)
    assert Path(servers.folder, "redis.pid").read_text() == f"{server.pid}\n"
    assert server.call("CONFIG", "GET", "dir") == [b"dir", os.path.realpath(servers.folder).encode()]
    with redis.Redis(unix_socket_path=f"{servers.folder}/socket") as client:
        assert client.ping()
    assert server.stop() == 0
    assert not Path(servers.folder, "redis.pid").exists()
    assert not Path(servers.folder, "socket").exists()


@pytest.mark.skipif(not DEBIAN_FILE.exists(), reason="Debian's redis.conf is not installed")
def test_debians_own_file_is_taken_whole(servers: Servers, tmp_path: Path) -> None:
    """Every directive of it means something or is known to mean nothing; what follows the file beats it."""
    config = Config.load([str(DEBIAN_FILE)], environment={})
    assert config.number("port") == 6379
    port = free_port()
    words = ["--port", str(port), "--daemonize", "no", "--dir", str(tmp_path), "--logfile", "", "--pidfile", "own.pid", "--save", ""]
    server = launch(servers, str(DEBIAN_FILE), *words, "--pool-size", "64mb")
    assert server.wait_until_ready(), server.log
    server.port = port
    assert server.call("PING") == b"PONG"
    assert (tmp_path / "own.pid").exists()
    assert server.stop() == 0


def test_standard_input_holds_a_configuration_too() -> None:
    port = free_port()
    process = subprocess.Popen([*PROGRAM, "-", "--pool-size", "64mb"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"port {port}\nrequirepass hush\n")
        process.stdin.close()
        for line in process.stdout:
            if "Ready to accept" in line:
                break
        with redis.Redis(port=port, password="hush") as client:
            assert client.ping()
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert process.stdout is not None
        process.stdout.close()


def test_a_server_in_the_background_leaves_its_pid_and_its_log(tmp_path: Path) -> None:
    """`daemonize yes`, with file names that are meant in `dir`."""
    port = free_port()
    (tmp_path / "redis.conf").write_text(f"port {port}\ndaemonize yes\ndir {tmp_path}\npidfile the.pid\nlogfile the.log\npool-size 64mb\n")
    subprocess.run([*PROGRAM, str(tmp_path / "redis.conf")], timeout=DEADLINE_S, check=True)
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        try:
            with redis.Redis(port=port) as client:
                client.ping()
                break
        except redis.ConnectionError:
            continue
    pid = int((tmp_path / "the.pid").read_text())
    log = (tmp_path / "the.log").read_text()
    assert f" PID: {pid}" in log
    os.kill(pid, signal.SIGTERM)
    while time.monotonic() < end_s and (tmp_path / "the.pid").exists():
        pass
    assert not (tmp_path / "the.pid").exists()


def test_version_is_told_as_harnesses_read_it() -> None:
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert re.fullmatch(r"Redis server v=7\.2\.\d+ sha=\w+:\d malloc=\S+ bits=64 build=\S+\n", done.stdout)


def test_a_taken_port_is_said_on_standard_output(servers: Servers, kvcd_server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "redis.conf").write_text(f"port {kvcd_server.port}\npool-size 64mb\n")
    done = subprocess.run([*PROGRAM, str(tmp_path / "redis.conf")], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode != 0
    assert f"Failed listening on port {kvcd_server.port}" in done.stdout


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "redis.conf").write_text("port 7000\nprt 1\n")
    done = subprocess.run([*PROGRAM, str(tmp_path / "redis.conf")], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 2
    assert "redis.conf:2: there is no directive 'prt'" in done.stderr


# ---------------------------------------------------------------------- renamed commands


def test_commands_are_known_by_their_new_names_alone_as_in_redis(servers: Servers) -> None:
    """Renamed, removed, exchanged; with a fast lane and without; rules of users name them as before."""
    lines = (
        "rename-command GET fetch\nrename-command FLUSHALL ''\nrename-command SET old\nrename-command STRLEN SET\n"
        "rename-command CONFIG b840fc02d524045429941cc15f59e41cb7be6c52\nuser u on nopass ~* +get -strlen\n"
    )
    replies = []
    for name, command in (("kvcd", [*PROGRAM]), ("redis", ["redis-server"])):
        port = free_port()
        file = Path(servers.folder) / f"{name}.conf"
        file.write_text(f"port {port}\nsave ''\n{lines}" + ("pool-size 64mb\n" if name == "kvcd" else ""))
        server = ServerProcess([*command, str(file)], port=port, folder=servers.folder)
        servers.started.append(server)
        with server:
            assert server.wait_until_ready(), server.log
            connection = RawConnection(server.address)
            said = [
                "old k value", "GET k", "fetch k", "FETCH k", "set k", "SET k v", "strlen k", "FLUSHALL", "flushall x y", "mget k",
                "config",
                "COMMAND INFO get", "COMMAND INFO fetch", "COMMAND INFO flushall old", "COMMAND LIST FILTERBY PATTERN flushal*",
                "COMMAND LIST FILTERBY PATTERN strle*", "COMMAND LIST FILTERBY PATTERN fetch", "COMMAND DOCS flushall GET",
                "b840fc02d524045429941cc15f59e41cb7be6c52 GET port x", "b840fc02d524045429941cc15f59e41cb7be6c52", "ping", "AUTH u x",
                "fetch k", "set k", "old k v",
            ]  # fmt: skip
            found = [connection.exchange([tuple(word.encode() for word in line.split())])[0] for line in said]
            replies.append([reply.replace(b"%d" % port, b"PORT").partition(b"\r\nPORT")[0] for reply in found])
            large = RawConnection(server.address)
            assert large.exchange([(b"old", b"large", b"x" * 100_000), (b"set", b"large")]) == [b"+OK\r\n", b":100000\r\n"]
            large.close()
            connection.close()
    replies = [[re.sub(rb"\$\d+\r\nPORT", b"", reply) for reply in found] for found in replies]
    assert replies[0][:11] == replies[1][:11]
    assert replies[0][12:] == replies[1][12:]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([("nonsense", "x")], "No such command in rename-command"),
        ([("get", "set")], "Target command name already exists"),
        ([("get", "x"), ("set", "x")], "Target command name already exists"),
        ([("get", ""), ("get", "x")], "No such command in rename-command"),
        ([("config|get", "x")], "No such command"),
        ([("get",)], "wrong number of arguments"),
    ],
)
def test_wrong_renamings_are_refused(lines: list[tuple[str, ...]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CommandNames(lines)


def test_only_fast_names_cost_the_fast_lane() -> None:
    assert CommandNames([("get", "x")]).changes_fast_names
    assert not CommandNames([("config", "x"), ("hset", ""), ("debug", "b")]).changes_fast_names
    assert not CommandNames().changes_fast_names


# -------------------------------------------------------------------------------- sockets


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_has_its_mode_and_a_stale_one_is_replaced(servers: Servers, workers: int) -> None:
    path = Path(servers.folder) / f"unix{workers}"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with (
        servers.kvcd(unixsocket=str(path), unixsocketperm="700", port=0, workers=workers),
        redis.Redis(unix_socket_path=str(path)) as client,
    ):
        assert client.ping()
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert client.client_info()["addr"] == f"{path}:0"
    assert not path.exists()


def _outer_address() -> str:
    """This machine's address that is not a loopback one; skips the test without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback ones")
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback ones")
    return address


def test_protected_mode_says_what_redis_says(servers: Servers) -> None:
    """To those from elsewhere while the default user needs no password; it follows users and directives."""
    address = _outer_address()
    said = []
    for start in (servers.kvcd, servers.redis):
        with start(bind="*") as server, server.connect() as wire:

            def ask(port: int = server.port) -> bytes:
                with socket.create_connection((address, port), DEADLINE_S) as outer:
                    outer.sendall(b"PING\r\n")
                    return outer.recv(10_000)

            said.append(ask())
            assert ask().startswith(b"-DENIED Redis is running in protected mode")
            wire.call("ACL", "SETUSER", "default", ">secret")
            assert ask() == b"-NOAUTH Authentication required.\r\n"
            wire.call("ACL", "SETUSER", "default", "nopass")
            assert ask().startswith(b"-DENIED")
            wire.call("CONFIG", "SET", "protected-mode", "no")
            assert ask() == b"+PONG\r\n"
    assert said[0] == said[1]


def test_users_of_the_file_hold_for_every_worker(servers: Servers) -> None:
    service = start_workers(servers, user="alice on >pw ~a* +@read", rename_command="FLUSHALL gone")
    with service.connect_to(0) as first, service.connect_to(1) as second:
        for wire in (first, second):
            assert "unknown command 'FLUSHALL'" in str(wire.call("FLUSHALL"))
            assert wire.call("gone") == b"OK"
            assert wire.call("AUTH", "alice", "pw") == b"OK"
            assert "NOPERM" in str(wire.call("SET", "a", "v"))
            assert wire.call("GET", "a") is None
    service.process.stop()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--user", "alice", "on", "+nonsense"], "Error loading ACL rule '+nonsense' for the user named 'alice'"),
        (["--user", "alice", "(+get"], "Unmatched parenthesis"),
        (["--user", "alice", "on", "--user", "alice", "off"], "Duplicate user"),
        (["--user", "alice", "on", "--aclfile", "/tmp/users"], "not both"),
        (["--aclfile", "/nowhere/users"], "Error loading ACLs, opening file '/nowhere/users': No such file or directory"),
    ],
)
def test_wrong_users_are_clear_errors(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_users(Config.load(words, environment={}))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_wrong_users_end_the_start(servers: Servers, workers: str) -> None:
    server = servers.launch_kvcd("--port", str(free_port()), "--pool-size", "64mb", "--workers", workers, "--aclfile", "/nowhere/users")
    assert server.wait(DEADLINE_S) == 2, server.log
    assert "opening file '/nowhere/users': No such file or directory" in server.log


# ------------------------------------------------------------------------------ before AUTH


@pytest.fixture(scope="module")
def closed_kvcd(servers: Servers) -> Iterator[ServerProcess]:
    """A kvcd that asks for a password."""
    with servers.kvcd(requirepass="secret") as server:
        yield server


@pytest.mark.parametrize(
    "request_bytes",
    [b"*11\r\n" + b"$1\r\nx\r\n" * 11, b"*2\r\n$4\r\nAUTH\r\n$16385\r\n" + b"x" * 16385, b"*1\r\n$99999999\r\n"],
    ids=["arguments", "long argument", "announced"],
)
def test_little_is_taken_from_those_who_have_not_logged_in(
    closed_kvcd: ServerProcess, redis_server: ServerProcess, request_bytes: bytes
) -> None:
    said = []
    with redis_server.connect() as restore:
        restore.call("CONFIG", "SET", "requirepass", "secret")
        for port in (closed_kvcd.port, redis_server.port):
            with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as wire:
                wire.sendall(request_bytes)
                received = b""
                try:
                    while piece := wire.recv(10_000):
                        received += piece
                except ConnectionError:
                    pass  # it was closed with bytes unread
                said.append(received)
        restore.call("CONFIG", "SET", "requirepass", "")
    assert said[0] == said[1]


def send_until_closed(wire: socket.socket, requests: int) -> None:
    """Ask on and on without reading, so many at a time; returns when nobody minds."""
    for _ in range(100_000):
        wire.sendall(b"PING\r\n" * requests)
        if requests < 100:
            time.sleep(0.001)  # answered before more comes: the last reply that the socket takes is a small part of all


@pytest.mark.parametrize("requests", [1000, 50])
def test_who_has_not_logged_in_and_does_not_read_is_closed(closed_kvcd: ServerProcess, requests: int) -> None:
    """Replies that nobody takes are not kept for strangers."""
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.settimeout(DEADLINE_S)
        wire.connect(closed_kvcd.address)
        with pytest.raises(ConnectionError):
            send_until_closed(wire, requests)
        with closed_kvcd.connect() as other:
            assert "NOAUTH" in str(other.call("PING"))
