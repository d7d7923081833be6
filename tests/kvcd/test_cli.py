"""Command line: exit statuses, the redis-server name, ping against servers that answer and that do not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvcd
from kvcd import cli, daemon, ping
from kvcd.config import Config
from tests.servers import Servers

PROGRAM = [sys.executable, "-m", "kvcd"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, **environment}
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=30, check=False, env=everything)


def test_version() -> None:
    done = run("version", "--short")
    assert (done.returncode, done.stdout) == (0, f"{kvcd.__version__}\n")


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("serve", "ping", "replay", "trace", "version"))


def test_serve_help_teaches_examples_and_every_directive() -> None:
    done = run("serve", "--help")
    assert done.returncode == 0
    assert "kvcd serve --port 7000" in done.stdout
    assert all(f"--{name} " in done.stdout for name in ("port", "maxmemory-policy", "pool-size", "log-format", "unixsocket"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--prt", "7"], "did you mean 'port'?"),
        (["serve", "--replicaof", "127.0.0.1", "6379"], "does not replicate"),
        (["serve", "nowhere.conf"], "can't open config file 'nowhere.conf'"),
        (["serve", "--logfile", "/nowhere/log"], "logfile /nowhere/log: No such file or directory"),
        (["ping", "--ulr", "redis://x"], "no such option: --ulr"),
        (["ping", "--url"], "--url needs a value"),
        (["ping", "--url", "http://x"], "is neither redis://HOST:PORT nor unix:///PATH"),
        (["ping", "--timeout-ms", "soon"], "a number of milliseconds is needed"),
        (["serv"], "Did you mean"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_exits_with_2(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.fixture
def called_redis_server(tmp_path: Path) -> Path:
    """The program under redis-server's name, as the image has it."""
    program = tmp_path / "redis-server"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom kvcd.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return program


def test_the_name_redis_server_takes_redis_servers_lines(called_redis_server: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([called_redis_server, *arguments], capture_output=True, text=True, timeout=30, check=False)

    for flag in ("-v", "--version"):
        assert call(flag).stdout.startswith("Redis server v=7.")
    assert call("--help").stdout.startswith("kvcd serve [FILE]")
    refused = call("sentinel.conf", "--sentinel")
    assert (refused.returncode, "--sentinel" in refused.stderr) == (2, True)
    wrong = call("--prt", "7")
    assert (wrong.returncode, wrong.stderr.startswith("redis-server: --prt")) == (2, True)


def test_lines_that_stacks_carry_start_and_what_has_no_effect_is_said(servers: Servers) -> None:
    with servers.kvcd(appendonly="yes", save="60 1", appendfsync="always") as server:
        assert server.call("PING") == b"PONG"
        assert server.call("CONFIG", "SET", "appendonly", "no") == b"OK"
        assert server.call("CONFIG", "SET", "locale-collate", "C") == b"OK"
    warnings = [line for line in server.log.splitlines() if "without effect" in line]
    assert len(warnings) == 2
    assert all(name in warnings[0] for name in ("appendonly", "appendfsync", "append-only file", "snapshot"))
    assert "locale-collate" in warnings[1]


def test_a_missing_build_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(arguments: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'protocol.glob'", name="protocol.glob")

    monkeypatch.setattr(cli, "_run", missing)
    assert cli.main() == 1
    assert "protocol.glob is missing" in capsys.readouterr().err


# Ping


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """Start a listener that takes one connection, reads a request and answers with given bytes; gives its URL."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(reply: bytes) -> str:
        path = tmp_path / f"socket{len(listeners)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)
        listeners.append(listener)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(reply)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"unix://{path}"

    yield start
    for thread in threads:
        thread.join()
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize(
    ("reply", "status", "printed"),
    [
        (b"+PONG\r\n", 0, "PONG\n"),
        (b"-NOAUTH Authentication required.\r\n", 0, "-NOAUTH Authentication required.\n"),
        (b"-LOADING dataset\r\n", 1, "-LOADING dataset\n"),
    ],
)
def test_ping_tells_alive_from_not_ready(
    answering: Callable[[bytes], str], capsys: pytest.CaptureFixture[str], reply: bytes, status: int, printed: str
) -> None:
    assert ping.main(["--url", answering(reply)]) == status
    assert capsys.readouterr().out == printed


def test_ping_of_a_server_that_hangs_up_or_is_not_there_fails(answering: Callable[[bytes], str], tmp_path: Path) -> None:
    assert ping.main(["--url", answering(b"")]) == 1
    assert ping.main(["--url", f"unix://{tmp_path}/nothing"]) == 1


def test_ping_gives_up_in_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        assert ping.main([f"--url=unix://{tmp_path}/silent", "--timeout-ms", "50"]) == 1


def test_ping_authenticates_with_the_urls_password(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        received: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                received.append(connection.recv(1024))
                connection.sendall(b"+OK\r\n+PONG\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert ping.main(["--url", f"redis://:p%40ss@127.0.0.1:{listener.getsockname()[1]}"]) == 0
        thread.join()
    assert received == [b"*2\r\n$4\r\nAUTH\r\n$4\r\np@ss\r\n*1\r\n$4\r\nPING\r\n"]


def test_ping_imports_next_to_nothing() -> None:
    code = "import sys, kvcd.cli, kvcd.ping; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout.split()
    assert not {"typer", "click", "rich", "redis", "structlog", "orjson", "asyncio", "uvloop"} & set(loaded)


def test_ping_finds_the_service_of_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "address"
    monkeypatch.setenv("KVCD_ADDRESS_FILE", str(file))
    monkeypatch.setenv("KVCD_CONF_PORT", "7001")
    assert ping.default_url() == "redis://127.0.0.1:7001"
    with daemon.announced(Config.load(["--port", "7000"], environment={})):
        assert ping.default_url() == "redis://127.0.0.1:7000"
    assert not file.exists()


# Manners of a service


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ([], "redis://127.0.0.1:6379"),
        (["--bind", "0.0.0.0", "-::"], "redis://127.0.0.1:6379"),
        (["--bind", "*", "-::*", "--port", "7"], "redis://127.0.0.1:7"),
        (["--bind", "::"], "redis://[::1]:6379"),
        (["--bind", "10.0.0.1"], "redis://10.0.0.1:6379"),
        (["--port", "0", "--unixsocket", "/run/k.sock"], "unix:///run/k.sock"),
    ],
)
def test_the_local_url(arguments: list[str], url: str) -> None:
    assert daemon.local_url(Config.load(arguments, environment={})) == url


def test_the_pid_file_is_there_while_the_service_runs(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with daemon.announced(Config.load(["--pidfile", str(file)], environment={})):
        assert file.read_text() == f"{os.getpid()}\n"
    assert not file.exists()


def test_going_to_the_background_frees_the_caller_and_its_terminal() -> None:
    code = (
        "import os, sys; from kvcd.daemon import go_to_background; go_to_background();"
        "os.write(int(sys.argv[1]), f'{os.getpid()} {os.getsid(0)} {os.readlink(\"/proc/self/fd/1\")}'.encode())"
    )
    reading, writing = os.pipe()
    with open(reading, "rb") as answer:
        caller = subprocess.Popen([sys.executable, "-c", code, str(writing)], pass_fds=[writing], stdout=subprocess.PIPE)
        os.close(writing)
        assert caller.communicate(timeout=30) == (b"", None)
        pid, session, output = answer.read().split()
    assert (caller.returncode, pid, output) == (0, session, b"/dev/null")
    assert int(pid) != caller.pid


def test_systemd_is_told_when_it_supervises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon.tell_supervisor(Config.load([], environment={}), "not told")
        daemon.tell_supervisor(Config.load(["--supervised", "systemd"], environment={}), "READY=1")
        assert systemd.recv(100) == b"READY=1"
