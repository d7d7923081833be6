"""Control messages: what a memory node tells about itself, and the addresses of queue pairs, as objects and as JSON."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from storage.fabric import control_protocol as protocol
from storage.fabric.control_protocol import FRONT_ENDS_LIMIT, ControlError, Message

QUEUE_PAIR_NUMBER_MOST = (1 << 24) - 1
PACKET_NUMBER_MOST = (1 << 24) - 1
LID_MOST = 0xFFFF
MTU_LEAST, MTU_MOST = 1, 5  # of enum ibv_mtu: 256 to 4096 bytes
RD_ATOMIC_MOST = 255
INCARNATION_MOST = 0x7FFF
_WORD_MOST = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class QueuePairAddress:
    """Where a queue pair of the other side is, and what it can do."""

    number: int
    psn: int  # packet number that it sends first
    lid: int  # 0 on Ethernet
    gid: str  # as IPv6 text
    mtu: int  # enum ibv_mtu: 1 is 256 bytes, 5 is 4096
    max_rd_atomic: int  # reads and atomics that it keeps outstanding

    def as_message(self) -> Message:
        """Return the JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_message(cls, message: Message) -> QueuePairAddress:
        """Return what the JSON object says. Raises ControlError ``request``."""
        return cls(
            number=protocol.integer(message, "number", least=0, most=QUEUE_PAIR_NUMBER_MOST),
            psn=protocol.integer(message, "psn", least=0, most=PACKET_NUMBER_MOST),
            lid=protocol.integer(message, "lid", least=0, most=LID_MOST),
            gid=_gid(message),
            mtu=protocol.integer(message, "mtu", least=MTU_LEAST, most=MTU_MOST),
            max_rd_atomic=protocol.integer(message, "max_rd_atomic", least=1, most=RD_ATOMIC_MOST),
        )


@dataclass(frozen=True, slots=True)
class QueuePairReply:
    """A queue pair that the memory node made for one of ours."""

    number: int
    psn: int

    @classmethod
    def from_message(cls, message: Message) -> QueuePairReply:
        """Return what the JSON object says. Raises ControlError ``request``."""
        return cls(
            number=protocol.integer(message, "number", least=0, most=QUEUE_PAIR_NUMBER_MOST),
            psn=protocol.integer(message, "psn", least=0, most=PACKET_NUMBER_MOST),
        )


@dataclass(frozen=True, slots=True)
class FrontEndStatus:
    """A front end as a memory node knows it."""

    number: int
    incarnation: int | None  # None until it has said so
    connected: bool

    def as_message(self) -> Message:
        """Return the JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """What ``hello`` answers: a memory node's region and how to reach it."""

    instance: str  # 16 bytes in hexadecimal, new whenever the region began blank
    size_bytes: int
    formatted: bool
    device: str
    link_layer: str  # ethernet or infiniband
    lid: int
    gid: str
    gid_index: int
    mtu: int  # enum ibv_mtu, the active one
    max_rd_atomic: int  # reads and atomics that a queue pair of it answers at once
    address: int
    rkey: int
    front_ends: tuple[FrontEndStatus, ...]

    def as_message(self) -> Message:
        """Return the JSON object."""
        message: Message = {name: getattr(self, name) for name in self.__slots__}
        return message | {"front_ends": [front_end.as_message() for front_end in self.front_ends]}

    @classmethod
    def from_message(cls, message: Message) -> NodeDescription:
        """Return what the JSON object says. Raises ControlError ``request``."""
        front_ends = protocol.objects(message, "front_ends", most=FRONT_ENDS_LIMIT)
        return cls(
            instance=protocol.text(message, "instance", most_characters=32),
            size_bytes=protocol.integer(message, "size_bytes", least=1, most=_WORD_MOST),
            formatted=protocol.flag(message, "formatted"),
            device=protocol.text(message, "device", most_characters=64),
            link_layer=protocol.text(message, "link_layer", most_characters=16),
            lid=protocol.integer(message, "lid", least=0, most=LID_MOST),
            gid=_gid(message),
            gid_index=protocol.integer(message, "gid_index", least=0, most=LID_MOST),
            mtu=protocol.integer(message, "mtu", least=MTU_LEAST, most=MTU_MOST),
            max_rd_atomic=protocol.integer(message, "max_rd_atomic", least=1, most=RD_ATOMIC_MOST),
            address=protocol.integer(message, "address", least=0, most=_WORD_MOST),
            rkey=protocol.integer(message, "rkey", least=0, most=0xFFFFFFFF),
            front_ends=tuple(_front_end_status(item) for item in front_ends),
        )


@dataclass(frozen=True, slots=True)
class Entered:
    """What ``enter`` answers: this front end's number at one memory node."""

    front_end: int
    token: str  # proves later, on another connection, that it is the same front end
    alone: bool  # all earlier front ends are fenced and forgotten; others wait until this one says ready

    @classmethod
    def from_message(cls, message: Message) -> Entered:
        """Return what the JSON object says. Raises ControlError ``request``."""
        return cls(
            front_end=protocol.integer(message, "front_end", least=0, most=FRONT_ENDS_LIMIT - 1),
            token=protocol.text(message, "token", most_characters=64),
            alone=protocol.flag(message, "alone"),
        )


def addresses_from(message: Message, *, most: int) -> list[QueuePairAddress]:
    """Return the ``queue_pairs`` of a request. Raises ControlError ``request`` or ``limit``."""
    return [QueuePairAddress.from_message(item) for item in protocol.objects(message, "queue_pairs", most=most)]


def replies_from(message: Message, *, count: int) -> list[QueuePairReply]:
    """Return the ``queue_pairs`` of an answer to ``count`` of ours. Raises ControlError ``request``."""
    found: Sequence[Message] = protocol.objects(message, "queue_pairs", most=count)
    if len(found) != count:
        raise ControlError(f"{len(found)} queue pairs in answer to {count}", "request")
    return [QueuePairReply.from_message(item) for item in found]


def _front_end_status(message: Message) -> FrontEndStatus:
    incarnation = message.get("incarnation")
    return FrontEndStatus(
        number=protocol.integer(message, "number", least=0, most=FRONT_ENDS_LIMIT - 1),
        incarnation=None if incarnation is None else protocol.integer(message, "incarnation", least=0, most=INCARNATION_MOST),
        connected=protocol.flag(message, "connected"),
    )


def _gid(message: Message) -> str:
    value = protocol.text(message, "gid", most_characters=64)
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        address = None
    if address is None or address.scope_id is not None:  # %eth0 means something on one machine only
        raise ControlError("gid must be 16 bytes written as an IPv6 address", "request")
    return str(address)
