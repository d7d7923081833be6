"""Client: writes its own keys, reads everybody's, and judges every answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import hiredis

from tests.crash.connection import Broken, Connection, pack
from tests.crash.ledger import CounterLedger, Fault, KeyLedger, LogLedger
from tests.crash.tally import Tally
from tests.crash.values import LARGEST_BYTES, make_value, version_of

PIPELINE = 24
LONGEST_TTL_MS = 4000
LOG_RECORDS = 100
SMALL_KEYS, LARGE_KEYS, CHAINS, CHAIN_BLOCKS, COUNTERS, LOGS = 400, 24, 6, 8, 8, 8
SMALL_BYTES = (100, 100, 200, 700, 2_000, 9_000)
LARGE_BYTES = (30_000, 33_000, 65_536, 70_000, 131_072, 200_000, 307_200)
assert max(LARGE_BYTES) <= LARGEST_BYTES
AUDIT_KEYS = 64
_RETRY_S = 0.005
# What a pipeline is made of, by weight.
_MIX = {
    "set": 26, "set_ttl": 8, "set_large": 3, "get": 14, "get_other": 22, "get_large": 3, "delete": 7, "mget": 3, "exists": 4,
    "prefix_set": 2, "prefix_match": 3, "prefix_get": 1, "append": 2, "increment": 2,
}  # fmt: skip

Handler = Callable[[Any], None]
Opener = Callable[[], Awaitable[tuple[Connection, int]]]


def now_ms() -> int:
    """Return the time as servers reckon it."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Operation:
    """A command, what to do with its answer, and what to do when none comes."""

    command: bytes
    answered: Handler
    lost: Callable[[], None] | None = None


class Client:
    """One client. ``others`` holds every client, this one too; whose connection serves it is ``opener``'s business."""

    def __init__(self, number: int, *, seed: int, tally: Tally, others: list[Client], opener: Opener) -> None:
        """Begin with keys that nobody wrote yet."""
        self.number = number
        self.choose = random.Random(seed * 1000 + number)
        self.tally = tally
        self.others = others
        self.opener = opener
        self.small = [b"c%d:small:%d" % (number, one) for one in range(SMALL_KEYS)]
        self.large = [b"c%d:large:%d" % (number, one) for one in range(LARGE_KEYS)]
        self.chains = [[b"c%d:chain:%d:%d" % (number, one, block) for block in range(CHAIN_BLOCKS)] for one in range(CHAINS)]
        self.keys = {key: KeyLedger() for key in [*self.small, *self.large, *(key for chain in self.chains for key in chain)]}
        self.counters = {b"c%d:counter:%d" % (number, one): CounterLedger() for one in range(COUNTERS)}
        self.logs = {b"c%d:log:%d" % (number, one): LogLedger() for one in range(LOGS)}
        self.connection: Connection | None = None
        self.worker = -1  # process that serves the connection
        self.stop_of: Callable[[int, float, float], bool] = lambda _worker, _begin, _end: False
        self._makers = {name: getattr(self, f"_{name}") for name in _MIX}

    def all_keys(self) -> list[bytes]:
        """Return every key that this client writes."""
        return [*self.keys, *self.counters, *self.logs]

    # ------------------------------------------------------------------- running

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop."""
        while not stopping.is_set():
            await self.exchange(self.plan())

    async def exchange(self, operations: list[Operation]) -> bool:
        """Send a pipeline and judge what comes; False when the connection broke."""
        connection = await self._connected()
        began_s = time.monotonic()
        try:
            answers = await connection.pipeline([operation.command for operation in operations])
            broke = False
        except Broken as error:
            answers, broke = error.answers, True
            self.tally.unanswered += error.unanswered
            self.connection = None
        ended_s = time.monotonic()
        for operation, answer in zip(operations, answers, strict=False):
            if isinstance(answer, hiredis.ReplyError):
                self.tally.error_replies[str(answer)] += 1
                if operation.lost is not None:
                    operation.lost()
            else:
                operation.answered(answer)
        for operation in operations[len(answers) :]:
            self.tally.lost_answers += 1
            if operation.lost is not None:
                operation.lost()
        self.tally.operations += len(answers)
        if not broke:
            self._note_time(began_s, ended_s)
        return not broke

    def _note_time(self, began_s: float, ended_s: float) -> None:
        elapsed_ms = (ended_s - began_s) * 1000
        if self.stop_of(self.worker, began_s, ended_s):
            self.tally.longest_on_stopped_ms = max(self.tally.longest_on_stopped_ms, elapsed_ms)
            return
        self.tally.pipelines_ms.append(elapsed_ms)
        self.tally.longest_ms = max(self.tally.longest_ms, elapsed_ms)

    async def _connected(self) -> Connection:
        if self.connection is not None and not self.connection.is_lost:
            return self.connection
        began_s = time.monotonic()
        while True:
            try:
                self.connection, self.worker = await self.opener()
                break
            except (OSError, Broken):
                self.tally.refused_connections += 1
                await asyncio.sleep(_RETRY_S)
        self.tally.reconnections += 1
        self.tally.longest_reconnection_ms = max(self.tally.longest_reconnection_ms, (time.monotonic() - began_s) * 1000)
        return self.connection

    # ------------------------------------------------------------------ planning

    def plan(self) -> list[Operation]:
        """Return a pipeline; no two of its operations change one key."""
        taken: set[bytes] = set()
        operations = []
        for name in self.choose.choices(list(_MIX), list(_MIX.values()), k=PIPELINE):
            operation = self._makers[name](taken)
            if operation is not None:
                operations.append(operation)
        return operations

    def _free(self, keys: list[bytes], taken: set[bytes]) -> bytes | None:
        key = self.choose.choice(keys)
        if key in taken:
            return None
        taken.add(key)
        return key

    def _write(self, key: bytes | None, length: int, ttl_ms: int = 0) -> Operation | None:
        if key is None:
            return None
        ledger = self.keys[key]
        # The server adds the TTL to its own clock when it gets there: no sooner than this.
        version = ledger.issue_write(now_ms() + ttl_ms if ttl_ms else -1)
        words: list[bytes | int] = [b"SET", key, make_value(key, version, length)]
        if ttl_ms:
            words += [b"PXAT", ledger.expiries[version]]

        def answered(answer: Any) -> None:
            if answer == b"OK":
                ledger.happened(version)
            else:
                self.tally.note(Fault.WRONG_BYTES, f"SET {key!r} answered {answer!r}")

        return Operation(pack(*words), answered)

    def _set(self, taken: set[bytes]) -> Operation | None:
        return self._write(self._free(self.small, taken), self.choose.choice(SMALL_BYTES))

    def _set_ttl(self, taken: set[bytes]) -> Operation | None:
        return self._write(self._free(self.small, taken), self.choose.choice(SMALL_BYTES), self.choose.randint(50, LONGEST_TTL_MS))

    def _set_large(self, taken: set[bytes]) -> Operation | None:
        return self._write(self._free(self.large, taken), self.choose.choice(LARGE_BYTES))

    def _delete(self, taken: set[bytes]) -> Operation | None:
        key = self._free(self.large if self.choose.random() < 0.03 else self.small, taken)
        if key is None:
            return None
        ledger = self.keys[key]
        floor = ledger.floor
        judge = ledger.may_be_absent(floor, now_ms() + LONGEST_TTL_MS), ledger.may_be_present(floor)
        version = ledger.issue_removal()

        def answered(answer: Any) -> None:
            absent, present = judge
            if answer == 0 and not absent:
                self.tally.note(Fault.MISSING, f"DEL {key!r} found nothing; floor {floor}")
            elif answer == 1 and not present:
                self.tally.note(Fault.GHOST, f"DEL {key!r} found something; floor {floor}")
            ledger.happened(version)
            ledger.forget_before(version - 3000)

        return Operation(pack(b"DEL", key), answered)

    def _reader(self, owner: Client, key: bytes) -> Handler:
        """Return the judge of a GET's answer."""
        ledger = owner.keys[key]
        floor, began_ms = ledger.floor, now_ms()

        def answered(answer: Any) -> None:
            if answer is None:
                self.tally.note(ledger.judge_absence(floor, now_ms()), f"{key!r} floor {floor} latest {ledger.latest} by {self.worker}")
                return
            version = version_of(key, answer)
            fault = ledger.judge_version(version, floor, began_ms)
            if fault is not None:
                self.tally.note(fault, f"{key!r} version {version} floor {floor} latest {ledger.latest}: {answer[:40]!r} by {self.worker}")

        return answered

    def _get_of(self, owner: Client, keys: list[bytes]) -> Operation:
        key = self.choose.choice(keys)
        return Operation(pack(b"GET", key), self._reader(owner, key))

    def _get(self, taken: set[bytes]) -> Operation:
        return self._get_of(self, self.small)

    def _get_other(self, taken: set[bytes]) -> Operation:
        other = self.choose.choice(self.others)
        return self._get_of(other, other.small)

    def _get_large(self, taken: set[bytes]) -> Operation:
        other = self.choose.choice(self.others)
        return self._get_of(other, other.large)

    def _mget(self, taken: set[bytes]) -> Operation:
        other = self.choose.choice(self.others)
        keys = self.choose.sample(other.small, 8)
        readers = [self._reader(other, key) for key in keys]

        def answered(answer: Any) -> None:
            for reader, value in zip(readers, answer, strict=True):
                reader(value)

        return Operation(pack(b"MGET", *keys), answered)

    def _presence(self, owner: Client, key: bytes) -> Callable[[bool], None]:
        ledger = owner.keys[key]
        floor = ledger.floor

        def judge(present: bool) -> None:
            fault = ledger.judge_presence(floor) if present else ledger.judge_absence(floor, now_ms())
            self.tally.note(fault, f"presence of {key!r}: {present}, floor {floor} latest {ledger.latest} by {self.worker}")

        return judge

    def _exists(self, taken: set[bytes]) -> Operation:
        other = self.choose.choice(self.others)
        key = self.choose.choice(other.small)
        judge = self._presence(other, key)
        return Operation(pack(b"EXISTS", key), lambda answer: judge(answer == 1))

    # -------------------------------------------------------------------- chains

    def _prefix_set(self, taken: set[bytes]) -> Operation | None:
        chain = self.choose.choice(self.chains)
        if chain[0] in taken:
            return None
        taken.update(chain)
        versions = [self.keys[key].issue_write() for key in chain]
        words: list[bytes] = [b"PREFIX.SET"]
        for key, version in zip(chain, versions, strict=True):
            words += [key, make_value(key, version, self.choose.choice(SMALL_BYTES))]

        def answered(answer: Any) -> None:
            # How many leading blocks are there afterwards.
            for key, version in list(zip(chain, versions, strict=True))[: int(answer)]:
                self.keys[key].happened(version)
            if answer != len(chain):
                self.tally.note(Fault.MISSING, f"PREFIX.SET {chain[0]!r} stored {answer} of {len(chain)}")

        return Operation(pack(*words), answered)

    def _prefix_match(self, taken: set[bytes]) -> Operation:
        other = self.choose.choice(self.others)
        chain = self.choose.choice(other.chains)
        judges = [self._presence(other, key) for key in chain]

        def answered(answer: Any) -> None:
            for judge in judges[:answer]:
                judge(True)
            if answer < len(judges):
                judges[answer](False)

        return Operation(pack(b"PREFIX.MATCH", *chain), answered)

    def _prefix_get(self, taken: set[bytes]) -> Operation:
        other = self.choose.choice(self.others)
        chain = self.choose.choice(other.chains)
        readers = [self._reader(other, key) for key in chain]

        def answered(answer: Any) -> None:
            for reader, value in zip(readers, answer, strict=False):
                reader(value)
            if len(answer) < len(readers):
                readers[len(answer)](None)

        return Operation(pack(b"PREFIX.GET", *chain), answered)

    # -------------------------------------------------------- counters and logs

    def _increment(self, taken: set[bytes]) -> Operation | None:
        key = self._free(list(self.counters), taken)
        if key is None:
            return None
        ledger = self.counters[key]
        return Operation(
            pack(b"INCR", key),
            lambda answer: self.tally.note(ledger.judge(answer), f"INCR {key!r} answered {answer}"),
            ledger.lose,
        )

    def _append(self, taken: set[bytes]) -> Operation | None:
        key = self._free(list(self.logs), taken)
        if key is None:
            return None
        ledger = self.logs[key]
        if ledger.must_clear or len(ledger.records) > LOG_RECORDS:
            return self._clear(key, ledger)
        if ledger.records and self.choose.random() < 0.3:
            return Operation(
                pack(b"GET", key), lambda answer: self.tally.note(ledger.judge(answer), f"log {key!r}: {answer!r:.200}")
            )
        return Operation(
            pack(b"APPEND", key, ledger.record()),
            lambda answer: self.tally.note(ledger.appended(answer), f"APPEND {key!r} answered {answer}, {len(ledger.records)} records"),
            ledger.lost,
        )

    def _clear(self, key: bytes, ledger: LogLedger) -> Operation:
        ledger.must_clear = True

        def answered(_answer: Any) -> None:
            ledger.must_clear = False
            ledger.records.clear()

        return Operation(pack(b"DEL", key), answered)

    # --------------------------------------------------------------------- audit

    async def audit(self) -> int:
        """Read everything that this client ever wrote, and judge it; how many keys that were."""
        names = list(self.keys)
        for begin in range(0, len(names), AUDIT_KEYS):
            part = names[begin : begin + AUDIT_KEYS]
            await self._insist([Operation(pack(b"GET", key), self._reader(self, key)) for key in part])
        logs = [(key, ledger) for key, ledger in self.logs.items() if not ledger.must_clear]
        await self._insist(
            [
                Operation(
                    pack(b"GET", key),
                    lambda answer, key=key, ledger=ledger: self.tally.note(ledger.judge(answer), f"log {key!r} at the end"),  # type: ignore[misc]
                )
                for key, ledger in logs
            ]
        )
        counters = list(self.counters.items())
        await self._insist([self._counter_audit(key, ledger) for key, ledger in counters])
        return len(names) + len(logs) + len(counters)

    def _counter_audit(self, key: bytes, ledger: CounterLedger) -> Operation:
        def answered(answer: Any) -> None:
            number = int(answer or 0)
            fault = Fault.MISSING if number < ledger.low else Fault.WRONG_BYTES if number > ledger.high else None
            self.tally.note(fault, f"counter {key!r} is {number}, expected {ledger.low} to {ledger.high}")

        return Operation(pack(b"GET", key), answered)

    async def _insist(self, operations: list[Operation]) -> None:
        while not await self.exchange(operations):
            pass

    async def delete_all(self) -> None:
        """Remove everything that this client ever wrote; its ledgers begin anew."""
        names = self.all_keys()
        for begin in range(0, len(names), AUDIT_KEYS):
            part = names[begin : begin + AUDIT_KEYS]
            await self._insist([Operation(pack(b"DEL", *part), lambda _answer: None)])
        for ledger in self.keys.values():
            ledger.happened(ledger.issue_removal())
        self.counters = {key: CounterLedger() for key in self.counters}
        self.logs = {key: LogLedger() for key in self.logs}

    def close(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
