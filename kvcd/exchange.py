"""Exchange: handlers by topic, and questions that wait for answers; what both ends of the channel have in common."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kvcd import logs
from kvcd.channel_link import Frame, Kind, encode

ANSWER_DEADLINE_S = 1.0  # what a worker that is stopped or dying costs those who ask it
QUESTIONS_LIMIT = 4096  # of one process that wait for answers at a time
_LARGEST_NUMBER = 2**32 - 1

_log = logs.get_logger("channel")


@dataclass(frozen=True, slots=True)
class Message:
    """What a handler is given. ``sender`` is a worker's place, or SUPERVISOR."""

    topic: str
    payload: Any
    data: bytes
    sender: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What one place answered."""

    place: int
    payload: Any


# What it returns answers a question, now or when it can be awaited; of a mere message nobody looks at it.
Handler = Callable[[Message], object]


@dataclass(slots=True)
class _Question:
    future: asyncio.Future[list[Answer]]
    expected: set[int] | None  # None while it is not known whom it went to
    deadline: asyncio.TimerHandle
    answers: dict[int, Answer] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)  # gone, or without an answer


class Exchange:
    """Takes messages to handlers and answers to who asked. Its subclasses know the way to the others."""

    def __init__(self, place: int) -> None:
        """``place`` is this process's own."""
        self.place = place
        self._handlers: dict[str, Handler] = {}
        self._questions: dict[int, _Question] = {}
        self._last_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_gone: Callable[[int], object] | None = None  # told the place of each worker that is gone

    def on(self, topic: str, handler: Handler) -> None:
        """Let ``handler`` take what comes under ``topic``. One handler for each topic; it must not block."""
        assert topic not in self._handlers, topic
        self._handlers[topic] = handler

    async def close(self) -> None:
        """End what is under way: questions get the answers that there are."""
        for number in list(self._questions):
            self._finish(number)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ questions

    def _question(self, expected: Iterable[int] | None, deadline_s: float) -> int:
        """Open a question and return its number. Raises ConnectionError when there are too many."""
        if len(self._questions) >= QUESTIONS_LIMIT:
            raise ConnectionError("too many questions wait for other workers")
        loop = asyncio.get_running_loop()
        number = self._last_number = self._last_number % _LARGEST_NUMBER + 1
        timer = loop.call_later(deadline_s, self._finish, number)
        self._questions[number] = _Question(loop.create_future(), None if expected is None else set(expected), timer)
        return number

    def _future(self, number: int) -> asyncio.Future[list[Answer]]:
        future = self._questions[number].future
        self._look(number)
        return future

    def _expect(self, number: int, places: Iterable[int]) -> None:
        """Now it is known whom the question went to."""
        question = self._questions.get(number)
        if question is not None:
            question.expected = set(places)
            self._look(number)

    def _answered(self, number: int, place: int, answer: Answer | None) -> None:
        question = self._questions.get(number)
        if question is None:
            return  # its deadline has passed
        if answer is None:
            question.silent.add(place)
        else:
            question.answers[place] = answer
        self._look(number)

    def _gone(self, place: int) -> None:
        """Nobody waits for this place any longer."""
        for number, question in list(self._questions.items()):
            question.silent.add(place)
            self._look(number)
        if self.on_gone is not None:
            self.on_gone(place)

    def _look(self, number: int) -> None:
        question = self._questions.get(number)
        if question is not None and question.expected is not None and question.expected <= question.answers.keys() | question.silent:
            self._finish(number)

    def _finish(self, number: int) -> None:
        question = self._questions.pop(number, None)
        if question is None:
            return
        question.deadline.cancel()
        if not question.future.done():
            question.future.set_result([question.answers[place] for place in sorted(question.answers)])

    # ------------------------------------------------------------------- messages

    def _take(self, frame: Frame, answer: Callable[[bytes], object]) -> None:
        """Handle a frame that is for this process; ``answer`` sends one back. Raises FrameError."""
        topic, payload, data = frame.open()
        if frame.kind is Kind.ANSWER:
            self._answered(frame.number, frame.sender, Answer(frame.sender, payload))
        elif frame.kind is Kind.NO_ANSWER:
            self._answered(frame.number, frame.sender, None)
        elif frame.kind is Kind.ASKED:
            self._expect(frame.number, payload)
        elif frame.kind is Kind.GONE:
            self._gone(frame.sender)
        else:
            self._call(frame, Message(topic, payload, data, frame.sender), answer)

    def _call(self, frame: Frame, message: Message, answer: Callable[[bytes], object]) -> None:
        handler = self._handlers.get(message.topic)
        if handler is None:
            self._reply(frame, answer, None, is_answer=False)
            return
        try:
            result = handler(message)
        except Exception:  # noqa: BLE001  logged, and the asker is told
            # One bad message must not end the channel that everything else goes over.
            _log.exception("a message between workers could not be handled", topic=message.topic)
            self._reply(frame, answer, None, is_answer=False)
            return
        if inspect.isawaitable(result):
            task = asyncio.get_running_loop().create_task(self._await(frame, result, answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._reply(frame, answer, result)

    async def _await(self, frame: Frame, result: Awaitable[object], answer: Callable[[bytes], object]) -> None:
        try:
            value = await result
        except Exception:  # noqa: BLE001  logged, and the asker is told
            _log.exception("a message between workers could not be handled")
            self._reply(frame, answer, None, is_answer=False)
        else:
            self._reply(frame, answer, value)

    def _reply(self, frame: Frame, answer: Callable[[bytes], object], value: object, *, is_answer: bool = True) -> None:
        if frame.kind is Kind.ASK:
            kind = Kind.ANSWER if is_answer else Kind.NO_ANSWER
            answer(encode(kind, sender=self.place, receiver=frame.sender, number=frame.number, payload=value))
