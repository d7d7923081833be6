"""Command names: under which names commands are known, where `rename-command` has changed that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvcd.directive import ConfigError
from protocol.access_table import BITS
from protocol.command_table import COMMANDS

_NOBODY = b"\0"  # no command has such a name


class CommandNames:
    """The lines of `rename-command`, taken in their order; without any, names are what the command table says."""

    def __init__(self, lines: Iterable[Sequence[str]] = ()) -> None:
        """Raise ConfigError, with Redis's words, for a name that no command has, or that another one has already."""
        self._names: dict[bytes, bytes] = {}  # what somebody may say, in lower case -> the table's name
        for line in lines:
            if len(line) != 2:
                raise ConfigError("rename-command: wrong number of arguments")
            self._rename(*(word.lower().encode("utf-8", "surrogateescape") for word in line))

    def _rename(self, old: bytes, new: bytes) -> None:
        original = self.known_as(old)
        if original == _NOBODY or original.decode("latin-1") not in BITS or b"|" in old:
            raise ConfigError("rename-command: No such command in rename-command")
        self._names[old] = _NOBODY
        if not new:
            return
        if self._names.get(new, new) != _NOBODY and (new in self._names or new.decode("latin-1") in BITS):
            raise ConfigError("rename-command: Target command name already exists")
        self._names[new] = original

    @property
    def changes_fast_names(self) -> bool:
        """Whether a command that has a fast lane is known by another name, or by none: that lane has its names built in."""
        return any(name in COMMANDS and COMMANDS[name].lane == "fast" for name in self._names)

    def is_known(self, original: bytes) -> bool:
        """Whether the command of the table can be called at all, under whatever name."""
        return original not in self._names or original in self._names.values()

    def known_as(self, name: bytes) -> bytes:
        """Return the name in the command table of what a client calls ``name``; one that is not there for what has no name any more."""
        return self._names.get(name.lower(), name) if self._names else name
