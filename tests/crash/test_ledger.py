"""The judge of the crash run finds what is wrong, and forgives only what a lost answer explains."""

from __future__ import annotations

import pytest

from tests.crash.ledger import CounterLedger, Fault, KeyLedger, LogLedger
from tests.crash.values import HEAD_BYTES, make_value, version_of


@pytest.mark.parametrize("length", [0, HEAD_BYTES, 100, 70_000, 307_200])
def test_a_value_says_what_it_is(length: int) -> None:
    value = make_value(b"key", 7, length)
    assert version_of(b"key", value) == 7
    assert version_of(b"another", value) is None
    assert version_of(b"key", value[:-1]) is None
    for place in (0, 5, HEAD_BYTES - 1, len(value) // 2, len(value) - 1):
        torn = bytearray(value)
        torn[place] ^= 1
        assert version_of(b"key", bytes(torn)) is None, place


def test_pages_of_two_versions_are_no_value() -> None:
    one, two = make_value(b"key", 1, 200_000), make_value(b"key", 2, 200_000)
    assert version_of(b"key", one[:65_536] + two[65_536:131_072] + one[131_072:]) is None


def test_what_was_acknowledged_is_the_least_that_is_there() -> None:
    ledger = KeyLedger()
    first, second = ledger.issue_write(), ledger.issue_write()
    ledger.happened(first)
    floor = ledger.floor
    assert ledger.judge_absence(floor, 0) is Fault.MISSING
    assert ledger.judge_version(first, floor, 0) is None
    assert ledger.judge_version(second, floor, 0) is None
    assert ledger.judge_version(first, ledger.floor, 0) is Fault.STALE, "the second was seen"
    assert ledger.judge_version(first, floor, 0) is None, "unless the read began before"
    assert ledger.judge_version(third := ledger.latest + 1, floor, 0) is Fault.WRONG_BYTES, third
    assert ledger.judge_version(None, floor, 0) is Fault.WRONG_BYTES


def test_a_removal_whose_answer_was_lost_may_have_happened() -> None:
    ledger = KeyLedger()
    ledger.happened(ledger.issue_write())
    removal = ledger.issue_removal()
    assert ledger.judge_absence(ledger.floor, 0) is None
    assert ledger.judge_presence(ledger.floor) is None
    ledger.happened(removal)
    assert ledger.judge_absence(ledger.floor, 0) is None
    assert ledger.judge_presence(ledger.floor) is Fault.GHOST
    assert ledger.judge_version(1, ledger.floor, 0) is Fault.STALE
    ledger.happened(ledger.issue_write())
    assert ledger.judge_absence(ledger.floor, 0) is Fault.MISSING
    assert ledger.judge_presence(ledger.floor) is None


def test_an_expiry_excuses_absence_from_its_moment_on_and_presence_until_then() -> None:
    ledger = KeyLedger()
    version = ledger.issue_write(expire_at_ms=10_000)
    ledger.happened(version)
    assert ledger.judge_absence(ledger.floor, 9_000) is Fault.MISSING
    assert ledger.judge_absence(ledger.floor, 10_000) is None
    assert ledger.judge_version(version, ledger.floor, 9_999) is None
    assert ledger.judge_version(version, ledger.floor, 10_100) is Fault.EXPIRED


def test_a_counter_counts_each_lost_answer_once_at_most() -> None:
    ledger = CounterLedger()
    assert ledger.judge(1) is None
    ledger.lose()
    assert ledger.judge(3) is None
    assert ledger.judge(3) is Fault.STALE
    assert ledger.judge(9) is Fault.WRONG_BYTES


def test_a_log_has_every_acknowledged_record_in_order() -> None:
    ledger = LogLedger()
    first = ledger.record()
    assert ledger.appended(16) is None
    second = ledger.record()
    ledger.lost()
    assert ledger.judge(first) is None, "the lost one did not happen"
    third = ledger.record()
    assert ledger.appended(32) is None
    assert ledger.judge(first + third) is None
    assert ledger.judge(third) is Fault.MISSING
    assert ledger.judge(third + second) is Fault.WRONG_BYTES
    assert LogLedger().judge(b"half a record") is Fault.WRONG_BYTES
