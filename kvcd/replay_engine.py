"""Replay engine: hands the requests of a trace to connections in order and in time, until the end, a stop, or a lost server."""

from __future__ import annotations

import asyncio
import enum
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from kvcd.replay_node import Node, PlainNode, PrefixNode
from kvcd.replay_tally import ReplayReport, Tally
from kvcd.replay_values import BlockValues
from kvcd.trace import Request

CONNECT_TIMEOUT_S = 5
REPLY_TIMEOUT_S = 60
MAX_CONNECTION_FAILURES_IN_A_ROW = 3


class Mode(enum.StrEnum):
    """Which commands the replay speaks."""

    PLAIN = "plain"
    PREFIX = "prefix"


class ReplayError(Exception):
    """The replay cannot begin; the text says why and what would help."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Which server answered, as its INFO tells."""

    name: str
    version: str
    redis_version: str
    maxmemory: int | None
    maxmemory_policy: str | None


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What to play, against what, and how."""

    url: str
    mode: Mode
    value_size_bytes: int
    connections: int
    key_prefix: bytes
    speed: float | None  # times as fast as the trace's clock; None as fast as the server answers
    inflight_limit_bytes: int  # values on their way, over all connections


class Replay:
    """One run of a trace against one server."""

    def __init__(self, plan: ReplayPlan) -> None:
        self.tally = Tally()
        self._plan = plan
        self._values = BlockValues(plan.value_size_bytes)
        self._stop = asyncio.Event()
        self._failures_in_a_row = 0
        self._lost_because: str | None = None
        self._on_progress: Callable[[Tally], None] = lambda tally: None

    def stop(self) -> None:
        """Let the requests that are under way finish and hand out no more."""
        self._stop.set()

    async def check_server(self) -> ServerFacts:
        """Ask the server who it is and whether it has the commands that the mode needs.

        Raises ``ReplayError`` when it cannot be reached, refuses the connection, or lacks them.
        """
        client = self._connect()
        try:
            info = await client.info()
            if self._plan.mode is Mode.PREFIX:
                await self._require_prefix_commands(client)
        except redis.AuthenticationError as error:
            raise ReplayError(f"{display_url(self._plan.url)} wants a password: {error} (redis://:PASSWORD@HOST:PORT)") from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise ReplayError(f"no server at {display_url(self._plan.url)}: {error}") from error
        except redis.RedisError as error:
            raise ReplayError(f"{display_url(self._plan.url)} refuses: {error}") from error
        finally:
            await client.aclose()
        return _server_facts(info)

    async def run(self, requests: Sequence[Request], on_progress: Callable[[Tally], None] | None = None) -> ReplayReport:
        """Play ``requests`` and report; after a stop or a lost server the report covers what was done.

        ``on_progress`` is called after every request. Requests begin in the trace's order. As fast as
        possible, a request waits until all requests with an earlier timestamp have finished, so that it
        finds what they stored; on one connection the outcome is the same in every run. By the clock,
        requests wait for nothing but their time and a free connection, and their lateness is reported.
        """
        if on_progress is not None:
            self._on_progress = on_progress
        queue: asyncio.Queue[Request] = asyncio.Queue(maxsize=self._plan.connections)
        began_s = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(self._work(queue)) for _ in range(self._plan.connections)]
                await self._hand_out(requests, queue)
                await queue.join()
                for worker in workers:
                    worker.cancel()
        except* _ServerLost:
            pass  # it did its work, which was to end the group; the reason is in _lost_because
        return self.tally.report(
            elapsed_s=time.perf_counter() - began_s, interrupted=self._stop.is_set(), stopped_because=self._lost_because
        )

    async def _hand_out(self, requests: Sequence[Request], queue: asyncio.Queue[Request]) -> None:
        """Feed the queue in the trace's order, and at its times if there is a speed."""
        began_s = time.perf_counter()
        first_ms = requests[0].timestamp_ms
        for timestamp_ms, group in itertools.groupby(requests, key=lambda request: request.timestamp_ms):
            if self._plan.speed is not None:
                due_s = began_s + (timestamp_ms - first_ms) / 1000 / self._plan.speed
                await self._wait_until(due_s)
            for request in group:
                if self._stop.is_set():
                    return
                await queue.put(request)
                if self._plan.speed is not None:
                    self.tally.lateness_max_s = max(self.tally.lateness_max_s, time.perf_counter() - due_s)
            if self._plan.speed is None:
                await queue.join()

    async def _wait_until(self, due_s: float) -> None:
        """Return at ``due_s``, or sooner when the replay is stopped."""
        remaining_s = due_s - time.perf_counter()
        if remaining_s <= 0:
            return
        try:
            await asyncio.wait_for(self._stop.wait(), remaining_s)
        except TimeoutError:
            pass

    async def _work(self, queue: asyncio.Queue[Request]) -> None:
        """Play what the queue hands out over a connection of its own, until cancelled."""
        node = self._make_node()
        try:
            while True:
                request = await queue.get()
                try:
                    await node.play(request)
                    self._failures_in_a_row = 0
                except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                    self._count_connection_failure(error)
                finally:
                    queue.task_done()
                self._on_progress(self.tally)
        finally:
            await node.close()

    def _count_connection_failure(self, error: Exception) -> None:
        """Count the error; raises ``_ServerLost`` when one request after the other failed."""
        self.tally.count_error(error)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_CONNECTION_FAILURES_IN_A_ROW:
            self._lost_because = f"the server was lost: {error}"
            raise _ServerLost from error

    def _make_node(self) -> Node:
        kind = PrefixNode if self._plan.mode is Mode.PREFIX else PlainNode
        return kind(
            self._connect(),
            self._values,
            self.tally,
            key_prefix=self._plan.key_prefix,
            inflight_limit_bytes=self._plan.inflight_limit_bytes // self._plan.connections,
        )

    def _connect(self) -> redis.asyncio.Redis:
        """A client with exactly one connection, which reports a failure instead of trying again on its own."""
        try:
            return redis.asyncio.Redis.from_url(
                self._plan.url,
                single_connection_client=True,
                protocol=2,  # every server has it, and no message comes that was not asked for
                socket_timeout=REPLY_TIMEOUT_S,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise ReplayError(f"{display_url(self._plan.url)}: {error}") from error

    async def _require_prefix_commands(self, client: redis.asyncio.Redis) -> None:
        try:
            execute: Any = client.execute_command  # redis-py left it without types
            await execute("PREFIX.MATCH", self._plan.key_prefix + b"0")
        except redis.ResponseError as error:
            if "unknown command" not in str(error).lower():
                raise
            raise ReplayError("this server has no PREFIX commands; use --mode plain") from error


class _ServerLost(Exception):
    """Connections keep failing; there is no point in going on."""


def display_url(url: str) -> str:
    """``url`` without its password."""
    scheme, separator, rest = url.partition("://")
    credentials, at, address = rest.rpartition("@")
    if not at:
        return url
    user = credentials.partition(":")[0]
    return f"{scheme}{separator}{user}:***@{address}"


def _server_facts(info: dict[str, object]) -> ServerFacts:
    redis_version = str(info.get("redis_version", ""))
    name, version = "redis", redis_version
    for other in ("kvcd", "valkey", "dragonfly"):
        if f"{other}_version" in info:
            name, version = other, str(info[f"{other}_version"])
    maxmemory = info.get("maxmemory")
    policy = info.get("maxmemory_policy")
    return ServerFacts(
        name=name,
        version=version,
        redis_version=redis_version,
        maxmemory=maxmemory if isinstance(maxmemory, int) else None,
        maxmemory_policy=str(policy) if policy is not None else None,
    )
