"""Several memory nodes: where keys live, what one batch costs, and what is left when a node is lost."""

from __future__ import annotations

import random

import pytest

from storage.cluster import Cluster, Node
from storage.engine import Engine
from storage.fabric.sim import SimulatedFabric
from storage.interface import Status
from storage.pool import Pool, PoolError
from storage.recovery import recover_node
from storage.store import Store
from tests.storage.pools import INDEX_BYTES, NOW_MS, PAGE_BYTES, filler, finish, sweep

NAMES = ("memory-1:7400", "memory-2:7400", "memory-3:7400")
SIZE_BYTES = INDEX_BYTES + 1022 * 36 + 67 * (PAGE_BYTES + 8)


def make_node(number: int, names: tuple[str, ...] = NAMES, fabric: SimulatedFabric | None = None) -> Node:
    """Return a node with a new pool, or with the one that ``fabric`` holds."""
    if fabric is None:
        pool = Pool.format(
            SimulatedFabric(SIZE_BYTES, number + 1), index_entries=1022, secret=bytes(16), node=names[number], nodes=names
        )
    else:
        pool = Pool.attach(fabric, 0, names[number], names)
    return Node(names[number], Engine(pool, number, names[number]), "noeviction")


def make_cluster(count: int = 3, policy: str = "noeviction") -> Store:
    names = NAMES[:count]
    store = Store(Cluster([make_node(number, names) for number in range(count)]), policy)
    store.set_clock(NOW_MS)
    return store


def fabric_of(store: Store, number: int) -> SimulatedFabric:
    engine = store.cluster.nodes[number].engine
    assert engine is not None
    fabric = engine.pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    return fabric


def home_of(store: Store, key: bytes) -> int:
    """Return the number of the node that stores ``key``, by storing it."""
    before = [fabric_of(store, number).operation_counts()["writes"] for number in range(store.cluster.node_count)]
    finish(store.write(0, key, b"v"))
    after = [fabric_of(store, number).operation_counts()["writes"] for number in range(store.cluster.node_count)]
    changed = [number for number, (early, late) in enumerate(zip(before, after, strict=True)) if early != late]
    assert len(changed) == 1
    return changed[0]


def keys_by_node(store: Store, wanted: int) -> list[list[bytes]]:
    """Return at least ``wanted`` stored keys for each node."""
    found: list[list[bytes]] = [[] for _ in range(store.cluster.node_count)]
    number = 0
    while min(map(len, found)) < wanted:
        key = b"key:%d" % number
        found[home_of(store, key)].append(key)
        number += 1
    return found


def test_a_cluster_does_what_a_dictionary_does() -> None:
    store, model = make_cluster(), {}
    choose = random.Random(7)
    for step in range(1500):
        key = b"k%d" % choose.randrange(120)
        action = choose.randrange(10)
        if action < 4:
            value = filler(choose.choice([0, 10, 3000, 70_000]), step)
            finish(store.write(0, key, value))
            model[key] = value
        elif action < 7:
            entry = finish(store.read(0, key))
            assert (entry.payload if entry else None) == model.get(key)
        elif action == 7:
            assert finish(store.delete(0, [key, b"nowhere"])) == (model.pop(key, None) is not None)
        elif action == 8:
            keys = [b"k%d" % choose.randrange(120) for _ in range(20)]
            assert finish(store.exists(0, keys)) == [each in model for each in keys]
        else:
            assert store.database_size(0).keys == len(model)
            assert finish(store.random_key(0)) in (model or {None})
    cursor, seen = 0, []
    while True:
        cursor, part = finish(store.scan(0, cursor, 10))
        seen += part
        if cursor == 0:
            break
    assert sorted(seen) == sorted(model)
    finish(store.flush(0))
    sweep(store)
    store.release_spares()
    assert store.database_size(0).keys == 0
    assert store.memory()["pages_used"] == 0


def test_keys_are_spread_evenly_whatever_the_order_of_the_list() -> None:
    store = make_cluster()
    homes = [home_of(store, b"key:%d" % number) for number in range(600)]
    assert all(160 <= homes.count(number) <= 240 for number in range(3))
    other = Store(Cluster([make_node(number, (NAMES[2], NAMES[0], NAMES[1])) for number in range(3)]), "noeviction")
    other.set_clock(NOW_MS)
    moved = [(NAMES[2], NAMES[0], NAMES[1])[home_of(other, b"key:%d" % number)] for number in range(600)]
    assert moved == [NAMES[number] for number in homes]


def test_one_node_less_moves_its_keys_alone() -> None:
    three, two = make_cluster(3), make_cluster(2)
    for number in range(300):
        home = home_of(three, b"key:%d" % number)
        assert home == 2 or home_of(two, b"key:%d" % number) == home


def test_a_match_asks_all_nodes_in_one_round() -> None:
    store = make_cluster()
    keys = [key for part in keys_by_node(store, 10) for key in part[:10]]
    for node in store.cluster.nodes:
        assert node.engine is not None
    before = [fabric_of(store, number).operation_counts() for number in range(3)]
    assert finish(store.exists(0, keys)) == [True] * 30
    for number in range(3):
        after = fabric_of(store, number).operation_counts()
        assert (after["rounds"] - after["unwaited"]) - (before[number]["rounds"] - before[number]["unwaited"]) == 1


def test_a_lost_node_is_missed_and_named_and_the_others_go_on() -> None:
    store = make_cluster()
    parts = keys_by_node(store, 5)
    fabric_of(store, 1).lose()
    for number, keys in enumerate(parts):
        found = finish(store.read_many(0, keys))
        assert [entry is not None for entry in found] == [number != 1] * len(keys)
        assert finish(store.exists(0, keys)) == [number != 1] * len(keys)
    with pytest.raises(ConnectionError, match=r"^memory node memory-2:7400 unreachable$"):
        finish(store.write(0, parts[1][0], b"new"))
    with pytest.raises(ConnectionError, match="memory-2:7400"):
        finish(store.delete(0, [parts[0][0], parts[1][0]]))
    assert finish(store.read(0, parts[0][0])) is None, "the other key of that command is deleted"
    with pytest.raises(ConnectionError, match="memory-2:7400"):
        finish(store.flush(None))
    assert store.database_size(0).keys == 0
    assert store.cluster.lost() == ["memory-2:7400"]
    assert store.lost_node_of(0, [parts[0][1], parts[1][1]]) == "memory-2:7400"
    assert store.lost_node_of(0, [parts[0][1], parts[2][1]]) is None
    assert not store.maintain(10.0)


def test_a_node_that_comes_back_empty_has_no_old_value() -> None:
    store = make_cluster()
    keys = keys_by_node(store, 5)[1]
    assert finish(store.exists(0, keys)) == [True] * len(keys)
    fabric_of(store, 1).lose()
    store.replace_node(1, make_node(1))
    assert finish(store.exists(0, keys)) == [False] * len(keys)
    finish(store.write(0, keys[0], b"new"))
    entry = finish(store.read(0, keys[0]))
    assert entry is not None
    assert entry.payload == b"new"


def test_a_node_that_comes_back_with_its_memory_has_its_values() -> None:
    store = make_cluster()
    keys = keys_by_node(store, 5)[1]
    memory = fabric_of(store, 1)
    again = memory.share(9)
    memory.lose()
    node = make_node(1, fabric=again)
    assert recover_node(node).keys == len(keys)
    store.replace_node(1, node)
    assert finish(store.exists(0, keys)) == [True] * len(keys)
    assert finish(store.delete(0, keys)) == len(keys)


def test_another_list_is_refused_with_both() -> None:
    store = make_cluster(2)
    with pytest.raises(PoolError, match=r"memory-1:7400,memory-2:7400.*memory-1:7400,memory-2:7400,memory-3:7400"):
        Pool.attach(fabric_of(store, 0), 1, NAMES[0], NAMES)
    with pytest.raises(PoolError, match="made as node memory-1:7400"):
        Pool.attach(fabric_of(store, 0), 1, NAMES[1], NAMES[:2])
    Pool.attach(fabric_of(store, 0), 1, NAMES[0], (NAMES[1], NAMES[0]))


def test_two_keys_that_belong_together_lie_together_and_leave_together() -> None:
    """Whatever chooses their node is what they have in common."""
    store = make_cluster(policy="allkeys-random")
    homes = [[home_of(store, b"block%d" % number + suffix) for suffix in (b"metadata", b"kv_bytes")] for number in range(200)]
    assert all(first == second for first, second in homes)
    assert {first for first, _ in homes} == {0, 1, 2}
    blocks = 0
    while store.counters()["evicted"] < 200:
        for suffix, length in ((b"kv_bytes", 60_000), (b"metadata", 28)):
            assert finish(store.write(0, b"block%d" % blocks + suffix, bytes(length))).status == Status.OK
        blocks += 1
    alone = 0
    for number in range(blocks):
        entries = finish(store.read_many(0, [b"block%d" % number + suffix for suffix in (b"metadata", b"kv_bytes")], touch=False))
        alone += (entries[0] is None) != (entries[1] is None)
    assert alone <= 3
