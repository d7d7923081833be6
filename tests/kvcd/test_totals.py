"""Totals: sums of what workers counted, through the channel and back, over deaths and resets."""

from __future__ import annotations

import orjson

from kvcd.statistics import CommandCount
from kvcd.totals import Ledger, Tally, total_of


def tally(count: int, *, epoch: int = 0, **fields: int) -> Tally:
    """Return what a worker may have counted."""
    return Tally(
        epoch=epoch,
        counters={"hits": 10 * count, "calls:get": count},
        baseline={"hits": count},
        commands={"info": CommandCount(count, 2.5 * count, 1, 2)},
        errors={"ERR": count},
        cpu_s={"user": count / 4},
        **fields,
    )


def test_sums() -> None:
    """Counts add up; of lengths and shared memory the larger counts."""
    one = tally(1, clients=2, operations_per_second=5, private_bytes=100, shared_bytes=1000, longest_input_bytes=7)
    two = tally(2, clients=3, operations_per_second=6, private_bytes=200, shared_bytes=900, longest_output_bytes=8)
    total = total_of([one, two])
    assert total.since_reset() == {"hits": 27, "calls:get": 3}
    assert total.command_calls() == {"info": 3, "get": 3}
    assert total.commands["info"] == CommandCount(3, 7.5, 2, 4)
    assert total.errors == {"ERR": 3}
    assert total.cpu_s == {"user": 0.75}
    assert (total.clients, total.operations_per_second, total.resident_bytes) == (5, 11, 1300)
    assert (total.longest_input_bytes, total.longest_output_bytes) == (7, 8)
    assert one == tally(1, clients=2, operations_per_second=5, private_bytes=100, shared_bytes=1000, longest_input_bytes=7)


def test_a_tally_travels() -> None:
    """As JSON, and is the same afterwards."""
    sent = tally(3, epoch=4, clients=1)
    assert Tally.from_plain(orjson.loads(orjson.dumps(sent.plain()))) == sent


def test_a_death_makes_no_total_fall() -> None:
    """What the dead counted stays, their clients do not; who comes after them begins at nothing."""
    ledger = Ledger()
    ledger.note(0, tally(1, clients=2))
    ledger.note(1, tally(5, clients=4))
    ledger.end(1)
    total = ledger.total()
    assert (total.since_reset()["hits"], total.clients) == (54, 2)
    ledger.note(1, tally(1, clients=1))
    total = ledger.total()
    assert (total.since_reset()["hits"], total.clients, total.cpu_s) == (63, 3, {"user": 1.75})
    ledger.end(1)
    ledger.end(1)
    assert ledger.total().since_reset()["hits"] == 63


def test_a_reset_reaches_the_living_and_the_dead() -> None:
    """A report from before it, that comes after it, is left out; plain counters go on."""
    ledger = Ledger()
    ledger.note(0, tally(1))
    ledger.note(1, tally(5))
    ledger.end(1)
    epoch = ledger.reset()
    total = ledger.total()
    assert (total.since_reset(), total.commands, total.errors) == ({"hits": 0, "calls:get": 0}, {}, {})
    assert (total.counters["hits"], total.epoch) == (60, epoch)
    ledger.note(0, tally(9))
    assert ledger.total().since_reset()["hits"] == 0
    ledger.note(0, tally(2, epoch=epoch))
    assert ledger.total().since_reset()["hits"] == 18
