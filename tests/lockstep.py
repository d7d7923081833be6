"""Several connections to two servers in lockstep: what each of them is sent after every step must be the same bytes.

A step is a command on one connection. Behind it every connection is asked for a PING with a word of its own, and all that comes
before the answer to that belongs to the step: replies, pushes and what others caused.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from typing import Self

from tests.wire import Address, Word, encode

DEADLINE_S = 10
_MASKED = (
    (re.compile(rb"(?<=version\r\n)\$\d\r\n[0-9.]+(.*?id\r\n:)\d+", re.DOTALL), rb"VERSION\1ID"),  # HELLO
    (re.compile(rb"\+\d+\.\d{6} \[(\d+) [^\]]+\]"), rb"+TIME [\1 ADDRESS]"),  # a line of MONITOR
)


def _masked(text: bytes) -> bytes:
    for pattern, replacement in _MASKED:
        text = pattern.sub(replacement, text)
    return text


@dataclass
class Peer:
    """One connection that keeps what it has not been asked for."""

    address: Address
    held: bytes = b""
    number: int = 0
    is_queueing: bool = False

    def __post_init__(self) -> None:
        """Connect, and learn the connection's id."""
        self.socket = socket.create_connection(self.address, timeout=DEADLINE_S) if isinstance(self.address, tuple) else self._unix()
        self.socket.settimeout(DEADLINE_S)
        self.send("CLIENT", "ID")
        self.number = int(self.read_until(b"\r\n")[1:-2])

    def _unix(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.address)
        return sock

    def send(self, *words: Word) -> None:
        """Send one command."""
        name = str(words[0]).upper()
        if name == "MULTI" and len(words) == 1:
            self.is_queueing = True
        elif name in ("EXEC", "DISCARD", "RESET"):
            self.is_queueing = False
        self.socket.sendall(encode(*words))

    def read_until(self, end: bytes) -> bytes:
        """Return everything up to ``end`` and with it."""
        while (found := self.held.find(end)) < 0:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError(f"closed after {self.held!r}")
            self.held += data
        taken, self.held = self.held[: found + len(end)], self.held[found + len(end) :]
        return taken

    def drain(self, token: bytes) -> bytes:
        """Return what was sent until now, without the answer to the question that finds that out."""
        if self.is_queueing:
            self.send("MULTI")  # is refused at once, and spoils nothing
            return self.read_until(b"nested\r\n")
        self.send("PING", token)
        sent = self.read_until(token + b"\r\n")
        return sent.replace(token, b"TOKEN")


@dataclass
class Lockstep:
    """The same connections, by name, to both servers."""

    addresses: tuple[Address, Address]
    resp: dict[str, int]
    peers: dict[str, tuple[Peer, Peer]] = field(default_factory=dict)
    steps: int = 0
    compared_bytes: int = 0

    def __enter__(self) -> Self:
        """Connect in the order of names, so that ids are in the same order too."""
        for name, version in self.resp.items():
            pair = (Peer(self.addresses[0]), Peer(self.addresses[1]))
            self.peers[name] = pair
            if version == 3:
                for peer in pair:
                    peer.send("HELLO", 3)
                    peer.drain(b"hello-%d" % peer.number)
        return self

    def __exit__(self, *_: object) -> None:
        """Close all."""
        for pair in self.peers.values():
            for peer in pair:
                peer.socket.close()

    def step(self, name: str, *words: Word, but: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Run a command, where ``{B}`` stands for the id of connection B; returns what each was sent, and fails where that differs.

        ``but``: connections that cannot be asked, since they are not answered.
        """
        self.steps += 1
        for side in (0, 1):
            self.peers[name][side].send(*(self._filled(word, side) for word in words))
        asked = [other for other in (name, *(other for other in self.peers if other != name)) if other not in but]
        token = b"step-%d" % self.steps
        seen = [{other: _masked(self.peers[other][side].drain(token)) for other in asked} for side in (0, 1)]
        assert seen[0] == seen[1], f"step {self.steps}, {name}: {words!r}\n one  {seen[0]!r}\n other {seen[1]!r}"
        self.compared_bytes += sum(map(len, seen[0].values()))
        return seen[0]

    def burst(self, name: str, *commands: tuple[Word, ...], end: bytes) -> bytes:
        """Send commands in one go and compare everything that comes up to ``end``."""
        replies = []
        for side in (0, 1):
            peer = self.peers[name][side]
            peer.socket.sendall(b"".join(encode(*(self._filled(word, side) for word in words)) for words in commands))
            replies.append(_masked(peer.read_until(end)))
        assert replies[0] == replies[1], f"{commands!r}\n one  {replies[0]!r}\n other {replies[1]!r}"
        self.compared_bytes += len(replies[0])
        return replies[0]

    def wait_for(self, name: str, end: bytes) -> bytes:
        """Compare what comes by itself up to ``end``."""
        return self.burst(name, end=end)

    def _filled(self, word: Word, side: int) -> Word:
        if isinstance(word, str) and word.startswith("{") and word[1:-1] in self.peers:
            return b"%d" % self.peers[word[1:-1]][side].number
        return word

    def compare_ids(self, name: str, *words: Word) -> None:
        """Run a command whose reply names connections, and compare it with their ids masked."""
        replies = []
        for side in (0, 1):
            peer = self.peers[name][side]
            peer.send(*words)
            text = peer.drain(b"ids")
            for other, pair in self.peers.items():
                text = text.replace(b":%d\r\n" % pair[side].number, b":ID-%b\r\n" % other.encode())
            replies.append(text)
        assert replies[0] == replies[1], f"{words!r}\n one  {replies[0]!r}\n other {replies[1]!r}"
