"""A change counter that a death has spoilt is settled also when others change keys of it during every sweep."""

from __future__ import annotations

from tests.exploration.aftermath import judge
from tests.exploration.random_walk import Walk


def test_a_counter_that_moves_during_the_sweep_is_settled_later() -> None:
    Walk(801, kills=2, adopts=True, sleeps=True).play(judge)
