"""Headroom: what is kept free ahead of need, by whom, and what never goes for it; pools that turn from one size to another."""

from __future__ import annotations

import pytest

from storage.interface import Status
from storage.recovery import recover
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, every_fabric, finish, forgetful_store, make_store, second_store

LARGE = 60_000  # one page and a cell
SLICE_MS = 1000.0


def put(store: Store, key: bytes, length: int, after_ms: int | None = None) -> Status:
    """Write zeros."""
    return finish(store.write(0, key, bytes(length), expire_at_ms=-1 if after_ms is None else NOW_MS + after_ms)).status


def marks(store: Store) -> dict[str, int]:
    """Return the marks of the only node, and what is free."""
    return store.cluster.nodes[0].headroom.facts()


def roomy_store(
    kind: str, *, policy: str = "allkeys-lru", pages: int = 400, low: float = 0.02, high: float = 0.04
) -> tuple[Store, list[int]]:
    """Return a store that keeps pages free, and a list that grows when it asks for somebody to see to it."""
    store = make_store(kind, policy=policy, pages=pages, index_entries=7 * 20_000)
    calls: list[int] = []
    store.set_watermarks(low=low, high=high, on_low=lambda: calls.append(1))
    return store, calls


def assert_accounted_for(store: Store) -> None:
    """Every page in use holds something that a key leads to, and no page is used twice: nothing is left for a recovery to put right."""
    while store.maintain(SLICE_MS):
        pass
    store.release_spares()
    layout = store.pool.layout()
    pages = int.from_bytes(store.pool.read(layout["globals"], 8), "little")
    keys = [key for key in _keys(store) if finish(store.exists(0, [key])) == [True]]
    report = recover(forgetful_store(store))
    assert (report.freed_pages, report.broken, report.reservations) == (0, 0, 0)
    assert (report.cell_pages + report.payload_pages, report.keys) == (pages, len(keys))


def _keys(store: Store) -> list[bytes]:
    cursor, keys = finish(store.scan(0, 0, 1000))
    while cursor:
        cursor, more = finish(store.scan(0, cursor, 1000))
        keys += more
    return keys


@every_fabric
def test_few_free_pages_are_said_once_and_made_more(kind: str) -> None:
    store, calls = roomy_store(kind)
    number = 0
    while not calls:
        assert put(store, b"k%d" % number, LARGE) == Status.OK
        number += 1
    assert marks(store)["spare"] == marks(store)["low"] - 1
    assert store.counters()["evicted"] == 0
    assert put(store, b"next", LARGE) == Status.OK
    assert len(calls) == 1, "it is known already"
    assert not store.evict_ahead(SLICE_MS)
    assert marks(store)["high"] <= marks(store)["spare"] <= marks(store)["high"] + 1
    assert store.counters()["evicted"] > 0
    before = store.counters()["evicted"]
    for turn in range(3 * (marks(store)["high"] - marks(store)["low"]) + 3):
        assert put(store, b"later%d" % turn, LARGE) == Status.OK
        if len(calls) == 2:
            break
    assert len(calls) == 2, "the next time it is said again"
    assert store.counters()["evicted"] == before, "no writer had to evict"
    assert_accounted_for(store)


@every_fabric
def test_a_slice_ends_when_its_time_is_over(kind: str) -> None:
    store, _ = roomy_store(kind, low=0.1, high=0.2)
    while marks(store)["spare"] > 2:
        assert put(store, b"k%d" % store.database_size(0).keys, LARGE) == Status.OK
    slices = 1
    while store.evict_ahead(0.0):
        slices += 1
    assert slices == marks(store)["high"] - 2, "one value each"


@every_fabric
def test_background_work_sees_to_it_too(kind: str) -> None:
    store, calls = roomy_store(kind)
    while not calls:
        assert put(store, b"k%d" % store.database_size(0).keys, LARGE) == Status.OK
    while store.maintain(SLICE_MS):
        pass
    assert marks(store)["spare"] >= marks(store)["high"]


@every_fabric
def test_noeviction_evicts_nothing_ahead(kind: str) -> None:
    store, calls = roomy_store(kind, policy="noeviction")
    number = 0
    while put(store, b"k%d" % number, LARGE) == Status.OK:
        number += 1
    assert not store.evict_ahead(SLICE_MS)
    assert not store.maintain(SLICE_MS)
    assert (store.counters()["evicted"], calls, marks(store)["low"]) == (0, [], 0)
    store.set_policy("allkeys-lru")
    store.maintain(SLICE_MS)
    assert put(store, b"goes", LARGE) == Status.OK


@every_fabric
@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl", "volatile-random", "volatile-lfu"])
def test_volatile_policies_keep_what_has_no_ttl_and_end(kind: str, policy: str) -> None:
    store, calls = roomy_store(kind, policy=policy)
    number = 0
    while marks(store)["spare"] > 1:
        assert put(store, b"stays%d" % number, LARGE) == Status.OK
        number += 1
    assert calls
    assert not store.evict_ahead(SLICE_MS), "nothing may go, and nobody is called again"
    assert put(store, b"goes", 100, 5000) == Status.OK
    assert not store.evict_ahead(SLICE_MS)
    assert all(finish(store.exists(0, [b"stays%d" % one for one in range(number)])))


@every_fabric
def test_a_class_that_has_many_pages_takes_its_own_cells_again(kind: str) -> None:
    """No page of small values is emptied ahead of need for more of them: only the coldest go, one by one."""
    store, calls = roomy_store(kind, pages=60)
    number = 0
    while store.counters()["evicted"] == 0:
        assert put(store, b"k%d" % number, 1000) == Status.OK
        number += 1
    assert len(calls) <= 1, "for the first pages of the class"
    store.evict_ahead(SLICE_MS)
    before = store.counters()["evicted"]
    for later in range(300):
        assert put(store, b"later%d" % later, 1000) == Status.OK
        store.evict_ahead(SLICE_MS)
    assert store.counters()["evicted"] - before <= 300


@every_fabric
def test_low_zero_leaves_eviction_to_writers(kind: str) -> None:
    store, calls = roomy_store(kind, low=0.0, high=0.5)
    while store.counters()["evicted"] == 0:
        assert put(store, b"k%d" % store.database_size(0).keys, LARGE) == Status.OK
    assert not store.evict_ahead(SLICE_MS)
    assert (calls, store.counters()["evicted"]) == ([], 1)


@every_fabric
def test_the_reserve_lies_below_the_marks(kind: str) -> None:
    first, calls = roomy_store(kind)
    second = second_store(first, policy="allkeys-lru")
    for number in range(70):
        assert put(first, b"k%d" % number, 100) == Status.OK
    first.maintain(SLICE_MS)
    assert marks(first)["reserve"] == 16
    calls.clear()
    number = 0
    while not calls:
        assert put(first, b"large%d" % number, LARGE) == Status.OK
        number += 1
    free = int(first.memory()["pages"]) - int(first.memory()["pages_used"])
    assert free == marks(first)["reserve"] + marks(first)["low"] - 1
    assert not first.evict_ahead(SLICE_MS)
    for number in range(10):  # who has nothing may use what is kept, at once
        assert put(second, b"second%d" % number, LARGE) == Status.OK
    assert second.counters()["evicted"] == 0


@every_fabric
def test_what_a_writer_waits_for_is_bounded(kind: str) -> None:
    """Among small values that must stay no page is free of them: they move together, and few of those that may go have to."""
    store = make_store(kind, policy="volatile-lru", pages=80, index_entries=7 * 25_000)
    number = 0
    while put(store, b"k%d" % number, 40, 1000 if number % 4 else None) == Status.OK and store.counters()["evicted"] == 0:
        number += 1
    before = store.counters()["evicted"]
    assert store.database_size(0).expires > 40_000
    assert put(store, b"large", 4 * PAGE_BYTES) == Status.OK
    assert store.counters()["evicted"] - before < 16_384
    assert store.counters()["moved"] > 0


@every_fabric
@pytest.mark.parametrize("policy", ["allkeys-prefix", "allkeys-lru"])
def test_a_pool_turns_from_size_to_size_and_its_pages_come_back(kind: str, policy: str) -> None:
    store, calls = roomy_store(kind, policy=policy, pages=80)
    limit = int(store.memory()["limit_bytes"])
    for turn, (length, count) in enumerate([(64, 45_000), (1 << 20, 12), (5_000, 1_500), (64, 20_000)]):
        for number in range(count):
            assert put(store, b"%d:%d" % (turn, number), length) == Status.OK
            if calls:
                calls.clear()
                store.evict_ahead(0.5)
        assert int(store.memory()["used_bytes"]) <= limit
        assert finish(store.exists(0, [b"%d:%d" % (turn, count - 1)])) == [True]
    assert store.memory()["damaged"] == 0
    assert_accounted_for(store)


@every_fabric
def test_two_front_ends_turn_a_pool(kind: str) -> None:
    first, calls = roomy_store(kind, pages=120)
    second = second_store(first, policy="allkeys-lru")
    second.set_watermarks(low=0.02, high=0.04)
    limit = int(first.memory()["limit_bytes"])
    for turn, (length, count) in enumerate([(64, 30_000), (1 << 20, 10), (5_000, 700)]):
        for number in range(count):
            for store, name in ((first, b"a"), (second, b"b")):
                assert put(store, b"%b%d:%d" % (name, turn, number), length) == Status.OK, (turn, number, name)
            if number % 50 == 0:
                first.maintain(1.0)
                second.maintain(1.0)
        assert int(first.memory()["used_bytes"]) <= limit
    assert calls
    for store in (first, second, first, second):
        while store.maintain(SLICE_MS):
            pass
        store.release_spares()
    assert_accounted_for(first)
