"""Verbs devices: what RDMA devices, ports and GIDs this machine has, as the kernel's files say; needs no RDMA library."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM_ROOT = Path("/sys/class/infiniband")
ETHERNET, INFINIBAND = "ethernet", "infiniband"
ROCE_V1, ROCE_V2 = "RoCE v1", "RoCE v2"
_SHOWN_GIDS = 8
# The kernel fills the lowest free entry, so a run of empty ones ends the table's used part; Soft-RoCE's has 1024 entries, and
# reading all of them takes seconds in an emulated machine.
_EMPTY_LIMIT = 64


class VerbsError(Exception):
    """RDMA cannot be used as asked; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Gid:
    """One entry of a port's GID table, an address of the port."""

    index: int
    address: str  # as IPv6 text
    kind: str  # RoCE v1, RoCE v2, or IB
    interface: str  # network interface that it follows; empty on InfiniBand

    @property
    def is_ipv4(self) -> bool:
        """Whether it is an IPv4 address in IPv6 clothes."""
        return ipaddress.IPv6Address(self.address).ipv4_mapped is not None

    def __str__(self) -> str:
        mapped = ipaddress.IPv6Address(self.address).ipv4_mapped
        where = f", {self.interface}" if self.interface else ""
        return f"{self.index} ({mapped or self.address}, {self.kind}{where})"


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a device, as the kernel's files describe it."""

    device: str
    number: int
    state: str  # ACTIVE, DOWN, INIT, ARMED
    link_layer: str  # ethernet or infiniband
    lid: int
    rate: str  # as the kernel writes it: 100 Gb/sec (4X EDR)
    gids: tuple[Gid, ...]

    @property
    def is_active(self) -> bool:
        """Whether traffic can flow."""
        return self.state == "ACTIVE"


def device_names(root: Path = SYSTEM_ROOT) -> list[str]:
    """Return the names of the RDMA devices, sorted; none where the kernel knows no RDMA."""
    try:
        return sorted(entry.name for entry in root.iterdir())
    except OSError:
        return []


def list_ports(device: str, root: Path = SYSTEM_ROOT) -> list[Port]:
    """Return a device's ports with their GIDs."""
    try:
        numbers = sorted(int(entry.name) for entry in (root / device / "ports").iterdir() if entry.name.isdigit())
    except OSError:
        return []
    return [_port(root, device, number) for number in numbers]


def choose_gid(port: Port, asked: int | None = None) -> Gid:
    """Return the GID to use: the one asked for, or the RoCE v2 one of an IPv4 address, or the first; on InfiniBand index 0.

    Raises VerbsError when there is none, or the one asked for is not there; the text lists the ones that are.
    """
    where = f"device {port.device} port {port.number}"
    if not port.gids:
        raise VerbsError(
            f"{where} has no GID: give its network interface an address (ip addr add ADDRESS dev INTERFACE; ip link set INTERFACE up)"
        )
    if asked is not None:
        for gid in port.gids:
            if gid.index == asked:
                return gid
        there = "; ".join(str(gid) for gid in port.gids[:_SHOWN_GIDS])
        raise VerbsError(f"{where} has no GID at index {asked}. It has {there}: give one of these as --gid-index, or none")
    if port.link_layer == INFINIBAND:
        return port.gids[0]
    best = [gid for gid in port.gids if gid.kind == ROCE_V2 and gid.is_ipv4] or [gid for gid in port.gids if gid.kind == ROCE_V2]
    return (best or list(port.gids))[0]


def choose_port(names: Sequence[str], asked: str | None = None, root: Path = SYSTEM_ROOT) -> Port:
    """Return the first active port of the device asked for, or of any. Raises VerbsError with what is there instead."""
    if not names:
        raise VerbsError(
            "no RDMA device on this machine: load its driver (modprobe mlx5_ib), or make a software one on a network interface "
            "(modprobe rdma_rxe; rdma link add rxe0 type rxe netdev INTERFACE); in a container give it the devices "
            "(--device /dev/infiniband). kvcd doctor shows what is missing"
        )
    if asked is not None and asked not in names:
        raise VerbsError(f"no RDMA device {asked!r}; there is {', '.join(names)}: give one of these as --device")
    ports = [port for name in ([asked] if asked is not None else names) for port in list_ports(name, root)]
    for port in ports:
        if port.is_active:
            return port
    states = "; ".join(f"{port.device} port {port.number} is {port.state}" for port in ports) or f"{asked or names[0]} has no port"
    raise VerbsError(
        f"no active RDMA port: {states}. Check the cable, and set the network interface up (ip link set INTERFACE up); "
        "on InfiniBand a subnet manager must run (opensm)"
    )


def _port(root: Path, device: str, number: int) -> Port:
    folder = root / device / "ports" / str(number)
    link_layer = _text(folder / "link_layer").lower()
    return Port(
        device=device,
        number=number,
        state=_text(folder / "state").rpartition(": ")[2] or "unknown",
        link_layer=link_layer,
        lid=int(_text(folder / "lid") or "0", 16),
        rate=_text(folder / "rate"),
        gids=tuple(_gids(folder, link_layer)),
    )


def _gids(folder: Path, link_layer: str) -> list[Gid]:
    try:
        indexes = sorted(int(name) for name in os.listdir(folder / "gids"))
    except (OSError, ValueError):
        return []
    found: list[Gid] = []
    empty_count = 0
    for index in indexes:
        address = _text(folder / "gids" / str(index))
        if not address or not address.strip("0:"):
            empty_count += 1
            if empty_count == _EMPTY_LIMIT:
                break
            continue
        empty_count = 0
        kind = "IB" if link_layer == INFINIBAND else ROCE_V2 if _text(folder / "gid_attrs/types" / str(index)) == ROCE_V2 else ROCE_V1
        interface = _text(folder / "gid_attrs/ndevs" / str(index))
        found.append(Gid(index, str(ipaddress.IPv6Address(address)), kind, interface))
    return found


def _text(path: Path) -> str:
    """Return what a file of the kernel says; nothing for an entry without (the kernel answers EINVAL)."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
