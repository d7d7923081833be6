"""Output limits: which clients have left more replies unread than client-output-buffer-limit allows, and for too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kvcd.directive import OutputLimit


class Reader(Protocol):
    """What is watched of a client."""

    @property
    def pending_output_bytes(self) -> int:
        """Bytes of replies that the client has not taken yet."""
        ...


class OutputWatch:
    """Remembers since when each client is above the soft limit."""

    def __init__(self) -> None:
        """Begin with nobody above it."""
        self._above_since_ms: dict[int, int] = {}

    def too_slow(self, clients: Mapping[int, Reader], limit: OutputLimit, now_ms: int) -> list[int]:
        """Return the ids of the clients to close: above the hard limit, or above the soft one for its seconds. 0 is no limit."""
        above = self._above_since_ms
        if not limit.hard_bytes and not limit.soft_bytes:
            above.clear()
            return []
        closing = []
        still_above: dict[int, int] = {}
        for number, client in clients.items():
            pending_bytes = client.pending_output_bytes
            if limit.soft_bytes and pending_bytes > limit.soft_bytes:
                still_above[number] = above.get(number, now_ms)
            is_long = number in still_above and now_ms - still_above[number] >= limit.soft_s * 1000
            if is_long or (limit.hard_bytes and pending_bytes > limit.hard_bytes):
                closing.append(number)
        self._above_since_ms = still_above
        return closing
