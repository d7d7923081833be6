"""Loopback: verbs fabrics whose memory node is this same process, for tests in the Soft-RoCE guest."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import mmap
from typing import Any

from storage.fabric.control_messages import NodeDescription, QueuePairReply
from storage.fabric.verbs import VerbsFabric
from storage.fabric.verbs_device import VerbsDevice
from storage.fabric.verbs_region import Device, LocalQueuePair, Region, find_device

STAGING_BYTES = 16 << 20


class SharedDevice(Device):
    """A memory node's device that outlives its regions: opening one takes long under emulation."""

    def close(self) -> None:
        """Stay open."""


class LoopbackFabric(VerbsFabric):
    """A fabric with its memory at hand."""

    region: Region
    region_queue_pairs: list[LocalQueuePair]
    shares_region = False

    def peek(self, offset: int, length: int) -> bytes:
        """Bytes of the region, for tests that look behind the fabric."""
        return self.region.memory[offset : offset + length]

    def poke(self, offset: int, data: bytes) -> None:
        """Overwrite bytes of the region."""
        self.region.memory[offset : offset + len(data)] = data

    def answer(self) -> None:
        """Connect the memory node's queue pairs."""
        for pair, peer in zip(self.region_queue_pairs, self.queue_pairs, strict=True):
            pair.connect(peer)

    def fall_silent(self) -> None:
        """Destroy the memory node's queue pairs: nothing is answered any more."""
        for pair in self.region_queue_pairs:
            pair.close()

    def close(self) -> None:
        """Close both sides."""
        super().close()
        self.fall_silent()
        if not self.shares_region:
            self.region.close()

    def __del__(self) -> None:
        """Close both sides before the collector of cycles clears what pyverbs holds."""
        if hasattr(self, "region_queue_pairs"):
            self.close()


@functools.cache
def front_end_device() -> VerbsDevice:
    """Return the device of this process's front ends."""
    return VerbsDevice(staging_bytes=STAGING_BYTES)


@functools.cache
def node_device() -> SharedDevice:
    """Return the device of this process's memory nodes."""
    device = find_device()
    atexit.register(device.close)  # pyverbs is not fit to be torn down later
    return SharedDevice(**{field.name: getattr(device, field.name) for field in dataclasses.fields(device)})


def make_region(size_bytes: int) -> Region:
    """Return zeroed memory that is lent."""
    return Region(node_device(), mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def describe(region: Region) -> NodeDescription:
    """Return what a memory node would say of itself."""
    device = region.device
    return NodeDescription(
        instance="0" * 32,
        size_bytes=region.size_bytes,
        formatted=False,
        device=device.name,
        link_layer=device.link_layer,
        lid=device.lid,
        gid=device.gid.address,
        gid_index=device.gid.index,
        mtu=device.mtu,
        max_rd_atomic=device.max_rd_atomic,
        address=region.address,
        rkey=region.rkey,
        front_ends=(),
    )


def connect(
    region: Region,
    *,
    device: VerbsDevice | None = None,
    deadline_ms: int = 5000,
    acknowledgement_timeout: int = 14,
    answers: bool = True,
    **changed: Any,
) -> LoopbackFabric:
    """Return a front end's fabric on ``region``; ``changed`` are lies of the memory node, as for its rkey.

    With ``answers=False`` the node drops what arrives until ``fabric.answer()`` is called.
    """
    fabric = LoopbackFabric.prepare(device or front_end_device(), deadline_ms)
    assert isinstance(fabric, LoopbackFabric)
    fabric.region = region
    fabric.acknowledgement_timeout = acknowledgement_timeout
    fabric.region_queue_pairs = [LocalQueuePair(region.device, region._protection, region._completions) for _ in range(2)]
    if answers:
        fabric.answer()
    replies = [QueuePairReply(number=pair.number, psn=pair.psn) for pair in fabric.region_queue_pairs]
    fabric.connect(replies, dataclasses.replace(describe(region), **changed))
    return fabric


def loopback_fabric(size_bytes: int, *, device: VerbsDevice | None = None, deadline_ms: int = 5000) -> LoopbackFabric:
    """Return a connected fabric on zeroed memory of its own."""
    return connect(make_region(size_bytes), device=device, deadline_ms=deadline_ms)


def late_fabric(size_bytes: int, *, device: VerbsDevice | None = None, deadline_ms: int = 20_000) -> LoopbackFabric:
    """The same with a memory node that does not answer yet.

    On Soft-RoCE most operations are over before they are posted: only so do they take time. After ``answer()`` they arrive when the
    device sends again, every 268 ms; it gives up after 1.9 s.
    """
    return connect(make_region(size_bytes), device=device, deadline_ms=deadline_ms, acknowledgement_timeout=16, answers=False)
