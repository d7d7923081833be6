"""Keys of a call: which of its arguments are keys, and whether it reads or writes what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from protocol.command_spec import CommandSpec, KeySpec

_WRITES = frozenset(("insert", "update", "delete"))


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """One key of a call. ``flags`` are Redis's: RO, RW, OW or RM first, then what is done; EXISTS neither reads nor writes a value."""

    position: int
    flags: tuple[str, ...]

    @property
    def reads(self) -> bool:
        """Whether the key's value is looked at."""
        return "access" in self.flags

    @property
    def writes(self) -> bool:
        """Whether the key's value is changed."""
        return not _WRITES.isdisjoint(self.flags)


def key_accesses(spec: CommandSpec, args: Sequence[bytes]) -> list[KeyAccess] | None:
    """Return the keys of a call whose number of arguments is right, in their order; None when nobody knows how to find them.

    ``args`` begins with the command's name.
    """
    special = _SPECIAL.get(spec.name)
    if special is not None:
        return list(special(args))
    if "movablekeys" in spec.flags:
        return None  # whoever adds such a command says below where its keys are
    # What is "not_key" is hashed to a slot in a cluster, as a shard channel is, and no key anywhere else.
    specs = [keys for keys in spec.keys if "not_key" not in keys.flags]
    return [KeyAccess(position, _flags(spec, keys, args)) for keys in specs for position in _positions(keys, len(args))]


def _positions(keys: KeySpec, argument_count: int) -> range:
    last = keys.first + keys.last if keys.last >= 0 else argument_count + keys.last
    return range(keys.first, min(last, argument_count - 1) + 1, keys.step)


def _flags(spec: CommandSpec, keys: KeySpec, args: Sequence[bytes]) -> tuple[str, ...]:
    """Return the flags of these keys, where they depend on the call those of this one."""
    if "variable_flags" in keys.flags:
        words = [word.lower() for word in args[3 if spec.name == "set" else 2 :]]  # the value of SET need not be bytes
        if spec.name == "set":
            return ("RW", "access", "update") if b"get" in words else ("OW", "update")
        if spec.name == "bitfield":
            return ("RW", "access", "update") if b"set" in words or b"incrby" in words else ("RO", "access")
    return keys.flags


def _chain_accesses(args: Sequence[bytes]) -> Iterator[KeyAccess]:
    """PREFIX.SET [NX] [EX seconds | PX milliseconds] [PARENT key] key value ...: options in any order, each once, before the pairs.

    Exactly as its handler reads them: what only one of the two took for an option would be a key that nobody looked at.
    """
    position, has_condition, has_parent = 1, False, False
    while position < len(args):
        word = args[position].lower() if isinstance(args[position], bytes) else b""
        if word == b"nx" and not has_condition:
            has_condition = True
            position += 1
            continue
        if word == b"parent" and not has_parent and position + 1 < len(args):
            has_parent = True
            yield KeyAccess(position + 1, ("RO",))
        elif word not in (b"ex", b"px") or position + 1 >= len(args):
            break
        position += 2
    yield from (KeyAccess(at, ("OW", "update")) for at in range(position, len(args), 2))


def _sort_accesses(args: Sequence[bytes]) -> Iterator[KeyAccess]:
    """SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC | DESC] [ALPHA] [STORE destination]: the last STORE counts."""
    yield KeyAccess(1, ("RO", "access"))
    destination, position = 0, 2
    while position < len(args):
        word = args[position].lower()
        if word == b"store" and position + 1 < len(args) and args[0].lower() == b"sort":
            destination = position + 1
        position += {b"limit": 3, b"get": 2, b"by": 2, b"store": 2}.get(word, 1)
    if destination:
        yield KeyAccess(destination, ("OW", "update"))


def _migrate_accesses(args: Sequence[bytes]) -> Iterator[KeyAccess]:
    """MIGRATE host port key-or-nothing database timeout ... [KEYS key ...]."""
    positions: Sequence[int] = (3,)
    for position in range(6, len(args)):
        if args[position].lower() == b"keys" and not args[3]:
            positions = range(position + 1, len(args))
            break
    yield from (KeyAccess(position, ("RW", "access", "delete")) for position in positions)


_SPECIAL: dict[str, Callable[[Sequence[bytes]], Iterator[KeyAccess]]] = {
    "prefix.set": _chain_accesses,
    "sort": _sort_accesses,
    "sort_ro": _sort_accesses,
    "migrate": _migrate_accesses,
}
