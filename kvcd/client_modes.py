"""Client modes: what one connection has switched on that lasts beyond the command that did."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from kvcd.context import ClientState
from protocol.command_spec import CommandSpec


@dataclass(slots=True)
class Transaction:
    """Commands between MULTI and EXEC."""

    queue: list[tuple[CommandSpec, list[bytes]]] = field(default_factory=list)
    queued_bytes: int = 0
    is_spoiled: bool = False  # a command was refused: EXEC runs none

    def add(self, spec: CommandSpec, args: list[bytes]) -> None:
        """Queue a command."""
        self.queue.append((spec, args))
        self.queued_bytes += sum(map(len, args))


@dataclass(slots=True)
class Tracking:
    """How a client wants to hear of keys that it may have cached."""

    redirect: int = 0  # id of the client that is told instead
    is_broadcast: bool = False
    opts_in: bool = False
    opts_out: bool = False
    no_loop: bool = False
    prefixes: list[bytes] = field(default_factory=list)
    is_caching: bool = False  # CLIENT CACHING was said of the next command
    is_broken: bool = False  # the client that is told instead is gone


@dataclass(slots=True)
class ClientModes:
    """All of it; made when the first of them is switched on."""

    transaction: Transaction | None = None
    watched: dict[tuple[int, bytes], int | None] = field(default_factory=dict)  # database and key -> its stamp, None while absent
    is_dirty: bool = False  # something watched was changed
    channels: dict[bytes, None] = field(default_factory=dict)  # in the order of subscription
    patterns: dict[bytes, None] = field(default_factory=dict)
    shard_channels: dict[bytes, None] = field(default_factory=dict)
    tracking: Tracking | None = None
    own_changes: list[list[bytes] | None] = field(default_factory=list)  # invalidations that wait for the client's own reply
    is_monitor: bool = False
    never_evicted: bool = False  # CLIENT NO-EVICT
    touches_nothing: bool = False  # CLIENT NO-TOUCH
    wait: asyncio.Future[str] | None = None  # what a blocked command waits for; its result says why it ended

    @property
    def subscriptions(self) -> int:
        """Channels and patterns, as replies to SUBSCRIBE count them."""
        return len(self.channels) + len(self.patterns)

    @property
    def is_subscriber(self) -> bool:
        """Whether the client hears any channel."""
        return bool(self.channels or self.patterns or self.shard_channels)


def modes_of(client: ClientState) -> ClientModes:
    """Return a client's modes, new ones if it had none."""
    if client.modes is None:
        client.modes = ClientModes()
    return client.modes


def is_subscriber(client: ClientState) -> bool:
    """Whether the client hears any channel."""
    return client.modes is not None and client.modes.is_subscriber


def set_reason(client: ClientState, reason: int, holds: bool) -> None:
    """Let the client's commands take the slow lane for this reason, or not for this one any more."""
    if holds:
        client.slow_reasons |= reason
    else:
        client.slow_reasons &= ~reason
