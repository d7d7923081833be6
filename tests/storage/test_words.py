"""Slot words: what a slot remembers of its past, and what of it is believed."""

from __future__ import annotations

import pytest

from storage.interface import Status
from tests.storage.pools import filler, finish, make_store, second_store
from tests.storage.slow_motion import FREE, LIVE, binding, simulated, slot_offset, slot_words, states, version


def test_a_slot_counts_every_change_and_never_forgets_it() -> None:
    """Reserved and published: +2; overwritten, removed: +1 each. The binding counts the keys that the slot held."""
    store = make_store("sim", index_entries=7)
    expected_version = 0
    for keys_before in range(5):
        key, expected_binding = b"key%d" % keys_before, keys_before + 1
        finish(store.write(0, key, b"one"))
        expected_version += 2
        (slot,) = [slot for slot, state in enumerate(states(store)) if state == LIVE]
        for step in ("insert", "overwrite", "delete"):
            if step == "overwrite":
                finish(store.write(0, key, b"two"))
                expected_version += 1
            elif step == "delete":
                finish(store.delete(0, [key]))
                expected_version += 1
            word, word1 = slot_words(store, slot)
            assert (version(word), binding(word)) == (expected_version, expected_binding), (keys_before, step)
            assert word1 & 0xFF == expected_binding
        assert states(store) == [FREE] * 7


def test_eviction_and_expiry_count_like_removal() -> None:
    store = make_store("sim", index_entries=7, policy="allkeys-lru")
    finish(store.write(0, b"key", b"value", expire_at_ms=1_800_000_000_000))
    (slot,) = [slot for slot, state in enumerate(states(store)) if state == LIVE]
    store.set_clock(1_800_000_000_001)
    assert finish(store.read(0, b"key")) is None
    word, _ = slot_words(store, slot)
    assert (word & 3, version(word), binding(word)) == (FREE, 3, 1)


@pytest.mark.parametrize("action", ["read", "exists", "delete", "write"])
def test_a_tag_of_another_binding_is_not_the_slots(action: str) -> None:
    """Between the two words of a slot that is reserved anew one may read the old first and the new second."""
    store = make_store("sim", index_entries=7)
    finish(store.write(0, b"key", b"old"))
    slot = states(store).index(LIVE)
    simulated(store).poke(slot_offset(store, slot) + 8, bytes([slot_words(store, slot)[1] + 1 & 0xFF]))
    other = second_store(store)
    if action == "read":
        assert finish(other.read(0, b"key")) is None
    elif action == "exists":
        assert finish(other.exists(0, [b"key"])) == [False]
    elif action == "delete":
        assert finish(other.delete(0, [b"key"])) == 0
    else:
        assert finish(other.write(0, b"key", b"new")).status == Status.OK
        assert states(store).count(LIVE) == 2


@pytest.mark.parametrize(("offset", "what"), [(20, "database"), (8, "epoch")])
def test_a_cell_of_another_database_or_epoch_is_not_the_key(offset: int, what: str) -> None:
    store = make_store("sim", index_entries=7)
    finish(store.write(0, b"the key", b"value"))
    start = store.pool.layout()["pages"]
    fabric = simulated(store)
    cell = fabric.peek(start, 65_536).index(b"the key") - 24
    fabric.poke(start + cell + offset, bytes([fabric.peek(start + cell + offset, 1)[0] ^ 1]))
    assert finish(second_store(store).read(0, b"the key")) is None, what


def test_a_token_names_its_slot_too() -> None:
    """The same word can come again in another slot: same cell, and as many changes there. It is another value."""
    store = make_store("sim", index_entries=7)
    finish(store.write(0, b"key", filler(700, 1)))
    entry = finish(store.read(0, b"key"))
    assert entry is not None
    first, _ = slot_words(store, 0)
    finish(store.write(0, b"behind", filler(20_000, 2)))
    finish(store.delete(0, [b"key"]))
    store.release_spares()
    finish(store.write(0, b"in front", filler(20_000, 2)))
    finish(store.write(0, b"key", filler(700, 3)))
    assert slot_words(store, 2)[0] == first, "the words are the same"
    assert finish(store.delete_exact(0, b"key", entry.token)) == Status.CONFLICT
    assert finish(store.replace(0, b"key", entry.token, b"mine", expire_at_ms=-1)) == Status.CONFLICT
    entry = finish(store.read(0, b"key"))
    assert entry is not None
    assert entry.payload == filler(700, 3)
