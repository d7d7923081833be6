"""Recovery: a process that ends at any instruction loses nothing that it acknowledged, and leaks nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition, Status
from storage.opening import open_pool
from storage.pool import Pool, PoolError
from storage.recovery import RecoveryReport, recover
from storage.store import Store

PAGE_BYTES = 65536
MAX_CELL_BYTES = 32704
SIM_POOL_BYTES = 6 << 20
FAR_MS = 4_000_000_000_000
Answer = TypeVar("Answer")
Model = dict[tuple[int, bytes], bytes]


def done(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a store's coroutine, which on shared memory and sim never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as answer:
        return answer.value  # type: ignore[no-any-return]
    raise AssertionError("the store suspended")


# --------------------------------------------------------------- operations


@dataclass(frozen=True)
class Operation:
    """One change; what it makes of a model is known without the store."""

    kind: str
    database: int
    key: bytes
    value: bytes

    def expected(self, model: Model) -> Model:
        """Return the model after this operation."""
        place = (self.database, self.key)
        after = dict(model)
        if self.kind in ("set", "expiring"):
            after[place] = self.value
        elif self.kind == "append":
            after[place] = after.get(place, b"") + self.value
        elif self.kind == "delete":
            after.pop(place, None)
        elif self.kind == "flush":
            after = {(number, key): value for (number, key), value in model.items() if number != self.database}
        else:
            assert self.kind == "expire"  # the value stays
        return after

    def perform(self, store: Store) -> None:
        """Do it; raise unless the store accepts it."""
        if self.kind == "set":
            assert done(store.write(self.database, self.key, self.value)).status is Status.OK
        elif self.kind == "expiring":
            assert done(store.write(self.database, self.key, self.value, expire_at_ms=FAR_MS)).status is Status.OK
        elif self.kind == "delete":
            done(store.delete(self.database, [self.key]))
        elif self.kind == "flush":
            done(store.flush(self.database))
        else:
            entry = done(store.read(self.database, self.key))
            if entry is None:
                if self.kind == "append":
                    assert done(store.write(self.database, self.key, self.value, condition=Condition.NX)).status is Status.OK
                return
            value = entry.payload + self.value if self.kind == "append" else None
            assert done(store.replace(self.database, self.key, entry.token, value, expire_at_ms=FAR_MS)) is Status.OK


def key_of(name: int) -> bytes:
    """One of the keys of ``operations``; every fifth is longer than what recovery reads of a cell at first."""
    return b"key:%d" % name if name % 5 else b"key:%d:" % name + b"long" * (60 + name)


def operations(seed: int, *, keys: int, longest_bytes: int) -> Iterator[Operation]:
    """Endless random changes: the same for the process that is killed and for its judge."""
    generator = random.Random(seed)
    number = 0
    while True:
        number += 1
        kind = generator.choices(("set", "expiring", "append", "delete", "expire", "flush"), (40, 10, 15, 20, 14, 1))[0]
        # Databases 0 and 1; the second is the one that is flushed.
        database = 1 if kind == "flush" else generator.choices((0, 1), (3, 1))[0]
        name = generator.randrange(keys)
        key = key_of(name)
        length = generator.choice((0, 5, 64, 700, 5000, 33_000, 70_000, longest_bytes))
        if kind == "append":
            length = min(length, 500)
        filling = b"%d.%d;" % (seed, number)
        value = (filling * (length // len(filling) + 1))[:length]
        yield Operation(kind, database, key, value)


def payload_pages(key: bytes, value: bytes) -> int:
    """How many whole pages a value of the model takes."""
    if 24 + len(key) + len(value) <= MAX_CELL_BYTES - 16:
        return 0
    whole, rest = divmod(len(value), PAGE_BYTES)
    return whole + (1 if rest and 40 + len(key) + whole * 4 + rest > MAX_CELL_BYTES else 0)


def contents(store: Store) -> Model:
    """Everything that the store holds, found by walking the index and then read by key."""
    found: Model = {}
    for database in (0, 1):
        cursor = 0
        while True:
            cursor, keys = done(store.scan(database, cursor, 1000))
            for key in keys:
                entry = done(store.read(database, key))
                assert entry is not None, key
                found[database, key] = entry.payload
            if cursor == 0:
                break
        assert store.database_size(database).keys == sum(1 for number, _ in found if number == database)
    return found


def slots_in_use(pool: Pool) -> int:
    """How many slots are not FREE, as the index itself says."""
    layout = pool.layout()
    sets = pool.read(layout["sets"], layout["set_count"] * 128)
    return sum(sets[number * 128 + 16 + slot * 16] & 3 != 0 for number in range(layout["set_count"]) for slot in range(7))


def assert_books(store: Store, report: RecoveryReport, found: Model) -> None:
    """Counts, slots and pages are those of what is there: nothing leaked."""
    memory = store.memory()
    assert slots_in_use(store.pool) == len(found)
    assert report.keys == len(found)
    assert report.broken == 0
    assert memory["pages_used"] == report.cell_pages + report.payload_pages
    assert memory["pages_payload"] == sum(payload_pages(key, value) for (_, key), value in found.items())


def assert_empties(store: Store, found: Model) -> None:
    """Deleting everything gives every page back, and the store works after that."""
    for database, key in found:
        assert done(store.delete(database, [key])) == 1
    store.release_spares()
    assert store.memory()["pages_used"] == 0
    for number in range(3):
        assert done(store.write(0, b"new:%d" % number, b"x" * 70_000)).status is Status.OK
    entry = done(store.read(0, b"new:2"))
    assert entry is not None
    assert entry.payload == b"x" * 70_000


# --------------------------------------- every instruction, on the simulated fabric


def memory_states(fabric: SimulatedFabric, operation: Operation, store: Store) -> Iterator[bytes]:
    """Perform the operation; yield the memory as a kill anywhere in it may leave it.

    After every operation of every doorbell, and in the middle of every WRITE.
    """
    size = fabric.size_bytes
    doorbells: list[tuple[list[tuple[str, int, int]], bytes]] = []

    def note(ops: list[tuple[str, int, int]]) -> None:
        if any(kind != "READ" for kind, _, _ in ops):
            doorbells.append((list(ops), fabric.peek(0, size)))

    fabric.before_round = note
    operation.perform(store)
    fabric.before_round = None
    if not doorbells:
        return
    ends = [before for _, before in doorbells[1:]] + [fabric.peek(0, size)]
    for (ops, before), after in zip(doorbells, ends, strict=True):
        state = bytearray(before)
        for kind, offset, length in ops:
            if kind == "READ" or state[offset : offset + length] == after[offset : offset + length]:
                continue
            if kind == "WRITE" and length > 8:
                half = offset + length // 2 // 8 * 8
                state[offset:half] = after[offset:half]
                yield bytes(state)
            state[offset : offset + length] = after[offset : offset + length]
            yield bytes(state)


def reopened(image: bytes, seed: int = 1) -> tuple[Store, RecoveryReport]:
    """Take the pool up as the next process does."""
    fabric = SimulatedFabric(len(image), seed)
    fabric.poke(0, image)
    store = Store(Pool.attach(fabric), "noeviction")
    return store, recover(store)


@pytest.mark.parametrize(("seed", "index_entries"), [(1, 14), (2, 14), (3, 280)])
def test_a_kill_between_any_two_operations_loses_and_leaks_nothing(seed: int, index_entries: int) -> None:
    # 14 entries are 2 sets for up to 14 keys: homes overflow all the time.
    fabric = SimulatedFabric(SIM_POOL_BYTES, seed)
    store = Store(Pool.format(fabric, index_entries=index_entries, secret=bytes([seed]) * 16), "noeviction")
    stream = operations(seed, keys=7, longest_bytes=131_072)
    model: Model = {}
    for name in range(14):
        operation = Operation("set", name % 2, key_of(name // 2), b"filled")
        operation.perform(store)
        model = operation.expected(model)
    judged = raised = reserved = 0
    for _number in range(45):
        operation = next(stream)
        after = operation.expected(model)
        for state in memory_states(fabric, operation, store):
            again, report = reopened(state)
            found = contents(again)
            assert found in (model, after), operation
            assert_books(again, report, found)
            assert_empties(again, found)
            judged += 1
            raised += report.overflow_words
            reserved += report.reservations
        model = after
    assert contents(store) == model
    assert judged > 300
    # The states in between were really there.
    assert reserved > 10
    assert raised > 5 or index_entries > 14


def test_recovery_may_itself_be_killed_anywhere() -> None:
    fabric = SimulatedFabric(SIM_POOL_BYTES, 5)
    store = Store(Pool.format(fabric, index_entries=28, secret=bytes(16)), "noeviction")
    stream = operations(5, keys=9, longest_bytes=131_072)
    model: Model = {}
    for _number in range(25):
        operation = next(stream)
        model, before = operation.expected(model), model
        states = list(memory_states(fabric, operation, store))
        if not states:
            continue
        image = states[len(states) // 2]
        middle = SimulatedFabric(len(image))
        middle.poke(0, image)
        halfway: list[bytes] = []
        killed = Store(Pool.attach(middle))
        middle.before_round = lambda ops, images=halfway, memory=middle: images.append(memory.peek(0, SIM_POOL_BYTES))
        recover(killed)
        middle.before_round = None
        for state in halfway[:: max(1, len(halfway) // 6)]:
            again, report = reopened(state)
            found = contents(again)
            assert found in (model, before)
            assert_books(again, report, found)
            assert_empties(again, found)


# ------------------------------------------------------------------ what is kept


def test_every_size_of_value_and_key_is_kept() -> None:
    fabric = SimulatedFabric(64 << 20)
    store = Store(Pool.format(fabric, index_entries=7000))
    model: Model = {}
    sizes = [*range(0, 2100, 13), *range(2100, 34_000, 777), *range(MAX_CELL_BYTES - 60, MAX_CELL_BYTES + 5), *range(65_530, 65_542)]
    for number, size in enumerate(sizes):
        model[0, b"%d:" % number + b"k" * (number * 7 % 50)] = os.urandom(size)
    for key_bytes in (0, 1, 215, 216, 217, 231, 232, 233, 255, 256, 257, 4000, 16_384):
        model[1, b"k" * key_bytes] = os.urandom(100)
        model[1, (b"p%d" % key_bytes).ljust(key_bytes, b"p")[:16_384]] = os.urandom(98_304 + key_bytes)
    for (database, key), value in model.items():
        assert done(store.write(database, key, value, expire_at_ms=FAR_MS if len(value) % 3 else -1)).status is Status.OK
    before = store.memory()
    again, report = reopened(fabric.peek(0, fabric.size_bytes))
    assert contents(again) == model
    assert (report.keys, report.broken) == (len(model), 0)
    assert [again.database_size(number) for number in (0, 1)] == [store.database_size(number) for number in (0, 1)]
    after = again.memory()
    for name in ("pages_used", "pages_payload", "pages_cells", "cell_bytes_used", "cells", "index_used"):
        assert after[name] == before[name], name
    assert_empties(again, model)


@pytest.mark.long
def test_a_value_whose_page_list_has_a_page_of_its_own_is_kept() -> None:
    fabric = SimulatedFabric(300 << 20)
    store = Store(Pool.format(fabric, index_entries=700))
    key, value = b"k" * 16_384, os.urandom(1 << 20) * 256
    assert done(store.write(0, key, value)).status is Status.OK
    assert store.memory()["pages_payload"] == 4096 + 1
    again, report = reopened(fabric.peek(0, fabric.size_bytes))
    assert (report.keys, report.payload_pages) == (1, 4097)
    entry = done(again.read(0, key))
    assert entry is not None
    assert entry.payload == value
    assert done(again.delete(0, [key])) == 1
    again.release_spares()
    assert again.memory()["pages_used"] == 0


def test_kept_values_are_evicted_and_expire_as_before() -> None:
    fabric = SimulatedFabric(6 << 20)
    store = Store(Pool.format(fabric, index_entries=700))
    store.set_clock(1_000_000)
    for number in range(20):
        assert done(store.write(0, b"old:%d" % number, b"o" * 65_536)).status is Status.OK
        assert done(store.write(0, b"short:%d" % number, b"s", expire_at_ms=1_000_500)).status is Status.OK
    again, report = reopened(fabric.peek(0, fabric.size_bytes))
    again.set_policy("allkeys-lru")
    assert (report.keys, report.expires) == (40, 20)
    again.set_clock(1_001_000)
    while again.maintain(5.0):
        pass
    assert (again.database_size(0).keys, again.database_size(0).expires) == (20, 0)
    for number in range(100):
        assert done(again.write(0, b"new:%d" % number, b"n" * 65_536)).status is Status.OK
    memory = again.memory()
    assert memory["pages_used"] <= memory["pages"]
    assert again.counters()["evicted"] >= 40


def test_a_flushed_value_that_was_not_swept_yet_stays_away() -> None:
    fabric = SimulatedFabric(8 << 20)
    store = Store(Pool.format(fabric, index_entries=700))
    for number in range(30):
        done(store.write(number % 2, b"key:%d" % number, b"v" * 50))
    store.pool.advance_epoch(0)  # a flush that was killed before it swept
    again, report = reopened(fabric.peek(0, fabric.size_bytes))
    assert (report.keys, report.flushed) == (15, 15)
    assert set(contents(again)) == {(1, b"key:%d" % number) for number in range(1, 30, 2)}
    assert_empties(again, contents(again))


def test_a_store_that_has_served_is_refused() -> None:
    store = Store(Pool.format(SimulatedFabric(4 << 20), index_entries=700))
    done(store.write(0, b"key", b"value"))
    with pytest.raises(ValueError, match="served nothing"):
        recover(store)


def test_somebody_else_at_work_is_noticed() -> None:
    fabric = SimulatedFabric(8 << 20)
    first = Store(Pool.format(fabric, index_entries=7))
    done(first.write(0, b"key", b"value"))
    second = Store(Pool.attach(fabric))

    def meddle(ops: list[tuple[str, int, int]]) -> None:
        if ops[0][0] == "CAS":
            first.pool.write(ops[0][1], b"\xff" * 8)

    fabric.before_round = meddle
    with pytest.raises(PoolError, match="somebody else changes the pool"):
        recover(second)


def test_recovery_reads_in_large_batches() -> None:
    fabric = SimulatedFabric(32 << 20)
    store = Store(Pool.format(fabric, index_entries=70_000))
    for number in range(5000):
        done(store.write(0, b"key:%d" % number, b"v" * 20))
    fabric = SimulatedFabric(32 << 20)
    fabric.poke(0, store.pool.read(0, 32 << 20))
    again = Store(Pool.attach(fabric))
    before = fabric.operation_counts()
    assert recover(again).keys == 5000
    counts = {name: count - before[name] for name, count in fabric.operation_counts().items()}
    # Twice 20 chunks of sets, 10 doorbells of heads, 9 heads of pages, 32 of hazard rows, one of swaps, and the words.
    assert counts["rounds"] < 120
    assert counts["reads"] < 5000 + 90


# ----------------------------------------------------------------------- damage


def filled(seed: int) -> tuple[SimulatedFabric, Model]:
    fabric = SimulatedFabric(8 << 20, seed)
    store = Store(Pool.format(fabric, index_entries=70))
    model: Model = {}
    stream = operations(seed, keys=25, longest_bytes=140_000)
    for _number in range(120):
        operation = next(stream)
        operation.perform(store)
        model = operation.expected(model)
    assert len(model) > 15
    return fabric, model


def assert_sane(image: bytearray, model: Model) -> int:
    """Values are intact or gone, and the store works; how many are left."""
    try:
        store, _report = reopened(bytes(image))
    except PoolError:
        return 0
    left = 0
    for (database, key), value in model.items():
        entry = done(store.read(database, key))
        if entry is not None:
            assert entry.payload == value, (database, key)
            left += 1
    for number in range(8):
        assert done(store.write(0, b"after:%d" % number, b"a" * (40_000 * (number % 3)))).status is Status.OK
    for database in (0, 1):
        for key in [key for number, key in model if number == database]:
            done(store.delete(database, [key]))
            assert done(store.read(database, key)) is None
    for number in range(8):
        done(store.delete(0, [b"after:%d" % number]))
    return left


def metadata_ranges(pool: Pool) -> list[tuple[int, int]]:
    layout = pool.layout()
    return [
        (0, 4096),
        (layout["front_ends"], layout["hazards"]),
        (layout["hazards"], layout["counters"]),
        (layout["counters"], layout["globals"]),
        (layout["globals"], layout["globals"] + 64),
        (layout["databases"], layout["databases"] + 16),
        (layout["sets"], layout["sets"] + layout["set_count"] * 128),
        (layout["heat"], layout["heat"] + layout["slot_count"] * 16),
        (layout["page_words"], layout["page_words"] + layout["page_count"] * 8),
        *((layout["pages"] + page * PAGE_BYTES, layout["pages"] + page * PAGE_BYTES + 128) for page in cell_pages(pool)),
    ]


def cell_pages(pool: Pool) -> list[int]:
    """Pages whose word says that they hold cells."""
    layout = pool.layout()
    return [
        page
        for page in range(layout["page_count"])
        if int.from_bytes(pool.read(layout["page_words"] + page * 8, 8), "little") & 7 == 1
    ]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_metadata_costs_values_and_never_gives_wrong_ones(seed: int) -> None:
    fabric, model = filled(seed)
    image = fabric.peek(0, fabric.size_bytes)
    ranges = metadata_ranges(Pool.attach(fabric))
    generator = random.Random(seed)
    survived = 0
    assert assert_sane(bytearray(image), model) == len(model)
    for _round in range(150):
        damaged = bytearray(image)
        begin, end = generator.choice(ranges)
        for _flip in range(generator.choice((1, 1, 2, 5, 20))):
            damaged[generator.randrange(begin, end)] ^= generator.randrange(1, 256)
        survived += assert_sane(damaged, model)
    assert survived > 30 * len(model)  # most damage costs little


@pytest.mark.parametrize("seed", range(3))
def test_regions_full_of_noise_are_survived(seed: int) -> None:
    fabric, model = filled(seed)
    image = fabric.peek(0, fabric.size_bytes)
    for number, (begin, end) in enumerate(metadata_ranges(Pool.attach(fabric))[1:]):
        damaged = bytearray(image)
        damaged[begin:end] = random.Random(number).randbytes(end - begin)
        assert_sane(damaged, model)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_cell_is_refused_but_for_its_length(seed: int) -> None:
    # Key, database, epoch and list are proven by the hash, the page table and each other. The length of a value is known no
    # closer than its cell's class and its number of pages tell: docs/pool.md says so.
    fabric, model = filled(seed)
    image = fabric.peek(0, fabric.size_bytes)
    pool = Pool.attach(fabric)
    layout = pool.layout()
    places = []
    for slot in range(layout["slot_count"]):
        offset = layout["sets"] + slot // 7 * 128 + 16 + slot % 7 * 16
        word = int.from_bytes(pool.read(offset, 8), "little")
        if word & 3 == 2:
            page, cell = word >> 42, word >> 32 & 1023
            places.append(layout["pages"] + page * PAGE_BYTES + 128 + cell * cell_bytes(word >> 4 & 63))
    assert len(places) == len(model)
    generator = random.Random(seed)
    refused = 0
    for _round in range(160):
        damaged = bytearray(image)
        place = generator.choice(places)
        position = generator.choice([*range(12), *range(16, 24), *range(24, 40)])
        damaged[place + position] ^= generator.randrange(1, 256)
        refused += len(model) - assert_sane_but_payload(damaged, model, place, position)
    assert refused > 60


def test_a_damaged_length_reads_nothing_but_the_value_s_own_cell_and_pages() -> None:
    fabric = SimulatedFabric(8 << 20)
    store = Store(Pool.format(fabric, index_entries=70))
    for number in range(3):
        for name in (b"before", b"key", b"after"):
            assert done(store.write(0, name + b"%d" % number, (b"%d" % number) * (40, 3000, 40_000)[number])).status is Status.OK
    image = fabric.peek(0, fabric.size_bytes)
    generator = random.Random(7)
    other = 0
    # What a cell of 80 and one of 3104 bytes may hold behind header and key, and what needs one page.
    lengths = (range(65 - 28, 81 - 28), range(2721 - 28, 3105 - 28), range(1, PAGE_BYTES + 1))
    for number in range(3):
        place = image.index(b"key%d" % number) - 24
        for _round in range(60):
            damaged = bytearray(image)
            damaged[place + 12 + generator.randrange(4)] ^= generator.randrange(1, 256)
            again, _report = reopened(bytes(damaged))
            entry = done(again.read(0, b"key%d" % number))
            if entry is not None:
                other += 1
                value = (b"%d" % number) * (40, 3000, 40_000)[number]
                assert len(entry.payload) in lengths[number]
                assert entry.payload[: len(value)] == value[: len(entry.payload)]
                # A page or a cell was taken fresh from zeroed memory: behind the value there is nothing else.
                assert entry.payload[len(value) :].strip(b"\0") == b""
    assert other > 0


def assert_sane_but_payload(image: bytearray, model: Model, place: int, position: int) -> int:
    """Like ``assert_sane``; bytes 24 and on may be payload, which carries no checksum: there one byte may differ."""
    store, _report = reopened(bytes(image))
    assert set(contents(store)) <= set(model)  # no key that nobody wrote
    left = 0
    for (database, key), value in model.items():
        entry = done(store.read(database, key))
        if entry is None:
            continue
        left += 1
        if entry.payload != value:
            assert position >= 24, (place, position)
            assert len(entry.payload) == len(value)
            assert sum(one != other for one, other in zip(entry.payload, value, strict=True)) == 1
    return left


def cell_bytes(number: int) -> int:
    from storage.cells import cell_sizes  # type: ignore[attr-defined,unused-ignore]

    return int(cell_sizes()[number])


@pytest.mark.parametrize("word", [0, 2, 7, 1 | 5 << 3])
def test_cells_on_a_page_that_holds_something_else_are_not_believed(word: int) -> None:
    fabric = SimulatedFabric(8 << 20)
    store = Store(Pool.format(fabric, index_entries=70))
    for number in range(10):
        assert done(store.write(0, b"key:%d" % number, b"v")).status is Status.OK
    (page,) = cell_pages(store.pool)
    store.pool.write(store.pool.layout()["page_words"] + page * 8, word.to_bytes(8, "little"))
    again, report = reopened(fabric.peek(0, fabric.size_bytes))
    assert (report.keys, report.broken) == (0, 10)
    assert_empties(again, contents(again))


def test_a_slot_that_points_to_an_older_cell_of_its_own_key_is_not_believed() -> None:
    fabric = SimulatedFabric(8 << 20)
    store = Store(Pool.format(fabric, index_entries=7))
    layout = store.pool.layout()
    words = []
    for value in (b"old", b"new"):
        assert done(store.write(0, b"key", value)).status is Status.OK
        slots = (layout["sets"] + 16 + number * 16 for number in range(7))
        words += [(offset, word) for offset in slots if (word := int.from_bytes(store.pool.read(offset, 8), "little")) & 3 == 2]
    (offset, old), (_, new) = words
    assert old >> 32 != new >> 32
    store.pool.write(offset, (new & 0xFFFFFFFF | old >> 32 << 32).to_bytes(8, "little"))
    again, report = reopened(fabric.peek(0, fabric.size_bytes))
    assert (report.keys, report.broken) == (0, 1)
    assert_empties(again, contents(again))


def test_a_page_that_two_values_name_is_believed_of_neither() -> None:
    fabric = SimulatedFabric(8 << 20)
    store = Store(Pool.format(fabric, index_entries=70))
    for name in (b"one", b"two", b"three"):
        assert done(store.write(0, name, name * 65_536)).status is Status.OK  # 3, 3 and 5 pages
    pool = store.pool
    layout = pool.layout()
    cells = {}
    for slot in range(layout["slot_count"]):
        word = int.from_bytes(pool.read(layout["sets"] + slot // 7 * 128 + 16 + slot % 7 * 16, 8), "little")
        if word & 3 == 2:
            place = layout["pages"] + (word >> 42) * PAGE_BYTES + 128 + (word >> 32 & 1023) * cell_bytes(word >> 4 & 63)
            key_bytes = int.from_bytes(pool.read(place + 16, 2), "little")
            cells[pool.read(place + 24, key_bytes)] = place + 24 + key_bytes
    first_page_of_two = pool.read(cells[b"two"], 4)
    pool.write(cells[b"one"] + 4, first_page_of_two)
    again, report = reopened(fabric.peek(0, fabric.size_bytes))
    assert (report.keys, report.broken, report.payload_pages, report.freed_pages) == (1, 2, 5, 6)
    assert contents(again) == {(0, b"three"): b"three" * 65_536}
    assert_empties(again, contents(again))


# ------------------------------------------------------------------ real kills

KILL_POOL_BYTES = 48 << 20  # fits the 64 MB that containers give /dev/shm
KILL_ENTRIES = 350  # 50 sets for up to 240 keys: some homes overflow


def kill_stream(seed: int) -> Iterator[Operation]:
    return operations(seed, keys=120, longest_bytes=200_000)


def be_killed(url: str, seed: int) -> None:
    """The child: take the pool up, then change it without end; one byte to the pipe for every change that is done."""
    opened = open_pool(url, pool_size_bytes=KILL_POOL_BYTES, index_entries=KILL_ENTRIES, log=lambda *_words, **_facts: None)
    store = Store(opened.pool, "noeviction")
    if opened.recovered:
        recover(store)
    for operation in kill_stream(seed):
        operation.perform(store)
        os.write(1, b".")


def kill_rounds(path: Path, rounds: int, seed: int) -> None:
    generator = random.Random(seed)
    url = f"file:{path}"
    model: Model = {}
    logged: list[str] = []
    flights = 0
    for number in range(rounds):
        child_seed = seed * 1000 + number
        child = subprocess.Popen(
            [sys.executable, __file__, url, str(child_seed)], stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        )
        assert child.stdout is not None
        target, acknowledged = generator.randrange(1, 500), 0
        while acknowledged < target:
            piece = os.read(child.stdout.fileno(), 64)
            assert piece, "the child ended by itself"
            acknowledged += len(piece)
        child.kill()
        acknowledged += len(child.stdout.read())
        child.stdout.close()
        child.wait()
        stream = kill_stream(child_seed)
        for _number in range(acknowledged):
            model = next(stream).expected(model)
        in_flight = next(stream).expected(model)
        opened = open_pool(url, pool_size_bytes=KILL_POOL_BYTES, index_entries=KILL_ENTRIES, log=lambda event, **_: logged.append(event))
        assert opened.recovered
        store = Store(opened.pool, "noeviction")
        report = recover(store)
        found = contents(store)
        assert found in (model, in_flight), f"round {number}"
        flights += found != model
        assert_books(store, report, found)
        model = found
        if number == rounds - 1:
            assert_empties(store, found)
        opened.close()
    assert logged == []


@pytest.fixture
def memory_path() -> Iterator[Path]:
    path = Path("/dev/shm") / f"kvcd-test-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".lock").unlink(missing_ok=True)


def test_killed_again_and_again_in_memory(memory_path: Path) -> None:
    kill_rounds(memory_path, 12, 1)


def test_killed_again_and_again_on_disk(tmp_path: Path) -> None:
    kill_rounds(tmp_path / "pool", 8, 2)


@pytest.mark.long
def test_killed_very_often(memory_path: Path, tmp_path: Path) -> None:
    kill_rounds(memory_path, 60, 3)
    kill_rounds(tmp_path / "pool", 25, 4)


if __name__ == "__main__":
    be_killed(sys.argv[1], int(sys.argv[2]))
