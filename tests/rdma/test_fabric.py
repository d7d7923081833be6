"""Verbs fabric on the guest's device: every operation, doorbells of every size, refusals, and how a node is lost."""

from __future__ import annotations

import errno
import gc
import os
import struct
import subprocess
import sys
import time
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.fabric.control_messages import QueuePairReply
from storage.fabric.verbs import VerbsFabric
from storage.fabric.verbs_device import VerbsDevice
from storage.fabric.verbs_devices import VerbsError
from tests.rdma.loopback import LoopbackFabric, connect, describe, front_end_device, loopback_fabric, make_region

pytestmark = pytest.mark.verbs

ROOT = Path(__file__).resolve().parents[2]
SIZE_BYTES = 8 << 20
PAGE_BYTES = 65_536
LEAST_STAGING_BYTES = (4 << 20) + (256 << 10)
UNREACHABLE = errno.EHOSTUNREACH


@pytest.fixture
def fabric() -> Iterator[LoopbackFabric]:
    """A fabric on zeroed memory; afterwards every buffer is back."""
    device = front_end_device()
    free = device.free_doorbell_buffers, device.free_staging_buffers
    made = loopback_fabric(SIZE_BYTES)
    yield made
    made.close()
    assert (device.free_doorbell_buffers, device.free_staging_buffers) == free
    assert device.waiting_count == 0


def pattern(length: int, seed: int = 1) -> bytes:
    """Return bytes in which a piece in the wrong place shows."""
    return array("Q", range(seed << 32, (seed << 32) + length // 8 + 1)).tobytes()[:length]


def refused(code: int) -> pytest.RaisesExc[OSError]:
    """Expect an OSError with this errno."""
    return pytest.raises(OSError, match=rf"^\[Errno {code}\]")


def expect_lost(fabric: VerbsFabric, reason: str) -> None:
    """Everything fails at once, and the reason is said."""
    assert fabric.is_lost
    assert fabric.lost_reason is not None
    assert reason in fabric.lost_reason
    began = time.monotonic()
    for operation in (lambda: fabric.read(0, 8), lambda: fabric.bulk_read(0, 8), lambda: fabric.fetch_and_add(0, 1)):
        with refused(UNREACHABLE):
            operation()
    assert time.monotonic() - began < 1
    assert fabric.outstanding_count == 0


# 220 bytes travel in the work request; 65536 is a doorbell buffer.
@pytest.mark.parametrize("length", [1, 7, 8, 219, 220, 221, 4096, 65_535, 65_536, 65_537, 1 << 20])
def test_a_write_arrives_and_a_read_brings_it_back(fabric: LoopbackFabric, length: int) -> None:
    data = pattern(length)
    fabric.write(4093, data)
    assert fabric.peek(4092, length + 2) == b"\0" + data + b"\0"
    assert fabric.read(4093, length) == data


def test_nothing_is_moved_where_nothing_is_asked_for(fabric: LoopbackFabric) -> None:
    fabric.write(SIZE_BYTES, b"")
    assert fabric.read(SIZE_BYTES, 0) == b""
    assert fabric.doorbell([]) == []


def test_atomics_answer_the_word_before(fabric: LoopbackFabric) -> None:
    assert fabric.compare_and_swap(64, 0, 5) == 0
    assert fabric.compare_and_swap(64, 0, 9) == 5
    assert fabric.fetch_and_add(64, 2**64 - 3) == 5
    assert fabric.read(64, 8) == struct.pack("<Q", 2)


def test_a_doorbell_sees_its_own_effects_in_order(fabric: LoopbackFabric) -> None:
    one, two = struct.pack("<Q", 1), struct.pack("<Q", 2)
    results = fabric.doorbell(
        [
            ("READ", 0, 8),
            ("WRITE", 0, one),
            ("CAS", 0, (1, 2)),
            ("READ", 0, 8),
            ("CAS", 0, (1, 3)),
            ("FAA", 0, 40),
            ("READ", 8, 8),
        ],
        fenced={1},
    )
    assert results == [bytes(8), None, 1, two, 2, 2, bytes(8)]
    assert fabric.read(0, 8) == struct.pack("<Q", 42)


def test_a_fenced_write_does_not_overtake_a_read(fabric: LoopbackFabric) -> None:
    for seed in range(1, 21):
        old = fabric.peek(0, PAGE_BYTES)
        assert fabric.doorbell([("READ", 0, PAGE_BYTES), ("WRITE", 0, pattern(PAGE_BYTES, seed))], fenced={1})[0] == old


def test_a_doorbell_of_a_thousand_operations(fabric: LoopbackFabric) -> None:
    written = [("WRITE", number * 264, pattern(8 + number % 250, number)) for number in range(1000)]
    fabric.doorbell(written)
    read = fabric.doorbell([("READ", offset, len(data)) for _, offset, data in written])
    assert read == [data for _, _, data in written]


def test_a_doorbell_longer_than_the_send_queue_keeps_its_order(fabric: LoopbackFabric) -> None:
    count = 3000
    operations = [("FAA", 0, 1) if number % 2 else ("WRITE", 8, struct.pack("<Q", number)) for number in range(count)]
    results = fabric.doorbell([*operations, ("READ", 8, 8)])
    assert results[1:count:2] == list(range(count // 2))
    assert results[count] == struct.pack("<Q", count - 2)


def test_a_doorbell_larger_than_all_buffers(fabric: LoopbackFabric) -> None:
    data = pattern(6 << 20)
    halves = [("WRITE", 0, data[: 3 << 20]), ("WRITE", 3 << 20, data[3 << 20 :])]
    assert fabric.device.free_doorbell_buffers * PAGE_BYTES < len(data)
    fabric.doorbell(halves)
    assert fabric.peek(0, len(data)) == data
    places = range(0, len(data), 40_000)  # less than a buffer, and two do not share one
    assert fabric.doorbell([("READ", at, 40_000) for at in places if at + 40_000 <= len(data)]) == [
        data[at : at + 40_000] for at in places if at + 40_000 <= len(data)
    ]


def test_payloads_move_through_staging_buffers(fabric: LoopbackFabric) -> None:
    data = pattern((5 << 20) + 12_345)
    fabric.bulk_write(77, data)
    assert fabric.peek(76, len(data) + 2) == b"\0" + data + b"\0"
    assert fabric.bulk_read(77, len(data)) == data


def test_operations_are_counted_when_they_are_posted(fabric: LoopbackFabric) -> None:
    fabric.doorbell([("READ", 0, 128), ("WRITE", 0, b"12345"), ("CAS", 0, (0, 1)), ("FAA", 0, 1), ("READ", 0, 200_000)])
    fabric.bulk_write(0, bytes(300_000))
    assert fabric.operation_counts() == {
        "rounds": 2,
        "unwaited": 0,
        "reads": 2,
        "writes": 3,
        "compare_and_swaps": 1,
        "fetch_and_adds": 1,
        "read_bytes": 200_128,
        "write_bytes": 300_005,
    }


@pytest.mark.parametrize(
    "operation",
    [
        ("READ", SIZE_BYTES - 7, 8),
        ("WRITE", SIZE_BYTES - 7, b"12345678"),
        ("READ", 2**64 - 8, 8),
        ("READ", SIZE_BYTES + 1, 0),
        ("CAS", SIZE_BYTES, (0, 1)),
        ("FAA", SIZE_BYTES - 4, 1),
        ("CAS", 4, (0, 1)),
        ("FAA", 12, 1),
    ],
    ids=str,
)
def test_what_lies_outside_or_askew_is_refused_before_anything_is_posted(
    fabric: LoopbackFabric, operation: tuple[str, int, object]
) -> None:
    with refused(errno.EFAULT):
        fabric.doorbell([("WRITE", 0, b"x"), operation])
    assert not fabric.is_lost
    assert fabric.operation_counts()["rounds"] == 0
    assert fabric.read(0, 1) == b"\0"


def test_waiting_in_any_order(fabric: LoopbackFabric) -> None:
    fabric.poke(0, pattern(4096))
    begun = [fabric.begin([("READ", number * 8, 8)]) for number in range(32)]
    for number in reversed(range(32)):
        assert begun[number].finish() == [pattern(4096)[number * 8 : number * 8 + 8]]


def test_forgotten_writes_arrive_and_their_buffers_come_back(fabric: LoopbackFabric) -> None:
    for number in range(200):  # more than there are buffers
        data = bytearray(pattern(1000, number))
        fabric.begin([("WRITE", number * 1000, bytes(data))]).forget()
    fabric.begin([("WRITE", 1 << 20, pattern(6 << 20))]).forget()  # more than fits at once
    fabric.read(0, 8)
    assert fabric.outstanding_count == 0
    assert fabric.peek(0, 200_000) == b"".join(pattern(1000, number) for number in range(200))
    assert fabric.peek(1 << 20, 6 << 20) == pattern(6 << 20)


def test_who_keeps_all_buffers_and_waits_for_more_fails_alone() -> None:
    device = front_end_device()
    free = device.free_doorbell_buffers
    fabric = loopback_fabric(SIZE_BYTES, deadline_ms=300)
    holder = fabric.begin([("READ", 0, SIZE_BYTES - PAGE_BYTES)])  # takes all buffers, is done, and nobody fetches its results
    with refused(errno.ENOBUFS):
        fabric.read(0, 8)
    assert not fabric.is_lost
    assert holder.finish() == [bytes(SIZE_BYTES - PAGE_BYTES)]
    assert fabric.read(0, 8) == bytes(8)
    fabric.close()
    assert device.free_doorbell_buffers == free


def test_a_wrong_key_loses_the_node_with_a_reason() -> None:
    region = make_region(PAGE_BYTES)
    device = front_end_device()
    free = device.free_doorbell_buffers
    fabric = connect(region, rkey=region.rkey ^ 0x12345)
    began = time.monotonic()
    doorbells = [fabric.begin([("READ", 0, 128)] * 100) for _ in range(5)]
    for doorbell in doorbells:
        with refused(UNREACHABLE):
            doorbell.finish()
    assert time.monotonic() - began < 5
    expect_lost(fabric, "lends no such memory")
    assert device.free_doorbell_buffers == free
    fabric.close()
    region.close()


def test_payloads_under_way_are_over_when_the_node_is_lost() -> None:
    region = make_region(SIZE_BYTES)
    fabric = connect(region, rkey=region.rkey ^ 0x12345)
    device = front_end_device()
    staging = device.free_staging_buffers
    with refused(UNREACHABLE):
        fabric.bulk_write(0, bytes(SIZE_BYTES))
    assert fabric.outstanding_count == 0
    assert device.free_staging_buffers == staging
    fabric.close()
    region.close()


def test_a_node_that_is_gone_is_lost_by_the_retries_of_the_device() -> None:
    fabric = loopback_fabric(PAGE_BYTES, deadline_ms=20_000)
    fabric.fall_silent()
    began = time.monotonic()
    with refused(UNREACHABLE):
        fabric.read(0, 8)
    assert time.monotonic() - began < 10
    expect_lost(fabric, "does not answer")
    fabric.close()


def test_a_node_that_does_not_answer_is_lost_at_the_deadline() -> None:
    device = front_end_device()
    free = device.free_doorbell_buffers
    fabric = connect(make_region(PAGE_BYTES), deadline_ms=150, acknowledgement_timeout=17)  # long before the device gives up
    fabric.read(0, 8)
    fabric.fall_silent()
    began = time.monotonic()
    first, second = fabric.begin([("WRITE", 0, bytes(PAGE_BYTES))]), fabric.begin([("FAA", 0, 1)])
    for doorbell in (second, first):
        with refused(UNREACHABLE):
            doorbell.finish()
    assert 0.15 <= time.monotonic() - began < 2
    expect_lost(fabric, "no answer for 150 ms")
    assert device.free_doorbell_buffers == free
    fabric.close()


def test_forgotten_writes_to_a_node_that_is_gone_give_their_buffers_back() -> None:
    device = front_end_device()
    free = device.free_doorbell_buffers
    fabric = connect(make_region(PAGE_BYTES), deadline_ms=150, acknowledgement_timeout=17)
    fabric.fall_silent()
    for _ in range(10):
        fabric.begin([("WRITE", 0, bytes(1000))]).forget()
    assert device.free_doorbell_buffers < free
    began = time.monotonic()
    while not fabric.is_lost and time.monotonic() - began < 5:
        device.expire()
    expect_lost(fabric, "no answer")
    assert device.free_doorbell_buffers == free
    fabric.close()


def test_one_lost_node_leaves_the_others_alone(fabric: LoopbackFabric) -> None:
    other = loopback_fabric(PAGE_BYTES)
    pending = other.begin([("READ", 0, 8)])
    other.lose("its control connection ended")
    with refused(UNREACHABLE):
        pending.finish()
    expect_lost(other, "its control connection ended")
    other.lose("again")
    assert other.lost_reason == "its control connection ended"
    fabric.write(0, b"still here")
    assert fabric.read(0, 10) == b"still here"
    other.close()


def test_a_new_fabric_reaches_a_node_whose_old_one_was_lost() -> None:
    region = make_region(PAGE_BYTES)
    first = connect(region)
    first.shares_region = True
    first.write(0, b"kept")
    first.lose("test")
    first.close()
    second = connect(region)
    assert second.read(0, 4) == b"kept"
    second.close()


def test_a_done_doorbell_keeps_its_results_when_the_node_is_lost_afterwards(fabric: LoopbackFabric) -> None:
    fabric.poke(0, b"12345678")
    done = fabric.begin([("READ", 0, 8)])
    fabric.read(8, 8)  # of one queue pair everything completes in order
    fabric.lose("test")
    assert done.finish() == [b"12345678"]


def test_closing_ends_what_is_under_way(fabric: LoopbackFabric) -> None:
    pending = fabric.begin([("READ", 0, 1 << 20)])
    fabric.close()
    with refused(UNREACHABLE):
        pending.finish()
    assert fabric.lost_reason == "closed"
    fabric.close()


def test_an_unconnected_fabric_refuses_operations_and_a_second_connection() -> None:
    region = make_region(PAGE_BYTES)
    fabric = VerbsFabric.prepare(front_end_device())
    with refused(errno.ENOTCONN):
        fabric.read(0, 8)
    replies = [QueuePairReply(number=pair.number, psn=pair.psn) for pair in region.connect(fabric.queue_pairs)]
    with pytest.raises(ValueError, match="1 queue pairs in answer to 2"):
        fabric.connect(replies[:1], describe(region))
    fabric.connect(replies, describe(region))
    assert fabric.size_bytes == PAGE_BYTES
    with pytest.raises(ValueError, match="connected once"):
        fabric.connect(replies, describe(region))
    fabric.close()
    region.close()


def test_a_device_is_closed_after_its_fabrics() -> None:
    device = VerbsDevice(staging_bytes=LEAST_STAGING_BYTES)
    fabric = loopback_fabric(PAGE_BYTES, device=device)
    with pytest.raises(ValueError, match="1 memory nodes still use"):
        device.close()
    fabric.close()
    device.close()
    device.close()
    with pytest.raises(ValueError, match="closed"):
        device.fileno()
    with pytest.raises(ValueError, match="closed"):
        VerbsFabric.prepare(device)


def test_an_unknown_device_is_answered_with_those_there() -> None:
    with pytest.raises(VerbsError, match="no RDMA device 'mlx9_9'; there is rxe0"):
        VerbsDevice("mlx9_9")


def test_an_empty_gid_is_answered_with_those_there() -> None:
    with pytest.raises(VerbsError, match="no GID at index 77"):
        VerbsDevice(gid_index=77)


def test_too_little_staging_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4456448 are needed"):
        VerbsDevice(staging_bytes=LEAST_STAGING_BYTES - 1)


def test_memory_that_may_not_be_locked_is_answered_with_the_limit() -> None:
    program = "from storage.fabric.verbs_device import VerbsDevice\nVerbsDevice(staging_bytes=8 << 20)"
    dropped = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit", "--memlock=65536:65536"]
    ended = subprocess.run(
        [*dropped, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    assert ended.returncode == 1
    assert "8388608 bytes of staging memory cannot be registered" in ended.stderr
    assert "may lock 65536 bytes" in ended.stderr
    assert "ulimit -l unlimited" in ended.stderr


def test_a_region_that_the_collector_of_cycles_finds() -> None:
    """Its registration stands before it in the collector's list, and is cleared first: pyverbs would free the region's memory then."""
    region = make_region(PAGE_BYTES)
    region.knot = region  # type: ignore[attr-defined]
    registration = region._registration  # held by itself it keeps its place; the region, found later, goes to the end
    holder = [region]
    del region
    gc.collect()
    gone = weakref.ref(holder[0])
    del registration, holder
    gc.collect()
    assert gone() is None
