"""Pairs: of two keys that belong together none is left alone by an eviction."""

from __future__ import annotations

import pytest

from storage.interface import Status
from storage.store import Store
from tests.storage.pools import NOW_MS, every_fabric, finish, make_store

VALUE_BYTES = 60_000
POLICIES = ("allkeys-prefix", "allkeys-lru", "allkeys-lfu", "allkeys-random")


def put(store: Store, block: int, length: int = VALUE_BYTES) -> None:
    """Store a block as LMCache does: the value, then what describes it."""
    assert finish(store.write(0, b"block%dkv_bytes" % block, bytes(length))).status == Status.OK
    assert finish(store.write(0, b"block%dmetadata" % block, b"m" * 28)).status == Status.OK


def there(store: Store, keys: list[bytes]) -> list[bool]:
    """Which keys are there, without touching them."""
    return [entry is not None for entry in finish(store.read_many(0, keys, payload=False, touch=False))]


def halves(store: Store, blocks: int) -> tuple[list[int], list[int]]:
    """The blocks of which both keys are there, and those of which one is."""
    values = there(store, [b"block%dkv_bytes" % number for number in range(blocks)])
    descriptions = there(store, [b"block%dmetadata" % number for number in range(blocks)])
    both = [number for number in range(blocks) if values[number] and descriptions[number]]
    return both, [number for number in range(blocks) if values[number] != descriptions[number]]


@every_fabric
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("length", [300, 20_000, VALUE_BYTES, 400_000])
def test_no_half_of_a_pair_is_left(kind: str, policy: str, length: int) -> None:
    store = make_store(kind, policy=policy, pages=60, index_entries=7 * 3000)
    blocks = 0
    while store.counters()["evicted"] < 300:
        store.set_clock(NOW_MS + 2 * blocks)
        put(store, blocks, length)
        blocks += 1
    both, alone = halves(store, blocks)
    assert both
    assert len(alone) <= 1, "but the one whose second key was being stored"


@every_fabric
def test_without_the_directive_each_key_goes_alone(kind: str) -> None:
    store = make_store(kind, policy="allkeys-random", pages=60)
    store.set_pairs(leave_together=False)
    for block in range(200):
        put(store, block)
    assert len(halves(store, 200)[1]) > 20


@every_fabric
@pytest.mark.parametrize("half", [b"metadata", b"kv_bytes"])
def test_who_found_one_key_of_a_pair_finds_the_other_too(kind: str, half: bytes) -> None:
    """LMCache asks for the description only, and then reads both."""
    store = make_store(kind, policy="allkeys-random", pages=120)
    for block in range(80):
        put(store, block)
    found = [b"block%d" % number for number in range(3)]
    assert finish(store.exists(0, [name + half for name in found])) == [True] * 3
    for block in range(100, 400):
        store.set_clock(NOW_MS + 10 * (block - 100))
        put(store, block)
    assert there(store, [name + suffix for name in found for suffix in (b"metadata", b"kv_bytes")]) == [True] * 6


@every_fabric
def test_a_lease_of_one_keeps_both(kind: str) -> None:
    store = make_store(kind, policy="allkeys-lru", pages=60)
    put(store, 0)
    assert finish(store.lease(0, [b"block0kv_bytes"], NOW_MS + 60_000)) == 1
    for block in range(1, 200):
        store.set_clock(NOW_MS + block)
        put(store, block)
    assert there(store, [b"block0kv_bytes", b"block0metadata"]) == [True, True]


@every_fabric
def test_a_client_deletes_what_it_names(kind: str) -> None:
    store = make_store(kind)
    put(store, 0)
    assert finish(store.delete(0, [b"block0metadata"])) == 1
    assert there(store, [b"block0kv_bytes", b"block0metadata"]) == [True, False]
