"""Verbs region: memory that one RDMA device lends to others, and the passive queue pairs through which they reach it.

By pyverbs, since nothing here happens per operation. Works in one process with the front end too, as tests use it.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import ipaddress
import mmap
import os
import resource
import secrets
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storage.fabric.control_messages import MTU_MOST, PACKET_NUMBER_MOST, RD_ATOMIC_MOST, QueuePairAddress
from storage.fabric.verbs_devices import INFINIBAND, Gid, VerbsError, choose_gid, choose_port, device_names

# Acknowledgement timeout 4.096 µs * 2^14 = 67 ms. At most 6 retries: with 7 Soft-RoCE was seen never to give up.
_TIMEOUT, _RETRIES, _RECEIVER_NOT_READY_RETRIES, _RECEIVER_NOT_READY_TIMER = 14, 6, 7, 12
_HOP_LIMIT = 64  # RoCE v2 may be routed


class Verbs:
    """pyverbs' modules, imported when first needed. Raises VerbsError when they are not there."""

    def __init__(self) -> None:
        try:
            self.device: Any = importlib.import_module("pyverbs.device")
            self.enums: Any = importlib.import_module("pyverbs.enums")
            self.qp: Any = importlib.import_module("pyverbs.qp")
            self.addr: Any = importlib.import_module("pyverbs.addr")
            self.memory: Any = importlib.import_module("pyverbs.mr")
            self.wr: Any = importlib.import_module("pyverbs.wr")
            self.protection: Any = importlib.import_module("pyverbs.pd")
            self.completion: Any = importlib.import_module("pyverbs.cq")
            self.error: Any = importlib.import_module("pyverbs.pyverbs_error").PyverbsRDMAError
        except ImportError as error:
            raise VerbsError(missing_pyverbs(error)) from None

    def access(self) -> int:
        """Rights of a region: everything one-sided, and no relaxed ordering, since readers rely on the order of writes."""
        enums = self.enums
        return int(
            enums.IBV_ACCESS_LOCAL_WRITE | enums.IBV_ACCESS_REMOTE_READ | enums.IBV_ACCESS_REMOTE_WRITE | enums.IBV_ACCESS_REMOTE_ATOMIC
        )


def missing_pyverbs(error: ImportError) -> str:
    """Say how this Python comes to pyverbs."""
    packages = sysconfig.get_path("purelib")
    return (
        f"pyverbs cannot be imported ({error}). On Debian and Ubuntu: apt install python3-pyverbs ibverbs-providers; an environment sees "
        f"it by ln -s /usr/lib/python3/dist-packages/pyverbs {packages}/ (its Python must be the system's version)"
    )


@dataclass(slots=True)
class Device:
    """An opened device, and the port and the GID of it that are used. ``close`` ends everything that was made from it."""

    name: str
    port: int
    link_layer: str  # ethernet or infiniband
    lid: int
    gid: Gid
    mtu: int  # enum ibv_mtu, the active one
    max_rd_atomic: int  # reads and atomics that a queue pair answers, and keeps outstanding
    verbs: Verbs
    context: Any

    def close(self) -> None:
        """Close the device."""
        self.context.close()


def find_device(name: str | None = None, gid_index: int | None = None) -> Device:
    """Open a device: the one named, or the first with an active port. Raises VerbsError with what to do."""
    verbs = Verbs()
    port = choose_port(device_names(), name)
    gid = choose_gid(port, gid_index)
    try:
        context = verbs.device.Context(name=port.device)
    except verbs.error as error:
        raise VerbsError(
            f"RDMA device {port.device} cannot be opened ({error}): /dev/infiniband/uverbs* must be there and open to this user, and "
            "ibverbs-providers installed (in a container: --device /dev/infiniband)"
        ) from None
    try:
        limits = context.query_device()
        if limits.atomic_caps == verbs.enums.IBV_ATOMIC_NONE:
            raise VerbsError(
                f"RDMA device {port.device} does no atomic operations, and a pool is changed by nothing else: "
                "use another device (kvcd doctor lists them)"
            )
        return Device(
            name=port.device,
            port=port.number,
            link_layer=port.link_layer,
            lid=port.lid,
            gid=gid,
            mtu=min(int(context.query_port(port.number).active_mtu), MTU_MOST),
            max_rd_atomic=max(1, min(int(limits.max_qp_rd_atom), int(limits.max_qp_init_rd_atom), RD_ATOMIC_MOST)),
            verbs=verbs,
            context=context,
        )
    except BaseException:
        context.close()
        raise


class LocalQueuePair:
    """One reliable queue pair of this side. The other side may use it once both are connected."""

    def __init__(self, device: Device, protection: Any, completions: Any, *, depth: int = 1) -> None:
        verbs = device.verbs
        self._device = device
        self.is_closed = False
        capacity = verbs.qp.QPCap(max_send_wr=depth, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
        attributes = verbs.qp.QPInitAttr(qp_type=verbs.enums.IBV_QPT_RC, scq=completions, rcq=completions, cap=capacity, sq_sig_all=0)
        self.pair: Any = verbs.qp.QP(protection, attributes)
        self.number = int(self.pair.qp_num)
        self.psn = secrets.randbelow(PACKET_NUMBER_MOST + 1)  # not to be guessed, and not that of a queue pair that just ended

    def address(self) -> QueuePairAddress:
        """Return what the other side needs to connect to this one."""
        device = self._device
        return QueuePairAddress(
            number=self.number, psn=self.psn, lid=device.lid, gid=device.gid.address, mtu=device.mtu, max_rd_atomic=device.max_rd_atomic
        )

    def connect(self, peer: QueuePairAddress) -> None:
        """Take it through INIT and RTR to RTS, towards ``peer``."""
        device = self._device
        attributes = device.verbs.qp.QPAttr(port_num=device.port)
        attributes.qp_access_flags = device.verbs.access()
        attributes.ah_attr = self._route(peer)
        attributes.path_mtu = min(peer.mtu, device.mtu)
        attributes.dest_qp_num = peer.number
        attributes.rq_psn = peer.psn
        attributes.sq_psn = self.psn
        attributes.max_dest_rd_atomic = attributes.max_rd_atomic = min(peer.max_rd_atomic, device.max_rd_atomic)
        attributes.min_rnr_timer = _RECEIVER_NOT_READY_TIMER
        attributes.timeout, attributes.retry_cnt, attributes.rnr_retry = _TIMEOUT, _RETRIES, _RECEIVER_NOT_READY_RETRIES
        self.pair.to_rts(attributes)

    def _route(self, peer: QueuePairAddress) -> Any:
        device, addresses = self._device, self._device.verbs.addr
        if device.link_layer == INFINIBAND:
            return addresses.AHAttr(port_num=device.port, is_global=0, dlid=peer.lid)
        written_out = ipaddress.IPv6Address(peer.gid).exploded  # pyverbs takes nothing shorter
        route = addresses.GlobalRoute(dgid=addresses.GID(written_out), sgid_index=device.gid.index, hop_limit=_HOP_LIMIT)
        return addresses.AHAttr(port_num=device.port, is_global=1, gr=route, dlid=0)

    def close(self) -> None:
        """Destroy it: whatever the other side sends from now on fails. Harmless when called again."""
        self.is_closed = True
        self.pair.close()


class Region:
    """Registered memory that others read, write and change atomically, without this process doing anything."""

    def __init__(self, device: Device, memory: mmap.mmap) -> None:
        """Register ``memory``, all of it, which pins it. The region closes ``device``, not ``memory``. Raises VerbsError."""
        verbs = device.verbs
        self.device = device
        self.memory = memory
        self.size_bytes = len(memory)
        self._view = ctypes.c_char.from_buffer(memory)
        self.address = ctypes.addressof(self._view)
        self._queue_pairs: list[LocalQueuePair] = []
        try:
            self._protection = verbs.protection.PD(device.context)
            self._completions = verbs.completion.CQ(device.context, 16)  # nothing completes here: no queue pair of it sends
            self._registration = verbs.memory.MR(self._protection, self.size_bytes, verbs.access(), self.address)
        except verbs.error as error:
            del self._view
            raise VerbsError(_registration_failure(self.size_bytes, error)) from None
        self.rkey = int(self._registration.rkey)

    @classmethod
    def anonymous(cls, size_bytes: int, device: str | None = None, gid_index: int | None = None) -> Region:
        """Register fresh zeros on a device, for tests and tools. Raises VerbsError."""
        opened = find_device(device, gid_index)
        try:
            return cls(opened, mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except BaseException:
            opened.close()
            raise

    def connect(self, peers: Sequence[QueuePairAddress]) -> list[LocalQueuePair]:
        """Return a connected queue pair for each peer; all or none. Raises VerbsError."""
        made: list[LocalQueuePair] = []
        try:
            for peer in peers:
                made.append(LocalQueuePair(self.device, self._protection, self._completions))
                made[-1].connect(peer)
        except self.device.verbs.error as error:
            for queue_pair in made:
                queue_pair.close()
            raise VerbsError(
                f"no queue pair from {self.device.name} (GID {self.device.gid}) to the other side's GID {peer.gid}, LID {peer.lid}: "
                f"{error}. Both GIDs must be of one kind and network: choose others by --gid-index"
            ) from None
        self._queue_pairs = [queue_pair for queue_pair in self._queue_pairs if not queue_pair.is_closed] + made
        return made

    def close(self) -> None:
        """Destroy the queue pairs, deregister the memory, close the device; the memory itself stays. Harmless when repeated."""
        if not hasattr(self, "_view"):
            return
        for queue_pair in self._queue_pairs:
            queue_pair.close()
        self._registration.close()
        self._completions.close()
        self._protection.close()
        self.device.close()
        del self._view  # else the memory could not be unmapped

    def __del__(self) -> None:
        """End the registration before the collector of cycles does: cleared by that, pyverbs' would free memory that is not its own."""
        if hasattr(self, "_registration"):
            self._registration.close()


def _registration_failure(size_bytes: int, error: Any) -> str:
    """Say why memory could not be registered, and what to do."""
    code = error.error_code
    limit_bytes = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    prefix = f"{size_bytes} bytes cannot be registered with the RDMA device"
    if code in (errno.ENOMEM, errno.EPERM, errno.EAGAIN) and limit_bytes != resource.RLIM_INFINITY and limit_bytes < size_bytes:
        return (
            f"{prefix}: this process may lock {limit_bytes} bytes of memory (ulimit -l). Raise that: ulimit -l unlimited as root, "
            "--ulimit memlock=-1 in Docker, LimitMEMLOCK=infinity under systemd; or give it the capability IPC_LOCK"
        )
    if code == errno.ENOMEM:
        return f"{prefix}: there is not enough free memory; give a smaller --size"
    if code in (errno.EFAULT, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL):
        return f"{prefix} ({os.strerror(code)}): this kernel lends no file of that file system; put it on tmpfs or hugetlbfs"
    return f"{prefix}: {error}"
