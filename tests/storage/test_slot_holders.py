"""Who reserves a slot in vain leaves the winner's tag alone, also when it saw one word before and the other after the winner came."""

from __future__ import annotations

from storage.fabric import waiting
from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition, Status
from storage.pool import Pool
from storage.store import Store
from tests.storage.pools import NOW_MS, finish, make_pool


def fabric_of(store: Store) -> SimulatedFabric:
    assert isinstance(store.pool.fabric, SimulatedFabric)
    return store.pool.fabric


def perform(fabric: SimulatedFabric, count: int = 1_000, kind: str | None = None) -> None:
    """Perform operations, up to one of this kind (not with it)."""
    for _ in range(count):
        choices = fabric.choices()
        if not choices or choices[0][1] == kind:
            return
        fabric.perform(choices[0][0])
        waiting.resume_ready()


def test_a_tag_is_not_taken_from_who_holds_the_slot() -> None:
    pool = make_pool("sim", index_entries=7)
    assert isinstance(pool.fabric, SimulatedFabric)
    winner, loser = (Store(Pool.attach(pool.fabric.share(number + 2), number), "noeviction") for number in range(2))
    answers: dict[str, object] = {}
    for store in (winner, loser):
        store.set_clock(NOW_MS)
        finish(store.write(0, b"warm", b"x"))  # each has a page of such cells now
        finish(store.delete(0, [b"warm"]))
        fabric_of(store).suspends = True
    second_word = pool.layout()["sets"] + 16 + 8  # of slot 0
    fabric_of(loser).cuts = [second_word]

    def write(name: str, store: Store, key: bytes) -> None:
        answers[name] = finish(store.write(0, key, b"x", condition=Condition.NX)).status

    waiting.run(write, "winner", winner, b"key")
    waiting.run(write, "loser", loser, b"another")
    perform(fabric_of(winner), kind="CAS")
    while any(offset + length == second_word for _, _, offset, length, *_ in fabric_of(loser).choices()):
        perform(fabric_of(loser), 1)  # its look at the set comes as far as the first word
    perform(fabric_of(winner), 2)  # both words
    perform(fabric_of(loser), kind="CAS")
    perform(fabric_of(loser), 2)  # the first fails
    perform(fabric_of(winner))
    perform(fabric_of(loser))
    for store in (winner, loser):
        fabric_of(store).suspends = False
    assert answers == {"winner": Status.OK, "loser": Status.OK}
    assert finish(loser.exists(0, [b"key", b"another"])) == [True, True], "an acknowledged write is lost"
