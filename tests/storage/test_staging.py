"""Large values on their way in and out, and two front ends that meet at them."""

from __future__ import annotations

import gc
import random
import weakref

import pytest

from storage.interface import Condition, Status
from storage.staging import PinnedValue, StagedValue
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, every_fabric, filler, finish, make_store, pages_used, second_store

TAIL_BYTES = 32_704 - 40 - 3  # what still fits the cell of a three-byte key, without its list
LENGTHS = [
    PAGE_BYTES, PAGE_BYTES + 1, PAGE_BYTES * 2 - 1, 100_000, PAGE_BYTES + TAIL_BYTES - 4, PAGE_BYTES + TAIL_BYTES - 3,
    PAGE_BYTES + TAIL_BYTES,
    PAGE_BYTES + TAIL_BYTES + 1, 40 * PAGE_BYTES + TAIL_BYTES - 100, 40 * PAGE_BYTES + TAIL_BYTES - 4, 65 * PAGE_BYTES, 1024 * 1024 + 7,
]  # fmt: skip


def stage(store: Store, value: bytes, key: bytes = b"key", seed: int = 1) -> StagedValue:
    """Receive a value in pieces of any size."""
    staged = StagedValue(store.staging, len(value), len(key))
    choose, position = random.Random(seed), 0
    while position < len(value):
        step = choose.choice([1, 100, 4096, PAGE_BYTES, 300_000])
        taken = staged.receive(value[position : position + step])
        assert taken == len(value[position : position + step])
        position += taken
    assert staged.is_complete
    return staged


@every_fabric
@pytest.mark.parametrize("length", LENGTHS)
def test_a_staged_value_is_published_whole(kind: str, length: int) -> None:
    store = make_store(kind, pages=200)
    value = filler(length, length)
    staged = stage(store, value)
    assert staged.tobytes() == value
    assert length - 32_704 < store.staging.held_bytes < length + PAGE_BYTES
    assert finish(store.write(0, b"key", staged)).status == Status.OK
    assert store.staging.held_bytes == 0
    staged.discard()
    del staged
    entry = finish(store.read(0, b"key"))
    assert entry.payload == value
    assert finish(store.replace(0, b"key", entry.token, None, expire_at_ms=NOW_MS + 5)) == Status.OK
    assert finish(store.read(0, b"key")).payload == value
    pinned = store.pin(0, b"key")
    assert pinned is not None
    assert pinned.tobytes() == value
    finish(store.delete(0, [b"key"]))
    assert pinned.tobytes() == value
    store.release_spares()
    assert store.memory()["retired_values"] == 1
    pinned.release()
    store.release_spares()
    assert store.memory()["retired_values"] == 0
    assert pages_used(store) == 0


@every_fabric
@pytest.mark.parametrize("length", LENGTHS)
def test_a_slice_is_the_values_bytes(kind: str, length: int) -> None:
    store = make_store(kind, pages=200)
    value = filler(length, 9)
    finish(store.write(0, b"key", value))
    pinned = store.pin(0, b"key")
    assert pinned is not None
    if kind != "shm":
        with pytest.raises(BufferError):
            pinned.slice(0, 10)
        return
    position = 0
    while position < length:
        run = pinned.slice(position, 1 << 30)
        assert bytes(memoryview(run)) == value[position : position + len(run)]
        assert len(run) > 0
        position += len(run)
    assert position == length
    view = memoryview(pinned.slice(5, 20))
    assert view.readonly
    assert bytes(view) == value[5:25]


def test_a_view_keeps_the_pin() -> None:
    store = make_store("shm", pages=100)
    value = filler(300_000, 3)
    finish(store.write(0, b"key", value))
    pinned = store.pin(0, b"key")
    assert pinned is not None
    view = memoryview(pinned.slice(0, 200_000))
    del pinned
    gc.collect()
    finish(store.delete(0, [b"key"]))
    number = 0
    while finish(store.write(0, b"fill%d" % number, bytes(PAGE_BYTES))).status == Status.OK:
        number += 1
    assert bytes(view) == value[: len(view)]
    assert store.memory()["pinned_bytes"] > 0
    view.release()
    del view
    gc.collect()
    assert store.memory()["pinned_bytes"] == 0
    assert finish(store.write(0, b"fill", bytes(PAGE_BYTES))).status == Status.OK


@every_fabric
def test_pages_are_taken_as_bytes_arrive(kind: str) -> None:
    store = make_store(kind, pages=300)
    staged = StagedValue(store.staging, 200 * PAGE_BYTES, 3)
    assert pages_used(store) == 0
    staged.receive(b"x")
    assert pages_used(store) == 64
    staged.receive(bytes(64 * PAGE_BYTES - 1))
    assert pages_used(store) == 64
    staged.receive(b"x")
    assert pages_used(store) == 128
    staged.discard()
    staged.discard()
    assert pages_used(store) == 0
    with pytest.raises(ValueError, match="none are wanted"):
        staged.receive(b"x")


@every_fabric
def test_a_dropped_value_gives_its_pages_back(kind: str) -> None:
    store = make_store(kind, pages=100)
    staged = StagedValue(store.staging, 20 * PAGE_BYTES, 3)
    staged.receive(bytes(3 * PAGE_BYTES))
    del staged
    gc.collect()
    assert pages_used(store) == 0
    assert store.staging.held_bytes == 0


class Loop:
    """Something that refers to itself, as the frames of an exception do."""

    def __init__(self, *held: object) -> None:
        self.held = (self, *held)


def test_values_may_be_dropped_in_a_cycle_with_their_store() -> None:
    """Python ends the members of a cycle in any order: whatever a value needs to give back what it holds must still be there."""
    for _ in range(20):
        store = make_store("sim", pages=100)
        finish(store.write(0, b"key", filler(200_000, 1)))
        staged = StagedValue(store.staging, 20 * PAGE_BYTES, 3)
        staged.receive(bytes(3 * PAGE_BYTES))
        marker = Loop(store.pin(0, b"key"), staged, store)
        watched = weakref.ref(marker)
        del store, staged, marker
        gc.collect()
        assert watched() is None


@every_fabric
def test_a_value_that_is_not_whole_or_not_ours_is_not_published(kind: str) -> None:
    store = make_store(kind, pages=100)
    staged = StagedValue(store.staging, PAGE_BYTES * 2, 3)
    staged.receive(bytes(PAGE_BYTES))
    with pytest.raises(ValueError, match="incomplete"):
        finish(store.write(0, b"key", staged))
    staged.receive(bytes(PAGE_BYTES))
    with pytest.raises(ValueError, match="announced"):
        staged.receive(b"x")
    assert finish(store.write(0, b"key", staged)).status == Status.OK
    with pytest.raises(ValueError, match="published"):
        finish(store.write(0, b"another", staged))
    other = stage(store, bytes(PAGE_BYTES * 2))
    other.discard()
    with pytest.raises(ValueError, match="discarded"):
        finish(store.write(0, b"another", other))
    with pytest.raises(ValueError, match="largest has 536870912"):
        StagedValue(store.staging, (512 << 20) + 1, 3)


@every_fabric
def test_a_refused_value_stays_the_callers(kind: str) -> None:
    store = make_store(kind, pages=100)
    finish(store.write(0, b"key", b"old"))
    value = filler(3 * PAGE_BYTES, 4)
    staged = stage(store, value)
    assert finish(store.write(0, b"key", staged, condition=Condition.NX)).status == Status.PRESENT
    assert staged.tobytes() == value
    assert finish(store.replace(0, b"key", 12345, staged, expire_at_ms=-1)) == Status.CONFLICT
    assert finish(store.write(0, b"none", staged, condition=Condition.XX)).status == Status.MISS
    result = finish(store.write(0, b"key", staged, want_previous=True))
    assert result.previous is not None
    assert (result.status, result.previous.payload) == (Status.OK, b"old")
    assert finish(store.read(0, b"key")).payload == value


@every_fabric
def test_a_tail_measured_against_a_shorter_key_is_refused(kind: str) -> None:
    store = make_store(kind, pages=100)
    staged = stage(store, bytes(PAGE_BYTES + 32_000))
    used = pages_used(store)
    assert finish(store.write(0, b"k" * 5_000, staged)).status == Status.FULL
    assert pages_used(store) == used
    staged.discard()
    assert pages_used(store) == 0


@every_fabric
def test_unfinished_values_share_a_part_of_the_pool(kind: str) -> None:
    store = make_store(kind, pages=400)
    store.staging.set_limit_bytes(100 * PAGE_BYTES)
    first = StagedValue(store.staging, 150 * PAGE_BYTES, 3)
    second = StagedValue(store.staging, 150 * PAGE_BYTES, 3)
    assert second.receive(bytes(PAGE_BYTES)) == PAGE_BYTES
    assert second.receive(bytes(80 * PAGE_BYTES)) == 63 * PAGE_BYTES, "it waits"
    assert first.receive(bytes(150 * PAGE_BYTES)) == 150 * PAGE_BYTES, "the oldest goes on"
    assert finish(store.write(0, b"first", first)).status == Status.OK
    assert second.receive(bytes(86 * PAGE_BYTES)) == 86 * PAGE_BYTES


@every_fabric
def test_nothing_is_evicted_for_a_staged_value_that_cannot_fit(kind: str) -> None:
    store = make_store(kind, policy="allkeys-lru", pages=100)
    for number in range(80):
        assert finish(store.write(0, b"k%d" % number, bytes(PAGE_BYTES))).status == Status.OK
    staged = StagedValue(store.staging, 150 * PAGE_BYTES, 3)
    assert staged.receive(bytes(1000)) == 0
    assert store.counters()["evicted"] == 0
    fitting = StagedValue(store.staging, 90 * PAGE_BYTES, 3)
    staged.discard()
    store.staging.set_limit_bytes(100 * PAGE_BYTES)
    assert fitting.receive(bytes(90 * PAGE_BYTES)) == 90 * PAGE_BYTES
    assert store.counters()["evicted"] >= 60
    assert finish(store.write(0, b"key", fitting)).status == Status.OK


@every_fabric
def test_readers_of_one_value_share_a_hazard(kind: str) -> None:
    store = make_store(kind, pages=100)
    finish(store.write(0, b"key", filler(200_000, 1)))
    pins = [store.pin(0, b"key") for _ in range(10)]
    assert store.memory()["pinned_bytes"] == 3 * PAGE_BYTES
    finish(store.write(0, b"key", b"small"))
    for pin in pins[:-1]:
        assert isinstance(pin, PinnedValue)
        pin.release()
        pin.release()
        store.release_spares()
        assert store.memory()["retired_values"] == 1
    last = pins[-1]
    assert isinstance(last, PinnedValue)
    assert last.tobytes() == filler(200_000, 1)
    last.release()
    store.release_spares()
    assert store.memory()["retired_values"] == 0
    finish(store.delete(0, [b"key"]))
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
@pytest.mark.parametrize("reader_is_other", [False, True])
def test_a_pinned_value_outlives_everything_that_happens_to_its_key(kind: str, reader_is_other: bool) -> None:
    first = make_store(kind, policy="allkeys-lru", pages=60)
    second = second_store(first, policy="allkeys-lru")
    reader, writer = (second, first) if reader_is_other else (first, second)
    value = filler(5 * PAGE_BYTES + 17, 6)
    finish(first.write(0, b"key", value))
    pinned = reader.pin(0, b"key")
    assert pinned is not None
    staged = stage(reader, value)
    finish(writer.write(0, b"key", filler(5 * PAGE_BYTES, 7)))
    finish(writer.delete(0, [b"key"]))
    for number in range(200):
        assert finish(writer.write(0, b"fill%d" % number, filler(90_000, number))).status == Status.OK
        assert finish(reader.write(0, b"mine%d" % number, filler(90_000, number))).status == Status.OK
    finish(writer.flush(None))
    assert pinned.tobytes() == value
    assert staged.tobytes() == value
    pinned.release()
    assert finish(reader.write(0, b"key", staged)).status == Status.OK
    assert finish(writer.read(0, b"key")).payload == value


@every_fabric
def test_more_large_values_in_one_read_than_pins(kind: str) -> None:
    store = make_store(kind, pages=3400, index_entries=7 * 2000)
    keys = [b"k%d" % number for number in range(3100)]
    for key in keys:
        assert finish(store.write(0, key, bytes(33_000))).status == Status.OK
    pins = [store.pin(0, key) for key in keys[:3000]]
    assert all(entry is not None and entry.size_bytes == 33_000 for entry in finish(store.read_many(0, keys[2900:])))
    pins += [store.pin(0, key) for key in keys[3000:3072]]
    assert None not in pins
    with pytest.raises(BlockingIOError):
        finish(store.read_many(0, keys[3070:]))
    pinned = int(store.memory()["pinned_bytes"])
    assert pinned == 3072 * PAGE_BYTES
    pins.clear()
    assert store.memory()["pinned_bytes"] == 0


@every_fabric
def test_two_front_ends_see_each_others_work(kind: str) -> None:
    first = make_store(kind, pages=100)
    second = second_store(first)
    stores = [first, second]
    choose = random.Random(8)
    expected: dict[bytes, bytes] = {}
    for number in range(2000):
        store, key = choose.choice(stores), b"k%d" % choose.randrange(30)
        action = choose.randrange(6)
        if action < 3:
            value = filler(choose.choice([0, 90, 3_000, 20_000, 70_000]), number)
            assert finish(store.write(0, key, value)).status == Status.OK
            expected[key] = value
        elif action == 3:
            assert finish(store.delete(0, [key])) == (expected.pop(key, None) is not None)
        elif action == 4:
            status = finish(store.write(0, key, b"nx", condition=Condition.NX)).status
            assert status == (Status.PRESENT if key in expected else Status.OK)
            expected.setdefault(key, b"nx")
        else:
            entry = finish(store.read(0, key))
            assert (None if entry is None else entry.payload) == expected.get(key)
            assert sorted(finish(store.scan(0, 0, 1000))[1]) == sorted(expected)
    finish(first.flush(0))
    assert finish(second.exists(0, sorted(expected))) == [False] * len(expected)
    assert finish(second.random_key(0)) is None
    for _ in range(2):
        for store in stores:
            store.maintain(100.0)
            store.release_spares()
    assert finish(first.write(0, b"k", b"")).status == Status.OK
    assert pages_used(first) == 1, "what the other freed in our pages was harvested, and the other way round"


@every_fabric
def test_memory_beyond_key_and_value_is_at_most_100_bytes(kind: str) -> None:
    store = make_store(kind, pages=80, index_entries=7 * 4000)
    count = 14_000
    for number in range(count):
        assert finish(store.write(0, b"key:%016d" % number, bytes(64))).status == Status.OK
    memory = store.memory()
    assert memory["index_load"] == pytest.approx(0.5, abs=0.001)
    beyond = float(memory["index_bytes"]) + float(memory["used_bytes"]) - count * (20 + 64)
    assert beyond / count <= 100
    assert memory["index_bytes_per_key"] == pytest.approx(float(memory["index_bytes"]) / count)


@pytest.mark.long
@pytest.mark.parametrize(("length", "key"), [(73 * 1024 * 1024 + 5, b"key"), (268 * 1024 * 1024 + 9, b"L" * 16_384)])
def test_a_very_large_value(length: int, key: bytes) -> None:
    """The second one's page list does not fit its cell and lies in a page of its own."""
    store = make_store("shm", pages=length // PAGE_BYTES * 2 + 100)
    value = filler(length, 1)
    for payload in (value, None):
        if payload is None:
            staged = stage(store, value, key)
            assert finish(store.write(0, key, staged)).status == Status.OK
        else:
            assert finish(store.write(0, key, payload)).status == Status.OK
        assert finish(store.read(0, key)).payload == value
    token = finish(store.read(0, key, payload=False)).token
    assert finish(store.replace(0, key, token, None, expire_at_ms=NOW_MS + 50)) == Status.OK
    assert finish(store.read(0, key)).payload == value
    finish(store.delete(0, [key]))
    store.release_spares()
    assert pages_used(store) == 0
