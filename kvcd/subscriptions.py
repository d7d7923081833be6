"""Subscriptions: which clients of this worker hear which channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kvcd.client_modes import ClientModes
from kvcd.context import ClientState
from protocol.encoder import encode
from protocol.glob import matches
from protocol.replies import Push

Audience = dict[ClientState, None]  # in the order of subscription


class Subscriptions:
    """Channels, patterns and shard channels with those who hear them."""

    def __init__(self, limit_bytes: Callable[[], int]) -> None:
        """``limit_bytes`` says how much a subscriber may leave unread."""
        self.channels: dict[bytes, Audience] = {}
        self.patterns: dict[bytes, Audience] = {}
        self.shard_channels: dict[bytes, Audience] = {}
        self._limit_bytes = limit_bytes

    def add(self, table: dict[bytes, Audience], own: dict[bytes, None], client: ClientState, name: bytes) -> None:
        """Let the client hear what is said under ``name``; ``own`` are its names of that kind."""
        own[name] = None
        table.setdefault(name, {})[client] = None

    def remove(self, table: dict[bytes, Audience], own: dict[bytes, None], client: ClientState, name: bytes) -> None:
        """Let the client hear no more of it, if it did."""
        if name in own:
            del own[name]
            audience = table[name]
            del audience[client]
            if not audience:
                del table[name]

    def forget(self, client: ClientState, modes: ClientModes) -> None:
        """The client hears nothing any more."""
        for table, own in (
            (self.channels, modes.channels),
            (self.patterns, modes.patterns),
            (self.shard_channels, modes.shard_channels),
        ):
            for name in list(own):
                self.remove(table, own, client, name)

    def deliver(self, channel: bytes, message: bytes, *, to_shard: bool = False, behind_reply: bool = False) -> int:
        """Tell those who hear the channel, whose command is at hand before its reply or behind it; returns how many were told."""
        if to_shard:
            return self._send(self.shard_channels.get(channel, ()), Push((b"smessage", channel, message)))
        count = self._send(self.channels.get(channel, ()), Push((b"message", channel, message)), behind_reply=behind_reply)
        for pattern, audience in self.patterns.items():
            if matches(pattern, channel):
                count += self._send(audience, Push((b"pmessage", pattern, channel, message)), behind_reply=behind_reply)
        return count

    def _send(self, audience: Iterable[ClientState], push: Push, *, behind_reply: bool = False) -> int:
        encoded: dict[int, bytes] = {}
        limit_bytes = self._limit_bytes()
        count = 0
        for client in audience:
            message = encoded.get(client.resp)
            if message is None:
                message = encoded[client.resp] = encode(push, client.resp)
            client.push(message, limit_bytes, behind_reply)
            count += 1
        return count
