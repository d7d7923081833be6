"""The server over real verbs: one memory node, one front end, and clients that use it as they use Redis."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvcd.trace import read_trace
from kvcd.trace_generate import Shape, generate
from tests.rdma.servers import KvcdProcess, Rack, together, until
from tests.wire import Wire, encode

if TYPE_CHECKING:
    from kvcd.replay_tally import ReplayReport

pytestmark = pytest.mark.verbs

KIB, MIB = 1 << 10, 1 << 20
# Around a cell's and a page's end, a staging buffer's (four pages), and what one read of a socket brings.
SIZES = (0, 1, 64, 4 * KIB, 32 * KIB, 65_535, 65_536, 65_537, 98_304, 256 * KIB, 256 * KIB + 1, MIB + 4_321, 8 * MIB)
LARGE_BYTES = 6 * MIB
STAGING_SIZE, STAGING_BUFFERS = "16mb", 48  # few enough for a test to use up what is not given back
REAL_TRACE = Path(os.environ.get("KVCD_TRACE_DIR", ""), "conversation_trace.jsonl")
HAS_REAL_TRACE = REAL_TRACE.exists()
_BLOB = random.Random(5).randbytes(16 * MIB)


def value(length: int, seed: int = 0) -> bytes:
    """Return bytes in which one in the wrong place shows."""
    start = seed * 65_599 % (7 * MIB)
    return _BLOB[start : start + length]


@pytest.fixture(scope="module")
def shared() -> Iterator[KvcdProcess]:
    """A front end on a memory node."""
    with Rack() as rack:
        node = rack.memory_node(size="192mb")
        node.ready()
        yield rack.front_end(node, rdma_staging_size=STAGING_SIZE).ready()
        assert "internal error" not in "".join(process.log for process in rack.started)


@pytest.fixture
def server(shared: KvcdProcess) -> KvcdProcess:
    """The same, emptied."""
    assert shared.is_running(), shared.log
    assert shared.call("FLUSHALL") == b"OK"
    return shared


def held_bytes(server: KvcdProcess) -> tuple[int, int]:
    """Return what unfinished values and unread replies hold of the pool."""
    info = server.info()
    return int(info["pool_staged_bytes"]), int(info["pool_pinned_bytes"])


def test_redis_cli_speaks_with_it_as_with_redis(server: KvcdProcess) -> None:
    dialogue = [
        ("set greeting hello", "OK"), ("get greeting", "hello"), ("append greeting !", "6"), ("strlen greeting", "6"),
        ("incr n", "1"), ("incrby n 41", "42"), ("mset a 1 b 2 c 3", "OK"), ("mget a b none c", "1\n2\n\n3"), ("exists a b none", "2"),
        ("del a none", "1"), ("get a", ""), ("ttl b", "-1"), ("expire b 100", "1"), ("ttl b", "100"), ("persist b", "1"), ("ttl b", "-1"),
        ("set s v ex 50 nx", "OK"), ("set s w nx", ""), ("ttl s", "50"), ("set s w xx keepttl", "OK"), ("getdel s", "w"), ("exists s", "0"),
        ("type n", "string"), ("dbsize", "4"), ("prefix.set p0 x p1 y p2 z", "3"), ("prefix.match p0 p1 p2 p3 p2", "3"),
        ("prefix.match p0 p1 p2 p3 p2", "3"), ("prefix.get p0 p1 none p2", "x\ny"), ("prefix.exists p0 none p2", "1\n0\n1"),
        ("select 3", "OK"), ("get greeting", ""), ("set other db", "OK"), ("dbsize", "1"), ("select 0", "OK"), ("dbsize", "7"),
        ("flushdb", "OK"), ("dbsize", "0"), ("select 3", "OK"), ("get other", "db"), ("flushall", "OK"), ("get other", ""),
        ("incr greeting x", "ERR wrong number of arguments for 'incr' command\n"),
    ]  # fmt: skip
    asked = "".join(f"{line}\n" for line, _reply in dialogue)
    command = ["redis-cli", "-p", str(server.port)]
    said = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said == "".join(f"{reply}\n" for _line, reply in dialogue)
    assert server.info()["kvcd_version"]
    with server.connect() as wire:
        names = {b"k%d" % number for number in range(500)}
        wire.call("MSET", *(word for name in names for word in (name, "v")))
        found, cursor = set(), b"0"
        while True:
            cursor, page = wire.call("SCAN", cursor, "COUNT", 100)
            found.update(page)
            if cursor == b"0":
                break
        assert found == names
        stats = wire.call("PREFIX.STATS")
        counts = dict(zip(stats[::2], stats[1::2], strict=True))
        assert counts[b"fabric_rounds"] > 0
        assert counts[b"location_cache_hits"] > 0


def test_values_that_are_read_again_come_from_copies_until_they_change(server: KvcdProcess) -> None:
    def copies(wire: Wire) -> tuple[int, int]:
        stats = wire.call("PREFIX.STATS")
        counts = dict(zip(stats[::2], stats[1::2], strict=True))
        return counts[b"hot_value_hits"], counts[b"fabric_read_bytes"]

    sizes = (4096, 60_000, 1_000_000)
    with server.connect() as wire:
        for version in range(3):
            for size in sizes:
                wire.call("SET", f"hot{size}", value(size, version))
            for _ in range(4):
                assert [wire.call("GET", f"hot{size}") for size in sizes] == [value(size, version) for size in sizes]
            hits, read_bytes = copies(wire)
            assert wire.call("PREFIX.GET", *(f"hot{size}" for size in sizes)) == [value(size, version) for size in sizes]
            after = copies(wire)
            assert after[0] == hits + len(sizes)
            assert after[1] - read_bytes < 8192  # of a million: epochs, counters, heat


@pytest.mark.parametrize("command", ["SET", "PREFIX.SET"])
def test_values_of_every_size_come_back_whole(server: KvcdProcess, command: str) -> None:
    with server.connect() as wire:
        for number, size in enumerate(SIZES):
            one = value(size, number)
            assert wire.call(command, f"k{size}", one) in (b"OK", 1)
        for number, size in enumerate(SIZES):
            assert wire.call("GET", f"k{size}") == value(size, number), size
            assert wire.call("GETRANGE", f"k{size}", -3, -1) == value(size, number)[-3:]
        assert wire.call("PREFIX.GET", *(f"k{size}" for size in SIZES)) == [value(size, number) for number, size in enumerate(SIZES)]
        # Another value in its place, of another kind.
        for number, size in enumerate(SIZES):
            wire.call("SET", f"k{size}", value(SIZES[-1 - number] % 300_000, number + 20))
        assert [wire.call("GET", f"k{size}") for size in SIZES] == [
            value(SIZES[-1 - number] % 300_000, number + 20) for number in range(len(SIZES))
        ]


def test_a_pipeline_is_answered_in_its_order(server: KvcdProcess) -> None:
    with server.connect() as wire:
        asked, expected = [], []
        for number in range(400):
            name, text = f"k{number % 50}", b"v%d" % number
            asked += [encode("SET", name, text), encode("GET", name), encode("INCR", "n"), encode("STRLEN", name), encode("PING", text)]
            expected += [b"OK", text, number + 1, len(text), text]
            if number % 40 == 0:
                asked += [encode("SET", "large", value(300_000, number)), encode("GET", "large"), encode("MGET", name, "none", "n")]
                expected += [b"OK", value(300_000, number), [text, None, b"%d" % (number + 1)]]
        sender = wire.send_in_background(b"".join(asked))
        assert wire.replies(len(expected)) == expected
        sender.join()


def random_work(wire: Wire, client: int, rounds: int) -> None:
    """Do random things to this client's own keys, in pipelines, and hold every reply against a dict."""
    pick = random.Random(client)
    model: dict[str, bytes] = {}
    names = [f"client{client}:{number}" for number in range(40)]
    for _round in range(rounds):
        asked: list[bytes] = []
        expected: list[object] = []
        for _ in range(pick.randrange(1, 30)):
            name = pick.choice(names)
            text = value(pick.choice((0, 3, 100, 900, 5_000, 40_000)), pick.randrange(99))
            match pick.randrange(8):
                case 0 | 1:
                    asked.append(encode("SET", name, text))
                    expected.append(b"OK")
                    model[name] = text
                case 2 | 3:
                    asked.append(encode("GET", name))
                    expected.append(model.get(name))
                case 4:
                    asked.append(encode("DEL", name))
                    expected.append(int(model.pop(name, None) is not None))
                case 5:
                    asked.append(encode("APPEND", name, text[:50]))
                    model[name] = model.get(name, b"") + text[:50]
                    expected.append(len(model[name]))
                case 6:
                    asked_names = pick.sample(names, 10)
                    asked.append(encode("MGET", *asked_names))
                    expected.append([model.get(each) for each in asked_names])
                case 7:
                    asked_names = pick.sample(names, 12)
                    asked.append(encode("PREFIX.MATCH", *asked_names))
                    expected.append(next((place for place, each in enumerate(asked_names) if each not in model), 12))
        sender = wire.send_in_background(b"".join(asked))
        assert wire.replies(len(expected)) == expected
        sender.join()


def clients_at_once(server: KvcdProcess, *, clients: int, rounds: int, large_rounds: int) -> None:
    """Random work of several clients while one moves large values."""

    def small(client: int) -> None:
        with server.connect() as wire:
            random_work(wire, client, rounds)

    def large() -> None:
        with server.connect() as wire:
            for number in range(large_rounds):
                wire.call("SET", "large", value(LARGE_BYTES, number))
                assert wire.call("GET", "large") == value(LARGE_BYTES, number)

    together(large, *(lambda client=client: small(client) for client in range(clients)))  # type: ignore[misc]


def test_clients_at_once_see_their_own_keys_right(server: KvcdProcess) -> None:
    clients_at_once(server, clients=4, rounds=25, large_rounds=3)


@pytest.mark.long
def test_many_clients_at_once_see_their_own_keys_right(server: KvcdProcess) -> None:
    clients_at_once(server, clients=12, rounds=150, large_rounds=30)


def test_a_slow_reader_of_a_large_value_costs_only_itself(server: KvcdProcess) -> None:
    one, two = value(8 * MIB, 1), value(8 * MIB, 2)
    with server.connect() as other:
        other.call("SET", "large", one)
        # Together they ask for more than there are staging buffers.
        slow = [server.connect(receive_buffer=4096) for _ in range(8)]
        for wire in slow:
            wire.send(encode("GET", "large"))
        until(lambda: held_bytes(server)[1] > 0, "a pinned value")
        random_work(other, 1, 5)
        assert other.call("GET", "large") == one
        assert other.call("SET", "large", two) == b"OK"
        assert other.call("GET", "large") == two
        assert slow[0].reply() == one  # the value that it asked for, though it is gone from the index
        for wire in slow[1:]:
            wire.abort()
        slow[0].close()
        until(lambda: held_bytes(server) == (0, 0), "nothing pinned")
        assert other.call("GET", "large") == two


def vanish(server: KvcdProcess, times: int) -> None:
    """Break off in the middle of large values, on their way in and on their way out."""
    with server.connect() as other:
        other.call("SET", "large", value(LARGE_BYTES))
        pages = int(server.info()["pool_pages_used"])
        frame = encode("SET", "unfinished", value(LARGE_BYTES))
        for number in range(times):
            is_patient = number % 8 == 0
            with server.connect() as wire:
                wire.send(frame[: len(frame) * (number + 1) // (times + 2) if is_patient else 100_000 + number])
                if is_patient:
                    until(lambda: held_bytes(server)[0] > 0, "a staged value")
                wire.abort()
            with server.connect(receive_buffer=4096) as wire:
                wire.send(encode("GET", "large") * 3)
                if is_patient:
                    assert wire.reader.readline() == b"$%d\r\n" % LARGE_BYTES
                wire.abort()
        until(lambda: held_bytes(server) == (0, 0), "nothing held for clients that are gone")
        assert other.call("GET", "unfinished") is None
        assert other.call("GET", "large") == value(LARGE_BYTES)
        assert int(server.info()["pool_pages_used"]) <= pages + 2
        # Each of these wants staging buffers that the others had.
        for number in range(3):
            assert other.call("SET", f"after{number}", value(LARGE_BYTES, number)) == b"OK"
            assert other.call("GET", f"after{number}") == value(LARGE_BYTES, number)
        other.call("FLUSHALL")


def test_clients_that_vanish_leave_nothing_staged_or_pinned(server: KvcdProcess) -> None:
    vanish(server, STAGING_BUFFERS + 8)


@pytest.mark.long
def test_hundreds_of_clients_that_vanish_leave_nothing_staged_or_pinned(server: KvcdProcess) -> None:
    vanish(server, 400)


async def replay(server: KvcdProcess, *, mode: str, limit: int, value_size: int) -> ReplayReport:
    """Replay the beginning of the real trace where it is, else of one of the project's own make; return the outcome."""
    from kvcd.replay_engine import Mode, Replay, ReplayPlan  # five seconds of imports

    trace = read_trace(REAL_TRACE) if HAS_REAL_TRACE else generate(Shape.CONVERSATION, requests=limit, seed=0)
    plan = ReplayPlan(
        url=f"redis://127.0.0.1:{server.port}",
        mode=Mode(mode),
        value_size_bytes=value_size,
        connections=8,
        key_prefix=b"kv:",
        speed=None,
        inflight_limit_bytes=16 * MIB,
    )
    report = await Replay(plan).run(list(itertools.islice(trace, limit)))
    print(report)
    assert (report.requests, report.wrong_values, report.errors, report.stopped_because) == (limit, 0, {}, None)
    assert report.looked_up_blocks + report.written_blocks > 0
    return report


async def test_a_replayed_trace_reads_no_wrong_byte(server: KvcdProcess) -> None:
    await replay(server, mode="prefix", limit=30, value_size=4096)
    again = await replay(server, mode="prefix", limit=30, value_size=4096)
    assert again.block_hit_ratio == 1  # nothing was evicted


@pytest.mark.long
@pytest.mark.parametrize(("mode", "value_size", "limit"), [("prefix", 4096, 1000), ("prefix", 100_000, 400), ("plain", 4096, 1000)])
async def test_more_of_a_trace_reads_no_wrong_byte(server: KvcdProcess, mode: str, value_size: int, limit: int) -> None:
    server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        await replay(server, mode=mode, limit=limit, value_size=value_size)
    finally:
        server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
