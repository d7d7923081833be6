"""Profiles of generated traces: how sessions begin, go on and end, measured where there was something to measure."""

from __future__ import annotations

import dataclasses
import math
import random
from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution given by its quantiles; between two of them the logarithm of (value + 1) is linear."""

    points: tuple[tuple[float, float], ...]  # (share, value), shares from 0 to 1

    def sample(self, source: random.Random) -> int:
        """Draw one value, rounded to a whole number."""
        share = source.random()
        right = min(bisect_right(self.points, share, key=lambda point: point[0]), len(self.points) - 1)
        (low_share, low), (high_share, high) = self.points[right - 1], self.points[right]
        position = (share - low_share) / (high_share - low_share)
        return round(math.exp(math.log1p(low) + position * (math.log1p(high) - math.log1p(low))) - 1)


@dataclass(frozen=True, slots=True)
class SessionProfile:
    """How sessions begin, go on and end; lengths in blocks."""

    first_length: Quantiles  # own blocks of a session's first request
    shared_prompt_count: int
    shared_prompt_popularity: float  # Zipf exponent over the shared prompts
    shared_prompt_length: Quantiles
    shared_prompt_share: float  # of the sessions that begin under a shared prompt
    continue_chances: tuple[float, ...]  # after turn 1, 2, ...; the last one holds for all later turns
    pause_ms: Quantiles  # between two turns of one session
    growth: Quantiles  # blocks a turn adds
    repeat_share: float  # of the turns that ask for exactly the same prompt again
    output_tokens: Quantiles


OUTPUT_TOKENS = Quantiles(((0, 1), (0.1, 24), (0.2, 100), (0.3, 213), (0.5, 350), (0.8, 504), (0.95, 698), (0.99, 1120), (1, 2000)))

# Measured on Mooncake's conversation trace (12 031 requests), where a turn shares all blocks of the turn before but its partial last one.
CONVERSATION = SessionProfile(
    first_length=Quantiles(
        (
            (0, 1),
            (0.15, 1),
            (0.2, 2),
            (0.3, 3),
            (0.4, 7),
            (0.5, 10),
            (0.6, 14),
            (0.7, 20),
            (0.8, 29),
            (0.9, 46),
            (0.95, 71),
            (0.98, 124),
            (0.99, 168),
            (0.995, 214),
            (1, 246),
        )
    ),
    shared_prompt_count=120,
    shared_prompt_popularity=0.6,
    shared_prompt_length=Quantiles(
        ((0, 1), (0.2, 2), (0.4, 3), (0.5, 5), (0.7, 11), (0.8, 16), (0.9, 27), (0.95, 46), (0.98, 69), (1, 144))
    ),
    shared_prompt_share=0.1,
    continue_chances=(0.265, 0.41, 0.52, 0.58, 0.63, 0.68, 0.75),
    pause_ms=Quantiles(
        (
            (0, 3_000),
            (0.05, 27_000),
            (0.1, 39_000),
            (0.2, 57_000),
            (0.3, 75_000),
            (0.4, 96_000),
            (0.5, 123_000),
            (0.6, 162_000),
            (0.7, 225_000),
            (0.8, 318_000),
            (0.9, 474_000),
            (0.95, 606_000),
            (0.99, 1_458_000),
            (1, 3_030_000),
        )
    ),
    growth=Quantiles(
        ((0, 0), (0.25, 0), (0.3, 1), (0.6, 1), (0.7, 2), (0.8, 3), (0.9, 8), (0.95, 14), (0.98, 22), (0.99, 30), (0.999, 60), (1, 120))
    ),
    repeat_share=0.024,
    output_tokens=OUTPUT_TOKENS,
)

AGENT = SessionProfile(
    first_length=Quantiles(((0, 1), (0.5, 3), (0.9, 8), (1, 40))),
    shared_prompt_count=24,
    shared_prompt_popularity=1.1,
    shared_prompt_length=Quantiles(((0, 6), (0.5, 14), (0.9, 30), (1, 60))),
    shared_prompt_share=0.95,
    continue_chances=(0.85, 0.88, 0.9),
    pause_ms=Quantiles(((0, 1_000), (0.5, 9_000), (0.9, 45_000), (1, 600_000))),
    growth=Quantiles(((0, 0), (0.3, 1), (0.7, 2), (0.95, 8), (1, 40))),
    repeat_share=0.01,
    output_tokens=OUTPUT_TOKENS,
)

# Chat whose users come back after half an hour and more, and mostly do come back.
PAUSES = dataclasses.replace(
    CONVERSATION,
    continue_chances=(0.7, 0.8, 0.8),
    pause_ms=Quantiles(tuple((share, value * 6) for share, value in CONVERSATION.pause_ms.points)),
)

# Agents that call the next step at once: a session is over before many others begin.
SHORT_AGENT = dataclasses.replace(
    AGENT,
    continue_chances=(0.95, 0.95, 0.93),
    pause_ms=Quantiles(((0, 0), (0.5, 1_000), (1, 6_000))),
    growth=Quantiles(((0, 0), (0.5, 1), (1, 4))),
)
