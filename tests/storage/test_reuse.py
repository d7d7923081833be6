"""allkeys-prefix in the pool: what is asked for again stays, what was evicted is remembered, and one clock counts everybody's accesses."""

from __future__ import annotations

import pytest

from storage.interface import Status
from storage.store import Store
from tests.storage.pools import PAGE_BYTES, finish, make_store, second_store

BLOCK = b"v" * (PAGE_BYTES - 5_000)  # a page each


def put(store: Store, *keys: bytes) -> None:
    """Write a block under each key."""
    for key in keys:
        assert finish(store.write(0, key, BLOCK)).status == Status.OK


def get(store: Store, key: bytes) -> bool:
    """Read the block; whether it is there."""
    return finish(store.read(0, key)) is not None


def present(store: Store, keys: list[bytes]) -> int:
    """Return how many of the keys are there, without asking for their blocks."""
    return sum(finish(store.exists(0, keys)))


@pytest.mark.parametrize(("policy", "stays"), [("allkeys-prefix", True), ("allkeys-lru", False)])
def test_what_came_back_outlives_what_never_did(policy: str, stays: bool) -> None:
    """Between two accesses to a hot block come more new ones than the pool holds: LRU never finds it again."""
    store = make_store("shm", policy=policy, pages=140, index_entries=7 * 200)
    hot = [b"hot%d" % number for number in range(30)]
    found = 0
    for turn in range(20):
        found = 0
        for key in hot:
            if get(store, key):
                found += 1
            else:
                put(store, key)
        store.maintain(5.0)
        put(store, *(b"cold%d-%d" % (turn, number) for number in range(220)))
    assert (found >= 24) is stays


def test_small_values_do_not_go_for_the_page_that_they_share() -> None:
    """Two hundred of them would make room for one block; that they are the oldest is no reason."""
    store = make_store("shm", policy="allkeys-prefix", pages=70, index_entries=7 * 100)
    small = [b"small%d" % number for number in range(200)]
    for key in small:
        assert finish(store.write(0, key, b"small")).status == Status.OK
    put(store, *(b"k%d" % number for number in range(150)))
    assert present(store, small) > 190
    assert store.memory()["damaged"] == 0


def test_an_evicted_block_is_remembered() -> None:
    """Its second life begins with what was known of the first: it is no longer a block of which nothing is known."""
    store = make_store("shm", policy="allkeys-prefix", pages=70, index_entries=7 * 100)
    put(store, *(b"k%d" % number for number in range(80)))
    store.maintain(5.0)
    put(store, *(b"k%d" % number for number in range(80, 160)))
    gone = [b"k%d" % number for number in range(160) if not present(store, [b"k%d" % number])]
    assert len(gone) > 80
    before = store.reuse_facts()["bodies_back"]
    put(store, *gone[-20:])
    back = store.reuse_facts()["bodies_back"] - before
    assert back >= 15  # a ghost may have given way to another of its bucket
    put(store, *(b"new%d" % number for number in range(20)))
    assert store.reuse_facts()["bodies_back"] - before == back


def test_the_clock_is_everybodys() -> None:
    """Accesses count, wherever they were made; look-ups and the passing of time do not."""
    first = make_store("shm", policy="allkeys-prefix", pages=140, index_entries=7 * 200)
    second = second_store(first, policy="allkeys-prefix")
    put(first, *(b"a%d" % number for number in range(64)))
    put(second, *(b"b%d" % number for number in range(64)))
    for store in (first, second):
        for _ in range(4):
            assert get(store, b"a1")
            assert get(store, b"b1")
    for number in range(32):
        get(first, b"a%d" % number)
    made = 64 + 64 + 2 * 8 + 32
    assert made - 32 < first.reuse_facts()["clock"] <= made  # the last few of the other one are not known here yet
    before = first.reuse_facts()["clock"]
    present(first, [b"a%d" % number for number in range(64)])
    assert first.reuse_facts()["clock"] == before


def test_policies_change_while_values_are_there() -> None:
    """What was written under another policy counts as never used: it goes before what was used since, and none of it is in the way."""
    store = make_store("shm", policy="allkeys-lru", pages=70, index_entries=7 * 100)
    old = [b"old%d" % number for number in range(40)]
    put(store, *old)
    store.set_policy("allkeys-prefix")
    assert store.reuse_facts()["clock"] == 0
    put(store, *(b"new%d" % number for number in range(20)))
    store.maintain(5.0)
    put(store, *(b"newer%d" % number for number in range(25)))
    assert present(store, old) < 30
    assert present(store, [b"new%d" % number for number in range(20)]) == 20
    store.set_policy("allkeys-lru")
    assert store.reuse_facts() == {}
    put(store, *(b"last%d" % number for number in range(100)))
    assert store.memory()["damaged"] == 0


def test_what_others_accessed_is_known_with_the_next_batch() -> None:
    """Not only when there is something to tell: the age of a block is counted in everybody's accesses."""
    first = make_store("shm", policy="allkeys-prefix", pages=140, index_entries=7 * 200)
    second = second_store(first, policy="allkeys-prefix")
    put(first, b"a")
    first.maintain(5.0)  # who else is there is looked up in the background
    before = first.reuse_facts()["clock"]
    put(second, *(b"b%d" % number for number in range(96)))
    assert get(first, b"a")
    assert first.reuse_facts()["clock"] >= before + 96


def test_what_goes_before_the_first_look_at_the_capacity_is_remembered_too() -> None:
    """Places for ghosts are there with the first eviction, not with the next turn of background work."""
    store = make_store("shm", policy="allkeys-prefix", pages=70, index_entries=7 * 100)
    put(store, *(b"k%d" % number for number in range(160)))
    gone = [b"k%d" % number for number in range(160) if not present(store, [b"k%d" % number])]
    before = store.reuse_facts()["bodies_back"]
    put(store, *gone[-20:])
    assert store.reuse_facts()["bodies_back"] - before >= 15


def test_nothing_is_left_of_what_was_learned_before_another_policy() -> None:
    """Switched on again it begins as in an empty pool: its first eviction guesses the median interval from the capacity."""
    store = make_store("shm", policy="allkeys-prefix", pages=70, index_entries=7 * 100)
    put(store, *(b"k%d" % number for number in range(160)))
    store.set_policy("allkeys-lru")
    store.set_policy("allkeys-prefix")
    facts = store.reuse_facts()
    assert (facts["median_interval"], facts["bodies_made"], facts["duel"]) == (1.0, 0.0, 0.0)
    put(store, *(b"new%d" % number for number in range(20)))
    assert store.reuse_facts()["median_interval"] > 30
