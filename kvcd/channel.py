"""Channel: how a worker speaks to the other workers of its service, and to the supervisor."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from kvcd.channel_link import EVERYBODY, SUPERVISOR, Frame, Kind, Link, encode
from kvcd.exchange import ANSWER_DEADLINE_S, Answer, Exchange, Handler, Message

__all__ = ["ANSWER_DEADLINE_S", "SUPERVISOR", "Answer", "Channel", "Handler", "Message"]


class Channel(Exchange):
    """One worker's end. A message has a topic, a payload of plain values (what JSON has; text of any bytes as latin-1) and raw bytes.

    What can be relied on:

    - *Order.* What one worker sends arrives at each other one in the order it was sent, broadcasts, questions and messages to one
      alike. Messages of different senders arrive in any order, and not everywhere in the same one; what needs that (CONFIG SET) asks
      the supervisor to send it.
    - *Delivery.* At most once, and to who is there: a worker that is started later hears nothing of what was sent before. A message
      to a worker that is stopped (SIGSTOP) or busy waits for it; one that leaves more than `channel-queue-limit` bytes unread is ended
      and started anew. A sender gets none of its own broadcasts.
    - *Waiting.* Nothing here blocks the event loop. A question ends when everybody who was asked has answered or is gone, at the
      latest after its deadline; who did not answer is left out. Who was not heard of for some seconds is asked too, and not waited for.
    - *Alone.* Without other workers (`workers 1`) everything works and reaches nobody.

    Handlers run on the event loop, one after the other.
    """

    def __init__(self, place: int = 0) -> None:
        """Alone until ``join`` is called."""
        super().__init__(place)
        self._link: Link | None = None
        self._on_lost: Callable[[str], None] | None = None

    async def join(self, sock: socket.socket, *, queue_limit_bytes: int, on_lost: Callable[[str], None]) -> None:
        """Speak through ``sock``, whose other end the supervisor has; ``on_lost`` is called when that is gone."""
        self._on_lost = on_lost
        self._link = Link(self._received, self._lost, queue_limit_bytes)
        await self._link.open(sock)

    @property
    def is_alone(self) -> bool:
        """Whether there never are other workers."""
        return self._link is None

    @property
    def is_joined(self) -> bool:
        """Whether ``join`` was called."""
        return self._link is not None

    def broadcast(self, topic: str, payload: object = None, data: bytes = b"") -> None:
        """Send to every other worker. Raises ConnectionError when too much waits to be sent, or for too large a message."""
        self._send(Kind.TELL, EVERYBODY, topic=topic, payload=payload, data=data)

    def tell(self, place: int, topic: str, payload: object = None, data: bytes = b"") -> None:
        """Send to one worker, or to the supervisor. Raises as ``broadcast`` does; a place where nobody is loses it silently."""
        self._send(Kind.TELL, place, topic=topic, payload=payload, data=data)

    def ask_all(
        self, topic: str, payload: object = None, *, data: bytes = b"", deadline_s: float = ANSWER_DEADLINE_S
    ) -> Awaitable[list[Answer]]:
        """Ask every other worker; the answers of those that answered, by place. Raises as ``broadcast`` does."""
        if self.is_alone:
            return _NoAnswers()
        number = self._question(None, deadline_s)
        self._send(Kind.ASK, EVERYBODY, number=number, topic=topic, payload=payload, data=data)
        return self._future(number)

    def ask(
        self, place: int, topic: str, payload: object = None, *, data: bytes = b"", deadline_s: float = ANSWER_DEADLINE_S
    ) -> Awaitable[list[Answer]]:
        """Ask one worker or the supervisor: one answer, or none. Raises as ``broadcast`` does."""
        if self.is_alone:
            return _NoAnswers()
        number = self._question([place], deadline_s)
        self._send(Kind.ASK, place, number=number, topic=topic, payload=payload, data=data)
        return self._future(number)

    async def close(self) -> None:
        """Send what is queued, as far as the supervisor takes it in time, and end."""
        await super().close()
        if self._link is not None:
            self._on_lost = None
            await self._link.finish()

    def _send(self, kind: Kind, receiver: int, *, topic: str, payload: object, number: int = 0, data: bytes = b"") -> None:
        if self._link is None:
            return
        encoded = encode(kind, sender=self.place, receiver=receiver, number=number, topic=topic, payload=payload, data=data)
        if not self._link.send(encoded):
            self._finish(number)
            raise ConnectionError("the channel to the other workers takes no more")

    def _received(self, frame: Frame) -> None:
        assert self._link is not None
        self._take(frame, self._link.send)

    def _lost(self, reason: str) -> None:
        for number in list(self._questions):
            self._finish(number)
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(reason)


class _NoAnswers:
    """What is awaited of a question to nobody."""

    def __await__(self) -> Generator[Any, None, list[Answer]]:
        """Return at once."""
        yield from ()
        return []
