"""Client memory: whom to close when all clients together hold more than `maxmemory-clients` allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kvcd.client_modes import ClientModes

# What a connection costs before it has sent anything: session, parser, transport (measured with 10 000 idle ones).
CONNECTION_BYTES = 8192
# What a watched key, a subscription or a queued command costs beside its own bytes: entries of two dictionaries, or objects of a list.
ENTRY_BYTES = 128


class Holder(Protocol):
    """What is looked at of a client."""

    @property
    def modes(self) -> ClientModes | None:
        """What it has switched on."""
        ...

    @property
    def pending_input_bytes(self) -> int:
        """Bytes of an unfinished command."""
        ...

    @property
    def pending_output_bytes(self) -> int:
        """Bytes of replies that the client has not taken yet."""
        ...


def held_bytes(client: Holder) -> int:
    """Return about how much memory a client costs."""
    idle_bytes = CONNECTION_BYTES + client.pending_input_bytes + client.pending_output_bytes
    return idle_bytes if client.modes is None else idle_bytes + mode_bytes(client.modes)


def mode_bytes(modes: ClientModes) -> int:
    """Return about how much of it is for what the client has switched on: queued commands, watched keys, subscriptions."""
    queued = 0 if modes.transaction is None else modes.transaction.queued_bytes + ENTRY_BYTES * len(modes.transaction.queue)
    names = [*modes.channels, *modes.patterns, *modes.shard_channels, *(key for _, key in modes.watched)]
    return queued + sum(map(len, names)) + ENTRY_BYTES * len(names)


def too_many(clients: Mapping[int, Holder], limit_bytes: int) -> list[int]:
    """Return the ids of the clients to close, the largest first, until the others fit; 0 is no limit.

    Clients that asked for it (CLIENT NO-EVICT) are spared.
    """
    if limit_bytes <= 0:
        return []
    sizes = {number: held_bytes(client) for number, client in clients.items()}
    total = sum(sizes.values())
    closing: list[int] = []
    for number in sorted(sizes, key=lambda number: sizes[number], reverse=True):
        if total <= limit_bytes:
            break
        modes = clients[number].modes
        if modes is None or not modes.never_evicted:
            closing.append(number)
            total -= sizes[number]
    return closing
