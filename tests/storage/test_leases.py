"""Leases: what is leased is not evicted before its time, whatever else is there; and the share that may be leased."""

from __future__ import annotations

import random

import pytest

from storage.interface import Condition, Status
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, every_fabric, filler, finish, forgetful_store, make_store, pages_used, second_store

POLICIES = ("allkeys-prefix", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-ttl")
TERM_MS = 60_000


def put(store: Store, key: bytes, length: int, *, expires: bool = False) -> Status:
    """Write a value that tells its key."""
    value = filler(length, len(key) * 7 + key[-1])
    return finish(store.write(0, key, value, expire_at_ms=NOW_MS + 10_000_000 if expires else -1)).status


def lease(store: Store, *keys: bytes, until_ms: int = NOW_MS + TERM_MS) -> int:
    """Lease some keys."""
    return finish(store.lease(0, keys, until_ms))


def there(store: Store, keys: list[bytes]) -> list[bytes]:
    """The keys that are there, without touching them."""
    entries = finish(store.read_many(0, keys, touch=False))
    return [key for key, entry in zip(keys, entries, strict=True) if entry is not None]


def payloads(store: Store, keys: list[bytes]) -> list[bytes | None]:
    """The values of some keys, without touching them."""
    entries = finish(store.read_many(0, keys, touch=False))
    return [None if entry is None else bytes(entry.payload or b"") for entry in entries]


def until(store: Store, key: bytes) -> int:
    """When the lease of a key ends, 0 without one."""
    info = finish(store.prefix_info(0, key))
    assert info is not None
    return info.lease_until_ms


@every_fabric
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("length", [40, 3_000, 60_000, 140_000])
def test_what_is_leased_outlives_everything_else(kind: str, policy: str, length: int) -> None:
    store = make_store(kind, policy=policy, pages=40, index_entries=7 * 3000)
    kept = [b"kept%d" % number for number in range(3)]
    for key in kept:
        assert put(store, key, length, expires=True) == Status.OK
    assert lease(store, *kept) == 3
    before = payloads(store, kept)
    number = 0
    while store.counters()["evicted"] < 400:
        store.set_clock(NOW_MS + number // 2)
        assert put(store, b"flood%d" % number, length, expires=True) == Status.OK
        number += 1
    assert there(store, kept) == kept
    assert payloads(store, kept) == before
    store.set_clock(NOW_MS + TERM_MS + 1)
    floods = 0
    while there(store, kept) and floods < 6000:
        store.set_clock(NOW_MS + TERM_MS + 2 + floods)
        assert put(store, b"later%d" % floods, length, expires=True) == Status.OK
        floods += 1
    if policy not in ("allkeys-lfu", "volatile-ttl"):  # they may keep them for their hits, or their time
        assert there(store, kept) != kept, "a lease that is over protects for ever"


@every_fabric
def test_a_lease_ends_with_unlease_and_by_its_time(kind: str) -> None:
    store = make_store(kind)
    for key in (b"a", b"b", b"c"):
        assert put(store, key, 100) == Status.OK
    assert lease(store, b"a", b"b", b"absent", b"c") == 2, "the leading keys"
    assert (until(store, b"a"), until(store, b"b"), until(store, b"c")) == (NOW_MS + TERM_MS, NOW_MS + TERM_MS, 0)
    assert lease(store, b"a", until_ms=NOW_MS + 10) == 1
    assert until(store, b"a") == NOW_MS + TERM_MS, "a longer one stays"
    assert lease(store, b"a", until_ms=NOW_MS + 2 * TERM_MS) == 1
    assert until(store, b"a") == NOW_MS + 2 * TERM_MS
    assert finish(store.unlease(0, [b"a", b"absent", b"c"])) == 1
    assert (until(store, b"a"), until(store, b"b")) == (0, NOW_MS + TERM_MS)
    store.set_clock(NOW_MS + TERM_MS)
    assert until(store, b"b") == 0
    assert finish(store.unlease(0, [b"b"])) == 0


@every_fabric
@pytest.mark.parametrize("length", [0, 30_000, 32_600, 60_000, 200_000, 2_000_000])
def test_a_lease_changes_neither_value_nor_expiry_nor_chain(kind: str, length: int) -> None:
    store = make_store(kind, pages=200)
    assert put(store, b"head", 10) == Status.OK
    value = filler(length, 3)
    assert finish(store.write(0, b"block", value, expire_at_ms=NOW_MS + 5_000, parent=b"head")).status == Status.OK
    counted = store.memory()["stored_bytes"]
    assert lease(store, b"block") == 1
    for _ in range(2):
        entry = finish(forgetful_store(store).read(0, b"block"))
        assert entry is not None
        assert bytes(entry.payload or b"") == value
        assert entry.expire_at_ms == NOW_MS + 5_000
        info = finish(store.prefix_info(0, b"block"))
        assert info is not None
        assert (info.parent, info.depth) == (b"head", 1)
        assert finish(store.unlease(0, [b"block"])) in (0, 1)
    assert store.memory()["stored_bytes"] == counted
    assert lease(store, b"block") == 1
    store.set_clock(NOW_MS + 5_000)
    assert finish(store.exists(0, [b"block"])) == [False], "a lease is no longer life"
    assert finish(store.delete(0, [b"head"])) == 1
    finish(store.read(0, b"block"))
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
def test_a_new_value_keeps_the_lease_of_its_key_and_a_deleted_key_has_none(kind: str) -> None:
    store = make_store(kind)
    assert put(store, b"a", 100) == Status.OK
    assert lease(store, b"a") == 1
    assert put(store, b"a", 60_000) == Status.OK
    assert until(store, b"a") == NOW_MS + TERM_MS
    assert store.desk.leased_bytes() == 60_001
    assert finish(store.delete(0, [b"a"])) == 1
    assert store.desk.leased_bytes() == 0
    assert put(store, b"a", 100) == Status.OK
    assert until(store, b"a") == 0


@every_fabric
def test_no_more_than_the_share_is_leased(kind: str) -> None:
    store = make_store(kind, policy="allkeys-lru", pages=40)
    store.set_protection(lookup_ms=0, lookup_share=0.1, lease_share=0.25)
    keys = [b"k%d" % number for number in range(20)]
    for key in keys:
        assert put(store, key, PAGE_BYTES) == Status.OK
    limit = int(store.memory()["limit_bytes"]) // 4
    fits = limit // (PAGE_BYTES + 3)
    assert fits - 1 <= lease(store, *keys) <= fits
    assert store.memory()["leased_bytes"] <= limit
    assert store.counters()["leases_refused"] == 1
    assert lease(second_store(store), *keys[-3:]) == 0, "the share is that of all front ends"
    assert lease(store, keys[0], until_ms=NOW_MS + 2 * TERM_MS) == 1, "a longer lease of what is leased takes no more"
    assert finish(store.unlease(0, keys[:2])) == 2
    assert lease(store, keys[-1]) == 1
    store.set_clock(NOW_MS + 2 * TERM_MS + 8192)
    assert store.memory()["leased_bytes"] == 0, "what a dead client leased runs out"


@every_fabric
def test_leased_cells_move_when_their_page_is_needed(kind: str) -> None:
    """One small leased value in many a page: a pool that turns to large values must get whole pages all the same."""
    store = make_store(kind, policy="allkeys-prefix", pages=30, index_entries=7 * 3000)
    store.set_protection(lookup_ms=0, lookup_share=0.1, lease_share=0.25)
    number = 0
    while store.counters()["evicted"] == 0:
        assert put(store, b"small%d" % number, 300) == Status.OK
        number += 1
    choose = random.Random(3)
    kept = [key for key in (b"small%d" % choose.randrange(number) for _ in range(number // 8)) if lease(store, key) == 1]
    kept = sorted(set(kept))
    for large in range(60):
        store.set_clock(NOW_MS + large)
        assert put(store, b"large%d" % large, 10 * PAGE_BYTES) == Status.OK, large
    assert there(store, kept) == kept
    assert store.counters()["moved"] > 0
    assert store.memory()["damaged"] == 0
    finish(store.delete(0, [*kept, *(b"small%d" % i for i in range(number)), *(b"large%d" % i for i in range(60))]))
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
def test_a_lease_survives_eviction_by_another_front_end(kind: str) -> None:
    first = make_store(kind, policy="allkeys-prefix", pages=40)
    second = second_store(first, policy="allkeys-prefix")
    keys = [b"k%d" % number for number in range(5)]
    for key in keys:
        assert put(first, key, PAGE_BYTES) == Status.OK
    assert lease(first, *keys) == 5
    for number in range(100):
        second.set_clock(NOW_MS + number)
        assert put(second, b"other%d" % number, PAGE_BYTES) == Status.OK
    assert there(second, keys) == keys
    assert lease(second, b"other99", until_ms=NOW_MS + TERM_MS) == 1


@every_fabric
def test_leased_keys_do_not_make_writes_fail_under_another_condition(kind: str) -> None:
    """SETNX and the like see a leased key as any other."""
    store = make_store(kind)
    assert put(store, b"a", 10) == Status.OK
    assert lease(store, b"a") == 1
    assert finish(store.write(0, b"a", b"x", condition=Condition.NX)).status == Status.PRESENT
    assert finish(store.write(0, b"a", b"x", condition=Condition.XX)).status == Status.OK
    assert until(store, b"a") == NOW_MS + TERM_MS
