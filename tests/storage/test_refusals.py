"""A pool that is not what it should be is refused, and the text says what was found and what was expected."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest

from storage.fabric.shm import SharedMemoryFabric
from storage.fabric.sim import SimulatedFabric
from storage.pool import Pool, PoolError

SIZE_BYTES = 4 << 20
SUPERBLOCK = struct.Struct("<8sII4Q16sIIQ32s16s")
FIELDS = (
    "magic", "version", "kind", "pool_bytes", "sets", "pages", "entries", "secret", "binding_bits", "version_bits", "epoch", "nodes", "boot"
)  # fmt: skip


def formatted() -> SimulatedFabric:
    """Return the memory of a sound pool."""
    fabric = SimulatedFabric(SIZE_BYTES)
    Pool.format(fabric, index_entries=1022)
    return fabric


def change(fabric: SimulatedFabric, **fields: Any) -> None:
    """Change fields of the superblock under a right checksum."""
    values = dict(zip(FIELDS, SUPERBLOCK.unpack(fabric.peek(0, SUPERBLOCK.size)), strict=True)) | fields
    block = SUPERBLOCK.pack(*(values[name] for name in FIELDS))
    fabric.poke(0, block + struct.pack("<I", zlib.crc32(block)))


def test_a_sound_pool_is_taken() -> None:
    assert Pool.attach(formatted()).layout()["set_count"] == 146


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"magic": b"REDISRDB"}, ["REDISRDB", "KVCDPOOL"]),
        ({"version": 7}, ["version 7", "version 5"]),
        ({"kind": 1}, ["shm", "sim"]),
        ({"kind": 2}, ["verbs", "sim"]),
        ({"kind": 9}, ["number 9", "sim"]),
        ({"pool_bytes": SIZE_BYTES * 2}, [str(SIZE_BYTES * 2), str(SIZE_BYTES)]),
        ({"sets": 99}, ["99 sets", "146 sets"]),
        ({"pages": 29}, ["29 pages", "20 pages"]),
        ({"pages": 3}, ["3 pages", "8 to 4194303"]),
        ({"binding_bits": 9}, ["9 bits", "8 and 14"]),
        ({"version_bits": 15}, ["15 of version", "8 and 14"]),
        ({"entries": 2044}, ["146 sets", "292 sets"]),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], texts: list[str]) -> None:
    fabric = formatted()
    change(fabric, **fields)
    with pytest.raises(PoolError) as refusal:
        Pool.attach(fabric)
    for text in texts:
        assert text in str(refusal.value)


@pytest.mark.parametrize("offset", [16, 40, 60, 100, SUPERBLOCK.size - 1, SUPERBLOCK.size + 3])
def test_a_flipped_bit_is_found_by_the_checksum(offset: int) -> None:
    fabric = formatted()
    found = fabric.peek(offset, 1)[0]
    fabric.poke(offset, bytes([found ^ 0x10]))
    with pytest.raises(PoolError, match=r"checksum 0x[0-9a-f]{8}, expected 0x[0-9a-f]{8}"):
        Pool.attach(fabric)


def test_zeroed_memory_is_no_pool() -> None:
    with pytest.raises(PoolError, match="not a kvcd pool"):
        Pool.attach(SimulatedFabric(SIZE_BYTES))


def test_memory_shorter_than_a_superblock_is_refused() -> None:
    with pytest.raises(PoolError, match="outside the pool of 64 bytes"):
        Pool.attach(SimulatedFabric(64))


def test_a_pool_cut_short_is_refused() -> None:
    fabric, half = formatted(), SimulatedFabric(SIZE_BYTES // 2)
    half.poke(0, fabric.peek(0, SIZE_BYTES // 2))
    with pytest.raises(PoolError, match=f"says {SIZE_BYTES} bytes, the memory has {SIZE_BYTES // 2}"):
        Pool.attach(half)


def test_a_pool_of_processor_atomics_is_not_shared_with_another_fabric() -> None:
    memory = SharedMemoryFabric.memory(SIZE_BYTES)
    pool = Pool.format(memory, index_entries=1022)
    copy = SimulatedFabric(SIZE_BYTES)
    copy.poke(0, pool.read(0, 4096))
    with pytest.raises(PoolError, match="the shm fabric; it cannot be shared with the sim"):
        Pool.attach(copy)


def test_a_pool_too_small_for_its_index_is_refused_with_what_would_do() -> None:
    with pytest.raises(PoolError, match="at least") as refusal:
        Pool.format(SimulatedFabric(SIZE_BYTES), index_entries=1_000_000)
    needed = next(int(word) for word in str(refusal.value).split() if word.isdigit() and int(word) > 30_000_000)
    assert Pool.format(SimulatedFabric(needed), index_entries=1_000_000).layout()["page_count"] >= 8


NODES = ("a:7700", "b:7700", "c:7700")


def test_the_order_of_the_list_does_not_matter() -> None:
    fabric = SimulatedFabric(SIZE_BYTES)
    Pool.format(fabric, index_entries=1022, node="b:7700", nodes=NODES)
    assert Pool.attach(fabric, 1, "b:7700", tuple(reversed(NODES))).incarnation == 1


@pytest.mark.parametrize(
    ("node", "nodes"),
    [
        ("", ()),  # as a pool of one node
        ("a:7700", NODES),  # as another node of the list
        ("b:7700", NODES[:2]),
        ("b:7700", (*NODES, "d:7700")),
        ("B:7700", ("a:7700", "B:7700", "c:7700")),  # spelt in another way: its keys would be looked for elsewhere
    ],
)
def test_another_list_of_nodes_is_refused_and_both_are_named(node: str, nodes: tuple[str, ...]) -> None:
    fabric = SimulatedFabric(SIZE_BYTES)
    Pool.format(fabric, index_entries=1022, node="b:7700", nodes=NODES)
    with pytest.raises(PoolError, match="the same list") as refusal:
        Pool.attach(fabric, 1, node, nodes)
    text = str(refusal.value)
    assert f"node b:7700 of {','.join(NODES)}" in text
    assert f"node {node or '(none)'} of {','.join(sorted(nodes)) or '(no list)'}" in text


def test_a_pool_of_one_node_is_not_taken_for_one_of_a_list() -> None:
    with pytest.raises(PoolError, match=r"made as node \(none\) of \(no list\), and is asked for as node a:7700"):
        Pool.attach(formatted(), 0, "a:7700", NODES)


@pytest.mark.parametrize("front_end", [-1, 64])
def test_a_front_end_without_a_row_is_refused(front_end: int) -> None:
    with pytest.raises(PoolError, match="rows for 0 to 63"):
        Pool.attach(formatted(), front_end)


def test_every_attach_is_another_incarnation() -> None:
    fabric = formatted()
    seen = {Pool.attach(fabric, 5).incarnation for _ in range(4)}
    assert len(seen) == 4
    assert Pool.attach(fabric, 6).incarnation == 1


def test_the_mark_of_a_clean_shutdown_is_outside_the_checksum() -> None:
    fabric = formatted()
    pool = Pool.attach(fabric)
    assert not pool.is_clean
    pool.mark_clean(True)
    assert Pool.attach(fabric).is_clean
    pool.mark_clean(False)
    assert not Pool.attach(fabric).is_clean
