"""Eviction step by step: what was used since it was sampled stays, and what was written behind a flush is not swept."""

from __future__ import annotations

import pytest

from storage.interface import Status
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, filler, finish, make_store, second_store
from tests.storage.slow_motion import simulated

KEYS = [b"k%02d" % number for number in range(200)]


def present(store: Store) -> list[bytes]:
    """The keys that are there, without touching them."""
    entries = finish(store.read_many(0, KEYS, payload=False, touch=False))
    return [key for key, entry in zip(KEYS, entries, strict=True) if entry is not None]


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
def test_what_was_used_since_it_was_sampled_is_not_evicted(policy: str) -> None:
    """Candidates outlive the eviction that sampled them: by the next one some of them are the hottest."""
    store = make_store("shm", policy=policy, pages=203, index_entries=7 * 300)
    for number, key in enumerate(KEYS):
        store.set_clock(NOW_MS + number * 1000)
        assert finish(store.write(0, key, filler(PAGE_BYTES, number))).status == Status.OK
    now_ms = NOW_MS + 1_000_000
    evicted: set[bytes] = set()
    number = 0
    while len(evicted) < 6:
        number += 1
        now_ms += 1000
        store.set_clock(now_ms)
        there = present(store)
        used = there[number % 2 :: 2]  # in turn: what was cold when it was sampled is hot by the next eviction
        for _ in range(3 if policy == "allkeys-lfu" else 1):
            finish(store.read_many(0, used + [b"new%d" % one for one in range(1, number)]))
        store.set_clock(now_ms + 500)
        assert finish(store.write(0, b"new%d" % number, filler(PAGE_BYTES, 100 + number))).status == Status.OK
        left = present(store)
        gone = set(there) - set(left)
        evicted |= gone
        assert not gone & set(used), "evicted what was read a moment ago"
        assert number < 100


@pytest.mark.parametrize("doorbell", range(1, 12))
def test_a_sweep_leaves_what_was_written_behind_a_flush_that_it_has_not_heard_of(doorbell: int) -> None:
    """One sweeps after a flush of another database; meanwhile somebody flushes this one and writes it anew, into one of the same slots."""
    first = make_store("sim", index_entries=7)
    second = second_store(first, policy="allkeys-lru")
    for number in range(7):
        assert finish(first.write(0, b"old%d" % number, b"old")).status == Status.OK
    rung = 0

    def interfere(_operations: object) -> None:
        nonlocal rung
        rung += 1
        if rung == doorbell:
            finish(second.flush(0))
            assert finish(second.write(0, b"new", b"new")).status == Status.OK

    simulated(first).before_round = interfere
    finish(first.flush(1))
    first.maintain(1000.0)
    simulated(first).before_round = None
    if rung >= doorbell:
        assert finish(second.exists(0, [b"new"])) == [True]
        first.maintain(1000.0)
        assert finish(second.exists(0, [b"new"])) == [True]
