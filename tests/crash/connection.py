"""Connection: pipelines of commands over asyncio, answers as hiredis reads them; what breaks says how far it got."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis

ANSWER_LIMIT_S = 60.0  # a stopped worker sleeps 5 s; whoever waits longer waits for ever


def pack(*words: bytes | int) -> bytes:
    """Return a command as it is sent."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows tuples of one alone
    return packed


class Broken(Exception):
    """The connection is gone; ``answers`` came before that."""

    def __init__(self, answers: list[Any], *, unanswered: bool = False) -> None:
        """Note what came, and whether nothing came although the connection stood."""
        super().__init__("connection lost")
        self.answers = answers
        self.unanswered = unanswered


class Connection(asyncio.Protocol):
    """One connection; one pipeline at a time."""

    def __init__(self) -> None:
        """Begin unconnected."""
        self.reader = hiredis.Reader(notEnoughData=Connection)
        self.answers: list[Any] = []
        self.expected = 0
        self.done: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.is_lost = False

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to this machine."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Wake whoever waits."""
        self.is_lost = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        self.reader.feed(data)
        while (answer := self.reader.gets()) is not Connection:
            self.answers.append(answer)
        if len(self.answers) >= self.expected:
            self._wake()

    def _wake(self) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(None)

    async def pipeline(self, commands: list[bytes]) -> list[Any]:
        """Send commands and return as many answers. Raises Broken with those that came."""
        self.answers, self.expected = [], len(commands)
        if self.is_lost or self.transport is None:
            raise Broken([])
        self.done = asyncio.get_running_loop().create_future()
        # Not drained: the server may have to send before it reads on, and data_received takes that.
        self.transport.write(b"".join(commands))
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await self.done
        except TimeoutError:
            self.close()
            raise Broken(self.answers, unanswered=True) from None
        if len(self.answers) < len(commands):
            self.close()
            raise Broken(self.answers)
        return self.answers

    async def call(self, *words: bytes) -> Any:
        """Send one command and return its answer."""
        return (await self.pipeline([pack(*words)]))[0]

    def close(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()
