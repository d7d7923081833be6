"""Random walk: three and more front ends, kills anywhere, torn operations, and the shortest beginning that fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.exploration.scenarios import COLLECT, SMALL, TWO_PAGES, K, Scenario, Step, step
from tests.exploration.world import Choice, World, layout_of
from tests.storage.pools import PAGE_BYTES

KEYS = (K, b"yek", b"c")
STEPS_LIMIT = 20_000  # of one run
ADOPTING = ("read", "write", "write", "write_nx", "delete", "flush", "collect", "maintain", "adopt", "adopt")
INSERTING = ("write", "write_nx", "write_nx", "delete")
NAMES = ("read", "read", "exists", "write", "write", "write_nx", "swap", "delete", "flush", "collect", "maintain")


@dataclass
class Walk:
    """One random run: everything follows from its seed, apart from ``prefix``."""

    seed: int
    front_ends: int = 3
    steps: int = 6
    kills: int = 1
    grain_bytes: int = 4  # READs and WRITEs are torn at multiples of it; 0: not at all
    binding_bits: int = 8
    version_bits: int = 14
    adopts: bool = False  # the dead are dead at once, others find out while they work, and newcomers take their numbers
    sleeps: bool = False  # one front end is stopped somewhere and wakes when all others have ended, or somewhat earlier
    inserts: bool = False  # all insert one key, and remove it
    lengths: tuple[int, ...] = (SMALL, SMALL, 700, TWO_PAGES)
    chosen: list[int] = field(default_factory=list)

    def scenario(self) -> Scenario:
        """Return what its front ends do."""
        choose = random.Random(self.seed)
        scripts = []
        for _ in range(self.front_ends):
            script: list[Step] = []
            for _ in range(self.steps):
                name = choose.choice(INSERTING if self.inserts else ADOPTING if self.adopts else NAMES)
                keys = () if name in ("flush", "collect", "maintain", "adopt") else KEYS if name == "exists" else (choose.choice(KEYS),)
                if self.inserts:
                    keys = (K,)
                script.append(step(name, *keys, length=choose.choice(self.lengths)))
            scripts.append((*script, COLLECT))
        newcomer = (step("read", K), step("write", K), step("adopt"), step("write", b"yek"), COLLECT)
        newcomers = tuple((number, newcomer) for number in range(self.front_ends)) if self.adopts else ()
        return Scenario(
            f"walk-{self.seed}", "anything", ((0, step("write", K)), (1, step("write", b"yek", length=TWO_PAGES))), tuple(scripts),
            pages=40, index_entries=7 * choose.choice([1, 2, 3]), binding_bits=self.binding_bits, version_bits=self.version_bits,
            dies_at_once=self.adopts, newcomers=newcomers,
        )  # fmt: skip

    def play(self, judge: Callable[[World], object], prefix: int | None = None) -> int:
        """Run it: how many events there were. Beyond the first ``prefix`` the first that may happen is chosen."""
        choose = random.Random(self.seed + 1)
        scenario = self.scenario()
        victims = choose.sample(range(self.front_ends), min(self.kills, self.front_ends - 1))
        kills = {number: choose.randrange(1, 60) for number in victims}
        sleeper = choose.choice([number for number in range(self.front_ends) if number not in kills]) if self.sleeps else -1
        sleep = range(choose.randrange(150), choose.randrange(150, 2_000))
        world = World(scenario, kills, self.cuts(choose, scenario) if self.grain_bytes else None)
        self.chosen = []
        favourite, events = 0, 0
        try:
            while choices := world.choices():
                if events in sleep:
                    choices = [choice for choice in choices if choice.client != sleeper] or choices
                assert events < STEPS_LIMIT, "the front ends never end"
                # Now one front end runs far ahead, now all take turns: which one does is changed rarely or often.
                if choose.random() < 0.15:
                    favourite = choose.randrange(self.front_ends)
                number = self._choose(choose, choices, favourite)
                if prefix is not None and events >= prefix:
                    number = 0
                self.chosen.append(number)
                world.perform(choices[number])
                events += 1
                if world.errors:
                    break
            judge(world)
        finally:
            world.close()
        return events

    @staticmethod
    def _choose(choose: random.Random, choices: list[Choice], favourite: int) -> int:
        favoured = [number for number, choice in enumerate(choices) if choice.client == favourite]
        return choose.choice(favoured) if favoured and choose.random() < 0.8 else choose.randrange(len(choices))

    def cuts(self, choose: random.Random, scenario: Scenario) -> list[int]:
        """Return places of the pool at which operations are torn: many in the index, some in the pages and the first cells of each."""
        layout = layout_of(scenario.index_entries, scenario.pages)
        index = range(layout["sets"], layout["sets"] + layout["set_count"] * 128, self.grain_bytes)
        pages = range(layout["pages"], layout["pages"] + layout["page_count"] * PAGE_BYTES, self.grain_bytes)
        heads = [page + 128 + self.grain_bytes * choose.randrange(64) for page in range(pages.start, pages.stop, PAGE_BYTES)]
        return sorted({*choose.sample(index, len(index) // 3), *choose.sample(pages, 100), *heads})


@dataclass
class Swarm:
    """Many walks."""

    walks: int = 0
    events: int = 0
    seconds: float = 0.0
    outcomes: set[object] = field(default_factory=set)

    def run(self, seeds: range, make: Callable[[int], Walk], judge: Callable[[World], object]) -> None:
        """Play all seeds; AssertionError of the first that fails, with the shortest beginning that still does."""
        begin = time.monotonic()
        for seed in seeds:
            walk = make(seed)
            try:
                self.events += walk.play(lambda world: self.outcomes.add(judge(world)))
            except AssertionError as error:
                options = f"--seed {seed} --front-ends {walk.front_ends} --deaths {walk.kills} --grain {walk.grain_bytes}"
                options += f" --bits {walk.binding_bits} {walk.version_bits}{' --adopt' * walk.adopts}{' --sleep' * walk.sleeps}"
                options += " --insert" * walk.inserts
                error.add_note(f"replay: python -m tests.exploration --random {options}")
                prefix = shrink(walk, judge)
                error.add_note(f"its first {prefix} events at random, then always the first that may happen, fail too")
                raise
            self.walks += 1
        self.seconds = time.monotonic() - begin


def shrink(walk: Walk, judge: Callable[[World], object]) -> int:
    """Return the length of a short random beginning that fails."""
    high = len(walk.chosen)
    low = 0
    while low < high:
        middle = (low + high) // 2
        if fails(walk, judge, middle):
            high = middle
        else:
            low = middle + 1
    return high


def fails(walk: Walk, judge: Callable[[World], object], prefix: int) -> bool:
    """Whether the walk fails with so much of its beginning."""
    try:
        walk.play(judge, prefix)
    except AssertionError:
        return True
    return False
