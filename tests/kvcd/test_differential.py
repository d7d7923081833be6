"""The same random commands to kvcd and to a live redis-server, the same bytes back.

Handlers over the model store, handlers over a pool, and the real server through its socket: in both protocols, in one write, one by
one, and cut anywhere.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from storage.fabric.shm import SharedMemoryFabric
from storage.pool import Pool
from storage.store import Store
from tests.differential import Command, Difference, Generator, RawConnection, compare_servers, encode_command, equal
from tests.kvcd.service import PlainServer, resp_server
from tests.programs import require_program
from tests.servers import ServerProcess

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
    require_program("redis-server")
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
    found = await differences(folder / "broken.sock", redis_path, range(6 * SEQUENCES))  # ends with the first that differs
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


# ------------------------------------------------------------ the real server

SERVER_SEQUENCES = 150
CUT_SEQUENCES = 20


def test_the_server_answers_as_redis_does(kvcd_server: ServerProcess, redis_server: ServerProcess) -> None:
    """Every kind of command in both protocols, in one write, with and without a password."""
    found = compare_servers(kvcd_server.address, redis_server.address, seeds=range(10_000, 10_000 + SERVER_SEQUENCES))
    assert not found, "\n".join(map(str, found[:3]))


@pytest.mark.long
def test_the_server_answers_as_redis_does_for_long(kvcd_server: ServerProcess, redis_server: ServerProcess) -> None:
    """The same for some minutes."""
    found = compare_servers(kvcd_server.address, redis_server.address, seeds=range(20_000, 20_000 + LONG_SEQUENCES))
    assert not found, "\n".join(map(str, found[:3]))


def send_each(connection: RawConnection, pieces: Sequence[bytes]) -> None:
    """Send every piece with a system call of its own."""
    for piece in pieces:
        connection.socket.sendall(piece)


def replies_in_pieces(server: ServerProcess, commands: Sequence[Command], cuts: Sequence[int]) -> list[bytes]:
    """Send the commands' bytes in pieces that end at ``cuts`` to an emptied server; return the replies."""
    data = b"".join(map(encode_command, commands))
    connection = RawConnection(server.address)
    try:
        connection.exchange([(b"FLUSHALL",)])
        ends = [*sorted(cuts), len(data)]
        pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        sender = threading.Thread(target=send_each, args=(connection, pieces), daemon=True)
        sender.start()
        replies = [connection.reply() for _ in commands]
        sender.join()
        return replies
    finally:
        connection.close()


@pytest.mark.parametrize("seed", range(CUT_SEQUENCES))
def test_pieces_of_any_size_give_the_same_replies(kvcd_server: ServerProcess, redis_server: ServerProcess, seed: int) -> None:
    """One write, one command at a time, cut at random bytes, cut every few bytes: as redis-server answers the whole."""
    generator = Generator(30_000 + seed, now_ms=now_ms())
    commands = [(b"HELLO", b"%d" % (2 + seed % 2)), *generator.sequence(120)]
    length = sum(len(encode_command(command)) for command in commands)
    pick = random.Random(seed)
    expected = replies_in_pieces(redis_server, commands, [])
    ways: dict[str, list[int]] = {
        "one write": [],
        "many pieces": [pick.randrange(1, length) for _ in range(200)],
        "few pieces": [pick.randrange(1, length) for _ in range(5)],
        "single bytes at the beginning": list(range(1, min(3000, length))),
    }
    for way, cuts in ways.items():
        replies = replies_in_pieces(kvcd_server, commands, cuts)
        for command, ours, theirs in zip(commands, replies, expected, strict=True):
            assert equal(command, ours, theirs), (way, command, ours[:200], theirs[:200])
    connection = RawConnection(kvcd_server.address)
    try:
        connection.exchange([(b"FLUSHALL",)])
        for command, theirs in zip(commands, expected, strict=True):
            ours = connection.exchange([command])[0]
            assert equal(command, ours, theirs), ("one by one", command, ours[:200], theirs[:200])
    finally:
        connection.close()
