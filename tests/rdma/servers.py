"""Servers of the verbs tests: memory nodes and front ends in processes of their own, forked ready-made by a nursery."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.servers import ROOT, ServerProcess, free_port
from tests.wire import Wire

SECRET = b"a secret of tests, and of nobody else"
START_DEADLINE_S = 60  # Python under emulation, beside other processes
STOP_DEADLINE_S = 30
ANSWER_TIMEOUT_S = 60
ADDRESS = "127.0.0.1"
NODE_SIZE = "64mb"
# An emulated machine may leave a process without its processor for long; only the tests of lost nodes wait for this.
DEADLINE_MS = 5000


class Nursery:
    """Where the processes come from: started once, for all of them."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(START_DEADLINE_S)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KVCD_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rdma.nursery", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._answers = self._control.makefile("rb")
        self._turn = threading.Lock()
        assert self._answers.readline(), "the nursery did not start"

    def start(self, words: Sequence[str], *, output: int, folder: str) -> int:
        """Fork a process that is what the words say; return its number."""
        with self._turn:
            request = json.dumps({"start": list(words), "folder": folder}).encode()
            socket.send_fds(self._control, [request], [output])
            return int(self._answers.readline())

    def reap(self, pid: int) -> int:
        """Return the exit status of a process that has ended (negative: the signal)."""
        with self._turn:
            self._control.sendall(json.dumps({"reap": pid}).encode())
            return int(self._answers.readline())

    def close(self) -> None:
        """End the nursery and whatever it still has."""
        self._answers.close()
        self._control.close()
        self._process.wait(STOP_DEADLINE_S)


class Child:
    """A process of the nursery, with as much of Popen as ServerProcess uses."""

    def __init__(self, source: Nursery, words: Sequence[str], folder: str) -> None:
        self._source = source
        reading, writing = os.pipe()
        self.stdout = open(reading, errors="replace")  # noqa: SIM115  closed as Popen's is, by who waits for the end
        try:
            self.pid = source.start(words, output=writing, folder=folder)
        finally:
            os.close(writing)
        self._pidfd = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; TimeoutExpired when it does not come."""
        if self.returncode is None:
            ended, _, _ = select.select([self._pidfd], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = self._source.reap(self.pid)
            os.close(self._pidfd)
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class KvcdProcess(ServerProcess):
    """A front end or a memory node."""

    def __init__(self, source: Nursery, words: Sequence[str], *, port: int, folder: str) -> None:
        self.port = port
        self.folder = folder
        self.unix_path = ""
        self.may_be_killed = False
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._said = threading.Condition()
        child = Child(source, words, folder)
        self.process = child  # type: ignore[assignment]  # of it no more is used than Child has
        self.pid = child.pid
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self._lines.append(line)
                self._said.notify_all()
            if "eady to accept connections" in line:
                self._ready.set()
        self._ready.set()

    def wait_until_said(self, text: str, *, times: int = 1, deadline_s: float = START_DEADLINE_S) -> None:
        """Wait for a text in the log, which may stand there already."""
        with self._said:
            assert self._said.wait_for(lambda: self.log.count(text) >= times, deadline_s), f"never said {text!r}:\n{self.log}"

    def ready(self) -> KvcdProcess:
        """Wait until it is ready; AssertionError with its log when it ended instead."""
        assert self._ready.wait(START_DEADLINE_S), f"not ready in time:\n{self.log}"
        assert self.is_running(), f"did not start:\n{self.log}"
        return self

    def connect(self, *, timeout_s: float = ANSWER_TIMEOUT_S, **options: int) -> Wire:
        """Return a new connection."""
        return super().connect(timeout_s=timeout_s, **options)

    def crash(self) -> None:
        """Kill it as a test's subject, and not because the test failed."""
        self.may_be_killed = True
        self.kill()

    def refusal(self) -> str:
        """Wait for the end of a process that is to refuse its options; return what it said."""
        self.may_be_killed = True
        status = self.wait(START_DEADLINE_S)
        assert status > 0, f"ended with {status}:\n{self.log}"
        return self.log


class Rack:
    """The machines of one test or module: memory nodes and front ends, killed when it is over."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="kvcd-", dir="/dev/shm")
        self._secret_file = Path(self.folder, "secret")
        self._secret_file.touch(mode=0o600)
        self._secret_file.write_bytes(SECRET)
        self.started: list[KvcdProcess] = []

    def launch(self, words: Sequence[str], *, port: int) -> KvcdProcess:
        """Start it and do not wait for it."""
        process = KvcdProcess(nursery(), words, port=port, folder=self.folder)
        self.started.append(process)
        return process

    def memory_node(self, *, port: int = 0, size: str = NODE_SIZE, file: str | None = None) -> KvcdProcess:
        """Begin to start a memory node; ``file`` is a name in the rack's folder."""
        port = port or free_port()
        path = "" if file is None else str(Path(self.folder, file))
        words = ["memory", f"{ADDRESS}:{port}", size, str(self._secret_file), path]
        return self.launch(words, port=port)

    def front_end(self, *nodes: KvcdProcess | int, **directives: str | int) -> KvcdProcess:
        """Begin to start a front end of these memory nodes, or of what will listen on these ports."""
        port = free_port()
        given: dict[str, str | int] = {
            "pool": "verbs://" + ",".join(node_name(node) for node in nodes),
            "memory-secret-file": str(self._secret_file),
            "memory-node-timeout-ms": DEADLINE_MS,
            "maxmemory-policy": "noeviction",
            "port": port,
        }
        given |= {name.replace("_", "-"): value for name, value in directives.items()}
        return self.launch(["serve", *(word for name, value in given.items() for word in (f"--{name}", str(value)))], port=port)

    def close(self) -> None:
        """Kill what still runs. AssertionError when a process was gone that no test has killed or made to refuse its options."""
        crashed = [process for process in self.started if not process.is_running() and not process.may_be_killed]
        for process in reversed(self.started):
            if process.is_running():
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        for process in crashed:
            raise AssertionError(f"the server on port {process.port} ended with {process.process.returncode}:\n{process.log[-8000:]}")

    def __enter__(self) -> Rack:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; when a test failed, show the logs."""
        if kind is not None:
            for process in self.started:
                print(f"--- {process.port}\n{process.log}")
        self.close()


def node_name(node: KvcdProcess | int) -> str:
    """Return a memory node's name in the list."""
    return f"{ADDRESS}:{node if isinstance(node, int) else node.port}"


def until(condition: Callable[[], bool], what: str, deadline_s: float = START_DEADLINE_S) -> None:
    """Ask again until it is so; every question is a round trip to a server, so this does not spin."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"never so: {what}"


def together(*works: Callable[[], None]) -> None:
    """Run all of them at once; raise what the first that failed has raised."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@functools.cache
def nursery() -> Nursery:
    """The one nursery of this test run."""
    made = Nursery()
    atexit.register(made.close)
    return made
