"""DEBUG: what test suites ask of a server; only where `enable-debug-command` allows it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from kvcd import logs
from kvcd.commands.arguments import CommandError, parse_integer, refusal, shown
from kvcd.commands.digest import DIGEST_BYTES, digest_of, digest_of_all
from kvcd.commands.help import help_lines
from kvcd.commands.objects import encoding, reference_count
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from kvcd.directive import ConfigError, memory_bytes
from protocol.dump_payload import dump
from protocol.replies import OK, Encoded, Error, Reply, Simple, Verbatim
from storage.interface import Entry, Status

_TYPE_NAMES = "string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false"
_DUMP_FOOTER_BYTES = 10
_LARGEST_PACKED_THRESHOLD = 4 * 1024**3
_ATTRIBUTE = b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n"
_PUSH = b">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n"
_AFTER_ATTRIBUTE = b"Some real reply following the attribute"
_AFTER_PUSH = b"Some real reply following the push reply"
_PLAIN_REPLIES: dict[bytes, Reply] = {
    b"string": b"Hello World",
    b"integer": 12345,
    b"double": 3.141,
    b"null": None,
    b"array": [0, 1, 2],
    b"set": {0, 1, 2},
    b"map": {0: False, 1: True, 2: False},
    b"verbatim": Verbatim(b"This is a verbatim\nstring"),
    b"bignum": 1234567999999999999999999999999999999,
    b"true": True,
    b"false": False,
}

_log = logs.get_logger("debug")
_Subcommand = Callable[[ClientState, ServerState, list[bytes]], Awaitable[Reply]]


async def _protocol(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    name = args[2].lower()
    if name == b"attrib":
        reply = b"$%d\r\n%b\r\n" % (len(_AFTER_ATTRIBUTE), _AFTER_ATTRIBUTE)
        return Encoded(_ATTRIBUTE + reply if client.resp == 3 else reply)
    if name == b"push":
        if client.resp == 2:
            raise CommandError("ERR RESP2 is not supported by this command")
        return Encoded(_PUSH + b"$%d\r\n%b\r\n" % (len(_AFTER_PUSH), _AFTER_PUSH))
    if name not in _PLAIN_REPLIES:
        raise CommandError(f"ERR Wrong protocol type name. Please use one of the following: {_TYPE_NAMES}")
    return _PLAIN_REPLIES[name]


async def _entry_of(client: ClientState, server: ServerState, key: bytes) -> Entry:
    entry = await server.store.read(client.db, key, touch=False)
    if entry is None:
        raise CommandError("ERR no such key")
    return entry


async def _object(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    entry = await _entry_of(client, server, args[2])
    stored_bytes = len(dump(entry.payload)) - 1 - _DUMP_FOOTER_BYTES
    clock = (server.now_ms() // 1000 - entry.idle_s) & 0xFFFFFF
    return Simple(
        f"Value at:0x{entry.token:x} refcount:{reference_count(server, entry)} encoding:{encoding(entry)} "
        f"serializedlength:{stored_bytes} lru:{clock} lru_seconds_idle:{entry.idle_s}"
    )


async def _sdslen(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    entry = await _entry_of(client, server, args[2])
    if encoding(entry) == "int":
        raise CommandError("ERR Not an sds encoded string.")
    return Simple(
        f"key_sds_len:{len(args[2])}, key_sds_avail:0, key_zmalloc: {len(args[2])}, "
        f"val_sds_len:{entry.size_bytes}, val_sds_avail:0, val_zmalloc: {entry.size_bytes}"
    )


async def _other_type(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    await _entry_of(client, server, args[2])
    subcommand = args[1].lower()
    if subcommand == b"htstats-key":
        raise CommandError("ERR The value stored at the specified key is not represented using an hash table")
    raise CommandError(f"ERR Not a {subcommand.decode()} encoded object.")


async def _sleep(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    try:
        seconds = float(args[2])
    except ValueError:
        seconds = 0.0
    # Nobody is served meanwhile: that is what this is asked for.
    time.sleep(max(seconds, 0.0))  # noqa: ASYNC251
    return OK


async def _set_active_expire(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    server.expires_in_background = not args[2].isdigit() or int(args[2]) != 0
    return OK


async def _packed_threshold(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    try:
        size_bytes = memory_bytes(args[2].decode("latin-1"))
    except ConfigError:
        size_bytes = -1
    if not 0 <= size_bytes <= _LARGEST_PACKED_THRESHOLD:
        raise CommandError("ERR argument must be a memory value bigger than 1 and smaller than 4gb")
    return OK


async def _populate(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    count = parse_integer(args[2], "ERR value is out of range, must be positive")
    if count < 0:
        raise CommandError("ERR value is out of range, must be positive")
    prefix = args[3] if len(args) > 3 else b"key"
    size_bytes = parse_integer(args[4], "ERR value is out of range, must be positive") if len(args) > 4 else 0
    if size_bytes < 0:
        raise CommandError("ERR value is out of range, must be positive")
    for number in range(count):
        value = b"value:%d" % number
        if size_bytes:
            value = value[:size_bytes].ljust(size_bytes, b"\0")
        key = b"%b:%d" % (prefix, number)
        if not any(await server.store.exists(client.db, [key])):
            status = (await server.store.write(client.db, key, value)).status
            if status != Status.OK:
                return refusal(status)
    return OK


async def _digest(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    return Simple((await digest_of_all(server)).hex())


async def _digest_value(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    entries = await server.store.read_many(client.db, args[2:], touch=False)
    return [Simple((bytes(DIGEST_BYTES) if entry is None else digest_of(entry)).hex()) for entry in entries]


async def _error(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    return Error(shown(args[2]).replace("\r", " ").replace("\n", " "))


async def _write_log(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    _log.warning("DEBUG LOG", text=args[2].decode("utf-8", "replace"))
    return OK


async def _nothing(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """What is to be switched does not exist here, or is done anyway."""
    return OK


async def _help(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    return help_lines("debug")


# Fewest and most arguments after the subcommand, and who answers.
_SUBCOMMANDS: dict[bytes, tuple[int, int, _Subcommand]] = {
    b"help": (0, 0, _help),
    b"protocol": (1, 1, _protocol),
    b"object": (1, 1, _object),
    b"sdslen": (1, 1, _sdslen),
    b"listpack": (1, 1, _other_type),
    b"htstats-key": (1, 1, _other_type),
    b"sleep": (1, 1, _sleep),
    b"set-active-expire": (1, 1, _set_active_expire),
    b"quicklist-packed-threshold": (1, 1, _packed_threshold),
    b"populate": (1, 3, _populate),
    b"digest": (0, 0, _digest),
    b"digest-value": (1, 1 << 20, _digest_value),
    b"error": (1, 1, _error),
    b"log": (1, 1, _write_log),
    b"reload": (0, 3, _nothing),
    b"loadaof": (0, 0, _nothing),
    b"change-repl-id": (0, 0, _nothing),
    b"replicate": (1, 1 << 20, _nothing),
    b"leak": (1, 1, _nothing),
    b"pause-cron": (1, 1, _nothing),
    b"replybuffer": (2, 2, _nothing),
    b"set-disable-deny-scripts": (1, 1, _nothing),
    b"set-skip-checksum-validation": (1, 1, _nothing),
    b"aof-flush-sleep": (1, 1, _nothing),
    b"drop-cluster-packet-filter": (1, 1, _nothing),
}


def _wrong_subcommand(args: list[bytes]) -> str:
    return f"ERR unknown subcommand or wrong number of arguments for '{shown(args[1][:128])}'. Try DEBUG HELP."


@handles("debug")
async def handle_debug(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """DEBUG subcommand [argument ...]."""
    fewest, most, answer = _SUBCOMMANDS.get(args[1].lower(), (1, 0, _nothing))
    if not fewest <= len(args) - 2 <= most:
        raise CommandError(_wrong_subcommand(args))
    return await answer(client, server, args)
