"""What a replay counts: hits, bytes, times, errors; and the report made of it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import redis

from kvcd.trace import Request

OPERATIONS = ("lookup", "get", "set")
_MAX_WRONG_SHOWN = 10
_PERCENTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class OperationReport:
    """Times of one operation; each is what one request spent on it, all its round trips together."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """How often the server answered an error, and the first one's text."""

    count: int
    example: str


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The outcome of a replay; also its JSON form.

    A block is a hit when it and all blocks before it in its request were got and right. ``looked_up``
    counts what the look-up promised: more than the hits where blocks were evicted in between.
    """

    requests: int
    blocks: int
    tokens: int
    hit_blocks: int
    hit_tokens: int
    block_hit_ratio: float
    token_hit_ratio: float
    looked_up_blocks: int
    looked_up_block_ratio: float
    written_blocks: int
    refused_blocks: int
    wrong_values: int
    wrong_examples: tuple[str, ...]
    errors: dict[str, ErrorReport]
    elapsed_s: float
    requests_per_s: float
    read_bytes: int
    written_bytes: int
    read_megabytes_per_s: float
    written_megabytes_per_s: float
    operations: dict[str, OperationReport]
    lateness_max_s: float
    interrupted: bool
    stopped_because: str | None

    @property
    def exit_code(self) -> int:
        """0 when the replay ran to its end and every byte was right; 1 for a wrong byte or a lost server; 130 after Ctrl-C."""
        if self.wrong_values or self.stopped_because is not None:
            return 1
        return 130 if self.interrupted else 0


@dataclass(slots=True)
class Tally:
    """Counts while the replay runs; one for all connections."""

    requests: int = 0
    blocks: int = 0
    tokens: int = 0
    hit_blocks: int = 0
    hit_tokens: int = 0
    looked_up_blocks: int = 0
    written_blocks: int = 0
    refused_blocks: int = 0  # by a server that does not want them (PREFIX.SET's reply), not by an error
    read_bytes: int = 0
    written_bytes: int = 0
    wrong_values: int = 0
    wrong_examples: list[str] = field(default_factory=list)
    errors: dict[str, ErrorReport] = field(default_factory=dict)
    lateness_max_s: float = 0.0
    _times_s: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in OPERATIONS})

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """Time one operation; one that raises is not counted."""
        began_s = time.perf_counter()
        yield
        self._times_s[operation].append(time.perf_counter() - began_s)

    def count_request(self, request: Request, *, looked_up_blocks: int, hit_blocks: int) -> None:
        """Count one request that was played to its end."""
        self.requests += 1
        self.blocks += len(request.hash_ids)
        self.tokens += request.input_tokens
        self.looked_up_blocks += looked_up_blocks
        self.hit_blocks += hit_blocks
        self.hit_tokens += request.tokens_in_leading(hit_blocks)

    def count_error(self, error: Exception) -> None:
        """Count an error by its code, and keep the first text of each code."""
        label = error_label(error)
        known = self.errors.get(label)
        self.errors[label] = ErrorReport(1, str(error)) if known is None else ErrorReport(known.count + 1, known.example)

    def count_wrong(self, description: str) -> None:
        """Count a value that is not what was written."""
        self.wrong_values += 1
        if len(self.wrong_examples) < _MAX_WRONG_SHOWN:
            self.wrong_examples.append(description)

    def report(self, *, elapsed_s: float, interrupted: bool, stopped_because: str | None) -> ReplayReport:
        """Sum up what was counted so far."""
        return ReplayReport(
            requests=self.requests,
            blocks=self.blocks,
            tokens=self.tokens,
            hit_blocks=self.hit_blocks,
            hit_tokens=self.hit_tokens,
            block_hit_ratio=_share(self.hit_blocks, self.blocks),
            token_hit_ratio=_share(self.hit_tokens, self.tokens),
            looked_up_blocks=self.looked_up_blocks,
            looked_up_block_ratio=_share(self.looked_up_blocks, self.blocks),
            written_blocks=self.written_blocks,
            refused_blocks=self.refused_blocks,
            wrong_values=self.wrong_values,
            wrong_examples=tuple(self.wrong_examples),
            errors=dict(self.errors),
            elapsed_s=elapsed_s,
            requests_per_s=_share(self.requests, elapsed_s),
            read_bytes=self.read_bytes,
            written_bytes=self.written_bytes,
            read_megabytes_per_s=_share(self.read_bytes / 1e6, elapsed_s),
            written_megabytes_per_s=_share(self.written_bytes / 1e6, elapsed_s),
            operations={name: _operation_report(times_s) for name, times_s in self._times_s.items()},
            lateness_max_s=self.lateness_max_s,
            interrupted=interrupted,
            stopped_because=stopped_because,
        )


def error_label(error: Exception) -> str:
    """The error's code as the server sent it (OOM, NOAUTH, ERR, ...), or ``connection``.

    redis-py takes the codes it knows off the text and answers with a class of its own instead.
    """
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
        return "connection"
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return "OOM"
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return "READONLY"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return "NOPERM"
    code = str(error).split(" ", 1)[0]
    return code if code.isupper() else "ERR"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _operation_report(times_s: array[float]) -> OperationReport:
    ordered = sorted(times_s)
    if not ordered:
        return OperationReport(0, 0.0, 0.0, 0.0)
    at = [1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in _PERCENTILES]
    return OperationReport(len(ordered), at[0], at[1], at[2])
