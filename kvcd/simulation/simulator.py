"""Simulator: plays a trace against one policy and counts what a replay would count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvcd.replay_engine import Mode
from kvcd.simulation.catalogue import make_policy
from kvcd.trace import Request

_REQUESTS_PER_STEP = 256  # between two calls of ``on_progress``


@dataclass(frozen=True, slots=True)
class Simulation:
    """The outcome; a block is a hit when it and all blocks before it in its request were held."""

    policy: str
    capacity_blocks: int
    mode: Mode
    requests: int
    blocks: int
    hit_blocks: int
    block_hit_ratio: float
    token_hit_ratio: float
    written_blocks: int
    refused_blocks: int


def simulate(
    requests: Sequence[Request], *, policy: str, capacity: int, mode: Mode, on_progress: Callable[[int], None] = lambda played: None
) -> Simulation:
    """Play ``requests`` in their order; ``on_progress`` is told now and then how many more were played.

    Raises ``ValueError`` for an unknown policy and for a capacity below one.
    """
    cache = make_policy(policy, capacity=capacity, mode=mode, requests=requests)
    blocks = hit_blocks = tokens = hit_tokens = 0
    for number, request in enumerate(requests, start=1):
        hits = cache.play(request.hash_ids)
        blocks += len(request.hash_ids)
        hit_blocks += hits
        tokens += request.input_tokens
        hit_tokens += request.tokens_in_leading(hits)
        if number % _REQUESTS_PER_STEP == 0:
            on_progress(_REQUESTS_PER_STEP)
    on_progress(len(requests) % _REQUESTS_PER_STEP)
    return Simulation(
        policy=policy,
        capacity_blocks=capacity,
        mode=mode,
        requests=len(requests),
        blocks=blocks,
        hit_blocks=hit_blocks,
        block_hit_ratio=hit_blocks / blocks if blocks else 0.0,
        token_hit_ratio=hit_tokens / tokens if tokens else 0.0,
        written_blocks=blocks - hit_blocks - cache.refused_blocks,
        refused_blocks=cache.refused_blocks,
    )
