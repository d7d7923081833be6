"""Aftermath: what a run has left behind, and whether its history has an explanation."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from storage.pool import Pool
from storage.recovery import recover
from storage.store import Store
from tests.exploration.world import Client, World, small_store
from tests.storage.histories import ABSENT, Call, Judge
from tests.storage.pools import filler, finish

FREE, RESERVED, LIVE = 0, 1, 2
SLOTS_PER_SET = 7
SET_BYTES = 128
AGAIN_LIMIT = 8  # sweeps for what moved in the one before
ADOPTION_TURNS = 40
FRESH = 5_000  # numbers of the writes that look for memory handed out twice


@dataclass(frozen=True)
class Outcome:
    """What tells the ends of two runs apart: the answers, and what the keys hold."""

    answers: tuple[object, ...]
    values: tuple[int, ...]
    dead: tuple[int, ...]


def judge(world: World) -> Outcome:
    """Look at a run that has ended: AssertionError when anything is wrong with it. Who lives adopts what the dead have left."""
    return _judge(world, everybody_goes=False)


def judge_recovered(world: World) -> Outcome:
    """The same when all others go too, and one who comes alone recovers the pool."""
    return _judge(world, everybody_goes=True)


def _judge(world: World, *, everybody_goes: bool) -> Outcome:
    if world.errors:
        raise world.errors[0]
    dead = world.bury()
    for client in world.present:
        assert client.is_over or client in dead, f"front end {client.number} never ends"
    world.settle()
    answers = tuple(call.answer for call in world.history)
    living = [client for client in world.present if client not in dead]
    if everybody_goes:
        world.end_stacks(living)
        living = []
    elif dead:
        adopt(living)
    observers = living or [Client(9, recovered_store(world), world.first_fabric)]
    values = judge_history(world, observers)
    judge_index(world)
    judge_memory(world, observers)
    return Outcome(answers, values, tuple(client.number for client in dead))


def adopt(living: list[Client]) -> None:
    """Let those who live find out who died, and take back what they held."""
    for client in living:
        adoption = client.store.cluster.nodes[0].adoption
        assert adoption is not None
        adoption.look_for_dead()
    for _ in range(AGAIN_LIMIT):
        for _ in range(ADOPTION_TURNS):
            for client in living:
                client.store.maintain(1000.0)
        adoptions = [client.store.cluster.nodes[0].adoption for client in living]
        # Later they would by themselves, when the pause is over.
        hurried = [adoption is not None and adoption.hurry() for adoption in adoptions]  # all of them, not up to the first
        if not any(hurried):
            break
    for client in living:
        adoption = client.store.cluster.nodes[0].adoption
        assert adoption is not None
        assert adoption.is_idle, "the adoption never ends"


def recovered_store(world: World) -> Store:
    """Return the store of one who comes alone when all others are gone, and recovers the pool."""
    store = small_store(Pool.attach(world.first_fabric, len(world.clients)), world.scenario.policy)
    recover(store)
    return store


def judge_history(world: World, observers: list[Client]) -> tuple[int, ...]:
    """Every key's history has an order, what is seen now being a part of it; return what the keys hold."""
    values = []
    judge = Judge(world.scenario.policy != "noeviction")
    for key in world.scenario.keys:
        for observer in observers:
            entry = finish(observer.store.read(0, key))
            world.place += 2
            number = ABSENT if entry is None else world.number_of(entry.payload)
            world.history.append(Call("read", key, begin=world.place - 1, end=world.place, answer=number))
        verdict = judge.verdict([call for call in world.history if call.key == key])
        assert verdict is None, verdict
        values.append(number)
    live = sorted(key for key, number in zip(world.scenario.keys, values, strict=True) if number != ABSENT)
    for observer in observers:
        assert sorted(finish(observer.store.scan(0, 0, 10_000))[1]) == live, "one slot for each key"
        assert observer.store.memory()["damaged"] == 0
    return tuple(values)


def slots_of(world: World) -> list[tuple[int, int]]:
    """Return word 0 and word 1 of every slot."""
    sets = world.first_fabric.peek(world.layout["sets"], world.layout["set_count"] * SET_BYTES)
    words = struct.unpack(f"<{len(sets) // 8}Q", sets)
    return [
        (words[base + 2 + slot * 2], words[base + 3 + slot * 2])
        for base in range(0, len(words), SET_BYTES // 8)
        for slot in range(SLOTS_PER_SET)
    ]


def judge_index(world: World) -> None:
    """No slot stays reserved when all have ended, and no cell is named twice."""
    words = [word for word, _ in slots_of(world)]
    assert not any(word & 3 == RESERVED for word in words), "a slot stays reserved"
    cells = [word >> 32 for word in words if word & 3 == LIVE]
    assert len(cells) == len(set(cells)), "two slots name one cell"


def judge_memory(world: World, observers: list[Client]) -> None:
    """No memory in use is handed out, and when all keys are gone none is in use."""
    lengths = {world.sizes[call.answer] for call in world.history if isinstance(call.answer, int) and call.answer in world.sizes}
    fresh: list[bytes] = []
    for observer in observers if world.scenario.policy == "noeviction" else []:
        for length in sorted(lengths):
            number = FRESH + len(fresh)
            key = b"fresh%d" % number
            finish(observer.store.write(0, key, number.to_bytes(8, "little") + filler(length, number)))
            world.sizes[number] = length
            fresh.append(key)
    for key in (*world.scenario.keys, *fresh):
        entry = finish(observers[0].store.read(0, key))
        number = ABSENT if entry is None else world.number_of(entry.payload)
        if key in fresh:
            assert number in (ABSENT, FRESH + fresh.index(key)), "memory in use was handed out"
        elif world.scenario.policy == "noeviction":
            held = [call for call in world.history if call.key == key][-1].answer
            assert number == held, f"{key!r} held {held}, and {number} after others were written"
    finish(observers[0].store.delete(0, [*world.scenario.keys, *fresh]))
    judge_emptied(world, observers)


def judge_emptied(world: World, observers: list[Client]) -> None:
    """Nothing is left: no page in use, no hazard, no overflow, no change under way."""
    for observer in (*observers, *observers):
        observer.store.maintain(1000.0)
        observer.store.release_spares()
    layout, peek = world.layout, world.first_fabric.peek
    assert peek(layout["globals"], 8) == bytes(8), "pages are still in use"
    page_words = peek(layout["page_words"], layout["page_count"] * 8)
    assert {page_words[number * 8] & 7 for number in range(layout["page_count"])} == {0}, "pages belong to somebody"
    for row in range(len(world.scenario.scripts)):
        lives = peek(layout["front_ends"] + row * 64, 1)[0] & 1
        row_bytes = 64 * 8 if lives else 0  # nobody looks at what a dead one names
        assert lives != all(client.is_dead for client in world.present if client.row == row), "its row does not say that it is dead"
        assert peek(layout["hazards"] + row * 4096 * 8, row_bytes) == bytes(row_bytes), "a hazard stays"
    assert {word & 3 for word, _ in slots_of(world)} == {FREE}, "a slot is not free"
    sets = peek(layout["sets"], layout["set_count"] * SET_BYTES)
    for number in range(layout["set_count"]):
        assert int.from_bytes(sets[number * SET_BYTES : number * SET_BYTES + 4], "little") == 0, "an overflow word counts what is gone"
    if any(not client.is_dead for client in world.present):  # recovery leaves a counter that a death has spoilt: it proves nothing any more
        counters = struct.unpack("<1024I", peek(layout["counters"], 4096))
        assert counters[::2] == counters[1::2], "a change never ended"
