"""Observed store: what one command does to the store, seen by those who are to hear of changes.

Made for a single command, by ``kvcd.commands.dispatch``, while anybody watches, tracks or is notified. Changes and events wait
until the command has ended, since Redis's order is not always that in which they are made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvcd.context import ClientState, ServerState
from kvcd.modes import ServerModes
from kvcd.notifications import GENERIC, MISSED, NEW, STRING
from protocol.command_keys import key_accesses
from protocol.command_spec import CommandSpec
from storage.interface import NO_EXPIRY, Condition, Entry, KeptAs, Payload, Status, StoreInterface, WriteResult

# What a write is called, where it is not "set".
_WRITES = {
    "append": (STRING, b"append"),
    "setrange": (STRING, b"setrange"),
    "incr": (STRING, b"incrby"),
    "decr": (STRING, b"incrby"),
    "incrby": (STRING, b"incrby"),
    "decrby": (STRING, b"incrby"),
    "incrbyfloat": (STRING, b"incrbyfloat"),
    "setbit": (STRING, b"setbit"),
    "bitfield": (STRING, b"setbit"),
    "copy": (GENERIC, b"copy_to"),
    "restore": (GENERIC, b"restore"),
    "restore-asking": (GENERIC, b"restore"),
    "rename": (GENERIC, b"rename_to"),
    "renamenx": (GENERIC, b"rename_to"),
    "move": (GENERIC, b"move_to"),
}
# These make a key anew even where there was one.
_ALWAYS_NEW = ("rename", "renamenx", "copy", "restore", "restore-asking", "move")
_REMOVALS = {"rename": b"rename_from", "renamenx": b"rename_from", "move": b"move_from"}
_SET_WITH_EXPIRY = ("set", "setex", "psetex")
# Commands that write, and read in a way that tells of a miss.
_READING_WRITERS = ("getex", "getdel", "getset", "copy", "set", "bitop", "sort")
_SILENT_READERS = ("object|encoding", "object|freq", "object|idletime", "object|refcount", "memory|usage", "debug|object")

# Redis answers these first and makes the change then; so it does with SET ... GET, and where EXPIRE sets a time.
_ANSWER_FIRST = ("getset", "getdel", "getex", "bitfield")
_EXPIRING = ("expire", "pexpire", "expireat", "pexpireat")
_CHANGE = ""  # in place of an event's class: the key was changed or removed


@dataclass(frozen=True, slots=True)
class _Event:
    """What somebody may have to hear of: an event, or that a key changed."""

    kind: str
    name: bytes
    database: int
    key: bytes
    behind_reply: bool = False

    @property
    def rank_in_move(self) -> int:
        """Where it stands when a key gets another name or database: Redis makes the new one first, and tells of the old one first."""
        if self.kind == NEW:
            return 0
        return (1 if self.kind == _CHANGE else 3) + (not self.name.endswith(b"_from"))


def _only_reads(spec: CommandSpec, args: Sequence[bytes]) -> bool:
    """Whether this call of a command that can write does not: BITFIELD with nothing but GET."""
    return spec.name == "bitfield" and not any(key.writes for key in key_accesses(spec, args) or ())


class ObservedStore:
    """The store for one command of one client; everything that changes nothing is passed on."""

    def __init__(self, store: StoreInterface, modes: ServerModes, client: ClientState, spec: CommandSpec, args: Sequence[bytes]) -> None:
        """Watch what a command does for ``client``."""
        self._store = store
        self._modes = modes
        self._client = client
        self._name = spec.name
        self._events: list[_Event] = []
        classes = modes.notifications.classes
        tells_misses = "readonly" in spec.flags or spec.name in _READING_WRITERS or _only_reads(spec, args)
        self._tells_misses = MISSED in classes and tells_misses and spec.name not in _SILENT_READERS
        self._tells_new = NEW in classes
        self._touches = client.modes is None or not client.modes.touches_nothing or spec.name == "touch"

    def __getattr__(self, name: str) -> Any:
        """Pass on what needs no observation."""
        return getattr(self._store, name)

    def finish(self) -> None:
        """The command has ended: tell of what expired before it, so that a key's last change is its own; then of what it did."""
        self._modes.take_removals(self._client)
        if self._name in _REMOVALS:
            self._events.sort(key=lambda event: event.rank_in_move)
        for event in self._events:
            if event.kind == _CHANGE:
                self._modes.changed(self._client, event.database, event.key, behind_reply=event.behind_reply)
            else:
                self._modes.notifications.notify(event.kind, event.name, event.database, event.key, behind_reply=event.behind_reply)
        self._events.clear()

    def _note(self, kind: str, name: bytes, database: int, key: bytes, *, behind_reply: bool | None = None) -> None:
        is_behind = self._name in _ANSWER_FIRST if behind_reply is None else behind_reply
        self._events.append(_Event(kind, name, database, key, is_behind))

    # ----------------------------------------------------------------- reading

    async def read(self, database: int, key: bytes, *, payload: bool = True, touch: bool = True) -> Entry | None:
        """As the store does, telling of a miss."""
        entry = await self._store.read(database, key, payload=payload, touch=touch and self._touches)
        if entry is None:
            self._missed(database, key)
        return entry

    async def read_many(self, database: int, keys: Sequence[bytes], *, payload: bool = True, touch: bool = True) -> list[Entry | None]:
        """As the store does, telling of misses."""
        entries = await self._store.read_many(database, keys, payload=payload, touch=touch and self._touches)
        for key, entry in zip(keys, entries, strict=True):
            if entry is None:
                self._missed(database, key)
        return entries

    async def exists(self, database: int, keys: Sequence[bytes]) -> list[bool]:
        """As the store does, telling of misses."""
        if self._touches:
            found = await self._store.exists(database, keys)
        else:
            found = [stamp is not None for stamp in await self._store.stamps(database, keys)]
        for key, is_there in zip(keys, found, strict=True):
            if not is_there:
                self._missed(database, key)
        return found

    def _missed(self, database: int, key: bytes) -> None:
        if self._tells_misses:
            self._note(MISSED, b"keymiss", database, key, behind_reply=False)

    # ---------------------------------------------------------------- changing

    async def write(
        self,
        database: int,
        key: bytes,
        value: Payload,
        *,
        condition: Condition = Condition.ALWAYS,
        expire_at_ms: int = NO_EXPIRY,
        keep_ttl: bool = False,
        want_previous: bool = False,
        parent: bytes | None = None,
        kept_as: KeptAs = KeptAs.VALUE,
    ) -> WriteResult:
        """As the store does."""
        is_new = condition is Condition.NX or self._name in _ALWAYS_NEW or (self._tells_new and await self._is_absent(database, key))
        result = await self._store.write(
            database,
            key,
            value,
            condition=condition,
            expire_at_ms=expire_at_ms,
            keep_ttl=keep_ttl,
            want_previous=want_previous,
            parent=parent,
            kept_as=kept_as,
        )
        if want_previous and result.previous is None:
            self._missed(database, key)
        if result.status == Status.OK:
            behind_reply = True if want_previous else None
            self._written(database, key, is_new=is_new, behind_reply=behind_reply)
            if expire_at_ms != NO_EXPIRY and self._name in _SET_WITH_EXPIRY:
                self._note(GENERIC, b"expire", database, key, behind_reply=behind_reply)
        return result

    async def write_many(self, database: int, pairs: Sequence[tuple[bytes, Payload]]) -> Status:
        """As the store does."""
        keys = [key for key, _ in pairs]
        absent: set[bytes] = set()
        if self._tells_new:
            stamps = await self._store.stamps(database, keys)
            absent = {key for key, stamp in zip(keys, stamps, strict=True) if stamp is None}
        status = await self._store.write_many(database, pairs)
        # Of several keys some may be written when there is no room for the next.
        for key in keys:
            self._written(database, key, is_new=key in absent)
            absent.discard(key)
        return status

    async def replace(
        self, database: int, key: bytes, token: int, value: Payload | None, *, expire_at_ms: int, kept_as: KeptAs = KeptAs.VALUE
    ) -> Status:
        """As the store does."""
        status = await self._store.replace(database, key, token, value, expire_at_ms=expire_at_ms, kept_as=kept_as)
        if status == Status.OK:
            if value is not None:
                self._written(database, key, is_new=False)
            else:
                behind_reply = True if self._name in _EXPIRING else None
                self._note(_CHANGE, b"", database, key, behind_reply=behind_reply)
                self._note(GENERIC, b"persist" if expire_at_ms == NO_EXPIRY else b"expire", database, key, behind_reply=behind_reply)
        return status

    async def delete(self, database: int, keys: Sequence[bytes]) -> int:
        """As the store does, one key after the other: which of them were there is to be told."""
        count = 0
        for key in keys:
            if await self._store.delete(database, [key]):
                self._removed(database, key)
                count += 1
        return count

    async def delete_exact(self, database: int, key: bytes, token: int) -> Status:
        """As the store does."""
        status = await self._store.delete_exact(database, key, token)
        if status == Status.OK:
            self._removed(database, key)
        return status

    async def flush(self, database: int | None) -> None:
        """As the store does."""
        await self._store.flush(database)
        self._modes.flushed(self._client)

    async def _is_absent(self, database: int, key: bytes) -> bool:
        return (await self._store.stamps(database, [key]))[0] is None

    def _written(self, database: int, key: bytes, *, is_new: bool, behind_reply: bool | None = None) -> None:
        if is_new:
            # BITFIELD makes the key before it answers, though it changes it behind that.
            self._note(NEW, b"new", database, key, behind_reply=False if self._name == "bitfield" else behind_reply)
        self._note(_CHANGE, b"", database, key, behind_reply=behind_reply)
        kind, event = _WRITES.get(self._name, (STRING, b"set"))
        self._note(kind, event, database, key, behind_reply=behind_reply)

    def _removed(self, database: int, key: bytes) -> None:
        event = _REMOVALS.get(self._name, b"del")
        self._note(_CHANGE, event, database, key)
        self._note(GENERIC, event, database, key)


class ObservedServer:
    """The server for one command, with an observed store in it."""

    _server: ServerState
    store: ObservedStore

    def __init__(self, server: ServerState, client: ClientState, spec: CommandSpec, args: Sequence[bytes]) -> None:
        """See ``ObservedStore``."""
        self.__dict__["_server"] = server
        self.__dict__["store"] = ObservedStore(server.store, server.modes, client, spec, args)

    def __getattr__(self, name: str) -> Any:
        """Everything but the store is the server's own."""
        return getattr(self._server, name)

    def __setattr__(self, name: str, value: object) -> None:
        """What a handler sets is the server's."""
        setattr(self._server, name, value)
