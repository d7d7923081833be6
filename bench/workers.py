"""``python -m bench.workers``: what sharing a pool costs: throughput and processor time per operation with 1, 2, 3 workers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.__main__ import candidate_command
from bench.measure import Measurement, timed
from bench.report import machine
from bench.servers import BenchError, Server, running
from bench.small_values import CLIENTS, load, redis_benchmark
from bench.wire import WireError

MARK = 1.10  # processor time per operation, over that of one worker
CALIBRATION_REQUESTS = 20_000
LARGE_CALIBRATION_REQUESTS = 2_000
POOL_SIZE = "2gb"


@dataclass(frozen=True, slots=True)
class Service(Server):
    """A service of several processes, or several servers that share nothing: its processor time is that of all of them."""

    workers: int = 1
    parts: tuple[Server, ...] = ()  # the servers of their own; none when workers share one pool

    @property
    def key(self) -> str:
        """Names it in results."""
        return f"{self.workers} apart" if self.parts else str(self.workers)

    def processor_time_s(self) -> float:
        """Time that every process of the service has spent on a processor, in seconds."""
        roots = [part.process_id for part in self.parts] or [self.process_id]
        return sum(
            Server(self.label, self.version, self.host, self.port, process).processor_time_s() for root in roots for process in family(root)
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """What redis-benchmark does in one case."""

    command: str
    depth: int
    value_bytes: int

    @property
    def keys(self) -> int:
        """How many keys it asks for."""
        return 100_000 if self.value_bytes < 10_000 else 1_000

    @property
    def name(self) -> str:
        """For tables."""
        size = f"{self.value_bytes} B" if self.value_bytes < 1024 else f"{self.value_bytes // 1024} KiB"
        return f"{self.command} {size}, pipeline {self.depth}"


def family(process: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [process]
    for parent in found:
        try:
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        except OSError:
            continue
    return found


def main(
    workers: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of workers; may be repeated.")] = None,
    depth: Annotated[list[int] | None, typer.Option(min=1, help="Pipeline depths; may be repeated.")] = None,
    value_bytes: Annotated[list[int] | None, typer.Option(min=1, help="Sizes of values; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each service does each case; medians count.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long a case takes in one round on one service.")] = 1.0,
    apart: Annotated[
        bool,
        typer.Option(
            "--apart",
            help="Beside them as many servers that share nothing, each with its part of the clients: what several processes cost anyway.",
        ),
    ] = False,
    memory: Annotated[bool, typer.Option("--memory", help="A pool in memory that only this service has, instead of a file.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
) -> None:
    """Run redis-benchmark against one service after the other, in turns."""
    console = Console(stderr=True, highlight=False)
    counts = workers or [1, 2, 3]
    shapes = [
        Shape(command, one_depth, size)
        for size in value_bytes or [64, 65_536]
        for one_depth in depth or [1, 16, 64]
        for command in ("GET", "SET")
    ]
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kvcd-bench-", dir="/dev/shm"))
            services = [stack.enter_context(started(count, "shm:" if memory else f"file:{folder}/pool-{count}")) for count in counts]
            keys = [service.key for service in services]
            if apart:
                services += [stack.enter_context(started_apart(count, folder)) for count in counts if count > 1]
                keys = [service.key for service in sorted(services, key=lambda service: (service.workers, service.key))]
            console.print(f"{services[0].version}, {rounds} rounds of {seconds} s; {machine()}", markup=False, soft_wrap=True)
            results = measure(services, shapes, rounds, seconds, console)
    except (BenchError, WireError, OSError) as error:
        console.print(f"bench: {error}", markup=False)
        raise typer.Exit(1) from error
    Console(width=None if sys.stdout.isatty() else 180).print(table(results, keys))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(orjson.dumps(as_json(results, rounds, seconds), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


@contextmanager
def started(workers: int, pool: str) -> Iterator[Service]:
    """A service with this many workers, until the block ends."""
    flags = f" --workers {workers}" if workers > 1 else ""  # one worker is what a plain start gives
    command = f"{candidate_command()} --pool {pool} --pool-size {POOL_SIZE}{flags}"
    with running(f"{workers} worker{'s' if workers > 1 else ''}", command) as server:
        yield Service(server.label, server.version, server.host, server.port, server.process_id, workers)


@contextmanager
def started_apart(count: int, folder: str) -> Iterator[Service]:
    """As many servers of one process, each with a pool of its own, until the block ends."""
    with ExitStack() as stack:
        commands = [f"{candidate_command()} --pool file:{folder}/apart-{count}-{number} --pool-size {POOL_SIZE}" for number in range(count)]
        parts = tuple(stack.enter_context(running(f"{count} apart", command)) for command in commands)
        first = parts[0]
        yield Service(first.label, first.version, first.host, first.port, first.process_id, count, parts)


Results = dict[Shape, dict[str, list[Measurement]]]


def measure(services: list[Service], shapes: list[Shape], rounds: int, seconds: float, console: Console) -> Results:
    """Rounds of A B C, C B A, ...: a machine that grows slower meanwhile does so for all."""
    results: Results = {shape: {service.key: [] for service in services} for shape in shapes}
    with Progress(console=console) as progress:
        bar = progress.add_task("", total=len(shapes) * rounds * len(services))
        for shape in shapes:
            requests = {service.key: _requests(service, shape, seconds) for service in services}
            for number in range(rounds):
                for service in services if number % 2 == 0 else services[::-1]:
                    progress.update(bar, description=f"{shape.name}, {service.label}")
                    results[shape][service.key].append(_run(service, shape, requests[service.key]))
                    progress.advance(bar)
    return results


def _requests(service: Service, shape: Shape, seconds: float) -> int:
    """Fill the keys, and find how many requests take that long."""
    for server in service.parts or (service,):
        with server.client() as client:
            client.flushall()
        load(server, keys=shape.keys, value_size_bytes=shape.value_bytes)
    few = (CALIBRATION_REQUESTS if shape.value_bytes < 10_000 else LARGE_CALIBRATION_REQUESTS) * min(shape.depth, 8)
    rate = _rate(service, shape, few)
    return max(few, round(rate * seconds))


def _rate(service: Service, shape: Shape, requests: int) -> float:
    """Requests per second; servers that share nothing are asked at the same time, each by its part of the clients."""
    servers = service.parts or (service,)

    def ask(server: Server) -> float:
        return redis_benchmark(
            server, shape.command, shape.depth, requests // len(servers), keys=shape.keys, value_size_bytes=shape.value_bytes,
            clients=CLIENTS // len(servers),
        )  # fmt: skip

    with ThreadPoolExecutor(len(servers)) as pool:
        return sum(pool.map(ask, servers))


def _run(service: Service, shape: Shape, requests: int) -> Measurement:
    with timed(service) as watch:
        rate = _rate(service, shape, requests)
    return Measurement(requests, requests / rate, watch.processor_s, requests * shape.value_bytes)


def table(results: Results, counts: list[str]) -> Table:
    """Rate and cost for each number of workers, and the cost over that of the first."""
    out = Table(
        title="Workers on one pool",
        caption="CPU: of all processes of the service, per operation, medians. Ratio: over the first column. Apart: "
        "servers that share nothing. "
        f"redis-benchmark shares the {os.cpu_count()} cores, which bound the rates.",
    )
    out.add_column("case")
    for count in counts:
        out.add_column(f"{count}: ops/s", justify="right")
        out.add_column("CPU µs", justify="right")
        if count != counts[0]:
            out.add_column(f"ratio (≤ {MARK})", justify="right")
    for shape, by_workers in results.items():
        base = median(one.processor_us_per_operation for one in by_workers[counts[0]])
        cells = [shape.name]
        for count in counts:
            cost = median(one.processor_us_per_operation for one in by_workers[count])
            cells += [f"{median(one.operations_per_s for one in by_workers[count]):,.0f}", f"{cost:.2f}"]
            if count != counts[0]:
                cells.append(f"[{'green' if cost / base <= MARK else 'yellow'}]{cost / base:.2f}[/]")
        out.add_row(*cells)
    return out


def as_json(results: Results, rounds: int, seconds: float) -> dict[str, Any]:
    """Return every figure as plain data."""
    return {
        "machine": machine(),
        "rounds": rounds,
        "seconds": seconds,
        "cases": [
            {
                "command": shape.command,
                "depth": shape.depth,
                "value_bytes": shape.value_bytes,
                "services": {
                    count: {
                        "operations_per_s": [one.operations_per_s for one in measured],
                        "processor_us_per_operation": [one.processor_us_per_operation for one in measured],
                    }
                    for count, measured in by_workers.items()
                },
            }
            for shape, by_workers in results.items()
        ],
    }


if __name__ == "__main__":
    typer.run(main)
