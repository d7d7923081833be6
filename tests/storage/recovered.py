"""Pools as a process leaves them that is killed: random changes, what they make of a model, and the store that takes the pool up."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from storage.cells import cell_sizes  # type: ignore[attr-defined,unused-ignore]
from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition, Status
from storage.pool import Pool
from storage.recovery import RecoveryReport, recover
from storage.store import Store

PAGE_BYTES = 65536
MAX_CELL_BYTES = 32704
FAR_MS = 4_000_000_000_000
Answer = TypeVar("Answer")
Model = dict[tuple[int, bytes], bytes]


def done(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a store's coroutine, which on shared memory and sim never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as answer:
        return answer.value  # type: ignore[no-any-return]
    raise AssertionError("the store suspended")


# --------------------------------------------------------------- operations


@dataclass(frozen=True)
class Operation:
    """One change; what it makes of a model is known without the store."""

    kind: str
    database: int
    key: bytes
    value: bytes

    def expected(self, model: Model) -> Model:
        """Return the model after this operation."""
        place = (self.database, self.key)
        after = dict(model)
        if self.kind in ("set", "expiring"):
            after[place] = self.value
        elif self.kind == "append":
            after[place] = after.get(place, b"") + self.value
        elif self.kind == "delete":
            after.pop(place, None)
        elif self.kind == "flush":
            after = {(number, key): value for (number, key), value in model.items() if number != self.database}
        else:
            assert self.kind == "expire"  # the value stays
        return after

    def perform(self, store: Store) -> None:
        """Do it; raise unless the store accepts it."""
        if self.kind == "set":
            assert done(store.write(self.database, self.key, self.value)).status is Status.OK
        elif self.kind == "expiring":
            assert done(store.write(self.database, self.key, self.value, expire_at_ms=FAR_MS)).status is Status.OK
        elif self.kind == "delete":
            done(store.delete(self.database, [self.key]))
        elif self.kind == "flush":
            done(store.flush(self.database))
        else:
            entry = done(store.read(self.database, self.key))
            if entry is None:
                if self.kind == "append":
                    assert done(store.write(self.database, self.key, self.value, condition=Condition.NX)).status is Status.OK
                return
            value = entry.payload + self.value if self.kind == "append" else None
            assert done(store.replace(self.database, self.key, entry.token, value, expire_at_ms=FAR_MS)) is Status.OK


def key_of(name: int) -> bytes:
    """One of the keys of ``operations``; every fifth is longer than what recovery reads of a cell at first."""
    return b"key:%d" % name if name % 5 else b"key:%d:" % name + b"long" * (60 + name)


def operations(seed: int, *, keys: int, longest_bytes: int) -> Iterator[Operation]:
    """Endless random changes: the same for the process that is killed and for its judge."""
    generator = random.Random(seed)
    number = 0
    while True:
        number += 1
        kind = generator.choices(("set", "expiring", "append", "delete", "expire", "flush"), (40, 10, 15, 20, 14, 1))[0]
        # Databases 0 and 1; the second is the one that is flushed.
        database = 1 if kind == "flush" else generator.choices((0, 1), (3, 1))[0]
        name = generator.randrange(keys)
        key = key_of(name)
        length = generator.choice((0, 5, 64, 700, 5000, 33_000, 70_000, longest_bytes))
        if kind == "append":
            length = min(length, 500)
        filling = b"%d.%d;" % (seed, number)
        value = (filling * (length // len(filling) + 1))[:length]
        yield Operation(kind, database, key, value)


def payload_pages(key: bytes, value: bytes) -> int:
    """How many whole pages a value of the model takes."""
    if 24 + len(key) + len(value) <= MAX_CELL_BYTES - 16:
        return 0
    whole, rest = divmod(len(value), PAGE_BYTES)
    return whole + (1 if rest and 40 + len(key) + whole * 4 + rest > MAX_CELL_BYTES else 0)


def contents(store: Store) -> Model:
    """Everything that the store holds, found by walking the index and then read by key."""
    found: Model = {}
    for database in (0, 1):
        cursor = 0
        while True:
            cursor, keys = done(store.scan(database, cursor, 1000))
            for key in keys:
                entry = done(store.read(database, key))
                assert entry is not None, key
                found[database, key] = entry.payload
            if cursor == 0:
                break
        assert store.database_size(database).keys == sum(1 for number, _ in found if number == database)
    return found


def slots_in_use(pool: Pool) -> int:
    """How many slots are not FREE, as the index itself says."""
    layout = pool.layout()
    sets = pool.read(layout["sets"], layout["set_count"] * 128)
    return sum(sets[number * 128 + 16 + slot * 16] & 3 != 0 for number in range(layout["set_count"]) for slot in range(7))


def assert_books(store: Store, report: RecoveryReport, found: Model) -> None:
    """Counts, slots and pages are those of what is there: nothing leaked."""
    memory = store.memory()
    assert slots_in_use(store.pool) == len(found)
    assert report.keys == len(found)
    assert report.broken == 0
    assert memory["pages_used"] == report.cell_pages + report.payload_pages
    assert memory["pages_payload"] == sum(payload_pages(key, value) for (_, key), value in found.items())


def assert_empties(store: Store, found: Model) -> None:
    """Deleting everything gives every page back, and the store works after that."""
    for database, key in found:
        assert done(store.delete(database, [key])) == 1
    store.release_spares()
    assert store.memory()["pages_used"] == 0
    for number in range(3):
        assert done(store.write(0, b"new:%d" % number, b"x" * 70_000)).status is Status.OK
    entry = done(store.read(0, b"new:2"))
    assert entry is not None
    assert entry.payload == b"x" * 70_000


def reopened(image: bytes, seed: int = 1) -> tuple[Store, RecoveryReport]:
    """Take the pool up as the next process does."""
    fabric = SimulatedFabric(len(image), seed)
    fabric.poke(0, image)
    store = Store(Pool.attach(fabric), "noeviction")
    return store, recover(store)


def cell_pages(pool: Pool) -> list[int]:
    """Pages whose word says that they hold cells."""
    layout = pool.layout()
    return [
        page
        for page in range(layout["page_count"])
        if int.from_bytes(pool.read(layout["page_words"] + page * 8, 8), "little") & 7 == 1
    ]


def cell_bytes(number: int) -> int:
    """Size of the cells of a class."""
    return int(cell_sizes()[number])
