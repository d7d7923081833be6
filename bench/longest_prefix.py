"""Longest prefix: how many leading keys of a chain are there, by PREFIX.MATCH, pipelined EXISTS, and a Lua loop."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from bench.measure import Case, Group, Measurement, Way, timed
from bench.servers import Server
from bench.wire import Connection, encode

CHAINS = 200
LENGTHS = (30, 128)
CLIENTS = (1, 16)
MARK_30_KEYS = 0.4
_VALUE = b"v" * 64
_ROUNDS_BETWEEN_CLOCK_READS = 20

LUA_LONGEST_PREFIX = b"""
for index = 1, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 0 then return index - 1 end
end
return #KEYS
"""


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A request as sent, and its reply byte for byte."""

    request: bytes
    reply: bytes


def group() -> Group:
    """Chains of 30 and 128 keys, all there and half there, for 1 and 16 clients."""
    cases = tuple(
        Case(
            "prefix",
            f"prefix of {length} keys, {'half' if half else 'all'} there, {clients} client{'s' if clients > 1 else ''}",
            tuple(
                Way(name, command, _runner([make(length, chain, half=half) for chain in range(CHAINS)], clients))
                for name, command, make in (
                    ("PREFIX.MATCH", "PREFIX.MATCH", _match),
                    ("EXISTS pipelined", "EXISTS", _pipelined_exists),
                    ("EVALSHA", "EVALSHA", _evalsha),
                )
            ),
            MARK_30_KEYS if length == 30 else None,
        )
        for length in LENGTHS
        for half in (False, True)
        for clients in CLIENTS
    )
    return Group("prefix", load, cases)


def load(server: Server) -> None:
    """Store all chains at full length, and the script where there is Lua."""
    length = max(LENGTHS)
    with Connection(server.host, server.port) as connection:
        for chain in range(CHAINS):
            connection.ask(b"".join(encode(b"SET", key, _VALUE) for key in _present(length, chain)), b"+OK\r\n" * length)
        if server.knows("EVALSHA"):
            sha = _script_sha()
            connection.ask(encode(b"SCRIPT", b"LOAD", LUA_LONGEST_PREFIX), b"$%d\r\n%s\r\n" % (len(sha), sha))


def _key(kind: str, chain: int, depth: int) -> bytes:
    """40 bytes, of which 32 are a hash: what serving stacks use, and without any order."""
    return b"kvblock@" + hashlib.blake2b(f"{kind}:{chain}:{depth}".encode(), digest_size=16).hexdigest().encode()


def _present(length: int, chain: int) -> list[bytes]:
    return [_key("present", chain, depth) for depth in range(length)]


def _chain(length: int, chain: int, *, half: bool) -> tuple[list[bytes], int]:
    """The keys to ask for, and how many leading ones are there."""
    if not half:
        return _present(length, chain), length
    found = length // 2
    return _present(found, chain) + [_key("absent", chain, depth) for depth in range(found, length)], found


def _match(length: int, chain: int, *, half: bool) -> _Exchange:
    keys, found = _chain(length, chain, half=half)
    return _Exchange(encode(b"PREFIX.MATCH", *keys), b":%d\r\n" % found)


def _pipelined_exists(length: int, chain: int, *, half: bool) -> _Exchange:
    keys, found = _chain(length, chain, half=half)
    return _Exchange(b"".join(encode(b"EXISTS", key) for key in keys), b":1\r\n" * found + b":0\r\n" * (length - found))


def _evalsha(length: int, chain: int, *, half: bool) -> _Exchange:
    keys, found = _chain(length, chain, half=half)
    return _Exchange(encode(b"EVALSHA", _script_sha(), b"%d" % length, *keys), b":%d\r\n" % found)


def _script_sha() -> bytes:
    return hashlib.sha1(LUA_LONGEST_PREFIX, usedforsecurity=False).hexdigest().encode()


def _runner(exchanges: list[_Exchange], clients: int) -> Callable[[Server, float], Measurement]:
    """Every client has one request out at a time; all are sent before the first reply is read."""

    def run(server: Server, seconds: float) -> Measurement:
        with ExitStack() as cleanup:
            connections = [cleanup.enter_context(Connection(server.host, server.port)) for _ in range(clients)]
            return play(connections, server, seconds)

    def play(connections: list[Connection], server: Server, seconds: float) -> Measurement:
        buffers = [bytearray(len(exchange.reply)) for exchange in exchanges]
        operations = turn = 0

        def play_round() -> None:
            nonlocal turn
            chosen = [(turn + index) % len(exchanges) for index in range(clients)]
            for connection, choice in zip(connections, chosen, strict=True):
                connection.send(exchanges[choice].request)
            for connection, choice in zip(connections, chosen, strict=True):
                connection.expect(exchanges[choice].reply, buffers[choice])
            turn += clients

        play_round()  # warm: the server has accepted every connection
        with timed(server) as watch:
            deadline_s = time.perf_counter() + seconds
            while time.perf_counter() < deadline_s:
                for _ in range(_ROUNDS_BETWEEN_CLOCK_READS):
                    play_round()
                operations += clients * _ROUNDS_BETWEEN_CLOCK_READS
        return Measurement(operations, watch.elapsed_s, watch.processor_s)

    return run
