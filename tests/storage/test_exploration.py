"""Every order of two front ends' operations on tiny pools, with and without a death, and random walks of three and more."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from storage.interface import Status
from tests.exploration.__main__ import explorations, torn_explorations
from tests.exploration.aftermath import Outcome, judge, judge_recovered
from tests.exploration.explorer import Explorer, Report
from tests.exploration.random_walk import Swarm, Walk, shrink
from tests.exploration.scenarios import ADOPTIONS, SCENARIOS, Scenario, wrapping
from tests.exploration.world import World

SMALL = [name for name, scenario in SCENARIOS.items() if scenario.is_small]
# What one bit of binding and of version lets wrap, complete within five seconds.
NARROW = [
    "set-get", "del-setnx", "del-get", "overwrite-get-known", "overwrite-del-get-known", "paged-overwrites", "overwrite-overwrite",
    "swap-swap", "expire-del", "flush-set", "overflow-del", "claim-dirty",
]  # fmt: skip
# Torn at all places at once, complete within seconds; those that change more, at so many places at once in every choice of them.
TORN = ["get-del", "set-get", "expire-del", "del-setnx", "swap-swap"]
TORN_LONG = {
    "match-set": 0, "set-set": 1, "setnx-setnx": 1, "setnx-set": 2, "set-other": 1, "match-del": 1, "del-get": 1, "overwrite-get": 1,
}  # fmt: skip


def explored(name: str, *, limit: int = 1_000_000) -> Report:
    """Explore without deaths, to the end."""
    report = Explorer(SCENARIOS[name], judge, limit=limit).explore()
    assert report.is_complete
    assert report.too_long == 0, "some kept each other from ending"
    assert report.runs > 2
    return report


def answers_of(report: Report) -> set[tuple[object, ...]]:
    """Return the answers of the scripts' calls in every outcome, setup left out."""
    scenario = SCENARIOS[report.scenario]
    before = sum(len(step.keys) if step.name == "exists" else 1 for _, step in scenario.setup)
    return {outcome.answers[before:] for outcome in report.outcomes if isinstance(outcome, Outcome)}


@pytest.mark.parametrize("name", SMALL)
def test_every_order(name: str) -> None:
    explored(name)


@pytest.mark.parametrize("name", TORN)
def test_every_order_of_torn_operations(name: str) -> None:
    """Each half of the slots' words, and the values, read before or after whatever others change."""
    (report,) = torn_explorations(SCENARIOS[name], 0, limit=5_000)
    assert report.is_complete
    assert report.runs > explored(name).runs


@pytest.mark.parametrize("kills", [0, 1])
def test_random_walks_that_insert_one_key(kills: int) -> None:
    """An insert that is not answered, or is answered BUSY, has no explanation."""
    swarm = Swarm()
    swarm.run(range(1, 120), lambda seed: Walk(seed, kills=kills, inserts=True), judge)
    assert swarm.walks == 119


@pytest.mark.parametrize("name", NARROW)
def test_every_order_with_generations_of_one_bit(name: str) -> None:
    assert Explorer(replace(SCENARIOS[name], binding_bits=1, version_bits=1), judge).explore().is_complete


@pytest.mark.parametrize("name", list(wrapping(1)))
def test_only_as_many_changes_as_there_are_versions_deceive(name: str) -> None:
    """What docs/pool.md says of it under "What is not protected", and that exploration finds it."""
    assert Explorer(wrapping(2)[name], judge).explore().is_complete
    with pytest.raises(AssertionError, match=r"has no order|torn bytes|held"):
        Explorer(wrapping(1)[name], judge).explore()


@pytest.mark.parametrize("bits", [1, 2])
def test_random_walks_with_narrow_generations(bits: int) -> None:
    swarm = Swarm()
    swarm.run(range(1, 60), lambda seed: Walk(seed, kills=seed % 3, binding_bits=bits, version_bits=bits), judge)
    assert swarm.walks == 59


def test_of_two_that_insert_if_absent_each_may_win_and_only_one() -> None:
    assert answers_of(explored("setnx-setnx")) == {(Status.OK, Status.PRESENT), (Status.PRESENT, Status.OK)}


def test_of_two_that_delete_each_may_be_the_one() -> None:
    assert answers_of(explored("del-del")) == {(1, 0), (0, 1)}


def test_nothing_random_happens_that_exploration_has_not_seen() -> None:
    """The reduction leaves out orders, never an outcome."""
    for name in ("del-setnx-get", "overwrite-get", "flush-setnx-absent"):
        found = {values_and_sorted_answers(outcome) for outcome in explored(name).outcomes}
        for seed in range(150):
            choose = random.Random(seed)
            world = World(SCENARIOS[name])
            try:
                while choices := world.choices():
                    world.perform(choose.choice(choices))
                assert values_and_sorted_answers(judge(world)) in found
            finally:
                world.close()


def values_and_sorted_answers(outcome: object) -> tuple[object, ...]:
    """Return what does not depend on which of two calls began first."""
    assert isinstance(outcome, Outcome)
    return outcome.values, tuple(sorted(map(repr, outcome.answers)))


@pytest.mark.parametrize("judge_of_dead", [judge, judge_recovered])
@pytest.mark.parametrize("name", ["set-get", "del-setnx", "overwrite-get", "overwrite-overwrite", "claim-dirty", "expire-del"])
def test_a_death_before_every_change(name: str, judge_of_dead: Callable[[World], object]) -> None:
    """What the dead one held is back, by adoption or by recovery; what it had acknowledged is there."""
    deaths = 0
    for report in explorations(SCENARIOS[name], kills=True, limit=60, judged=judge_of_dead):
        deaths += report.deaths
    assert deaths > 20


@pytest.mark.parametrize("kills", [0, 1, 2])
def test_random_walks_of_three(kills: int) -> None:
    swarm = Swarm()
    swarm.run(range(1, 80), lambda seed: Walk(seed, kills=kills), judge)
    assert swarm.walks == 79


@pytest.mark.parametrize("kills", [0, 1])
def test_random_walks_where_generations_wrap(kills: int) -> None:
    """With one bit for each some walks fail: a slot that is taken twice under a slow writer has the binding that it had."""
    swarm = Swarm()
    swarm.run(range(100, 150), lambda seed: Walk(seed, kills=kills, binding_bits=2, version_bits=2), judge)
    assert swarm.walks == 50


def adopting(seed: int) -> Walk:
    """Return a walk in which somebody dies while others work, and is adopted meanwhile."""
    return Walk(seed, kills=1 + seed % 2, adopts=True, sleeps=seed % 3 == 0)


def test_random_walks_in_which_the_dead_are_adopted_at_once() -> None:
    """One front end sleeps in every third: nothing is taken from it, and what it does when it wakes counts."""
    dead, came = 0, 0

    def judge_and_count(world: World) -> object:
        nonlocal dead, came
        outcome = judge(world)
        dead += len(outcome.dead)
        came += len(world.present) - len(world.scenario.scripts)
        return outcome

    Swarm().run(range(200), adopting, judge_and_count)
    assert dead > 100
    assert came > 100


def adoptions(scenario: Scenario, victims: tuple[int, ...], limit: int) -> int:
    """Explore with the first victim dead after each of its changes, and the others of each; return in how many runs somebody died."""
    deaths = 0
    for kills in places_of_death(scenario, victims):
        deaths += Explorer(scenario, judge, kills=kills, limit=limit).explore().deaths
    return deaths


def places_of_death(scenario: Scenario, victims: tuple[int, ...]) -> Iterator[dict[int, int]]:
    """Every place at which the first victim dies, and for each all at which the next does."""
    found: dict[int, int] = {}

    def those(victim: int) -> Iterator[dict[int, int]]:
        found[victim] = 1
        while dies(scenario, found, victim):
            if victim == victims[-1]:
                yield dict(found)
            else:
                yield from those(victims[victims.index(victim) + 1])
            found[victim] += 1
        del found[victim]

    yield from those(victims[0])


def dies(scenario: Scenario, kills: dict[int, int], victim: int) -> bool:
    """Whether it makes so many changes."""
    world = World(scenario, kills)
    try:
        while choices := world.choices():
            world.perform(choices[0])
        return world.clients[victim].is_dead
    finally:
        world.close()


@pytest.mark.parametrize("name", list(ADOPTIONS))
def test_adoption_while_others_work(name: str) -> None:
    assert adoptions(ADOPTIONS[name], (0,), 5) > 20


def test_an_adopter_dead_after_any_change_is_adopted_by_a_third() -> None:
    assert adoptions(ADOPTIONS["adopt-adopt"], (0, 1), 1) > 40


def test_a_walk_that_fails_is_cut_to_its_beginning() -> None:
    walk = Walk(1, kills=0)

    def refuse_the_third_call(world: World) -> None:
        assert len([call for call in world.history if call.end]) < 10, "so many calls ended"

    with pytest.raises(AssertionError, match="so many"):
        walk.play(refuse_the_third_call)
    assert shrink(walk, refuse_the_third_call) == 0  # it fails whatever is chosen
    assert walk.play(judge) > 100


@pytest.mark.long
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_every_order_long(name: str) -> None:
    report = Explorer(SCENARIOS[name], judge, limit=5_000).explore()
    assert report.too_long == 0, "some kept each other from ending"


@pytest.mark.long
@pytest.mark.parametrize("name", list(TORN_LONG))
def test_every_order_of_torn_operations_long(name: str) -> None:
    for report in torn_explorations(SCENARIOS[name], TORN_LONG[name], limit=20_000):
        assert report.is_complete
        assert report.too_long == 0


@pytest.mark.long
@pytest.mark.parametrize("kills", [0, 1, 2])
def test_random_walks_that_insert_one_key_long(kills: int) -> None:
    Swarm().run(range(1_000, 1_400), lambda seed: Walk(seed, front_ends=3 + seed % 2, kills=kills, inserts=True), judge)


@pytest.mark.long
@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("name", SMALL)
def test_every_order_with_narrow_generations_long(name: str, bits: int) -> None:
    assert Explorer(replace(SCENARIOS[name], binding_bits=bits, version_bits=bits), judge).explore().is_complete


@pytest.mark.long
@pytest.mark.parametrize("judge_of_dead", [judge, judge_recovered])
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_death_before_every_change_long(name: str, judge_of_dead: Callable[[World], object]) -> None:
    for report in explorations(SCENARIOS[name], kills=True, limit=12, judged=judge_of_dead):
        assert report.runs


@pytest.mark.long
@pytest.mark.parametrize("kills", [0, 1, 2, 3])
@pytest.mark.parametrize("grain_bytes", [4, 8, 0])
def test_random_walks_of_four_long(kills: int, grain_bytes: int) -> None:
    Swarm().run(range(1_000, 1_150), lambda seed: Walk(seed, front_ends=4, kills=kills, grain_bytes=grain_bytes), judge)


@pytest.mark.long
@pytest.mark.parametrize("name", list(ADOPTIONS))
def test_adoption_while_others_work_long(name: str) -> None:
    assert adoptions(ADOPTIONS[name], (0,), 15) > 60


@pytest.mark.long
@pytest.mark.parametrize("bits", [(8, 14), (2, 2), (1, 1)])
def test_random_walks_in_which_the_dead_are_adopted_at_once_long(bits: tuple[int, int]) -> None:
    Swarm().run(range(250, 450), lambda seed: replace(adopting(seed), binding_bits=bits[0], version_bits=bits[1]), judge)
