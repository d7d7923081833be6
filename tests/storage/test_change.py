"""Changes step by step: two front ends whose operations fall between each other's where it matters most."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage.interface import Condition, Status
from storage.store import Store
from tests.storage.pools import finish, make_store, second_store
from tests.storage.slow_motion import FREE, LIVE, RESERVED, SlowStore, binding, simulated, slot_words, states

KEYS = [b"block:%02d" % number for number in range(8)]


def reserve_behind(first: Store, condition: Condition) -> SlowStore:
    """Let another front end reserve slot 1 for a key, and look at the sets, while ``first`` is about to reserve slot 0 for the same key."""
    finish(first.write(0, b"in front", b"x"))
    slow = SlowStore(first, 1)
    slow.begin(lambda store: store.write(0, b"key", b"slow", condition=condition))
    while slow.fabric.pending < 4:  # the doorbell that reserves: a cell, both words, the sets
        slow.perform_posted()
        assert not slow.go_on()
    finish(first.delete(0, [b"in front"]))
    return slow


@pytest.mark.parametrize("condition", [Condition.NX, Condition.ALWAYS])
def test_who_could_not_be_expelled_has_won(condition: Condition) -> None:
    """One is reserved in a higher slot; the other, in a lower one, is about to expel it when it publishes."""
    first = make_store("sim", index_entries=7)
    slow = reserve_behind(first, condition)
    rung = 0

    def publish(operations: list[tuple[str, int, int]]) -> None:
        nonlocal rung
        rung += 1
        if rung == 2:  # the sets were read
            slow.perform_posted()
            assert states(first)[:2] == [FREE, RESERVED]
        if rung == 3:  # the lower slot is reserved, this doorbell expels
            assert states(first)[:2] == [RESERVED, RESERVED]
            slow.go_on()
            slow.perform_posted()
            assert states(first)[1] == LIVE

    simulated(first).before_round = publish
    answer = finish(first.write(0, b"key", b"first", condition=condition)).status
    simulated(first).before_round = None
    assert rung >= 3
    other = slow.end().status
    assert states(first).count(LIVE) == 1
    assert finish(first.scan(0, 0, 100))[1] == [b"key"]
    if condition == Condition.NX:
        assert [other, answer] == [Status.OK, Status.PRESENT]
    assert finish(second_store(first, 2).delete(0, [b"key"])) == 1
    assert finish(first.exists(0, [b"key"])) == [False]


def test_who_has_gone_before_it_was_expelled_keeps_nobody() -> None:
    """The one in the higher slot has seen the lower one and given way, just as that is about to expel it."""
    first = make_store("sim", index_entries=7)
    slow = reserve_behind(first, Condition.NX)
    before = first.counters()["restarts"]
    rung = 0

    def give_way(operations: list[tuple[str, int, int]]) -> None:
        nonlocal rung
        rung += 1
        if rung == 2:
            slow.perform(3)  # the cell and both words
            assert states(first)[:2] == [FREE, RESERVED]
        if rung == 3:
            assert states(first)[:2] == [RESERVED, RESERVED]
            slow.perform_posted()
            slow.go_on()
            slow.perform_posted()
            assert states(first)[:2] == [RESERVED, FREE], "the lower one goes first"

    simulated(first).before_round = give_way
    assert finish(first.write(0, b"key", b"first", condition=Condition.NX)).status == Status.OK
    simulated(first).before_round = None
    assert rung == 4, "read the sets, reserve, expel, publish"
    assert first.counters()["restarts"] == before
    assert slow.end().status == Status.PRESENT
    assert finish(first.scan(0, 0, 100))[1] == [b"key"]


@pytest.mark.parametrize("condition", [Condition.NX, Condition.ALWAYS])
def test_who_has_reserved_and_stops_keeps_nobody(condition: Condition) -> None:
    """Another publishes in the slot that is reserved for its key."""
    first = make_store("sim", index_entries=7)
    slow = SlowStore(first, 1)
    slow.begin(lambda store: store.write(0, b"key", b"slow", condition=condition))
    while RESERVED not in states(first):
        slow.perform_posted()
        assert not slow.go_on()
        slow.perform_posted()
    before = first.counters()["restarts"]
    assert finish(first.write(0, b"key", b"first", condition=condition)).status == Status.OK
    assert first.counters()["restarts"] == before
    assert states(first)[:2] == [LIVE, FREE]
    assert finish(first.read(0, b"key")).payload == b"first"
    assert slow.end().status == (Status.PRESENT if condition == Condition.NX else Status.OK)
    assert finish(first.scan(0, 0, 100))[1] == [b"key"]


@pytest.mark.parametrize("steps", range(1, 6))
def test_inserts_of_one_key_in_step_end(steps: int) -> None:
    """Three who take turns after every so many operations do not make each other begin again and again."""
    first = make_store("sim", index_entries=7)
    stores = [SlowStore(first, number, seed=number) for number in (1, 2, 3)]
    for slow in stores:
        slow.begin(lambda store: store.write(0, b"key", b"x" * store.pool.front_end))
    for _ in range(200):
        for slow in stores:
            slow.perform(steps)
            slow.go_on()
    for slow in stores:
        assert slow.answers, "it has not ended by now"
        assert slow.end().status == Status.OK
    assert finish(first.scan(0, 0, 100))[1] == [b"key"]


def test_the_tag_may_come_from_another_who_inserts_the_key() -> None:
    """One has won the first word of a slot, another of the same key the second: what it says is right."""
    first = make_store("sim", index_entries=7)
    one, two = SlowStore(first, 1), SlowStore(first, 2)
    for slow in (one, two):
        slow.begin(lambda store: store.write(0, b"key", b"v", condition=Condition.NX))
        while slow.fabric.pending < 4:
            slow.perform_posted()
            assert not slow.go_on()
    free = slot_words(first, 0)[0]
    one.perform(2)  # its cell and the first word
    two.perform_posted()
    restarts = one.store.counters()["restarts"]
    assert one.end().status == Status.OK
    assert one.store.counters()["restarts"] == restarts
    assert binding(slot_words(first, 0)[0]) == binding(free) + 1, "reserved once"
    assert two.end().status == Status.PRESENT


def test_of_two_keys_in_one_slot_the_one_that_has_the_first_word_stays() -> None:
    """The other has won the second word: the slot is reserved for neither until its holder has taken that too."""
    first = make_store("sim", index_entries=7)
    one, two = SlowStore(first, 1), SlowStore(first, 2)
    for slow, key in ((one, b"one"), (two, b"two")):
        slow.begin(lambda store, key=key: store.write(0, key, b"v"))  # type: ignore[misc]
        while slow.fabric.pending < 4:
            slow.perform_posted()
            assert not slow.go_on()
    free = slot_words(first, 0)[0]
    one.perform(2)  # its cell and the first word
    two.perform_posted()
    one.perform_posted()
    restarts = [slow.store.counters()["restarts"] for slow in (one, two)]
    seen = set()
    for _ in range(20):
        one.perform()
        one.go_on()
        seen.add(slot_words(first, 0)[0] & 3)
    assert seen == {RESERVED, LIVE}
    assert binding(slot_words(first, 0)[0]) == binding(free) + 2
    assert one.end().status == two.end().status == Status.OK
    assert one.store.counters()["restarts"] == restarts[0]
    assert two.store.counters()["restarts"] == restarts[1] + 1
    assert sorted(finish(first.scan(0, 0, 100))[1]) == [b"one", b"two"]


def test_a_slot_whose_tag_somebody_else_wrote_is_not_published() -> None:
    """Both words of a slot are taken by CAS, one after the other: the second may be lost though the first was won."""
    first = make_store("sim", index_entries=7)
    seen = 0
    for steps in range(12):
        one, two = SlowStore(first, 1, seed=steps + 3), SlowStore(first, 2, seed=steps + 30)
        one.begin(lambda store: store.write(0, b"one", b"1"))
        two.begin(lambda store: store.write(0, b"two", b"2"))
        # Both have read the sets and chosen the same slot; their next doorbells are posted.
        for slow in (one, two):
            while RESERVED not in states(first) and not any(answer for answer in slow.answers):
                slow.perform_posted()
                if slow.go_on() or _writes(slow):
                    break
        while RESERVED not in states(first) and one.perform():
            pass
        seen += RESERVED in states(first)
        two.perform(steps)
        assert one.end().status == Status.OK
        assert two.end().status == Status.OK
        for store in (one.store, two.store, first):
            assert [entry and entry.payload for entry in finish(store.read_many(0, [b"one", b"two"]))] == [b"1", b"2"], steps
        assert finish(first.delete(0, [b"one", b"two"])) == 2
    assert seen > 6


def _writes(slow: SlowStore) -> bool:
    """Whether the doorbell that is posted is the one that reserves: it has a cell to write, two CAS and a READ."""
    return slow.fabric.pending >= 4


@pytest.mark.parametrize("step", range(16))
def test_what_was_read_during_a_change_is_not_proved_by_its_end(step: int) -> None:
    """Another front end looks, and remembers, after every operation of a removal."""
    first = make_store("sim", index_entries=7 * 64)
    for key in KEYS:
        finish(first.write(0, key, b"v"))
    reader = second_store(first, 2)
    slow = SlowStore(first, 1)
    slow.begin(lambda store: store.delete(0, [KEYS[3]]))
    for _ in range(step):
        if not slow.perform():
            slow.go_on()
    for _ in range(3):
        finish(reader.exists(0, KEYS))
    assert slow.end() == 1
    for _ in range(2):
        assert finish(reader.exists(0, KEYS)) == [key != KEYS[3] for key in KEYS]


def evict(store: Store) -> None:
    """Let the policy remove nearly everything."""
    store.set_policy("allkeys-lru")
    store.set_protection(lookup_ms=0, lookup_share=0.1, lease_share=0.25)  # all of them were just looked up
    store.set_maxmemory(65_536)
    while store.maintain(1000.0):
        pass


def expire(store: Store) -> None:
    """Let everything expire and be swept, by the front end that wrote it."""
    for key in KEYS:
        finish(store.write(0, key, b"new", expire_at_ms=1_700_000_000_001))


@pytest.mark.parametrize("change", [evict, expire])
def test_what_was_evicted_or_has_expired_is_not_named(change: Callable[[Store], None]) -> None:
    first = make_store("sim", index_entries=7 * 64, pages=24)
    for key in KEYS:
        finish(first.write(0, key, b"v" * 9000))
    second = second_store(first)
    assert finish(second.exists(0, KEYS)) == [True] * len(KEYS)
    before = second.counters()["location_cache_hits"]
    assert finish(second.exists(0, KEYS)) == [True] * len(KEYS)
    assert second.counters()["location_cache_hits"] > before
    change(first)
    if change is expire:
        first.set_clock(1_700_000_000_002)
        first.maintain(1000.0)
    there = set(finish(first.scan(0, 0, 1000))[1])
    assert not there.issuperset(KEYS)
    assert finish(second.exists(0, KEYS)) == [key in there for key in KEYS]


def keys_of_home(entries: int, home: int, count: int) -> list[bytes]:
    """Keys whose home is this set."""
    found = []
    for number in range(10_000):
        store = make_store("sim", index_entries=entries)
        key = b"key:%d" % number
        finish(store.write(0, key, b""))
        if states(store).index(LIVE) // 7 == home:
            found.append(key)
        if len(found) == count:
            return found
    raise AssertionError("no such keys")


@pytest.mark.parametrize("doorbell", range(1, 10))
def test_an_entry_away_from_home_is_found_from_its_first_moment_on(doorbell: int) -> None:
    """The home is full; at every doorbell of the insert that goes to the next set somebody else inserts the same key."""
    first = make_store("sim", index_entries=28)
    second = second_store(first)
    *full, key = keys_of_home(28, 0, 8)
    for one in full:
        finish(first.write(0, one, b""))
    rung = 0
    inner: list[Status] = []

    def interfere(_operations: object) -> None:
        nonlocal rung
        rung += 1
        if rung == doorbell:
            inner.append(finish(second.write(0, key, b"inner", condition=Condition.NX)).status)
            assert finish(second.exists(0, [key])) == [True], "it is there, whoever wrote it"

    simulated(first).before_round = interfere
    outer = finish(first.write(0, key, b"outer", condition=Condition.NX)).status
    simulated(first).before_round = None
    assert states(first).count(LIVE) == 8
    assert sorted([outer, *inner]) == sorted([Status.OK] + [Status.PRESENT] * len(inner))
    assert finish(second.exists(0, [key])) == [True]


@pytest.mark.parametrize("steps", range(1, 14))
def test_a_conditional_write_that_a_flush_overtakes_is_not_lost(steps: int) -> None:
    """The key is there until the flush, and swept then: who looked for it under the old epoch must not take it for absent there."""
    first = make_store("sim", index_entries=7)
    finish(first.write(0, b"key", b"old"))
    slow = SlowStore(first, 1, seed=steps)
    slow.begin(lambda store: store.write(0, b"key", b"new", condition=Condition.NX))
    for _ in range(steps):
        if not slow.perform():
            slow.go_on()
    answered = list(slow.answers)
    finish(first.flush(0))
    first.maintain(1000.0)
    status = slow.end().status
    assert not answered or status == Status.PRESENT
    assert finish(first.exists(0, [b"key"])) == [status == Status.OK]
