"""Full pools: who goes, who stays, when a write is refused; and expiry, lazy and swept."""

from __future__ import annotations

import random

import pytest

from storage.interface import Condition, Status
from storage.store import Store
from tests.storage.pools import NOW_MS, PAGE_BYTES, every_fabric, finish, largest_inline_bytes, make_store, pages_used, second_store, sweep

POLICIES = (
    "allkeys-prefix", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
)  # fmt: skip
SIZES = [0, 40, 100, 700, 3_000, 20_000, 32_600, 60_000, 140_000]


def put(store: Store, key: bytes, length: int, after_ms: int | None = None, condition: Condition = Condition.ALWAYS) -> Status:
    """Write zeros."""
    expire_at_ms = -1 if after_ms is None else NOW_MS + after_ms
    return finish(store.write(0, key, bytes(length), expire_at_ms=expire_at_ms, condition=condition)).status


@every_fabric
@pytest.mark.parametrize("policy", POLICIES)
def test_a_write_never_fails_while_something_may_go(kind: str, policy: str) -> None:
    store = make_store(kind, policy=policy, pages=40)
    limit = int(store.memory()["limit_bytes"])
    choose = random.Random(5)
    for number in range(1500):
        assert put(store, b"k%d" % choose.randrange(2000), choose.choice(SIZES), 1000 + number) == Status.OK, number
        assert store.memory()["used_bytes"] <= limit
    assert store.counters()["evicted"] > 100
    assert store.memory()["damaged"] == 0
    keys = [b"k%d" % number for number in range(2000)]
    assert finish(store.delete(0, keys)) == store.counters()["deleted"] > 0
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
@pytest.mark.parametrize(("before", "after"), [(10, 200_000), (200_000, 10), (10, 32_000), (32_000, 10), (600, 5_000)])
@pytest.mark.parametrize("policy", ["allkeys-prefix", "allkeys-lru", "allkeys-random", "volatile-lru"])
def test_a_pool_of_one_size_turns_to_another(kind: str, before: int, after: int, policy: str) -> None:
    store = make_store(kind, policy=policy, pages=12, index_entries=7 * 3000)
    number = 0
    while store.counters()["evicted"] == 0:
        assert put(store, b"before%d" % number, before, 1000) == Status.OK
        number += 1
    for number in range(100):
        store.set_clock(NOW_MS + number * 5 + 5)  # or the value just written may itself be the victim
        assert put(store, b"after%d" % number, after, 1000) == Status.OK
        if policy.endswith("lru"):
            assert put(store, b"after%d" % number, after, 1000, Condition.XX) == Status.OK
    assert finish(store.exists(0, [b"after99"])) == [True]


@every_fabric
@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"])
def test_volatile_policies_leave_what_has_no_ttl(kind: str, policy: str) -> None:
    store = make_store(kind, policy=policy, pages=12, index_entries=7 * 3000)
    stays, goes = [], 0
    # Side by side in the same pages of cells, small and paged.
    for number in range(120):
        length = [2000, 2000, 70_000][number % 3] if number < 12 else 2000
        assert put(store, b"stays%d" % number, length) == Status.OK
        assert put(store, b"goes%d" % number, length, 5000) == Status.OK
        stays.append(b"stays%d" % number)
    for number in range(60):
        goes += put(store, b"more%d" % number, 30_000, 5000) == Status.OK
    assert goes == 60
    assert all(finish(store.exists(0, stays)))
    status, number = Status.OK, 0
    while status == Status.OK:
        status = put(store, b"endless%d" % number, 20_000)
        number += 1
    assert status == Status.FULL
    assert all(finish(store.exists(0, stays)))
    assert all(finish(store.exists(0, [b"endless%d" % one for one in range(number - 1)])))
    assert store.database_size(0).expires == 0, "all that could go has gone"


@every_fabric
def test_noeviction_refuses_and_loses_nothing(kind: str) -> None:
    store = make_store(kind, pages=20)
    written, number = [], 0
    refusals = 0
    choose = random.Random(2)
    while refusals < 30:
        key = b"k%d" % number
        status = put(store, key, choose.choice(SIZES))
        number += 1
        if status == Status.OK:
            written.append(key)
        else:
            assert status == Status.FULL
            refusals += 1
    assert all(entry is not None for entry in finish(store.read_many(0, written)))
    old = finish(store.read(0, written[0]))
    assert finish(store.write(0, written[0], bytes(1_000_000))).status == Status.FULL
    assert finish(store.read(0, written[0])) is not None
    assert finish(store.read(0, written[0])).token == old.token
    assert store.counters()["evicted"] == 0
    assert finish(store.delete(0, written)) == len(written)
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
@pytest.mark.parametrize("policy", ["allkeys-lru", "noeviction"])
def test_nothing_goes_for_a_value_that_cannot_fit(kind: str, policy: str) -> None:
    store = make_store(kind, policy=policy, pages=10)
    pages = int(store.memory()["pages"])
    for number in range(20):
        put(store, b"k%d" % number, 30_000)
    keys = store.database_size(0).keys
    for size in (pages * PAGE_BYTES, pages * PAGE_BYTES - 10, pages * PAGE_BYTES + 1, 100 * PAGE_BYTES):
        assert put(store, b"huge", size) == Status.FULL
    assert store.database_size(0).keys == keys
    if policy != "noeviction":
        assert put(store, b"huge", (pages - 1) * PAGE_BYTES) == Status.OK
        assert finish(store.read(0, b"huge")).size_bytes == (pages - 1) * PAGE_BYTES


@every_fabric
def test_index_full_is_another_answer(kind: str) -> None:
    store = make_store(kind, index_entries=70)
    statuses = [put(store, b"k%d" % number, 10) for number in range(75)]
    assert set(statuses) == {Status.OK, Status.INDEX_FULL}
    assert 50 <= statuses.count(Status.OK) <= 70
    written = [b"k%d" % number for number, status in enumerate(statuses) if status == Status.OK]
    assert all(finish(store.exists(0, written)))
    store.set_policy("allkeys-lru")
    assert all(put(store, b"n%d" % number, 10) == Status.OK for number in range(300))
    store.set_policy("volatile-lru")
    assert Status.INDEX_FULL in [put(store, b"v%d" % number, 10) for number in range(300)]
    assert finish(store.delete(0, written)) < len(written)


@every_fabric
def test_a_full_window_gives_up_its_oldest(kind: str) -> None:
    store = make_store(kind, index_entries=7, policy="allkeys-lru")
    for number in range(7):
        store.set_clock(NOW_MS + number)
        assert put(store, b"k%d" % number, 10) == Status.OK
    store.set_clock(NOW_MS + 100)
    assert finish(store.read(0, b"k0")) is not None
    assert put(store, b"new", 10) == Status.OK
    assert finish(store.exists(0, [b"k%d" % number for number in range(7)])) == [True, False, True, True, True, True, True]


@every_fabric
@pytest.mark.parametrize("length", [100, 30_000, 70_000])
def test_lru_keeps_what_is_used(kind: str, length: int) -> None:
    # Large values go one by one; small ones by the page, where neighbours in time lie together.
    capacity = {100: 18_000, 30_000: 70, 70_000: 36}[length]
    store = make_store(kind, policy="allkeys-lru", pages=38, index_entries=7 * 6000)
    moment = NOW_MS
    hot = [b"hot%d" % number for number in range(capacity // 6)]
    for key in hot:
        put(store, key, length)
    for number in range(capacity * 3):
        moment += 1
        store.set_clock(moment)
        assert put(store, b"cold%d" % number, length) == Status.OK
        if number % (capacity // 8) == 0:
            finish(store.read_many(0, hot))
    assert store.counters()["evicted"] > capacity
    assert sum(finish(store.exists(0, hot))) >= 0.95 * len(hot)
    recent = sum(finish(store.exists(0, [b"cold%d" % number for number in range(capacity * 3 - capacity // 4, capacity * 3)])))
    assert recent >= 0.85 * (capacity // 4)


@every_fabric
def test_lfu_keeps_what_is_used_often(kind: str) -> None:
    store = make_store(kind, policy="allkeys-lfu", pages=38)
    often = [b"often%d" % number for number in range(10)]
    for key in often:
        put(store, key, 70_000)
    for _ in range(60):
        finish(store.read_many(0, often))
    for number in range(200):
        store.set_clock(NOW_MS + number)
        assert put(store, b"once%d" % number, 70_000) == Status.OK
    assert sum(finish(store.exists(0, often))) >= 9


@every_fabric
def test_volatile_ttl_prefers_what_expires_soon(kind: str) -> None:
    store = make_store(kind, policy="volatile-ttl", pages=42)
    for number in range(40):
        if put(store, b"k%d" % number, PAGE_BYTES, 1_000 + 1_000 * number) != Status.OK:
            break
    for number in range(15):
        assert put(store, b"new%d" % number, PAGE_BYTES, 10_000_000) == Status.OK
    alive = finish(store.exists(0, [b"k%d" % number for number in range(40)]))
    assert sum(alive[:15]) <= 6
    assert sum(alive[25:]) >= 13


@every_fabric
def test_a_lower_limit_holds_at_once_for_writes_and_soon_for_all(kind: str) -> None:
    store = make_store(kind, policy="allkeys-lru", pages=200)
    for number in range(190):
        assert put(store, b"k%d" % number, 50_000) == Status.OK
    for number in range(300):
        put(store, b"small%d" % number, 500)
    store.set_maxmemory(60 * PAGE_BYTES)
    assert put(store, b"next", 140_000) == Status.OK
    assert store.memory()["used_bytes"] <= 60 * PAGE_BYTES
    store.set_maxmemory(20 * PAGE_BYTES)
    sweep(store)
    assert store.memory()["used_bytes"] <= 20 * PAGE_BYTES
    assert store.memory()["limit_bytes"] == 20 * PAGE_BYTES
    store.set_policy("noeviction")
    store.set_maxmemory(10 * PAGE_BYTES)
    sweep(store)
    keys = store.database_size(0).keys
    assert put(store, b"refused", 70_000) == Status.FULL
    assert store.database_size(0).keys == keys
    store.set_maxmemory(0)
    assert put(store, b"taken", 70_000) == Status.OK


@every_fabric
def test_flushed_memory_is_room_before_the_sweep_is_done(kind: str) -> None:
    store = make_store(kind, pages=120, index_entries=7 * 9000)
    number = 0
    while put(store, b"k%d" % number, 100) == Status.OK:
        number += 1
    assert number > 30_000
    finish(store.flush(0))
    assert store.database_size(0).keys == 0
    assert finish(store.read(0, b"k1")) is None
    # More was written than one answer to FLUSHDB cleans up; the next write needs it all the same.
    assert put(store, b"large", 90 * PAGE_BYTES) == Status.OK
    sweep(store)
    assert finish(store.delete(0, [b"large"])) == 1
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
def test_a_sweep_ends_and_reaches_all(kind: str) -> None:
    store = make_store(kind, pages=200, index_entries=7 * 9000)
    for number in range(30_000):
        put(store, b"k%d" % number, 20)
        if number % 3 == 0:
            finish(store.delete(0, [b"k%d" % (number // 2)]))
    finish(store.flush(None))
    calls = 0
    while store.maintain(0.0):
        calls += 1
        assert calls < 1000
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
def test_expiry_is_lazy_and_exact_to_the_millisecond(kind: str) -> None:
    store = make_store(kind)
    for length in (0, 100, 40_000, 200_000):
        put(store, b"k", length, 100)
        store.set_clock(NOW_MS + 99)
        assert finish(store.exists(0, [b"k"])) == [True]
        assert finish(store.read(0, b"k")).expire_at_ms == NOW_MS + 100
        store.set_clock(NOW_MS + 100)
        before = store.counters()
        assert finish(store.exists(0, [b"k"])) == [False]
        after = store.counters()
        assert after["expired"] - before["expired"] == 1
        assert after["misses"] - before["misses"] == 1
        assert after["evicted"] == after["deleted"] == 0
        assert store.database_size(0).keys == 0
        store.set_clock(NOW_MS)
        put(store, b"k", length, 100)
        store.set_clock(NOW_MS + 100)
        assert finish(store.read(0, b"k")) is None
        assert finish(store.read(0, b"k", payload=False)) is None
        assert store.counters()["expired"] - after["expired"] == 1
        store.set_clock(NOW_MS)
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
def test_writes_see_an_expired_key_as_absent(kind: str) -> None:
    store = make_store(kind)
    put(store, b"k", 10, 1)
    store.set_clock(NOW_MS + 1)
    assert finish(store.write(0, b"k", b"x", condition=Condition.XX)).status == Status.MISS
    store.set_clock(NOW_MS)
    put(store, b"k", 10, 1)
    token = finish(store.read(0, b"k")).token
    store.set_clock(NOW_MS + 1)
    assert finish(store.replace(0, b"k", token, b"x", expire_at_ms=-1)) == Status.CONFLICT
    store.set_clock(NOW_MS)
    put(store, b"k", 10, 1)
    store.set_clock(NOW_MS + 1)
    assert finish(store.write(0, b"k", b"new", condition=Condition.NX, keep_ttl=True)).status == Status.OK
    assert finish(store.read(0, b"k")).expire_at_ms == -1
    assert store.database_size(0).expires == 0


@every_fabric
def test_maintain_removes_the_expired_and_nothing_else(kind: str) -> None:
    store = make_store(kind, pages=100, index_entries=7 * 3000)
    for number in range(6_000):
        put(store, b"k%d" % number, 50, [None, 10, 20][number % 3])
    assert store.database_size(0).expires == 4_000
    store.set_clock(NOW_MS + 10)
    sweep(store)
    assert store.counters()["expired"] == 2_000
    assert (store.database_size(0).keys, store.database_size(0).expires) == (4_000, 2_000)
    store.set_clock(NOW_MS + 20)
    sweep(store)
    assert store.counters()["expired"] == 4_000
    assert (store.database_size(0).keys, store.database_size(0).expires) == (2_000, 0)
    assert store.counters()["evicted"] == 0
    assert all(finish(store.exists(0, [b"k%d" % number for number in range(0, 6_000, 3)])))


@every_fabric
def test_an_expiry_that_no_longer_fits_the_cell_moves_the_value(kind: str) -> None:
    store = make_store(kind)
    key = b"to the byte"
    value = bytes(range(256)) * 128
    value = value[: largest_inline_bytes(key)]
    for length in range(len(value) - 9, len(value) + 1):
        assert finish(store.write(0, b"neighbour", bytes(32_000))).status == Status.OK
        assert finish(store.write(0, key, value[:length])).status == Status.OK
        token = finish(store.read(0, key)).token
        assert finish(store.replace(0, key, token, None, expire_at_ms=NOW_MS + 50)) == Status.OK
        entry = finish(store.read(0, key))
        assert (entry.payload, entry.expire_at_ms) == (value[:length], NOW_MS + 50)
        assert finish(store.replace(0, key, entry.token, None, expire_at_ms=-1)) == Status.OK
        assert finish(store.read(0, key)).payload == value[:length]
    finish(store.delete(0, [key, b"neighbour"]))
    store.release_spares()
    assert pages_used(store) == 0


@every_fabric
def test_idle_time_and_hits_are_those_before_this_access(kind: str) -> None:
    store = make_store(kind)
    put(store, b"k", 10)
    store.set_clock(NOW_MS + 90_000)
    assert finish(store.read(0, b"k", touch=False)).idle_s == 90
    assert finish(store.prefix_info(0, b"k")).last_use_ms == NOW_MS
    assert finish(store.read(0, b"k")).idle_s == 90
    store.set_clock(NOW_MS + 100_000)
    info = finish(store.prefix_info(0, b"k"))
    assert (info.hits, info.last_use_ms) == (1, NOW_MS + 90_000)
    assert finish(store.read(0, b"k", touch=False)).idle_s == 10


@every_fabric
def test_two_front_ends_share_the_room(kind: str) -> None:
    # Another front end's values are found by sampling the index, so it must not be nearly empty.
    first = make_store(kind, policy="allkeys-lru", pages=30, index_entries=7 * 40)
    second = second_store(first, policy="allkeys-lru")
    limit = int(first.memory()["limit_bytes"])
    for number in range(40):
        assert put(first, b"a%d" % number, 100_000) == Status.OK
    for number in range(40):
        assert put(second, b"b%d" % number, 100_000) == Status.OK, "the first one's values can go"
        assert second.memory()["used_bytes"] <= limit
    assert second.counters()["evicted"] > 10
    for number in range(40):
        assert put(first, b"c%d" % number, 100) == Status.OK
    assert finish(second.delete(0, [b"%c%d" % (letter, number) for letter in b"abc" for number in range(40)])) > 0
    assert finish(first.scan(0, 0, 1000)) == (0, [])


@every_fabric
@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_cells_freed_by_another_front_end_are_room(kind: str, policy: str) -> None:
    first = make_store(kind, policy=policy, pages=20, index_entries=7 * 3000)
    second = second_store(first)
    number = 0
    while first.counters()["evicted"] == 0 and put(first, b"k%d" % number, 500) == Status.OK:
        number += 1
    assert finish(second.delete(0, [b"k%d" % one for one in range(number + 1)])) > 100
    for number in range(15):
        assert put(first, b"other%d" % number, 60_000) == Status.OK
    first.maintain(10.0)
