"""``kvcd simulate``: what a trace would hit in a cache of so many blocks, by policy and capacity."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from kvcd.replay_engine import Mode
from kvcd.simulation.catalogue import POLICIES
from kvcd.simulation.chart import chart
from kvcd.simulation.simulator import Simulation
from kvcd.simulation.simulator import simulate as simulate_one
from kvcd.trace import Request, TraceError, read_trace

_EXIT_BAD_INPUT = 2
MAX_CAPACITY_BLOCKS = 100_000_000  # beyond it the heats alone want more memory than machines have


def simulate(
    trace: Annotated[Path, typer.Argument(help="A trace in Mooncake's format, as for `kvcd replay`.")],
    capacity: Annotated[str, typer.Option(metavar="BLOCKS[,BLOCKS...]", help="Sizes of the cache, in blocks.")],
    policy: Annotated[str, typer.Option(metavar="NAME[,NAME...]|all", help=f"{', '.join(POLICIES)}; or all.")] = "all",
    mode: Annotated[
        Mode, typer.Option(help="As for `kvcd replay`: prefix lets allkeys-prefix refuse what is not worth its place.")
    ] = Mode.PREFIX,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N requests.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the hit ratios over the capacity.")] = None,
) -> None:
    """Simulate policies offline: the block hit ratio that `kvcd replay` would report, without a server.

    A block is a hit when it and all blocks before it in its request are there.

    Exit code 0: done; 2: the trace, a name or a capacity is wrong.
    """
    try:
        policies = parse_policies(policy)
        capacities = parse_capacities(capacity)
        if plot is not None and plot.suffix != ".svg":
            raise ValueError(f"--plot {plot}: the picture is an SVG, so the name must end in .svg")
        requests = read_trace(trace, limit=limit)
    except (TraceError, ValueError) as error:
        _fail(str(error))
    simulations = _run(requests, policies, capacities, mode, show_progress=sys.stderr.isatty())
    if as_json:
        report = {"trace": trace.name, "simulations": simulations}
        sys.stdout.buffer.write(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
    else:
        Console().print(_table(simulations, capacities, title=f"block hit ratio: {trace.name}, {mode}"))
    if plot is not None:
        try:
            plot.write_text(chart(simulations, title=f"{trace.name}, {mode}: block hit ratio"))
        except OSError as error:
            _fail(f"{plot}: {error.strerror or error}")


def parse_policies(text: str) -> list[str]:
    """``all``, or names with commas between; each once. Raises ``ValueError`` for an unknown one."""
    names = list(POLICIES) if text == "all" else list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in POLICIES:
            raise ValueError(f"--policy {text}: no policy {name!r}; there are {', '.join(POLICIES)}, and all")
    return names


def parse_capacities(text: str) -> list[int]:
    """Whole numbers with commas between, each once and ascending. Raises ``ValueError`` for anything else."""
    try:
        capacities = sorted({int(part) for part in text.split(",")})
    except ValueError:
        capacities = [0]
    if not 1 <= capacities[0] <= capacities[-1] <= MAX_CAPACITY_BLOCKS:
        raise ValueError(f"--capacity {text}: expected numbers of blocks from 1 to {MAX_CAPACITY_BLOCKS}, with commas between")
    return capacities


def _run(
    requests: Sequence[Request], policies: Sequence[str], capacities: Sequence[int], mode: Mode, *, show_progress: bool
) -> list[Simulation]:
    with _progress_bar(len(requests) * len(policies) * len(capacities), show=show_progress) as on_progress:
        return [
            simulate_one(requests, policy=policy, capacity=capacity, mode=mode, on_progress=on_progress(policy))
            for policy in policies
            for capacity in capacities
        ]


@contextmanager
def _progress_bar(total: int, *, show: bool) -> Iterator[Callable[[str], Callable[[int], None]]]:
    """A bar on standard error that names the policy; yields what makes a policy's progress function."""
    columns = (TextColumn("{task.description:14}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not show) as progress:
        task = progress.add_task("simulate", total=total)

        def of(policy: str) -> Callable[[int], None]:
            progress.update(task, description=policy)
            return lambda played: progress.advance(task, played)

        yield of


def _table(simulations: Sequence[Simulation], capacities: Sequence[int], *, title: str) -> Table:
    table = Table("policy", title=title, caption="capacity in blocks")
    for capacity in capacities:
        table.add_column(f"{capacity:,}", justify="right")
    for policy in dict.fromkeys(simulation.policy for simulation in simulations):
        ratios = (f"{simulation.block_hit_ratio:.4f}" for simulation in simulations if simulation.policy == policy)
        table.add_row(policy, *ratios, style="bold" if policy == "allkeys-prefix" else None)
    return table


def _fail(message: str) -> NoReturn:
    """Print ``message`` to standard error and leave with the exit code for bad input."""
    Console(stderr=True, highlight=False).print(f"kvcd simulate: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(_EXIT_BAD_INPUT)
