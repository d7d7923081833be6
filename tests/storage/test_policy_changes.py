"""Policies that are changed while a request waits for memory: what was sampled for the old one is not taken for the new one's."""

from __future__ import annotations

import itertools

import pytest

from storage.interface import Status
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, filler, finish, make_store
from tests.storage.slow_motion import simulated

POLICIES = ("allkeys-prefix", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl", "noeviction")
BLOCK_BYTES = PAGE_BYTES - 5_000  # a page each
EXPIRING = [b"expiring%d" % number for number in range(20)]
LASTING = [b"lasting%d" % number for number in range(20)]
NEW = [b"new%d" % number for number in range(100)]


def full_store(policy: str) -> Store:
    """A pool that is full of as many blocks with an expiry as without one, on memory where every doorbell is a wait."""
    store = make_store("sim", policy=policy, pages=42, index_entries=7 * 40)
    for number, (expiring, lasting) in enumerate(zip(EXPIRING, LASTING, strict=True)):
        store.set_clock(NOW_MS + number)
        assert finish(store.write(0, expiring, filler(BLOCK_BYTES, number), expire_at_ms=NOW_MS + 1_000_000)).status == Status.OK
        assert finish(store.write(0, lasting, filler(BLOCK_BYTES, 100 + number))).status == Status.OK
    return store


def put_new(store: Store, number: int) -> Status:
    """Write a block that was never there."""
    return finish(store.write(0, b"new%d" % number, filler(BLOCK_BYTES, 1000 + number))).status


def present(store: Store, keys: list[bytes]) -> list[bytes]:
    """Which of the keys are there; who looks for one by EXISTS protects it."""
    entries = finish(store.read_many(0, keys, payload=False, touch=False))
    return [key for key, entry in zip(keys, entries, strict=True) if entry is not None]


def assert_whole(store: Store) -> None:
    """What is there has its own bytes."""
    for number, (expiring, lasting) in enumerate(zip(EXPIRING, LASTING, strict=True)):
        for key, seed in ((expiring, number), (lasting, 100 + number)):
            entry = finish(store.read(0, key, touch=False))
            assert entry is None or entry.payload == filler(BLOCK_BYTES, seed), key
    assert store.memory()["damaged"] == 0


def assert_follows(store: Store, policy: str) -> None:
    """From here on only what the policy lets go goes, and all of that."""
    before = present(store, LASTING + NEW)
    evicted = store.counters()["evicted"]
    statuses = [put_new(store, 100 + number) for number in range(60)]
    if policy == "noeviction":
        assert Status.FULL in statuses
        assert store.counters()["evicted"] == evicted
    elif policy.startswith("volatile"):
        assert Status.FULL in statuses
        assert present(store, before) == before
        assert not present(store, EXPIRING)
    else:
        assert set(statuses) == {Status.OK}
    assert bool(store.reuse_facts()) is (policy == "allkeys-prefix")


@pytest.mark.parametrize(("before", "after"), [pair for pair in itertools.permutations(POLICIES, 2) if pair[0] != "noeviction"])
def test_a_policy_changed_at_any_doorbell_of_an_eviction(before: str, after: str) -> None:
    """The write that was evicting ends one way or the other; behind it the new policy alone counts."""
    doorbell = 0
    rung = 1
    while rung > doorbell:
        doorbell += 1
        store = full_store(before)
        store.set_clock(NOW_MS + 100)
        number = 0
        while not store.counters()["evicted"]:
            number += 1
            assert put_new(store, number) is Status.OK
        rung = 0

        def change(_operations: object, store: Store = store, doorbell: int = doorbell) -> None:
            nonlocal rung
            rung += 1
            if rung == doorbell:
                store.set_policy(after)

        simulated(store).before_round = change
        assert put_new(store, 99) in (Status.OK, Status.FULL)
        simulated(store).before_round = None
        if rung < doorbell:
            break
        assert_follows(store, after)
        assert_whole(store)
    assert doorbell > 3
