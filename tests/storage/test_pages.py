"""Pages and cells between two front ends: what others free, what is claimed at the same moment, what an earlier life left."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from storage.cells import cell_sizes
from storage.interface import Status
from storage.pool import Pool
from storage.recovery import recover
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, filler, finish, make_store, pages_used, second_store
from tests.storage.slow_motion import simulated

LENGTH = 1000  # of values, 24 bytes of head and a key beside
CELLS = (PAGE_BYTES - 128) // next(size for size in cell_sizes() if size >= 24 + 4 + LENGTH)


def payload(store: Store, key: bytes) -> bytes | None:
    """Return the value under the key."""
    entry = finish(store.read(0, key))
    return None if entry is None else entry.payload


def fill_page(store: Store, pages: int = 1) -> list[bytes]:
    """Fill pages of one class to the last cell; the keys."""
    keys = [b"k%03d" % number for number in range(CELLS * pages)]
    for number, key in enumerate(keys):
        assert finish(store.write(0, key, filler(LENGTH, number))).status == Status.OK
    return keys


def check(store: Store, keys: list[bytes], but: AbstractSet[bytes] = frozenset()) -> None:
    """All values are what was written."""
    for number, key in enumerate(keys):
        if key not in but:
            assert payload(store, key) == filler(LENGTH, number), key


def empty(*stores: Store) -> int:
    """Delete everything; return the pages that are still in use."""
    store = stores[0]
    finish(store.delete(0, finish(store.scan(0, 0, 100_000))[1]))
    for one in stores * 3:
        one.maintain(1000.0)
        one.release_spares()
    return int.from_bytes(store.pool.read(store.pool.layout()["globals"], 8), "little")


def test_cells_that_others_freed_are_taken_before_another_page() -> None:
    first = make_store("sim", index_entries=7 * 100)
    second = second_store(first)
    first.maintain(1.0)  # the newcomer is known
    keys = fill_page(first)
    assert pages_used(first) == 1
    gone = set(keys[3:20])
    assert finish(second.delete(0, sorted(gone))) == len(gone)
    second.release_spares()
    for number in range(len(gone)):
        assert finish(first.write(0, b"n%03d" % number, filler(LENGTH, 500 + number))).status == Status.OK
    assert pages_used(first) == 1
    check(first, keys, gone)
    for number in range(len(gone)):
        assert payload(first, b"n%03d" % number) == filler(LENGTH, 500 + number)
    assert empty(first, second) == 0


def test_few_cells_that_others_freed_are_not_worth_a_look_each() -> None:
    """Where a class has many pages, it takes one more instead of looking again after every few cells; with few pages it never does."""
    for pages, more in ((15, 0), (16, 1)):
        first = make_store("sim", index_entries=7 * 1000)
        second = second_store(first)
        first.maintain(1.0)  # the newcomer is known
        keys = fill_page(first, pages)
        assert pages_used(first) == pages
        finish(second.delete(0, keys[3:8]))
        second.release_spares()
        assert finish(first.write(0, b"new", filler(LENGTH, 1))).status == Status.OK
        assert pages_used(first) == pages + more
        check(first, keys, set(keys[3:8]))
        assert empty(first, second) == 0


def test_a_cell_freed_while_another_is_being_freed_is_not_lost() -> None:
    """Two front ends set bits of one word: whose CAS comes second tries again."""
    first = make_store("sim", index_entries=7 * 100)
    second, third = second_store(first, 1), second_store(first, 2)
    first.maintain(1.0)  # the newcomers are known
    keys = fill_page(first)
    start = first.pool.layout()["pages"]
    rung = 0

    def interfere(operations: list[tuple[str, int, int]]) -> None:
        nonlocal rung
        if operations[0][0] == "CAS" and operations[0][1] >= start and rung < 3:
            rung += 1
            finish(third.delete(0, [keys[10 + rung]]))
            third.release_spares()

    finish(second.delete(0, keys[:3]))
    simulated(first).before_round = interfere
    second.release_spares()
    simulated(first).before_round = None
    assert rung >= 1
    gone = set(keys[:3]) | {keys[10 + number] for number in range(1, rung + 1)}
    for number in range(len(gone)):
        assert finish(first.write(0, b"n%03d" % number, filler(LENGTH, 500 + number))).status == Status.OK
    assert pages_used(first) == 1
    check(first, keys, gone)
    assert empty(first, second, third) == 0


def test_a_harvest_that_lost_takes_nothing() -> None:
    """A bit is set between the READ of the free words and the CAS that empties them: the cells come with the next harvest, once."""
    first = make_store("sim", index_entries=7 * 100)
    second = second_store(first)
    first.maintain(1.0)  # the newcomer is known
    keys = fill_page(first)
    start = first.pool.layout()["pages"]
    finish(second.delete(0, [keys[5]]))
    second.release_spares()
    rung = 0

    def interfere(operations: list[tuple[str, int, int]]) -> None:
        nonlocal rung
        if operations[0][0] == "CAS" and operations[0][1] >= start and rung == 0:
            rung += 1
            finish(second.delete(0, [keys[6]]))
            second.release_spares()

    simulated(first).before_round = interfere
    written = [b"n%03d" % number for number in range(8)]
    for number, key in enumerate(written):
        assert finish(first.write(0, key, filler(LENGTH, 700 + number))).status == Status.OK
        first.maintain(1000.0)
    simulated(first).before_round = None
    assert rung == 1
    check(first, keys, {keys[5], keys[6]})
    for number, key in enumerate(written):
        assert payload(second, key) == filler(LENGTH, 700 + number), key
    assert empty(first, second) == 0


def test_a_cell_that_is_freed_twice_is_handed_out_once() -> None:
    """The bit of a cell that its owner knows to be free already, as after a fault of somebody else."""
    first = make_store("sim", index_entries=7 * 100)
    second_store(first)
    first.maintain(1.0)
    finish(first.write(0, b"here", filler(LENGTH, 1)))
    start = first.pool.layout()["pages"]
    page = next(number for number in range(64) if b"here" in simulated(first).peek(start + number * PAGE_BYTES, PAGE_BYTES))
    used = simulated(first).peek(start + page * PAGE_BYTES + 128, PAGE_BYTES - 128).index(b"here") // (PAGE_BYTES // CELLS)
    free = [cell for cell in range(CELLS) if cell != used]
    for cell in free[:4]:
        first.pool.write(start + page * PAGE_BYTES + cell // 64 * 8, (1 << cell % 64).to_bytes(8, "little"))
        first.maintain(1000.0)
    keys = [b"k%03d" % number for number in range(CELLS + 5)]
    for number, key in enumerate(keys):
        finish(first.write(0, key, filler(LENGTH, number)))
    check(first, keys)
    cells: Any = first.memory()["cells"]
    assert sum(row[2] for row in cells) == CELLS + 6, cells
    assert empty(first) == 0


def test_a_page_forgets_what_its_first_bytes_were() -> None:
    """Payload lay where the free words of a page of cells lie: none of its bits frees a cell."""
    first = make_store("shm", index_entries=7 * 100, pages=12)
    second = second_store(first)
    first.maintain(1.0)  # the newcomer is known
    large = [b"large%d" % number for number in range(6)]
    for key in large:
        assert finish(first.write(0, key, b"\xff" * PAGE_BYTES)).status == Status.OK
    finish(first.delete(0, large))
    first.release_spares()
    keys = fill_page(first, 4)
    second.maintain(1000.0)
    for _ in range(3):
        first.maintain(1000.0)
    more = [b"n%03d" % number for number in range(CELLS)]
    for number, key in enumerate(more):
        assert finish(first.write(0, key, filler(LENGTH, 900 + number))).status == Status.OK
    check(second, keys)
    assert empty(first, second) == 0


def test_a_page_that_somebody_else_won_is_his() -> None:
    """Both have seen the same page FREE; one claims it between the other's look and its CAS."""
    first = make_store("sim", index_entries=7 * 100, pages=20)
    second = second_store(first)
    words = first.pool.layout()["page_words"]
    finish(first.write(0, b"a", filler(PAGE_BYTES, 1)))  # both know the table now
    finish(second.write(0, b"b", filler(PAGE_BYTES, 2)))
    rung = 0

    def interfere(operations: list[tuple[str, int, int]]) -> None:
        nonlocal rung
        if operations[0][0] == "CAS" and words <= operations[0][1] < words + 20 * 8 and rung < 3:
            rung += 1
            assert finish(second.write(0, b"b%d" % rung, filler(PAGE_BYTES, 100 + rung))).status == Status.OK

    simulated(first).before_round = interfere
    for number in range(3):
        assert finish(first.write(0, b"a%d" % number, filler(PAGE_BYTES, 200 + number))).status == Status.OK
    simulated(first).before_round = None
    assert rung == 3
    for number in range(3):
        assert payload(second, b"a%d" % number) == filler(PAGE_BYTES, 200 + number)
        assert payload(first, b"b%d" % (number + 1)) == filler(PAGE_BYTES, 101 + number)
    assert empty(first, second) == 0


def test_recovery_empties_hazard_rows_and_gives_claimed_pages_back() -> None:
    """What a killed front end was reading, and a page that it had claimed and nobody names, hold nothing any more."""
    store = make_store("sim")
    finish(store.write(0, b"key", filler(PAGE_BYTES, 1)))
    pool, layout = store.pool, store.pool.layout()
    pool.write(layout["hazards"] + 3 * 4096 * 8 + 16, (1 << 63 | 7).to_bytes(8, "little"))
    free = [number for number in range(60) if pool.read(layout["page_words"] + number * 8, 1)[0] & 7 == 0]
    pool.write(layout["page_words"] + free[5] * 8, (1 << 32 | 2).to_bytes(8, "little"))
    again = Store(Pool.attach(pool.fabric), "noeviction")
    again.set_clock(NOW_MS)
    recover(again)
    assert not any(pool.read(layout["hazards"], 64 * 4096 * 8))
    kinds = [pool.read(layout["page_words"] + number * 8, 1)[0] & 7 for number in range(60)]
    assert sum(kind != 0 for kind in kinds) == pages_used(again) == 2


@pytest.mark.parametrize("length", [PAGE_BYTES, 5 * PAGE_BYTES])
def test_a_refused_claim_leaves_the_count_as_it_was(length: int) -> None:
    store = make_store("sim", pages=8)
    finish(store.write(0, b"key", filler(4 * PAGE_BYTES, 1)))
    before = store.pool.read(store.pool.layout()["globals"], 8)
    for _ in range(3):
        assert finish(store.write(0, b"another", filler(20 * length, 2))).status == Status.FULL
    store.release_spares()
    assert store.pool.read(store.pool.layout()["globals"], 8) == before
