"""What an operation costs: rounds, operations and bytes, the same figures at every run; and nothing goes past the fabric."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from storage.fabric.sim import SimulatedFabric
from storage.interface import Status
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, both_fabrics, finish, make_store, second_store

KEY = b"key:0001"
EPOCHS, SET, SLOT, HEAT, WORD = 16 * 8, 128, 8, 16, 8
CELL = 144  # header 24, key 8, value 100


def cost(store: Store, action: Callable[[], Any]) -> dict[str, int]:
    """Return what the action adds to the counters of the fabric, without the zeros."""
    before = store.counters()
    action()
    after = store.counters()
    return {name[7:]: after[name] - before[name] for name in after if name.startswith("fabric_") and after[name] != before[name]}


def figures(
    rounds: int, reads: int = 0, read_bytes: int = 0, writes: int = 0, write_bytes: int = 0, cas: int = 0, faa: int = 0
) -> dict[str, int]:
    """Return expected costs under the counters' names."""
    named = {
        "rounds": rounds, "reads": reads, "read_bytes": read_bytes, "writes": writes, "write_bytes": write_bytes,
        "compare_and_swaps": cas, "fetch_and_adds": faa,
    }  # fmt: skip
    return {name: value for name, value in named.items() if value}


def filled(kind: str) -> Store:
    """Return a store in which every class of cell that the tests use has its page."""
    store = make_store(kind, index_entries=7 * 4096)
    for number in range(40):
        finish(store.write(0, b"other:%02d" % number, bytes(100)))
    finish(store.write(0, KEY, bytes(100)))
    return store


@both_fabrics
def test_get(kind: str) -> None:
    store = filled(kind)
    # Where READs keep no order a hazard goes out with the cell and is taken back, which nobody waits for.
    hazard = 1 if kind == "sim" else 0
    assert cost(store, lambda: finish(store.read(0, KEY))) == figures(
        3 + hazard, 5, EPOCHS + SET + CELL + HEAT + SLOT, 1 + 2 * hazard, HEAT + 2 * WORD * hazard
    )
    assert cost(store, lambda: finish(store.read(0, b"absent"))) == figures(1, 2, EPOCHS + SET)


@both_fabrics
def test_get_of_a_paged_value(kind: str) -> None:
    store = filled(kind)
    finish(store.write(0, KEY, bytes(2 * PAGE_BYTES + 30)))
    hazard = 1 if kind == "sim" else 0
    cell = 80  # header 24, key 8, two pages 8, tail 30
    # Sets, cell, pin; then the pages, one by one for a caller that wants bytes; heat; the pin's release.
    assert cost(store, lambda: finish(store.read(0, KEY))) == figures(
        3 + 1 + 2 + 1, 6 + 2, EPOCHS + SET + cell + HEAT + 2 * SLOT + 2 * PAGE_BYTES, 3 + 2 * hazard, HEAT + 2 * WORD + 2 * WORD * hazard
    )


@both_fabrics
def test_exists_and_prefix_match_touch_no_value(kind: str) -> None:
    store = filled(kind)
    assert cost(store, lambda: finish(store.exists(0, [KEY]))) == figures(2, 2, EPOCHS + SET, 1, 4)
    keys = [b"other:%02d" % number for number in range(30)]
    # One round that is waited for, whatever the number of keys; the heat follows in one that nobody waits for.
    assert cost(store, lambda: finish(store.exists(0, keys))) == figures(2, 31, EPOCHS + 30 * SET, 30, 30 * 4)
    absent = [b"nothing:%02d" % number for number in range(30)]
    assert cost(store, lambda: finish(store.exists(0, absent))) == figures(1, 31, EPOCHS + 30 * SET)


@both_fabrics
def test_a_key_with_a_ttl_costs_its_head_too(kind: str) -> None:
    store = filled(kind)
    finish(store.write(0, KEY, b"v", expire_at_ms=NOW_MS + 1000))
    assert cost(store, lambda: finish(store.exists(0, [KEY]))) == figures(3, 3, EPOCHS + SET + 32, 1, 4)


@both_fabrics
def test_set_of_a_new_key(kind: str) -> None:
    store = filled(kind)
    # Sets; cell, two CAS and the sets again; heat and the publishing CAS.
    assert cost(store, lambda: finish(store.write(0, b"key:0002", bytes(100)))) == figures(
        3, 3, EPOCHS + 2 * SET, 2, 132 + HEAT, cas=3
    )


@both_fabrics
def test_set_over_an_old_value(kind: str) -> None:
    store = filled(kind)
    # Sets; the old head; cell, CAS and change counter; heat; and one look at who joined before the old cell is free.
    assert cost(store, lambda: finish(store.write(0, KEY, bytes(100)))) == figures(
        5, 5, EPOCHS + SET + 48 + 16 + WORD, 2, 132 + 4, cas=1, faa=1
    )


@both_fabrics
def test_delete(kind: str) -> None:
    store = filled(kind)
    assert cost(store, lambda: finish(store.delete(0, [KEY]))) == figures(4, 5, EPOCHS + SET + 48 + 16 + WORD, cas=1, faa=1)
    assert cost(store, lambda: finish(store.delete(0, [KEY]))) == figures(1, 2, EPOCHS + SET)


@both_fabrics
def test_a_batch_of_reads_costs_the_rounds_of_one(kind: str) -> None:
    store = filled(kind)
    hazard = 1 if kind == "sim" else 0
    keys = [b"other:%02d" % number for number in range(30)]
    counted = cost(store, lambda: finish(store.read_many(0, keys)))
    assert counted["rounds"] == 3 + hazard
    assert counted["reads"] == 1 + 30 * 4


@both_fabrics
def test_eviction_of_one_value_for_one_value(kind: str) -> None:
    store = make_store(kind, policy="allkeys-lru", pages=9)
    for number in range(40):
        assert finish(store.write(0, b"k%02d" % number, bytes(30_000))).status == Status.OK
    assert store.counters()["evicted"] > 0
    before = store.counters()["evicted"]
    counted = [cost(store, lambda number=number: finish(store.write(0, b"k%02d" % number, bytes(30_000)))) for number in range(40, 60)]
    assert store.counters()["evicted"] == before + 20
    # Three rounds of an insert; before them: the look-up that found no room, the claim that was refused (2), samples in some,
    # and the victim's heat, head, CAS and release.
    assert max(entry["rounds"] for entry in counted) <= 3 + 1 + 2 + 1 + 4 + 2
    assert {entry["compare_and_swaps"] for entry in counted} == {4}


@both_fabrics
def test_a_second_front_end_makes_frees_look_at_its_row(kind: str) -> None:
    store = filled(kind)
    second_store(store)
    finish(store.write(0, KEY, bytes(100)))
    counted = cost(store, lambda: finish(store.delete(0, [KEY])))
    assert counted["rounds"] == 4
    assert counted["reads"] == 6
    assert counted["read_bytes"] == EPOCHS + SET + 48 + 16 + WORD + 2 * 4096 * WORD


def random_work(store: Store, steps: int, seed: int) -> None:
    """Do a little of everything."""
    choose = random.Random(seed)
    for _ in range(steps):
        key = b"k%d" % choose.randrange(60)
        action = choose.randrange(9)
        if action < 4:
            length = choose.choice([0, 10, 500, 5_000, 40_000, 140_000])
            finish(store.write(choose.randrange(2), key, bytes(length), expire_at_ms=choose.choice([-1, NOW_MS + 5])))
        elif action < 6:
            finish(store.read_many(0, [key, b"k1", b"k2"]))
        elif action == 6:
            finish(store.delete(0, [key]))
        elif action == 7:
            finish(store.scan(0, 0, 100))
            finish(store.random_key(0))
        else:
            finish(store.exists(1, [key]))
            store.set_clock(NOW_MS + choose.randrange(10))
    finish(store.flush(None))
    store.maintain(10.0)


def test_nothing_goes_past_the_fabric() -> None:
    store = make_store("sim", policy="allkeys-lru", pages=20)
    fabric = store.pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    fabric.journal = []
    before = store.pool.fabric.operation_counts()
    random_work(store, 300, 3)
    after = store.pool.fabric.operation_counts()
    named = {"READ": "reads", "WRITE": "writes", "CAS": "compare_and_swaps", "FAA": "fetch_and_adds"}
    for name, counter in named.items():
        assert sum(entry[0] == name for entry in fabric.journal) == after[counter] - before[counter] > 0
    layout = store.pool.layout()
    order = ("front_ends", "hazards", "counters", "globals", "databases", "sets", "heat", "page_words", "pages")
    starts = [layout[name] for name in order]
    ends = [*starts[1:-1], layout["page_words"] + layout["page_count"] * 8, layout["pages"] + layout["page_count"] * PAGE_BYTES]
    allowed = {
        "hazards": {"READ", "WRITE"}, "counters": {"FAA"}, "globals": {"READ", "FAA"}, "databases": {"READ", "FAA"},
        "sets": {"READ", "CAS"}, "heat": {"READ", "WRITE"}, "page_words": {"READ", "CAS"}, "pages": {"READ", "WRITE"},
    }  # fmt: skip
    for operation, offset, length in fabric.journal:
        inside = [name for name, start, end in zip(order, starts, ends, strict=True) if start <= offset and offset + length <= end]
        assert inside, (operation, offset, length)
        assert operation in allowed[inside[0]], (operation, inside[0], offset)
        if inside[0] == "pages":
            first, last = (offset - layout["pages"]) // PAGE_BYTES, (offset + length - 1 - layout["pages"]) // PAGE_BYTES
            assert first == last, (operation, offset, length)


@pytest.mark.parametrize("seed", range(4))
def test_both_fabrics_do_the_same_work(seed: int) -> None:
    """The simulated fabric differs by its hazards alone: the same entries, evictions and frees come out of the same work."""
    results = []
    for kind in ("shm", "sim"):
        store = make_store(kind, policy="allkeys-lru", pages=20, seed=seed + 1)
        random_work(store, 300, seed)
        counters = store.counters()
        results.append({name: counters[name] for name in ("inserted", "overwritten", "deleted", "evicted", "expired", "hits", "misses")})
    assert results[0] == results[1]
