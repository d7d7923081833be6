"""String handlers where a live redis-server cannot be the judge: full pools, staged values, races, limits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kvcd.context import MAX_KEY_BYTES
from protocol.replies import OK, Error
from storage.interface import NO_EXPIRY, Entry, Status, ValueType
from tests.kvcd.service import PlainServer, Service
from tests.model import ModelStore

OUT_OF_MEMORY = Error("OOM command not allowed when used memory > 'maxmemory'.")


@dataclass
class Staged:
    """A value that stands in pool pages."""

    content: bytes
    copies: int = 0

    @property
    def size_bytes(self) -> int:
        """Length of the value."""
        return len(self.content)

    def tobytes(self) -> bytes:
        """Copy the value out, and count it."""
        self.copies += 1
        return self.content

    def discard(self) -> None:
        """Do nothing: the model has no pages."""


class RacingStore(ModelStore):
    """A store where another front end changes the key between the first read and what follows."""

    rival: bytes | None = b"5"  # what it writes; None: it deletes the key

    async def read(self, database: int, key: bytes, *, payload: bool = True, touch: bool = True) -> Entry | None:
        """Read, then let the rival act once."""
        entry = await super().read(database, key, payload=payload, touch=touch)
        if self.rival != b"done":
            rival, self.rival = self.rival, b"done"
            if rival is None:
                await self.delete(database, [key])
            else:
                await self.write(database, key, rival)
        return entry


def service(*, limit_bytes: int | None = None, limit_keys: int | None = None) -> Service:
    """Return a service over a model with limits."""
    return Service(server=PlainServer(store=ModelStore(limit_bytes=limit_bytes, limit_keys=limit_keys)))


def racing(rival: bytes | None) -> Service:
    """Return a service whose store has a rival."""
    store = RacingStore()
    store.rival = b"done"
    made = Service(server=PlainServer(store=store))
    made.do("SET", "k", "1")
    store.rival = rival
    return made


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "new", "x" * 50),
        ("SET", "k", "x" * 50),
        ("SETNX", "new", "x" * 50),
        ("SETEX", "new", 10, "x" * 50),
        ("PSETEX", "new", 10, "x" * 50),
        ("GETSET", "k", "x" * 50),
        ("MSET", "k", "x" * 50),
        ("MSETNX", "new", "x" * 50),
        ("APPEND", "k", "x" * 50),
        ("SETRANGE", "k", 50, "x"),
        ("COPY", "k", "n" * 40),
        ("RENAME", "k", "n" * 40),
        ("PREFIX.SET", "new", "x" * 50),
    ],
)
def test_a_full_pool_answers_with_oom_and_keeps_what_it_had(command: tuple[object, ...]) -> None:
    """Whatever writes is refused in Redis's words, and everything stays readable."""
    full = service(limit_bytes=20)
    assert full.do("SET", "k", "12345") == OK
    assert full.do(*command) == OUT_OF_MEMORY
    assert full.do("GET", "k") == b"12345"
    assert full.do("DBSIZE") == 1


@pytest.mark.parametrize(
    "command", [("INCR", "n"), ("INCRBYFLOAT", "n", "0.5"), ("SET", "n", "1"), ("APPEND", "n", "1"), ("SETNX", "n", "1")]
)
def test_a_full_index_names_its_directive(command: tuple[object, ...]) -> None:
    """The way out is in the error."""
    full = service(limit_keys=1)
    full.do("SET", "k", "v")
    reply = full.do(*command)
    assert isinstance(reply, Error)
    assert reply.text.startswith("OOM ")
    assert "index-entries" in reply.text
    assert full.do("INCR", "k") == Error("ERR value is not an integer or out of range")


def test_a_full_pool_still_deletes_and_expires() -> None:
    """Room can be made."""
    full = service(limit_bytes=6)
    full.do("SET", "k", "12345")
    assert full.do("EXPIRE", "k", 10) == 1
    assert full.do("GETDEL", "k") == b"12345"
    assert full.do("SET", "j", "12345") == OK


@pytest.mark.parametrize("command", ["GET", "SET", "EXISTS", "DEL", "TTL", "INCR", "PREFIX.MATCH", "RENAME", "MSET", "PREFIX.SET", "GETEX"])
def test_a_key_that_is_too_long_is_refused(command: str) -> None:
    """One byte more than the pool takes, in every kind of command."""
    longest = b"k" * MAX_KEY_BYTES
    more = {"SET": ["v"], "RENAME": ["v"], "MSET": ["v"], "PREFIX.SET": ["v"]}.get(command, [])
    assert service().do(command, longest + b"k", *more) == Error(f"ERR key is longer than {MAX_KEY_BYTES} bytes")
    reply = service().do(command, longest, *more)
    assert reply != Error(f"ERR key is longer than {MAX_KEY_BYTES} bytes")


def test_a_staged_value_is_stored() -> None:
    """At every value position."""
    made = service()
    for command in (
        ("SET", "a", Staged(b"v")),
        ("SETEX", "b", 10, Staged(b"v")),
        ("PSETEX", "c", 10_000, Staged(b"v")),
        ("MSET", "d", Staged(b"v"), "e", Staged(b"v")),
        ("SETNX", "f", Staged(b"v")),
        ("GETSET", "g", Staged(b"v")),
        ("MSETNX", "h", Staged(b"v")),
        ("APPEND", "i", Staged(b"v")),
        ("SETRANGE", "j", 0, Staged(b"v")),
        ("PREFIX.SET", "NX", "PARENT", "a", "k", Staged(b"v"), "l", "v"),
    ):
        assert not isinstance(made.do(*command), Error), command
    assert made.do("MGET", *"abcdefghijkl") == [b"v"] * 12


def test_a_staged_value_is_not_copied_for_a_refusal() -> None:
    """SETRANGE beyond the limit looks at the length only; PREFIX.SET refuses a staged key by its length."""
    staged = Staged(b"v" * 70_000)
    assert service().do("SETRANGE", "k", 536_870_912, staged) == Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    assert service().do("PREFIX.SET", staged, "v") == Error(f"ERR key is longer than {MAX_KEY_BYTES} bytes")
    assert service().do("PREFIX.SET", "PARENT", staged, "k", "v") == Error(f"ERR key is longer than {MAX_KEY_BYTES} bytes")
    assert staged.copies == 0


@pytest.mark.parametrize(
    ("command", "reply", "value"),
    [
        (("INCR", "k"), 6, b"6"),
        (("INCRBYFLOAT", "k", "0.5"), b"5.5", b"5.5"),
        (("APPEND", "k", "x"), 2, b"5x"),
        (("SETRANGE", "k", 1, "x"), 2, b"5x"),
        (("GETDEL", "k"), b"5", None),
        (("GETEX", "k", "EX", 10), b"5", b"5"),
        (("EXPIRE", "k", 10), 1, b"5"),
        (("RENAME", "k", "other"), OK, None),
    ],
)
def test_a_change_by_another_front_end_is_seen(command: tuple[object, ...], reply: object, value: bytes | None) -> None:
    """What was read is changed before the answer to it is written: the command starts again from the new value."""
    made = racing(b"5")
    assert made.do(*command) == reply
    assert made.do("GET", "k") == value
    if command[0] == "RENAME":
        assert made.do("GET", "other") == b"5"


@pytest.mark.parametrize(
    ("command", "reply", "value"),
    [
        (("INCR", "k"), 1, b"1"),
        (("APPEND", "k", "x"), 1, b"x"),
        (("GETDEL", "k"), None, None),
        (("EXPIRE", "k", 10), 0, None),
        (("PERSIST", "k"), 0, None),
    ],
)
def test_a_delete_by_another_front_end_is_seen(command: tuple[object, ...], reply: object, value: bytes | None) -> None:
    """The same for a key that goes away."""
    made = racing(None)
    made.server.store.records[0, b"k"].expire_at_ms = made.server.now_ms() + 10_000
    assert made.do(*command) == reply
    assert made.do("GET", "k") == value


def test_a_key_that_appears_is_counted_on() -> None:
    """INCR of an absent key that another front end creates meanwhile."""
    made = racing(b"5")
    made.server.store.records.clear()
    assert made.do("INCR", "k") == 6


def test_expiry_follows_the_clock() -> None:
    """To the millisecond, for every way to set it; changes of the value keep it, SET drops it."""
    made = service()
    store = made.server.store
    made.do("SET", "a", "1", "PX", 1500)
    made.do("INCR", "a")
    made.do("APPEND", "a", "0")
    assert made.do("PTTL", "a") == 1500
    assert made.do("TTL", "a") == 2
    assert made.do("PEXPIRETIME", "a") == store.now_ms + 1500
    store.now_ms += 1499
    assert made.do("GET", "a") == b"20"
    store.now_ms += 1
    assert made.do("GET", "a") is None
    made.do("SET", "a", "1", "PX", 5)
    made.do("SET", "a", "2", "KEEPTTL")
    assert made.do("PTTL", "a") == 5
    made.do("SET", "a", "3")
    assert made.do("PTTL", "a") == -1
    assert store.records[0, b"a"].expire_at_ms == NO_EXPIRY


async def test_the_model_refuses_a_stale_token() -> None:
    """The judge itself: replace and delete_exact succeed once per version."""
    store = ModelStore()
    await store.write(0, b"k", b"1")
    entry = await store.read(0, b"k")
    assert entry is not None
    assert entry.type == ValueType.STRING
    assert await store.replace(0, b"k", entry.token, b"2", expire_at_ms=NO_EXPIRY) == Status.OK
    assert await store.replace(0, b"k", entry.token, b"3", expire_at_ms=NO_EXPIRY) == Status.CONFLICT
    assert await store.delete_exact(0, b"k", entry.token) == Status.CONFLICT
    assert (await store.read(0, b"k")).payload == b"2"  # type: ignore[union-attr]
