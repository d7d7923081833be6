"""Two front ends on one memory node and on two: each sees at once what the other does, and outlives the other's death."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.rdma.servers import KvcdProcess, Rack, together
from tests.wire import Wire, encode

pytestmark = pytest.mark.verbs

MIB = 1 << 20
BLOCKS = [b"block%d" % number for number in range(30)]  # of a prefix: what one look-up asks for
COUNTERS = [b"counter%d" % number for number in range(5)]


class Twins:
    """Memory nodes and two front ends, which name them in different orders."""

    def __init__(self, rack: Rack, node_count: int) -> None:
        self.rack = rack
        self.nodes = [rack.memory_node() for _ in range(node_count)]
        for node in self.nodes:
            node.ready()
        self.one = rack.front_end(*self.nodes)
        self.two = rack.front_end(*reversed(self.nodes))
        self.one.ready()
        self.two.ready()


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.long, id="one node"), pytest.param(2, id="two nodes")])
def shared(request: pytest.FixtureRequest) -> Iterator[Twins]:
    with Rack() as rack:
        yield Twins(rack, request.param)
        assert "internal error" not in "".join(process.log for process in rack.started)


@pytest.fixture
def twins(shared: Twins) -> Twins:
    assert shared.two.call("FLUSHALL") == b"OK"
    return shared


@pytest.fixture
def one(twins: Twins) -> Iterator[Wire]:
    with twins.one.connect() as wire:
        yield wire


@pytest.fixture
def two(twins: Twins) -> Iterator[Wire]:
    with twins.two.connect() as wire:
        yield wire


def location_hits(wire: Wire) -> int:
    """Return how often a front end has answered from a remembered place."""
    stats = wire.call("PREFIX.STATS")
    assert isinstance(stats, list)
    return int(dict(zip(stats[::2], stats[1::2], strict=True))[b"location_cache_hits"])


def pairs(names: list[bytes], text: bytes = b"") -> list[bytes]:
    """Return names and values in turn."""
    return [word for name in names for word in (name, name + text)]


def test_every_change_is_seen_by_the_other_at_once(one: Wire, two: Wire) -> None:
    """A random history on both sides in turn, against one dict."""
    pick = random.Random(1)
    model: dict[bytes, bytes] = {}
    for step in range(300):
        wire, name = pick.choice((one, two)), b"key%d" % pick.randrange(25)
        match pick.randrange(9):
            case 0 | 1 | 2:
                model[name] = b"%d " % step * pick.choice((1, 30, 3000, 30_000))
                assert wire.call("SET", name, model[name]) == b"OK"
            case 3 | 4:
                assert wire.call("GET", name) == model.get(name)
            case 5:
                assert wire.call("DEL", name) == int(model.pop(name, None) is not None)
            case 6:
                model[name] = model.get(name, b"") + b"+"
                assert wire.call("APPEND", name, "+") == len(model[name])
            case 7:
                names = sorted({b"key%d" % pick.randrange(25) for _ in range(8)})
                assert wire.call("PREFIX.MATCH", *names) == next((at for at, each in enumerate(names) if each not in model), len(names))
            case 8:
                assert wire.call("EXISTS", name) == int(name in model)
    names = sorted(model)
    assert one.call("MGET", *names) == two.call("MGET", *names) == [model[name] for name in names]
    assert one.call("FLUSHALL") == b"OK"
    assert two.call("MGET", *names) == [None] * len(names)
    assert two.call("PREFIX.MATCH", *names) == 0
    assert two.call("SET", "key0", "anew") == b"OK"
    assert one.call("GET", "key0") == b"anew"


def test_a_remembered_place_never_answers_for_what_the_other_deleted(one: Wire, two: Wire) -> None:
    pick = random.Random(2)
    two.call("PREFIX.SET", *pairs(BLOCKS))
    for change in range(12):
        assert one.call("PREFIX.MATCH", *BLOCKS) == 30
        before = location_hits(one)
        assert one.call("PREFIX.MATCH", *BLOCKS) == 30
        assert location_hits(one) > before, "this match was to be answered from remembered places"
        gone = pick.randrange(30)
        match change % 4:
            case 0:
                assert two.call("DEL", *BLOCKS) == 30
                gone = 0
            case 1:
                assert two.call("DEL", BLOCKS[gone]) == 1
            case 2:
                assert two.call("FLUSHDB") == b"OK"
                gone = 0
            case 3:
                assert two.call("PEXPIRE", BLOCKS[gone], 0) == 1
        assert one.call("PREFIX.MATCH", *BLOCKS) == gone
        assert one.call("EXISTS", BLOCKS[gone]) == 0
        two.call("PREFIX.SET", *pairs(BLOCKS, b" %d" % change))
        assert one.call("PREFIX.GET", *BLOCKS) == [name + b" %d" % change for name in BLOCKS]


def test_counters_add_up(twins: Twins, one: Wire) -> None:
    rounds = 40

    def count(server: KvcdProcess) -> None:
        with server.connect() as wire:
            for number in range(rounds):
                sender = wire.send_in_background(b"".join(encode("INCR", name) for name in COUNTERS))
                assert all(isinstance(reply, int) and reply > number for reply in wire.replies(len(COUNTERS)))
                sender.join()

    together(*(lambda server=server: count(server) for server in (twins.one, twins.two, twins.one, twins.two)))  # type: ignore[misc]
    assert one.call("MGET", *COUNTERS) == [b"%d" % (4 * rounds)] * len(COUNTERS)


def test_of_two_that_set_what_is_not_there_one_wins(twins: Twins) -> None:
    rounds = 40
    won: dict[str, list[object]] = {"one": [], "two": []}

    def claim(side: str) -> None:
        with (twins.one if side == "one" else twins.two).connect() as wire:
            for number in range(rounds):
                turn.wait()
                won[side].append(wire.call("SET", f"lock{number}", side, "NX"))

    turn = threading.Barrier(2, timeout=60)
    together(lambda: claim("one"), lambda: claim("two"))
    with twins.one.connect() as wire:
        holders = wire.call("MGET", *(f"lock{number}" for number in range(rounds)))
    assert isinstance(holders, list)
    for number, holder in enumerate(holders):
        replies = (won["one"][number], won["two"][number])
        assert replies == ((b"OK", None) if holder == b"one" else (None, b"OK")), number


def striped(number: int, size: int) -> bytes:
    """Return a value all of whose pieces name it."""
    piece = b"%08d" % number
    return piece * (size // 8)


@pytest.mark.parametrize("size", [800, 40_000, 2 * MIB])
def test_a_value_that_the_other_replaces_is_read_whole(twins: Twins, size: int) -> None:
    rounds = 12 if size > MIB else 80
    with twins.one.connect() as wire:
        wire.call("SET", "shared", striped(0, size))
    is_over = threading.Event()

    def write() -> None:
        try:
            with twins.one.connect() as wire:
                for number in range(1, rounds):
                    assert wire.call("SET", "shared", striped(number, size)) == b"OK"
        finally:
            is_over.set()

    def read() -> None:
        last = 0
        with twins.two.connect() as wire:
            while not is_over.is_set() or last < rounds - 1:
                got = wire.call("GET", "shared")
                assert isinstance(got, bytes)
                assert got == striped(int(got[:8]), size)
                assert int(got[:8]) >= last
                last = int(got[:8])

    together(write, read, read)


class Worker:
    """A client that writes its own keys and counts, until its server is gone or it is told to stop."""

    def __init__(self, server: KvcdProcess, number: int) -> None:
        self.server, self.number = server, number
        self.certain: dict[bytes, bytes] = {}  # acknowledged
        self.possible: dict[bytes, bytes] = {}  # sent, and no answer came
        self.counted = 0
        self.steps = 0
        self.is_busy, self.is_over = threading.Event(), threading.Event()

    def run(self) -> None:
        """Work; the end of the connection is an end like any other."""
        pick = random.Random(self.number)
        try:
            with self.server.connect() as wire:
                while not self.is_over.is_set():
                    name, size = b"w%d:%d" % (self.number, pick.randrange(20)), pick.choice((80, 800, 40_000, 400_000))
                    text = striped(self.steps, size)
                    self.possible = {name: text, b"count": b""}
                    assert wire.call("SET", name, text) == b"OK"
                    self.certain[name] = text
                    self.possible = {b"count": b""}
                    assert isinstance(wire.call("INCR", "count"), int)
                    self.counted += 1
                    self.possible = {}
                    known = pick.choice(sorted(self.certain))
                    assert wire.call("GET", known) == self.certain[known]
                    self.steps += 1
                    if self.steps == 8:
                        self.is_busy.set()
        except ConnectionError:
            pass
        finally:
            self.is_busy.set()


def test_a_front_end_killed_under_load_costs_the_other_nothing(twins: Twins) -> None:
    """And a new one joins afterwards, whose slots are none of the dead one's."""
    doomed = [Worker(twins.one, number) for number in range(3)]
    living = [Worker(twins.two, number) for number in range(10, 12)]
    works: list[Callable[[], None]] = [worker.run for worker in doomed + living]

    def kill() -> None:
        try:
            for worker in doomed + living:
                assert worker.is_busy.wait(60)
            twins.one.crash()
            steps = [worker.steps for worker in living]
            with twins.two.connect() as wire:
                while any(worker.steps < step + 10 for worker, step in zip(living, steps, strict=True)):
                    assert wire.call("PING") == b"PONG"
        finally:
            for worker in doomed + living:
                worker.is_over.set()

    together(kill, *works)
    assert all(worker.steps > 8 for worker in living)
    joined = twins.rack.front_end(*twins.nodes).ready()
    for server in (twins.two, joined):
        with server.connect() as wire:
            for worker in doomed + living:
                for name, text in worker.certain.items():
                    assert wire.call("GET", name) in (text, worker.possible.get(name, text)), name
                for name, text in worker.possible.items():
                    assert wire.call("GET", name) in (text, worker.certain.get(name)) or name == b"count"
            count = int(wire.call("GET", "count"))  # type: ignore[call-overload]
            certain = sum(worker.counted for worker in doomed + living)
            assert certain <= count <= certain + sum(b"count" in worker.possible for worker in doomed)
    with twins.two.connect() as old, joined.connect() as new:
        for number in range(30):
            assert new.call("SET", f"after{number}", "x" * (number * 5000)) == b"OK"
            assert old.call("GET", f"after{number}") == b"x" * (number * 5000)
        assert old.call("FLUSHALL") == b"OK"
        assert new.call("EXISTS", *(f"after{number}" for number in range(30))) == 0

    # What the dead one held is back: with nothing stored, only pages that classes keep are in use.
    def pages_of(server: KvcdProcess) -> int:
        with server.connect() as wire:
            text = wire.call("INFO", "pool")
        assert isinstance(text, bytes)
        return int(dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)["pool_pages_used"])

    deadline_s = time.monotonic() + 60
    while pages_of(twins.two) > 16 * len(twins.nodes):
        assert time.monotonic() < deadline_s, pages_of(twins.two)
        time.sleep(0.2)
    with twins.two.connect() as wire:
        stats = wire.call("PREFIX.STATS")
    assert isinstance(stats, list)
    facts = dict(zip(stats[::2], stats[1::2], strict=True))
    assert facts[b"adoption_sweeps"] > 0
    assert facts[b"adoption_adopted_pages"] > 0
