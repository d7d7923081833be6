"""``kvcd check-snapshot``: verifies a snapshot and says what it holds, without a server."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from kvcd.snapshot_reader import Snapshot, SnapshotError, Summary

_EXIT_DAMAGED = 1
_DATABASES_MAX = 256  # what a pool can hold at most


def check_snapshot(
    file: Annotated[Path, typer.Argument(help="An RDB file of kvcd or of redis-server.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Read a snapshot from its beginning to its checksum and say whether a server could load it; exit status 0 or 1."""
    try:
        summary = _verify(file, shows_progress=not as_json)
    except (SnapshotError, FileNotFoundError) as error:
        _refuse(file, error, as_json=as_json)
        raise typer.Exit(_EXIT_DAMAGED) from None
    if as_json:
        facts = {**asdict(summary), "databases": {str(number): keys for number, keys in summary.databases.items()}}
        _print_json({"ok": True, "file": str(file), **facts})
    else:
        Console(highlight=False).print(_table(file, summary))


def _verify(file: Path, *, shows_progress: bool) -> Summary:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Snapshot(str(file)) as snapshot, Progress(
        *columns, console=console, transient=True, disable=not shows_progress or not console.is_terminal
    ) as bar:
        task = bar.add_task("verifying", total=snapshot.size_bytes)
        return snapshot.verify(
            databases=_DATABASES_MAX,
            now_ms=int(time.time() * 1000),
            progress=lambda read_bytes, _size_bytes, _keys: bar.update(task, completed=read_bytes),
        )


def _table(file: Path, summary: Summary) -> Table:
    table = Table("snapshot", title=str(file))
    table.add_column("whole", justify="right")
    rows: dict[str, object] = {
        "written by": " ".join(f"{name} {summary.facts[name]}" for name in ("redis-ver", "kvcd-ver") if name in summary.facts),
        "format version": summary.version,
        "bytes": summary.size_bytes,
        "keys": summary.keys,
        "with an expiry": summary.expires,
        "of these expired": summary.expired,
        "bytes of values": summary.value_bytes,
        "largest value": summary.largest_value_bytes,
        "checksum": "right" if summary.has_checksum else "none",
    }
    if summary.functions:
        rows["libraries of functions, passed over"] = summary.functions
    rows |= {f"keys of database {number}": keys for number, keys in sorted(summary.databases.items())}
    for name, value in rows.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    return table


def _refuse(file: Path, error: SnapshotError | FileNotFoundError, *, as_json: bool) -> None:
    reason = error.reason if isinstance(error, SnapshotError) else "there is no such file"
    offset = error.offset if isinstance(error, SnapshotError) else None
    if as_json:
        _print_json({"ok": False, "file": str(file), "reason": reason, "offset": offset})
        return
    where = "" if offset is None else f" at byte {offset:,}"
    Console(stderr=True, highlight=False).print(f"kvcd check-snapshot: {file}{where}: {reason}", markup=False, soft_wrap=True)


def _print_json(facts: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()
