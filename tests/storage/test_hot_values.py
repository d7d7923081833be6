"""Hot values: a copy answers what the pool would answer, whoever changes the value, and at whatever moment."""

from __future__ import annotations

import random

import pytest

from storage.cluster import Cluster, Node
from storage.engine import Engine
from storage.fabric.sim import SimulatedFabric
from storage.pool import Pool
from storage.store import Store
from tests.storage.pools import NOW_MS, finish, make_pool, pages_used

SIZES = (0, 100, 4096, 30_000, 60_000, 65_536, 300_000)  # in a cell, in pages, in pages with a tail
KEYS = [b"block:%d" % size for size in SIZES]


def value(key: bytes, version: int) -> bytes:
    """Return what version ``version`` of a key holds; no two are alike in any piece."""
    size = int(key.split(b":")[1])
    return (b"%s/%08d|" % (key, version) * (size // 10 + 1))[:size]


def store_with_copies(pool: Pool, capacity_bytes: int = 4 << 20, policy: str = "allkeys-prefix") -> Store:
    store = Store(Cluster([Node("", Engine(pool, hot_values_bytes=capacity_bytes), policy)]), policy)
    store.set_clock(NOW_MS)
    return store


def pair(seed: int = 1, **pool_options: int) -> tuple[Store, Store, SimulatedFabric]:
    """Return who writes, who reads with copies of its own, and the fabric of the one who reads."""
    pool = make_pool("sim", seed=seed, **pool_options)
    fabric = pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    writer = Store(pool, "noeviction")
    writer.set_clock(NOW_MS)
    shared = fabric.share(seed + 50)
    return writer, store_with_copies(Pool.attach(shared, 1)), shared


def read(store: Store, key: bytes) -> bytes | None:
    entry = finish(store.read(0, key))
    return None if entry is None else bytes(entry.payload)


def hits(store: Store) -> int:
    return store.counters()["hot_value_hits"]


def warm(store: Store, keys: list[bytes]) -> None:
    """Read until every key's value has a copy."""
    for _ in range(4):
        for key in keys:
            read(store, key)


@pytest.mark.parametrize("size", SIZES)
def test_a_value_that_is_read_again_moves_no_more(size: int) -> None:
    writer, reader, fabric = pair()
    key = b"block:%d" % size
    finish(writer.write(0, key, value(key, 1)))
    warm(reader, [key])
    before, counted = hits(reader), fabric.operation_counts()
    assert read(reader, key) == value(key, 1)
    after = fabric.operation_counts()
    assert hits(reader) == before + 1
    assert after["rounds"] - after["unwaited"] - counted["rounds"] + counted["unwaited"] == 1
    assert after["read_bytes"] - counted["read_bytes"] <= 128 + 32  # epochs; counter, slot and heat


def test_a_chain_is_one_round_and_the_counters() -> None:
    writer, reader, fabric = pair(pages=128)
    keys = [b"block:%d" % (60_000 + number) for number in range(30)]
    for key in keys:
        finish(writer.write(0, key, value(key, 1)))
    warm(reader, keys)
    counted = fabric.operation_counts()
    found = finish(reader.read_many(0, keys))
    after = fabric.operation_counts()
    assert [bytes(entry.payload) for entry in found if entry is not None] == [value(key, 1) for key in keys]
    assert after["rounds"] - after["unwaited"] - counted["rounds"] + counted["unwaited"] == 1
    assert after["read_bytes"] - counted["read_bytes"] == 128 + 4096 + 16 * len(keys)


@pytest.mark.parametrize("change", ["overwrite", "delete", "delete and write", "flush", "expire"])
def test_no_change_is_missed(change: str) -> None:
    writer, reader, _ = pair()
    for key in KEYS:
        finish(writer.write(0, key, value(key, 1)))
    warm(reader, KEYS)
    assert hits(reader) > 0
    expected: list[bytes | None] = [None] * len(KEYS)
    if change == "flush":
        finish(writer.flush(0))
    for number, key in enumerate(KEYS):
        if change.startswith("delete"):
            finish(writer.delete(0, [key]))
        if change == "expire":
            finish(writer.write(0, key, value(key, 2), expire_at_ms=NOW_MS + 5))
        elif change in ("overwrite", "delete and write"):
            finish(writer.write(0, key, value(key, 2)))
            expected[number] = value(key, 2)
    if change == "expire":
        warm(reader, KEYS)
        before = hits(reader)
        assert read(reader, KEYS[3]) == value(KEYS[3], 2)
        assert hits(reader) > before  # a copy of what expires
        reader.set_clock(NOW_MS + 10)
    assert [read(reader, key) for key in KEYS] == expected
    assert [None if entry is None else bytes(entry.payload) for entry in finish(reader.read_many(0, KEYS))] == expected


def test_other_keys_of_its_counter_do_not_cost_a_copy() -> None:
    writer, reader, _ = pair(index_entries=7 * 512)
    key = b"block:4096"
    finish(writer.write(0, key, value(key, 1)))
    warm(reader, [key])
    for number in range(3000):  # each of the 512 counters moves several times
        other = b"other:%d" % (number % 40)
        finish(writer.write(0, other, b"v"))
    for number in range(2000):
        finish(writer.write(0, b"more:%d" % number, b"v"))
    for number in range(2000):
        finish(writer.delete(0, [b"more:%d" % number]))
    before = hits(reader)
    for _ in range(3):
        assert read(reader, key) == value(key, 1)
    assert hits(reader) == before + 3


def test_a_value_may_change_as_often_as_its_version_has_values() -> None:
    """After so many changes the slot holds the very word again that the copy was made under."""
    writer, reader, _ = pair(pages=12, index_entries=7, binding_bits=1, version_bits=1)
    key = b"block:4096"
    finish(writer.write(0, key, value(key, 1)))
    warm(reader, [key])
    for version in range(2, 40):
        finish(writer.write(0, key, value(key, version)))
        writer.release_spares()  # the cell of before is the next one
        if version % 2:  # two changes: with one bit the version is what it was
            assert read(reader, key) == value(key, version)
    for version in range(40, 60, 2):
        finish(writer.delete(0, [key]))
        writer.release_spares()
        finish(writer.write(0, key, value(key, version)))
        assert read(reader, key) == value(key, version)


def test_a_hit_is_an_access() -> None:
    writer, reader, _ = pair()
    key = b"block:4096"
    finish(writer.write(0, key, value(key, 1)))
    warm(reader, [key])
    before = finish(reader.read(0, key, touch=False))
    assert before is not None
    counted = hits(reader)
    for _ in range(5):
        read(reader, key)
    after = finish(writer.read(0, key, touch=False))
    assert after is not None
    assert hits(reader) == counted + 5
    assert after.hits == before.hits + 5


def test_memory_stays_within_its_bound() -> None:
    writer, reader, _ = pair(pages=200, index_entries=7 * 512)
    reader = store_with_copies(reader.pool, 1 << 20)
    keys = [b"block:%d" % (50_000 + number) for number in range(100)]
    for key in keys:
        finish(writer.write(0, key, value(key, 1)))
    hot = keys[:5]
    warm(reader, hot)
    for start in range(5, 100, 5):
        for key in keys[start : start + 5] * 3 + hot:
            assert read(reader, key) == value(key, 1)
        assert reader.counters()["hot_value_bytes"] <= 1 << 20
    before = hits(reader)
    for key in hot:
        read(reader, key)
    assert hits(reader) == before + len(hot)  # what was used between others is still there


def test_a_value_too_large_for_its_share_is_read_as_before() -> None:
    writer, reader, _ = pair()
    reader = store_with_copies(reader.pool, 1 << 20)
    key = b"block:300000"
    finish(writer.write(0, key, value(key, 1)))
    warm(reader, [key])
    assert read(reader, key) == value(key, 1)
    assert reader.counters()["hot_value_bytes"] == 0


def test_a_copy_that_gives_way_while_it_is_sent_stays_whole() -> None:
    writer, reader, _ = pair(pages=200, index_entries=7 * 512)
    reader = store_with_copies(reader.pool, 1 << 20)
    keys = [b"block:%d" % (100_000 + number) for number in range(12)]
    for key in keys:
        finish(writer.write(0, key, value(key, 1)))
    warm(reader, keys[:1])
    used = pages_used(writer)
    before = hits(reader)
    sending = reader.pin(0, keys[0])
    assert sending is not None
    assert hits(reader) == before + 1
    finish(writer.delete(0, [keys[0]]))
    writer.release_spares()
    assert pages_used(writer) < used  # it holds no page of the pool
    for _ in range(4):
        for key in keys[1:]:
            read(reader, key)
    assert sending.tobytes() == value(keys[0], 1)
    assert reader.counters()["hot_value_bytes"] <= 1 << 20
    sending.release()
    assert read(reader, keys[0]) is None


@pytest.mark.parametrize("batch", [1, len(KEYS)])
@pytest.mark.parametrize("seed", range(1, 16))
def test_what_is_answered_was_there_during_the_call(seed: int, batch: int) -> None:
    """Overwrites, removals and flushes of another front end fall between any two doorbells of a read."""
    pool = make_pool("sim", pages=120, index_entries=7 * 64, seed=seed)
    fabric = pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    reader = store_with_copies(pool, 8 << 20)
    writer = Store(Pool.attach(fabric.share(seed), 1), "noeviction")
    writer.set_clock(NOW_MS)
    choose = random.Random(seed)
    present: dict[bytes, bytes | None] = {}
    seen: dict[bytes, set[bytes | None]] = {}
    version = 0

    def put(key: bytes, bytes_now: bytes | None) -> None:
        present[key] = bytes_now
        seen.setdefault(key, set()).add(bytes_now)

    def interfere(_operations: object) -> None:
        nonlocal version
        if choose.random() < 0.93:
            return
        key, version = choose.choice(KEYS), version + 1
        what = choose.random()
        if what < 0.05:
            finish(writer.flush(0))
            for other in KEYS:
                put(other, None)
        elif what < 0.4:
            finish(writer.delete(0, [key]))
            put(key, None)
        else:
            finish(writer.write(0, key, value(key, version)))
            put(key, value(key, version))

    for key in KEYS:
        finish(writer.write(0, key, value(key, 0)))
        put(key, value(key, 0))
    fabric.before_round = interfere
    for _ in range(300):
        keys = choose.sample(KEYS, batch)
        seen.clear()
        before = dict(present)
        for key, entry in zip(keys, finish(reader.read_many(0, keys)), strict=True):
            found = None if entry is None else bytes(entry.payload)
            assert found in {before[key], *seen.get(key, set())}, (key, found and found[:40])
    assert hits(reader) > 20
    assert reader.counters()["hot_value_stale"] > 0
