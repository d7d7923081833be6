"""Retirement: nothing is used again while somebody may be reading it, whoever reads and however many do."""

from __future__ import annotations

import random

import pytest

from storage.staging import PinnedValue
from storage.store import Store
from tests.storage.pools import PAGE_BYTES, filler, finish, make_store, pages_used, second_store
from tests.storage.slow_motion import SlowStore, simulated


@pytest.mark.parametrize("length", [5, 700, 20_000, 3 * PAGE_BYTES])
def test_a_hazard_is_out_before_anything_is_read_under_it(length: int) -> None:
    """In every doorbell that brings a name to the hazard row the WRITE stands before the READs of the cell and of the slot."""
    first = make_store("sim")
    finish(first.write(0, b"key", filler(length, 1)))
    store = second_store(first)
    layout = store.pool.layout()
    doorbells: list[list[tuple[str, int, int]]] = []
    simulated(store).before_round = lambda operations: doorbells.append(list(operations))
    entry = finish(store.read(0, b"key"))
    simulated(store).before_round = None
    assert entry is not None
    assert entry.payload == filler(length, 1)
    guarded = 0
    for operations in doorbells:
        rows = range(layout["hazards"], layout["counters"])
        names = [place for place, (kind, offset, _) in enumerate(operations) if kind == "WRITE" and offset in rows]
        reads = [place for place, (kind, offset, _) in enumerate(operations) if kind == "READ" and offset >= layout["sets"]]
        if names and reads:
            assert names[0] < reads[0], operations
            guarded += 1
    assert guarded == (2 if length >= PAGE_BYTES else 1)


@pytest.mark.parametrize("seed", range(60))
def test_a_cell_is_not_used_again_while_it_is_being_read(seed: int) -> None:
    """The READs of the cell and of the slot come in any order and in pieces; meanwhile the value is replaced and its class filled."""
    choose = random.Random(seed)
    first = make_store("sim")
    old, new = filler(700, 1), filler(700, 2)
    finish(first.write(0, b"key", old))
    slow = SlowStore(first, 1, seed=seed + 2, tears=True)
    finish(first.exists(0, [b"key"]))  # the newcomer's row is known
    slow.begin(lambda store: store.read(0, b"key"))
    for _ in range(choose.randrange(2, 14)):
        if not slow.perform():
            slow.go_on()
    finish(first.write(0, b"key", new))
    first.release_spares()
    for number in range(3):
        finish(first.write(0, b"yek%d" % number, filler(700, 3 + number)))
    entry = slow.end()
    assert entry is not None
    assert entry.payload in (old, new)
    assert slow.store.memory()["damaged"] == 0


def test_more_readers_than_the_short_list_holds() -> None:
    """Beyond 256 hazards every row is searched: the last one's value stays as well as the first's."""
    first = make_store("shm", pages=700, index_entries=7 * 200)
    second = second_store(first)
    keys = [b"key%d" % number for number in range(300)]
    for number, key in enumerate(keys):
        finish(first.write(0, key, filler(PAGE_BYTES, number)))
    pins = [second.pin(0, key) for key in keys]
    assert finish(first.delete(0, keys)) == 300
    first.release_spares()
    for number in range(200):
        finish(first.write(0, b"fill%d" % number, filler(PAGE_BYTES, 1000 + number)))
    for number, pin in enumerate(pins):
        assert isinstance(pin, PinnedValue)
        assert pin.tobytes() == filler(PAGE_BYTES, number), number
        pin.release()
    first.release_spares()
    assert first.memory()["retired_values"] == 0


def test_a_newcomers_pin_is_seen_by_who_never_saw_it_come() -> None:
    first = make_store("shm")
    value = filler(PAGE_BYTES, 1)
    finish(first.write(0, b"key", value))
    second = second_store(first)
    pin = second.pin(0, b"key")
    assert pin is not None
    finish(first.delete(0, [b"key"]))
    first.release_spares()
    for number in range(40):
        finish(first.write(0, b"fill%d" % number, filler(PAGE_BYTES, 10 + number)))
    assert pin.tobytes() == value


@pytest.mark.parametrize("pinned", [1, 2])
def test_what_is_unlinked_while_the_rows_are_read_waits_for_the_next_look(pinned: int) -> None:
    """Between the READ of the rows and the freeing another value is pinned and removed: this look knows nothing of that pin."""
    first = make_store("sim", pages=100)
    second = second_store(first)
    values = {b"one": filler(PAGE_BYTES, 1), b"two": filler(PAGE_BYTES, 2)}
    for key, value in values.items():
        finish(first.write(0, key, value))
    finish(first.delete(0, [b"one"]))
    pins: list[PinnedValue | None] = []
    rung = 0

    def interfere(_operations: object) -> None:
        nonlocal rung
        rung += 1
        if rung == pinned:
            pins.append(second.pin(0, b"two"))
            finish(first.delete(0, [b"two"]))

    simulated(first).before_round = interfere
    first.release_spares()
    simulated(first).before_round = None
    (pin,) = pins
    assert pin is not None
    first.release_spares()
    for number in range(60):
        finish(first.write(0, b"fill%d" % number, filler(PAGE_BYTES, 10 + number)))
    assert pin.tobytes() == values[b"two"]
    pin.release()


def full_pages(store: Store, prefix: bytes, length: int, count: int) -> list[bytes]:
    """Write small values; return their keys."""
    keys = [prefix + b"%d" % number for number in range(count)]
    for number, key in enumerate(keys):
        finish(store.write(0, key, filler(length, number)))
    return keys


def test_all_comes_back() -> None:
    store = make_store("sim", index_entries=7 * 400)
    keys = full_pages(store, b"k", 500, 500)
    other = second_store(store)
    for key in keys:
        finish(other.read(0, key))
    assert finish(other.delete(0, keys[::2])) == 250
    assert finish(store.delete(0, keys[1::2])) == 250
    for one in (other, store, other, store):
        one.maintain(1000.0)
        one.release_spares()
    assert pages_used(store) == 0
