"""Memory control: the memory node's side of the control protocol; who is a front end, and whose queue pairs are open."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from kvcd.logs import Logger
from storage.fabric import control_protocol as protocol
from storage.fabric.control_messages import (
    INCARNATION_MOST,
    FrontEndStatus,
    NodeDescription,
    QueuePairAddress,
    addresses_from,
)
from storage.fabric.control_protocol import FRONT_ENDS_LIMIT, ControlError, Message, NodeChannel, ProtocolError
from storage.fabric.verbs_devices import VerbsError

NAME_MOST_CHARACTERS = 128
FENCED_LIMIT = 4096  # remembered incarnations; front ends that were fenced longer ago have met a refused token since
VISITOR_QUEUE_PAIRS_LIMIT = 1
_TOKEN_BYTES = 16


class QueuePair(Protocol):
    """A queue pair of this node."""

    number: int
    psn: int

    def close(self) -> None:
        """Destroy it; what the other side sends from now on fails."""


class Lender(Protocol):
    """What is lent; the region, or a stand-in of tests."""

    def connect(self, peers: Sequence[QueuePairAddress]) -> Sequence[QueuePair]:
        """Return a connected queue pair for each peer; all or none. Raises VerbsError."""

    def describe(self, front_ends: tuple[FrontEndStatus, ...]) -> NodeDescription:
        """Return what hello answers."""


@dataclass(slots=True, eq=False)
class FrontEnd:
    """A row of the pool's front-end table that is in use, or was and may not be used again yet."""

    number: int
    token: str
    name: str
    incarnation: int | None = None
    connection: Connection | None = None  # None: gone, its queue pairs are closed
    fenced: bool = False


@dataclass(slots=True)
class Membership:
    """Who may use the pool. Nothing here waits or does I/O; a connection calls it for each request."""

    log: Logger
    _front_ends: dict[int, FrontEnd] = field(default_factory=dict)
    _exclusive: FrontEnd | None = None  # came alone and has not said ready: it may be formatting or recovering
    _fenced: OrderedDict[tuple[int, int], None] = field(default_factory=OrderedDict)

    def statuses(self) -> tuple[FrontEndStatus, ...]:
        """Return every front end that counts, connected or not."""
        known = sorted(self._front_ends.values(), key=lambda front_end: front_end.number)
        return tuple(FrontEndStatus(one.number, one.incarnation, one.connection is not None) for one in known)

    def enter(self, connection: Connection, name: str, previous: tuple[int, str] | None) -> tuple[FrontEnd, bool]:
        """Return the front end that ``connection`` is from now on, and whether it is alone. Raises ControlError."""
        if self._exclusive is not None:
            raise ControlError("another front end came first and is preparing the pool: try again shortly", "busy")
        if previous is not None:
            return self._come_back(connection, name, previous), False
        alone = all(front_end.connection is None for front_end in self._front_ends.values())
        if alone:
            # Their queue pairs were closed with their connections, and their tokens are worth nothing from here on.
            self._front_ends.clear()
            self._fenced.clear()
        number = next((number for number in range(FRONT_ENDS_LIMIT) if number not in self._front_ends), None)
        if number is None:
            raise ControlError(f"all {FRONT_ENDS_LIMIT} front ends of a pool are taken, by ones that are gone too", "full")
        front_end = FrontEnd(number, secrets.token_hex(_TOKEN_BYTES), name, connection=connection)
        self._front_ends[number] = front_end
        if alone:
            self._exclusive = front_end
        self.log.notice("front end entered", front_end=number, name=name, peer=connection.peer, alone=alone)
        return front_end, alone

    def _come_back(self, connection: Connection, name: str, previous: tuple[int, str]) -> FrontEnd:
        number, token = previous
        front_end = self._front_ends.get(number)
        if front_end is None or front_end.fenced or not secrets.compare_digest(front_end.token, token):
            raise ControlError(f"front end {number} of that token was fenced or forgotten meanwhile: enter anew", "fenced")
        if front_end.connection is not None:
            # It knows the token, so it is the same one: this node has merely not seen the old connection end yet.
            front_end.connection.end("the front end came back on another connection")
        front_end.connection, front_end.name = connection, name
        self.log.notice("front end came back", front_end=number, name=name, peer=connection.peer)
        return front_end

    def tell_incarnation(self, front_end: FrontEnd, value: int) -> None:
        """Record which incarnation of its row a front end is. Raises ControlError ``fenced``."""
        if (front_end.number, value) in self._fenced:
            raise ControlError(f"front end {front_end.number} with incarnation {value} was fenced: enter anew", "fenced")
        front_end.incarnation = value

    def ready(self, front_end: FrontEnd) -> None:
        """The pool can be used by others."""
        if self._exclusive is front_end:
            self._exclusive = None

    def fence(self, by: FrontEnd, number: int, incarnation: int) -> None:
        """Record that a front end is gone for good. Raises ControlError ``alive`` while its connection is open."""
        front_end = self._front_ends.get(number)
        if front_end is not None and front_end.incarnation in (None, incarnation):
            if front_end.connection is not None:
                raise ControlError(f"front end {number} is connected to this memory node", "alive")
            front_end.fenced = True
        if (number, incarnation) not in self._fenced:
            self.log.notice("front end fenced", front_end=number, incarnation=incarnation, by=by.number)
        self._fenced[number, incarnation] = None
        self._fenced.move_to_end((number, incarnation))
        while len(self._fenced) > FENCED_LIMIT:
            self._fenced.popitem(last=False)

    def forget(self, number: int, incarnation: int) -> None:
        """A fenced front end's row says by now that it is gone: its number may be given away. Harmless when somebody has it already."""
        front_end = self._front_ends.get(number)
        if front_end is not None and front_end.fenced and front_end.connection is None and front_end.incarnation in (None, incarnation):
            del self._front_ends[number]

    def leave(self, front_end: FrontEnd) -> None:
        """Free a number at once: its front end ended in order."""
        self.ready(front_end)
        if self._front_ends.get(front_end.number) is front_end:
            del self._front_ends[front_end.number]
        front_end.connection = None
        self.log.notice("front end left", front_end=front_end.number, name=front_end.name)

    def lost(self, front_end: FrontEnd, reason: str) -> None:
        """A front end's connection has ended and its queue pairs are closed; its number stays taken."""
        self.ready(front_end)
        front_end.connection = None
        self.log.warning(
            "front end lost, its queue pairs are closed",
            front_end=front_end.number, name=front_end.name, incarnation=front_end.incarnation, reason=reason,
        )  # fmt: skip


class Connection(asyncio.Protocol):
    """One TCP connection: whoever it is, its queue pairs end with it."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._channel = NodeChannel(server.secret)
        self._queue_pairs: list[QueuePair] = []
        self._front_end: FrontEnd | None = None
        self._handshake_deadline: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.peer = "?"

    # ------------------------------------------------------------------ transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or send away when there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if address else "?"
        if not self._server.admit(self):
            refused = NodeChannel(self._server.secret)
            refused.take_output()
            refused.send({"error": f"this memory node has {protocol.CONNECTIONS_LIMIT} connections already", "code": "limit"})
            self._transport.write(refused.take_output())
            self.end("too many connections")
            return
        self._flush()
        self._handshake_deadline = asyncio.get_running_loop().call_later(
            protocol.HANDSHAKE_DEADLINE_S, self.end, f"no handshake within {protocol.HANDSHAKE_DEADLINE_S:g} s"
        )

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        if self._transport is None:
            return
        self._channel.feed(data)
        try:
            while (request := self._channel.next_message()) is not None:
                self._channel.send(self._answer(request))
                self._flush()
        except ProtocolError as error:
            self._flush()
            self.end(str(error))
            return
        if self._channel.is_authenticated and self._handshake_deadline is not None:
            self._handshake_deadline.cancel()
            self._handshake_deadline = None
        self._flush()

    def pause_writing(self) -> None:
        """Take no more requests from one who does not read the replies."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Destroy the queue pairs, before anybody else is answered."""
        self.end(str(error) if error else "the other side closed the connection", by_peer=error is None)

    def end(self, reason: str, *, by_peer: bool = False) -> None:
        """End the connection and its queue pairs now. Harmless when called again."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self._close_queue_pairs()
        if self._handshake_deadline is not None:
            self._handshake_deadline.cancel()
        self._server.dismiss(self)
        front_end, self._front_end = self._front_end, None
        if front_end is not None:
            self._server.membership.lost(front_end, reason)
        elif by_peer:
            self._server.log.debug("connection closed", peer=self.peer)
        else:
            self._server.log.warning("connection ended", peer=self.peer, reason=reason)
        transport.close()  # what is queued is still sent, a refusal's reason for one; not reading it stops nothing

    def _flush(self) -> None:
        if self._transport is not None and (output := self._channel.take_output()):
            self._transport.write(output)

    # ------------------------------------------------------------------- requests

    def _answer(self, request: Message) -> Message:
        """Return the reply to one request."""
        handler = _HANDLERS.get(str(request.get("request")))
        try:
            if handler is None:
                raise ControlError(f"unknown request; there is {', '.join(_HANDLERS)}", "request")
            return handler(self, request)
        except (ControlError, VerbsError) as error:
            code = error.code if isinstance(error, ControlError) else "verbs"
            # That another front end lives is asked once a second by each, and is no news.
            say = self._server.log.debug if code == "alive" else self._server.log.notice
            say("request refused", peer=self.peer, request=str(request.get("request"))[:32], reason=str(error))
            return {"error": str(error), "code": code}

    def _hello(self, _request: Message) -> Message:
        return self._server.lender.describe(self._server.membership.statuses()).as_message()

    def _enter(self, request: Message) -> Message:
        if self._front_end is not None:
            raise ControlError(f"this connection is front end {self._front_end.number} already", "request")
        name = protocol.text(request, "name", most_characters=NAME_MOST_CHARACTERS)
        previous = None
        if request.get("previous") is not None:
            [before] = protocol.objects({"previous": [request["previous"]]}, "previous", most=1)
            previous = (
                protocol.integer(before, "number", least=0, most=FRONT_ENDS_LIMIT - 1),
                protocol.text(before, "token", most_characters=64),
            )
            if not previous[1].isascii():
                raise ControlError("token must be hexadecimal", "request")
        self._front_end, alone = self._server.membership.enter(self, name, previous)
        return {"front_end": self._front_end.number, "token": self._front_end.token, "alone": alone}

    def _incarnation(self, request: Message) -> Message:
        value = protocol.integer(request, "value", least=0, most=INCARNATION_MOST)
        self._server.membership.tell_incarnation(self._entered(), value)
        return {}

    def _connect(self, request: Message) -> Message:
        limit = protocol.QUEUE_PAIRS_LIMIT
        if self._front_end is None:
            if request.get("visitor") is not True:
                raise ControlError("enter first: only a front end may connect queue pairs", "request")
            limit = VISITOR_QUEUE_PAIRS_LIMIT
        peers = addresses_from(request, most=limit)
        if len(self._queue_pairs) + len(peers) > limit:
            raise ControlError(f"more than {limit} queue pairs on one connection", "limit")
        made = self._server.lender.connect(peers)
        self._queue_pairs += made
        return {"queue_pairs": [{"number": queue_pair.number, "psn": queue_pair.psn} for queue_pair in made]}

    def _ready(self, _request: Message) -> Message:
        self._server.membership.ready(self._entered())
        return {}

    def _fence(self, request: Message) -> Message:
        number = protocol.integer(request, "front_end", least=0, most=FRONT_ENDS_LIMIT - 1)
        incarnation = protocol.integer(request, "incarnation", least=0, most=INCARNATION_MOST)
        self._server.membership.fence(self._entered(), number, incarnation)
        return {"fenced": True}

    def _forget(self, request: Message) -> Message:
        number = protocol.integer(request, "front_end", least=0, most=FRONT_ENDS_LIMIT - 1)
        incarnation = protocol.integer(request, "incarnation", least=0, most=INCARNATION_MOST)
        self._entered()
        self._server.membership.forget(number, incarnation)
        return {}

    def _leave(self, _request: Message) -> Message:
        front_end = self._entered()
        self._close_queue_pairs()
        self._server.membership.leave(front_end)
        self._front_end = None
        return {}

    def _entered(self) -> FrontEnd:
        if self._front_end is None:
            raise ControlError("enter first", "request")
        return self._front_end

    def _close_queue_pairs(self) -> None:
        while self._queue_pairs:
            self._queue_pairs.pop().close()


_HANDLERS = {
    "hello": Connection._hello,
    "enter": Connection._enter,
    "incarnation": Connection._incarnation,
    "connect": Connection._connect,
    "ready": Connection._ready,
    "fence": Connection._fence,
    "forget": Connection._forget,
    "leave": Connection._leave,
}


class ControlServer:
    """All connections of one memory node."""

    def __init__(self, lender: Lender, secret: bytes, log: Logger) -> None:
        self.lender = lender
        self.secret = secret
        self.log = log
        self.membership = Membership(log)
        self._connections: set[Connection] = set()

    def protocol_factory(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self)

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more."""
        if len(self._connections) >= protocol.CONNECTIONS_LIMIT:
            return False
        self._connections.add(connection)
        return True

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)

    def close(self) -> None:
        """End every connection, and with it its queue pairs."""
        for connection in list(self._connections):
            connection.end("the memory node is stopping")
