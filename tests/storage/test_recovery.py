"""Recovery: a process that ends at any instruction loses nothing that it acknowledged, and leaks nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.fabric.sim import SimulatedFabric
from storage.interface import Status
from storage.opening import open_pool
from storage.pool import Pool, PoolError
from storage.recovery import recover
from storage.store import Store
from tests.storage.recovered import (
    FAR_MS,
    MAX_CELL_BYTES,
    Model,
    Operation,
    assert_books,
    assert_empties,
    contents,
    done,
    key_of,
    operations,
    reopened,
)

SIM_POOL_BYTES = 6 << 20


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
