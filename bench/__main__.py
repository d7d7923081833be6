"""``python -m bench``: runs every case on kvcd and on redis-server in turn and prints the ratios."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from bench import large_values, longest_prefix, small_values
from bench.measure import Case, Group, Measurement, Median
from bench.report import Row, as_json, machine, table
from bench.servers import BenchError, Server, running
from bench.wire import WireError

REFERENCE = 'redis-server --port {port} --bind 127.0.0.1 --save "" --appendonly no'
GROUPS = {"small": small_values.group, "large": large_values.group, "prefix": longest_prefix.group}
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.5


def candidate_command() -> str:
    """kvcd of the environment that runs the benchmark."""
    script = Path(sys.executable).parent / "kvcd"
    program = str(script) if script.exists() else f"{sys.executable} -m kvcd"
    return f'{program} serve --port {{port}} --bind 127.0.0.1 --save ""'


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Only these groups ({', '.join(GROUPS)}); may be repeated.")] = None,
    match: Annotated[str, typer.Option(help="Only cases whose name holds this text.")] = "",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each server does each case; medians count.")] = 7,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long a case takes in one round on one server.")] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{QUICK_ROUNDS} round of {QUICK_SECONDS} s: does it run, roughly how fast.")
    ] = False,
    candidate: Annotated[
        str, typer.Option(help="Command line with {port}, or redis://HOST:PORT on this machine; kvcd when left out.")
    ] = "",
    reference: Annotated[str, typer.Option(help="The server to compare with, in the same form.")] = REFERENCE,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
) -> None:
    """Measure the server's processor time per operation and the throughput, kvcd beside redis-server."""
    console = Console(stderr=True, highlight=False)
    if quick:
        rounds, seconds = QUICK_ROUNDS, QUICK_SECONDS
    chosen = only or list(GROUPS)
    unknown = [name for name in chosen if name not in GROUPS]
    if unknown:
        console.print(f"bench: no group {unknown[0]}; there are {', '.join(GROUPS)}", markup=False)
        raise typer.Exit(2)
    try:
        with running("candidate", candidate or candidate_command()) as ours, running("reference", reference) as theirs:
            console.print(
                f"{ours.version} (candidate) and {theirs.version} (reference), {rounds} rounds of {seconds} s; {machine()}",
                markup=False,
                soft_wrap=True,
            )
            rows = [row for name in chosen for row in _measure_group(GROUPS[name](), ours, theirs, match, rounds, seconds, console)]
            if not rows:
                raise BenchError(f"no case holds {match!r} in its name")
            settings = {"rounds": rounds, "seconds": seconds, "groups": chosen, "match": match}
            _show(rows, ours, theirs, settings, json_file)
    except (BenchError, WireError, OSError) as error:
        console.print(f"bench: {error}", markup=False)
        raise typer.Exit(1) from error


def _measure_group(group: Group, ours: Server, theirs: Server, match: str, rounds: int, seconds: float, console: Console) -> list[Row]:
    """Load both servers, then run the group's cases on them in turn."""
    cases = [case for case in group.cases if match in case.name]
    if not cases:
        return []
    servers = (ours, theirs)
    for server in servers:
        with server.client() as client:
            client.flushall()
        group.load(server)
    known = {(server.label, way.command): server.knows(way.command) for server in servers for case in cases for way in case.ways}
    rows = []
    for case in cases:
        row = _measure_case(case, servers, known, rounds, seconds)
        console.print(f"{case.name}: CPU ratio {row.processor_ratio:.2f}, rate ratio {row.throughput_ratio:.2f}", markup=False)
        rows.append(row)
    return rows


def _measure_case(case: Case, servers: tuple[Server, Server], known: dict[tuple[str, str], bool], rounds: int, seconds: float) -> Row:
    """Rounds of A B, B A, A B, ...: a machine that grows slower or faster meanwhile does so for both."""
    measured: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for number in range(rounds):
        for server in servers if number % 2 == 0 else servers[::-1]:
            for way in case.ways:
                if known[server.label, way.command]:
                    measured[server.label, way.name].append(way.run(server, seconds))
    candidate, reference = (
        {way: Median.of(measurements) for (label, way), measurements in measured.items() if label == server.label} for server in servers
    )
    return Row(case, candidate, reference)


def _show(rows: list[Row], ours: Server, theirs: Server, settings: dict[str, Any], json_file: Path | None) -> None:
    Console(width=None if sys.stdout.isatty() else 150).print(table(rows, ours, theirs))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(orjson.dumps(as_json(rows, ours, theirs, settings), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    typer.run(main)
