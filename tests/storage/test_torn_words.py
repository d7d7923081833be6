"""A slot word that was read half before and half after a change is nobody's: neither another key, nor a miss."""

from __future__ import annotations

from storage.fabric import waiting
from storage.fabric.sim import SimulatedFabric
from storage.interface import Entry
from storage.pool import Pool
from storage.store import Store
from tests.storage.pools import NOW_MS, filler, finish, make_pool


def front_ends() -> tuple[Store, Store]:
    """Return two on one pool of one set."""
    pool = make_pool("sim", index_entries=7)
    assert isinstance(pool.fabric, SimulatedFabric)
    stores = [Store(Pool.attach(pool.fabric.share(number + 2), number), "noeviction") for number in range(2)]
    for store in stores:
        store.set_clock(NOW_MS)
    return stores[0], stores[1]


def fabric_of(store: Store) -> SimulatedFabric:
    assert isinstance(store.pool.fabric, SimulatedFabric)
    return store.pool.fabric


def perform(fabric: SimulatedFabric, count: int = 1_000, kind: str | None = None) -> None:
    """Perform operations, up to one of this kind (not with it)."""
    for _ in range(count):
        choices = fabric.choices()
        if not choices or choices[0][1] == kind:
            return
        fabric.perform(choices[0][0])
        waiting.resume_ready()


def perform_piece(fabric: SimulatedFabric, offset: int) -> None:
    """Perform the piece that begins there."""
    fabric.perform(next(identity for identity, _, begin, *_ in fabric.choices() if begin == offset))
    waiting.resume_ready()


def test_a_reader_of_a_torn_slot_looks_again() -> None:
    reader, writer = front_ends()
    for name in (b"a", b"b", b"c", b"key"):
        finish(writer.write(0, name, b"old"))
    fabric = fabric_of(reader)
    upper_half = reader.pool.layout()["sets"] + 16 + 3 * 16 + 4
    fabric.cuts = [upper_half, upper_half + 4]
    fabric.suspends = True
    found: list[Entry | None] = []
    waiting.run(lambda: found.append(finish(reader.read(0, b"key"))))
    perform_piece(fabric, upper_half)
    finish(writer.write(0, b"key", filler(30_000, 1)))  # two such cells fit a page; the old one was the fourth
    perform(fabric)
    assert found[0] is not None, "the key was there all the time"
    assert found[0].payload == filler(30_000, 1)


def test_a_torn_slot_is_not_another_key() -> None:
    slow, other = front_ends()
    answers: list[object] = []
    value = filler(700, 1)
    for store in (other, slow):
        finish(store.write(0, b"warm", value))  # each has a page of such cells now
        finish(store.delete(0, [b"warm"]))
        fabric_of(store).suspends = True
    waiting.run(lambda: answers.append(finish(other.write(0, b"key", value))))
    perform(fabric_of(other), kind="CAS")
    perform(fabric_of(other), 1)  # of slot 0 the first word: nobody knows yet what it is reserved for
    fabric = fabric_of(slow)
    upper_half = slow.pool.layout()["sets"] + 16 + 4
    fabric.cuts = [upper_half, upper_half + 4]
    waiting.run(lambda: answers.append(finish(slow.write(0, b"key", value))))
    perform(fabric, kind="CAS")
    perform(fabric_of(other), 2)  # the second word, and the sets: it is about to publish
    perform(fabric, 2)  # both words of slot 1: what is left is its look at the set
    perform_piece(fabric, upper_half)
    perform(fabric_of(other))
    perform(fabric)
    for store in (other, slow):
        fabric_of(store).suspends = False
    assert len(answers) == 2
    assert finish(other.scan(0, 0, 100))[1] == [b"key"]
    assert finish(other.delete(0, [b"key"])) == 1
    assert finish(other.exists(0, [b"key"])) == [False], "a twin was left"
