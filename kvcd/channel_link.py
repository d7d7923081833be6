"""Channel link: one socket between a worker and the supervisor, as a stream of whole frames both ways."""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import orjson

# A value of `proto-max-bulk-len` is no message; what workers tell each other of it is its key.
FRAME_LIMIT_BYTES = 64 * 1024**2

FINISH_DEADLINE_S = 0.5

SUPERVISOR = 0xFFFF  # as a sender or receiver
EVERYBODY = 0xFFFE  # as a receiver: every worker but the sender

_HEADER = struct.Struct("<IIBHHI")  # bytes of JSON, bytes of data, kind, sender, receiver, number of the question


class Kind(enum.IntEnum):
    """What a frame is."""

    TELL = 0  # a message to one, or to everybody
    ASK = 1  # the same, and an answer is wanted
    ANSWER = 2
    NO_ANSWER = 3  # whoever was asked has no handler for the topic, or it failed
    ASKED = 4  # from the supervisor: which places a question to everybody went to
    GONE = 5  # from the supervisor: this place will answer nothing any more


@dataclass(frozen=True, slots=True)
class Frame:
    """One message as it travels. Whoever passes it on sends ``encoded`` again, and never looks into it."""

    kind: Kind
    sender: int
    receiver: int
    number: int
    encoded: bytes

    def open(self) -> tuple[str, Any, bytes]:
        """Return topic, payload and data. Raises FrameError."""
        end = _HEADER.size + int.from_bytes(self.encoded[:4], "little")
        try:
            topic, payload = orjson.loads(memoryview(self.encoded)[_HEADER.size : end])
        except ValueError as error:
            raise FrameError(str(error)) from None
        return topic, payload, self.encoded[end:]


class FrameError(ConnectionError):
    """A message that is too large for the channel, or bytes that are no frame."""


def encode(kind: Kind, *, sender: int, receiver: int, number: int = 0, topic: str = "", payload: object = None, data: bytes = b"") -> bytes:
    """Return a frame's bytes. Raises FrameError for more than ``FRAME_LIMIT_BYTES``."""
    text = orjson.dumps([topic, payload])
    if len(text) + len(data) > FRAME_LIMIT_BYTES:
        raise FrameError(f"a message of {len(text) + len(data)} bytes for '{topic}'; the largest has {FRAME_LIMIT_BYTES}")
    return b"".join((_HEADER.pack(len(text), len(data), kind, sender, receiver, number), text, data))


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        """Begin between two frames."""
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that ``data`` completes. Raises FrameError."""
        held = self._held
        held += data
        frames: list[Frame] = []
        start = 0
        while len(held) - start >= _HEADER.size:
            text_bytes, data_bytes, kind, sender, receiver, number = _HEADER.unpack_from(held, start)
            if text_bytes + data_bytes > FRAME_LIMIT_BYTES:
                raise FrameError(f"a frame of {text_bytes + data_bytes} bytes")
            end = start + _HEADER.size + text_bytes + data_bytes
            if len(held) < end:
                break
            encoded = bytes(memoryview(held)[start:end])
            try:
                frames.append(Frame(Kind(kind), sender, receiver, number, encoded))
            except ValueError as error:
                raise FrameError(str(error)) from None
            start = end
        del held[:start]
        return frames


def read_frame(sock: socket.socket) -> Frame:
    """Read exactly one frame from a blocking socket. Raises OSError (TimeoutError, ConnectionError)."""
    header = _read_exactly(sock, _HEADER.size)
    text_bytes, data_bytes, kind, sender, receiver, number = _HEADER.unpack(header)
    return Frame(Kind(kind), sender, receiver, number, header + _read_exactly(sock, text_bytes + data_bytes))


def _read_exactly(sock: socket.socket, count: int) -> bytes:
    read = bytearray()
    while len(read) < count:
        piece = sock.recv(count - len(read))
        if not piece:
            raise ConnectionError("the other end is closed")
        read += piece
    return bytes(read)


class Link(asyncio.Protocol):
    """One end of the socket. Frames arrive at ``on_frame`` in their order; ``on_lost`` is called once, when no more can come."""

    def __init__(self, on_frame: Callable[[Frame], None], on_lost: Callable[[str], None], queue_limit_bytes: int) -> None:
        """Say who is called; ``send`` refuses what would make more than ``queue_limit_bytes`` wait."""
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._queue_limit_bytes = queue_limit_bytes
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.get_running_loop().create_future()

    async def open(self, sock: socket.socket) -> None:
        """Take the socket over."""
        sock.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_lost(self) -> bool:
        """Whether nothing more can come."""
        return self._ended.done()

    def send(self, encoded: bytes) -> bool:
        """Send a frame, or queue it while the other end does not read; False when too much is queued already, or nobody is there."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() + len(encoded) > self._queue_limit_bytes:
            return False
        transport.write(encoded)
        return True

    async def finish(self) -> None:
        """Send what is queued, then end; what the other end has not taken within ``FINISH_DEADLINE_S`` is dropped."""
        if self._transport is not None:
            self._transport.close()
            await self.wait_until_lost(FINISH_DEADLINE_S)
            self.abort()

    async def wait_until_lost(self, deadline_s: float) -> None:
        """Wait until the other end is gone and everything that it sent was handed on."""
        await asyncio.wait([self._ended], timeout=deadline_s)

    def abort(self) -> None:
        """End now."""
        if self._transport is not None and not self.is_lost:
            self._transport.abort()

    # ---------------------------------------------------------------- asyncio protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on what is complete."""
        try:
            frames = self._reader.feed(data)
        except FrameError as error:
            self._end(str(error))
            self.abort()
            return
        try:
            for frame in frames:
                self._on_frame(frame)
        except FrameError as error:
            self._end(str(error))
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody is at the other end."""
        if not self._ended.done():
            self._ended.set_result(None)
        self._end(str(error or "closed"))

    def _end(self, reason: str) -> None:
        on_lost, self._on_lost = self._on_lost, _nobody
        on_lost(reason)


def _nobody(reason: str) -> None:
    return
