"""Stored bytes: the store knows at any time how many bytes of keys and values it holds, and what they cost beside."""

from __future__ import annotations

import random

import pytest

from storage.interface import NO_EXPIRY, Condition
from tests.storage.pools import finish, make_store


@pytest.mark.parametrize("kind", ["shm", "sim"])
def test_stored_bytes_are_those_of_the_keys_and_values_that_are_there(kind: str) -> None:
    """Through writes, overwrites, new expiries, deletes and a flush."""
    chooser = random.Random(5)
    store = make_store(kind, pages=900, index_entries=4096)
    expected: dict[bytes, int] = {}
    for _step in range(600):
        key = b"key%d" % chooser.randrange(60)
        length = chooser.choice((0, 7, 500, 40_000, 140_000))
        action = chooser.random()
        if action < 0.6:
            finish(store.write(0, key, b"v" * length, condition=Condition.ALWAYS, expire_at_ms=NO_EXPIRY))
            expected[key] = length
        elif action < 0.8:
            finish(store.delete(0, [key]))
            expected.pop(key, None)
        else:
            entry = finish(store.read(0, key, payload=False))
            if entry is not None:
                finish(store.replace(0, key, entry.token, None, expire_at_ms=4_000_000_000_000))
        assert store.memory()["stored_bytes"] == sum(len(name) + size for name, size in expected.items())
    finish(store.flush(None))
    assert store.memory()["stored_bytes"] == 0


def test_an_entry_costs_at_most_a_hundred_bytes_beside_key_and_value() -> None:
    """At half load: twice the index's share of a slot, and what the cell adds to 20-byte keys with 64-byte values."""
    store = make_store("shm", pages=900, index_entries=20_000)
    for number in range(10_000):
        finish(store.write(0, b"kvblock:%012d" % number, b"v" * 64))
    memory = store.memory()
    beside = float(memory["value_overhead_bytes_per_key"]) + float(memory["index_bytes_per_key_at_half_load"])
    assert 60 < beside <= 100
