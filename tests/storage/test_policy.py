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
    """Candidates outlive the eviction that sampled them: then the coldest half is read, and with it the best of them."""
    store = make_store("shm", policy=policy, pages=203, index_entries=7 * 300)
    for number, key in enumerate(KEYS):
        store.set_clock(NOW_MS + number * 1000)
        assert finish(store.write(0, key, filler(PAGE_BYTES, number))).status == Status.OK
    store.set_clock(NOW_MS + 1_000_000)
    written = 0
    while len(present(store)) > len(KEYS) - 4:  # by then there are so many candidates that the next eviction samples none
        written += 1
        assert finish(store.write(0, b"new%d" % written, filler(PAGE_BYTES, 500 + written))).status == Status.OK
    there = present(store)
    used = there[: len(there) // 2]
    for second in range(3):
        store.set_clock(NOW_MS + 2_000_000 + second)
        finish(store.read_many(0, used))
    for number in range(6):
        assert finish(store.write(0, b"newer%d" % number, filler(PAGE_BYTES, 600 + number))).status == Status.OK
        assert not set(used) - set(present(store)), "evicted what was read a moment ago"
    assert len(present(store)) < len(there)


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


@pytest.mark.parametrize(("decay_minutes", "after"), [(1, [15, 15, 14, 5, 0]), (5, [15, 15, 15, 13, 0]), (0, [15, 15, 15, 15, 15])])
def test_the_frequency_counter_decays_as_told(decay_minutes: int, after: list[int]) -> None:
    """One less for each full decay time without an access."""
    store = make_store("shm", policy="allkeys-lfu")
    store.set_frequency(log_factor=0, decay_minutes=decay_minutes)
    assert finish(store.write(0, b"k", b"v")).status == Status.OK
    for _ in range(10):
        finish(store.read(0, b"k"))
    for minutes, expected in zip((0, 0.99, 1, 10, 1000), after, strict=True):
        store.set_clock(NOW_MS + int(minutes * 60_000))
        entry = finish(store.read(0, b"k", touch=False))
        assert entry is not None
        assert entry.frequency == expected, minutes
