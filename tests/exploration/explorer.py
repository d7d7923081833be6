"""Explorer: every order of a scenario's operations that can make a difference, one run each.

Dynamic partial-order reduction with source sets and sleep sets (Abdulla, Aronis, Jonsson, Sagonas: Optimal dynamic partial order
reduction, POPL 2014, algorithm 1; sleep sets: Godefroid 1996). Two things commute when they touch different bytes, or both only read
them; so one run stands for all orders that differ in the place of such pairs. Nothing is stored of the states: each run begins
with a new pool and repeats the choices of the last one up to where it differs.

Every operation counts as a process of its own, since RDMA lets those of one queue pair overtake each other. What must come before it is
known: the operations that it may not overtake, and the doorbells that its front end waited for before it was posted. A step's end and the
beginning of another front end's step do not commute, because it matters to linearizability which was first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.exploration.scenarios import Scenario
from tests.exploration.world import DOORBELL_SHIFT, STEP_BIT, Choice, Kind, World


def are_dependent(one: Choice, other: Choice) -> bool:
    """Whether it matters which of two comes first, if both orders are possible."""
    first, second = one.kind, other.kind
    if first >= Kind.BEGIN or second >= Kind.BEGIN:
        return one.client != other.client and {first, second} == {Kind.BEGIN, Kind.END}
    if one.begin >= other.end or other.begin >= one.end:
        return False
    return (one.changes or other.changes) and (first != Kind.COUNT or second != Kind.COUNT)


def must_follow(later: Choice, earlier: Choice) -> bool:
    """Whether one operation may not overtake another that was posted before it by the same front end on the same queue pair."""
    if earlier.key >> DOORBELL_SHIFT == later.key >> DOORBELL_SHIFT and earlier.message == later.message:
        return False  # pieces of one message
    if earlier.kind == Kind.WRITE or later.fenced:
        return True
    return earlier.kind in (Kind.CAS, Kind.FAA, Kind.COUNT) and later.kind != Kind.WRITE


@dataclass(eq=False)
class Point:
    """A place in a run: what may happen there, what was tried, what need not be tried."""

    enabled: dict[int, Choice]
    sleep: dict[int, Choice]
    todo: set[int] = field(default_factory=set)
    done: dict[int, Choice] = field(default_factory=dict)
    frontiers: tuple[int, ...] = ()  # of each front end, before this event: all that its next doorbell comes after
    doorbells: tuple[int, ...] = ()  # that each had posted


@dataclass
class Report:
    """What was explored."""

    scenario: str
    kills: dict[int, int] = field(default_factory=dict)
    runs: int = 0
    cut_short: int = 0  # runs that came to nothing new
    too_long: int = 0  # runs in which the front ends kept each other from ending, left when one had rung the doorbell too often
    operations: int = 0
    longest: int = 0
    outcomes: set[object] = field(default_factory=set)
    deaths: int = 0
    seconds: float = 0.0
    is_complete: bool = False


class Explorer:
    """Depth-first search through the orders of one scenario."""

    def __init__(
        self, scenario: Scenario, judge: Callable[[World], object], *, kills: dict[int, int] | None = None,
        cuts: list[int] | None = None, limit: int = 1_000_000, on_progress: Callable[[Report], object] | None = None,
    ) -> None:  # fmt: skip
        self.scenario = scenario
        self.judge = judge
        self.kills = kills or {}
        self.cuts = cuts
        self.limit = limit
        self.on_progress = on_progress
        self.report = Report(scenario.name, dict(self.kills))
        self.points: list[Point] = []
        self.events: list[Choice] = []
        self.before: list[int] = []  # of each event: all that happened before it, as a set of bits
        self.doorbell_frontiers: list[dict[int, int]] = []

    def explore(self) -> Report:
        """Run every order."""
        begin = time.monotonic()
        is_more = True
        while is_more and self.report.runs < self.limit:
            self._run()
            is_more = self._step_back()
            if self.on_progress is not None and self.report.runs % 256 == 0:
                self.on_progress(self.report)
        self.report.is_complete = not is_more
        self.report.seconds = time.monotonic() - begin
        return self.report

    # -------------------------------------------------------------------- runs

    def _run(self) -> None:
        """Repeat the choices that stand, then go on until nothing is left to happen."""
        world = World(self.scenario, self.kills, self.cuts)
        try:
            if not self.doorbell_frontiers:
                self.doorbell_frontiers = [{} for _ in world.clients]
            for choice in self.events[:-1]:
                world.perform(choice)
            if self.events:  # the last of them is new here
                choice = self.events.pop()
                self._perform(world, choice)
            while not world.errors:
                choices = world.choices()
                if not choices:
                    break
                if not self._extend(world, choices):
                    self.report.cut_short += 1
                    return
                if any(client.fabric.doorbells > self.scenario.doorbells_limit for client in world.clients):
                    self.report.too_long += 1
                    return
            self.report.runs += 1
            self.report.longest = max(self.report.longest, len(self.events))
            self.report.outcomes.add(self.judge(world))
            self.report.deaths += world.killed > 0
        except AssertionError as error:
            error.add_note(f"scenario {self.scenario.name}, kills {self.kills}, order:\n{self.told()}")
            raise
        finally:
            self.report.operations += len(self.events)
            world.close()

    def told(self) -> str:
        """Return the order of the run at hand, a line for each event."""
        return "\n".join(f"  {choice.client} {choice.kind.name:6} {choice.begin:8} {choice.end - choice.begin:6}" for choice in self.events)

    def _extend(self, world: World, choices: list[Choice]) -> bool:
        """Choose one more event; False when all that may come is asleep."""
        point = Point({choice.key: choice for choice in choices}, {})
        if self.points:
            last, chosen = self.points[-1], self.events[-1]
            for sleeper in (*last.sleep.values(), *last.done.values()):
                if sleeper.key != chosen.key and not self._depend(sleeper, chosen):
                    point.sleep[sleeper.key] = sleeper
        for choice in choices:
            if choice.key not in point.sleep:
                break
        else:
            return False
        self.points.append(point)
        self._perform(world, choice)
        return True

    def _perform(self, world: World, choice: Choice) -> None:
        """Let an event happen at the last point, and note what comes before it."""
        point = self.points[-1]
        number = len(self.points) - 1
        if not point.frontiers:
            # The state that the event before this one has left.
            point.frontiers, point.doorbells = self._left_behind(world)
        point.todo.discard(choice.key)
        choice, went_on = world.perform(choice)
        self._note(choice, point.frontiers[choice.client], number)
        self._next_frontiers = list(point.frontiers)
        if went_on:
            self._next_frontiers[choice.client] |= self._awaited(choice, number)
        self._went_on = choice.client if went_on else -1

    def _left_behind(self, world: World) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the frontiers and doorbells at a new point, and note what the new doorbells come after."""
        doorbells = tuple(client.fabric.doorbells for client in world.clients)
        if len(self.points) == 1:
            for number, count in enumerate(doorbells):
                for doorbell in range(1, count + 1):
                    self.doorbell_frontiers[number][doorbell] = 0
            return tuple(0 for _ in doorbells), doorbells
        frontiers = tuple(self._next_frontiers)
        last = self.points[-2].doorbells
        for number, count in enumerate(doorbells):
            for doorbell in range(last[number] + 1, count + 1):
                self.doorbell_frontiers[number][doorbell] = frontiers[number]
        return frontiers, doorbells

    def _awaited(self, choice: Choice, number: int) -> int:
        """Return the events that the front end has waited for when it goes on after this one."""
        awaited = self.before[number] | 1 << number
        if choice.key & STEP_BIT:
            return awaited
        doorbell = choice.key >> DOORBELL_SHIFT
        for index in range(number):
            if self.events[index].key >> DOORBELL_SHIFT == doorbell:
                awaited |= self.before[index] | 1 << index
        return awaited

    # ------------------------------------------------------------------- races

    def _depend(self, one: Choice, other: Choice) -> bool:
        if (
            one.client == other.client
            and one.client in self.kills
            and Kind.READ < one.kind < Kind.BEGIN
            and Kind.READ < other.kind < Kind.BEGIN
        ):
            return True  # which of them is the last that it makes before its death matters
        return are_dependent(one, other)

    def _note(self, choice: Choice, frontier: int, number: int) -> None:
        """Add an event: what happened before it, and which of that should be tried after it."""
        events, before = self.events, self.before
        required = frontier
        if not choice.key & STEP_BIT:
            identity = choice.key & (STEP_BIT - 1)
            required = self.doorbell_frontiers[choice.client][identity >> DOORBELL_SHIFT]
            for index, earlier in enumerate(events):
                if (
                    earlier.client == choice.client
                    and earlier.queue == choice.queue
                    and earlier.key < choice.key
                    and must_follow(choice, earlier)
                ):
                    required |= before[index] | 1 << index
        if choice.kind == Kind.BEGIN:
            # What may only begin when somebody is dead: a choice of its own that the scheduler does not have.
            for index, earlier in enumerate(events):
                if earlier.client in self._waited_for(choice.client):
                    required |= before[index] | 1 << index
        covered = required
        races = []
        for index in range(len(events) - 1, -1, -1):
            earlier = events[index]
            if self._depend(earlier, choice):
                if not covered >> index & 1:
                    races.append(index)
                covered |= before[index] | 1 << index
        events.append(choice)
        before.append(covered)
        for index in races:
            self._reverse(index, number)

    def _waited_for(self, client: int) -> tuple[int, ...]:
        """Return those whose death a front end waits for before each of its steps."""
        if not self.scenario.dies_at_once:
            return ()
        front_ends = len(self.scenario.scripts)
        if client >= front_ends:
            return (self.scenario.newcomers[client - front_ends][0],)
        return tuple(self.kills) if client in self.scenario.adopters else ()

    def _reverse(self, earlier: int, later: int) -> None:
        """See to it that the order in which ``later`` comes before ``earlier`` is tried."""
        before = self.before
        independent = [index for index in range(earlier + 1, later) if not before[index] >> earlier & 1]
        independent.append(later)
        members = sum(1 << index for index in independent)
        initials = [self.events[index].key for index in independent if not before[index] & members]
        point = self.points[earlier]
        if any(key in point.todo or key in point.done or key in point.sleep or key == self.events[earlier].key for key in initials):
            return
        key = initials[-1]
        assert key in point.enabled, "what is to come first was not possible there"
        point.todo.add(key)

    def _step_back(self) -> bool:
        """Go back to the last point where something is left to try, and choose that; False when all was tried."""
        while self.points:
            point, event = self.points[-1], self.events.pop()
            del self.before[len(self.points) - 1 :]
            point.done[event.key] = event
            point.todo -= point.done.keys()
            if point.todo:
                self.events.append(point.enabled[min(point.todo)])
                return True
            self.points.pop()
        return False
