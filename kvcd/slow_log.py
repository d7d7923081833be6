"""Slow log: the commands that took longest to carry out, as SLOWLOG shows them, without the secrets in their arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Word = TypeVar("Word")  # bytes, or a large value that lies in the pool

LONGEST_LINE = 32  # arguments kept of a command, as in Redis
LONGEST_ARGUMENT_BYTES = 128
OFF_US = -1
_REDACTED = b"(redacted)"
_SECRET_DIRECTIVES = (b"requirepass", b"masterauth", b"masteruser", b"tls-key-file-pass", b"tls-client-key-file-pass")


@dataclass(frozen=True, slots=True)
class SlowCommand:
    """One command that took long."""

    number: int
    at_s: int
    duration_us: int
    words: tuple[bytes, ...]
    address: str
    name: bytes


def without_secrets(full_name: str, args: Sequence[Word]) -> list[Word | bytes]:
    """Return a command's arguments with everything replaced that should stand in no log."""
    words: list[Word | bytes] = list(args)
    if full_name == "auth":
        words[1:] = [_REDACTED] * len(words[1:])
    elif full_name == "hello":
        _redact_behind(words, b"auth", 2)
    elif full_name == "migrate":
        _redact_behind(words, b"auth", 1)
        _redact_behind(words, b"auth2", 2)
    elif full_name in ("acl|setuser", "acl|getuser", "acl|deluser"):
        words[2:] = [_REDACTED] * len(words[2:])
    elif full_name == "config|set":
        for place in range(2, len(words) - 1, 2):
            name = words[place]
            if isinstance(name, bytes) and name.lower() in _SECRET_DIRECTIVES:
                words[place + 1] = _REDACTED
    return words


def _redact_behind(words: list[Word | bytes], keyword: bytes, count: int) -> None:
    for place, word in enumerate(words):
        if isinstance(word, bytes) and word.lower() == keyword:
            for secret in range(place + 1, min(place + 1 + count, len(words))):
                words[secret] = _REDACTED
            return


def _shortened(word: object) -> bytes:
    # A large value that lies in the pool is not copied out for the log.
    size_bytes = len(word) if isinstance(word, bytes) else int(getattr(word, "size_bytes", 0))
    if size_bytes <= LONGEST_ARGUMENT_BYTES:
        return word if isinstance(word, bytes) else b""
    beginning = word[:LONGEST_ARGUMENT_BYTES] if isinstance(word, bytes) else b""
    return beginning + b"... (%d more bytes)" % (size_bytes - len(beginning))


class SlowLog:
    """The last ``longest`` commands that took ``threshold_us`` or more, newest first."""

    def __init__(self) -> None:
        """Begin empty, with Redis's defaults."""
        self.threshold_us = 10_000
        self.longest = 128
        self._entries: deque[SlowCommand] = deque()
        self._next_number = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries)

    def note(self, words: Sequence[object], *, duration_us: int, at_s: int, address: str, name: bytes) -> None:
        """Remember one command."""
        kept = [_shortened(word) for word in words[:LONGEST_LINE]]
        if len(words) > LONGEST_LINE:
            kept[-1] = b"... (%d more arguments)" % (len(words) - LONGEST_LINE + 1)
        self._entries.appendleft(SlowCommand(self._next_number, at_s, duration_us, tuple(kept), address, name))
        self._next_number += 1
        self.trim()

    def trim(self) -> None:
        """Forget the oldest ones that are too many."""
        while len(self._entries) > self.longest:
            self._entries.pop()

    def latest(self, count: int) -> list[SlowCommand]:
        """Return the newest ``count``."""
        return [entry for place, entry in enumerate(self._entries) if place < count]

    def reset(self) -> None:
        """Forget all of them; numbers go on."""
        self._entries.clear()
