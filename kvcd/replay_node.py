"""One connection of a replay: looks up, gets and sets chains of blocks as an inference node does."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import redis.asyncio

from kvcd.replay_tally import Tally
from kvcd.replay_values import BlockValues
from kvcd.trace import Request

# keys of one look-up command or pipeline: more than any published trace has in a request, so one round trip
_LOOKUP_KEYS = 1024

_Item = TypeVar("_Item")


class Node(abc.ABC):
    """Plays requests over one connection: the look-up decides what to get, what was got decides what to set."""

    def __init__(
        self, client: redis.asyncio.Redis, values: BlockValues, tally: Tally, *, key_prefix: bytes, inflight_limit_bytes: int
    ) -> None:
        self._client = client
        self._values = values
        self._tally = tally
        self._key_prefix = key_prefix
        self._chunk_blocks = max(1, inflight_limit_bytes // values.value_size_bytes)

    async def play(self, request: Request) -> None:
        """Play one request to its end.

        Raises redis-py's connection errors; errors that the server answers are counted and count as misses.
        """
        blocks = request.hash_ids
        tally = self._tally
        with tally.timed("lookup"):
            looked_up = await self._look_up([self._key(block) for block in blocks])
        hits = 0
        if looked_up:
            with tally.timed("get"):
                hits = await self._get_run(blocks[:looked_up])
        if hits < len(blocks):
            # what the node computed anew it stores, wherever its run of hits ended
            with tally.timed("set"):
                await self._set_rest(blocks, hits)
        tally.count_request(request, looked_up_blocks=looked_up, hit_blocks=hits)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    @abc.abstractmethod
    async def _look_up(self, keys: list[bytes]) -> int:
        """How many leading ``keys`` the server says are there."""

    @abc.abstractmethod
    async def _get_chunk(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of ``keys``; may end at the first one missing."""

    @abc.abstractmethod
    async def _set_chunk(self, parent: bytes | None, keys: list[bytes], values: list[bytes]) -> bool:
        """Store and count; False when the rest of the chain need not be sent."""

    async def _get_run(self, blocks: Sequence[int]) -> int:
        """Get ``blocks`` until one is missing or wrong; returns how many came."""
        got = 0
        for chunk in _chunks(blocks, self._chunk_blocks):
            values = await self._get_chunk([self._key(block) for block in chunk])
            # the rest of a chunk after a gap is of no use to the node, but its bytes are checked all the same
            unbroken = True
            for block, value in zip(chunk, values, strict=False):
                if value is None:
                    unbroken = False
                    continue
                self._tally.read_bytes += len(value)
                if not self._values.is_right(block, value):
                    self._tally.count_wrong(self._describe_wrong(block, value))
                    unbroken = False
                got += unbroken
            if not unbroken or len(values) < len(chunk):
                break
        return got

    async def _set_rest(self, blocks: Sequence[int], hits: int) -> None:
        """Store the blocks after the first ``hits``, a chunk at a time so that memory stays bounded."""
        parent = self._key(blocks[hits - 1]) if hits else None
        for chunk in _chunks(blocks[hits:], self._chunk_blocks):
            keys = [self._key(block) for block in chunk]
            if not await self._set_chunk(parent, keys, [self._values.make(block) for block in chunk]):
                break
            parent = keys[-1]

    def _key(self, block: int) -> bytes:
        return b"%s%d" % (self._key_prefix, block)

    def _describe_wrong(self, block: int, value: bytes) -> str:
        key = self._key(block).decode(errors="backslashreplace")
        if len(value) != self._values.value_size_bytes:
            return f"{key}: {len(value)} bytes instead of {self._values.value_size_bytes} (left by a replay with another --value-size?)"
        expected = self._values.make(block)
        first = next(position for position in range(len(value)) if value[position] != expected[position])
        return f"{key}: differs from byte {first} of {len(value)}"

    def _count_written(self, blocks: int) -> None:
        self._tally.written_blocks += blocks
        self._tally.written_bytes += blocks * self._values.value_size_bytes

    def _without_errors(self, replies: list[Any]) -> list[Any]:
        """Count the errors among a pipeline's replies and put None in their place."""
        cleaned = []
        for reply in replies:
            if isinstance(reply, Exception):
                self._tally.count_error(reply)
                reply = None
            cleaned.append(reply)
        return cleaned

    async def _pipeline(self, commands: Iterator[tuple[Any, ...]]) -> list[Any]:
        """Send ``commands`` in one round trip; an error reply becomes None and is counted."""
        async with self._client.pipeline(transaction=False) as pipeline:
            queue_command: Any = pipeline.execute_command  # redis-py left it without types
            for command in commands:
                queue_command(*command)
            return self._without_errors(await pipeline.execute(raise_on_error=False))

    async def _command(self, *command: Any) -> Any:
        """Send one command; an error reply becomes None and is counted."""
        try:
            execute: Any = self._client.execute_command  # as above
            return await execute(*command)
        except (redis.ConnectionError, redis.TimeoutError):
            raise
        except redis.ResponseError as error:
            self._tally.count_error(error)
            return None


class PlainNode(Node):
    """Uses EXISTS, GET and SET only: every Redis-protocol server has them."""

    async def _look_up(self, keys: list[bytes]) -> int:
        found = 0
        for chunk in _chunks(keys, _LOOKUP_KEYS):
            for present in await self._pipeline(("EXISTS", key) for key in chunk):
                if not present:
                    return found
                found += 1
        return found

    async def _get_chunk(self, keys: list[bytes]) -> list[bytes | None]:
        return await self._pipeline(("GET", key) for key in keys)

    async def _set_chunk(self, parent: bytes | None, keys: list[bytes], values: list[bytes]) -> bool:
        replies = await self._pipeline(("SET", key, value) for key, value in zip(keys, values, strict=True))
        self._count_written(sum(reply is not None for reply in replies))
        return True


class PrefixNode(Node):
    """Uses the PREFIX commands: one round trip per step, however long the chain."""

    async def _look_up(self, keys: list[bytes]) -> int:
        found = 0
        for chunk in _chunks(keys, _LOOKUP_KEYS):
            matched = await self._command("PREFIX.MATCH", *chunk) or 0
            found += matched
            if matched < len(chunk):
                break
        return found

    async def _get_chunk(self, keys: list[bytes]) -> list[bytes | None]:
        return await self._command("PREFIX.GET", *keys) or []

    async def _set_chunk(self, parent: bytes | None, keys: list[bytes], values: list[bytes]) -> bool:
        pairs = [part for pair in zip(keys, values, strict=True) for part in pair]
        stored = await self._command("PREFIX.SET", *(() if parent is None else ("PARENT", parent)), *pairs)
        if stored is None:
            return False
        self._count_written(stored)
        self._tally.refused_blocks += len(keys) - stored
        return bool(stored == len(keys))


def _chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
