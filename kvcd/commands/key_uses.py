"""Key uses: which arguments of a command line are keys, and what the command does with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvcd.commands.arguments import CommandError
from kvcd.commands.sorting import destination_place
from protocol.command_spec import CommandSpec

_NO_ARGUMENTS = "ERR Invalid arguments specified for command"


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key of a command line. ``flags`` are Redis's: RO, RW, OW or RM first, then what is done."""

    key: bytes
    position: int
    flags: tuple[str, ...]


def used_keys(spec: CommandSpec, line: list[bytes]) -> list[KeyUse]:
    """Return the keys of a line that has the row's arity, in the order of its key specifications. Raises CommandError."""
    special = _SPECIAL.get(spec.name)
    if special is not None:
        return special(spec, line)
    uses: list[KeyUse] = []
    for keys in spec.keys:
        last = keys.last + len(line) if keys.last < 0 else keys.first + keys.last
        uses += [KeyUse(line[position], position, keys.flags) for position in range(keys.first, min(last, len(line) - 1) + 1, keys.step)]
    return uses


def _of_set(spec: CommandSpec, line: list[bytes]) -> list[KeyUse]:
    reads = any(word.lower() == b"get" for word in line[3:])
    return [KeyUse(line[1], 1, ("RW", "access", "update") if reads else ("OW", "update"))]


def _of_bitfield(spec: CommandSpec, line: list[bytes]) -> list[KeyUse]:
    writes = any(word.lower() in (b"set", b"incrby") for word in line[2:])
    return [KeyUse(line[1], 1, ("RW", "access", "update") if writes else ("RO", "access"))]


def _of_sort(spec: CommandSpec, line: list[bytes]) -> list[KeyUse]:
    uses = [KeyUse(line[1], 1, ("RO", "access"))]
    try:
        place = destination_place(line)
    except CommandError:
        place = None
    return uses if place is None else [*uses, KeyUse(line[place], place, ("OW", "update"))]


def _of_migrate(spec: CommandSpec, line: list[bytes]) -> list[KeyUse]:
    flags = ("RW", "access", "delete")
    for position in range(6, len(line)):
        if line[position].lower() == b"keys":
            if line[3]:
                raise CommandError(_NO_ARGUMENTS)
            return [KeyUse(line[place], place, flags) for place in range(position + 1, len(line))]
    return [KeyUse(line[3], 3, flags)]


_SPECIAL: dict[str, Callable[[CommandSpec, list[bytes]], list[KeyUse]]] = {
    "set": _of_set,
    "bitfield": _of_bitfield,
    "sort": _of_sort,
    "sort_ro": _of_sort,
    "migrate": _of_migrate,
}
