"""Access log: what was refused to whom lately, for ACL LOG; the newest first, like ones counted together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

GROUPING_MS = 60_000  # a refusal like one that is younger than this counts with it
_SCANNED = 10  # entries that are looked at for that, as in Redis


@dataclass(slots=True)
class AccessEntry:
    """Refusals of one kind. ``client_info`` is the last client's line of CLIENT LIST; texts hold a byte in each character."""

    reason: str  # command, key, channel, auth
    context: str  # toplevel, multi
    object: str  # the command, key or channel
    username: str
    client_info: str
    number: int
    created_at_ms: int
    updated_at_ms: int
    count: int = 1

    def is_like(self, other: AccessEntry) -> bool:
        """Whether both are of one kind and about one time."""
        return (self.reason, self.context, self.object, self.username) == (
            other.reason,
            other.context,
            other.object,
            other.username,
        ) and abs(self.updated_at_ms - other.updated_at_ms) <= GROUPING_MS

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dataclasses.asdict(self)


class AccessLog:
    """At most `acllog-max-len` entries."""

    def __init__(self, length_limit: int) -> None:
        self.length_limit = length_limit
        self._entries: list[AccessEntry] = []
        self._next_number = 0

    def note(self, *, reason: str, context: str, about: bytes, username: bytes, client_info: bytes, now_ms: int) -> None:
        """Take down one refusal."""
        entry = AccessEntry(
            reason=reason,
            context=context,
            object=about.decode("latin-1"),
            username=username.decode("latin-1"),
            client_info=client_info.decode("latin-1"),
            number=self._next_number,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        for like in [other for other in self._entries[:_SCANNED] if other.is_like(entry)][:1]:
            self._entries.remove(like)
            self._entries.insert(0, like)
            like.count += 1
            like.updated_at_ms, like.client_info = now_ms, entry.client_info
            return
        self._next_number += 1
        self._entries.insert(0, entry)
        del self._entries[self.length_limit :]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def plain(self) -> list[dict[str, Any]]:
        """Return all entries as plain values."""
        return [entry.plain() for entry in self._entries]

    def with_others(self, logs: Iterable[Iterable[dict[str, Any]]]) -> list[AccessEntry]:
        """Return the entries of this log and of other workers' together, the newest first, like ones as one."""
        every = [AccessEntry(**plain) for plain in self.plain()] + [AccessEntry(**plain) for log in logs for plain in log]
        merged: list[AccessEntry] = []
        for entry in sorted(every, key=lambda entry: -entry.updated_at_ms):
            like = next((other for other in merged if other.is_like(entry)), None)
            if like is None:
                merged.append(entry)
            else:
                like.count += entry.count
                like.created_at_ms = min(like.created_at_ms, entry.created_at_ms)
        return merged[: self.length_limit]
