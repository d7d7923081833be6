"""A client in few lines, for tests of the server: sends any bytes in any pieces, reads replies of any size."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterable
from types import TracebackType

Word = bytes | bytearray | memoryview | str | int
Address = str | tuple[str, int]


class ReplyError(str):
    """An error reply's text, as a value: a pipeline may hold several."""

    __slots__ = ()


def as_bytes(word: Word) -> bytes | bytearray | memoryview:
    """Return a word of a command as its bytes."""
    if isinstance(word, str):
        return word.encode()
    return b"%d" % word if isinstance(word, int) else word


def encode(*words: Word) -> bytes:
    """Return a command as an array of bulk strings."""
    parts: list[bytes | bytearray | memoryview] = [b"*%d\r\n" % len(words)]
    for word in map(as_bytes, words):
        parts += (b"$%d\r\n" % len(word), word, b"\r\n")
    return b"".join(parts)


class Wire:
    """One connection. Every wait has a deadline: ``timeout_s`` per system call."""

    def __init__(self, address: Address, *, timeout_s: float = 30, receive_buffer: int = 0, send_buffer: int = 0) -> None:
        """Connect; buffer sizes are the kernel's, in bytes."""
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(timeout_s)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        if not isinstance(address, str):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = io.BufferedReader(socket.SocketIO(self.socket, "r"), 65536)

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def abort(self) -> None:
        """Close with a reset, so that nothing more is delivered."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.socket.close()

    def __enter__(self) -> Wire:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all bytes in one go."""
        self.socket.sendall(data)

    def send_pieces(self, data: bytes, cuts: Iterable[int]) -> None:
        """Send the bytes cut at these positions, each piece with a system call of its own."""
        view = memoryview(data)
        start = 0
        for cut in [*sorted(set(cuts)), len(data)]:
            if cut > start:
                self.socket.sendall(view[start:cut])
                start = cut

    def send_in_background(self, data: bytes | bytearray | memoryview) -> threading.Thread:
        """Send from a thread, for a server that may stop reading; join it. A connection that breaks ends it silently."""

        def run() -> None:
            try:
                self.socket.sendall(data)
            except OSError:
                pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def call(self, *words: Word) -> object:
        """Send a command and return its reply."""
        self.send(encode(*words))
        return self.reply()

    def replies(self, count: int) -> list[object]:
        """Return that many replies."""
        return [self.reply() for _ in range(count)]

    def reply(self) -> object:
        """Return the next reply: bytes, int, None, float, bool, list, dict or ReplyError."""
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"closed after {line!r}")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest
            case b"-":
                return ReplyError(rest.decode("latin-1"))
            case b":" | b"(":
                return int(rest)
            case b"$" | b"=" | b"!":
                return None if rest == b"-1" else self.bulk(int(rest))
            case b"*" | b"~" | b">":
                return None if rest == b"-1" else self.replies(int(rest))
            case b"%":
                found = self.replies(2 * int(rest))
                return {key: value for key, value in zip(found[::2], found[1::2], strict=True) if isinstance(key, bytes)}
            case b"_":
                return None
            case b"#":
                return rest == b"t"
            case b",":
                return float(rest)
        raise ValueError(f"no reply begins with {line[:80]!r}")

    def bulk(self, length: int) -> bytes:
        """Return a payload of that many bytes, whose header was read, and skip the line end behind it."""
        data = self.reader.read(length)
        end = self.reader.read(2)
        if len(data) < length or len(end) < 2:
            raise ConnectionError(f"closed within a reply, {length - len(data)} bytes early")
        assert end == b"\r\n", end
        return data

    def rest(self) -> bytes:
        """Return what comes until the server closes."""
        parts = []
        try:
            while part := self.reader.read1(1 << 20):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)
