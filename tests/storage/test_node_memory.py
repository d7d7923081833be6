"""Node memory: what of a memory node's file is kept, emptied or refused, and who may have it."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest

from storage import node_memory, pool_files
from storage.node_memory import NodeMemory
from storage.pool import VERSION, PoolError

SIZE_BYTES = 4 << 20
SECRET = b"s" * 16


class Events:
    """Collects what is logged."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, event: str, **_particulars: object) -> None:
        self.seen.append(event)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "pool")


def superblock(*, version: int = VERSION, fabric: int = 2, size_bytes: int = SIZE_BYTES) -> bytes:
    """Return a superblock as a front end writes it."""
    block = struct.pack("<8sII4Q16sIIQ32s16s", b"KVCDPOOL", version, fabric, size_bytes, 10, 8, 70, SECRET, 8, 14, 1, bytes(32), bytes(16))
    return block + struct.pack("<I", zlib.crc32(block))


def formatted(path: str, events: Events) -> bytes:
    """Leave a file that a front end has formatted and used, as a kill leaves it; return its instance."""
    node = node_memory.file(path, SIZE_BYTES, log=events)
    node.memory[: len(superblock())] = superblock()
    node.memory[100_000:100_005] = b"value"
    kill(node)
    return node.instance


def kill(node: NodeMemory) -> None:
    """Let go as a kill does: nothing is marked."""
    node.memory.close()
    os.close(node._lock)


def rewrite(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def forget_boot(path: str) -> None:
    """Make the file look as if another boot had used it last."""
    boot = b"another boot id."
    rewrite(path, 2048, boot + struct.pack("<I", zlib.crc32(boot)))


def test_anonymous_memory_is_blank_and_each_has_its_own_instance(events: Events) -> None:
    one, two = (node_memory.anonymous(SIZE_BYTES, huge_pages=False, log=events) for _ in range(2))
    assert (one.size_bytes, one.is_formatted, one.kept) == (SIZE_BYTES, False, False)
    assert len(one.instance) == 16
    assert one.instance != two.instance
    one.close()
    one.close()
    two.close()


def test_a_killed_nodes_file_is_kept_with_its_instance_under_the_same_boot(path: str, events: Events) -> None:
    instance = formatted(path, events)
    node = node_memory.file(path, SIZE_BYTES, log=events)
    assert (node.kept, node.is_formatted, node.instance) == (True, True, instance)
    assert node.memory[100_000:100_005] == b"value"
    node.close()
    assert events.seen == []


def test_a_file_left_in_order_survives_a_reboot(path: str, events: Events) -> None:
    formatted(path, events)
    node = node_memory.file(path, SIZE_BYTES, log=events)
    node.close()
    forget_boot(path)
    node = node_memory.file(path, SIZE_BYTES, log=events)
    assert node.kept
    assert node.memory[1024:1032] == bytes(8), "in use again: the mark is gone"
    kill(node)
    forget_boot(path)
    assert not node_memory.file(path, SIZE_BYTES, log=events).kept


def test_a_file_of_another_boot_without_the_mark_is_emptied_with_a_line(path: str, events: Events) -> None:
    instance = formatted(path, events)
    forget_boot(path)
    node = node_memory.file(path, SIZE_BYTES, log=events)
    assert (node.kept, node.is_formatted) == (False, False)
    assert node.instance != instance
    assert not any(node.memory[100_000:100_005])
    assert events.seen == ["pool emptied"]
    node.close()


def test_a_torn_boot_record_counts_as_another_boot(path: str, events: Events) -> None:
    formatted(path, events)
    rewrite(path, 2050, b"\xff\xff")
    node = node_memory.file(path, SIZE_BYTES, log=events)
    assert not node.kept
    node.close()


@pytest.mark.parametrize("in_order", [True, False])
def test_a_file_that_no_front_end_ever_formatted_begins_anew(
    path: str, events: Events, in_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_files, "_BLANK_LIMIT_BYTES", 4096)  # stands for the gigabytes that registering allocates
    node = node_memory.file(path, SIZE_BYTES, log=events)
    node.memory[8:40] = b"x" * 32  # a front end was killed while formatting: the magic comes last
    node.memory[1 << 20 : 2 << 20] = bytes(1 << 20)
    node.close() if in_order else kill(node)
    again = node_memory.file(path, SIZE_BYTES, log=events)
    assert not again.kept
    assert again.instance != node.instance
    assert not any(again.memory[8:40])
    again.close()


def test_a_running_nodes_file_is_refused_under_any_name(path: str, events: Events) -> None:
    node = node_memory.file(path, SIZE_BYTES, log=events)
    with pytest.raises(PoolError, match="in use by another process: stop that one"):
        node_memory.file(path, SIZE_BYTES, log=events)
    os.link(path, f"{path}.link")
    with pytest.raises(PoolError, match="under another name"):
        node_memory.file(f"{path}.link", SIZE_BYTES, log=events)
    node.close()
    node_memory.file(path, SIZE_BYTES, log=events).close()


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (superblock(version=9), f"layout version 9, this kvcd reads version {VERSION}"),
        (superblock(fabric=1), "a front end's own pool"),
        (superblock(size_bytes=8 << 20), "found a pool of 8388608 bytes in 4194304, expected --size 4194304"),
        (superblock()[:-1] + b"\xff", "damaged superblock"),
        (b"SQLite format 3\0", "holds other data"),
    ],
)
def test_what_is_no_pool_of_this_node_is_refused_and_left_as_it_is(path: str, events: Events, block: bytes, said: str) -> None:
    Path(path).write_bytes(block.ljust(SIZE_BYTES, b"\x01"))
    before = Path(path).read_bytes()
    with pytest.raises(PoolError, match=said):
        node_memory.file(path, SIZE_BYTES, log=events)
    assert Path(path).read_bytes() == before


def test_another_size_is_refused_and_names_the_right_one(path: str, events: Events) -> None:
    formatted(path, events)
    with pytest.raises(PoolError, match=f"give --size {SIZE_BYTES}"):
        node_memory.file(path, 2 * SIZE_BYTES, log=events)


def test_a_short_file_of_somebody_else_is_refused(path: str, events: Events) -> None:
    Path(path).write_bytes(b"notes")
    with pytest.raises(PoolError, match="holds other data"):
        node_memory.file(path, SIZE_BYTES, log=events)


def test_a_full_file_system_is_said_in_the_options_own_words(path: str, events: Events) -> None:
    with pytest.raises(PoolError, match="give --size at most") as error:
        node_memory.file(path, 1 << 60, log=events)
    assert "pool-size" not in str(error.value)


@pytest.mark.parametrize(
    ("meminfo", "size_bytes", "said"),
    [
        ("Hugepagesize: 2048 kB\nHugePages_Free: 3\nHugePages_Rsvd: 1", 8 << 20, r"4 huge pages of 2048 KiB.*2 are free.*hugepages=4"),
        ("Hugepagesize: 1048576 kB\nHugePages_Free: 3\n", 8 << 20, "a huge page has 1073741824 bytes"),
        ("MemTotal: 5 kB\n", 8 << 20, "no huge pages"),
    ],
)
def test_missing_huge_pages_say_how_to_reserve_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Events, meminfo: str, size_bytes: int, said: str
) -> None:
    (tmp_path / "meminfo").write_text(meminfo)
    monkeypatch.setattr(node_memory, "_MEMINFO", tmp_path / "meminfo")
    with pytest.raises(PoolError, match=said):
        node_memory.anonymous(size_bytes, huge_pages=True, log=events)
