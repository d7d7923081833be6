"""Drives hiredis, reader and packer of replies and commands in C, over a plain socket: `hiredis_drive.py PORT`."""

from __future__ import annotations

import socket
import sys
from typing import Any

import hiredis
from transcript import DEADLINE_S, Transcript, kind_of

VALUE = bytes(range(256)) * 400


class Connection:
    """A socket whose replies hiredis reads, in pieces of a few bytes if wanted."""

    def __init__(self, port: int, *, piece_bytes: int) -> None:
        """Connect."""
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self.reader = hiredis.Reader(notEnoughData=Ellipsis)
        self.piece_bytes = piece_bytes

    def send(self, *words: Any) -> None:
        """Send a command as hiredis packs it."""
        self.socket.sendall(hiredis.pack_command(words))

    def receive(self) -> Any:
        """Return the next reply."""
        while (reply := self.reader.gets()) is Ellipsis:
            piece = self.socket.recv(self.piece_bytes)
            if not piece:
                raise EOFError
            self.reader.feed(piece)
        return reply

    def call(self, *words: Any) -> Any:
        """Send and receive; an error is a value."""
        self.send(*words)
        reply = self.receive()
        return f"{type(reply).__name__}: {reply}" if isinstance(reply, Exception) else reply


COMMANDS: list[tuple[Any, ...]] = [
    ("PING",), ("SET", "k", VALUE), ("GET", "k"), ("GET", "none"), ("STRLEN", "k"), ("INCR", "k"), ("NONSENSE", "a b"), ("SET", "k"),
    ("MSET", "a", "1", "b", b"\r\n\0"), ("MGET", "a", "none", "b"), ("INCRBYFLOAT", "a", "0.5"), ("EXPIRE", "a", "100"), ("TTL", "a"),
    ("COMMAND", "INFO", "get", "nonsense", "set"), ("CONFIG", "GET", "maxclients"), ("CLIENT", "TRACKINGINFO"),
    ("LCS", "a", "b", "IDX"), ("OBJECT", "HELP"), ("MULTI",), ("SET", "a", "x"), ("INCR", "a"), ("EXEC",), ("ACL", "GETUSER", "default"),
    ("MEMORY", "USAGE", "none"), ("DEBUG", "PROTOCOL", "double"), ("SCAN", "0", "COUNT", "100", "MATCH", "a"),
    ("LATENCY", "HISTOGRAM", "nonsense"),
]  # fmt: skip


def main(port: int) -> None:
    """Every command in both protocols, replies read whole and in small pieces; pushes; a deep pipeline."""
    transcript = Transcript(hiredis.HiredisError)
    for protocol in (2, 3):
        for piece_bytes in (65536, 7):
            transcript.title = f"RESP{protocol} by {piece_bytes}"
            connection = Connection(port, piece_bytes=piece_bytes)
            connection.call("FLUSHALL")
            greeting = connection.call("HELLO", protocol)
            transcript.note("HELLO", kind_of(greeting))
            for command in COMMANDS:
                transcript.note(f"{command!r:.50}", connection.call(*command))
            for number in range(1000):
                connection.send("SET", f"n{number}", number)
                connection.send("GET", f"n{number}")
            transcript.note("pipeline", [connection.receive() for _ in range(2000)])
            connection.send("SUBSCRIBE", "news")
            first = connection.receive()
            transcript.note("subscribed", (kind_of(first), list(first)))
            Connection(port, piece_bytes=100).call("PUBLISH", "news", VALUE)
            message = connection.receive()
            transcript.note("message", (kind_of(message), list(message)))
    transcript.finish(hiredis.__version__)


main(int(sys.argv[1]))
