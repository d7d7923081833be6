"""``python -m bench.hit_ratio``: block hit ratios of kvcd and redis-server at the same ``maxmemory``, beside the simulator's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.__main__ import candidate_command
from bench.report import machine
from bench.servers import BenchError, Server, running
from kvcd.directive import ConfigError, memory_bytes
from kvcd.replay_engine import Mode, Replay, ReplayPlan
from kvcd.replay_tally import ReplayReport
from kvcd.simulation.chart import chart
from kvcd.simulation.simulator import Simulation, simulate
from kvcd.trace import Request, TraceError, read_trace
from kvcd.trace_generate import Shape, generate

REDIS = 'redis-server --port {port} --bind 127.0.0.1 --save "" --appendonly no'
CONVERSATION = "conversation_trace.jsonl"
POOL_FACTOR = 2  # the pool is so many times maxmemory: what bounds is maxmemory, as it is Redis's bound
POOL_LEAST_BYTES = 64 << 20
INFLIGHT_BYTES = 64 << 20
OVERHEAD = 1.1  # memory of a block over its value's bytes, to choose a maxmemory by a share of the load
YARDSTICKS = ("lru", "leaf-lru", "optimum")
TABLE_WIDTH = 120  # also where the output is a file, which has 80
PROFIT_LIMIT = -0.01  # against the better LRU; below it the row is marked


@dataclass(frozen=True, slots=True)
class Load:
    """What is played, and at which sizes."""

    name: str
    requests: Sequence[Request]
    memories_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contender:
    """A server in one mode; ``policy`` is what the simulator calls it, if it has it."""

    name: str
    command: str
    mode: Mode
    policy: str | None


@dataclass(frozen=True, slots=True)
class Played:
    """What one server made of a load."""

    contender: str
    mode: Mode
    block_hit_ratio: float
    blocks_held: int
    refused_blocks: int
    wrong_values: int
    simulated: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One load at one size: the servers, and the yardsticks at the number of blocks that kvcd held."""

    load: str
    maxmemory_bytes: int
    played: tuple[Played, ...]
    yardsticks: tuple[Simulation, ...]

    @property
    def capacity_blocks(self) -> int:
        """What the yardsticks were given."""
        return self.played[0].blocks_held

    def profit(self, played: Played) -> float:
        """How far a server is ahead of the better LRU."""
        return played.block_hit_ratio - max(one.block_hit_ratio for one in self.yardsticks if one.policy.endswith("lru"))


def main(
    trace: Annotated[
        Path | None, typer.Option(help="A trace to begin with; $KVCD_TRACE_DIR/conversation_trace.jsonl when left out, if it is there.")
    ] = None,
    memory: Annotated[str, typer.Option(metavar="SIZE[,SIZE...]", help="maxmemory for that trace.")] = "63mb,188mb,627mb",
    shapes: Annotated[str, typer.Option(metavar="NAME[,NAME...]|all|none", help=f"Generated loads: {', '.join(Shape)}.")] = "all",
    shares: Annotated[
        str, typer.Option(metavar="SHARE[,SHARE...]", help="maxmemory for these, in shares of their blocks.")
    ] = "0.02,0.1,0.4",
    requests: Annotated[int, typer.Option(min=1, help="How many each of them has.")] = 3_000,
    seed: Annotated[int, typer.Option(help="Of what is generated.")] = 7,
    value_bytes: Annotated[int, typer.Option(min=1, help="Size of each value.")] = 60_000,
    candidate: Annotated[str, typer.Option(help="kvcd's command line with {port}.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw each load's hit ratios over the capacity, as SVG.")] = None,
) -> None:
    """Play loads against kvcd (prefix and plain mode) and redis-server (allkeys-lru) with the same memory, on one connection."""
    console = Console(stderr=True, highlight=False)
    try:
        loads = [*_given(trace, memory), *_generated(shapes, shares, requests, seed, value_bytes)]
        if not loads:
            raise ValueError("nothing to play: no --trace, no KVCD_TRACE_DIR, and --shapes none")
        outcomes = measure(loads, contenders(candidate or candidate_command()), value_bytes, console)
    except (BenchError, ConfigError, TraceError, ValueError) as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(2) from error
    Console(width=max(TABLE_WIDTH, Console().width)).print(table(outcomes, value_bytes))
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(as_json(outcomes, value_bytes), option=orjson.OPT_INDENT_2))
    if plots is not None:
        draw(outcomes, plots)
    if any(one.wrong_values for outcome in outcomes for one in outcome.played):
        raise typer.Exit(1)


def contenders(kvcd: str) -> tuple[Contender, ...]:
    """Who plays; kvcd's prefix mode first."""
    return (
        Contender("kvcd", kvcd, Mode.PREFIX, "allkeys-prefix"),
        Contender("kvcd", kvcd, Mode.PLAIN, "allkeys-prefix"),
        Contender("redis", REDIS, Mode.PLAIN, None),
    )


def _given(trace: Path | None, memory: str) -> list[Load]:
    """The trace that was named, or the one of the environment."""
    folder = os.environ.get("KVCD_TRACE_DIR")
    if trace is None and folder and Path(folder, CONVERSATION).exists():
        trace = Path(folder, CONVERSATION)
    return [] if trace is None else [Load(trace.stem, read_trace(trace), tuple(memory_bytes(size) for size in memory.split(",")))]


def _generated(shapes: str, shares: str, requests: int, seed: int, value_bytes: int) -> list[Load]:
    """A load of each shape, with memory for shares of its distinct blocks."""
    loads = []
    names = [] if shapes == "none" else list(Shape) if shapes == "all" else [Shape(name) for name in shapes.split(",")]
    for name in names:
        made = list(generate(name, requests=requests, seed=seed))
        footprint_bytes = len({block for request in made for block in request.hash_ids}) * value_bytes * OVERHEAD
        loads.append(Load(name, made, tuple(int(float(share) * footprint_bytes) for share in shares.split(","))))
    return loads


def measure(loads: Sequence[Load], servers: Sequence[Contender], value_bytes: int, console: Console) -> list[Outcome]:
    """Play every load at every size; the bar counts requests of servers and of yardsticks alike."""
    steps = sum(len(load.requests) * len(load.memories_bytes) for load in loads) * (len(servers) * 2 + len(YARDSTICKS))
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    outcomes = []
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=steps)
        for load in loads:
            for maxmemory_bytes in load.memories_bytes:
                progress.update(bar, description=f"{load.name}, {maxmemory_bytes >> 20} MiB")
                outcomes.append(_outcome(load, maxmemory_bytes, servers, value_bytes, lambda played: progress.advance(bar, played)))
    return outcomes


def _outcome(
    load: Load, maxmemory_bytes: int, servers: Sequence[Contender], value_bytes: int, on_progress: Callable[[float], None]
) -> Outcome:
    played = []
    for contender in servers:
        policy = "allkeys-prefix" if contender.policy else "allkeys-lru"
        command = f"{contender.command} --maxmemory {maxmemory_bytes} --maxmemory-policy {policy}"
        if contender.policy:
            command += f" --pool-size {max(POOL_LEAST_BYTES, POOL_FACTOR * maxmemory_bytes)}"
        with running(contender.name, command) as server:
            report = play(server, load.requests, contender.mode, value_bytes)
            with server.client() as client:
                held = int(client.dbsize())
        on_progress(len(load.requests))
        simulated = None
        if contender.policy and held:
            simulated = simulate(load.requests, policy=contender.policy, capacity=held, mode=contender.mode).block_hit_ratio
        on_progress(len(load.requests))
        played.append(
            Played(contender.name, contender.mode, report.block_hit_ratio, held, report.refused_blocks, report.wrong_values, simulated)
        )
    yardsticks = []
    for policy in YARDSTICKS:
        yardsticks.append(simulate(load.requests, policy=policy, capacity=max(1, played[0].blocks_held), mode=Mode.PLAIN))
        on_progress(len(load.requests))
    return Outcome(load.name, maxmemory_bytes, tuple(played), tuple(yardsticks))


def play(server: Server, requests: Sequence[Request], mode: Mode, value_bytes: int) -> ReplayReport:
    """Replay on one connection, so that the order is the trace's."""
    plan = ReplayPlan(
        url=f"redis://{server.host}:{server.port}",
        mode=mode,
        value_size_bytes=value_bytes,
        connections=1,
        key_prefix=b"kv:",
        speed=None,
        inflight_limit_bytes=INFLIGHT_BYTES,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(Replay(plan).run(requests))
    if report.stopped_because is not None:
        raise BenchError(f"{server.label} was lost: {report.stopped_because}")
    return report


def table(outcomes: Sequence[Outcome], value_bytes: int) -> Table:
    """A line for each load and size."""
    out = Table(
        title=f"Block hit ratios, values of {value_bytes:,} bytes",
        caption="Sim: kvcd's simulator with the number of blocks that kvcd held. Yardsticks simulated with the same number. Ahead: the\n"
        "lesser of kvcd's two modes beyond the better LRU.",
    )
    headings = ("load", "MiB", "blocks", "kvcd prefix", "sim", "kvcd plain", "sim", "redis", "lru", "leaf-lru", "optimum", "ahead")
    for heading in headings:
        out.add_column(heading, justify="left" if heading == "load" else "right")
    before = ""
    for outcome in outcomes:
        if before and outcome.load != before:
            out.add_section()
        before = outcome.load
        prefix, plain, redis = outcome.played
        ahead = min(outcome.profit(prefix), outcome.profit(plain))
        out.add_row(
            outcome.load,
            f"{outcome.maxmemory_bytes >> 20}",
            f"{outcome.capacity_blocks:,}",
            *(text for one in (prefix, plain) for text in (f"{one.block_hit_ratio:.4f}", _ratio(one.simulated))),
            f"{redis.block_hit_ratio:.4f}",
            *(f"{one.block_hit_ratio:.4f}" for one in outcome.yardsticks),
            f"[{'yellow' if ahead < PROFIT_LIMIT else 'green'}]{ahead:+.4f}[/]",
        )
    return out


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.4f}"


def draw(outcomes: Sequence[Outcome], folder: Path) -> None:
    """A picture of each load, with the servers as lines beside the yardsticks'."""
    folder.mkdir(parents=True, exist_ok=True)
    for load in dict.fromkeys(outcome.load for outcome in outcomes):
        lines: list[Simulation] = []
        for outcome in outcomes:
            if outcome.load != load:
                continue
            lines += outcome.yardsticks
            pattern = outcome.yardsticks[0]
            for one in outcome.played:
                lines.append(
                    Simulation(
                        **asdict(pattern)
                        | {"policy": f"{one.contender} {one.mode}", "mode": one.mode, "block_hit_ratio": one.block_hit_ratio}
                    )
                )
        (folder / f"{load}.svg").write_text(chart(lines, title=f"{load}: block hit ratio, servers and yardsticks"))


def as_json(outcomes: Sequence[Outcome], value_bytes: int) -> dict[str, Any]:
    """Return every figure as plain data."""
    return {"machine": machine(), "value_bytes": value_bytes, "outcomes": [asdict(outcome) for outcome in outcomes]}


if __name__ == "__main__":
    typer.run(main)
