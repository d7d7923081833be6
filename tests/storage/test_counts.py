"""What an operation costs: rounds, operations and bytes, the same figures at every run; and nothing goes past the fabric."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition, Status
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, every_fabric, finish, forgetful_store, make_store, remote_fabrics, second_store

KEY = b"key:0001"
KEYS = [b"other:%02d" % number for number in range(128)]
EPOCHS, SET, SLOT, HEAT, WORD, COUNTERS, HEAD = 16 * 8, 128, 8, 16, 8, 4096, 48
CELL = 144  # header 24, key 8, value 100


def cost(store: Store, action: Callable[[], Any]) -> dict[str, int]:
    """Return what the action adds to the counters of the fabric, without the zeros."""
    before = store.counters()
    action()
    after = store.counters()
    counted = {name[7:]: after[name] - before[name] for name in after if name.startswith("fabric_") and after[name] != before[name]}
    waited = counted.pop("rounds") - counted.get("unwaited", 0)
    return counted | ({"waited": waited} if waited else {})


def figures(
    waited: int, reads: int = 0, read_bytes: int = 0, writes: int = 0, write_bytes: int = 0, cas: int = 0, faa: int = 0, unwaited: int = 0
) -> dict[str, int]:
    """Return expected costs under the counters' names: dependent rounds, operations, and doorbells that nobody waits for."""
    named = {
        "waited": waited, "reads": reads, "read_bytes": read_bytes, "writes": writes, "write_bytes": write_bytes,
        "compare_and_swaps": cas, "fetch_and_adds": faa, "unwaited": unwaited,
    }  # fmt: skip
    return {name: value for name, value in named.items() if value}


def filled(kind: str) -> Store:
    """Return a store in which every class of cell that the tests use has its page."""
    store = make_store(kind, pages=400, index_entries=7 * 4096)
    for key in KEYS:
        finish(store.write(0, key, bytes(100)))
    finish(store.write(0, KEY, bytes(100)))
    return store


@every_fabric
def test_get_cold(kind: str) -> None:
    store = forgetful_store(filled(kind))
    # Sets; cell, heat and slot; heat. Where READs keep no order a hazard goes out before the cell, with how far others must
    # look in this row, which is said once, and is taken back with the heat, which nobody waits for.
    remote = kind != "shm"
    assert cost(store, lambda: finish(store.read(0, KEY))) == figures(
        2, 5, EPOCHS + SET + CELL + HEAT + SLOT, 1 + 3 * remote, HEAT + 3 * WORD * remote, unwaited=1
    )
    assert cost(store, lambda: finish(store.read(0, b"other:01"))) == figures(
        2, 5, EPOCHS + SET + CELL + HEAT + SLOT, 1 + 2 * remote, HEAT + 2 * WORD * remote, unwaited=1
    )
    assert cost(store, lambda: finish(store.read(0, b"absent"))) == figures(1, 2, EPOCHS + SET)


@every_fabric
def test_get_where_the_location_is_known(kind: str) -> None:
    store = forgetful_store(filled(kind))
    finish(store.read(0, KEY))
    if kind == "shm":  # a set costs nothing there: it is read again
        known = figures(2, 5, EPOCHS + SET + CELL + HEAT + SLOT, 1, HEAT, unwaited=1)
    else:
        known = figures(1, 4, EPOCHS + CELL + HEAT + SLOT, 3, HEAT + 2 * WORD, unwaited=1)
    assert cost(store, lambda: finish(store.read(0, KEY))) == known
    assert cost(store, lambda: finish(store.read(0, KEY))) == known
    # Without the payload: as much of the cell as a head and this key can take.
    known["read_bytes"] -= CELL - (HEAD + len(KEY))
    assert cost(store, lambda: finish(store.read(0, KEY, payload=False))) == known


@remote_fabrics
def test_get_of_a_key_that_moved_since_it_was_found(kind: str) -> None:
    store = forgetful_store(filled(kind))
    finish(store.read(0, KEY))
    other = second_store(store)
    finish(other.write(0, KEY, bytes(100)))
    # The remembered cell and its slot, which tells; the set; the cell and its slot again.
    assert cost(store, lambda: finish(store.read(0, KEY))) == figures(
        3, 3 + 1 + 1 + 3, EPOCHS + 2 * (CELL + HEAT + SLOT) + SET, 1 + 4, HEAT + 4 * WORD, unwaited=1
    )
    finish(other.delete(0, [KEY]))
    assert cost(store, lambda: finish(store.read(0, KEY))) == figures(
        2, 5, EPOCHS + CELL + HEAT + SLOT + SET, 2, 2 * WORD
    )
    assert cost(store, lambda: finish(store.read(0, KEY))) == figures(1, 2, EPOCHS + SET)


@every_fabric
def test_get_of_a_paged_value(kind: str) -> None:
    store = filled(kind)
    finish(store.write(0, KEY, bytes(2 * PAGE_BYTES + 30)))
    store.release_spares()
    remote = kind != "shm"
    store = forgetful_store(store)
    cell = 80  # header 24, key 8, two pages 8, tail 30
    # Sets, cell, pin; heat; then the pages, one by one for a caller that wants bytes; the pin's release. The hazard of the cell
    # goes with the doorbell of the pin, which takes a place of its own.
    assert cost(store, lambda: finish(store.read(0, KEY))) == figures(
        3 + 2, 6 + 2, EPOCHS + SET + cell + HEAT + 2 * SLOT + 2 * PAGE_BYTES, 1 + 3 + 2 * remote,
        HEAT + 3 * WORD + 2 * WORD * remote, unwaited=2,
    )  # fmt: skip
    if remote:
        assert cost(store, lambda: finish(store.read(0, KEY))) == figures(
            2 + 2, 5 + 2, EPOCHS + cell + HEAT + 2 * SLOT + 2 * PAGE_BYTES, 5, HEAT + 4 * WORD, unwaited=2
        )


@every_fabric
@pytest.mark.parametrize("count", [1, 30, 128])
def test_match_cold(kind: str, count: int) -> None:
    store = forgetful_store(filled(kind))
    keys = KEYS[:count]
    # One round that is waited for, whatever the number of keys, and no value touched; the heat follows in one that nobody waits for.
    assert cost(store, lambda: finish(store.exists(0, keys))) == figures(
        1, 1 + count, EPOCHS + count * SET, count, count * 4, unwaited=1
    )
    absent = [b"nothing:%03d" % number for number in range(count)]
    assert cost(store, lambda: finish(store.exists(0, absent))) == figures(1, 1 + count, EPOCHS + count * SET)


@remote_fabrics
@pytest.mark.parametrize("count", [1, 3, 4, 30, 128])
def test_match_of_remembered_keys(kind: str, count: int) -> None:
    store = forgetful_store(filled(kind))
    keys = KEYS[:count]
    finish(store.exists(0, keys))
    # All change counters at once, which are 32 sets' worth; a few sets are read sooner.
    once = figures(1, 2, EPOCHS + COUNTERS) if count >= 4 else figures(1, 1 + count, EPOCHS + count * SET)
    assert cost(store, lambda: finish(store.exists(0, keys))) == once
    store.set_clock(NOW_MS + 999)
    assert cost(store, lambda: finish(store.exists(0, keys))) == once
    # Heat is refreshed once a second.
    store.set_clock(NOW_MS + 1000)
    assert cost(store, lambda: finish(store.exists(0, keys))) == once | {"writes": count, "write_bytes": count * 4, "unwaited": 1}


@remote_fabrics
def test_match_of_some_remembered_keys(kind: str) -> None:
    store = forgetful_store(filled(kind))
    finish(store.exists(0, KEYS[:30]))
    # What is not remembered is read in the same round.
    assert cost(store, lambda: finish(store.exists(0, KEYS[:40]))) == figures(
        1, 2 + 10, EPOCHS + COUNTERS + 10 * SET, 10, 40, unwaited=1
    )
    # One of 40 was overwritten: its set is read after all, and with it the others of its counter.
    finish(second_store(store).write(0, KEYS[3], b"new"))
    counted = cost(store, lambda: finish(store.exists(0, KEYS[:40])))
    others = counted["reads"] - 3
    assert 0 <= others <= 2, "keys that share its counter"
    # Found anew, they count as used.
    assert counted == figures(2, 3 + others, EPOCHS + COUNTERS + (1 + others) * SET, 1 + others, 4 * (1 + others), unwaited=1)
    assert cost(store, lambda: finish(store.exists(0, KEYS[:40]))) == figures(1, 2, EPOCHS + COUNTERS)


@every_fabric
def test_a_key_with_a_ttl_costs_its_head_too(kind: str) -> None:
    store = forgetful_store(filled(kind))
    keys = KEYS[:4]
    for key in keys:
        finish(store.write(0, key, b"v", expire_at_ms=NOW_MS + 5000))
    store = forgetful_store(store)
    assert cost(store, lambda: finish(store.exists(0, keys))) == figures(
        2, 1 + 2 * 4, EPOCHS + 4 * (SET + 32), 4, 4 * 4, unwaited=1
    )
    if kind != "shm":  # the expiry is remembered too
        assert cost(store, lambda: finish(store.exists(0, keys))) == figures(1, 2, EPOCHS + COUNTERS)
        store.set_clock(NOW_MS + 5000)
        assert finish(store.exists(0, keys)) == [False] * 4


@every_fabric
def test_set_of_a_new_key(kind: str) -> None:
    store = filled(kind)
    # Sets; cell, two CAS and the sets again; heat and the publishing CAS.
    assert cost(store, lambda: finish(store.write(0, b"key:0002", bytes(100)))) == figures(
        3, 3, EPOCHS + 2 * SET, 2, 132 + HEAT, cas=3
    )
    # With NX one look more, behind the sets: whether the database was flushed before them.
    assert cost(store, lambda: finish(store.write(0, b"key:0003", bytes(100), condition=Condition.NX))) == figures(
        3, 4, EPOCHS + 2 * SET + WORD, 2, 132 + HEAT, cas=3
    )


@every_fabric
def test_set_over_an_old_value(kind: str) -> None:
    store = filled(kind)
    remote = kind != "shm"
    # Sets; the old head and the slot; cell and CAS, between both halves of the change counter where others remember locations;
    # heat. On shared memory one look at who joined follows before the old cell is free, elsewhere one for 64 values.
    assert cost(store, lambda: finish(store.write(0, KEY, bytes(100)))) == figures(
        3 if remote else 4, 4 if remote else 5, EPOCHS + SET + HEAD + len(KEY) + 16 + WORD * (not remote), 2, 132 + 4,
        cas=1, faa=2 * remote, unwaited=1,
    )


@every_fabric
def test_delete(kind: str) -> None:
    store = filled(kind)
    remote = kind != "shm"
    assert cost(store, lambda: finish(store.delete(0, [KEY]))) == figures(
        3 if remote else 4, 4 if remote else 5, EPOCHS + SET + HEAD + len(KEY) + 16 + WORD * (not remote), cas=1, faa=2 * remote
    )
    assert cost(store, lambda: finish(store.delete(0, [KEY]))) == figures(1, 2, EPOCHS + SET)


@every_fabric
def test_a_batch_of_reads_costs_the_rounds_of_one(kind: str) -> None:
    store = forgetful_store(filled(kind))
    counted = cost(store, lambda: finish(store.read_many(0, KEYS[:30])))
    assert (counted["waited"], counted["unwaited"]) == (2, 1)
    assert counted["reads"] == 1 + 30 * 4
    again = cost(store, lambda: finish(store.read_many(0, KEYS[:30])))
    assert (again["waited"], again["reads"]) == ((2, 1 + 30 * 4) if kind == "shm" else (1, 1 + 30 * 3))


@remote_fabrics
def test_values_are_retired_together(kind: str) -> None:
    store = filled(kind)
    for number in range(63):
        finish(store.write(0, KEYS[number], b"new"))
    assert store.memory()["retired_values"] == 63
    # The 64th: sets, old head, swap, heat; and the look at who joined, for all of them. Nobody did, and no page came free.
    assert cost(store, lambda: finish(store.write(0, KEYS[63], b"new"))) == figures(
        4, 5, EPOCHS + SET + HEAD + len(KEY) + 16 + WORD, 2, 35 + 4, cas=1, faa=2, unwaited=1
    )
    assert store.memory()["retired_values"] == 0
    for number in range(3):  # or when they hold 256 pages
        finish(store.write(0, KEYS[number], bytes(100 * PAGE_BYTES)))
        finish(store.delete(0, [KEYS[number]]))
        assert store.memory()["retired_values"] == (2 + 2 * number if number < 2 else 0)
    finish(store.delete(0, [KEYS[3]]))
    assert store.memory()["retired_values"] == 1
    store.maintain(1.0)
    assert store.memory()["retired_values"] == 0


@every_fabric
def test_eviction_of_one_value_for_one_value(kind: str) -> None:
    store = make_store(kind, policy="allkeys-lru", pages=9)
    store.set_protection(lookup_ms=0, lookup_share=0.1, lease_share=0.25)  # 1 eviction in 16 looks at 64 more entries for it
    for number in range(40):
        assert finish(store.write(0, b"k%02d" % number, bytes(30_000))).status == Status.OK
    assert store.counters()["evicted"] > 0
    before = store.counters()["evicted"]
    counted = [cost(store, lambda number=number: finish(store.write(0, b"k%02d" % number, bytes(30_000)))) for number in range(40, 60)]
    assert store.counters()["evicted"] == before + 20
    # A look-up that finds no room, a claim that is taken back (2 FAA), a doorbell without operations; who joined; samples of 23
    # slots with their heat; the victim's heat, its cell as far as a head and any key reach, its CAS between both halves of the
    # change counter; who joined, and its cell is free. Then the insert: sets, reservation, publication.
    resident, head = 23, HEAD + 16_384
    reads = EPOCHS + SET + WORD + resident * (SLOT + HEAT) + HEAT + EPOCHS + head + 16 + WORD + 2 * SET
    writes = 24 + 3 + 30_000 + HEAT
    changes = 2 if kind != "shm" else 0
    assert counted == [figures(12, 2 + 1 + 2 * resident + 1 + 3 + 1 + 2, reads, 3, writes, cas=4, faa=2 + changes)] * 20


@every_fabric
def test_another_front_ends_row_is_read_as_far_as_it_is_used(kind: str) -> None:
    store = filled(kind)
    other = second_store(store)
    finish(store.write(0, KEY, bytes(100)))  # tells who joined
    store.release_spares()

    def frees() -> dict[str, int]:
        finish(store.write(0, KEY, bytes(100)))
        return cost(store, lambda: store.release_spares())

    rows = WORD + 2 * 64
    assert frees() == figures(1, 2, rows)
    finish(other.write(0, b"large", bytes(PAGE_BYTES)))
    pinned = other.pin(0, b"large")
    assert pinned is not None
    used = 64 * WORD  # places are made known in steps of 64
    assert frees() == figures(2, 3, rows + used)
    pinned.release()
    assert frees() == figures(2, 3, rows + used)
    other.maintain(1.0)
    assert frees() == figures(1, 2, rows), "nothing of the row is in use: it was lowered"


def random_work(store: Store, steps: int, seed: int) -> None:
    """Do a little of everything.

    A second passes at every step, so that heat is refreshed every time; and what is retired is freed, which is put off where it
    takes a round trip.
    """
    choose = random.Random(seed)
    for step in range(steps):
        key = b"k%d" % choose.randrange(60)
        action = choose.randrange(8)
        now_ms = NOW_MS + 1000 * step
        store.set_clock(now_ms)
        if action < 4:
            length = choose.choice([0, 10, 500, 5_000, 40_000, 140_000])
            finish(store.write(choose.randrange(2), key, bytes(length), expire_at_ms=choose.choice([-1, now_ms + 20_000])))
        elif action < 6:
            finish(store.read_many(0, [key, b"k1", b"k2"]))
        elif action == 6:
            finish(store.delete(0, [key]))
        else:
            finish(store.scan(0, 0, 100))
            finish(store.random_key(0))
            finish(store.exists(1, [key]))
        store.release_spares()
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
        "front_ends": {"READ", "WRITE"}, "hazards": {"READ", "WRITE"}, "counters": {"READ", "FAA"}, "globals": {"READ", "FAA"},
        "databases": {"READ", "FAA"}, "sets": {"READ", "CAS"}, "heat": {"READ", "WRITE"}, "page_words": {"READ", "CAS"},
        "pages": {"READ", "WRITE"},
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
    """They differ by hazards and by what is remembered: the same entries, evictions and frees come out of the same work."""
    results = []
    for kind in ("shm", "sim"):
        store = make_store(kind, policy="allkeys-lru", pages=20, seed=seed + 1)
        random_work(store, 300, seed)
        counters = store.counters()
        results.append({name: counters[name] for name in ("inserted", "overwritten", "deleted", "evicted", "expired", "hits", "misses")})
    assert results[0] == results[1]
