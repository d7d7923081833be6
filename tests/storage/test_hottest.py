"""The hottest chains: what is read most, by chains and not by blocks."""

from __future__ import annotations

import random

import pytest

from storage.hot_chains import HotChain, hot_chains
from storage.interface import HotBlock, Status
from storage.store import Store
from tests.storage.pools import NOW_MS, every_fabric, finish, make_store, second_store


def top(store: Store, count: int = 10, database: int = 0) -> list[HotChain]:
    """The hottest chains of a database."""
    survey = store.survey(database)
    while survey.step():
        pass
    return hot_chains(survey.result(), count)


def put(store: Store, key: bytes, parent: bytes | None = None, length: int = 100) -> None:
    """Store a block of a chain."""
    assert finish(store.write(0, key, bytes(length), parent=parent)).status == Status.OK


def read(store: Store, times: int, *keys: bytes) -> None:
    """Read some keys so often."""
    for _ in range(times):
        finish(store.read_many(0, keys))


@every_fabric
def test_a_shared_beginning_is_one_chain_and_what_follows_it_others(kind: str) -> None:
    store = make_store(kind)
    system = [b"system%d" % number for number in range(20)]
    for number, key in enumerate(system):
        put(store, key, system[number - 1] if number else None, 1000)
    read(store, 30, *system)
    for session in range(6):
        put(store, b"session%d" % session, system[-1])
        put(store, b"session%d-2" % session, b"session%d" % session)
        read(store, session + 1, b"session%d" % session, b"session%d-2" % session)
    put(store, b"alone")
    read(store, 4, b"alone")
    put(store, b"never read")
    first, second, *others = top(store)
    assert (first.head, first.key, first.blocks, first.depth, first.hits, first.size_bytes) == (b"system0", b"system19", 20, 19, 30, 20_000)
    assert (second.head, second.key, second.blocks, second.depth, second.hits) == (b"session5", b"session5-2", 2, 21, 6)
    assert [chain.head for chain in others] == [b"session4", b"session3", b"alone", b"session2", b"session1", b"session0"]
    assert [chain.head for chain in top(store, 2)] == [b"system0", b"session5"]
    assert top(store, database=1) == []


@every_fabric
def test_what_was_hot_an_hour_ago_is_not_hot(kind: str) -> None:
    store = make_store(kind)
    put(store, b"before")
    read(store, 100, b"before")
    store.set_clock(NOW_MS + 3_600_000)
    put(store, b"now")
    read(store, 3, b"now")
    assert [(chain.key, chain.hits) for chain in top(store)] == [(b"now", 3), (b"before", 100)]
    assert top(store)[1].last_use_ms == pytest.approx(NOW_MS, abs=2)


@every_fabric
def test_another_front_end_sees_the_same(kind: str) -> None:
    store = make_store(kind)
    put(store, b"k")
    read(store, 5, b"k")
    finish(store.flush(1))
    assert [chain.key for chain in top(second_store(store))] == [b"k"]
    finish(store.flush(0))
    assert top(second_store(store)) == []


def test_of_many_blocks_the_hottest_are_kept() -> None:
    store = make_store("shm", pages=200, index_entries=7 * 2000)
    choose = random.Random(1)
    wanted: dict[bytes, int] = {}
    for number in range(6000):
        put(store, b"k%d" % number, length=10)
        wanted[b"k%d" % number] = choose.randrange(1, 4)
        read(store, wanted[b"k%d" % number], b"k%d" % number)
    read(store, 5, b"k77", b"k5999")
    found = top(store, 10_000)
    assert len(found) == 4096
    assert {found[0].key, found[1].key} == {b"k77", b"k5999"}
    assert min(chain.hits for chain in found) == sorted((wanted[key] for key in wanted), reverse=True)[4095]


def test_a_circle_of_parents_is_followed_once() -> None:
    blocks = [HotBlock(b"%d" % n, n, n % 3 + 1, 0, 5, 5.0, NOW_MS, 10) for n in (1, 2, 3)]
    assert [(chain.blocks, chain.size_bytes) for chain in hot_chains(blocks, 10)] == [(3, 30)]
