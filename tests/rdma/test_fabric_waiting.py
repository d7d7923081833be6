"""Verbs fabric under an event loop: stacks wait for memory nodes while everything else goes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from greenlet import getcurrent, greenlet

from storage.fabric import waiting
from storage.fabric.control_messages import QueuePairAddress
from storage.fabric.verbs_device import VerbsDevice
from tests.rdma.loopback import LoopbackFabric, connect, describe, late_fabric, loopback_fabric, make_region

pytestmark = pytest.mark.verbs

Result = TypeVar("Result")

PAGE_BYTES = 65_536
STAGING_BYTES = 16 << 20
WINDOW_BYTES = 1 << 20
INCREMENTS = 1000
UNLUCKY = 80
EXPIRE_S = 0.05
ROOT = Path(__file__).resolve().parents[2]

# A front end in a process of its own: says what its queue pairs are, is told the node's, counts, says how often it came too late.
COUNTING_FRONT_END = """
import json, sys
from storage.fabric.control_messages import NodeDescription, QueuePairReply
from storage.fabric.verbs import VerbsFabric
from storage.fabric.verbs_device import VerbsDevice
fabric = VerbsFabric.prepare(VerbsDevice(staging_bytes=5 << 20), 20_000)
print(json.dumps([pair.as_message() for pair in fabric.queue_pairs]), flush=True)
replies = [QueuePairReply.from_message(reply) for reply in json.loads(sys.stdin.readline())]
fabric.connect(replies, NodeDescription.from_message(json.loads(sys.argv[1])))
fabric.fetch_and_add(136, 1)
while fabric.fetch_and_add(136, 0) < 2:  # until the other is here too
    pass
failed = word = 0
for _ in range(int(sys.argv[2])):
    while (before := fabric.compare_and_swap(128, word, word + 1)) != word:
        word = before
        failed += 1
    word += 1
print(failed)
"""
BOUND_S = 30.0


@pytest.fixture
async def device() -> AsyncIterator[VerbsDevice]:
    """A device that the running loop serves as the server's does; afterwards every buffer is back.

    Nobody looks at deadlines, which would also find what a lost wake-up left behind.
    """
    loop = asyncio.get_running_loop()
    made = VerbsDevice(staging_bytes=STAGING_BYTES)
    free = made.free_doorbell_buffers, made.free_staging_buffers
    loop.add_reader(made.fileno(), made.on_readable)
    waiting.set_call_soon(loop.call_soon)
    yield made
    waiting.set_call_soon(None)
    loop.remove_reader(made.fileno())
    assert made.waiting_count == 0
    assert (made.free_doorbell_buffers, made.free_staging_buffers) == free
    made.close()


@contextlib.contextmanager
def deadlines_kept(device: VerbsDevice) -> Iterator[None]:
    """Let the loop look at deadlines."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def expire() -> None:
        nonlocal timer
        device.expire()
        timer = loop.call_later(EXPIRE_S, expire)

    expire()
    yield
    timer.cancel()


def on_stack(function: Callable[[], Result]) -> Awaitable[Result]:
    """Run a function on a stack of its own; its result, or its exception."""
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            future.set_result(function())
        except OSError as error:
            future.set_exception(error)

    waiting.run(run)
    return asyncio.wait_for(future, BOUND_S)


class Ticker:
    """Counts the turns of the loop, and its longest."""

    def __init__(self) -> None:
        self.turns = 0
        self.longest_s = 0.0
        self._is_over = False
        self._goal = 0
        self._reached = asyncio.Event()

    async def __aenter__(self) -> Ticker:
        self._last_s = time.monotonic()
        asyncio.get_running_loop().call_soon(self._tick)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True

    async def turns_from_now(self, count: int) -> None:
        """Wait for the loop to turn so many times."""
        self._reached.clear()
        self._goal = self.turns + count
        await self._reached.wait()

    def _tick(self) -> None:
        now_s = time.monotonic()
        self.turns += 1
        self.longest_s = max(self.longest_s, now_s - self._last_s)
        self._last_s = now_s
        if self.turns == self._goal:
            self._reached.set()
        if not self._is_over:
            asyncio.get_running_loop().call_soon(self._tick)


def give_way() -> None:
    """Let others run: on Soft-RoCE most operations are over at once, and nobody waits for them."""
    stack = waiting.current()
    assert stack is not None
    waiting.resume_soon(stack)
    assert stack.parent is not None
    stack.parent.switch()


@pytest.mark.parametrize("spin_us", [0, 20])
async def test_many_stacks_wait_for_several_nodes_while_the_loop_goes_on(device: VerbsDevice, spin_us: int) -> None:
    fabrics = [late_fabric(PAGE_BYTES, device=device) for _ in range(3)]
    for fabric in fabrics:
        fabric.spin_us = spin_us

    def work(number: int) -> int:
        fabric, other = fabrics[number % 3], fabrics[(number + 1) % 3]
        for step in range(5):
            data = struct.pack("<QQ", number, step)
            begun = other.begin([("FAA", 0, 1)])
            fabric.doorbell([("WRITE", number * 64, data), ("WRITE", number * 64 + 32, data)])
            assert fabric.read(number * 64, 16) == data
            begun.finish()
            give_way()
        return number

    async with Ticker() as ticker:
        ends = [asyncio.ensure_future(on_stack(partial(work, number))) for number in range(1, 31)]
        assert device.waiting_count == 30
        await ticker.turns_from_now(20)
        assert device.waiting_count == 30
        for fabric in fabrics:
            fabric.answer()
        assert await asyncio.gather(*ends) == list(range(1, 31))
    assert [struct.unpack("<Q", fabric.peek(0, 8))[0] for fabric in fabrics] == [50, 50, 50]
    for fabric in fabrics:
        fabric.close()


async def test_more_stacks_than_buffers(device: VerbsDevice) -> None:
    fabric = late_fabric(1 << 20, device=device)
    data = bytes(range(256)) * 4096
    fabric.poke(0, data)
    count = 50
    assert device.free_doorbell_buffers < count * 3

    def work(number: int) -> None:
        assert fabric.read(number * 9, 150_000) == data[number * 9 : number * 9 + 150_000]

    ends = [asyncio.ensure_future(on_stack(partial(work, number))) for number in range(count)]
    assert device.waiting_count == count
    assert device.free_doorbell_buffers == 0
    fabric.answer()
    await asyncio.gather(*ends)
    assert not fabric.is_lost
    fabric.close()


async def test_buffers_of_one_node_go_to_who_waits_for_another(device: VerbsDevice) -> None:
    greedy = late_fabric(16 << 20, device=device)
    ends = [asyncio.ensure_future(on_stack(partial(greedy.read, 0, device.free_doorbell_buffers * PAGE_BYTES)))]
    assert device.free_doorbell_buffers == 0
    modest = loopback_fabric(PAGE_BYTES, device=device)
    ends += [asyncio.ensure_future(on_stack(partial(fabric.read, 0, 8))) for fabric in (modest, greedy)]
    assert device.waiting_count == 3
    greedy.answer()
    assert [len(data) for data in await asyncio.gather(*ends)] == [4 << 20, 8, 8]
    for fabric in (modest, greedy):
        fabric.close()


@pytest.mark.parametrize("operation", [("FAA", 0, 1), ("WRITE", 8, b"in the request")], ids=["buffered", "inline"])
async def test_more_work_requests_than_the_send_queue_holds(device: VerbsDevice, operation: tuple[str, int, object]) -> None:
    fabric = late_fabric(PAGE_BYTES, device=device)
    ends = [asyncio.ensure_future(on_stack(partial(fabric.doorbell, [operation] * 400))) for _ in range(6)]
    assert device.waiting_count == 6
    assert fabric.outstanding_count == 1024
    fabric.answer()
    results = [result for results in await asyncio.gather(*ends) for result in results]
    assert sorted(result for result in results if isinstance(result, int)) == list(range(2400 if operation[0] == "FAA" else 0))
    assert len(results) == 2400
    fabric.close()


def test_two_front_ends_count_exactly() -> None:
    """Two processes, each with a device of its own, raise one word by CAS."""
    region = make_region(PAGE_BYTES)
    description = json.dumps(describe(region).as_message())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTING_FRONT_END, description, str(INCREMENTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )
        for _ in range(2)
    ]
    try:
        asked = [json.loads(process.stdout.readline()) for process in processes if process.stdout]
        for process, pairs in zip(processes, asked, strict=True):
            made = region.connect([QueuePairAddress.from_message(pair) for pair in pairs])
            assert process.stdin
            process.stdin.write(json.dumps([{"number": pair.number, "psn": pair.psn} for pair in made]) + "\n")
            process.stdin.flush()
        failed = [int(process.communicate(timeout=60)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert struct.unpack("<Q", region.memory[128:136])[0] == 2 * INCREMENTS
    print(f"{failed[0]} and {failed[1]} of the compare-and-swaps came too late")
    assert sum(failed) > 0  # else they did not meet
    region.close()


@pytest.mark.parametrize("transfer_bytes", [8 << 20, pytest.param(64 << 20, marks=pytest.mark.long)])
async def test_small_operations_do_not_wait_for_payloads(device: VerbsDevice, transfer_bytes: int) -> None:
    fabric = loopback_fabric(transfer_bytes, device=device, deadline_ms=20_000)
    latencies_s: dict[str, list[float]] = {"alone": [], "beside payloads": []}
    is_over = False

    def small(kind: str, is_enough: Callable[[], bool]) -> None:
        while not is_enough():
            began = time.perf_counter()
            fabric.read(0, 128)
            latencies_s[kind].append(time.perf_counter() - began)
            give_way()

    def write(payload: bytes) -> None:
        for at in range(0, transfer_bytes, WINDOW_BYTES):
            fabric.bulk_write(at, payload[at : at + WINDOW_BYTES])
            give_way()

    await on_stack(lambda: small("alone", lambda: len(latencies_s["alone"]) >= 200))
    payload = bytes(range(256)) * (transfer_bytes // 256)
    began = time.perf_counter()
    transfer = asyncio.ensure_future(on_stack(lambda: write(payload)))
    readers = asyncio.ensure_future(on_stack(lambda: small("beside payloads", lambda: is_over)))
    await transfer
    seconds = time.perf_counter() - began
    is_over = True
    await readers
    assert fabric.peek(0, transfer_bytes) == payload
    print(f"{transfer_bytes >> 20} MiB written in {seconds:.2f} s, {transfer_bytes / seconds / 1e6:.0f} MB/s")
    for kind, found in latencies_s.items():
        found.sort()
        median_us, slow_us = found[len(found) // 2] * 1e6, found[len(found) * 99 // 100] * 1e6
        print(f"READ of 128 bytes {kind}: {len(found)}, median {median_us:.0f} us, 99 % {slow_us:.0f} us, longest {found[-1] * 1e6:.0f} us")
    # One at least for every window that was written: none waited for the whole of it.
    assert len(latencies_s["beside payloads"]) >= transfer_bytes // WINDOW_BYTES - 1
    fabric.close()


async def test_small_operations_pass_payloads_that_get_no_answer(device: VerbsDevice) -> None:
    fabric = late_fabric(8 << 20, device=device)
    fabric.region_queue_pairs[0].connect(fabric.queue_pairs[0])  # the small ones' alone
    transfer = asyncio.ensure_future(on_stack(lambda: fabric.bulk_write(0, bytes(range(256)) * 32768)))
    for _ in range(20):
        assert await on_stack(partial(fabric.fetch_and_add, 0, 0)) == 0
    assert not transfer.done()
    fabric.region_queue_pairs[1].connect(fabric.queue_pairs[1])
    await transfer
    assert fabric.peek(0, 8 << 20) == bytes(range(256)) * 32768
    fabric.close()


async def test_what_is_done_first_leaves_the_other_awake(device: VerbsDevice) -> None:
    fabric = late_fabric(PAGE_BYTES, device=device)
    small = asyncio.ensure_future(on_stack(partial(fabric.read, 0, 8)))
    payload = asyncio.ensure_future(on_stack(partial(fabric.bulk_read, 0, PAGE_BYTES)))
    assert device.waiting_count == 2
    fabric.region_queue_pairs[0].connect(fabric.queue_pairs[0])
    assert await small == bytes(8)
    assert device.waiting_count == 1
    fabric.region_queue_pairs[1].connect(fabric.queue_pairs[1])
    assert await payload == bytes(PAGE_BYTES)
    fabric.close()


async def test_a_silent_node_ends_its_stacks_at_the_deadline_and_no_other(device: VerbsDevice) -> None:
    good = loopback_fabric(PAGE_BYTES, device=device)
    silent = connect(make_region(PAGE_BYTES), device=device, deadline_ms=300, acknowledgement_timeout=17, answers=False)
    ends: list[float] = []
    reads = 0

    began = time.monotonic()

    def unlucky() -> None:
        with pytest.raises(OSError, match="No route to host"):
            silent.doorbell([("READ", 0, 128)] * 30)
        ends.append(time.monotonic() - began)

    def lucky() -> None:
        nonlocal reads
        while len(ends) < UNLUCKY:
            assert good.read(0, 8) == bytes(8)
            reads += 1
            give_way()

    assert device.free_doorbell_buffers < UNLUCKY  # its share is half of them
    with deadlines_kept(device):
        async with Ticker() as ticker:
            await asyncio.gather(*(on_stack(unlucky) for _ in range(UNLUCKY)), on_stack(lucky))
    assert silent.lost_reason == "no answer for 300 ms"
    assert min(ends) >= 0.3
    assert max(ends) < 3
    assert not good.is_lost
    assert reads > 20
    print(f"lost after {min(ends):.3f} to {max(ends):.3f} s; longest turn of the loop {ticker.longest_s:.3f} s; {reads} reads of the other")
    for fabric in (good, silent):
        fabric.close()


@pytest.mark.parametrize("end", [lambda fabric: fabric.lose("its control connection ended"), LoopbackFabric.close], ids=["lost", "closed"])
async def test_losing_and_closing_end_the_stacks_that_wait(device: VerbsDevice, end: Callable[[LoopbackFabric], None]) -> None:
    fabric = late_fabric(PAGE_BYTES, device=device)
    ends = [asyncio.ensure_future(on_stack(partial(fabric.read, 0, 8))) for _ in range(5)]
    ends.append(asyncio.ensure_future(on_stack(partial(fabric.bulk_read, 0, 8))))
    assert device.waiting_count == 6
    end(fabric)
    assert device.waiting_count == 0
    for ended in await asyncio.gather(*ends, return_exceptions=True):
        assert isinstance(ended, OSError)
        assert ended.errno == errno.EHOSTUNREACH
    fabric.close()


async def test_a_stack_that_is_ended_gives_its_buffers_back(device: VerbsDevice) -> None:
    fabric = late_fabric(16 << 20, device=device)
    free = device.free_doorbell_buffers
    stacks: list[greenlet] = []
    ended: list[int | None] = []

    def work() -> None:
        stacks.append(getcurrent())
        try:
            fabric.read(0, 12 << 20)
        except OSError as error:
            ended.append(error.errno)

    for _ in range(3):
        waiting.run(work)
    assert device.waiting_count == 3
    assert device.free_doorbell_buffers == 0
    last = asyncio.ensure_future(on_stack(partial(fabric.read, 0, 8)))
    for number in (1, 0, 2):  # the first has all buffers, the others stand in line
        stacks[number].throw()
    assert ended == [errno.ECANCELED] * 3
    assert device.waiting_count == 1
    fabric.answer()
    assert await last == bytes(8)
    assert device.free_doorbell_buffers == free
    fabric.close()


async def test_a_stack_that_is_ended_between_its_call_and_its_turn_gives_its_buffers_back(device: VerbsDevice) -> None:
    fabric = late_fabric(PAGE_BYTES, device=device)
    free = device.free_doorbell_buffers
    stacks: list[greenlet] = []

    def work() -> None:
        stacks.append(getcurrent())
        with contextlib.suppress(OSError):
            fabric.read(0, 8)

    waiting.run(work)
    assert device.waiting_count == 1
    fabric.answer()
    fabric.read(0, 8)  # notices that the other is done too, and calls it
    assert device.waiting_count == 0
    assert not stacks[0].dead
    stacks[0].throw()
    assert device.free_doorbell_buffers == free
    fabric.close()


async def test_a_wait_in_place_lets_no_stack_miss_its_turn(device: VerbsDevice) -> None:
    first, second = late_fabric(PAGE_BYTES, device=device), late_fabric(PAGE_BYTES, device=device)
    ends = [asyncio.ensure_future(on_stack(partial(fabric.fetch_and_add, 0, 1))) for fabric in (first, second) * 10]
    assert device.waiting_count == 20
    for fabric in (second, first):
        fabric.answer()
    first.read(0, 8)  # on the main stack: takes the channel's events, also those of others
    second.read(0, 8)
    assert device.waiting_count == 0
    assert sorted(await asyncio.gather(*ends)) == sorted([*range(10), *range(10)])
    for fabric in (first, second):
        fabric.close()


async def test_operations_on_a_stack_that_is_swapped_out_are_left_alone(device: VerbsDevice) -> None:
    fabric = late_fabric(PAGE_BYTES, device=device)
    # compare_and_swap keeps its operation on the C stack, where the next stack's lies too while the first one waits.
    ends = [asyncio.ensure_future(on_stack(partial(fabric.compare_and_swap, word * 8, word, 0))) for word in range(1, 101)]
    assert device.waiting_count == 100
    fabric.poke(8, b"".join(struct.pack("<Q", 1000 + word) for word in range(1, 101)))
    fabric.answer()
    assert await asyncio.gather(*ends) == list(range(1001, 1101))
    fabric.close()
