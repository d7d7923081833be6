"""COMMAND: the command table told to clients."""

from __future__ import annotations

from collections.abc import Iterable

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.argument_tree import Argument, arguments_of
from protocol.command_keys import KeyAccess, key_accesses
from protocol.command_table import COMMANDS, CommandSpec, KeySpec, lookup, lookup_subcommand
from protocol.glob import matches
from protocol.replies import Members, Reply, Simple


def _flags(names: Iterable[str]) -> Members:
    return Members(tuple(Simple(name) for name in names))


def _key_spec(spec: KeySpec) -> dict[object, object]:
    described: dict[object, object] = {b"notes": spec.notes.encode()} if spec.notes else {}
    described[b"flags"] = _flags(spec.flags)
    if spec.place == "unknown":
        nowhere: dict[object, object] = {b"type": b"unknown", b"spec": {}}
        return described | {b"begin_search": nowhere, b"find_keys": nowhere}
    if spec.place == "keyword":
        described[b"begin_search"] = {b"type": b"keyword", b"spec": {b"keyword": spec.keyword.encode(), b"startfrom": spec.first}}
    else:
        described[b"begin_search"] = {b"type": b"index", b"spec": {b"index": spec.first}}
    described[b"find_keys"] = {b"type": b"range", b"spec": {b"lastkey": spec.last, b"keystep": spec.step, b"limit": 0}}
    return described


def info_of(spec: CommandSpec) -> list[object]:
    """Return a command's entry of COMMAND INFO."""
    return [
        spec.name.encode(),
        spec.arity,
        _flags(spec.flags),
        spec.first_key,
        spec.last_key,
        spec.key_step,
        _flags(spec.acl_categories),
        Members(tuple(tip.encode() for tip in spec.tips)),
        Members(tuple(_key_spec(keys) for keys in spec.keys)),
        # Redis sends a set that is empty, and an array that is not.
        [info_of(subcommand) for subcommand in spec.subcommands] or Members(()),
    ]


def _argument(argument: Argument) -> dict[object, object]:
    described: dict[object, object] = {b"name": argument.name.encode(), b"type": argument.type.encode()}
    if argument.key_spec is not None:
        described[b"key_spec_index"] = argument.key_spec
    if argument.token:
        described[b"token"] = argument.token.encode()
    if argument.since:
        described[b"since"] = argument.since.encode()
    if argument.deprecated_since:
        described[b"deprecated_since"] = argument.deprecated_since.encode()
    if argument.flags:
        described[b"flags"] = _flags(argument.flags)
    if argument.parts:
        described[b"arguments"] = [_argument(part) for part in argument.parts]
    return described


def docs_of(spec: CommandSpec) -> dict[object, object]:
    """Return a command's entry of COMMAND DOCS."""
    docs: dict[object, object] = {
        b"summary": spec.summary.encode(),
        b"since": spec.since.encode(),
        b"group": spec.group.encode(),
        b"complexity": spec.complexity.encode(),
    }
    if spec.replaced_by:
        docs[b"doc_flags"] = _flags(["deprecated"])
        docs[b"replaced_by"] = spec.replaced_by.encode()
    arguments = arguments_of(spec.name)
    if arguments:
        docs[b"arguments"] = [_argument(argument) for argument in arguments]
    elif spec.syntax:
        # One argument that is the whole line: clients that show hints print its name.
        docs[b"arguments"] = [{b"name": spec.syntax.encode(), b"type": b"string", b"display_text": spec.syntax.encode()}]
    if spec.subcommands:
        docs[b"subcommands"] = {subcommand.name.encode(): docs_of(subcommand) for subcommand in spec.subcommands}
    return docs


def _callable(server: ServerState) -> list[CommandSpec]:
    """Return the commands that have a name; renamed ones are told of by the name that they had."""
    return [spec for name, spec in COMMANDS.items() if server.names.is_known(name)]


def _chosen(server: ServerState, names: list[bytes]) -> list[CommandSpec | None]:
    """Return the commands that are called so, None for what is none; all of them without a name."""
    return [lookup(server.names.known_as(name)) for name in names] or [*_callable(server)]


@handles("command")
async def handle_command(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """COMMAND without a subcommand."""
    return [info_of(spec) for spec in _callable(server)]


@handles("command|count")
async def handle_command_count(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """COMMAND COUNT."""
    return len(_callable(server))


@handles("command|info")
async def handle_command_info(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """COMMAND INFO [command-name ...]: null for a name that is unknown."""
    return [None if spec is None else info_of(spec) for spec in _chosen(server, args[2:])]


@handles("command|docs")
async def handle_command_docs(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """COMMAND DOCS [command-name ...]: unknown names are left out."""
    return {spec.name.encode(): docs_of(spec) for spec in _chosen(server, args[2:]) if spec is not None}


@handles("command|list")
async def handle_command_list(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """COMMAND LIST [FILTERBY MODULE module-name | ACLCAT category | PATTERN pattern]: subcommands only where a filter finds them."""
    if len(args) == 2:
        return [spec.name.encode() for spec in _callable(server)]
    if len(args) != 5 or args[2].lower() != b"filterby":
        raise CommandError(SYNTAX_ERROR)
    kind, wanted = args[3].lower(), args[4]
    every = [spec for command in _callable(server) for spec in (command, *command.subcommands)]
    if kind == b"module":
        return []
    if kind == b"aclcat":
        category = "@" + wanted.decode("utf-8", "surrogateescape").lower()
        return [spec.name.encode() for spec in every if category in spec.acl_categories]
    if kind == b"pattern":
        return [spec.name.encode() for spec in every if matches(wanted, spec.name.encode(), nocase=True)]
    raise CommandError(SYNTAX_ERROR)


def _keys_of(server: ServerState, line: list[bytes]) -> list[KeyAccess]:
    """Return the keys of a command line; raises CommandError when none can be told."""
    line = [server.names.known_as(line[0]), *line[1:]]
    spec = lookup(line[0])
    if spec is not None and spec.subcommands and len(line) > 1:
        spec = lookup_subcommand(spec, line[1])
    if spec is None:
        raise CommandError("ERR Invalid command specified")
    if not spec.keys and "movablekeys" not in spec.flags:
        raise CommandError("ERR The command has no key arguments")
    if not spec.accepts(len(line)):
        raise CommandError("ERR Invalid number of arguments specified for command")
    keys = key_accesses(spec, line)
    if keys is None or (spec.name == "migrate" and line[3] and b"keys" in map(bytes.lower, line[6:])):
        raise CommandError("ERR Invalid arguments specified for command")
    return keys


@handles("command|getkeys")
async def handle_command_getkeys(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """COMMAND GETKEYS command [arg ...]."""
    return [args[2 + key.position] for key in _keys_of(server, args[2:])]


@handles("command|getkeysandflags")
async def handle_command_getkeysandflags(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """COMMAND GETKEYSANDFLAGS command [arg ...]."""
    return [[args[2 + key.position], _flags(key.flags)] for key in _keys_of(server, args[2:])]
