"""Notifications: what subscribers are told of keys that change (notify-keyspace-events)."""

from __future__ import annotations

from collections.abc import Callable

# Which letters "A" stands for.
ALL_CLASSES = "g$lshzxetd"

GENERIC, STRING, EXPIRED, EVICTED, NEW, MISSED = "g", "$", "x", "e", "n", "m"


class Notifications:
    """Turns events into messages on the channels of the key and of the event."""

    def __init__(self, say: Callable[[bytes, bytes, bool], object], number_of: Callable[[int], int]) -> None:
        """``say`` tells the subscribers of a channel, on all workers, before the reply of the command at hand or behind it.

        ``number_of`` gives a database's number by its place.
        """
        self._say = say
        self._number_of = number_of
        self.classes: frozenset[str] = frozenset()
        self._on_key_channel = self._on_event_channel = False

    def choose(self, letters: str) -> None:
        """Take over what the directive says."""
        self._on_key_channel, self._on_event_channel = "K" in letters, "E" in letters
        is_on = self._on_key_channel or self._on_event_channel
        self.classes = frozenset(letters.replace("A", ALL_CLASSES)) if is_on else frozenset()

    @property
    def are_on(self) -> bool:
        """Whether there is anything to be told."""
        return bool(self.classes - {"K", "E"})

    def notify(self, kind: str, event: bytes, database: int, key: bytes, *, behind_reply: bool = False) -> None:
        """Tell of one event of class ``kind``, if that is wanted."""
        if kind not in self.classes:
            return
        number = self._number_of(database)
        if self._on_key_channel:
            self._say(b"__keyspace@%d__:%b" % (number, key), event, behind_reply)
        if self._on_event_channel:
            self._say(b"__keyevent@%d__:%b" % (number, event), key, behind_reply)
