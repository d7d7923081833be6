"""Monitors: the clients that are shown every command (MONITOR), and how a command is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kvcd.context import ClientState
from kvcd.slow_log import without_secrets

_ESCAPES = {0x5C: b"\\\\", 0x22: b'\\"', 0x0A: b"\\n", 0x0D: b"\\r", 0x09: b"\\t", 0x07: b"\\a", 0x08: b"\\b"}
_SHOWN = [_ESCAPES.get(byte, b"%c" % byte if 0x20 <= byte < 0x7F else b"\\x%02x" % byte) for byte in range(256)]


def quoted(text: bytes) -> bytes:
    """Return a word as Redis quotes it in its own output."""
    return b'"' + b"".join([_SHOWN[byte] for byte in text]) + b'"'


def line_of(client: ClientState, name: str, args: Sequence[bytes], *, database: int) -> bytes:
    """Return what a monitor is shown of a command. ``database`` is the client's number of it."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    address = f"unix:{client.address.rpartition(':')[0]}" if client.address.startswith("/") else client.address
    words = b" ".join(quoted(word) for word in without_secrets(name, args))
    return b"+%d.%06d [%d %b] %b\r\n" % (seconds, microseconds, database, address.encode("utf-8", "surrogateescape"), words)


class Monitors:
    """Those of this worker, and whether other workers have some."""

    def __init__(self, limit_bytes: Callable[[], int]) -> None:
        """``limit_bytes`` says how much of them may be left unread."""
        self._limit_bytes = limit_bytes
        self.clients: dict[ClientState, None] = {}

    def show(self, line: bytes) -> None:
        """Show a line to all of this worker."""
        limit_bytes = self._limit_bytes()
        for client in self.clients:
            client.push(line, limit_bytes, True)
