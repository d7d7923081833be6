"""``kvcd replay``: plays a trace against a Redis-protocol server and reports hits, speed and every wrong byte."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kvcd.replay_engine import Mode, Replay, ReplayError, ReplayPlan, ServerFacts, display_url
from kvcd.replay_tally import ReplayReport, Tally
from kvcd.replay_values import MAX_VALUE_SIZE_BYTES
from kvcd.trace import Request, TraceError, read_trace

MAX_CONNECTIONS = 1_000
_EXIT_BAD_INPUT = 2


def replay(
    trace: Annotated[
        Path, typer.Argument(help="A trace in Mooncake's format: jsonl with timestamp, input_length, output_length, hash_ids.")
    ],
    url: Annotated[
        str, typer.Option(help="The server: redis://HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DATABASE, unix://PATH.")
    ] = "redis://127.0.0.1:6379",
    mode: Annotated[Mode, typer.Option(help="plain: EXISTS, GET, SET, on any server; prefix: the PREFIX commands.")] = Mode.PLAIN,
    value_size: Annotated[int, typer.Option(min=1, max=MAX_VALUE_SIZE_BYTES, metavar="BYTES", help="Size of each block's value.")] = 4096,
    speed: Annotated[str, typer.Option(metavar="max|Nx", help="As fast as the server answers, or N times the trace's clock.")] = "max",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N requests.")] = None,
    connections: Annotated[int, typer.Option(min=1, max=MAX_CONNECTIONS, metavar="N", help="1 makes the outcome exactly repeatable.")] = 8,
    key_prefix: Annotated[str, typer.Option(help="Keys are this and the block's id.")] = "kv:",
    inflight_mib: Annotated[int, typer.Option(min=1, metavar="MIB", help="Values on their way at once; at least one per connection.")] = 64,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON; - for standard output.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no table.")] = False,
) -> None:
    """Play a trace as an inference node would: look up the prefix, get what is there, set what is missing.

    Every value read is compared with what was written, byte for byte.

    Exit code 0: done, all bytes right; 1: a wrong byte or a lost server; 2: could not begin; 130: interrupted.
    """
    try:
        plan = ReplayPlan(
            url=url,
            mode=mode,
            value_size_bytes=value_size,
            connections=connections,
            key_prefix=key_prefix.encode(),
            speed=parse_speed(speed),
            inflight_limit_bytes=inflight_mib << 20,
        )
        requests = read_trace(trace, limit=limit)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            facts, report = runner.run(_play(plan, requests, show_progress=not quiet and sys.stderr.isatty()))
    except (TraceError, ReplayError, ValueError) as error:
        _fail(str(error))
    if not quiet:
        # a JSON report on standard output stays alone there
        _print_report(Console(stderr=json_file == Path("-")), facts, report, title=f"{trace.name}, {mode}, {display_url(url)}")
    if json_file is not None:
        _write_json(json_file, trace, plan, facts, report)
    raise typer.Exit(report.exit_code)


def parse_speed(text: str) -> float | None:
    """``max`` is None; ``10x`` (or ``10``) is 10.0. Raises ``ValueError`` for anything else."""
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise ValueError(f"--speed {text}: expected max, or a factor such as 1x or 10x")
    return speed


async def _play(plan: ReplayPlan, requests: list[Request], *, show_progress: bool) -> tuple[ServerFacts, ReplayReport]:
    """Check the server, then play; the first Ctrl-C or SIGTERM ends the replay early, a second one at once."""
    run = Replay(plan)
    facts = await run.check_server()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    stops = iter((run.stop,))

    def on_signal() -> None:
        next(stops, task.cancel)()

    with ExitStack() as cleanup:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
            cleanup.callback(loop.remove_signal_handler, number)
        on_progress = cleanup.enter_context(_progress_bar(len(requests))) if show_progress else None
        return facts, await run.run(requests, on_progress)


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[Tally], None]]:
    """A bar on standard error that also shows the hit ratio so far; yields the function that moves it."""
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TextColumn("hits {task.fields[hits]:.3f}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=total, hits=0.0)

        def move(tally: Tally) -> None:
            progress.update(task, completed=tally.requests, hits=tally.hit_blocks / tally.blocks if tally.blocks else 0.0)

        yield move


def _print_report(console: Console, facts: ServerFacts, report: ReplayReport, *, title: str) -> None:
    table = Table("figure", title=title, caption=f"{facts.name} {facts.version}")
    table.add_column("value", justify="right")
    table.add_row("requests", f"{report.requests:,}")
    table.add_row("block hit ratio", f"{report.block_hit_ratio:.4f}  ({report.hit_blocks:,} of {report.blocks:,})")
    table.add_row("token hit ratio", f"{report.token_hit_ratio:.4f}  ({report.hit_tokens:,} of {report.tokens:,})")
    table.add_row("promised by look-ups", f"{report.looked_up_block_ratio:.4f}  ({report.looked_up_blocks:,})")
    table.add_row("blocks written / refused", f"{report.written_blocks:,} / {report.refused_blocks:,}")
    table.add_row("requests/s", f"{report.requests_per_s:,.1f}")
    table.add_row("MB/s read / written", f"{report.read_megabytes_per_s:,.1f} / {report.written_megabytes_per_s:,.1f}")
    for name, times in report.operations.items():
        table.add_row(f"{name} p50 / p90 / p99", f"{times.p50_ms:.3f} / {times.p90_ms:.3f} / {times.p99_ms:.3f} ms")
    if report.lateness_max_s > 0:
        table.add_row("latest start after its time", f"{report.lateness_max_s:.3f} s")
    for label, error in report.errors.items():
        table.add_row(f"errors {escape(label)}", f"{error.count:,}  ({escape(error.example)})", style="yellow")
    table.add_row("wrong values", f"{report.wrong_values:,}", style="bold red" if report.wrong_values else "green")
    console.print(table)
    for example in report.wrong_examples:
        console.print(f"wrong: {example}", style="red", markup=False, soft_wrap=True)
    if report.stopped_because is not None:
        console.print(report.stopped_because, style="red", markup=False, soft_wrap=True)
    if report.interrupted:
        console.print("interrupted: the figures cover what was done until then")


def _write_json(path: Path, trace: Path, plan: ReplayPlan, facts: ServerFacts, report: ReplayReport) -> None:
    described = dataclasses.asdict(plan) | {"url": display_url(plan.url), "key_prefix": plan.key_prefix.decode()}
    text = orjson.dumps(
        {"trace": trace.name, "plan": described, "server": facts, "result": report}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    )
    if path == Path("-"):
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        return
    try:
        path.write_bytes(text)
    except OSError as error:
        _fail(f"{path}: {error.strerror or error}")


def _fail(message: str) -> NoReturn:
    """Print ``message`` to standard error and leave with the exit code for bad input."""
    Console(stderr=True, highlight=False).print(f"kvcd replay: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(_EXIT_BAD_INPUT)
