"""Histories: what callers saw who were at work at the same time, judged key by key for linearizability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from storage.interface import Status

ABSENT = 0  # the state of a key that holds nothing; else the number of the write that it holds


@dataclass(eq=False)
class Call:
    """One call on one key, with its answer once it has returned; ``end`` stays 0 when its caller died in it."""

    name: str
    key: bytes
    number: int = 0  # of the value that a write brings
    expected: int = 0  # of the value that a token names
    begin: int = 0  # places in the order of all beginnings and ends
    end: int = 0
    begin_ms: int = 0
    answer: object = None


def apply(state: int, call: Call) -> tuple[int, object]:
    """Return the next state and the answer that a call implies."""
    name = call.name
    if name == "read":
        return state, state
    if name == "exists":
        return state, state != ABSENT
    if name == "write":
        return call.number, Status.OK
    if name == "swap":
        return call.number, state
    if name == "write_nx":
        return (state, Status.PRESENT) if state else (call.number, Status.OK)
    if name == "write_xx":
        return (call.number, Status.OK) if state else (state, Status.MISS)
    if name == "delete":
        return ABSENT, int(state != ABSENT)
    if name == "flush":
        return ABSENT, None
    if name == "replace":
        return (call.number, Status.OK) if state == call.expected else (state, Status.CONFLICT)
    if name == "delete_exact":
        return (ABSENT, Status.OK) if state == call.expected else (state, Status.CONFLICT)
    raise AssertionError(name)


def is_refusal(answer: object) -> bool:
    """Whether a write was refused for want of room: nothing happened."""
    return isinstance(answer, Status) and answer in (Status.FULL, Status.INDEX_FULL)


def events_of(calls: list[Call]) -> list[tuple[int, int, Call]]:
    """Return the beginnings (0) and ends (1) of calls in their order."""
    events = [(call.begin, 0, call) for call in calls] + [(call.end, 1, call) for call in calls if call.end]
    return sorted(events, key=lambda event: event[:2])


@dataclass
class Judge:
    """Finds an order of the calls on a key that explains every answer, or says that there is none.

    ``evicts``: a value may vanish at any time. A value with an expiry in ``expiries`` may vanish once the clock, which ``clock_ms``
    tells for every place in the order, has reached it; a call that began after that must not see it. So each call goes by the time at
    which it began.
    """

    evicts: bool = False
    expiries: dict[int, int] = field(default_factory=dict)
    clock_ms: Callable[[int], int] = lambda _place: 0

    def verdict(self, calls: list[Call]) -> str | None:
        """Return None when the calls, all on one key, are linearizable; else what the key did until no order was left."""
        events = events_of(calls)
        # Each possibility: the state, and which of the calls under way have taken effect.
        possible: set[tuple[int, frozenset[Call]]] = {(ABSENT, frozenset())}
        open_calls: list[Call] = []
        for place, is_end, call in events:
            if not is_end:
                open_calls.append(call)
                continue
            reached = self._closure(possible, open_calls, self.clock_ms(place))
            possible = {(state, done - {call}) for state, done in reached if call in done}
            open_calls.remove(call)
            if not possible:
                begin = sorted(calls, key=lambda each: each.begin)
                return "\n".join(str(each) for each in begin if each.begin < place) + f"\nhas no order that ends with {call}"
        return None

    def states(self, calls: list[Call]) -> set[int]:
        """Return what the key may hold when all calls are over."""
        possible: set[tuple[int, frozenset[Call]]] = {(ABSENT, frozenset())}
        open_calls: list[Call] = []
        for place, is_end, call in events_of(calls):
            if not is_end:
                open_calls.append(call)
                continue
            possible = {
                (state, done - {call}) for state, done in self._closure(possible, open_calls, self.clock_ms(place)) if call in done
            }
            open_calls.remove(call)
        return {state for state, _ in possible}

    def _closure(
        self, possible: set[tuple[int, frozenset[Call]]], open_calls: list[Call], now_ms: int
    ) -> set[tuple[int, frozenset[Call]]]:
        """Return everything that can be reached when calls under way take effect, and values vanish."""
        reached = set(possible)
        fresh = list(possible)
        while fresh:
            state, done = fresh.pop()
            following = []
            if state != ABSENT and (self.evicts or self.expiries.get(state, now_ms + 1) <= now_ms):
                following.append((ABSENT, done))
            for call in open_calls:
                if call in done:
                    continue
                if is_refusal(call.answer):
                    following.append((state, done | {call}))
                    continue
                seen = ABSENT if self.expiries.get(state, call.begin_ms + 1) <= call.begin_ms else state
                after, answer = apply(seen, call)
                if call.end == 0:
                    answer = call.answer  # nobody got one: it may have taken effect, or may yet
                if type(answer) is type(call.answer) and answer == call.answer:
                    # Whoever saw it expired left it there, for those who began before that.
                    following.append((state if after == seen else after, done | {call}))
            for each in following:
                if each not in reached:
                    reached.add(each)
                    fresh.append(each)
        return reached
