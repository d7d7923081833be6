"""Remembered locations: they answer only while nothing has changed, whoever changes it, and at whatever moment."""

from __future__ import annotations

import random

import pytest

from storage.fabric.sim import SimulatedFabric
from storage.pool import Pool
from storage.store import Store
from tests.storage.pools import NOW_MS, finish, make_store

KEYS = [b"block:%02d" % number for number in range(12)]


def pair(seed: int = 1) -> tuple[Store, Store, SimulatedFabric]:
    """Return two front ends of one pool; whatever hook ``fabric`` has runs before each doorbell of the first."""
    first = make_store("sim", index_entries=7 * 64, seed=seed)
    fabric = first.pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    second = Store(Pool.attach(fabric.share(seed + 50), 1), "noeviction")
    second.set_clock(NOW_MS)
    for key in KEYS:
        finish(first.write(0, key, b"v"))
    assert all(finish(second.exists(0, KEYS)))
    return first, second, fabric


def hits(store: Store) -> int:
    return store.counters()["location_cache_hits"]


def test_what_was_found_is_remembered_until_it_changes() -> None:
    first, second, _ = pair()
    before = hits(second)
    assert all(finish(second.exists(0, KEYS)))
    assert hits(second) - before == len(KEYS)
    finish(first.delete(0, [KEYS[3]]))
    assert finish(second.exists(0, KEYS)) == [key != KEYS[3] for key in KEYS]
    finish(first.write(0, KEYS[3], b"again"))
    assert all(finish(second.exists(0, KEYS)))


@pytest.mark.parametrize("change", ["delete", "flush", "expire", "overwrite with an expiry"])
def test_no_change_by_another_front_end_is_missed(change: str) -> None:
    first, second, _ = pair()
    if change == "delete":
        finish(first.delete(0, KEYS))
    elif change == "flush":
        finish(first.flush(0))
    else:
        for key in KEYS:
            if change == "expire":
                entry = finish(first.read(0, key))
                assert entry is not None
                finish(first.replace(0, key, entry.token, None, expire_at_ms=NOW_MS + 5))
            else:
                finish(first.write(0, key, b"new", expire_at_ms=NOW_MS + 5))
        assert all(finish(second.exists(0, KEYS)))
        second.set_clock(NOW_MS + 5)
    assert finish(second.exists(0, KEYS)) == [False] * len(KEYS)
    assert finish(second.read_many(0, KEYS)) == [None] * len(KEYS)


@pytest.mark.parametrize("begun", [1, 2])
def test_a_change_that_was_begun_and_never_ended_proves_nothing(begun: int) -> None:
    """As when the front end that made it was killed between both halves of the counter."""
    first, second, fabric = pair()
    layout = first.pool.layout()
    for number in range(512):
        word = int.from_bytes(fabric.peek(layout["counters"] + number * 8, 8), "little")
        fabric.poke(layout["counters"] + number * 8, (word + begun).to_bytes(8, "little"))
    for _ in range(3):
        before = hits(second)
        assert all(finish(second.exists(0, KEYS)))
        assert hits(second) == before


@pytest.mark.parametrize("seed", range(1, 25))
def test_a_block_that_is_named_was_there_during_the_call(seed: int) -> None:
    """Deletes, writes and looks of another front end fall between any two doorbells of a match."""
    store = make_store("sim", index_entries=7 * 64, seed=seed)
    fabric = store.pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    other = Store(Pool.attach(fabric.share(seed), 1), "noeviction")
    other.set_clock(NOW_MS)
    choose = random.Random(seed)
    present = dict.fromkeys(KEYS, False)
    seen: dict[bytes, set[bool]] = {}

    def interfere(_operations: object) -> None:
        for _ in range(choose.choice([0, 0, 1, 2])):
            key = choose.choice(KEYS)
            if choose.random() < 0.5:
                finish(other.delete(0, [key]))
                present[key] = False
            else:
                finish(other.write(0, key, b"w"))
                present[key] = True
            seen.setdefault(key, set()).add(present[key])

    fabric.before_round = interfere
    for _ in range(150):
        seen.clear()
        before = dict(present)
        for key, found in zip(KEYS, finish(store.exists(0, KEYS)), strict=True):
            assert found in {before[key], *seen.get(key, set())}, (key, found)
        if choose.random() < 0.3:
            seen.clear()
            key = choose.choice(KEYS)
            finish(store.delete(0, [key]))
            present[key] = False
            if True in seen.get(key, set()):
                entry = finish(store.read(0, key))
                present[key] = entry is not None
    assert hits(store) > 0
