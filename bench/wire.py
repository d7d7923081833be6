"""A compact blocking client: requests encoded beforehand, replies received into memory that is already there."""

from __future__ import annotations

import socket
import struct
from typing import Self

REPLY_TIMEOUT_S = 20
_ERROR_REPLY = ord("-")


class WireError(Exception):
    """The server's reply is not the one expected."""


def encode(*arguments: bytes) -> bytes:
    """One command as RESP."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments)


class Connection:
    """A blocking TCP connection.

    The deadline is the socket's own option: with Python's timeout every call would poll first, and
    MSG_WAITALL would not wait.
    """

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        deadline = struct.pack("ll", REPLY_TIMEOUT_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, deadline)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, deadline)

    def send(self, request: bytes | memoryview, *, more: bool = False) -> None:
        """Send all of ``request``; ``more`` says that its rest follows at once."""
        self._socket.sendall(request, socket.MSG_MORE if more else 0)

    def receive_into(self, buffer: memoryview, size_bytes: int) -> None:
        """Fill the first ``size_bytes`` of ``buffer``."""
        received = 0
        while received < size_bytes:
            try:
                count = self._socket.recv_into(buffer[received:], size_bytes - received, socket.MSG_WAITALL)
            except BlockingIOError as error:  # the socket's deadline has passed
                raise WireError(f"{received} bytes came and no more where {size_bytes} were due") from error
            if count == 0:
                raise WireError("the server closed the connection")
            received += count

    def ask(self, request: bytes, expected: bytes) -> None:
        """Send ``request`` and demand exactly the reply ``expected``."""
        self.send(request)
        self.expect(expected, bytearray(len(expected)))

    def expect(self, expected: bytes, buffer: bytearray) -> None:
        """Receive into ``buffer`` and demand that it be ``expected``.

        Not MSG_WAITALL: an error reply is shorter, and waiting for the rest of it would hide it.
        """
        view = memoryview(buffer)
        received = 0
        while received < len(expected):
            try:
                count = self._socket.recv_into(view[received:])
            except BlockingIOError as error:  # the socket's deadline has passed
                got = bytes(buffer[: min(received, 100)])
                raise WireError(f"got {got!r} and no more where {expected[:100]!r} was due") from error
            if count == 0:
                raise WireError("the server closed the connection")
            received += count
            if buffer[0] == _ERROR_REPLY and expected[0] != _ERROR_REPLY:
                raise WireError(f"error reply: {bytes(buffer[:received]).decode(errors='replace').strip()}")
        if buffer != expected:
            raise WireError(f"got {bytes(buffer[:100])!r} where {expected[:100]!r} was due")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
