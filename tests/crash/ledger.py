"""Ledger: what a key may hold, given every write that was issued and every answer that came back.

Each key has one writer, which has one write under way at a time; anybody reads. The versions of a key are numbered, removals too. What a
read may return: any version from the last one that was known to have happened when the read began to the last one that was issued
when it ended. A write whose answer was lost may have happened or not; the next one that is answered, or seen, settles it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum

CLOCK_SLACK_MS = 20  # between a client's look at the clock and the server's


class Fault(StrEnum):
    """What can be wrong with an answer."""

    WRONG_BYTES = "wrong bytes"
    STALE = "older than an acknowledged write"
    MISSING = "acknowledged and missing"
    EXPIRED = "there after its expiry"
    GHOST = "there after its removal"


@dataclass(slots=True)
class KeyLedger:
    """One key. Version 0 is that it was never written."""

    floor: int = 0  # nothing older can be there any more
    latest: int = 0
    removals: list[int] = field(default_factory=lambda: [0])
    expiries: dict[int, int] = field(default_factory=dict)  # Unix milliseconds, by version

    def issue_write(self, expire_at_ms: int = -1) -> int:
        """Number a write that is about to be sent."""
        self.latest += 1
        if expire_at_ms >= 0:
            self.expiries[self.latest] = expire_at_ms
        return self.latest

    def issue_removal(self) -> int:
        """Number a removal that is about to be sent."""
        self.latest += 1
        self.removals.append(self.latest)
        return self.latest

    def happened(self, version: int) -> None:
        """That version was acknowledged, or seen."""
        if version > self.floor:
            self.floor = version

    def may_be_absent(self, floor: int, now_ms: int) -> bool:
        """Whether a read that began at ``floor`` and ends now may find nothing."""
        if self.removals[-1] >= floor:
            return True
        return any(version >= floor and expiry <= now_ms + CLOCK_SLACK_MS for version, expiry in self.expiries.items())

    def may_be_present(self, floor: int) -> bool:
        """Whether a read that began at ``floor`` may find something."""
        removed = len(self.removals) - bisect_left(self.removals, floor)
        return self.latest - floor + 1 > removed

    def judge_absence(self, floor: int, now_ms: int) -> Fault | None:
        """Judge an answer that says that the key is not there."""
        return None if self.may_be_absent(floor, now_ms) else Fault.MISSING

    def judge_presence(self, floor: int) -> Fault | None:
        """Judge an answer that says no more than that the key is there."""
        return None if self.may_be_present(floor) else Fault.GHOST

    def judge_version(self, version: int | None, floor: int, began_ms: int) -> Fault | None:
        """Judge a value; None: its bytes are no version of this key."""
        if version is None or version > self.latest:
            return Fault.WRONG_BYTES
        if version < floor:
            return Fault.STALE
        if version in self._removals_near(version):
            return Fault.WRONG_BYTES
        expiry = self.expiries.get(version)
        if expiry is not None and expiry + CLOCK_SLACK_MS < began_ms:
            return Fault.EXPIRED
        self.happened(version)
        return None

    def _removals_near(self, version: int) -> list[int]:
        place = bisect_left(self.removals, version)
        return self.removals[place : place + 1]

    def forget_before(self, version: int) -> None:
        """Keep the books short: nobody who reads now began before this version."""
        if len(self.expiries) > 256:
            self.expiries = {number: expiry for number, expiry in self.expiries.items() if number >= version}
        if len(self.removals) > 4096:
            del self.removals[: bisect_left(self.removals, version)]
            self.removals = self.removals or [0]


@dataclass(slots=True)
class CounterLedger:
    """A key that is only ever incremented, by its one writer."""

    low: int = 0
    high: int = 0

    def judge(self, answer: int) -> Fault | None:
        """Judge the answer to one more INCR."""
        low, high = self.low + 1, self.high + 1
        self.low = self.high = answer
        if answer < low:
            return Fault.STALE
        return None if answer <= high else Fault.WRONG_BYTES

    def lose(self) -> None:
        """An INCR was not answered."""
        self.high += 1


RECORD_BYTES = 16


@dataclass(slots=True)
class LogLedger:
    """A key that grows by APPEND of numbered records, by its one writer; DEL empties it."""

    records: list[tuple[int, bool]] = field(default_factory=list)  # number, whether it is known to be there
    next_number: int = 0
    must_clear: bool = False  # the answer to a DEL was lost: only another DEL is sent until one is answered

    def record(self) -> bytes:
        """Return the next record."""
        self.next_number += 1
        return b"%015d;" % self.next_number

    def appended(self, length: int) -> Fault | None:
        """Judge the answer to an APPEND: how long the value is now."""
        sure = sum(known for _, known in self.records)
        self.records.append((self.next_number, True))
        if length % RECORD_BYTES or length // RECORD_BYTES > len(self.records):
            return Fault.WRONG_BYTES
        return Fault.MISSING if length // RECORD_BYTES < sure + 1 else None

    def lost(self) -> None:
        """An APPEND was not answered."""
        self.records.append((self.next_number, False))

    def judge(self, value: bytes | None) -> Fault | None:
        """Judge the whole value; afterwards what it holds is known."""
        value = value or b""
        parts = [value[begin : begin + RECORD_BYTES] for begin in range(0, len(value), RECORD_BYTES)]
        if any(len(part) != RECORD_BYTES or part[-1:] != b";" or not part[:-1].isdigit() for part in parts):
            return Fault.WRONG_BYTES
        numbers = [int(part[:-1]) for part in parts]
        issued = [number for number, _ in self.records]
        missing = {number for number, known in self.records if known} - set(numbers)
        known = set(issued)
        self.records = [(number, True) for number in numbers]
        if numbers != sorted(set(numbers)) or any(number not in known for number in numbers):
            return Fault.WRONG_BYTES
        return Fault.MISSING if missing else None
