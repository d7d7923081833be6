"""Many batches of one front end that wait beside each other: whatever runs between any two operations, every history is linearizable.

Over RDMA a batch waits while others go on. Here its operations wait in a simulated queue pair until a schedule, the same for the same
seed, performs them one by one, in any order that RDMA allows and torn at any four bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from storage.fabric import waiting
from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition, Status
from storage.pool import Pool
from storage.staging import StagedValue
from storage.store import Store
from tests.storage.histories import ABSENT, Call, Judge, is_refusal
from tests.storage.pools import NOW_MS, PAGE_BYTES, filler, finish, make_pool, sweep

LENGTHS = [0, 8, 100, 700, 5_000, 33_000, PAGE_BYTES, PAGE_BYTES + 1, 2 * PAGE_BYTES + 50, 5 * PAGE_BYTES]
CONDITIONS = {"write": Condition.ALWAYS, "write_nx": Condition.NX, "write_xx": Condition.XX, "swap": Condition.ALWAYS}
CALLS = (
    "read", "read", "read", "read_many", "exists", "exists", "write", "write", "write_nx", "write_xx", "swap", "staged", "delete",
    "replace", "delete_exact", "pin",
)  # fmt: skip
STEPS_LIMIT = 2_000_000


@dataclass
class Arena:
    """Front ends, what their callers do, and the order in which everything happens."""

    seed: int
    key_count: int = 4
    workers: int = 5
    front_ends: int = 1
    pages: int = 200
    index_entries: int = 1022
    policy: str = "noeviction"
    lengths: list[int] = field(default_factory=lambda: LENGTHS)
    calls: tuple[str, ...] = CALLS
    expires: bool = False
    binding_bits: int = 8
    version_bits: int = 14
    tears: bool = True
    history: list[Call] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    expiries: dict[int, int] = field(default_factory=dict)
    tokens: dict[tuple[int, bytes], list[tuple[int, int]]] = field(default_factory=dict)
    clock: list[tuple[int, int]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    place: int = 0
    writes: int = 0
    refusals: int = 0
    working: int = 0

    def __post_init__(self) -> None:
        self.choose = random.Random(self.seed)
        self.keys = [b"k%d" % number for number in range(self.key_count)]
        first = make_pool(
            "sim", pages=self.pages, index_entries=self.index_entries, seed=self.seed, binding_bits=self.binding_bits,
            version_bits=self.version_bits,
        )  # fmt: skip
        assert isinstance(first.fabric, SimulatedFabric)
        self.fabrics = [first.fabric] + [first.fabric.share(self.seed + number) for number in range(1, self.front_ends)]
        pools = [first] + [Pool.attach(fabric, number) for number, fabric in enumerate(self.fabrics[1:], 1)]
        self.stores = [Store(pool, self.policy) for pool in pools]
        self.now_ms = NOW_MS
        self.set_clock(NOW_MS)
        self.ready: list[Callable[[], object]] = []

    # ------------------------------------------------------------------ values

    def value(self) -> tuple[int, bytes]:
        """Return a new write's number and bytes."""
        self.writes += 1
        number = self.writes
        self.sizes[number] = self.choose.choice(self.lengths)
        return number, number.to_bytes(8, "little") + filler(self.sizes[number], number)

    def number_of(self, payload: bytes) -> int:
        """Return the number of the write that brought these bytes, which must be whole."""
        number = int.from_bytes(payload[:8], "little")
        assert number in self.sizes, f"bytes that nobody wrote: {payload[:16]!r}"
        assert payload[8:] == filler(self.sizes[number], number), f"torn bytes of write {number}"
        return number

    def set_clock(self, now_ms: int) -> None:
        """Let time pass, for all front ends alike."""
        self.now_ms = now_ms
        self.clock.append((self.place, now_ms))
        for store in self.stores:
            store.set_clock(now_ms)

    def clock_at(self, place: int) -> int:
        """Return the time at a place in the order."""
        return max(now_ms for begin, now_ms in self.clock if begin <= place)

    # ------------------------------------------------------------------- calls

    def begin(self, name: str, key: bytes, number: int = 0, expected: int = 0) -> Call:
        """Note that a call begins."""
        self.place += 1
        return Call(name, key, number, expected, begin=self.place, begin_ms=self.now_ms)

    def end(self, call: Call, answer: object) -> None:
        """Note what it answered."""
        self.place += 1
        call.end, call.answer = self.place, answer
        self.refusals += is_refusal(answer)
        self.history.append(call)

    def act(self, store: Store) -> None:
        """Make one call and note it."""
        name, key = self.choose.choice(self.calls), self.choose.choice(self.keys)
        known = self.tokens.setdefault((id(store), key), [])
        if name in ("replace", "delete_exact") and not known:
            name = "read"
        if name == "read":
            call = self.begin(name, key)
            entry = finish(store.read(0, key))
            self.end(call, ABSENT if entry is None else self.number_of(entry.payload))
            if entry is not None:
                known.append((self.number_of(entry.payload), entry.token))
        elif name in ("read_many", "exists"):
            keys = self.choose.sample(self.keys, min(self.key_count, self.choose.choice([1, 3, 8])))
            calls = [self.begin("exists" if name == "exists" else "read", each) for each in keys]
            if name == "exists":
                for call, found in zip(calls, finish(store.exists(0, keys)), strict=True):
                    self.end(call, found)
            else:
                for call, entry in zip(calls, finish(store.read_many(0, keys)), strict=True):
                    self.end(call, ABSENT if entry is None else self.number_of(entry.payload))
        elif name == "pin":
            self.pin(store, key)
        elif name == "delete":
            call = self.begin(name, key)
            self.end(call, finish(store.delete(0, [key])))
        elif name == "delete_exact":
            expected, token = self.choose.choice(known[-2:])
            call = self.begin(name, key, expected=expected)
            self.end(call, finish(store.delete_exact(0, key, token)))
        elif name == "flush":
            calls = [self.begin(name, each) for each in self.keys]
            finish(store.flush(0))
            for call in calls:
                self.end(call, None)
        elif name == "maintain":
            store.maintain(1.0)
        else:
            self.write(store, name, key, known)

    def write(self, store: Store, name: str, key: bytes, known: list[tuple[int, int]]) -> None:
        """Write in one of the ways that there are."""
        number, value = self.value()
        if name == "replace":
            expected, token = self.choose.choice(known[-2:])
            call = self.begin(name, key, number, expected)
            self.end(call, finish(store.replace(0, key, token, value, expire_at_ms=-1)))
            return
        expire_at_ms = -1
        if self.expires and self.choose.random() < 0.6:
            expire_at_ms = self.expiries[number] = self.now_ms + self.choose.choice([1, 5, 20])
        staged = None
        if name == "staged":
            name = "write"
            staged = StagedValue(store.staging, len(value), len(key))
            position = 0
            while position < len(value):
                taken = staged.receive(value[position : position + self.choose.choice([4096, PAGE_BYTES, 200_000])])
                position += taken
                if taken == 0:  # full
                    staged.discard()
                    return
        call = self.begin(name, key, number)
        result = finish(
            store.write(0, key, staged or value, condition=CONDITIONS[name], expire_at_ms=expire_at_ms, want_previous=name == "swap")
        )
        if staged is not None:
            staged.discard()
        if name == "swap" and result.status == Status.OK:
            self.end(call, ABSENT if result.previous is None else self.number_of(result.previous.payload))
        else:
            self.end(call, result.status)

    def pin(self, store: Store, key: bytes) -> None:
        """Keep a large value while other calls go on, then look at its bytes."""
        pinned = store.pin(0, key)
        if pinned is None:
            return
        number = self.number_of(pinned.tobytes())
        if self.choose.random() < 0.5:
            self.act(store)
        assert self.number_of(pinned.tobytes()) == number
        pinned.release()

    # ---------------------------------------------------------------- schedule

    def worker(self, store: Store, count: int) -> None:
        """Make so many calls, one after the other."""
        try:
            for _ in range(count):
                self.act(store)
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.working -= 1

    def step(self) -> None:
        """Let one thing happen: operations of some front end, stacks that go on, or time."""
        if self.ready and self.choose.random() < 0.3:
            self.ready.pop()()
            return
        busy = [fabric for fabric in self.fabrics if fabric.pending]
        if busy:
            self.choose.choice(busy).advance(self.choose.choice([1, 1, 2, 5, 20, 200]))
        elif self.ready:
            self.ready.pop()()
        else:
            raise AssertionError(f"{self.working} callers wait for nothing")
        if self.expires and self.choose.random() < 0.02:
            self.set_clock(self.now_ms + self.choose.choice([1, 4, 30]))

    def play(self, count: int) -> None:
        """Let all workers make so many calls each."""
        for fabric in self.fabrics:
            fabric.suspends = True
            fabric.tears = self.tears
        waiting.set_call_soon(self.ready.append)
        try:
            for number in range(self.workers * self.front_ends):
                self.working += 1
                waiting.run(self.worker, self.stores[number % self.front_ends], count)
            steps = 0
            while self.working and not self.errors:
                self.step()
                steps += 1
                assert steps < STEPS_LIMIT
        finally:
            for fabric in self.fabrics:
                fabric.suspends = False
            for _ in range(100 if self.working else 0):  # nobody stays behind to be resumed in another test
                for fabric in self.fabrics:
                    fabric.advance(1_000_000)
                waiting.resume_ready()
            waiting.set_call_soon(None)
        if self.errors:
            raise self.errors[0]

    # ------------------------------------------------------------------- judge

    def judge(self) -> None:
        """Every key's history has an order that explains it, and nothing is lost or left behind."""
        judge = Judge(self.policy != "noeviction", self.expiries, self.clock_at)
        # What each front end sees when all is quiet belongs to the history.
        for store in self.stores:
            for key in self.keys:
                call = self.begin("read", key)
                entry = finish(store.read(0, key))
                self.end(call, ABSENT if entry is None else self.number_of(entry.payload))
        for key in self.keys:
            verdict = judge.verdict([call for call in self.history if call.key == key])
            assert verdict is None, verdict
        live = sorted(call.key for call in self.history[-self.key_count :] if call.answer != ABSENT)
        for store in self.stores:
            assert sorted(finish(store.scan(0, 0, 10_000))[1]) == live, "one slot for each key"
            assert store.memory()["damaged"] == 0

    def empty(self) -> None:
        """Delete everything: every page comes back, and no name stays in a hazard row."""
        finish(self.stores[-1].delete(0, self.keys))
        self.set_clock(self.now_ms + 1000)
        for store in (*self.stores, *self.stores):
            sweep(store)
            store.release_spares()
        for store in self.stores:
            memory = store.memory()
            assert memory["retired_values"] == memory["pinned_bytes"] == memory["staged_bytes"] == 0
            if self.front_ends == 1:
                size = store.database_size(0)
                assert (size.keys, size.expires, memory["stored_bytes"]) == (0, 0, 0)
        layout = self.stores[0].pool.layout()
        row_bytes = 4096 * 8 * self.front_ends
        assert self.fabrics[0].peek(layout["hazards"], row_bytes) == bytes(row_bytes)
        assert self.fabrics[0].peek(layout["globals"], 8) == bytes(8), "pages are still in use"
        words = self.fabrics[0].peek(layout["page_words"], layout["page_count"] * 8)
        assert {words[number * 8] & 7 for number in range(layout["page_count"])} == {0}
        assert all(fabric.staging_used == 0 for fabric in self.fabrics)


def played(arena: Arena, count: int = 25) -> Arena:
    """Play, judge and empty."""
    arena.play(count)
    arena.judge()
    arena.empty()
    return arena


@pytest.mark.parametrize("seed", range(1, 11))
def test_one_key(seed: int) -> None:
    played(Arena(seed, key_count=1, workers=4), 20)


@pytest.mark.parametrize("seed", range(1, 11))
def test_some_keys(seed: int) -> None:
    arena = played(Arena(seed))
    assert arena.refusals == 0, "there was always room"


@pytest.mark.parametrize("seed", range(1, 11))
def test_keys_that_overflow_each_other(seed: int) -> None:
    played(Arena(seed, key_count=12, index_entries=21, lengths=[0, 100, 700]), 40)


@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "allkeys-lfu"])
def test_a_full_pool(policy: str, seed: int) -> None:
    arena = played(Arena(seed, key_count=8, workers=6, pages=10, policy=policy, calls=(*CALLS, "maintain")), 60)
    assert sum(store.counters()["evicted"] for store in arena.stores) > 3


@pytest.mark.parametrize("seed", range(1, 11))
def test_expiry(seed: int) -> None:
    arena = played(Arena(seed, key_count=3, expires=True, calls=(*CALLS, "maintain")), 40)
    assert arena.stores[0].counters()["expired"] > 1


@pytest.mark.parametrize("seed", range(1, 11))
def test_flush(seed: int) -> None:
    played(Arena(seed, calls=(*CALLS, "flush", "maintain")), 30)


@pytest.mark.parametrize("seed", range(1, 11))
def test_two_front_ends(seed: int) -> None:
    played(Arena(seed, front_ends=2, workers=3, key_count=2, calls=(*CALLS, "maintain")))


@pytest.mark.parametrize("seed", range(1, 11))
def test_two_front_ends_in_a_full_pool(seed: int) -> None:
    played(Arena(seed, front_ends=2, workers=3, key_count=8, pages=20, index_entries=70, policy="allkeys-lru", calls=(*CALLS, "maintain")))


@pytest.mark.parametrize("seed", range(1, 11))
def test_two_front_ends_that_flush(seed: int) -> None:
    played(Arena(seed, front_ends=2, workers=3, key_count=3, calls=(*CALLS, "flush", "maintain")), 30)
