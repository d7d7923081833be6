"""Real server processes for tests: kvcd and redis-server on free ports, ready when they are handed out, gone with the test run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.wire import Wire

ROOT = Path(__file__).resolve().parents[1]
START_DEADLINE_S = 30
STOP_DEADLINE_S = 15
PORT_ATTEMPTS = 5
# Dies with its parent, whatever becomes of that: PR_SET_PDEATHSIG outlives the exec.
_LAUNCHER = """
import ctypes, os, resource, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the test run has ended")
if descriptors := int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
os.execvp(sys.argv[3], sys.argv[3:])
"""


def free_port() -> int:
    """Return a port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """A server process whose output is collected; use it as a context manager, or stop() it."""

    def __init__(self, command: Sequence[str], *, port: int, folder: str, descriptors: int = 0) -> None:
        """Start the command in ``folder``; ``descriptors`` limits its open files."""
        self.port = port
        self.folder = folder
        self.unix_path = ""
        self._lines: list[str] = []
        self._ready = threading.Event()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KVCD_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, str(os.getpid()), str(descriptors), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=folder,
            env=environment | {"PYTHONPATH": str(ROOT)},
        )
        self.pid = self.process.pid  # the launcher becomes the server
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if "eady to accept connections" in line:
                self._ready.set()
        self._ready.set()  # it has ended: nobody waits any longer

    def wait_until_ready(self) -> bool:
        """Wait until the server says that it is ready; False when it ended instead."""
        assert self._ready.wait(START_DEADLINE_S), f"not ready in time:\n{self.log}"
        return self.process.poll() is None and any("eady to accept" in line for line in self._lines)

    @property
    def log(self) -> str:
        """Everything that the server has written so far."""
        return "".join(self._lines)

    @property
    def address(self) -> tuple[str, int]:
        """Where to connect to."""
        return ("127.0.0.1", self.port)

    def connect(self, *, timeout_s: float = 30, **options: int) -> Wire:
        """Return a new connection."""
        return Wire(self.address, timeout_s=timeout_s, **options)

    def call(self, *words: bytes | str | int) -> object:
        """Run one command on a connection of its own."""
        with self.connect() as wire:
            return wire.call(*words)

    def info(self) -> dict[str, str]:
        """Return INFO's fields."""
        with self.connect() as wire:
            reply = wire.call("INFO", "everything")
        assert isinstance(reply, bytes), reply
        return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)

    def private_bytes(self) -> int:
        """Return the resident memory outside the pool: what is neither shared memory nor swapped."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def wait(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Wait for the process to end; return its exit status."""
        status = self.process.wait(deadline_s)
        self._reader.join(deadline_s)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Send a signal and return the exit status; a process that does not end in time is killed and the test fails."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        with contextlib.suppress(ValueError):
            self.wait()

    def __enter__(self) -> ServerProcess:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it; a server that died under the test fails the test, and its log is shown when the test fails anyway."""
        ended = self.process.poll()
        if ended is None:
            self.kill() if kind else self.stop()
        if kind is not None:
            print(self.log)
        elif ended is not None and ended < 0 and not getattr(self, "may_be_killed", False):
            raise AssertionError(f"the server was ended by signal {-ended}:\n{self.log[-4000:]}")


class Servers:
    """Makes servers and sees to it that none is left."""

    def __init__(self) -> None:
        """Begin without any."""
        self.folder = tempfile.mkdtemp(prefix="kvcd-")  # short: paths of unix sockets have at most 107 bytes
        self.started: list[ServerProcess] = []

    def _start(self, command: Sequence[str], flags: dict[str, str], *, descriptors: int = 0) -> ServerProcess:
        for _ in range(PORT_ATTEMPTS):
            port = int(flags.get("port", 0)) or free_port()
            words = [word for name, value in ({"port": str(port)} | flags).items() for word in (f"--{name}", value)]
            server = ServerProcess([*command, *words], port=port, folder=self.folder, descriptors=descriptors)
            server.unix_path = flags.get("unixsocket", "")
            self.started.append(server)
            if server.wait_until_ready():
                return server
            server.kill()
            if "port" in flags or ("taken" not in server.log and "in use" not in server.log):
                break
        raise AssertionError(f"{command[0]} did not start:\n{server.log}")

    def kvcd(self, *, descriptors: int = 0, **flags: str | int) -> ServerProcess:
        """Start kvcd with these directives, their dashes written as underscores."""
        given = {name.replace("_", "-"): str(value) for name, value in flags.items()}
        chosen = {"pool-size": "64mb", "index-entries": "65536"} | given
        return self._start([sys.executable, "-m", "kvcd", "serve"], chosen, descriptors=descriptors)

    def launch_kvcd(self, *words: str) -> ServerProcess:
        """Start kvcd with this command line and do not wait for it."""
        server = ServerProcess([sys.executable, "-m", "kvcd", "serve", *words], port=0, folder=self.folder)
        self.started.append(server)
        return server

    def redis(self, **flags: str | int) -> ServerProcess:
        """Start redis-server; it keeps nothing on disk."""
        given = {name.replace("_", "-"): str(value) for name, value in flags.items()}
        return self._start(["redis-server"], {"save": "", "appendonly": "no", "daemonize": "no"} | given)

    def close(self) -> None:
        """Kill what still runs."""
        for server in self.started:
            if server.process.poll() is None:
                server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
