"""Policies against sequences small enough to follow by hand, a slow model, and what must hold for every trace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcd.replay_engine import Mode
from kvcd.simulation.arc import Arc
from kvcd.simulation.catalogue import POLICIES, make_policy
from kvcd.simulation.leaf_lru import LeafLru
from kvcd.simulation.lfu import Lfu
from kvcd.simulation.lru import Lru
from kvcd.simulation.optimum import Optimum
from kvcd.simulation.policy import Policy
from kvcd.simulation.redis_lru import RedisLru
from kvcd.simulation.s3_fifo import S3Fifo
from kvcd.simulation.sieve import Sieve
from kvcd.simulation.simulator import simulate
from kvcd.trace import Request, read_trace
from kvcd.trace_generate import Shape, generate


def chain_of(turns: list[int]) -> tuple[int, ...]:
    """A path from the root of a tree with three branches everywhere: every block has one parent, as block hashes have."""
    block, chain = 0, []
    for turn in turns:
        block = block * 3 + turn + 1
        chain.append(block)
    return tuple(chain)


MOST_BLOCKS = 3 + 9 + 27 + 81 + 1
CHAINS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(chain_of), min_size=1, max_size=60)


def requests_of(chains: Sequence[tuple[int, ...]]) -> list[Request]:
    return [Request(0, 512 * len(chain), 1, chain) for chain in chains]


def held_after(cache: Policy, blocks: Sequence[int]) -> set[int]:
    """Use ``blocks`` one request each; what is held then, of 0 to 9."""
    for block in blocks:
        cache.play((block,))
    return {block for block in range(10) if cache.holds(block)}


@pytest.mark.parametrize(
    ("cache", "blocks", "held"),
    [
        (Lru(2), [1, 2, 1, 3], {1, 3}),
        (Lfu(2), [1, 1, 2, 3, 4], {1, 4}),  # 2 and 3 were used once each: the older goes
        (Lfu(3), [1, 1, 1, 2, 2, 3, 4, 4, 4, 5], {1, 4, 5}),  # 2, used twice, is the least used when 5 comes
        (Sieve(3), [1, 2, 3, 1, 4], {1, 3, 4}),  # the hand passes 1, which was used, and takes 2
        (Sieve(3), [1, 2, 3, 1, 4, 5], {1, 4, 5}),  # it goes on from there: 3, not 1 whose mark is gone
        (Sieve(2), [1, 2, 1, 2, 3], {2, 3}),  # all marked: once round, and 1 is the first without a mark
        (S3Fifo(4), [1, 1, 1, 2, 3, 4, 5], {1, 3, 4, 5}),  # 1 was used twice in the small queue and moves on; 2 goes
        (S3Fifo(4), [1, 2, 3, 4, 5, 1, 6, 7, 8, 9], {1, 7, 8, 9}),  # 1 comes back as a ghost, straight into the main queue
        (Arc(2), [1, 1, 2, 3, 4], {1, 4}),  # a scan passes through those used once
        (Arc(2), [1, 2, 1, 2, 3, 4], {2, 4}),
        (RedisLru(4), [1, 2, 3, 4, 1, 5], {1, 3, 4, 5}),  # of four keys all are sampled
    ],
)
def test_what_is_held_in_the_end(cache: Policy, blocks: list[int], held: set[int]) -> None:
    assert held_after(cache, blocks) == held


def test_leaf_lru_shrinks_a_chain_from_its_tail() -> None:
    cache = LeafLru(4)
    cache.play((1, 2, 3))
    cache.play((5, 6))
    assert [cache.holds(block) for block in (1, 2, 3, 5, 6)] == [True, True, False, True, True]
    assert cache.play((1, 2, 3)) == 2


def test_a_chain_longer_than_the_cache_leaves_its_head() -> None:
    cache = LeafLru(2)
    cache.play((1, 2, 3, 4))
    assert cache.play((1, 2, 3, 4)) == 2
    assert cache.refused_blocks == 4


def test_the_optimum_keeps_what_comes_next_and_refuses_what_does_not() -> None:
    chains = [(1,), (2,), (3,), (1,), (2,), (1,)]
    cache = Optimum(2, chains)
    assert [cache.play(chain) for chain in chains] == [0, 0, 0, 1, 1, 1]
    assert cache.refused_blocks == 1


def test_a_hit_behind_a_gap_does_not_count() -> None:
    (chain, again) = ((1, 2, 3), (9, 2, 3))
    result = simulate(requests_of([chain, again]), policy="lru", capacity=10, mode=Mode.PREFIX)
    assert (result.blocks, result.hit_blocks, result.written_blocks) == (6, 0, 6)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8])
@given(chains=CHAINS)
@settings(max_examples=25, deadline=None)
def test_no_policy_beats_the_optimum_or_holds_more_than_it_may(capacity: int, chains: list[tuple[int, ...]]) -> None:
    requests = requests_of(chains)
    best = simulate(requests, policy="optimum", capacity=capacity, mode=Mode.PREFIX).hit_blocks
    for name in POLICIES:
        for mode in Mode:
            cache = make_policy(name, capacity=capacity, mode=mode, requests=requests)
            hits = 0
            for chain in chains:
                hits += cache.play(chain)
                assert sum(cache.holds(block) for block in range(MOST_BLOCKS)) <= capacity
            assert hits <= best, name


@pytest.mark.parametrize("shape", list(Shape))
def test_with_room_for_all_every_policy_hits_the_same(shape: Shape) -> None:
    requests = list(generate(shape, requests=150, seed=2))
    capacity = len({block for request in requests for block in request.hash_ids}) * 10  # of S3-FIFO's small queue, too
    hits = {name: simulate(requests, policy=name, capacity=capacity, mode=Mode.PREFIX).hit_blocks for name in POLICIES}
    assert len(set(hits.values())) == 1, hits


@given(blocks=st.lists(st.integers(0, 9), min_size=1, max_size=80))
@settings(max_examples=60, deadline=None)
def test_a_larger_lru_holds_whatever_a_smaller_one_does(blocks: list[int]) -> None:
    small, large = Lru(3), Lru(5)
    for block in blocks:
        small.play((block,))
        large.play((block,))
        assert all(large.holds(other) for other in range(10) if small.holds(other))


@pytest.mark.long
def test_the_yardsticks_have_the_figures_of_the_design() -> None:
    folder = os.environ.get("KVCD_TRACE_DIR")
    if not folder:
        pytest.skip("KVCD_TRACE_DIR names no folder with conversation_trace.jsonl")
    requests = read_trace(Path(folder) / "conversation_trace.jsonl")
    for policy, expected in {
        "leaf-lru": (0.045, 0.065, 0.212, 0.326),
        "optimum": (0.191, 0.295, 0.366, 0.366),
        "redis-lru": (0.043, 0.059, 0.182, 0.309),
    }.items():
        for capacity, ratio in zip((1_000, 3_000, 10_000, 30_000), expected, strict=True):
            found = simulate(requests, policy=policy, capacity=capacity, mode=Mode.PREFIX).block_hit_ratio
            assert found == pytest.approx(ratio, abs=0.001), (policy, capacity)
