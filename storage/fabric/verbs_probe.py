"""Verbs probe: the side that reads and writes, one operation at a time by pyverbs; for self-tests, not for serving."""

from __future__ import annotations

import time
from typing import Any

from storage.fabric.control_messages import NodeDescription, QueuePairAddress, QueuePairReply
from storage.fabric.verbs_devices import VerbsError
from storage.fabric.verbs_region import Device, LocalQueuePair

DEADLINE_S = 5.0  # of one operation; a dead peer shows within half a second
_BUFFER_BYTES = 4096
_DEPTH = 16


class Probe:
    """One queue pair of a device, which the probe closes with everything else in ``close``."""

    def __init__(self, device: Device) -> None:
        """Make the queue pair; ``address`` is what the memory node must know of it. Raises VerbsError."""
        self.device = device
        verbs = device.verbs
        try:
            self._protection = verbs.protection.PD(device.context)
            self._completions = verbs.completion.CQ(device.context, _DEPTH)
            self._buffer = verbs.memory.MR(self._protection, _BUFFER_BYTES, verbs.access())
            self._queue_pair = LocalQueuePair(device, self._protection, self._completions, depth=_DEPTH)
        except verbs.error as error:
            raise VerbsError(f"no queue pair can be made on {device.name}: {error}; its memory counts as locked (ulimit -l)") from None
        self._node: NodeDescription | None = None

    def address(self) -> QueuePairAddress:
        """Return what the memory node needs to connect to this side."""
        return self._queue_pair.address()

    def connect(self, node: NodeDescription, reply: QueuePairReply) -> None:
        """Connect to the queue pair that the node made. Raises VerbsError."""
        peer = QueuePairAddress(
            number=reply.number, psn=reply.psn, lid=node.lid, gid=node.gid, mtu=node.mtu, max_rd_atomic=node.max_rd_atomic
        )
        try:
            self._queue_pair.connect(peer)
        except self.device.verbs.error as error:
            raise VerbsError(f"{self.device.name} (GID {self.device.gid}) finds no way to GID {node.gid}: {error}") from None
        self._node = node

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the node's region. Raises VerbsError."""
        self._perform(self.device.verbs.enums.IBV_WR_RDMA_READ, offset, length)
        return bytes(self._buffer.read(length, 0))

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes to the node's region; they are there when this returns. Raises VerbsError."""
        self._buffer.write(data, len(data), 0)
        self._perform(self.device.verbs.enums.IBV_WR_RDMA_WRITE, offset, len(data))

    def compare_and_swap(self, offset: int, *, expected: int, word: int) -> int:
        """Put ``word`` where ``expected`` is; return what was there. Raises VerbsError."""
        self._perform(self.device.verbs.enums.IBV_WR_ATOMIC_CMP_AND_SWP, offset, 8, expected, word)
        return int.from_bytes(self._buffer.read(8, 0), "little")

    def fetch_and_add(self, offset: int, addend: int) -> int:
        """Add to a word; return what was there. Raises VerbsError."""
        self._perform(self.device.verbs.enums.IBV_WR_ATOMIC_FETCH_AND_ADD, offset, 8, addend)
        return int.from_bytes(self._buffer.read(8, 0), "little")

    def close(self) -> None:
        """Give everything back, the device too."""
        self._queue_pair.close()
        self._buffer.close()
        self._completions.close()
        self._protection.close()
        self.device.close()

    def _perform(self, opcode: int, offset: int, length: int, first: int = 0, second: int = 0) -> None:
        assert self._node is not None, "not connected"
        assert length <= _BUFFER_BYTES
        verbs = self.device.verbs
        piece = verbs.wr.SGE(self._buffer.buf, length, self._buffer.lkey)
        request = verbs.wr.SendWR(opcode=opcode, num_sge=1, sg=[piece], send_flags=verbs.enums.IBV_SEND_SIGNALED)
        if opcode in (verbs.enums.IBV_WR_ATOMIC_CMP_AND_SWP, verbs.enums.IBV_WR_ATOMIC_FETCH_AND_ADD):
            request.set_wr_atomic(self._node.rkey, self._node.address + offset, first, second)
        else:
            request.set_wr_rdma(self._node.rkey, self._node.address + offset)
        self._queue_pair.pair.post_send(request)
        status = self._wait()
        if status != verbs.enums.IBV_WC_SUCCESS:
            raise VerbsError(f"the operation failed: {_status_name(verbs.enums, status)}")

    def _wait(self) -> int:
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            count, completions = self._completions.poll(1)
            if count:
                return int(completions[0].status)
        raise VerbsError(f"no completion within {DEADLINE_S:g} s")


def _status_name(enums: Any, status: int) -> str:
    """Return a completion status as libibverbs calls it."""
    names = [name for name in dir(enums) if name.startswith("IBV_WC_") and name.endswith("_ERR")]
    return next((name for name in names if getattr(enums, name) == status), f"status {status}")
