"""``python -m bench.full_pool``: what SET and GET cost and take while every SET has to evict, beside redis-server."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from bench.__main__ import candidate_command
from bench.measure import timed
from bench.report import machine
from bench.servers import BenchError, Server, running
from bench.wire import Connection, WireError, encode

SIZES_BYTES = (64, 4096, 60_000, 1_048_576)
TURN_SIZES_BYTES = (60_000, 1_048_576, 33_554_432, 134_217_728)
DEPTH = 32  # requests of a batch,
BATCH_BYTES = 4_194_304  # as many as have so many bytes of values
RUNS = 6  # SET and GET at a rate, one by one, and in batches
WARM_UP = 0.25  # of a case's time runs unmeasured before it: the policy is in its stride, books are in the caches
LOAD_BYTES = 1_048_576  # of values in one batch while the pool is filled
PING_EVERY_S = 0.001
OK, MISS = b"+OK\r\n", b"$-1\r\n"
REDIS = 'redis-server --port {{port}} --save "" --appendonly no --maxmemory {maxmemory} --maxmemory-policy {policy}'
KVCD = "{command} --maxmemory {maxmemory} --maxmemory-policy {policy} --index-entries {entries}"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server under one policy."""

    name: str
    target: str

    @classmethod
    def kvcd(cls, policy: str, *, maxmemory_mib: int, smallest_bytes: int) -> Contender:
        """kvcd, with an index that has twice the entries that fit."""
        entries = max(65_536, maxmemory_mib * 1_048_576 // (smallest_bytes + 64) * 2)
        command = KVCD.format(command=candidate_command(), maxmemory=f"{maxmemory_mib}mb", policy=policy, entries=entries)
        return cls(f"kvcd {policy}", f"{command} --pool-size {maxmemory_mib + maxmemory_mib // 4 + entries * 40 // 1_048_576 + 32}mb")

    @classmethod
    def redis(cls, policy: str, *, maxmemory_mib: int) -> Contender:
        """redis-server, which needs no further memory of its own inside the limit."""
        return cls(f"redis {policy}", REDIS.format(maxmemory=f"{maxmemory_mib}mb", policy=policy))


@dataclass(frozen=True, slots=True)
class Figures:
    """One case on one server."""

    server: str
    value_bytes: int
    command: str
    load: str  # "one by one", "batches", or the operations a second that were asked for
    operations: int
    operations_per_s: float
    processor_us: float
    evicted_per_operation: float
    p50_us: float
    p99_us: float
    p999_us: float
    worst_us: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One SET into a pool of small values: what it took, and what others waited meanwhile."""

    server: str
    value_bytes: int
    set_ms: float
    processor_ms: float
    evicted: int
    waited_p50_us: float
    waited_worst_ms: float


class Filled:
    """A server that was filled beyond its limit, and what its keys are called: the newest are there."""

    def __init__(self, server: Server, connection: Connection, value_bytes: int, limit_bytes: int, *, evicts: bool = True) -> None:
        """Write until a tenth of what was written is evicted; half of the limit where nothing is, and from then on the same keys."""
        self.server = server
        self.evicts = evicts
        self.connection = connection
        self.value = b"x" * value_bytes
        self.next_number = 0
        self.resident = 0
        batch = max(1, min(1000, LOAD_BYTES // value_bytes))
        most = limit_bytes // value_bytes * 2 + 1000 if evicts else limit_bytes // (value_bytes + 128) // 2 - batch * 16
        while evicted(connection) * 10 <= self.next_number < most or self.next_number == 0:
            for _ in range(16):
                numbers = range(self.next_number, self.next_number + batch)
                connection.ask(b"".join(encode(b"SET", name(number), self.value) for number in numbers), b"+OK\r\n" * batch)
                self.next_number += batch
        self.resident = self.next_number - evicted(connection)

    def requests(self, command: str) -> Iterator[tuple[bytes, bytes]]:
        """Requests and their replies: SETs of new keys (where something is evicted), or GETs of the newest quarter, nearly all there."""
        choose = random.Random(7)
        written = 0
        hit = b"$%d\r\n%s\r\n" % (len(self.value), self.value)
        while True:
            if command == "SET":
                number = self.next_number if self.evicts else written % self.resident
                yield encode(b"SET", name(number), self.value), OK
                self.next_number += self.evicts
                written += 1
            else:
                yield encode(b"GET", name(self.next_number - 1 - choose.randrange(max(1, self.resident // 4)))), hit


def name(number: int) -> bytes:
    """The key of this number."""
    return b"full:%012d" % number


def evicted(connection: Connection) -> int:
    """How many values the server has evicted so far."""
    for line in stats(connection).splitlines():
        if line.startswith(b"evicted_keys:"):
            return int(line.partition(b":")[2])
    raise WireError("INFO stats has no evicted_keys")


def stats(connection: Connection) -> bytes:
    """INFO stats as it came."""
    connection.send(encode(b"INFO", b"stats"))
    head = bytearray()
    byte = bytearray(1)
    while not head.endswith(b"\r\n"):
        connection.receive_into(memoryview(byte), 1)
        head += byte
    body = bytearray(int(head[1:]) + 2)
    connection.receive_into(memoryview(body), len(body))
    return bytes(body)


def measure(contender: str, filled: Filled, command: str, *, rate: float, depth: int, seconds: float) -> Figures:
    """Ask ``depth`` requests at a time, as fast as they are answered (``rate`` 0) or so many a second, and time them.

    At a rate a request's time begins when it was due: one that is late because of the one before pays for it.
    """
    requests = filled.requests(command)
    _ask(filled.connection, requests, rate, depth, seconds * WARM_UP)
    before = evicted(filled.connection)
    with timed(filled.server) as watch:
        times_s = _ask(filled.connection, requests, rate, depth, seconds)
    gone = evicted(filled.connection) - before
    ordered, operations = sorted(times_s), len(times_s) * depth
    return Figures(
        contender, len(filled.value), command, f"{rate:.0f}/s" if rate else "one by one" if depth == 1 else "batches", operations,
        operations / watch.elapsed_s, watch.processor_s * 1e6 / operations, gone / operations,
        *(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e6 for share in (0.5, 0.99, 0.999, 1)),
    )  # fmt: skip


def _ask(connection: Connection, requests: Iterator[tuple[bytes, bytes]], rate: float, depth: int, seconds: float) -> list[float]:
    """Latencies in seconds. A GET that misses is answered shortly, and counts like any other."""
    out: list[float] = []
    buffer = memoryview(bytearray(BATCH_BYTES + 64))
    began_s = time.perf_counter()
    for number in count():
        batch = [next(requests) for _ in range(depth)]
        text = b"".join(request for request, _ in batch) if depth > 1 else batch[0][0]
        due_s = began_s + number / rate if rate else time.perf_counter()
        if due_s - began_s > seconds:
            return out
        while rate and (left_s := due_s - time.perf_counter()) > 0:
            if left_s > 0.0002:
                time.sleep(left_s - 0.0001)
        connection.send(text)
        if batch[0][1] == OK:
            connection.expect(OK * depth, bytearray(len(OK) * depth))
        else:
            for _, reply in batch:
                _receive(connection, reply, buffer)
        out.append(time.perf_counter() - due_s)
    return out


def _receive(connection: Connection, reply: bytes, buffer: memoryview) -> None:
    connection.receive_into(buffer, len(MISS))
    if buffer[: len(MISS)] == reply[: len(MISS)]:
        connection.receive_into(buffer, len(reply) - len(MISS))
    elif buffer[: len(MISS)] != MISS:
        raise WireError(f"got {bytes(buffer[: len(MISS)])!r} where {reply[: len(MISS)]!r} was due")


@contextmanager
def waiting_client(server: Server) -> Iterator[list[float]]:
    """Another client that sends PING every millisecond for as long as the block runs; its times in seconds."""
    times_s: list[float] = []
    ended = threading.Event()

    def ping() -> None:
        with Connection(server.host, server.port) as connection:
            while not ended.wait(PING_EVERY_S):
                began_s = time.perf_counter()
                connection.ask(b"PING\r\n", b"+PONG\r\n")
                times_s.append(time.perf_counter() - began_s)

    client = threading.Thread(target=ping)
    client.start()
    try:
        yield times_s
    finally:
        ended.set()
        client.join()


def turn(contender: str, filled: Filled, value_bytes: int) -> Turn:
    """One large SET into the pool of small values."""
    value = encode(b"SET", b"large:%d" % value_bytes, b"y" * value_bytes)
    before = evicted(filled.connection)
    with waiting_client(filled.server) as waits_s:
        time.sleep(0.1)
        with timed(filled.server) as watch:
            filled.connection.ask(value, b"+OK\r\n")
        time.sleep(0.05)
    ordered = sorted(waits_s)
    return Turn(
        contender, value_bytes, watch.elapsed_s * 1e3, watch.processor_s * 1e3, evicted(filled.connection) - before,
        ordered[len(ordered) // 2] * 1e6, ordered[-1] * 1e3,
    )  # fmt: skip


def main(
    sizes: Annotated[str, typer.Option(help="Bytes of the values, with commas between.")] = ",".join(map(str, SIZES_BYTES)),
    maxmemory_mib: Annotated[int, typer.Option(min=16, help="maxmemory of both, in MiB.")] = 128,
    policies: Annotated[
        str, typer.Option(help="kvcd's, with commas between; redis-server runs allkeys-lru. noeviction overwrites in a half full pool.")
    ] = "allkeys-prefix,allkeys-lru",
    rate: Annotated[float, typer.Option(min=1, help="Operations a second of the runs at a rate.")] = 500,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each run.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each case; the servers take turns, and medians count.")] = 5,
    turns: Annotated[str, typer.Option(help="Bytes of the values that a pool of 64-byte values turns to; empty: none.")] = ",".join(
        map(str, TURN_SIZES_BYTES)
    ),
    turn_mib: Annotated[int, typer.Option(min=16, help="maxmemory of that pool, in MiB.")] = 512,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
) -> None:
    """Fill each server beyond its maxmemory; then SET new keys and GET present ones, and SET large values into a pool of small ones."""
    console = Console(stderr=True, highlight=False)
    console.print(f"{maxmemory_mib} MiB; {machine()}", markup=False, soft_wrap=True)
    figures: list[Figures] = []
    turned: list[Turn] = []
    try:
        for value_bytes in map(int, sizes.split(",") if sizes else ()):
            entrants = contenders(policies, maxmemory_mib, value_bytes)
            for number, found in contest(entrants, value_bytes, maxmemory_mib * 1_048_576, rate=rate, seconds=seconds, rounds=rounds):
                console.print(f"{value_bytes} B, run {number} of {RUNS}", markup=False)
                figures += found
        if turns:
            for contender in contenders(policies, turn_mib, 64):
                console.print(f"a pool of small values turns, {contender.name}", markup=False)
                turned += turns_of(contender, [int(size) for size in turns.split(",")], turn_mib * 1_048_576)
    except (BenchError, WireError, OSError) as error:
        console.print(f"bench: {error}", markup=False)
        raise typer.Exit(1) from error
    out = Console(width=None if sys.stdout.isatty() else 140)
    if figures:
        out.print(table(figures))
    if turned:
        out.print(turn_table(turned))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        plain = {"machine": machine(), "figures": [asdict(one) for one in figures], "turns": [asdict(one) for one in turned]}
        json_file.write_bytes(orjson.dumps(plain, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def contenders(policies: str, maxmemory_mib: int, smallest_bytes: int) -> list[Contender]:
    """kvcd under each policy, and redis-server."""
    ours = [Contender.kvcd(policy, maxmemory_mib=maxmemory_mib, smallest_bytes=smallest_bytes) for policy in policies.split(",")]
    return [*ours, Contender.redis("allkeys-lru", maxmemory_mib=maxmemory_mib)]


def contest(
    entrants: list[Contender], value_bytes: int, limit_bytes: int, *, rate: float, seconds: float, rounds: int
) -> Iterator[tuple[int, list[Figures]]]:
    """All runs of one size: number, and the figures of each server; these take turns, and the medians of the rounds count."""
    depth = max(2, min(DEPTH, BATCH_BYTES // value_bytes))
    with ExitStack() as opened:
        filled: list[Filled] = []
        servers = [opened.enter_context(running(entrant.name, entrant.target)) for entrant in entrants]
        opened.enter_context(on_processors_of_their_own(*servers))
        for entrant, server in zip(entrants, servers, strict=True):
            connection = opened.enter_context(Connection(server.host, server.port))
            filled.append(Filled(server, connection, value_bytes, limit_bytes, evicts="noeviction" not in entrant.name))
        runs = [(command, speed, together) for command in ("SET", "GET") for speed, together in ((rate, 1), (0, 1), (0, depth))]
        for number, (command, speed, together) in enumerate(runs, 1):
            measured: list[list[Figures]] = [[] for _ in entrants]
            for turn_number in range(rounds):
                for place in range(len(entrants)):
                    which = (place + turn_number) % len(entrants)
                    measured[which].append(
                        measure(entrants[which].name, filled[which], command, rate=speed, depth=together, seconds=seconds)
                    )
            yield number, [middle(found) for found in measured]


def middle(found: list[Figures]) -> Figures:
    """The median of each figure."""
    plain: list[dict[str, Any]] = [asdict(one) for one in found]
    numbers = {name: median(one[name] for one in plain) for name, value in plain[0].items() if not isinstance(value, str)}
    return replace(found[0], **numbers)


@contextmanager
def on_processors_of_their_own(*servers: Server) -> Iterator[None]:
    """The servers, of which one works at a time, on one processor and this client on another, where there are two.

    Sharing one at times makes times jump twofold. Servers are started before: they inherit what this client may use.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        yield
        return
    for server in servers:
        for thread in Path(f"/proc/{server.process_id}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {usable[-1]})
    os.sched_setaffinity(0, set(usable[:-1]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(usable))


def turns_of(contender: Contender, sizes_bytes: list[int], limit_bytes: int) -> list[Turn]:
    """Each large value in turn, into a pool that is full of small ones."""
    with (
        running(contender.name, contender.target) as server,
        on_processors_of_their_own(server),
        Connection(server.host, server.port) as connection,
    ):
        filled = Filled(server, connection, 64, limit_bytes)
        return [turn(contender.name, filled, value_bytes) for value_bytes in sizes_bytes]


def table(figures: list[Figures]) -> Table:
    """All figures, one line for each run."""
    out = Table(
        title="A full pool", caption="One client. CPU: the server's processor time per operation. Times of batches are whole batches'."
    )
    for heading in ("value", "command", "load", "server", "op/s", "CPU µs", "evicted/op", "p50 µs", "p99 µs", "p99.9 µs", "worst µs"):
        out.add_column(heading, justify="left" if heading in ("command", "server") else "right")
    ordered = sorted(figures, key=lambda one: (one.value_bytes, one.command != "SET", one.load[0] == "b", one.load[0] == "o"))
    runs = [(one.value_bytes, one.command, one.load) for one in ordered]
    for one, run, following in zip(ordered, runs, [*runs[1:], None], strict=True):
        out.add_row(
            f"{one.value_bytes:,}", one.command, one.load, one.server, f"{one.operations_per_s:,.0f}", f"{one.processor_us:.1f}",
            f"{one.evicted_per_operation:.2f}", *(f"{value:,.0f}" for value in (one.p50_us, one.p99_us, one.p999_us, one.worst_us)),
            end_section=run != following,
        )  # fmt: skip
    return out


def turn_table(turned: list[Turn]) -> Table:
    """What large values cost in a pool of small ones."""
    out = Table(title="A pool of 64-byte values takes one large value", caption="Others: a client that sends PING every millisecond.")
    for heading in ("value", "server", "SET ms", "CPU ms", "evicted", "others p50 µs", "others' worst ms"):
        out.add_column(heading, justify="left" if heading == "server" else "right")
    for one in sorted(turned, key=lambda one: one.value_bytes):
        out.add_row(
            f"{one.value_bytes:,}", one.server, f"{one.set_ms:,.1f}", f"{one.processor_ms:,.1f}", f"{one.evicted:,}",
            f"{one.waited_p50_us:,.0f}", f"{one.waited_worst_ms:,.2f}",
        )  # fmt: skip
    return out


if __name__ == "__main__":
    typer.run(main)
