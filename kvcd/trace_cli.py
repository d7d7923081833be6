"""``kvcd trace``: generates traces and prints what a trace asks of a cache."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table

from kvcd.trace import TraceError, TraceStatistics, read_trace, summarize, write_trace
from kvcd.trace_generate import CONVERSATION_REQUESTS, MAX_REQUESTS, Shape
from kvcd.trace_generate import generate as generate_requests

trace_app = typer.Typer(help="Make traces of prompts, and look at them.", no_args_is_help=True)

_EXIT_BAD_INPUT = 2


@trace_app.command()
def generate(
    requests: Annotated[int, typer.Option(min=1, max=MAX_REQUESTS, help="How many requests.")] = CONVERSATION_REQUESTS,
    seed: Annotated[int, typer.Option(help="The same seed gives the same trace.")] = 0,
    shape: Annotated[Shape, typer.Option(help="conversation has the statistics of Mooncake's conversation trace.")] = Shape.CONVERSATION,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; standard output when left out.")] = None,
) -> None:
    """Write a Mooncake-format trace: one JSON object per line, block ids that stand for 512 tokens each."""
    trace = generate_requests(shape, requests=requests, seed=seed)
    if output is None:
        write_trace(trace, sys.stdout.buffer)
        return
    try:
        with output.open("wb") as file:
            write_trace(trace, file)
    except OSError as error:
        _fail(f"{output}: {error.strerror or error}")


@trace_app.command()
def stats(
    file: Annotated[Path, typer.Argument(help="A trace in Mooncake's format.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print a trace's size, reuse, and the hit ratio of a cache that never forgets."""
    try:
        statistics = summarize(read_trace(file))
    except TraceError as error:
        _fail(str(error))
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(statistics, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
    else:
        Console().print(_table(file, statistics))


def _table(file: Path, statistics: TraceStatistics) -> Table:
    table = Table("statistic", title=str(file))
    table.add_column("value", justify="right")
    for name, value in dataclasses.asdict(statistics).items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:,.4f}")
    return table


def _fail(message: str) -> NoReturn:
    """Print ``message`` to standard error and leave with the exit code for bad input."""
    Console(stderr=True, highlight=False).print(f"kvcd trace: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(_EXIT_BAD_INPUT)
