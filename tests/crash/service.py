"""Service under test: kvcd with several workers, or several servers on one file, whose processes are found in /proc."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.connection import Connection
from tests.servers import ROOT, free_port

START_LIMIT_S = float(os.environ.get("KVCD_CRASH_START_LIMIT_S", "60"))  # under emulation it takes longer
STOP_LIMIT_S = 20.0
_LISTENING = "0A"


class ServiceError(Exception):
    """The service did not do what every run begins or ends with."""


class Service:
    """``kvcd serve --workers N``, or with ``separate`` N servers with ports of their own on one pool file."""

    def __init__(self, *, workers: int, pool: str, flags: dict[str, str], separate: bool) -> None:
        """Start it; wait with ``ready``."""
        self.workers = workers
        self.separate = separate
        self.pool = pool
        self.flags = flags
        self.folder = Path(tempfile.mkdtemp(prefix="kvcd-crash-"))
        self.log_path = self.folder / "log"
        self.log = self.log_path.open("ab")
        self.ports = [free_port() for _ in range(workers if separate else 1)]
        self.processes = [self._start(port) for port in self.ports]

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        given = {"port": str(port), "pool": self.pool, "save": ""} | self.flags
        if not self.separate:
            given["workers"] = str(self.workers)
        if given["workers" if "workers" in given else "port"] == "1":
            given.pop("workers", None)
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        return subprocess.Popen(
            [sys.executable, "-m", "kvcd", "serve", *words],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    # ------------------------------------------------------------------ processes

    def ready_workers(self) -> list[int]:
        """Return the processes that take connections."""
        sockets = _listening_sockets(set(self.ports))
        return sorted(process for process in self._family() if _holds(process, sockets))

    def all_processes(self) -> list[int]:
        """Return every process of the service that lives, the supervisor too."""
        return sorted(self._family())

    def _family(self) -> set[int]:
        family = {process.pid for process in self.processes if process.poll() is None}
        waiting = list(family)
        while waiting:
            parent = waiting.pop()
            try:
                children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            except OSError:
                continue
            family.update(map(int, children))
            waiting += map(int, children)
        return family

    def revive(self) -> None:
        """Start separate servers again that died; a supervisor does that by itself."""
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                if not self.separate:
                    raise ServiceError(f"the supervisor ended with status {process.returncode}:\n{self.tail()}")
                self.processes[number] = self._start(self.ports[number])

    async def ready(self) -> None:
        """Wait until every worker takes connections."""
        deadline_s = time.monotonic() + START_LIMIT_S
        while len(self.ready_workers()) < self.workers:
            if time.monotonic() > deadline_s or all(process.poll() is not None for process in self.processes):
                raise ServiceError(f"{len(self.ready_workers())} of {self.workers} workers are ready:\n{self.tail()}")
            await asyncio.sleep(0.02)

    async def open(self, choice: float) -> tuple[Connection, int]:
        """Connect to one of the workers; ``choice`` (0 to 1) names the port where there are several. Also tells its process."""
        connection = await Connection.open(self.ports[int(choice * len(self.ports))])
        info = await connection.call(b"INFO", b"server")
        if not isinstance(info, bytes):
            connection.close()
            raise ConnectionError(f"INFO answered {info!r}")
        fields = _fields(info)
        return connection, int(fields.get("worker_process_id", fields.get("process_id", -1)))

    async def info(self) -> dict[str, str]:
        """Return all of INFO."""
        for _ in range(100):
            try:
                connection = await Connection.open(self.ports[0])
                answer = await connection.call(b"INFO", b"everything")
            except Exception as error:  # noqa: BLE001 - a worker that just died; anything else fails all attempts
                last = error
                await asyncio.sleep(0.05)
                continue
            connection.close()
            return _fields(answer)
        raise ServiceError(f"INFO has no answer: {last}")

    # ------------------------------------------------------------------------ end

    def tail(self) -> str:
        """Return the end of what the service wrote."""
        return self.log_path.read_text(errors="replace")[-4000:]

    def close(self) -> list[int]:
        """Stop everything in order; exit statuses."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        statuses = []
        for process in self.processes:
            try:
                statuses.append(process.wait(STOP_LIMIT_S))
            except subprocess.TimeoutExpired:
                for member in self._family():
                    os.kill(member, signal.SIGKILL)
                statuses.append(process.wait())
        self.log.close()
        return statuses


def _fields(info: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)


def _listening_sockets(ports: set[int]) -> set[str]:
    """Return ``socket:[inode]`` of what listens on these ports."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) in ports:
                found.add(f"socket:[{words[9]}]")
    return found


def _holds(process: int, sockets: set[str]) -> bool:
    try:
        for name in os.listdir(f"/proc/{process}/fd"):
            try:
                if os.readlink(f"/proc/{process}/fd/{name}") in sockets:
                    return True
            except OSError:
                continue
    except OSError:
        return False
    return False
