"""World: front ends of one simulated pool, each on a stack of its own, and every operation that may come next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from greenlet import getcurrent, greenlet

from storage.cluster import Cluster, Node
from storage.engine import Engine
from storage.fabric import waiting
from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition, Status
from storage.pool import Pool, PoolError
from storage.store import Store
from tests.exploration.scenarios import Scenario, Step
from tests.storage.histories import ABSENT, Call
from tests.storage.pools import NOW_MS, PAGE_BYTES, filler, finish, make_pool

CLIENT_SHIFT = 56  # a choice's key: front end above, the fabric's identity below
DOORBELL_SHIFT = 16  # of an identity: the doorbell above, the operation below
STEP_BIT = 1 << 55  # of keys that are no operations: the beginning or the end of a step
EXPIRY_MS = NOW_MS + 1_000_000
HOT_VALUES_BYTES = 4 << 20  # room for copies of all values there are
ADOPTION_TURNS = 4  # from the page table to what is free, where nobody else keeps a ticket from passing
CONDITIONS = {"write": Condition.ALWAYS, "write_nx": Condition.NX, "write_xx": Condition.XX, "swap": Condition.ALWAYS}


class Kind(IntEnum):
    """What a choice does."""

    READ = 0
    WRITE = 1
    CAS = 2
    FAA = 3
    COUNT = 4  # a FAA whose result nobody looks at
    BEGIN = 5  # of a step
    END = 6


KINDS = {"READ": Kind.READ, "WRITE": Kind.WRITE, "CAS": Kind.CAS, "FAA": Kind.FAA}


class Choice(NamedTuple):
    """One thing that may happen next. The same key means the same thing in every run in which its front end saw the same."""

    key: int
    client: int
    kind: Kind
    begin: int  # bytes of the pool that it touches; none where no answer depends on them
    end: int
    fenced: bool = False
    queue: int = -1
    message: int = -1  # of its doorbell; pieces of one come in any order
    changes: bool = True  # known once it has happened: a CAS that fails is a READ to all others


@dataclass(eq=False)
class Client:
    """A front end and its script. ``row``: its number in the pool, which a newcomer shares with one who is dead."""

    number: int
    store: Store
    fabric: SimulatedFabric
    row: int = -1
    script: tuple[Step, ...] = ()
    is_awaited: bool = False  # a newcomer before it comes
    stack: greenlet | None = None  # ready to go on
    waits_for: Kind | None = None  # a step's beginning or end that was not chosen yet
    steps_passed: int = 0
    mutations: int = 0
    mutations_limit: int | None = None  # dead before the next one
    is_over: bool = False
    is_dead: bool = False
    tokens: dict[bytes, tuple[int, int]] = field(default_factory=dict)


class Registry:
    """Who is dead: what the locks of front ends prove elsewhere."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self.held: set[int] = set()

    def prove_dead(self, number: int, incarnation: int) -> bool:
        """Whether the front end with this number is gone, and nobody else holds the proof: then it is held."""
        del incarnation  # a lock does not know it
        if number not in self.dead or number in self.held:
            return False
        self.held.add(number)
        return True

    def release(self, number: int) -> None:
        """From now on somebody may become that number."""
        self.held.discard(number)

    def take(self, number: int) -> None:
        """Somebody becomes that number."""
        assert number in self.dead
        assert number not in self.held
        self.dead.remove(number)


def small_store(pool: Pool, policy: str, registry: Registry | None = None, *, alone: bool = True) -> Store:
    """Return a store whose books are quickly made; with a ``registry`` it adopts what others leave."""
    store = Store(Cluster([Node("", Engine(pool, location_entries=16, hot_values_bytes=HOT_VALUES_BYTES), policy)]), policy)
    if registry is not None:
        store.share(registry, alone=alone)
    store.set_clock(NOW_MS)
    return store


@lru_cache
def pool_bytes(index_entries: int, pages: int) -> int:
    """Return the size of a pool with exactly so many pages."""
    before_pages = make_pool("sim", pages=200, index_entries=index_entries).layout()["page_words"]
    return before_pages + pages * (PAGE_BYTES + 8) + PAGE_BYTES


@lru_cache
def layout_of(index_entries: int, pages: int) -> dict[str, int]:
    """Return where everything lies in such a pool."""
    fabric = SimulatedFabric(pool_bytes(index_entries, pages))
    return Pool.format(fabric, index_entries=index_entries, secret=bytes(16)).layout()


class World:
    """One run of a scenario. ``kills``: how many changes of the pool each front end named there lives to make."""

    def __init__(self, scenario: Scenario, kills: dict[int, int] | None = None, cuts: list[int] | None = None) -> None:
        self.scenario = scenario
        self.kills = kills or {}
        self.history: list[Call] = []
        self.place = 0
        self.sizes: dict[int, int] = {}
        self.errors: list[AssertionError] = []
        self.registry = Registry()
        self.killed = 0
        self.first_fabric = SimulatedFabric(pool_bytes(scenario.index_entries, scenario.pages))
        pool = Pool.format(
            self.first_fabric, index_entries=scenario.index_entries, secret=bytes(16), binding_bits=scenario.binding_bits,
            version_bits=scenario.version_bits,
        )  # fmt: skip
        self.layout = pool.layout()
        self.clients = []
        for number in range(len(scenario.scripts)):
            fabric = self.first_fabric.share(number + 2)
            store = small_store(Pool.attach(fabric, number), scenario.policy, self.registry)
            self.clients.append(Client(number, store, fabric, number, scenario.scripts[number]))
        for client in self.clients:
            client.store.pool.refresh_epochs()
        for number, (client_number, step) in enumerate(scenario.setup):
            self._do(self.clients[client_number], step, 1 + number)
        counters, heat = self.layout["counters"], self.layout["heat"]
        self._counters = range(counters, counters + 4096)
        self._heat = range(heat, self.layout["page_words"]) if scenario.policy == "noeviction" else range(0)
        for row, script in scenario.newcomers:
            number = len(self.clients)
            # Its store comes with it.
            self.clients.append(Client(number, self.clients[row].store, self.first_fabric.share(number + 2), row, script, is_awaited=True))
        for client in self.clients:
            client.fabric.suspends = True
            client.fabric.cuts = cuts
            client.fabric.on_over = self._note_over(client)
            client.mutations_limit = self.kills.get(client.number)
            waiting.run(self._follow, client)

    # ----------------------------------------------------------------- scripts

    @staticmethod
    def _note_over(client: Client) -> Callable[[greenlet], object]:
        def note(stack: greenlet) -> None:
            client.stack = stack

        return note

    def _follow(self, client: Client) -> None:
        """Follow the client's script, on its stack."""
        try:
            if client.is_awaited:
                self._come(client)
            for number, step in enumerate(client.script):
                self._pause(client, Kind.BEGIN)
                self._do(client, step, 100 * (client.number + 1) + number)
                if client.is_dead:
                    return
            client.is_over = True
        except (OSError, PoolError):  # the fabric of a dead one is lost
            if not client.is_dead:
                raise
        except AssertionError as error:
            self.errors.append(error)

    def _come(self, client: Client) -> None:
        """Take the number of a dead one, whether or not somebody has declared it dead and looked for what it held."""
        self._pause(client, Kind.BEGIN)
        self.registry.take(client.row)
        client.is_awaited = False
        client.store = small_store(Pool.attach(client.fabric, client.row), self.scenario.policy, self.registry, alone=False)

    def _pause(self, client: Client, kind: Kind) -> None:
        """Let the scheduler choose when a step begins or ends."""
        if not client.fabric.suspends or client.is_dead:
            return
        client.waits_for = kind
        client.stack = getcurrent()
        getcurrent().parent.switch()  # type: ignore[union-attr]
        if client.is_dead:
            raise ConnectionError("dead")

    def _begin(self, name: str, key: bytes, number: int = 0, expected: int = 0) -> Call:
        self.place += 1
        call = Call(name, key, number, expected, begin=self.place, begin_ms=NOW_MS)
        self.history.append(call)
        return call

    def _end(self, client: Client, answers: list[tuple[Call, object]]) -> None:
        """Let the calls return together with these answers, unless their front end died first."""
        if client.is_dead:
            return
        self._pause(client, Kind.END)
        for call, answer in answers:
            self.place += 1
            call.end, call.answer = self.place, answer

    def number_of(self, payload: bytes) -> int:
        """Return the number of the write that brought these bytes, which must be whole."""
        number = int.from_bytes(payload[:8], "little")
        assert number in self.sizes, f"bytes that nobody wrote: {payload[:16]!r}"
        assert payload[8:] == filler(self.sizes[number], number), f"torn bytes of write {number}"
        return number

    def _do(self, client: Client, step: Step, number: int) -> None:
        """Take one step; ``number`` names the value that it brings."""
        store = client.store
        if step.name == "collect":
            store.release_spares()
            return
        if step.name == "maintain":
            store.maintain(1000.0)
            return
        if step.name == "adopt":
            adoption = store.cluster.nodes[0].adoption
            assert adoption is not None
            adoption.look_for_dead()
            for _ in range(ADOPTION_TURNS):
                store.maintain(1000.0)
            return
        if step.name == "flush":
            calls = [self._begin("flush", key) for key in self.scenario.keys]
            finish(store.flush(0))
            self._end(client, [(call, None) for call in calls])
        elif step.name == "exists":
            calls = [self._begin("exists", key) for key in step.keys]
            found = finish(store.exists(0, list(step.keys)))
            self._end(client, list(zip(calls, found, strict=True)))
        elif step.name == "read":
            self._read(client, step.keys[0])
        elif step.name == "delete":
            call = self._begin("delete", step.keys[0])
            self._end(client, [(call, finish(store.delete(0, [step.keys[0]])))])
        else:
            self._write(client, step, number)

    def _read(self, client: Client, key: bytes) -> None:
        call = self._begin("read", key)
        entry = finish(client.store.read(0, key))
        if client.is_dead:
            return
        answer = ABSENT if entry is None else self.number_of(entry.payload)
        if entry is not None:
            client.tokens[key] = (answer, entry.token)
        self._end(client, [(call, answer)])

    def _write(self, client: Client, step: Step, number: int) -> None:
        key = step.keys[0]
        store = client.store
        self.sizes[number] = step.length
        value = number.to_bytes(8, "little") + filler(step.length, number)
        if step.name in ("replace", "expire"):
            expected, token = client.tokens[key]
            # An expiry leaves the value that is there: as if it were written once more.
            brought = expected if step.name == "expire" else number
            call = self._begin("replace", key, brought, expected)
            payload, expire_at_ms = (None, EXPIRY_MS) if step.name == "expire" else (value, -1)
            self._end(client, [(call, finish(store.replace(0, key, token, payload, expire_at_ms=expire_at_ms)))])
            return
        call = self._begin(step.name, key, number)
        result = finish(store.write(0, key, value, condition=CONDITIONS[step.name], want_previous=step.name == "swap"))
        answer: object = result.status
        if step.name == "swap" and result.status == Status.OK and not client.is_dead:
            answer = ABSENT if result.previous is None else self.number_of(result.previous.payload)
        self._end(client, [(call, answer)])

    # ---------------------------------------------------------------- schedule

    def choices(self) -> list[Choice]:
        """Return everything that may happen next, clients in turn."""
        found = []
        for client in self.clients:
            if client.is_dead or not self._may_begin(client):
                continue
            upper = client.number << CLIENT_SHIFT
            if client.waits_for is not None:
                found.append(Choice(upper | STEP_BIT | client.steps_passed, client.number, client.waits_for, 0, 0))
            may_change = client.mutations != client.mutations_limit
            for identity, name, begin, length, fenced, queue, message in client.fabric.choices():
                kind = KINDS[name]
                if kind == Kind.FAA and begin in self._counters:
                    kind = Kind.COUNT
                if not may_change and kind != Kind.READ:
                    continue
                if begin in self._heat:
                    begin = length = 0
                found.append(Choice(upper | identity, client.number, kind, begin, begin + length, fenced, queue, message))
        return found

    def _may_begin(self, client: Client) -> bool:
        """Whether nobody has to die before this one takes its next step."""
        if client.is_awaited and client.waits_for is not None:
            return client.row in self.registry.dead and client.row not in self.registry.held
        if client.number in self.scenario.adopters and client.waits_for == Kind.BEGIN:
            others = [self.clients[number] for number in self.kills if number != client.number]
            return all(other.is_dead or other.is_over for other in others)
        return True

    def perform(self, choice: Choice) -> tuple[Choice, bool]:
        """Let it happen. Return it with what it did, and whether its front end went on: what it posts next comes after that doorbell."""
        client = self.clients[choice.client]
        if choice.kind in (Kind.BEGIN, Kind.END):
            client.waits_for = None
            client.steps_passed += 1
        else:
            client.mutations += choice.kind != Kind.READ
            if not client.fabric.perform(choice.key & (STEP_BIT - 1)) and choice.changes:
                choice = choice._replace(changes=False)
            if self.scenario.dies_at_once and client.mutations == client.mutations_limit:
                self.end_stacks([client])
                return choice, False
        stack = client.stack
        if stack is None or client.waits_for is not None:
            return choice, False
        client.stack = None
        waiting.resume(stack)
        return choice, True

    def bury(self) -> list[Client]:
        """Those who could not end are dead now, and nothing of theirs happens any more; who they are."""
        dead = [client for client in self.clients if client.mutations == client.mutations_limit and client.fabric.pending]
        self.end_stacks(dead)
        dead = [client for client in self.clients if client.is_dead]
        self.killed = len(dead)
        return dead

    @property
    def present(self) -> list[Client]:
        """Everybody who has come."""
        return [client for client in self.clients if not client.is_awaited]

    def end_stacks(self, clients: list[Client]) -> None:
        """Let the stacks of these clients unwind without touching the pool."""
        for client in clients:
            if not client.is_dead and not client.is_awaited:
                self.registry.dead.add(client.row)
            client.is_dead = True
            client.fabric.lose()
            while client.stack is not None:
                stack, client.stack = client.stack, None
                waiting.resume(stack)

    def settle(self) -> None:
        """From now on operations are performed as they are posted."""
        for client in self.clients:
            if not client.is_dead:
                client.fabric.suspends = False
                client.fabric.cuts = None

    def close(self) -> None:
        """Leave no stack behind."""
        self.end_stacks([client for client in self.clients if not client.is_over])
