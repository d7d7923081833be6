"""RDMA yardstick: what perftest makes of this machine's device, to hold kvcd's own rounds against.

``python -m bench.rdma`` prints it as JSON. It wants an RDMA device; without one, the Soft-RoCE guest has it:
``python -m tests.rdma.softroce -- .venv/bin/python -m bench.rdma``.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

DEVICES = Path("/sys/class/infiniband")
PORT = 18515
ADDRESS = "127.0.0.1"  # of perftest's own exchange of numbers; what is measured goes through the device
RUN_DEADLINE_S = 120
START_DEADLINE_S = 30
POLL_S = 0.01


class YardstickError(Exception):
    """perftest cannot run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of a perftest program: the name in the result, and the operation's length (atomics have always 8 bytes)."""

    name: str
    program: str
    length_bytes: int

    def command(self, device: str, *, gid_index: int, iterations: int) -> list[str]:
        """Return the server's command line; the client's has the address behind it."""
        words = [self.program, "-d", device, "-x", str(gid_index), "-p", str(PORT), "-n", str(iterations), "-F"]
        return words if "atomic" in self.program else [*words, "-s", str(self.length_bytes)]


LATENCIES = (
    Probe("read_8", "ib_read_lat", 8),
    Probe("read_128", "ib_read_lat", 128),
    Probe("read_4096", "ib_read_lat", 4096),
    # perftest's write latency is half of a ping-pong: one way. Its other latencies are there and back.
    Probe("write_8_one_way", "ib_write_lat", 8),
    Probe("atomic_8", "ib_atomic_lat", 8),
)
RATES = (Probe("read_8", "ib_read_bw", 8), Probe("read_128", "ib_read_bw", 128), Probe("read_65536", "ib_read_bw", 65536))


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds of one operation after another: medians over the rounds."""

    typical_us: float
    average_us: float
    p99_us: float

    @property
    def figures(self) -> dict[str, float]:
        """These, and what they come to in operations one after another."""
        return asdict(self) | {"operations_per_s": round(1e6 / self.average_us, 1)}


@dataclass(frozen=True, slots=True)
class Rate:
    """Operations under way at once, 128 at most: medians over the rounds."""

    operations_per_s: float
    megabytes_per_s: float


def yardstick(*, rounds: int = 3, iterations: int = 1000) -> dict[str, Any]:
    """Measure every probe ``rounds`` times between two processes of this machine; return medians by probe.

    Raises YardstickError where there is no device or no perftest.
    """
    device, gid_index = _device()
    for probe in (*LATENCIES, *RATES):
        if shutil.which(probe.program) is None:
            raise YardstickError(f"no {probe.program}; run `apt-get install perftest`")
    found: dict[Probe, list[list[float]]] = {probe: [] for probe in (*LATENCIES, *RATES)}
    for _ in range(rounds):
        for probe, runs in found.items():
            runs.append(_run(probe.command(device, gid_index=gid_index, iterations=iterations)))
    medians = {probe: [statistics.median(column) for column in zip(*runs, strict=True)] for probe, runs in found.items()}
    # Columns: bytes, iterations, then of latencies least, most, typical, average, deviation, 99 %, 99.9 %; of rates peak
    # and average in MiB/s, millions of operations per second.
    latencies = {probe.name: Latency(medians[probe][4], medians[probe][5], medians[probe][7]).figures for probe in LATENCIES}
    rates = {probe.name: asdict(Rate(round(medians[probe][4] * 1e6, 1), round(medians[probe][3] * 1.048576, 2))) for probe in RATES}
    return {"device": device, "gid_index": gid_index, "rounds": rounds, "iterations": iterations, "latency": latencies, "rate": rates}


def _device() -> tuple[str, int]:
    """Return the first device, and the index of its IPv4 address for RoCE v2; on InfiniBand, of its first."""
    device = next((path.name for path in sorted(DEVICES.glob("*"))), None)
    if device is None:
        raise YardstickError("no RDMA device; `python -m tests.rdma.softroce -- COMMAND` runs a command in a guest that has one")
    port = DEVICES / device / "ports" / "1"
    for path in sorted((port / "gids").iterdir(), key=lambda path: int(path.name)):
        # Empty entries of the table have an address but no type: reading that is an error.
        with contextlib.suppress(OSError):
            kind = (port / "gid_attrs" / "types" / path.name).read_text().strip()
            if kind == "RoCE v2" and path.read_text().startswith("0000:0000:0000:0000:0000:ffff:"):
                return device, int(path.name)
    return device, 0


def _run(command: Sequence[str]) -> list[float]:
    """Run a server and its client; return the line of figures that the client prints."""
    with _server(command) as server:
        _await_listener(server)
        client = subprocess.run([*command, ADDRESS], capture_output=True, text=True, timeout=RUN_DEADLINE_S, check=False)
    lines = client.stdout.splitlines()
    headers = [number for number, line in enumerate(lines) if line.lstrip().startswith("#bytes")]
    if client.returncode or not headers:
        raise YardstickError(f"`{' '.join(command)}` failed: {(client.stderr or client.stdout).strip()[-500:]}")
    return [float(word) for word in lines[headers[0] + 1].split()]


@contextlib.contextmanager
def _server(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield server
        finally:
            server.kill()


def _await_listener(server: subprocess.Popen[bytes]) -> None:
    """Wait until something listens on the port, without connecting: perftest takes the first connection for its client."""
    deadline_s = time.monotonic() + START_DEADLINE_S
    listening = f":{PORT:04X}"
    while time.monotonic() < deadline_s and server.poll() is None:
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]] if Path(table).exists() else []
            if any(row[1].endswith(listening) and row[3] == "0A" for row in rows):
                return
        time.sleep(POLL_S)
    raise YardstickError(f"perftest's server did not listen on port {PORT} within {START_DEADLINE_S} s; is the port free?")


def main(
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each probe runs; medians count.")] = 3,
    iterations: Annotated[int, typer.Option(min=5, max=1_000_000, help="Operations per run.")] = 1000,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write to this file as well.")] = None,
) -> None:
    """Measure the RDMA device by perftest: latencies in microseconds, operations per second."""
    from bench.report import machine  # rich takes seconds to import under emulation

    try:
        figures = yardstick(rounds=rounds, iterations=iterations) | {"machine": machine()}
    except (YardstickError, subprocess.TimeoutExpired) as error:
        print(f"bench.rdma: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    text = orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode()
    print(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
