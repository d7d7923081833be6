"""Handlers over the model store and over a pool against a live redis-server: the same random commands, the same bytes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.fabric.shm import SharedMemoryFabric
from storage.pool import Pool
from storage.store import Store
from tests.differential import Difference, RawConnection, compare_servers
from tests.kvcd.service import PlainServer, resp_server

SEQUENCES = 60
LONG_SEQUENCES = 3000
POOL_BYTES = 256 * 1024 * 1024


def now_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="kvcd-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def redis_path(folder: Path) -> Iterator[str]:
    """Path of the unix socket of a redis-server 7.0."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    path = str(folder / "redis.sock")
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", path, "--dir", str(folder), "--save", "", "--daemonize", "no"],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"eady to accept connections" in line:
                break
        yield path
    finally:
        process.terminate()
        process.communicate()


class PoolServer(PlainServer):
    """The plain service over a pool in shared memory, which has its own clock."""

    def __init__(self) -> None:
        """Make a new pool."""
        super().__init__(store=Store(Pool.format(SharedMemoryFabric.memory(POOL_BYTES))))  # type: ignore[arg-type]

    def now_ms(self) -> int:
        """Return the Unix time."""
        return now_ms()


async def differences(ours: Path, theirs: str, seeds: range, *, over_pool: bool = False) -> list[Difference]:
    """Return what the first differing sequence shows."""
    async with resp_server(str(ours), PoolServer()) if over_pool else resp_server(str(ours), PlainServer(), now_ms):
        return await asyncio.to_thread(compare_servers, str(ours), theirs, seeds=seeds)


@pytest.mark.parametrize("over_pool", [False, True], ids=["model", "pool"])
async def test_handlers_answer_as_redis_does(folder: Path, redis_path: str, over_pool: bool) -> None:
    """Every kind of command in both protocols, with and without a password."""
    seeds = range(SEQUENCES) if not over_pool else range(SEQUENCES, 2 * SEQUENCES)
    found = await differences(folder / f"handlers-{over_pool}.sock", redis_path, seeds, over_pool=over_pool)
    assert not found, "\n".join(map(str, found[:3]))


@pytest.mark.long
@pytest.mark.parametrize("over_pool", [False, True], ids=["model", "pool"])
async def test_handlers_answer_as_redis_does_for_long(folder: Path, redis_path: str, over_pool: bool) -> None:
    """The same for some minutes."""
    found = await differences(folder / f"long-{over_pool}.sock", redis_path, range(1000, 1000 + LONG_SEQUENCES), over_pool=over_pool)
    assert not found, "\n".join(map(str, found[:3]))


async def test_a_wrong_reply_is_found(folder: Path, redis_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: a handler that is off by one in one edge is found."""
    monkeypatch.setattr("kvcd.commands.numbers.LARGEST_INTEGER", 2**63)
    found = await differences(folder / "broken.sock", redis_path, range(SEQUENCES))
    assert found


def test_replies_are_split_where_they_end(redis_path: str) -> None:
    """Nested, empty and null replies in one pipeline come back as many replies as there were commands."""
    connection = RawConnection(redis_path)
    commands = [
        (b"FLUSHALL",),
        (b"HELLO", b"3"),
        (b"COMMAND", b"INFO", b"get", b"nonsense"),
        (b"GET", b"nonsense"),
        (b"MGET", b"a"),
        (b"PING",),
    ]
    replies = connection.exchange(commands)
    connection.close()
    assert replies[0] == b"+OK\r\n"
    assert replies[3:] == [b"_\r\n", b"*1\r\n_\r\n", b"+PONG\r\n"]
