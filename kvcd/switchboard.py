"""Switchboard: the supervisor's end of the channel, which passes on what workers tell each other."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kvcd import logs
from kvcd.channel_link import EVERYBODY, FINISH_DEADLINE_S, SUPERVISOR, Frame, FrameError, Kind, Link, encode
from kvcd.exchange import ANSWER_DEADLINE_S, Answer, Exchange

# Workers say something every second. Who did not for so long is asked like all, but not waited for: each question would
# cost its whole deadline for as long as a worker is stopped.
HEARD_WITHIN_S = 3.0

_log = logs.get_logger("channel")


@dataclass(slots=True)
class _Seat:
    link: Link
    is_ready: bool = False
    heard_at_s: float = 0.0


class Switchboard(Exchange):
    """One link for each worker that lives. Order and delivery are as ``kvcd.channel.Channel`` says."""

    def __init__(self, *, queue_limit_bytes: int, on_overrun: Callable[[int], None]) -> None:
        """``on_overrun`` is told the place of a worker that leaves more than ``queue_limit_bytes`` unread."""
        super().__init__(SUPERVISOR)
        self._queue_limit_bytes = queue_limit_bytes
        self._on_overrun = on_overrun
        self._seats: dict[int, _Seat] = {}
        self._ending: list[Link] = []

    async def seat(self, place: int, sock: socket.socket) -> Link:
        """Speak through ``sock`` with the worker that is started at ``place``."""
        link = Link(lambda frame: self._received(place, frame), lambda reason: self._lost(place, link, reason), self._queue_limit_bytes)
        self._seats[place] = _Seat(link, heard_at_s=time.monotonic())
        await link.open(sock)
        return link

    def unseat(self, place: int) -> None:
        """The worker at ``place`` is gone: nobody waits for its answers."""
        seat = self._seats.pop(place, None)
        if seat is None:
            return
        seat.link.abort()
        self._ending = [link for link in self._ending if not link.is_lost] + [seat.link]
        self._gone(place)
        for other in list(self._seats):
            self._post(other, encode(Kind.GONE, sender=place, receiver=other))

    async def close(self) -> None:
        """End all links."""
        await super().close()
        for place in list(self._seats):
            self.unseat(place)
        for link in self._ending:
            await link.wait_until_lost(FINISH_DEADLINE_S)

    def ready(self, place: int) -> None:
        """From now on the worker at ``place`` is waited for when everybody is asked."""
        self._seats[place].is_ready = True

    def listening(self, but: int | None = None) -> list[int]:
        """Return the places that answer questions: ready, and heard of lately."""
        earliest_s = time.monotonic() - HEARD_WITHIN_S
        return [place for place, seat in self._seats.items() if place != but and seat.is_ready and seat.heard_at_s >= earliest_s]

    def silence_s(self, place: int) -> float:
        """Return how long nothing was heard of the worker at ``place``."""
        seat = self._seats.get(place)
        return time.monotonic() - seat.heard_at_s if seat is not None else 0.0

    def tell(self, place: int, topic: str, payload: object = None) -> None:
        """Send to one worker."""
        self._post(place, encode(Kind.TELL, sender=SUPERVISOR, receiver=place, topic=topic, payload=payload))

    def ask_all(
        self, topic: str, payload: object = None, *, but: int | None = None, deadline_s: float = ANSWER_DEADLINE_S
    ) -> asyncio.Future[list[Answer]]:
        """Ask every worker, ``but`` one; the answers of those that answered."""
        return self._ask([place for place in self._seats if place != but], self.listening(but), topic, payload, deadline_s)

    def ask(self, place: int, topic: str, payload: object = None, *, deadline_s: float = ANSWER_DEADLINE_S) -> asyncio.Future[list[Answer]]:
        """Ask one worker: one answer, or none."""
        return self._ask([place], [place] if place in self._seats else [], topic, payload, deadline_s)

    def _ask(
        self, places: Iterable[int], expected: Iterable[int], topic: str, payload: object, deadline_s: float
    ) -> asyncio.Future[list[Answer]]:
        number = self._question(expected, deadline_s)
        encoded = encode(Kind.ASK, sender=SUPERVISOR, receiver=EVERYBODY, number=number, topic=topic, payload=payload)
        for place in places:
            self._post(place, encoded)
        return self._future(number)

    # -------------------------------------------------------------------- passing on

    def _received(self, place: int, frame: Frame) -> None:
        seat = self._seats.get(place)
        if seat is None:
            return
        seat.heard_at_s = time.monotonic()
        if frame.sender != place:
            raise FrameError(f"the worker at {place} speaks for {frame.sender}")
        if frame.receiver == SUPERVISOR:
            self._take(frame, lambda encoded: self._post(place, encoded))
        elif frame.receiver == EVERYBODY:
            for other in [number for number in self._seats if number != place]:
                self._post(other, frame.encoded)
            if frame.kind is Kind.ASK:
                expected = self.listening(but=place)
                self._post(place, encode(Kind.ASKED, sender=SUPERVISOR, receiver=place, number=frame.number, payload=expected))
        elif frame.receiver in self._seats:
            self._post(frame.receiver, frame.encoded)
        elif frame.kind is Kind.ASK:
            self._post(place, encode(Kind.NO_ANSWER, sender=frame.receiver, receiver=place, number=frame.number))

    def _post(self, place: int, encoded: bytes) -> None:
        seat = self._seats.get(place)
        if seat is not None and not seat.link.send(encoded) and seat.link.is_open:
            self._on_overrun(place)
            self.unseat(place)  # nothing after what was left out may reach it: what it knows would have a hole

    def _lost(self, place: int, link: Link, reason: str) -> None:
        seat = self._seats.get(place)
        if seat is not None and seat.link is link:
            _log.verbose("a worker's end of the channel is closed", worker=place, reason=reason)
            self.unseat(place)
