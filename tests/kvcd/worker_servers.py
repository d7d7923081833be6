"""Services of several workers for tests: which worker a connection reached, their processes, and waiting until one is back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tests.servers import ServerProcess, Servers, free_port
from tests.wire import Wire

DEADLINE_S = 30
CONNECTIONS = 400  # the kernel spreads connections by a hash; so many miss one of a few workers never


def fields_of(wire: Wire, section: str = "everything") -> dict[str, str]:
    """Return INFO's fields as one connection sees them."""
    reply = wire.call("INFO", section)
    assert isinstance(reply, bytes), reply
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)


def worker_pids(server: ServerProcess) -> list[int]:
    """Return the process ids of the workers that live, by their start."""
    text = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return [int(word) for word in text.split() if Path(f"/proc/{word}/exe").exists()]


def is_running(pid: int) -> bool:
    """Whether the process is there, and more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(slots=True)
class WorkerServer:
    """A service and its admin port."""

    process: ServerProcess
    admin_port: int

    def connect_to(self, worker: int, **options: int) -> Wire:
        """Return a connection that reached this worker."""
        for _ in range(CONNECTIONS):
            wire = self.process.connect(**options)
            if fields_of(wire, "server")["worker"] == str(worker):
                return wire
            wire.close()
        raise AssertionError(f"no connection reached worker {worker}")

    def pid_of(self, worker: int) -> int:
        """Return the process id of a worker that answers."""
        with self.connect_to(worker) as wire:
            return int(fields_of(wire, "server")["worker_process_id"])

    def wait_for_other(self, worker: int, pid: int) -> int:
        """Wait until another process than ``pid`` serves at that place; return its id."""
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s:
            try:
                with self.process.connect() as wire:
                    fields = fields_of(wire, "server")
            except OSError:
                continue
            if fields["worker"] == str(worker) and fields["worker_process_id"] != str(pid):
                return int(fields["worker_process_id"])
        raise AssertionError(f"worker {worker} is not back")


def start(servers: Servers, workers: int = 2, **flags: str | int) -> WorkerServer:
    """Start a service of several workers."""
    port = free_port()
    return WorkerServer(servers.kvcd(workers=workers, admin_port=port, **flags), port)
