"""Channel: frames in any pieces, order, questions and their deadlines, places that are silent, gone, too slow or wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kvcd import channel_link, exchange, logs, switchboard
from kvcd.channel import Channel
from kvcd.channel_link import EVERYBODY, SUPERVISOR, Frame, FrameError, FrameReader, Kind, Link, encode, read_frame
from kvcd.config import Config
from kvcd.exchange import Answer, Message
from kvcd.switchboard import Switchboard

DEADLINE_S = 10
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _kvcds_log() -> None:
    logs.configure(Config())


async def soon(condition: Callable[[], object]) -> None:
    """Wait until the condition holds, letting others run."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0)


# -------------------------------------------------------------------------- frames


def test_frames_come_whole_from_any_pieces() -> None:
    """Split at every byte; payload and raw bytes are what was sent."""
    first = encode(Kind.ASK, sender=1, receiver=EVERYBODY, number=7, topic="t", payload={"a": [1, None, "é"]}, data=b"\x00\xff")
    stream = first + encode(Kind.ANSWER, sender=2, receiver=1, number=7) + encode(Kind.TELL, sender=3, receiver=SUPERVISOR, data=bytes(70))
    for cut in range(len(stream) + 1):
        reader = FrameReader()
        frames = reader.feed(stream[:cut]) + reader.feed(stream[cut:])
        assert [(frame.kind, frame.sender, frame.receiver, frame.number) for frame in frames] == [
            (Kind.ASK, 1, EVERYBODY, 7),
            (Kind.ANSWER, 2, 1, 7),
            (Kind.TELL, 3, SUPERVISOR, 0),
        ]
        assert frames[0].open() == ("t", {"a": [1, None, "é"]}, b"\x00\xff")
        assert frames[0].encoded == first
        assert frames[2].open()[2] == bytes(70)


def test_a_frame_beyond_the_limit_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """By who would send it, and by its head at who receives it."""
    large = encode(Kind.TELL, sender=0, receiver=1, data=bytes(2000))
    monkeypatch.setattr(channel_link, "FRAME_LIMIT_BYTES", 1000)
    with pytest.raises(FrameError, match="the largest has 1000"):
        encode(Kind.TELL, sender=0, receiver=1, topic="t", data=bytes(1001))
    with pytest.raises(FrameError):
        FrameReader().feed(large[:20])


@pytest.mark.parametrize("damage", [slice(8, 9), slice(17, 18)])
def test_bytes_that_are_no_frame_are_found_out(damage: slice) -> None:
    """A kind that there is not, text that is no JSON."""
    frame = bytearray(encode(Kind.TELL, sender=0, receiver=1, topic="t"))
    frame[damage] = b"\xfe"

    def read() -> None:
        for found in FrameReader().feed(bytes(frame)):
            found.open()

    with pytest.raises(FrameError):
        read()


def test_one_frame_is_read_and_no_byte_more() -> None:
    """What a worker is told first is read before it has an event loop; what follows stays for that."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode(Kind.TELL, sender=SUPERVISOR, receiver=3, topic="start", payload=[1]) + b"rest")
        assert read_frame(theirs).open() == ("start", [1], b"")
        assert theirs.recv(100) == b"rest"
        ours.close()
        with pytest.raises(ConnectionError):
            read_frame(theirs)


# ----------------------------------------------------------------- a small service


class Workers:
    """Workers and their switchboard in one process."""

    def __init__(self, queue_limit_bytes: int) -> None:
        self.queue_limit_bytes = queue_limit_bytes
        self.overrun: list[int] = []
        self.lost: list[int] = []
        self.switchboard = Switchboard(queue_limit_bytes=queue_limit_bytes, on_overrun=self.overrun.append)
        self.channels: list[Channel] = []
        self.heard: dict[int, list[Any]] = {}

    async def add(self, *, is_ready: bool = True) -> Channel:
        """Start one more."""
        place = len(self.channels)
        ours, theirs = socket.socketpair()
        channel = Channel(place)
        self.channels.append(channel)
        heard = self.heard[place] = []
        channel.on("say", lambda message: heard.append((message.sender, message.payload, message.data)))
        channel.on("add", lambda message: message.payload + place)
        await self.switchboard.seat(place, ours)
        await channel.join(theirs, queue_limit_bytes=self.queue_limit_bytes, on_lost=lambda _reason: self.lost.append(place))
        if is_ready:
            self.switchboard.ready(place)
        return channel

    def leave(self, place: int) -> None:
        """Let a worker die."""
        link = self.channels[place]._link
        assert link is not None
        link.abort()


@asynccontextmanager
async def workers(count: int, *, queue_limit_bytes: int = 16 * MIB) -> AsyncIterator[Workers]:
    """Run some workers."""
    service = Workers(queue_limit_bytes)
    try:
        for _ in range(count):
            await service.add()
        yield service
    finally:
        for channel in service.channels:
            await channel.close()
        await service.switchboard.close()


async def test_a_broadcast_reaches_all_others_in_order() -> None:
    """Each receiver hears each sender's messages as they were sent, and nobody its own."""
    async with workers(3) as service:
        for number in range(200):
            service.channels[number % 2].broadcast("say", number, data=b"%d" % number)
        service.channels[0].tell(2, "say", "to you")
        await soon(lambda: len(service.heard[2]) == 201)
        for sender in (0, 1):
            expected = [(sender, number, b"%d" % number) for number in range(200) if number % 2 == sender]
            assert [item for item in service.heard[2] if item[0] == sender and item[1] != "to you"] == expected
            await soon(lambda: len(service.heard[0]) == len(service.heard[1]) == 100)
            assert service.heard[1 - sender] == expected
        assert service.heard[2].index((0, "to you", b"")) > service.heard[2].index((0, 198, b"198"))


async def test_answers_come_by_place() -> None:
    """From all others, or from the one that was asked; the supervisor can ask and be asked."""
    async with workers(3) as service:
        assert await service.channels[1].ask_all("add", 10) == [Answer(0, 10), Answer(2, 12)]
        assert await service.channels[1].ask(2, "add", 5) == [Answer(2, 7)]
        assert await service.channels[1].ask(9, "add", 5) == []
        assert await service.switchboard.ask_all("add", 1) == [Answer(0, 1), Answer(1, 2), Answer(2, 3)]
        assert await service.switchboard.ask_all("add", 1, but=1) == [Answer(0, 1), Answer(2, 3)]
        assert await service.switchboard.ask(1, "add", 1) == [Answer(1, 2)]
        service.switchboard.on("who", lambda message: [message.sender])
        assert await service.channels[2].ask(SUPERVISOR, "who") == [Answer(SUPERVISOR, [2])]


async def test_no_handler_a_failing_one_and_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two count as no answer, at once; the third answers when it has what it waited for."""
    logged: list[str] = []
    monkeypatch.setattr(logs.Logger, "exception", lambda _self, event, **_particulars: logged.append(event))
    async with workers(3) as service:
        gate = asyncio.Event()

        async def wait(message: Message) -> str:
            await gate.wait()
            return "done"

        async def fail(message: Message) -> None:
            raise KeyError("later")

        def break_down(message: Message) -> None:
            raise KeyError("now")

        for channel in service.channels[1:]:
            channel.on("wait", wait)
            channel.on("fail", fail)
            channel.on("break", break_down)
        assert await service.channels[0].ask_all("nobody knows") == []
        assert await service.channels[0].ask_all("fail") == []
        assert await service.channels[0].ask_all("break") == []
        assert len(logged) == 4
        service.channels[0].broadcast("break")
        question = service.channels[0].ask_all("wait", deadline_s=DEADLINE_S)
        assert await service.channels[0].ask_all("add", 1) == [Answer(1, 2), Answer(2, 3)]
        gate.set()
        assert [answer.payload for answer in await question] == ["done", "done"]


async def test_a_deadline_ends_a_question_and_the_rest_counts() -> None:
    """What answers later is not mistaken for the answer to another question."""
    async with workers(3) as service:
        gates = {place: asyncio.Event() for place in (1, 2)}
        gates[1].set()

        def waiting(place: int) -> Callable[[Message], Awaitable[int]]:
            async def wait(message: Message) -> int:
                await gates[place].wait()
                return int(message.payload)

            return wait

        for place in gates:
            service.channels[place].on("wait", waiting(place))
        began_s = asyncio.get_running_loop().time()
        assert await service.channels[0].ask_all("wait", 1, deadline_s=0.05) == [Answer(1, 1)]
        assert asyncio.get_running_loop().time() - began_s < 2
        question = service.channels[0].ask_all("wait", 2, deadline_s=DEADLINE_S)
        gates[2].set()
        assert await question == [Answer(1, 2), Answer(2, 2)]


async def test_a_dying_worker_costs_no_deadline() -> None:
    """Its end ends the wait for it, for workers and for the supervisor; they are told that it is gone."""
    async with workers(3) as service:
        asked, gone = asyncio.Event(), []
        service.channels[0].on_gone = gone.append

        async def never(message: Message) -> None:
            asked.set()
            await asyncio.Event().wait()

        service.channels[2].on("never", never)
        of_worker = service.channels[0].ask_all("never", deadline_s=60)
        of_supervisor = service.switchboard.ask_all("never", deadline_s=60)
        await asked.wait()
        service.leave(2)
        async with asyncio.timeout(DEADLINE_S):
            assert (await of_worker, await of_supervisor) == ([], [])
        await soon(lambda: gone == [2])
        assert await service.channels[0].ask_all("add", 1) == [Answer(1, 2)]


async def test_who_is_silent_is_asked_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped worker costs each question its deadline only until it counts as silent; the message waits for it."""
    async with workers(3) as service:
        link = service.channels[2]._link
        assert link is not None
        assert link._transport is not None
        link._transport.pause_reading()
        monkeypatch.setattr(switchboard, "HEARD_WITHIN_S", 0.05)
        await asyncio.sleep(0.06)  # what is tested is that time passes
        service.channels[1].tell(SUPERVISOR, "say")  # this one is heard of
        began_s = asyncio.get_running_loop().time()
        assert await service.channels[0].ask_all("add", 1, deadline_s=60) == [Answer(1, 2)]
        assert asyncio.get_running_loop().time() - began_s < DEADLINE_S
        service.channels[0].broadcast("say", "later")
        link._transport.resume_reading()
        await soon(lambda: service.heard[2] == [(0, "later", b"")])


async def test_who_starts_is_told_and_not_waited_for() -> None:
    """A worker that does not serve yet may take long to open the pool; changes wait for it."""
    async with workers(2) as service:
        await service.add(is_ready=False)
        service.switchboard._seats[2].link.abort()
        await soon(lambda: 2 not in service.switchboard._seats)
        ours, theirs = socket.socketpair()
        await service.switchboard.seat(2, ours)
        with theirs:
            assert await service.channels[0].ask_all("add", 1, deadline_s=60) == [Answer(1, 2)]
            service.channels[0].broadcast("say", "wait")
            assert await service.channels[0].ask(1, "add", 1) == [Answer(1, 2)]
            theirs.setblocking(True)
            assert read_frame(theirs).open()[0] == "add"
            assert read_frame(theirs).open() == ("say", "wait", b"")
            service.switchboard.unseat(2)


async def test_unread_messages_have_a_limit() -> None:
    """Who leaves too much unread is reported and hears nothing more; a sender whose own queue is full is told."""
    async with workers(3, queue_limit_bytes=MIB) as service:
        link = service.channels[2]._link
        assert link is not None
        assert link._transport is not None
        link._transport.pause_reading()
        block = bytes(MIB // 4)
        while not service.overrun:
            service.channels[0].broadcast("say", "block", data=block)
            await service.channels[0].ask(1, "add", 1)
        assert service.overrun == [2]
        assert await service.channels[0].ask_all("add", 1) == [Answer(1, 2)]
        before = len(service.heard[1])
        service.switchboard._seats[0].link._transport.pause_reading()  # type: ignore[union-attr]

        def broadcast_much() -> None:
            for _ in range(100):
                service.channels[0].broadcast("say", "block", data=block)

        with pytest.raises(ConnectionError, match="takes no more"):
            broadcast_much()
        service.switchboard._seats[0].link._transport.resume_reading()  # type: ignore[union-attr]
        await soon(lambda: len(service.heard[1]) > before)


async def test_questions_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one process at a time."""
    monkeypatch.setattr(exchange, "QUESTIONS_LIMIT", 3)
    async with workers(2) as service:
        service.channels[1].on("never", lambda _message: asyncio.Event().wait())
        questions = [service.channels[0].ask_all("never", deadline_s=60) for _ in range(3)]
        with pytest.raises(ConnectionError, match="too many questions"):
            service.channels[0].ask_all("never")
        await service.channels[0].close()
        assert [await question for question in questions] == [[], [], []]


async def test_a_worker_speaks_for_itself_only() -> None:
    """A frame in another's name ends the link, and so do bytes that are none."""
    async with workers(3) as service:
        link = service.channels[1]._link
        assert link is not None
        link.send(encode(Kind.TELL, sender=0, receiver=2, topic="say"))
        await soon(lambda: service.lost == [1])
        other = service.channels[2]._link
        assert other is not None
        other.send(b"\xff" * 100)
        await soon(lambda: service.lost == [1, 2])
        assert service.heard[2] == []
        assert service.switchboard.listening() == [0]


async def test_the_supervisors_end_is_noticed_once() -> None:
    """And open questions end."""
    async with workers(1) as service:
        service.switchboard.on("never", lambda _message: asyncio.Event().wait())
        question = service.channels[0].ask(SUPERVISOR, "never", deadline_s=60)
        await service.channels[0].ask(SUPERVISOR, "nothing")
        service.switchboard.unseat(0)
        assert await question == []
        assert service.lost == [0]
        with pytest.raises(ConnectionError):
            service.channels[0].broadcast("say")


async def test_what_was_sent_last_arrives_before_the_end() -> None:
    """A worker's last counts reach the supervisor, although it ends right after."""
    async with workers(1) as service:
        said: list[int] = []
        service.switchboard.on("last", lambda message: said.append(len(message.data)))
        service.channels[0].tell(SUPERVISOR, "last", data=bytes(4 * MIB))
        link = service.switchboard._seats[0].link
        await service.channels[0].close()
        await link.wait_until_lost(DEADLINE_S)
        assert said == [4 * MIB]


async def test_alone_everything_works_and_reaches_nobody() -> None:
    """So handlers need no case for one worker; no event loop is needed either."""
    channel = Channel()
    assert channel.is_alone
    channel.broadcast("say", 1)
    channel.tell(SUPERVISOR, "say", 1)
    assert await channel.ask_all("add", 1) == []
    assert await channel.ask(SUPERVISOR, "add", 1) == []
    await channel.close()


async def test_passing_on_costs_no_copy_of_its_own() -> None:
    """The bytes that came are the bytes that go to every receiver: one object."""
    sent: list[bytes] = []
    async with workers(4) as service:
        for place, seat in service.switchboard._seats.items():
            if place:
                seat.link.send = lambda encoded: sent.append(encoded) or True  # type: ignore[method-assign, func-returns-value]
        service.switchboard._received(0, Frame(Kind.TELL, 0, EVERYBODY, 0, encode(Kind.TELL, sender=0, receiver=EVERYBODY, data=b"x")))
        assert len(sent) == 3
        assert sent[0] is sent[1] is sent[2]


async def test_a_link_without_a_socket_sends_nothing() -> None:
    """Before it is opened."""
    link = Link(lambda _frame: None, lambda _reason: None, MIB)
    assert not link.send(b"x")
    assert not link.is_open
    await link.finish()
