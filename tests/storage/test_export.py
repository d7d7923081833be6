"""Export and intake: every live value once, as it was at one instant, whatever others do in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvcd.snapshot_reader import Snapshot
from kvcd.snapshot_writer import STEP_SETS, steps, write_snapshot
from storage.export import NEIGHBOURS, ExportedValue, Exporter
from storage.fabric.sim import SimulatedFabric
from storage.intake import Intake
from storage.interface import Status
from storage.loading_mark import Loading, loading_mark, set_loading_mark
from storage.store import Store
from tests.storage.pools import NOW_MS, filler, finish, make_store, second_store


@dataclass
class Value:
    """A value that arrives."""

    key: bytes
    value: bytes | None
    database: int = 0
    expire_at_ms: int = -1
    parent: bytes | None = None
    depth: int = 0
    size_bytes: int = 0

    def __post_init__(self) -> None:
        """Say how long it is."""
        if self.value is not None:
            self.size_bytes = len(self.value)


def exported(store: Store, between: Callable[[], object] = lambda: None) -> dict[tuple[int, bytes], bytes]:
    """Walk through a store as a snapshot does; ``between`` is called after every step. No key may come twice."""
    exporter = Exporter(store)
    found: dict[tuple[int, bytes], bytes] = {}
    for values in steps(exporter):
        for value in values:
            current: ExportedValue | None = value if value.value is not None else exporter.read_again(value)
            if current is None:
                continue
            assert (value.database, value.key) not in found
            if current.pinned is not None:
                found[value.database, value.key] = current.pinned.tobytes()
                current.pinned.release()
            else:
                assert current.value is not None
                found[value.database, value.key] = current.value
        between()
    assert exporter.damaged == 0
    return found


def test_every_live_value_is_exported() -> None:
    store = make_store("shm", pages=400, index_entries=20_000)
    expected = {}
    for number in range(3000):
        key, value, database = b"k%d" % number, filler(number % 700, number), number % 3
        finish(store.write(database, key, value))
        expected[database, key] = value
    for size in (32_000, 33_000, 65_536, 70_000, 1_000_000):
        finish(store.write(1, b"large:%d" % size, filler(size, size)))
        expected[1, b"large:%d" % size] = filler(size, size)
    finish(store.write(0, b"x" * 16_384, b"long key"))
    expected[0, b"x" * 16_384] = b"long key"
    finish(store.write(0, b"expired", b"1", expire_at_ms=NOW_MS - 1))
    finish(store.write(2, b"soon", b"1", expire_at_ms=NOW_MS + 1))
    expected[2, b"soon"] = b"1"
    hits = store.counters()
    assert exported(store) == expected
    after = store.counters()
    assert all(after[name] == hits[name] for name in ("hits", "misses", "evicted", "deleted"))
    assert Exporter(store).count().keys() == {0, 1, 2}


def test_what_another_front_end_flushes_is_not_exported_any_more() -> None:
    store = make_store("shm", index_entries=7 * STEP_SETS * 4)
    for number in range(1000):
        finish(store.write(number % 2, b"k%d" % number, b"v"))
    other = second_store(store)
    flushed: list[bool] = []

    def flush() -> None:
        if not flushed:
            flushed.append(True)
            finish(other.flush(1))
            for number in range(1000):
                # Its homes are others now: what is written again could come twice.
                finish(other.write(1, b"k%d" % number, b"new"))

    found = exported(store, flush)
    assert sum(database == 0 for database, _ in found) == 500
    in_flushed = [value for (database, _), value in found.items() if database == 1]
    assert 0 < len(in_flushed) < 500
    assert set(in_flushed) == {b"v"}


@pytest.mark.parametrize("seed", range(6))
def test_a_key_that_moves_never_comes_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowded small index, where a key that is deleted and set again finds another slot; the index goes round."""
    monkeypatch.setattr("kvcd.snapshot_writer.STEP_SETS", NEIGHBOURS + 1)  # many ends of steps to move across
    choose = random.Random(seed)
    store = make_store("shm", index_entries=7 * (STEP_SETS + 40))
    other = second_store(store)
    keys = [b"k%d" % number for number in range(1000)]
    for key in keys:
        finish(store.write(0, key, b"0"))
    kept = set(keys[:100])
    moved: list[Status] = []

    def move() -> None:
        gone = choose.sample(keys[100:], 400)
        for key in gone:
            finish(other.delete(0, [key]))
        # Others take their places, near and far, so that those who come back go further than before, or less far.
        for number in range(choose.randrange(350)):
            finish(other.write(0, b"n%d" % number, b"1"))
        moved.extend(finish(other.write(0, key, b"1")).status for key in gone)

    found = exported(store, move)  # asserts that none comes twice
    assert {key for _, key in found} >= kept
    assert Status.OK in moved


def test_a_slot_that_changed_while_it_was_read_is_read_again() -> None:
    """Over sim another front end overwrites between any two doorbells: what comes out is one of the values, whole."""
    store = make_store("sim", index_entries=1022)
    other = second_store(store)
    for number in range(50):
        finish(store.write(0, b"k%d" % number, b"old" * 20))
    fabric = store.pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    choose = random.Random(3)
    busy = False

    def interfere(*_: object) -> None:
        nonlocal busy
        if not busy:
            busy = True
            for number in choose.sample(range(50), 5):
                finish(other.write(0, b"k%d" % number, b"new" * 20))
            busy = False

    exporter = Exporter(store)
    fabric.before_round = interfere
    fabric.tears = True
    found = {value.key: value.value for value in exporter.read(0, exporter.set_count)}
    fabric.before_round = None
    fabric.tears = False
    assert len(found) == 50
    assert set(found.values()) <= {b"old" * 20, b"new" * 20}


def test_a_parent_is_known_by_its_hash() -> None:
    store = make_store("shm")
    finish(store.write(0, b"root", b"r"))
    finish(store.write(0, b"child", b"c", parent=b"root"))
    finish(store.write(0, b"orphan", b"o", parent=b"nowhere"))
    exporter = Exporter(store)
    found = {value.key: value for value in exporter.read(0, exporter.set_count)}
    assert exporter.key_of(0, found[b"child"].parent_hash) == b"root"
    assert exporter.key_of(1, found[b"child"].parent_hash) is None
    assert exporter.key_of(0, found[b"orphan"].parent_hash) is None
    assert (found[b"child"].depth, found[b"root"].parent_hash) == (1, 0)


def test_intake_writes_expiry_and_chain_and_says_when_nothing_fits() -> None:
    store = make_store("shm", pages=16)
    intake = Intake(store)
    values = [Value(b"child", b"c", parent=b"root", depth=5), Value(b"root", b"r", depth=4), Value(b"ttl", b"t", 3, NOW_MS + 5)]
    assert intake.add([*values, Value(b"root", b"later", depth=4)]) is Status.OK
    facts = finish(store.prefix_info(0, b"child"))
    assert facts is not None
    assert (facts.parent, facts.depth) == (b"root", 5)
    entry = finish(store.read(3, b"ttl"))
    assert entry is not None
    assert entry.expire_at_ms == NOW_MS + 5
    root = finish(store.read(0, b"root"))
    assert root is not None
    assert root.payload == b"later"
    with pytest.raises(ValueError, match="16385"):
        intake.add([Value(b"x" * 16_385, b"")])
    assert intake.add([Value(b"large:%d" % number, filler(60_000, number)) for number in range(40)]) is Status.FULL


def test_a_snapshot_of_small_pieces_comes_back(tmp_path: Path) -> None:
    """Pages that do not lie beside each other, and values of every kind of tail."""
    store = make_store("shm", pages=200, index_entries=4000)
    expected = {}
    for number in range(40):
        finish(store.write(0, b"hole:%d" % number, filler(65_536, number)))
    for number in range(0, 40, 2):
        finish(store.delete(0, [b"hole:%d" % number]))
    for number, size in enumerate((65_537, 131_072, 196_000, 300_001, 400_000)):
        finish(store.write(0, b"value:%d" % number, filler(size, number)))
        expected[0, b"value:%d" % number] = filler(size, number)
    path = str(tmp_path / "dump.rdb")
    write_snapshot(store, path)
    again = make_store("shm", pages=200, index_entries=4000)
    with Snapshot(path) as snapshot:
        assert snapshot.verify(databases=16, now_ms=NOW_MS).keys == 25
        assert snapshot.load(again, now_ms=NOW_MS).keys == 25
    found = exported(again)
    assert expected.items() <= found.items()
    assert found[0, b"hole:1"] == filler(65_536, 1)


def test_a_new_pool_has_not_begun_to_load() -> None:
    store = make_store("shm")
    assert loading_mark(store.pool) is Loading.NOT_BEGUN
    set_loading_mark(store.pool, Loading.DONE)
    assert loading_mark(second_store(store).pool) is Loading.DONE
    store.pool.write(2304, b"\xff" * 8)
    assert loading_mark(store.pool) is Loading.UNDER_WAY


def test_a_key_never_leaves_its_neighbourhood() -> None:
    assert NEIGHBOURS < STEP_SETS  # what `steps` relies on
