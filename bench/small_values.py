"""Small values: redis-benchmark's GET and SET at several pipeline depths."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Callable

from bench.measure import Case, Group, Measurement, Way, timed
from bench.servers import BenchError, Server
from bench.wire import Connection, encode

CLIENTS = 50
KEYS = 100_000
VALUE_SIZE_BYTES = 64
MARKS = {1: 1.2, 16: 0.85, 64: 0.5}  # processor time per operation, kvcd/Redis, by pipeline depth
_CALIBRATION_REQUESTS = 20_000
_LOAD_BATCH = 1_000


def group() -> Group:
    """GET and SET of 64 bytes, 50 clients, every key there."""
    cases = tuple(
        Case("small", f"{command} 64 B, pipeline {depth}", (Way(command, command, _runner(command, depth)),), mark)
        for depth, mark in MARKS.items()
        for command in ("GET", "SET")
    )
    return Group("small", load, cases)


def load(server: Server, *, keys: int = KEYS, value_size_bytes: int = VALUE_SIZE_BYTES) -> None:
    """Fill all keys that redis-benchmark may ask for."""
    value = b"x" * value_size_bytes
    with Connection(server.host, server.port) as connection:
        for first in range(0, keys, _LOAD_BATCH):
            # the key format is redis-benchmark's own
            numbers = range(first, min(first + _LOAD_BATCH, keys))
            connection.ask(b"".join(encode(b"SET", b"key:%012d" % number, value) for number in numbers), b"+OK\r\n" * len(numbers))


def _runner(command: str, depth: int) -> Callable[[Server, float], Measurement]:
    requests_per_s: dict[str, float] = {}  # by server, found once

    def run(server: Server, seconds: float) -> Measurement:
        if server.label not in requests_per_s:
            requests_per_s[server.label] = redis_benchmark(server, command, depth, _CALIBRATION_REQUESTS * depth)
        requests = max(_CALIBRATION_REQUESTS, round(requests_per_s[server.label] * seconds))
        with timed(server) as watch:
            rate = redis_benchmark(server, command, depth, requests)
        return Measurement(requests, requests / rate, watch.processor_s)

    return run


def redis_benchmark(
    server: Server,
    command: str,
    depth: int,
    requests: int,
    *,
    keys: int = KEYS,
    value_size_bytes: int = VALUE_SIZE_BYTES,
    clients: int = CLIENTS,
) -> float:
    """Run redis-benchmark; returns its requests per second."""
    program = shutil.which("redis-benchmark")
    if program is None:
        raise BenchError("redis-benchmark is not installed (Debian: redis-tools)")
    options = {"-h": server.host, "-p": server.port, "-c": clients, "-n": requests, "-r": keys, "-d": value_size_bytes, "-P": depth}
    arguments = [str(part) for option in options.items() for part in option]
    done = subprocess.run([program, *arguments, "-t", command.lower(), "--csv"], capture_output=True, text=True, check=False)
    rows = [row for row in csv.reader(io.StringIO(done.stdout)) if len(row) > 1 and row[0] == command]
    if done.returncode != 0 or not rows:
        raise BenchError(f"redis-benchmark against {server.label} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return float(rows[0][1])
