"""Servers under test: starts them on ports of their own, tells their processor time, and stops them."""

from __future__ import annotations

import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20


class BenchError(Exception):
    """A benchmark cannot run; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    label: str
    version: str
    host: str
    port: int
    process_id: int

    def client(self, password: str | None = None) -> redis.Redis:
        """A client for preparation, not for measuring."""
        return redis.Redis(host=self.host, port=self.port, password=password, protocol=2, socket_timeout=60)

    def processor_time_s(self) -> float:
        """Time that all threads of the process have spent on a processor, user and system, in seconds.

        From ``schedstat``, which counts nanoseconds; ``stat`` (10 ms steps) where the kernel has none.
        """
        tasks = Path(f"/proc/{self.process_id}/task")
        try:
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        except FileNotFoundError:
            fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / 100  # utime and stime; USER_HZ is 100 on Linux

    def knows(self, command: str) -> bool:
        """Whether the server has ``command`` (asked with a key that it does not hold)."""
        with self.client() as client:
            try:
                client.execute_command(command, "bench:none")
            except redis.ResponseError as error:
                return "unknown command" not in str(error).lower()
        return True


@contextmanager
def running(label: str, target: str) -> Iterator[Server]:
    """Start ``target`` (a command line with ``{port}``), or connect to it (``redis://HOST:PORT`` on this machine).

    A server that was started is stopped at the end. Raises ``BenchError`` when it does not answer.
    """
    if "://" in target:
        parts = urlsplit(target)
        yield _describe(label, parts.hostname or "127.0.0.1", parts.port or 6379, None)
        return
    port = _free_port()
    command = shlex.split(target.replace("{port}", str(port)))
    with tempfile.TemporaryDirectory(prefix="kvcd-bench-") as folder, (Path(folder) / "log").open("w+b") as log:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise BenchError(f"{label}: {command[0]}: {error.strerror}") from error
        try:
            _wait_until_it_answers(label, port, process, log_path=Path(log.name))
            yield _describe(label, "127.0.0.1", port, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(label: str, port: int, process: subprocess.Popen[bytes], *, log_path: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with redis.Redis(port=port, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
                client.ping()
            return
        except redis.RedisError as error:
            if process.poll() is not None or time.monotonic() > deadline_s:
                state = "does not answer" if process.returncode is None else f"ended with exit code {process.returncode}"
                tail = log_path.read_text(errors="replace")[-2000:]
                raise BenchError(f"{label} {state} ({error}); it wrote:\n{tail}") from error
            time.sleep(0.05)


def _describe(label: str, host: str, port: int, process_id: int | None) -> Server:
    try:
        with redis.Redis(host=host, port=port, protocol=2) as client:
            info = client.info()
    except redis.RedisError as error:
        raise BenchError(f"{label}: no answer at {host}:{port}: {error}") from error
    reported = info.get("process_id", process_id)
    if reported is None or not Path(f"/proc/{reported}").exists():
        raise BenchError(f"{label}: process {reported} is not on this machine, so its processor time cannot be read")
    name = "kvcd" if "kvcd_version" in info else "redis"
    return Server(label, f"{name} {info.get(f'{name}_version', '?')}", host, port, int(reported))
