"""Two front ends on one simulated pool, interleaved between any two doorbells: every history per key is linearizable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition, Status
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, filler, finish, make_pool, sweep

LENGTHS = [0, 8, 100, 700, 33_000, PAGE_BYTES, PAGE_BYTES + 1, 2 * PAGE_BYTES + 50]


@dataclass(frozen=True)
class Operation:
    """One call on one key and its answer. ``number`` names the value that a write brings."""

    name: str
    number: int = 0
    expected: int = 0  # the write whose entry a token names
    answer: object = None


def apply(state: int, operation: Operation) -> tuple[int, object]:
    """Return the next state (the number of the write that the key holds, 0: none) and the answer that it implies."""
    name = operation.name
    if name == "read":
        return state, state
    if name == "exists":
        return state, state != 0
    if name == "write":
        return operation.number, Status.OK
    if name == "write_nx":
        return (state, Status.PRESENT) if state else (operation.number, Status.OK)
    if name == "write_xx":
        return (operation.number, Status.OK) if state else (state, Status.MISS)
    if name == "delete":
        return 0, int(state != 0)
    if name == "replace":
        return (operation.number, Status.OK) if state == operation.expected else (state, Status.CONFLICT)
    if name == "delete_exact":
        return (0, Status.OK) if state == operation.expected else (state, Status.CONFLICT)
    raise AssertionError(name)


def explanations(states: Iterable[int], outer: Operation, inner: list[Operation]) -> set[int]:
    """Return the states after ``outer``, which took effect somewhere among the inner ones, that explain every answer."""
    possible: set[int] = set()
    for before in states:
        for place in range(len(inner) + 1):
            state, sound = before, True
            for operation in [*inner[:place], outer, *inner[place:]]:
                state, answer = apply(state, operation)
                if answer != operation.answer:
                    sound = False
                    break
            if sound:
                possible.add(state)
    return possible


@dataclass
class Duel:
    """Two stores, what the keys may hold, and how to read a value back to the number of its write."""

    seed: int
    keys: list[bytes]
    index_entries: int = 1022
    pages: int = 200
    binding_bits: int = 8
    version_bits: int = 14
    chance: float = 0.5
    fills: bool = False  # half of what is done writes, so that most keys are there
    states: dict[bytes, set[int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    tokens: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    writes: int = 0
    interruptions: int = 0

    def __post_init__(self) -> None:
        pool = make_pool(
            "sim", pages=self.pages, index_entries=self.index_entries, seed=self.seed, binding_bits=self.binding_bits,
            version_bits=self.version_bits,
        )  # fmt: skip
        assert isinstance(pool.fabric, SimulatedFabric)
        self.fabric = pool.fabric
        self.stores = [Store(pool, "noeviction"), Store(pool.attach(pool.fabric, 1), "noeviction")]
        for store in self.stores:
            store.set_clock(NOW_MS)
        self.choose = random.Random(self.seed)
        self.states = {key: {0} for key in self.keys}

    def value(self) -> tuple[int, bytes]:
        """Return a new write's number and bytes."""
        self.writes += 1
        self.lengths[self.writes] = self.choose.choice(LENGTHS)
        return self.writes, self.writes.to_bytes(8, "little") + filler(self.lengths[self.writes], self.writes)

    def number_of(self, payload: bytes) -> int:
        """Return the number of the write that brought these bytes, which must be whole."""
        number = int.from_bytes(payload[:8], "little")
        assert payload[8:] == filler(self.lengths[number], number), f"torn bytes of write {number}"
        return number

    def act(self, store: Store, key: bytes) -> Operation:
        """Do one operation."""
        names = ("read", "read", "exists", "write", "write", "write_nx", "write_nx", "write_xx", "delete", "replace", "delete_exact")
        name = "write" if self.fills and self.choose.random() < 0.5 else self.choose.choice(names)
        if name in ("replace", "delete_exact") and not self.tokens.get(key):
            name = "read"
        if name == "read":
            entry = finish(store.read(0, key))
            number = 0 if entry is None else self.number_of(entry.payload)
            if entry is not None:
                self.tokens.setdefault(key, []).append((number, entry.token))
            return Operation(name, answer=number)
        if name == "exists":
            return Operation(name, answer=finish(store.exists(0, [key]))[0])
        if name == "delete":
            return Operation(name, answer=finish(store.delete(0, [key])))
        if name == "delete_exact":
            expected, token = self.choose.choice(self.tokens[key][-2:])
            return Operation(name, expected=expected, answer=finish(store.delete_exact(0, key, token)))
        number, value = self.value()
        if name == "replace":
            expected, token = self.choose.choice(self.tokens[key][-2:])
            return Operation(name, number, expected, finish(store.replace(0, key, token, value, expire_at_ms=-1)))
        condition = {"write": Condition.ALWAYS, "write_nx": Condition.NX, "write_xx": Condition.XX}[name]
        return Operation(name, number, answer=finish(store.write(0, key, value, condition=condition)).status)

    def step(self) -> None:
        """Let one store act, and the other one in between its doorbells."""
        outer_number = self.choose.randrange(2)
        inner: dict[bytes, list[Operation]] = {key: [] for key in self.keys}

        def interrupt(_doorbell: object) -> None:
            # Several at one doorbell: a cell must be freed and used again before its reader comes to it.
            while self.choose.random() < self.chance and sum(map(len, inner.values())) < 6:
                other = self.choose.choice(self.keys)
                self.interruptions += 1
                inner[other].append(self.act(self.stores[1 - outer_number], other))

        key = self.choose.choice(self.keys)
        self.fabric.before_round = interrupt
        try:
            outer = self.act(self.stores[outer_number], key)
        finally:
            self.fabric.before_round = None
        for other in self.keys:
            if other == key:
                after = explanations(self.states[key], outer, inner[key])
                assert after, (self.states[key], outer, inner[key])
                self.states[key] = after
            else:
                for operation in inner[other]:
                    applied = [apply(before, operation) for before in self.states[other]]
                    after = {state for state, answer in applied if answer == operation.answer}
                    assert after, (self.states[other], operation)
                    self.states[other] = after

    def finish(self) -> None:
        """Look from both sides, then delete everything: no page is lost."""
        for store in self.stores:
            for key in self.keys:
                entry = finish(store.read(0, key))
                number = 0 if entry is None else self.number_of(entry.payload)
                assert number in self.states[key]
                self.states[key] = {number}
        assert [store.memory()["damaged"] for store in self.stores] == [0, 0]
        found = finish(self.stores[0].scan(0, 0, 10_000))[1]
        assert sorted(found) == sorted(key for key in self.keys if self.states[key] != {0}), "one slot for each key"
        finish(self.stores[1].delete(0, self.keys))
        for store in (*self.stores, *self.stores):
            sweep(store)
            store.release_spares()
        assert [store.memory()["retired_values"] for store in self.stores] == [0, 0]
        finish(self.stores[0].write(0, b"look", b""))  # what is used is known after the next claim
        finish(self.stores[0].delete(0, [b"look"]))
        self.stores[0].release_spares()
        assert self.stores[0].memory()["pages_used"] == 0


def play(duel: Duel, steps: int) -> None:
    """Play a number of steps."""
    for _ in range(steps):
        duel.step()
    duel.finish()


@pytest.mark.parametrize("seed", range(1, 13))
def test_two_front_ends_on_one_key(seed: int) -> None:
    duel = Duel(seed, [b"key"])
    play(duel, 250)
    assert duel.interruptions > 200


@pytest.mark.parametrize("seed", range(1, 9))
def test_two_front_ends_on_keys_that_overflow_each_other(seed: int) -> None:
    play(Duel(seed, [b"k%d" % number for number in range(12)], index_entries=21), 300)


@pytest.mark.parametrize("seed", range(1, 9))
def test_two_front_ends_on_crowded_sets(seed: int) -> None:
    """Two sets and more keys than one of them holds: entries live away from home all the time."""
    play(Duel(seed, [b"k%d" % number for number in range(12)], index_entries=14, fills=True), 300)


@pytest.mark.parametrize("seed", range(1, 9))
def test_two_front_ends_where_versions_wrap(seed: int) -> None:
    """Two bits each: a wrap needs four changes of one slot while another stands still; few interruptions cannot do that."""
    play(Duel(seed, [b"a", b"b"], index_entries=14, binding_bits=2, version_bits=2, chance=0.2), 300)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 400))
def test_two_front_ends_long(seed: int) -> None:
    play(Duel(seed, [b"k%d" % number for number in range(1 + seed % 9)], index_entries=14 + seed % 5 * 7), 1000)


def contenders(before: Callable[[Store], object] | None = None) -> tuple[SimulatedFabric, Store, Store]:
    """Return two stores of one pool."""
    duel = Duel(1, [b"key"])
    if before:
        before(duel.stores[0])
    return duel.fabric, duel.stores[0], duel.stores[1]


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("nested", ["write_nx", "write", "delete", "flush", "insert_delete"])
@pytest.mark.parametrize("outer", ["write_nx", "write", "read", "delete"])
@pytest.mark.parametrize("there", [False, True])
def test_one_interruption_at_every_doorbell(moment: int, nested: str, outer: str, there: bool) -> None:
    """Each pair of operations with the second at each doorbell of the first: never two winners, never a wrong byte."""
    fabric, first, second = contenders((lambda store: finish(store.write(0, b"key", b"old"))) if there else None)
    seen = 0
    inner: list[object] = []

    def interrupt(_doorbell: object) -> None:
        nonlocal seen
        seen += 1
        if seen != moment + 1:
            return
        if nested == "flush":
            finish(second.flush(0))
        elif nested == "delete":
            inner.append(finish(second.delete(0, [b"key"])))
        elif nested == "insert_delete":
            finish(second.write(0, b"key", b"inner"))
            finish(second.delete(0, [b"key"]))
        else:
            condition = Condition.NX if nested == "write_nx" else Condition.ALWAYS
            inner.append(finish(second.write(0, b"key", b"inner", condition=condition)).status)

    fabric.before_round = interrupt
    answer: object
    if outer == "read":
        entry = finish(first.read(0, b"key"))
        answer = None if entry is None else entry.payload
    elif outer == "delete":
        answer = finish(first.delete(0, [b"key"]))
    else:
        answer = finish(first.write(0, b"key", b"outer", condition=Condition.NX if outer == "write_nx" else Condition.ALWAYS)).status
    fabric.before_round = None

    values = {store: finish(store.read(0, b"key")) for store in (first, second)}
    payloads = {None if entry is None else entry.payload for entry in values.values()}
    assert len(payloads) == 1, payloads
    (payload,) = payloads
    assert payload in (None, b"old", b"inner", b"outer")
    assert len(finish(first.scan(0, 0, 1000))[1]) == (payload is not None)
    if outer == "read":
        assert answer in (None, b"old", b"inner")
    if outer == "write_nx" and nested == "write_nx" and seen > moment:
        winners = [status for status in (answer, *inner) if status == Status.OK]
        assert len(winners) == (0 if there else 1)
    if outer == "delete" and nested == "delete" and seen > moment:
        assert answer + sum(inner) == int(there)  # type: ignore[operator,arg-type]
    if outer == "write" and nested in ("write_nx",) and seen > moment and not there:
        assert payload in (b"outer", b"inner")
    assert first.memory()["damaged"] == second.memory()["damaged"] == 0


def at_doorbell(fabric: SimulatedFabric, number: int, action: Callable[[], object]) -> None:
    """Let ``action`` happen before the doorbell of this number, counted from 1."""
    rung = 0

    def interrupt(_doorbell: object) -> None:
        nonlocal rung
        rung += 1
        if rung == number:
            action()

    fabric.before_round = interrupt


@pytest.mark.parametrize("payload", [True, False])
def test_a_cell_used_again_before_its_reader_comes(payload: bool) -> None:
    """The reader saw the slot; then the key is written anew and its old cell holds another key's value: it must look again."""
    fabric, first, second = contenders()
    finish(second.write(0, b"key", b"old"))

    def reuse() -> None:
        finish(second.write(0, b"key", b"new"))
        finish(second.write(0, b"yek", b"bad"))

    at_doorbell(fabric, 2, reuse)
    entry = finish(first.read(0, b"key", payload=payload))
    assert entry is not None
    assert entry.payload == (b"new" if payload else b"")
    assert first.memory()["damaged"] == 0


@pytest.mark.parametrize("condition", [Condition.NX, Condition.ALWAYS])
@pytest.mark.parametrize("doorbell", [2, 3])
def test_a_twin_in_a_lower_slot(condition: Condition, doorbell: int) -> None:
    """While one inserts behind another key, that key goes and the same key is inserted in its place: one of them remains."""
    duel = Duel(1, [b"key"], index_entries=7)
    first, second = duel.stores
    finish(second.write(0, b"in front", b"x"))
    inner: list[Status] = []

    def insert() -> None:
        finish(second.delete(0, [b"in front"]))
        inner.append(finish(second.write(0, b"key", b"inner", condition=Condition.NX)).status)

    at_doorbell(duel.fabric, doorbell, insert)
    outer = finish(first.write(0, b"key", b"outer", condition=condition)).status
    duel.fabric.before_round = None
    assert inner
    if condition == Condition.NX:
        assert sorted([outer, inner[0]]) == [Status.OK, Status.PRESENT]
    assert finish(first.scan(0, 0, 100))[1] == [b"key"]
    assert finish(second.delete(0, [b"key"])) == 1
    assert finish(first.exists(0, [b"key"])) == [False]


@pytest.mark.parametrize("doorbell", [2, 3])
def test_pages_used_again_before_they_are_pinned(doorbell: int) -> None:
    """The reader knows the page list; before its hazard is out the pages are freed and hold another value."""
    fabric, first, second = contenders()
    new, bad = filler(3 * PAGE_BYTES, 2), filler(3 * PAGE_BYTES, 3)
    finish(second.write(0, b"key", filler(3 * PAGE_BYTES, 1)))

    def reuse() -> None:
        finish(second.write(0, b"key", new))
        finish(second.write(0, b"another", bad))

    at_doorbell(fabric, doorbell, reuse)
    entry = finish(first.read(0, b"key"))
    fabric.before_round = None
    assert entry is not None
    assert entry.payload == new
    assert first.memory()["pinned_bytes"] == 0
