"""Traces: requests in Mooncake's jsonl format, read with clear errors, written, and summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

TOKENS_PER_BLOCK = 512  # what one entry of ``hash_ids`` stands for in Mooncake's traces
MAX_BLOCKS_PER_REQUEST = 1 << 20  # a longer list is a damaged file, not a prompt


class TraceError(Exception):
    """A trace that cannot be read; the text names file and line."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt: when it arrived, its size in tokens, and the chain of its blocks.

    ``hash_ids`` name blocks of 512 tokens, each together with everything before it, so two requests
    share a prefix exactly as far as their ids agree. The last block may be partial.
    """

    timestamp_ms: int
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]

    def tokens_in_leading(self, block_count: int) -> int:
        """Tokens that the first ``block_count`` blocks hold; the last block holds what is left."""
        return min(block_count * TOKENS_PER_BLOCK, self.input_tokens)


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """What a trace asks of a cache. Ratios assume a cache that never forgets."""

    requests: int
    duration_s: float
    blocks: int
    unique_blocks: int
    blocks_per_request_mean: float
    blocks_per_request_p50: int
    blocks_per_request_p99: int
    never_reused_share: float  # of the unique blocks
    block_hit_ratio: float
    token_hit_ratio: float
    partial_last_blocks: int
    partial_last_block_reused_share: float  # of the partial last blocks, ever asked for again
    requests_over_half_found_share: float
    reuse_interval_p50_s: float
    largest_burst_requests: int  # with one and the same timestamp


def read_trace(path: Path, *, limit: int | None = None) -> list[Request]:
    """Read at most ``limit`` requests in file order.

    Raises ``TraceError`` (``FILE:LINE: what is wrong``) at the first bad line, for a time that runs
    backwards, for a file without requests, and for a file that cannot be opened.
    """
    requests: list[Request] = []
    try:
        with path.open("rb") as lines:
            for request in _parse_lines(lines, name=str(path)):
                requests.append(request)
                if limit is not None and len(requests) >= limit:
                    break
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    if not requests:
        raise TraceError(f"{path}: no requests in it; a trace has one JSON object per line")
    return requests


def write_trace(requests: Iterable[Request], output: IO[bytes]) -> None:
    """Write ``requests`` as jsonl in Mooncake's field order."""
    for request in requests:
        output.write(
            orjson.dumps(
                {
                    "timestamp": request.timestamp_ms,
                    "input_length": request.input_tokens,
                    "output_length": request.output_tokens,
                    "hash_ids": list(request.hash_ids),
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
        )


def summarize(requests: Iterable[Request]) -> TraceStatistics:
    """Play ``requests`` against a cache that never forgets and return what was seen.

    Raises ``ValueError`` when there are none.
    """
    uses: Counter[int] = Counter()
    last_use_ms: dict[int, int] = {}
    partial_last_blocks: set[int] = set()
    bursts: Counter[int] = Counter()
    reuse_intervals_ms: list[int] = []
    lengths: list[int] = []
    hit_blocks = hit_tokens = input_tokens = over_half_found = 0
    first_ms = last_ms = 0
    for request in requests:
        if not lengths:
            first_ms = request.timestamp_ms
        last_ms = request.timestamp_ms
        length = len(request.hash_ids)
        lengths.append(length)
        bursts[request.timestamp_ms] += 1
        found = 0
        while found < length and request.hash_ids[found] in last_use_ms:
            found += 1
        hit_blocks += found
        hit_tokens += request.tokens_in_leading(found)
        input_tokens += request.input_tokens
        over_half_found += 2 * found > length
        if request.input_tokens < length * TOKENS_PER_BLOCK:
            partial_last_blocks.add(request.hash_ids[-1])
        for block in request.hash_ids:
            if block in last_use_ms:
                reuse_intervals_ms.append(request.timestamp_ms - last_use_ms[block])
            last_use_ms[block] = request.timestamp_ms
        uses.update(request.hash_ids)
    if not lengths:
        raise ValueError("a trace without requests has no statistics")
    lengths.sort()
    reuse_intervals_ms.sort()
    blocks = sum(lengths)
    return TraceStatistics(
        requests=len(lengths),
        duration_s=(last_ms - first_ms) / 1000,
        blocks=blocks,
        unique_blocks=len(uses),
        blocks_per_request_mean=blocks / len(lengths),
        blocks_per_request_p50=_percentile(lengths, 0.5),
        blocks_per_request_p99=_percentile(lengths, 0.99),
        never_reused_share=sum(count == 1 for count in uses.values()) / len(uses),
        block_hit_ratio=hit_blocks / blocks,
        token_hit_ratio=hit_tokens / input_tokens if input_tokens else 0.0,
        partial_last_blocks=len(partial_last_blocks),
        partial_last_block_reused_share=(
            sum(uses[block] > 1 for block in partial_last_blocks) / len(partial_last_blocks) if partial_last_blocks else 0.0
        ),
        requests_over_half_found_share=over_half_found / len(lengths),
        reuse_interval_p50_s=_percentile(reuse_intervals_ms, 0.5) / 1000 if reuse_intervals_ms else 0.0,
        largest_burst_requests=max(bursts.values()),
    )


def _percentile(ordered: list[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _parse_lines(lines: Iterable[bytes], *, name: str) -> Iterator[Request]:
    """Yield the requests of ``lines``, skipping empty ones."""
    previous_ms = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            request = _parse_line(line)
            if request.timestamp_ms < previous_ms:
                raise ValueError(f"timestamp {request.timestamp_ms} lies before the line above ({previous_ms})")
        except ValueError as error:
            raise TraceError(f"{name}:{number}: {error}") from error
        previous_ms = request.timestamp_ms
        yield request


def _parse_line(line: bytes) -> Request:
    """Parse one line; raises ``ValueError`` that says what was expected."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise ValueError('expected an object such as {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}')
    hash_ids = record.get("hash_ids")
    if not isinstance(hash_ids, list) or not hash_ids:
        raise ValueError("hash_ids must be a list of at least one block id")
    if len(hash_ids) > MAX_BLOCKS_PER_REQUEST:
        raise ValueError(f"hash_ids has {len(hash_ids)} entries, more than {MAX_BLOCKS_PER_REQUEST}")
    for block in hash_ids:
        if type(block) is not int or block < 0:
            raise ValueError(f"hash_ids holds {block!r}, which is no block id (an integer, 0 or more)")
    input_tokens = _natural(record, "input_length")
    if input_tokens == 0:
        raise ValueError("input_length is 0, but hash_ids names blocks")
    return Request(
        timestamp_ms=_natural(record, "timestamp"),
        input_tokens=input_tokens,
        output_tokens=_natural(record, "output_length"),
        hash_ids=tuple(hash_ids),
    )


def _natural(record: dict[str, object], field: str) -> int:
    """The field's value, which must be an integer of 0 or more; a whole float counts as one."""
    value = record.get(field)
    if isinstance(value, float) and value.is_integer():  # some published traces write timestamps as 3000.0
        value = int(value)
    if type(value) is not int or value < 0:
        what = "is missing" if field not in record else f"is {value!r}"
        raise ValueError(f"{field} {what}; it must be an integer, 0 or more")
    return value
