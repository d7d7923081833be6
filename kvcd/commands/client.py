"""CLIENT: who is connected, under which name, and closing connections."""

from __future__ import annotations

from typing import Any

from kvcd.client_memory import held_bytes
from kvcd.client_modes import ClientModes, is_subscriber
from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer, shown
from kvcd.commands.connection import checked_name, is_printable_name
from kvcd.commands.registry import answers, handles
from kvcd.context import ClientState, ServerState
from kvcd.portable import portable, restored
from protocol.encoder import encode
from protocol.replies import OK, Reply, Verbatim

_TYPES = (b"normal", b"master", b"replica", b"slave", b"pubsub")
_NO_SUCH_CLIENT = "ERR No such client"
_NO_MODES = ClientModes()
_LIST, _KILL = "list clients", "kill clients"  # topics between workers

# What a client must have to be closed: field of the client, and its value as text.
Filters = list[tuple[str, str]]


def describe(server: ServerState, client: ClientState, command: list[bytes] | None = None) -> bytes:
    """Return one line of CLIENT LIST. Fields for what is not served here hold what Redis shows of an idle feature.

    ``command``: what this client is just asking, which lies in its query buffer until it is answered.
    """
    now_ms = server.now_ms()
    modes = client.modes or _NO_MODES
    transaction, tracking = modes.transaction, modes.tracking
    queued_bytes = transaction.queued_bytes if transaction is not None else 0
    fields = {
        "id": client.id,
        "addr": client.address,
        "laddr": client.local_address,
        "fd": client.descriptor,
        "name": client.name.decode("ascii"),
        "age": (now_ms - client.created_at_ms) // 1000,
        "idle": max(now_ms - client.last_interaction_ms, 0) // 1000,
        "flags": _flags(client, modes),
        "db": server.order.number(client.db),
        "sub": len(modes.channels),
        "psub": len(modes.patterns),
        "ssub": len(modes.shard_channels),
        "multi": -1 if transaction is None else len(transaction.queue),
        "qbuf": client.pending_input_bytes + (0 if command is None else len(encode(command, client.resp))),
        "qbuf-free": 0,
        "argv-mem": 0,
        "multi-mem": queued_bytes,
        "rbs": 0,
        "rbp": 0,
        "obl": 0,
        "oll": 0,
        "omem": client.pending_output_bytes,
        "tot-mem": held_bytes(client),
        "events": "rw" if client.pending_output_bytes else "r",
        "cmd": client.last_command,
        "user": client.user.decode("utf-8", "surrogateescape"),
        "redir": -1 if tracking is None else tracking.redirect,
        "resp": client.resp,
        "lib-name": client.lib_name.decode("ascii"),
        "lib-ver": client.lib_ver.decode("ascii"),
        "tot-net-in": client.net_input_bytes,
        "tot-net-out": client.net_output_bytes,
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()).encode("utf-8", "surrogateescape") + b"\n"


def _flags(client: ClientState, modes: ClientModes) -> str:
    """Return the letters of what the client has switched on, in Redis's order."""
    tracking = modes.tracking
    letters = {
        "O": modes.is_monitor,
        "P": modes.is_subscriber,
        "x": modes.transaction is not None,
        "b": client.is_blocked,
        "t": tracking is not None,
        "R": tracking is not None and tracking.is_broken,
        "B": tracking is not None and tracking.is_broadcast,
        "d": modes.is_dirty,
        "c": client.close_after_reply,
        "U": client.address.startswith("/"),
        "e": modes.never_evicted,
        "T": modes.touches_nothing,
    }
    return "".join(letter for letter, is_set in letters.items() if is_set) or "N"


def client_type(client: ClientState) -> str:
    """Return the type that CLIENT LIST and CLIENT KILL choose by."""
    return "pubsub" if is_subscriber(client) else "normal"


@handles("client|id")
async def handle_client_id(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT ID."""
    return client.id


@handles("client|setname")
async def handle_client_setname(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT SETNAME connection-name."""
    client.name = checked_name(args[2])
    return OK


@handles("client|getname")
async def handle_client_getname(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT GETNAME."""
    return client.name or None


@handles("client|setinfo")
async def handle_client_setinfo(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT SETINFO LIB-NAME libname, CLIENT SETINFO LIB-VER libver."""
    option, value = args[2].lower(), args[3]
    if option not in (b"lib-name", b"lib-ver"):
        raise CommandError(f"ERR Unrecognized option '{shown(args[2])}'")
    if not is_printable_name(value):
        raise CommandError(f"ERR {option.decode()} cannot contain spaces, newlines or special characters.")
    if option == b"lib-name":
        client.lib_name = value
    else:
        client.lib_ver = value
    return OK


@handles("client|info")
async def handle_client_info(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT INFO."""
    return Verbatim(describe(server, client, args))


def _check_type(name: bytes) -> bytes:
    if name.lower() not in _TYPES:
        raise CommandError(f"ERR Unknown client type '{shown(name)}'")
    return name.lower()


@handles("client|list")
async def handle_client_list(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT LIST [TYPE type] [ID client-id [client-id ...]]."""
    numbers: list[int] | None = None
    wanted_type = ""
    if len(args) == 4 and args[2].lower() == b"type":
        wanted_type = _check_type(args[3]).decode()
    elif len(args) > 3 and args[2].lower() == b"id":
        numbers = [parse_integer(argument, "ERR Invalid client ID") for argument in args[3:]]
    elif len(args) > 2:
        raise CommandError(SYNTAX_ERROR)
    question = [numbers, wanted_type]
    lines = {int(number): line.encode("latin-1") for number, line in _lines_here(server, numbers, wanted_type).items()}
    if client.id in lines:
        lines[client.id] = describe(server, client, args)
    for answer in await server.service.channel.ask_all(_LIST, question):
        lines.update({int(number): line.encode("latin-1") for number, line in answer.payload.items()})
    order = sorted(lines) if numbers is None else [number for number in numbers if number in lines]
    return Verbatim(b"".join(lines[number] for number in order))


@answers(_LIST)
def list_clients(server: ServerState, question: list[Any]) -> dict[str, str]:
    """Return the lines of CLIENT LIST for the clients of this worker, for another worker."""
    return _lines_here(server, *question)


def _lines_here(server: ServerState, numbers: list[int] | None, wanted_type: str) -> dict[str, str]:
    """Return lines by id; asked for are ids (None: all) and a type (empty: any)."""
    chosen = server.clients if numbers is None else {number: server.clients[number] for number in numbers if number in server.clients}
    return {
        str(number): describe(server, client).decode("latin-1")
        for number, client in chosen.items()
        if not wanted_type or client_type(client) == wanted_type
    }


@handles("client|kill")
async def handle_client_kill(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT KILL ip:port (an error if there is none), or CLIENT KILL filter value ... (how many there were)."""
    if len(args) == 3:
        if not await _kill_everywhere(client, server, [("address", _text(args[2]))], skip_me=False):
            raise CommandError(_NO_SUCH_CLIENT)
        return OK
    if len(args) % 2:
        raise CommandError(SYNTAX_ERROR)
    filters: Filters = []
    skip_me = True
    for word, value in zip(args[2::2], args[3::2], strict=True):
        if word.lower() == b"skipme" and value.lower() in (b"yes", b"no"):
            skip_me = value.lower() == b"yes"
        else:
            filters.append(_kill_filter(server, word.lower(), value))
    return await _kill_everywhere(client, server, filters, skip_me=skip_me)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _kill_filter(server: ServerState, word: bytes, value: bytes) -> tuple[str, str]:
    """Return the test that one filter of CLIENT KILL makes; raises CommandError."""
    if word == b"id":
        refusal = "ERR client-id should be greater than 0"
        number = parse_integer(value, refusal)
        if number < 1:
            raise CommandError(refusal)
        return "id", str(number)
    if word == b"type":
        return "type", _check_type(value).decode()
    if word == b"addr":
        return "address", _text(value)
    if word == b"laddr":
        return "local_address", _text(value)
    if word == b"user":
        if server.access.users.get(value) is None:
            raise CommandError(f"ERR No such user '{shown(value)}'")
        return "user", _text(value)
    raise CommandError(SYNTAX_ERROR)


async def _kill_everywhere(client: ClientState, server: ServerState, filters: Filters, *, skip_me: bool) -> int:
    """Close the clients that pass all filters, the asking one after its reply; returns how many there were."""
    chosen = [other for other in server.clients.values() if _passes(other, filters) and not (skip_me and other is client)]
    for other in chosen:
        if other is not client:
            other.kill()
    elsewhere = await server.service.channel.ask_all(_KILL, [[name, portable(text)] for name, text in filters])
    if client in chosen:
        client.close_after_reply = True  # only now: while a command waits, what is queued is sent, and the connection would close then
    return len(chosen) + sum(int(answer.payload) for answer in elsewhere)


def _passes(client: ClientState, filters: Filters) -> bool:
    has = {
        "id": str(client.id),
        "type": client_type(client),
        "address": client.address,
        "local_address": client.local_address,
        "user": _text(client.user),
    }
    return all(has[name] == text for name, text in filters)


@answers(_KILL)
def kill_clients(server: ServerState, filters: list[list[str]]) -> int:
    """Close the clients of this worker that another one was asked to close; returns how many there were."""
    wanted = [(name, restored(text)) for name, text in filters]
    chosen = [client for client in server.clients.values() if _passes(client, wanted)]
    for client in chosen:
        client.kill()
    return len(chosen)
