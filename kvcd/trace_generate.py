"""Synthetic traces: seeded request sequences in several shapes, among them one with the real conversation trace's statistics."""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kvcd.trace import TOKENS_PER_BLOCK, Request
from kvcd.trace_profiles import AGENT, CONVERSATION, OUTPUT_TOKENS, PAUSES, SHORT_AGENT, SessionProfile

CONVERSATION_REQUESTS = 12_031  # as many as the real conversation trace holds
CONVERSATION_DURATION_MS = 3_540_000  # 59 min
TICK_MS = 3_000  # the published traces gather arrivals in steps of three seconds
MAX_REQUESTS = 10_000_000


class Shape(enum.StrEnum):
    """What kind of load a generated trace is."""

    CONVERSATION = "conversation"  # chat: many short sessions, long pauses, one block that all share
    AGENT = "agent"  # few system prompts, long sessions that grow a little with each step
    UNIFORM = "uniform"  # every prompt of a catalogue equally likely
    ZIPF = "zipf"  # the same catalogue, popularity falls with rank
    SCAN = "scan"  # the same catalogue from front to back, again and again
    PAUSES = "pauses"  # chat whose users come back late
    SHORT_AGENT = "short-agent"  # agents whose steps follow each other at once
    SCAN_THROUGH = "scan-through"  # the zipf catalogue, and every fourth stretch of requests something that never comes back
    SHIFT = "shift"  # the zipf catalogue, exchanged as a whole four times


_PROFILES = {
    Shape.CONVERSATION: CONVERSATION,
    Shape.AGENT: AGENT,
    Shape.PAUSES: PAUSES,
    Shape.SHORT_AGENT: SHORT_AGENT,
}
_SCAN_STRETCH_REQUESTS = 500  # of every four such stretches one is the scan
_SHIFTS = 5  # catalogues, one after the other
_CATALOGUE_USES = 4  # the catalogue is sized so that each prompt is asked for this often on average
_CATALOGUE_LENGTH_BLOCKS = 16


@dataclass(slots=True)
class _Blocks:
    """Hands out block ids; id 0 is the block that every prompt begins with."""

    next_id: int = 1

    def take(self, count: int) -> tuple[int, ...]:
        first = self.next_id
        self.next_id += count
        return tuple(range(first, self.next_id))


@dataclass(order=True, slots=True)
class _Session:
    """A conversation that waits for its next turn."""

    due_ms: int
    order: int  # breaks ties, so that equal times stay deterministic
    turn: int = field(compare=False)
    request: Request = field(compare=False)


def generate(shape: Shape, *, requests: int = CONVERSATION_REQUESTS, seed: int = 0) -> Iterator[Request]:
    """Yield ``requests`` requests of ``shape`` in order of time; the same arguments give the same trace.

    They arrive at the conversation trace's rate (204 a minute), rising by half towards its end, in
    bursts on a grid of three seconds. Raises ``ValueError`` for a number out of range.
    """
    if not 1 <= requests <= MAX_REQUESTS:
        raise ValueError(f"requests must lie between 1 and {MAX_REQUESTS}, not {requests}")
    source = random.Random(f"{shape}:{seed}")
    arrivals = _arrival_times(requests, source)
    if shape in _PROFILES:
        return _sessions(_PROFILES[shape], arrivals, source)
    return _catalogue(shape, arrivals, source)


def _arrival_times(requests: int, source: random.Random) -> list[int]:
    """Times on the grid: the rate rises by half over the trace, and varies from tick to tick (bursts)."""
    ticks = max(1, round(requests * CONVERSATION_DURATION_MS / CONVERSATION_REQUESTS / TICK_MS))
    weights = [(1 + 0.5 * tick / ticks) * source.gammavariate(12, 1 / 12) for tick in range(ticks)]
    chosen = sorted(source.choices(range(ticks), weights, k=requests))
    return [(tick - chosen[0]) * TICK_MS for tick in chosen]


def _sessions(profile: SessionProfile, arrivals: list[int], source: random.Random) -> Iterator[Request]:
    """At each arrival the session that is due goes on; when none is, a new one begins."""
    blocks = _Blocks()
    waiting: list[_Session] = []
    first_turn = _first_turns(profile, blocks, source)
    for order, now_ms in enumerate(arrivals):
        if waiting and waiting[0].due_ms <= now_ms:
            session = heapq.heappop(waiting)
            turn = session.turn + 1
            request = _next_turn(profile, session.request, now_ms, blocks, source)
        else:
            turn = 1
            request = first_turn(now_ms)
        yield request
        chances = profile.continue_chances
        if source.random() < chances[min(turn, len(chances)) - 1]:
            heapq.heappush(waiting, _Session(now_ms + profile.pause_ms.sample(source), order, turn, request))


def _first_turns(profile: SessionProfile, blocks: _Blocks, source: random.Random) -> Callable[[int], Request]:
    """Return a function that makes a session's first request at a given time."""
    prompts: dict[int, tuple[int, ...]] = {}  # rank of a shared prompt -> its blocks, made when first used
    ranks = range(profile.shared_prompt_count)
    popularity = list(itertools.accumulate((rank + 1) ** -profile.shared_prompt_popularity for rank in ranks))

    def make(now_ms: int) -> Request:
        shared: tuple[int, ...] = ()
        if source.random() < profile.shared_prompt_share:
            rank = source.choices(ranks, cum_weights=popularity)[0]
            if rank not in prompts:
                prompts[rank] = blocks.take(profile.shared_prompt_length.sample(source))
            shared = prompts[rank]
        own = blocks.take(profile.first_length.sample(source))
        return _request(now_ms, (0, *shared, *own), profile.output_tokens.sample(source), source)

    return make


def _next_turn(profile: SessionProfile, previous: Request, now_ms: int, blocks: _Blocks, source: random.Random) -> Request:
    """The prompt so far and what was said since; the partial last block fills up and so becomes another block."""
    output_tokens = profile.output_tokens.sample(source)
    if source.random() < profile.repeat_share:
        return Request(now_ms, previous.input_tokens, output_tokens, previous.hash_ids)
    new = blocks.take(1 + profile.growth.sample(source))
    return _request(now_ms, (*previous.hash_ids[:-1], *new), output_tokens, source)


def _catalogue(shape: Shape, arrivals: list[int], source: random.Random) -> Iterator[Request]:
    """Requests for whole prompts of one length out of a fixed catalogue."""
    prompt_count = max(1, len(arrivals) // _CATALOGUE_USES // (_SHIFTS if shape is Shape.SHIFT else 1))
    popularity = list(itertools.accumulate(1 / (rank + 1) for rank in range(prompt_count)))
    own_blocks = _CATALOGUE_LENGTH_BLOCKS - 1
    for position, now_ms in enumerate(arrivals):
        if shape is Shape.SCAN:
            prompt = position % prompt_count
        elif shape is Shape.UNIFORM:
            prompt = source.randrange(prompt_count)
        elif shape is Shape.SCAN_THROUGH and position // _SCAN_STRETCH_REQUESTS % 4 == 3:
            prompt = prompt_count + position
        else:
            prompt = source.choices(range(prompt_count), cum_weights=popularity)[0]
        if shape is Shape.SHIFT:
            prompt += position * _SHIFTS // len(arrivals) * prompt_count
        first = 1 + prompt * own_blocks
        tokens = _CATALOGUE_LENGTH_BLOCKS * TOKENS_PER_BLOCK
        yield Request(now_ms, tokens, OUTPUT_TOKENS.sample(source), (0, *range(first, first + own_blocks)))


def _request(now_ms: int, chain: tuple[int, ...], output_tokens: int, source: random.Random) -> Request:
    """A request whose last block is filled at random."""
    input_tokens = (len(chain) - 1) * TOKENS_PER_BLOCK + source.randint(1, TOKENS_PER_BLOCK)
    return Request(now_ms, input_tokens, output_tokens, chain)
