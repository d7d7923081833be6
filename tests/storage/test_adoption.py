"""What a dead front end held comes back into use while others live; what a living one holds is left alone."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from storage.fabric import waiting
from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition, Status
from storage.opening import OpenedPool, open_pool
from storage.pool import Pool
from storage.recovery import recover
from storage.staging import StagedValue
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, finish, make_pool, pages_used

PAGED = bytes(3 * PAGE_BYTES + 40_000)
GLOBAL_PAGES_USED, GLOBAL_TICKET, GLOBAL_DEATHS = 0, 16, 24


class Proofs:
    """Stands for the locks: whom the test calls dead is proven to be."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self.held: set[int] = set()

    def prove_dead(self, number: int, incarnation: int) -> bool:
        assert number not in self.held
        if number in self.dead:
            self.held.add(number)
        return number in self.dead

    def release(self, number: int) -> None:
        self.held.remove(number)


class Service:
    """Front ends on one pool, each with a store, and a clock that only the test moves."""

    def __init__(self, kind: str, front_ends: int = 2, **options: Any) -> None:
        self.kind = kind
        self.proofs = Proofs()
        self.pool = make_pool(kind, **options)
        self.stores = [self.store(self.pool, alone=True)]
        for number in range(1, front_ends):
            self.enter(number)

    def enter(self, number: int) -> Store:
        """One more front end."""
        fabric = self.pool.fabric.share(number + 1) if isinstance(self.pool.fabric, SimulatedFabric) else self.pool.fabric
        self.stores.append(self.store(Pool.attach(fabric, number), alone=False))
        return self.stores[-1]

    def store(self, pool: Pool, *, alone: bool) -> Store:
        store = Store(pool, "noeviction")
        store.set_clock(NOW_MS)
        store.cluster.nodes[0].share(self.proofs, alone=alone)
        return store

    def kill(self, store: Store) -> None:
        """It never does anything again."""
        self.stores.remove(store)
        self.proofs.dead.add(store.pool.front_end)
        if isinstance(store.pool.fabric, SimulatedFabric):
            store.pool.fabric.lose()

    def settle(self, *stores: Store) -> None:
        """Let time pass: the background work of those that live, until nobody has anything left to do."""
        for _ in range(40):
            for store in stores or tuple(self.stores):
                store.cluster.nodes[0].adoption.look_for_dead()
                store.maintain(1000.0)

    def slot_states(self) -> dict[int, int]:
        layout = self.pool.layout()
        states = {0: 0, 1: 0, 2: 0}
        for number in range(layout["set_count"]):
            block = self.pool.read(layout["sets"] + number * 128, 128)
            for word in struct.unpack("<16Q", block)[2::2]:
                states[word & 3] += 1
        return states

    def overflow_words(self) -> int:
        """How many homes say that entries live away from them."""
        layout = self.pool.layout()
        words = [struct.unpack("<I", self.pool.read(layout["sets"] + number * 128, 4))[0] for number in range(layout["set_count"])]
        return sum(word != 0 for word in words)

    def facts(self, store: Store) -> dict[str, int]:
        return store.cluster.nodes[0].adoption.facts()


def write(store: Store, key: bytes, value: bytes = PAGED, **options: Any) -> None:
    assert finish(store.write(0, key, value, **options)).status == Status.OK


def read(store: Store, key: bytes) -> bytes | None:
    entry = finish(store.read(0, key))
    return None if entry is None else bytes(entry.payload)


both_fabrics = pytest.mark.parametrize("kind", ["shm", "sim"])


@both_fabrics
def test_values_of_a_dead_front_end_stay_and_their_memory_comes_back(kind: str) -> None:
    service = Service(kind, pages=120)
    one, two = service.stores
    for number in range(20):
        write(two, b"large%d" % number)
        write(two, b"small%d" % number, bytes(100))
    used = pages_used(one)
    service.kill(two)
    service.settle()
    assert one.pool.life_of(1)[1] is False
    assert service.facts(one)["adopted_pages"] == used
    assert pages_used(one) == used
    assert [read(one, b"large%d" % number) for number in range(20)] == [PAGED] * 20
    assert one.database_size(0).keys == 40
    assert finish(one.delete(0, [b"%s%d" % (kind, number) for kind in (b"large", b"small") for number in range(20)])) == 40
    service.settle()
    assert one.database_size(0).keys == 0
    # A page of cells for each class may be kept.
    assert pages_used(one) <= 3


STEPS = {
    "insert": lambda store: store.write(0, b"new", PAGED),
    "insert of NX": lambda store: store.write(0, b"new", PAGED, condition=Condition.NX),
    "insert of a small one": lambda store: store.write(0, b"new", b"value"),
    "overwrite": lambda store: store.write(0, b"old", PAGED),
    "expiry that keeps the pages": lambda store: expire(store),
    "delete": lambda store: store.delete(0, [b"old"]),
    "read": lambda store: store.read(0, b"old"),
}


async def expire(store: Store) -> None:
    entry = await store.read(0, b"old", payload=False)
    assert entry is not None
    await store.replace(0, b"old", entry.token, None, expire_at_ms=NOW_MS + 60_000)


@pytest.mark.parametrize("name", STEPS)
def test_a_death_after_any_operation_leaves_nothing_behind(name: str) -> None:
    deaths = 0
    for operations in range(200):
        service = Service("sim", 3, pages=40)
        one, two, _three = service.stores
        write(two, b"old", PAGED)
        fabric = two.pool.fabric
        assert isinstance(fabric, SimulatedFabric)
        fabric.suspends = True
        ended: list[object] = []
        waiting.run(lambda two=two, ended=ended: ended.append(finish(STEPS[name](two))))
        for _ in range(operations):
            if ended or not fabric.advance():
                break
            waiting.resume_ready()
        over = bool(ended)
        service.kill(two)
        waiting.resume_ready()
        service.settle()
        deaths += 1
        states = service.slot_states()
        assert states[1] == 0, operations
        assert service.overflow_words() == 0
        held = [key for key in (b"old", b"new") if read(one, key) is not None]
        assert states[2] == len(held) == one.database_size(0).keys, operations
        assert finish(one.delete(0, held)) == len(held)
        service.settle()
        assert pages_used(one) == struct.unpack("<Q", one.pool.read(one.pool.layout()["globals"], 8))[0]
        # Of what is kept for the next value each of two front ends may have a page of two classes.
        assert one.cluster.nodes[0].adoption.pages_in_use()["payload_pages"] == 0, operations
        assert pages_used(one) <= 4, operations
        assert one.database_size(0).keys == 0
        if over:
            break
    assert deaths > 3


def test_nobody_is_adopted_without_proof() -> None:
    service = Service("shm")
    one, two = service.stores
    write(two, b"key")
    service.settle(one)
    assert one.pool.life_of(1)[1] is True
    assert service.facts(one)["adopted_pages"] == 0


def test_a_large_value_that_is_being_received_is_left_alone() -> None:
    service = Service("shm", 3)
    one, two, three = service.stores
    staged = stage(one, PAGED)
    used = pages_used(one)
    service.kill(three)
    service.settle()
    assert service.facts(one)["sweeps"] >= 1
    assert pages_used(one) == used
    assert finish(one.write(0, b"key", staged)).status == Status.OK
    staged.published()
    assert read(two, b"key") == PAGED


def test_a_large_value_that_was_being_received_by_the_dead_comes_back() -> None:
    service = Service("shm")
    one, two = service.stores
    staged = stage(two, PAGED)
    assert pages_used(one) >= 3
    service.kill(two)
    service.settle()
    assert pages_used(one) == 0
    assert service.facts(one)["freed_pages"] >= 3
    del staged


def stage(store: Store, value: bytes) -> StagedValue:
    """Receive a large value, and do not publish it."""
    staged = StagedValue(store.staging, len(value), 3)
    position = 0
    while position < len(value):
        position += staged.receive(value[position:])
    return staged


def test_what_a_reader_still_sends_is_freed_only_after_it() -> None:
    service = Service("shm", 3)
    one, two, three = service.stores
    write(two, b"key")
    used = pages_used(one)
    pinned = three.pin(0, b"key")
    assert pinned is not None
    assert finish(two.delete(0, [b"key"])) == 1  # retired there, and not freed: the reader holds it
    service.kill(two)
    service.settle()
    assert pages_used(one) == used
    assert pinned.tobytes() == PAGED
    pinned.release()
    service.settle()
    assert pages_used(one) == 0


def test_what_a_living_front_end_has_unlinked_is_freed_once() -> None:
    service = Service("shm", 3)
    one, two, three = service.stores
    write(two, b"key")
    pinned = three.pin(0, b"key")
    assert pinned is not None
    assert finish(one.delete(0, [b"key"])) == 1  # in pages of two, retired by one
    service.kill(two)
    service.settle()
    write(one, b"other", bytes(len(PAGED)))
    pinned.release()
    service.settle()
    assert read(one, b"other") == bytes(len(PAGED))
    assert one.cluster.nodes[0].adoption.pages_in_use()["payload_pages"] == 4


def test_a_front_end_that_is_stopped_holds_up_what_it_may_still_touch() -> None:
    service = Service("shm", 3)
    one, two, three = service.stores
    staged = stage(two, PAGED)
    service.kill(two)
    service.settle(one)
    used = pages_used(one)
    assert used >= 3, "three has not let the grace period pass"
    service.settle(one, three)
    assert pages_used(one) == 0
    del staged


def test_an_adopter_that_dies_is_adopted_with_all_it_had() -> None:
    service = Service("shm", 3)
    one, two, three = service.stores
    write(three, b"key")
    staged = stage(three, PAGED)
    service.kill(three)
    for _ in range(3):
        two.cluster.nodes[0].adoption.look_for_dead()
        two.maintain(1000.0)
    assert service.facts(two)["adopted_pages"] > 0
    service.kill(two)
    service.settle()
    assert read(one, b"key") == PAGED
    assert one.cluster.nodes[0].adoption.pages_in_use()["payload_pages"] == 4
    del staged


def test_a_newcomer_takes_the_number_and_not_what_was_held_under_it() -> None:
    service = Service("shm", 2)
    one, two = service.stores
    write(two, b"key")
    staged = stage(two, PAGED)
    before = two.pool.incarnation
    service.kill(two)
    service.proofs.dead.clear()  # its lock is somebody else's now
    newcomer = service.enter(1)
    assert newcomer.pool.incarnation == before + 1
    assert newcomer.database_size(0).keys == 1
    service.settle()
    assert one.pool.life_of(1) == (newcomer.pool.incarnation, True)
    assert one.cluster.nodes[0].adoption.pages_in_use()["payload_pages"] == 4
    assert read(newcomer, b"key") == PAGED
    del staged


def test_pages_that_were_counted_and_never_claimed_are_put_right() -> None:
    service = Service("shm")
    one, two = service.stores
    write(one, b"key")
    used = pages_used(one)
    where = one.pool.layout()["globals"] + GLOBAL_PAGES_USED
    one.pool.write(where, struct.pack("<Q", used + 7))
    service.kill(two)
    service.settle()
    assert struct.unpack("<Q", one.pool.read(where, 8))[0] == used
    assert service.facts(one)["corrected_pages"] == 7


def test_keys_that_the_dead_changed_and_did_not_count_are_counted_again() -> None:
    service = Service("shm", 3)
    one, two, three = service.stores
    for number in range(10):
        write(two, b"key%d" % number, b"value", expire_at_ms=NOW_MS + 60_000 if number < 4 else -1)
    row = one.pool.layout()["counts"] + 256 * 32
    two.maintain(1.0)
    one.pool.write(row + 8, struct.pack("<qq", 7, 9))
    service.kill(two)
    service.settle()
    for store in (one, three):
        assert (store.database_size(0).keys, store.database_size(0).expires) == (10, 4)
    assert finish(three.delete(0, [b"key1", b"key9"])) == 2
    assert (one.database_size(0).keys, one.database_size(0).expires) == (8, 3)
    finish(one.flush(0))
    service.settle()
    assert [store.database_size(0).keys for store in (one, three)] == [0, 0]


def test_counts_are_the_same_whoever_is_asked() -> None:
    service = Service("shm", 3)
    one, two, three = service.stores
    for store in service.stores:
        store.maintain(1.0)
    write(one, b"a", b"value")
    write(two, b"b", b"value", expire_at_ms=NOW_MS + 1000)
    assert [store.database_size(0).keys for store in service.stores] == [2, 2, 2]
    assert finish(three.delete(0, [b"a"])) == 1
    assert [(store.database_size(0).keys, store.database_size(0).expires) for store in service.stores] == [(1, 1)] * 3
    finish(two.flush(0))
    write(two, b"c", b"value")
    one.maintain(1.0)
    assert [store.database_size(0).keys for store in service.stores] == [1, 1, 1]


def test_an_overflow_word_that_counts_nobody_falls() -> None:
    service = Service("shm")
    one, two = service.stores
    home = one.pool.layout()["sets"] + 5 * 128
    one.pool.write(home, struct.pack("<Q", 1 << 32 | 2 << 4 | 3))
    service.kill(two)
    service.settle()
    assert service.overflow_words() == 0
    assert service.facts(one)["lowered_overflows"] == 1


def test_a_change_that_died_half_way_is_settled() -> None:
    service = Service("sim")
    one, two = service.stores
    counters = one.pool.layout()["counters"]
    one.pool.write(counters + 40, struct.pack("<Q", 5 << 32 | 7))
    service.kill(two)
    service.settle()
    assert struct.unpack("<Q", one.pool.read(counters + 40, 8))[0] == 7 << 32 | 7


def test_the_flushed_entries_of_the_dead_are_swept() -> None:
    service = Service("shm", pages=160)
    one, two = service.stores
    for number in range(30):
        write(two, b"key%d" % number)
    service.kill(two)
    finish(one.flush(0))
    service.settle()
    assert service.slot_states()[2] == 0
    assert one.cluster.nodes[0].adoption.pages_in_use()["payload_pages"] == 0


def test_expired_entries_of_the_dead_are_swept() -> None:
    service = Service("shm", pages=160)
    one, two = service.stores
    for number in range(30):
        write(two, b"key%d" % number, expire_at_ms=NOW_MS + 100)
    service.kill(two)
    service.settle()
    one.set_clock(NOW_MS + 200)
    service.settle()
    assert service.slot_states()[2] == 0


def test_rows_above_the_last_front_end_are_not_looked_at_any_more() -> None:
    service = Service("shm", 5)
    one, *others = service.stores
    for store in others[1:]:
        service.kill(store)
    service.settle()
    high_water = one.pool.layout()["globals"] + 8
    assert struct.unpack("<I", one.pool.read(high_water, 4))[0] == 2
    service.proofs.dead.clear()
    service.enter(4)
    assert struct.unpack("<I", one.pool.read(high_water, 4))[0] == 5


def test_what_was_recovered_is_counted_for_the_others_before_anything_changes(tmp_path: Path) -> None:
    where = f"file:{tmp_path / 'pool'}"

    def opened() -> tuple[OpenedPool, Store]:
        pool = open_pool(where, pool_size_bytes=8 << 20, index_entries=700, log=lambda *_, **__: None)
        store = Store(pool.pool, "noeviction")
        if pool.recovered:
            recover(store)
        store.cluster.nodes[0].share(pool.locks, alone=pool.alone)
        store.publish_counts()
        pool.ready()
        return pool, store

    first, store = opened()
    for number in range(5):
        write(store, b"key%d" % number, b"value")
    first.close()
    pools = [opened() for _ in range(3)]
    for _ in range(60):
        for _pool, store in pools:
            store.maintain(1000.0)
    write(pools[2][1], b"one more", b"value")
    assert [store.database_size(0).keys for _pool, store in pools] == [6, 6, 6]
    for pool, _store in pools:
        pool.close()
