"""allkeys-prefix: never below LRU, better where it may be, and each of its parts by itself."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvcd.replay_engine import Mode
from kvcd.simulation.duel import Duel, Threshold
from kvcd.simulation.ghost_table import GhostTable
from kvcd.simulation.heat import Heat
from kvcd.simulation.prefix_rule import PrefixRule
from kvcd.simulation.residents import Residents
from kvcd.simulation.reuse import ReuseMedian, TailOdds
from kvcd.simulation.simulator import simulate
from kvcd.trace import Request, read_trace
from kvcd.trace_generate import Shape, generate

TOLERANCE = 0.01


def long_ones_return(count: int) -> Iterator[Request]:
    """Chains of 60 blocks come back once, soon, and those of 2 never: the opposite of what the rule expects."""
    source = random.Random(1)
    due: list[tuple[int, tuple[int, ...]]] = []
    made = 0
    for number in range(count):
        if due and due[0][0] <= number:
            chain = due.pop(0)[1]
        else:
            length = source.choice((2, 60))
            chain = (0, *range(made + 1, made + 1 + length))
            made += length
            if length == 60:
                due.append((number + source.randint(5, 40), chain))
                due.sort()
        yield Request(0, 512 * len(chain), 1, chain)


def loss_to_lru(requests: list[Request], *, share: float, mode: Mode) -> float:
    """How far the rule is below the better of both exact LRUs, at a share of the footprint."""
    capacity = max(1, int(share * len({block for request in requests for block in request.hash_ids})))
    ratios = {
        policy: simulate(requests, policy=policy, capacity=capacity, mode=mode).block_hit_ratio
        for policy in ("lru", "leaf-lru", "allkeys-prefix")
    }
    return max(ratios["lru"], ratios["leaf-lru"]) - ratios["allkeys-prefix"]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("shape", list(Shape))
def test_it_is_not_below_lru(shape: Shape, mode: Mode) -> None:
    # Chance decides between policies on a uniform load: of 1 500 requests by 0.01.
    requests = list(generate(shape, requests=4_000 if shape is Shape.UNIFORM else 800, seed=5))
    for share in (0.03, 0.2):
        assert loss_to_lru(requests, share=share, mode=mode) <= TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("shape", list(Shape))
def test_it_is_not_below_lru_on_long_traces_at_any_size(shape: Shape, seed: int) -> None:
    requests = list(generate(shape, requests=6_000, seed=seed))
    losses = {(share, mode): loss_to_lru(requests, share=share, mode=mode) for share in (0.01, 0.03, 0.1, 0.2, 0.5) for mode in Mode}
    assert max(losses.values()) <= TOLERANCE, losses


def test_where_the_rule_is_wrong_lru_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = list(long_ones_return(1_500))
    assert loss_to_lru(requests, share=0.02, mode=Mode.PREFIX) <= TOLERANCE
    monkeypatch.setattr(Duel, "advance", lambda self, clock: False)
    assert loss_to_lru(requests, share=0.02, mode=Mode.PREFIX) > 0.05


@pytest.mark.parametrize(("loss", "leads"), [(0.02, False), (0.002, True)])
def test_a_small_cache_takes_notice_of_a_small_loss(loss: float, leads: bool) -> None:
    """Of 16 times 320 accesses 0.02 are 102, less than one request may bring by chance; of more of them it shows."""
    duel = Duel(320)
    for clock in range(40_000):
        duel.advance(clock)
        if clock % round(1 / loss) == 0:
            duel._score -= 1
    assert duel.rule_leads is leads


def test_a_block_is_worth_no_more_than_what_comes_before_it() -> None:
    """Its head forgotten, or the head of another: there is no way to it."""
    cache = PrefixRule(100, may_refuse=False)
    for _ in range(5):
        cache.play((2, 3))
    cache.play((1, 2, 3))
    first, second, third = (cache._held[block] for block in (1, 2, 3))
    assert second.count > 3 * first.count
    assert first.priority > second.priority > third.priority


def test_it_is_ahead_of_lru_on_a_conversation() -> None:
    requests = list(generate(Shape.CONVERSATION, requests=1_500, seed=3))
    assert loss_to_lru(requests, share=0.03, mode=Mode.PREFIX) < -0.01
    assert loss_to_lru(requests, share=0.03, mode=Mode.PLAIN) < -0.01


@pytest.mark.long
def test_the_real_trace_has_the_ratios_that_were_asked_for() -> None:
    folder = os.environ.get("KVCD_TRACE_DIR")
    if not folder:
        pytest.skip("KVCD_TRACE_DIR names no folder with conversation_trace.jsonl")
    requests = read_trace(Path(folder) / "conversation_trace.jsonl")
    for capacity, ratio in {1_000: 0.070, 3_000: 0.130, 10_000: 0.235}.items():
        assert simulate(requests, policy="allkeys-prefix", capacity=capacity, mode=Mode.PREFIX).block_hit_ratio >= ratio


def test_only_prefix_mode_refuses() -> None:
    requests = list(generate(Shape.CONVERSATION, requests=800, seed=3))
    prefix = simulate(requests, policy="allkeys-prefix", capacity=200, mode=Mode.PREFIX)
    plain = simulate(requests, policy="allkeys-prefix", capacity=200, mode=Mode.PLAIN)
    assert prefix.refused_blocks > 0
    assert prefix.written_blocks + prefix.refused_blocks + prefix.hit_blocks == prefix.blocks
    assert (plain.refused_blocks, plain.written_blocks) == (0, plain.blocks - plain.hit_blocks)


def test_what_was_refused_is_remembered_and_stored_when_it_comes_again() -> None:
    cache = PrefixRule(4, may_refuse=True)
    for _ in range(6):
        cache.play((1, 2, 3, 4))
    assert cache.play((7,)) == 0
    assert not cache.holds(7)
    for _ in range(30):
        cache.play((7,))
    assert cache.holds(7)


def test_the_median_is_found_from_far_away() -> None:
    source, median = random.Random(1), ReuseMedian(100_000)
    for _ in range(20_000):
        median.observe(round(source.expovariate(math.log(2) / 5_000)))
    assert median.accesses == pytest.approx(5_000, rel=0.1)


def test_the_last_blocks_penalty_is_learned() -> None:
    odds = TailOdds(1_000)
    for _ in range(500):
        odds.observe_request(10)
        for _ in range(4):
            odds.observe_return(was_tail=False)
    assert odds.penalty == 4.0
    alike = TailOdds(1_000)
    for number in range(500):
        alike.observe_request(10)
        for _ in range(9):
            alike.observe_return(was_tail=False)
        if number % 2:
            alike.observe_return(was_tail=True)
            alike.observe_return(was_tail=True)
    assert alike.penalty < 0.1


def test_a_threshold_is_the_capacitys_youngest() -> None:
    threshold, capacity = Threshold(320), 320
    for clock in range(2_000):
        threshold.advance(clock)
        threshold.add(clock)
    assert threshold.value == pytest.approx(2_000 - capacity, abs=2 * capacity / 16)
    for value in range(1_000, 1_900):
        threshold.remove(value)
    threshold.advance(2_020)
    assert threshold.value == pytest.approx(1_000 - 220, abs=2 * capacity / 16)  # 100 above 1 900, so 220 are missing below 1 000
    threshold.advance(2_000_000)
    assert threshold.value == -math.inf


def test_a_full_bucket_forgets_the_least_and_nothing_else() -> None:
    table = GhostTable(1)  # 16 places: two buckets
    heats = [Heat(block, last=block, bonus=float(-1_000 if block == 30 else 0)) for block in range(40)]
    for heat in heats:
        table.add(heat)
    kept = [heat.block for heat in heats if table.find(heat.block)]
    assert len(kept) == 16
    assert 30 not in kept
    assert 39 in kept
    table.remove(39)
    assert table.find(39) is None


def test_no_block_is_worth_more_than_one_before_it_in_its_chain() -> None:
    """The median moves while a request is played, and what deeper blocks have gathered is of no use without their heads."""
    source = random.Random(3)
    rule = PrefixRule(400, may_refuse=False)
    for number in range(600):
        chain = range(first := source.randrange(32) * 16, first + source.choice((8, 16, 16)))
        rule.play(chain)
        if number > 100:
            keys = [rule._held[block].priority for block in chain if rule.holds(block)]
            assert keys == sorted(keys, reverse=True)


def test_victims_are_near_the_least_of_all() -> None:
    source, residents = random.Random(4), Residents(seed=1)
    heats = [Heat(block, priority=float(block), is_held=True) for block in range(10_000)]
    source.shuffle(heats)
    for heat in heats:
        residents.add(heat)
    victims = []
    for _ in range(1_000):
        victim = residents.victim()
        residents.take(victim)
        victim.is_held = False
        victims.append(victim.block)
    assert len(set(victims)) == 1_000
    assert len(residents) == 9_000
    assert sum(victims) / len(victims) < 800  # 500 from a heap
    assert max(victims[200:]) < 2_500


def test_a_victim_that_was_used_since_it_was_sampled_stays() -> None:
    residents = Residents(seed=1)
    heats = [Heat(block, priority=float(block), is_held=True) for block in range(20)]
    for heat in heats:
        residents.add(heat)
    assert residents.victim() is heats[0]
    heats[0].priority = 100.0
    assert residents.victim() is heats[1]
