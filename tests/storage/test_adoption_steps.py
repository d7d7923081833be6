"""Adoption step by step: what the dead held comes back, and nothing else, whatever the living are in the middle of."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest

from storage.cells import cell_sizes
from storage.interface import Condition, Status
from storage.pool import Pool
from storage.staging import StagedValue
from storage.store import Store
from tests.storage.pools import HEAD_BYTES, NOW_MS, PAGE_BYTES, filler, finish, make_pool
from tests.storage.slow_motion import FREE, LIVE, RESERVED, SlowStore, states

TURNS = 60
LOOK_LIMIT_S = 10  # at least once a second a front end looks for the dead
SMALL = 1000
CELLS = (PAGE_BYTES - 128) // next(size for size in cell_sizes() if size >= HEAD_BYTES + 3 + SMALL)


class Locks:
    """Who is dead, as the locks of front ends would prove it."""

    def __init__(self) -> None:
        """Begin with everybody alive."""
        self.dead: set[int] = set()
        self.held: set[int] = set()

    def prove_dead(self, number: int, incarnation: int) -> bool:
        """Whether that one is gone for good."""
        if number in self.dead:
            self.held.add(number)
        return number in self.dead

    def release(self, number: int) -> None:
        """The proof is not needed any more."""
        self.held.remove(number)


class Scene:
    """Three front ends of one simulated pool: 0, which will die, 1, which adopts, and 2, which is in the middle of something."""

    def __init__(self, *, pages: int = 60, index_entries: int = 7 * 30, policy: str = "noeviction") -> None:
        """Format and attach; every doorbell of each can be slowed down."""
        self.locks = Locks()
        pool = make_pool("sim", pages=pages, index_entries=index_entries)
        keeper = Store(pool, policy)  # number 0 belongs to who formats; it never does anything
        self.pool = pool
        self.doomed = SlowStore(keeper, 1, seed=5, policy=policy)
        self.adopter = SlowStore(keeper, 2, seed=6, policy=policy)
        self.witness = SlowStore(keeper, 3, seed=7, policy=policy)
        self.keeper = keeper
        for store in (keeper, self.doomed.store, self.adopter.store, self.witness.store):
            store.set_clock(NOW_MS)
            store.cluster.nodes[0].share(self.locks, alone=store is keeper)
        self.clock_s = 0.0
        # Each looks once when it comes.
        self.turn((keeper, self.doomed.store, self.adopter.store, self.witness.store))

    def die(self) -> None:
        """Kill front end 1 where it stands: nothing more of it reaches the pool."""
        self.doomed.fabric.lose()
        self.locks.dead.add(1)
        self.pool.declare_dead(1)

    def turn(self, stores: Iterable[Store] = (), turns: int = TURNS) -> None:
        """Let background work of these go on, of all that live when none is named."""
        for _ in range(turns):
            for store in stores or (self.adopter.store, self.witness.store, self.keeper):
                store.maintain(1000.0)

    def counts(self, name: str) -> int:
        """Sum of what all adopters did."""
        return sum(store.counters()[f"adoption_{name}"] for store in (self.adopter.store, self.witness.store, self.keeper))

    def pages_used(self) -> int:
        """Pages in use, as the pool counts them."""
        return int.from_bytes(self.pool.read(self.pool.layout()["globals"], 8), "little")

    def pages_named(self) -> int:
        """Pages in use, as the page table says."""
        layout = self.pool.layout()
        table = self.pool.read(layout["page_words"], layout["page_count"] * 8)
        return sum(table[begin] & 7 != 0 for begin in range(0, len(table), 8))

    def empty(self) -> None:
        """Delete everything; no page may be left."""
        store = self.adopter.store
        finish(store.delete(0, finish(store.scan(0, 0, 100_000))[1]))
        for _ in range(3):
            self.turn(turns=5)
            for one in (store, self.witness.store, self.keeper):
                one.release_spares()
        assert self.pages_named() == self.pages_used() == 0


def payload(store: Store, key: bytes) -> bytes | None:
    """Return the value under the key."""
    entry = finish(store.read(0, key))
    return None if entry is None else entry.payload


def mid_write(slow: SlowStore, key: bytes, value: bytes, pool: Pool, scene: Scene) -> None:
    """Begin a write and leave it when its slot is reserved and its pages are claimed."""
    before = states(scene.keeper).count(RESERVED)
    slow.begin(lambda store: store.write(0, key, value, condition=Condition.NX))
    for _ in range(1000):
        if states(scene.keeper).count(RESERVED) > before:
            return
        if not slow.perform():
            assert not slow.go_on()
    raise AssertionError("it never reserves")


@pytest.mark.parametrize("length", [10, SMALL, 3 * PAGE_BYTES])
def test_all_that_the_dead_held_comes_back(length: int) -> None:
    """Published values stay; a reserved slot, claimed pages and cells that were allocated or unlinked are free again."""
    scene = Scene()
    doomed = scene.doomed.store
    keys = [b"k%d" % number for number in range(20)]
    for number, key in enumerate(keys):
        finish(doomed.write(0, key, filler(700 if number % 3 else 40_000, number)))
    finish(doomed.delete(0, keys[:2]))  # unlinked, and not freed before it is collected
    mid_write(scene.doomed, b"unfinished", filler(length, 99), scene.pool, scene)
    used = scene.pages_used()
    scene.die()
    scene.turn()
    assert RESERVED not in states(scene.keeper)
    assert scene.counts("freed_reservations") == 1
    assert scene.counts("adopted_pages") > 0
    assert scene.pages_used() <= used
    assert scene.pages_used() == scene.pages_named()
    for number, key in enumerate(keys[2:], 2):
        assert payload(scene.adopter.store, key) == filler(700 if number % 3 else 40_000, number)
    assert finish(scene.adopter.store.write(0, b"unfinished", b"now", condition=Condition.NX)).status == Status.OK
    for number in range(30):
        finish(scene.adopter.store.write(0, b"n%d" % number, filler(700, 500 + number)))
    for number, key in enumerate(keys[2:], 2):
        assert payload(scene.witness.store, key) == filler(700 if number % 3 else 40_000, number)
    scene.empty()


def test_who_stands_still_is_not_dead() -> None:
    """Without proof nothing of a front end is touched, however long it says nothing; then it goes on."""
    scene = Scene()
    value = filler(3 * PAGE_BYTES, 1)
    finish(scene.doomed.store.write(0, b"there", filler(SMALL, 2)))
    mid_write(scene.doomed, b"key", value, scene.pool, scene)
    scene.turn()
    assert RESERVED in states(scene.keeper)
    assert scene.pool.life_of(1)[1]
    assert [scene.counts(name) for name in ("adopted_pages", "freed_pages", "freed_reservations")] == [0, 0, 0]
    assert scene.doomed.end().status == Status.OK
    assert payload(scene.adopter.store, b"key") == value
    assert payload(scene.adopter.store, b"there") == filler(SMALL, 2)


def test_a_death_is_noticed_by_its_proof() -> None:
    scene = Scene()
    finish(scene.doomed.store.write(0, b"key", b"value"))
    scene.doomed.fabric.lose()
    scene.turn()
    assert scene.pool.life_of(1)[1]
    scene.locks.dead.add(1)
    deadline_s = time.monotonic() + LOOK_LIMIT_S
    while scene.pool.life_of(1)[1] and time.monotonic() < deadline_s:
        scene.turn((scene.adopter.store,), 1)
    assert not scene.pool.life_of(1)[1]
    assert not scene.locks.held
    scene.turn()
    assert scene.counts("adopted_pages") == 1
    assert payload(scene.adopter.store, b"key") == b"value"


def test_a_batch_of_the_adopter_keeps_what_it_has_claimed() -> None:
    """Its pages and cells are named by no slot while the index is looked at."""
    scene = Scene()
    finish(scene.doomed.store.write(0, b"old", filler(SMALL, 1)))
    value = filler(4 * PAGE_BYTES, 2)
    mid_write(scene.adopter, b"key", value, scene.pool, scene)
    scene.die()
    scene.turn()
    assert scene.counts("freed_pages") == scene.counts("freed_cells") == 0
    assert scene.adopter.end().status == Status.OK
    scene.turn()
    for number in range(20):
        finish(scene.witness.store.write(0, b"n%d" % number, filler(PAGE_BYTES, 100 + number)))
        finish(scene.adopter.store.write(0, b"m%d" % number, filler(SMALL, 200 + number)))
    assert payload(scene.witness.store, b"key") == value
    scene.empty()


def test_a_value_that_is_being_received_keeps_its_pages() -> None:
    scene = Scene()
    value = filler(4 * PAGE_BYTES, 2)
    store = scene.adopter.store
    staged = StagedValue(store.staging, len(value), 3)
    assert staged.receive(value[:200_000]) == 200_000
    scene.die()
    scene.turn()
    for number in range(20):
        finish(scene.witness.store.write(0, b"n%d" % number, filler(PAGE_BYTES, 100 + number)))
    staged.receive(value[200_000:])
    assert staged.is_complete
    assert finish(store.write(0, b"key", staged)).status == Status.OK
    assert payload(scene.witness.store, b"key") == value
    scene.empty()


@pytest.mark.parametrize("steps", range(1, 6))
def test_pages_that_are_claimed_while_the_table_is_looked_at_are_in_no_doubt(steps: int) -> None:
    """Claimed for a large value that is being received, and not held yet: they look like what the dead left."""
    scene = Scene()
    store = scene.adopter.store
    value = filler(4 * PAGE_BYTES, 2)
    staged = StagedValue(store.staging, len(value), 3)

    async def receive(_store: Store) -> int:
        return staged.receive(value[:200_000])

    scene.adopter.begin(receive)
    for _ in range(steps):
        if not scene.adopter.perform() and scene.adopter.go_on():
            break
    scene.die()
    scene.turn((store,), 3)  # the table: now it waits for the others, and for itself
    assert scene.adopter.end() == 200_000
    scene.turn()
    assert scene.counts("freed_pages") == 0
    for number in range(20):
        finish(scene.witness.store.write(0, b"n%d" % number, filler(PAGE_BYTES, 100 + number)))
    staged.receive(value[200_000:])
    assert finish(store.write(0, b"key", staged)).status == Status.OK
    assert payload(scene.witness.store, b"key") == value
    staged.published()
    scene.empty()


def test_who_unlinked_a_value_of_the_dead_frees_it_and_nobody_else_does() -> None:
    """A witness has taken it out of its slot and not freed it yet; until it has, the adopter frees nothing."""
    scene = Scene()
    keys = [b"k%02d" % number for number in range(10)]
    for number, key in enumerate(keys):
        finish(scene.doomed.store.write(0, key, filler(SMALL, number)))
    assert finish(scene.witness.store.delete(0, keys[:5])) == 5
    scene.die()
    scene.turn((scene.adopter.store, scene.keeper))
    assert scene.counts("freed_cells") == 0
    # Many new values of the class, in the page that was adopted.
    new = [b"n%02d" % number for number in range(50)]
    for number, key in enumerate(new):
        finish(scene.adopter.store.write(0, key, filler(SMALL, 100 + number)))
    scene.turn()
    scene.witness.store.release_spares()
    scene.turn()
    more = [b"m%02d" % number for number in range(50)]
    for number, key in enumerate(more):
        finish(scene.adopter.store.write(0, key, filler(SMALL, 200 + number)))
    for base, names in ((0, keys), (100, new), (200, more)):
        for number, key in enumerate(names):
            expected = None if base == 0 and number < 5 else filler(SMALL, base + number)
            assert payload(scene.witness.store, key) == expected, key
    scene.empty()


def test_who_unlinked_a_value_that_somebody_reads_lets_nobody_else_free_it() -> None:
    """The reader begins after the first ticket, and is done before whoever unlinked the value looks again."""
    scene = Scene()
    adopter, witness, reader = scene.adopter.store, scene.witness.store, scene.keeper
    finish(scene.doomed.store.write(0, b"key", filler(3 * PAGE_BYTES, 1)))
    scene.die()
    scene.turn((adopter,), 3)  # the table: now it waits for the others
    scene.turn((witness, reader), 3)
    pin = reader.pin(0, b"key")
    assert pin is not None
    assert finish(witness.delete(0, [b"key"])) == 1
    scene.turn((adopter,), 3)  # the index, which names the value no more
    scene.turn((witness,), 3)  # it must not let the second ticket pass: it has the value still to free
    assert pin.tobytes() == filler(3 * PAGE_BYTES, 1)
    pin.release()
    scene.turn((reader, adopter), 3)
    assert scene.counts("freed_pages") == 0
    scene.turn()
    assert scene.counts("freed_pages") == 0
    assert scene.adopter.store.memory()["pages_payload"] == 0
    scene.empty()


def test_a_cell_that_others_freed_before_the_end_is_freed_once() -> None:
    """Removed behind the first ticket, and freed, as a bit of its page, behind the adopter's last look at such bits."""
    scene = Scene()
    keys = [b"k%02d" % number for number in range(10)]
    for number, key in enumerate(keys):
        finish(scene.doomed.store.write(0, key, filler(SMALL, number)))
    scene.die()
    scene.turn((scene.adopter.store,), 3)  # the table: now it waits for the others
    scene.turn((scene.witness.store, scene.keeper), 3)
    assert finish(scene.witness.store.delete(0, keys[:5])) == 5
    scene.turn((scene.adopter.store,), 3)  # the index: now it waits again
    assert scene.counts("freed_cells") == 0
    scene.turn((scene.witness.store, scene.keeper), 3)
    scene.turn((scene.adopter.store,), 3)
    assert scene.counts("freed_cells") == CELLS - len(keys)
    scene.empty()


def test_what_a_client_is_being_sent_stays_though_its_owner_is_dead() -> None:
    """Removed by the one that died, pinned by another: no slot names it, and a reader does."""
    scene = Scene()
    value = filler(3 * PAGE_BYTES, 1)
    finish(scene.doomed.store.write(0, b"key", value))
    pin = scene.witness.store.pin(0, b"key")
    assert pin is not None
    assert finish(scene.doomed.store.delete(0, [b"key"])) == 1
    scene.doomed.store.release_spares()
    scene.die()
    scene.turn()
    assert scene.counts("freed_pages") == 0
    for number in range(40):
        finish(scene.adopter.store.write(0, b"n%d" % number, filler(PAGE_BYTES, 100 + number)))
    assert pin.tobytes() == value
    pin.release()
    scene.turn()
    assert scene.counts("freed_pages") == 3
    scene.empty()


def test_a_cell_that_was_freed_and_taken_again_meanwhile_is_in_no_doubt() -> None:
    """In doubt when the table was looked at, free when it was removed, and somebody's again when the sweep ends."""
    scene = Scene()
    store = scene.adopter.store
    finish(store.write(0, b"first", filler(SMALL, 1)))
    finish(scene.doomed.store.write(0, b"old", filler(SMALL, 2)))
    scene.die()
    finish(store.delete(0, [b"second"]))
    scene.turn((store,))  # the table: now it waits for the witness
    finish(store.delete(0, [b"first"]))
    store.release_spares()
    scene.turn((scene.witness.store, scene.keeper), 3)
    scene.turn((store,), 3)  # the index: now it waits again
    written = [b"n%d" % number for number in range(8)]
    for number, key in enumerate(written):
        finish(store.write(0, key, filler(SMALL, 10 + number)))
    scene.turn()
    more = [b"m%d" % number for number in range(8)]
    for number, key in enumerate(more):
        finish(store.write(0, key, filler(SMALL, 30 + number)))
    for base, names in ((10, written), (30, more)):
        for number, key in enumerate(names):
            assert payload(scene.witness.store, key) == filler(SMALL, base + number), key
    scene.empty()


def test_a_reservation_of_the_living_stays_reserved() -> None:
    """Begun after the first grace period, so nothing waits for it."""
    scene = Scene()
    finish(scene.doomed.store.write(0, b"old", filler(SMALL, 2)))
    scene.die()
    scene.turn((scene.adopter.store,), 3)  # waits for the others
    scene.turn((scene.witness.store, scene.keeper), 3)
    mid_write(scene.witness, b"key", filler(SMALL, 3), scene.pool, scene)
    scene.turn((scene.adopter.store, scene.keeper))
    assert scene.counts("freed_reservations") == 0
    assert RESERVED in states(scene.keeper)
    assert scene.witness.end().status == Status.OK
    assert payload(scene.adopter.store, b"key") == filler(SMALL, 3)


def test_pages_of_the_living_stay_theirs() -> None:
    scene = Scene()
    for number in range(8):
        finish(scene.witness.store.write(0, b"w%d" % number, filler(20_000 + number * 3000, number)))
    scene.die()
    scene.turn()
    assert scene.counts("adopted_pages") == 0
    scene.empty()


@pytest.mark.parametrize("length", [SMALL, 3 * PAGE_BYTES])
def test_a_page_of_the_dead_has_one_heir(length: int) -> None:
    """Two adopters have read the same page words; one claims them between the other's look and its CAS."""
    scene = Scene()
    words = scene.pool.layout()["page_words"]
    keys = [b"k%d" % number for number in range(6)]
    for number, key in enumerate(keys):
        finish(scene.doomed.store.write(0, key, filler(length, number)))
    used = scene.pages_used()
    scene.die()
    rung = 0

    def interfere(operations: list[tuple[str, int, int]]) -> None:
        nonlocal rung
        if operations[0][0] == "CAS" and words <= operations[0][1] < words + 60 * 8 and rung == 0:
            rung += 1
            scene.turn((scene.witness.store,), 3)

    scene.adopter.fabric.before_round = interfere
    scene.turn((scene.adopter.store,), 3)
    scene.adopter.fabric.before_round = None
    assert rung == 1
    assert scene.counts("adopted_pages") == used
    scene.turn()
    for number in range(20):
        finish(scene.witness.store.write(0, b"w%d" % number, filler(SMALL, 100 + number)))
        finish(scene.adopter.store.write(0, b"a%d" % number, filler(SMALL, 200 + number)))
    for base, name, count in ((0, b"k%d", 6), (100, b"w%d", 20), (200, b"a%d", 20)):
        for number in range(count):
            assert payload(scene.keeper, name % number) == filler(length if base == 0 else SMALL, base + number), name % number
    scene.empty()


def test_whoever_has_the_number_next_is_somebody_else() -> None:
    """The dead one's row is taken again before anybody has adopted anything: its pages are still the dead one's."""
    scene = Scene()
    for number in range(8):
        finish(scene.doomed.store.write(0, b"k%d" % number, filler(PAGE_BYTES, number)))
    mid_write(scene.doomed, b"unfinished", filler(3 * PAGE_BYTES, 99), scene.pool, scene)
    before = scene.pool.life_of(1)[0]
    scene.die()
    scene.locks.dead.clear()
    successor = SlowStore(scene.keeper, 1, seed=9)
    successor.store.cluster.nodes[0].share(scene.locks, alone=False)
    assert scene.pool.life_of(1)[1]
    assert scene.pool.life_of(1)[0] != before
    finish(successor.store.write(0, b"new", filler(PAGE_BYTES, 50)))
    scene.turn((scene.adopter.store, scene.witness.store, scene.keeper, successor.store))
    assert RESERVED not in states(scene.keeper)
    assert states(scene.keeper).count(LIVE) == 9
    assert states(scene.keeper).count(FREE) == len(states(scene.keeper)) - 9
    for number in range(8):
        assert payload(successor.store, b"k%d" % number) == filler(PAGE_BYTES, number)
    assert payload(scene.adopter.store, b"new") == filler(PAGE_BYTES, 50)
    finish(scene.adopter.store.delete(0, finish(scene.adopter.store.scan(0, 0, 1000))[1]))
    for _ in range(3):
        scene.turn((scene.adopter.store, scene.witness.store, scene.keeper, successor.store), 5)
        for store in (scene.adopter.store, scene.witness.store, scene.keeper, successor.store):
            store.release_spares()
    assert scene.pages_named() == scene.pages_used() == 0


@pytest.mark.parametrize("error", [5, -3])
def test_a_count_of_pages_that_somebody_died_over_is_put_right(error: int) -> None:
    scene = Scene()
    finish(scene.adopter.store.write(0, b"key", filler(4 * PAGE_BYTES, 1)))
    place = scene.pool.layout()["globals"]
    scene.die()
    scene.pool.write(place, (scene.pages_used() + error).to_bytes(8, "little"))
    scene.turn()
    assert scene.pages_used() == scene.pages_named()
    assert scene.counts("corrected_pages") == abs(error)
    scene.empty()


def test_an_overflow_word_that_the_dead_raised_falls_again() -> None:
    scene = Scene(index_entries=14)
    keys = [b"k%d" % number for number in range(9)]
    for key in keys:
        finish(scene.adopter.store.write(0, key, b"v"))
    layout = scene.pool.layout()
    for home in range(2):
        word = int.from_bytes(scene.pool.read(layout["sets"] + home * 128, 8), "little")
        scene.pool.write(layout["sets"] + home * 128, (word + (1 << 4) | 1).to_bytes(8, "little"))
    scene.die()
    scene.turn()
    assert scene.counts("lowered_overflows") == 2
    assert all(finish(scene.witness.store.exists(0, keys)))
    scene.empty()


@pytest.mark.parametrize("turns", range(12))
def test_keys_of_a_batch_under_way_are_counted_once(turns: int) -> None:
    """A recount sees keys that their front end has written and not said so yet: it must not add them."""
    scene = Scene()
    scene.die()
    scene.turn(turns=turns)
    keys = [b"k%d" % number for number in range(9)]
    scene.witness.begin(lambda store: store.write_many(0, [(key, b"v") for key in keys]))
    while states(scene.keeper).count(LIVE) < len(keys):
        if not scene.witness.perform():
            assert not scene.witness.go_on()
    scene.turn((scene.adopter.store, scene.keeper))
    scene.witness.end()
    for _ in range(2):
        for store in (scene.adopter.store, scene.witness.store, scene.keeper):
            assert store.database_size(0).keys == len(keys)
        scene.turn()
