"""``python -m bench.restart``: time from SIGKILL to the first GET that hits, beside redis-server loading its RDB."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
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
from bench.report import machine
from bench.servers import BenchError
from bench.wire import Connection, WireError, encode

ANSWER_LIMIT_S = 120.0
PAUSE_S = 0.001  # between two attempts to connect
LOAD_BATCH = 1_000
REDIS = 'redis-server --port {port} --bind 127.0.0.1 --save "" --appendonly no --dir {folder}'


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, where it keeps its keys, and what it must be told before it is killed."""

    name: str
    command: str  # with {port} and {folder}
    folder: Path
    before_kill: bytes = b""  # a command that is answered with +OK once everything lies on the disk


@dataclass(frozen=True, slots=True)
class Restart:
    """One kill: seconds until somebody listened, and until a GET hit."""

    listening_s: float
    hit_s: float
    keys_there: int


def main(
    keys: Annotated[int, typer.Option(min=1000, help="How many keys there are.")] = 1_000_000,
    value_bytes: Annotated[int, typer.Option(min=1, help="Size of each value.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="How often each is killed; medians count.")] = 5,
    pool_size: Annotated[str, typer.Option(help="Of kvcd's pool.")] = "1gb",
    disk: Annotated[Path | None, typer.Option(help="A folder on a disk; the working folder's file system when left out.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
) -> None:
    """Fill each server, kill it (SIGKILL), start it again, and ask for a key until it is there."""
    console = Console(stderr=True, highlight=False)
    console.print(f"{keys} keys of {value_bytes} B, {rounds} kills each; {machine()}", markup=False, soft_wrap=True)
    results: dict[str, list[Restart]] = {}
    try:
        with ExitStack() as stack, Progress(console=console) as progress:
            memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvcd-bench-", dir="/dev/shm")))
            storage = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvcd-bench-", dir=disk or Path.cwd())))
            kvcd = f"{candidate_command()} --pool file:{{folder}}/pool --pool-size {pool_size} --index-entries {max(keys * 2, 1_048_576)}"
            contenders = [
                Contender("kvcd, file on tmpfs", kvcd, memory),
                Contender("kvcd, file on disk", kvcd, storage),
                Contender("redis-server, RDB on tmpfs", REDIS, memory, encode(b"SAVE")),
                Contender("redis-server, RDB on disk", REDIS, storage, encode(b"SAVE")),
            ]
            bar = progress.add_task("", total=len(contenders) * rounds)
            for contender in contenders:
                progress.update(bar, description=contender.name)
                results[contender.name] = contest(
                    contender, keys=keys, value_bytes=value_bytes, rounds=rounds, tell=lambda: progress.advance(bar)
                )
    except (BenchError, WireError, OSError) as error:
        console.print(f"bench: {error}", markup=False)
        raise typer.Exit(1) from error
    Console(width=None if sys.stdout.isatty() else 120).print(table(results, keys))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(orjson.dumps(as_json(results, keys, value_bytes), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def contest(contender: Contender, *, keys: int, value_bytes: int, rounds: int, tell: Callable[[], object]) -> list[Restart]:
    """Fill the server once, then kill and start it again and again."""
    process, port = start(contender)
    try:
        until_hit(process, port, None)
        fill(port, keys, value_bytes)
        out = []
        for _ in range(rounds):
            if contender.before_kill:
                with Connection("127.0.0.1", port) as connection:
                    connection.ask(contender.before_kill, b"+OK\r\n")
            began_s = time.monotonic()
            process.send_signal(signal.SIGKILL)
            process.wait()
            process, port = start(contender)
            listening_s, hit_s = until_hit(process, port, b"$%d\r\n" % value_bytes)
            out.append(Restart(listening_s - began_s, hit_s - began_s, count(port)))
            tell()
    finally:
        process.kill()
        process.wait()
    return out


def start(contender: Contender) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = [word.replace("{port}", str(port)).replace("{folder}", str(contender.folder)) for word in shlex.split(contender.command)]
    try:
        log = (contender.folder / "log").open("ab")
        with log:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log), port
    except OSError as error:
        raise BenchError(f"{contender.name}: {words[0]}: {error.strerror}") from error


def until_hit(process: subprocess.Popen[bytes], port: int, hit: bytes | None) -> tuple[float, float]:
    """Ask for a key until the answer begins so (None: any answer); when it listened, and when it answered, monotonic seconds."""
    deadline_s = time.monotonic() + ANSWER_LIMIT_S
    listening_s = 0.0
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT_S) as connection:
                listening_s = listening_s or time.monotonic()
                connection.sendall(encode(b"GET", b"key:%012d" % 1))
                answer = connection.recv(4096)
        except ConnectionError:
            answer = b""
        if answer and (hit is None or answer.startswith(hit)):
            return listening_s, time.monotonic()
        time.sleep(PAUSE_S)
    raise BenchError(f"no hit within {ANSWER_LIMIT_S:.0f} s (exit status {process.poll()})")


def fill(port: int, keys: int, value_bytes: int) -> None:
    """Write all keys."""
    value = b"x" * value_bytes
    with Connection("127.0.0.1", port) as connection:
        for first in range(0, keys, LOAD_BATCH):
            numbers = range(first, min(first + LOAD_BATCH, keys))
            batch = b"".join(encode(b"SET", b"key:%012d" % number, value) for number in numbers)
            connection.ask(batch, b"+OK\r\n" * len(numbers))


def count(port: int) -> int:
    """Return DBSIZE."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT_S) as connection:
        connection.sendall(encode(b"DBSIZE"))
        return int(connection.recv(100)[1:-2])


def table(results: dict[str, list[Restart]], keys: int) -> Table:
    """Medians and the slowest of each."""
    out = Table(title=f"From SIGKILL to the first GET that hits, {keys:,} keys", caption="With the start of the process. Redis had saved.")
    for heading in ("server", "listens s", "hits s", "slowest s", "keys there"):
        out.add_column(heading, justify="left" if heading == "server" else "right")
    for name, restarts in results.items():
        out.add_row(
            name,
            f"{median(one.listening_s for one in restarts):.2f}",
            f"{median(one.hit_s for one in restarts):.2f}",
            f"{max(one.hit_s for one in restarts):.2f}",
            f"{min(one.keys_there for one in restarts):,}",
        )
    return out


def as_json(results: dict[str, list[Restart]], keys: int, value_bytes: int) -> dict[str, Any]:
    """Return every figure as plain data."""
    return {
        "machine": machine(),
        "cores": os.cpu_count(),
        "keys": keys,
        "value_bytes": value_bytes,
        "restarts": {
            name: [{"listening_s": one.listening_s, "hit_s": one.hit_s, "keys_there": one.keys_there} for one in restarts]
            for name, restarts in results.items()
        },
    }


if __name__ == "__main__":
    typer.run(main)
