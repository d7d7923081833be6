"""Protection after a look-up: who was told that a key is there finds it there, and look-ups keep nobody from writing."""

from __future__ import annotations

import pytest

from storage.interface import Status
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, every_fabric, finish, make_store

POLICIES = ("allkeys-prefix", "allkeys-lru", "allkeys-lfu", "allkeys-random")


def put(store: Store, key: bytes, length: int = PAGE_BYTES) -> Status:
    """Write zeros."""
    return finish(store.write(0, key, bytes(length))).status


def there(store: Store, keys: list[bytes]) -> list[bytes]:
    """The keys that are there, without touching them."""
    entries = finish(store.read_many(0, keys, payload=False, touch=False))
    return [key for key, entry in zip(keys, entries, strict=True) if entry is not None]


def flood(store: Store, count: int, from_ms: int, to_ms: int) -> None:
    """Write ``count`` pages in that time, which the pool has no room for."""
    for number in range(count):
        store.set_clock(from_ms + (to_ms - from_ms) * number // count)
        assert put(store, b"flood%d:%d" % (from_ms, number)) == Status.OK


@every_fabric
@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_found_is_still_there_five_seconds_later(kind: str, policy: str) -> None:
    store = make_store(kind, policy=policy, pages=120)
    keys = [b"k%d" % number for number in range(100)]
    for number, key in enumerate(keys):
        store.set_clock(NOW_MS + number)
        assert put(store, key) == Status.OK
    found = keys[:4]
    assert finish(store.exists(0, found)) == [True] * 4
    finish(store.read_many(0, found[:2]))  # that one client has fetched them takes nothing from another
    flood(store, 300, NOW_MS + 200, NOW_MS + 4_900)
    assert there(store, found) == found
    flood(store, 600, NOW_MS + 6_000, NOW_MS + 60_000)
    if policy != "allkeys-lfu":
        assert there(store, found) != found, "protected for ever"


@every_fabric
def test_without_the_time_nothing_is_protected(kind: str) -> None:
    store = make_store(kind, policy="allkeys-random", pages=40)
    store.set_protection(lookup_ms=0, lookup_share=0.1, lease_share=0.25)
    keys = [b"k%d" % number for number in range(3)]
    for key in keys:
        assert put(store, key) == Status.OK
    for number in range(200):
        finish(store.exists(0, keys))
        assert put(store, b"flood%d" % number) == Status.OK
    assert there(store, keys) != keys


@every_fabric
@pytest.mark.parametrize("policy", POLICIES)
def test_a_storm_of_lookups_on_everything_keeps_nobody_from_writing(kind: str, policy: str) -> None:
    store = make_store(kind, policy=policy, pages=120)
    keys = [b"k%d" % number for number in range(110)]
    for number, key in enumerate(keys):
        store.set_clock(NOW_MS + number)
        put(store, key)
    for number in range(200):
        store.set_clock(NOW_MS + 1000 + 2 * number)
        finish(store.exists(0, keys))
        keys.append(b"new%d" % number)
        assert put(store, keys[-1]) == Status.OK, number
    assert there(store, keys[-1:]) == keys[-1:]


@every_fabric
def test_of_more_than_the_share_the_last_that_were_found_are_kept(kind: str) -> None:
    store = make_store(kind, policy="allkeys-random", pages=230)
    keys = [b"k%d" % number for number in range(200)]
    for key in keys:
        put(store, key)
    early, late = keys[:100], keys[100:110]
    store.set_clock(NOW_MS + 1000)
    finish(store.exists(0, early))
    flood(store, 100, NOW_MS + 1200, NOW_MS + 3000)  # what is sampled here tells how many are protected
    store.set_clock(NOW_MS + 3500)
    finish(store.exists(0, late))
    was_there = there(store, late)
    flood(store, 300, NOW_MS + 3600, NOW_MS + 5000)
    assert len(there(store, was_there)) >= len(was_there) - 1
    assert len(there(store, early)) < 60


@every_fabric
def test_a_small_key_that_was_found_outlives_the_page_it_lies_in(kind: str) -> None:
    store = make_store(kind, policy="allkeys-lru", pages=30, index_entries=7 * 3000)
    number = 0
    while store.counters()["evicted"] == 0:
        store.set_clock(NOW_MS + number)
        assert put(store, b"small%d" % number, 300) == Status.OK
        number += 1
    moment = NOW_MS + number
    store.set_clock(moment)
    found = there(store, [b"small%d" % other for other in range(0, number, 40)])
    assert finish(store.exists(0, found)) == [True] * len(found)
    for large in range(40):
        store.set_clock(moment + 10 + large)
        assert put(store, b"large%d" % large, 10 * PAGE_BYTES) == Status.OK, large
    assert len(there(store, found)) >= len(found) * 0.9
