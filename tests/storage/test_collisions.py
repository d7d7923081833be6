"""What a cell says of itself decides: keys with one 48-bit tag (found by search, for the secret of zeros), and damaged cells."""

from __future__ import annotations

import itertools

import pytest

from storage.fabric.sim import SimulatedFabric
from storage.interface import Status
from tests.storage.pools import every_fabric, finish, make_store, sweep

LONG = b"26308066-".ljust(200, b"k")
PAIRS = [(b"16843277", b"45064649"), (LONG, b"47145633"), (b"34811897", b"40974728-".ljust(200, b"k"))]
ORDERED = [pair for one in PAIRS for pair in itertools.permutations(one)]

# One set: every key has the same home.
colliding = pytest.mark.parametrize(("first", "second"), ORDERED)


@every_fabric
@colliding
def test_both_keys_live_side_by_side(kind: str, first: bytes, second: bytes) -> None:
    store = make_store(kind, index_entries=7)
    assert finish(store.write(0, first, b"one")).status == Status.OK
    assert finish(store.write(0, second, b"two")).status == Status.OK
    assert store.database_size(0).keys == 2
    for _ in range(2):
        entries = finish(store.read_many(0, [first, second]))
        assert [entry and entry.payload for entry in entries] == [b"one", b"two"]
        assert finish(store.write(0, second, b"two")).status == Status.OK
        assert finish(store.write(0, first, b"one")).status == Status.OK
    assert store.memory()["damaged"] == 0
    assert store.counters()["inserted"] == 2


@every_fabric
@colliding
def test_conditions_and_tokens_see_the_right_one(kind: str, first: bytes, second: bytes) -> None:
    store = make_store(kind, index_entries=7)
    finish(store.write(0, first, b"one"))
    assert finish(store.read(0, second)) is None
    finish(store.write(0, second, b"two"))
    tokens = [entry.token for entry in finish(store.read_many(0, [first, second]))]
    assert finish(store.delete_exact(0, first, tokens[1])) == Status.CONFLICT
    assert finish(store.delete_exact(0, second, tokens[0])) == Status.CONFLICT
    assert finish(store.replace(0, second, tokens[1], b"three", expire_at_ms=-1)) == Status.OK
    assert finish(store.replace(0, first, tokens[0], None, expire_at_ms=-1)) == Status.OK
    assert [entry.payload for entry in finish(store.read_many(0, [first, second]))] == [b"one", b"three"]
    assert finish(store.delete(0, [second])) == 1
    assert finish(store.read(0, second)) is None
    assert finish(store.read(0, first)).payload == b"one"
    assert finish(store.delete(0, [second, first])) == 1
    sweep(store)
    store.release_spares()
    assert store.memory()["pages_used"] == 0
    assert store.memory()["damaged"] == 0


@pytest.mark.parametrize("offset", [0, 4, 6])
@pytest.mark.parametrize("action", ["read", "write", "delete"])
def test_a_cell_that_does_not_name_its_slot_is_never_believed(offset: int, action: str) -> None:
    """Slot number, and either half of the echo: the value is gone, nothing that it names is freed, the key can be written again."""
    store = make_store("sim")
    fabric = store.pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    finish(store.write(0, b"the key", bytes(100_000)))
    finish(store.write(0, b"other", b"stays"))
    start = store.pool.layout()["pages"]
    pages = store.memory()["pages_used"]
    cell = fabric.peek(start, fabric.size_bytes - start).index(b"the key") - 24
    fabric.poke(start + cell + offset, bytes([fabric.peek(start + cell + offset, 1)[0] ^ 4]))
    if action == "read":
        assert finish(store.read(0, b"the key")) is None
        assert finish(store.read(0, b"the key", payload=False)) is None
    elif action == "delete":
        assert finish(store.delete(0, [b"the key"])) == 0
    assert finish(store.write(0, b"the key", b"new")).status == Status.OK
    assert finish(store.read(0, b"the key")).payload == b"new"
    assert finish(store.read(0, b"other")).payload == b"stays"
    assert store.memory()["damaged"] > 0
    assert store.memory()["pages_used"] >= pages
