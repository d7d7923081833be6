"""Replay: hits as a slow sum expects them, wrong bytes and errors found, order kept, clear refusals; against a model server and Redis."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import hiredis
import orjson
import pytest
import redis
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kvcd.replay import parse_speed
from kvcd.replay import replay as replay_command
from kvcd.replay_engine import Mode, Replay, ReplayError, ReplayPlan, display_url
from kvcd.replay_values import BlockValues
from kvcd.trace import Request, summarize, write_trace
from kvcd.trace_generate import Shape, generate
from tests.programs import require_program

VALUE_SIZE_BYTES = 300
# the third request's middle block 2 is there, but its chain broke before: [7, 2] are misses
SMALL_TRACE = [
    Request(0, 1_500, 1, (0, 1, 2)),
    Request(3_000, 1_400, 1, (0, 1, 3)),
    Request(6_000, 1_536, 1, (0, 7, 2)),
    Request(9_000, 1_500, 1, (0, 1, 2)),
]


class ModelServer:
    """A dict that speaks as much RESP2 as a replay needs, records commands, and can be told to misbehave."""

    def __init__(self, *, prefix_commands: bool = True) -> None:
        self.data: dict[bytes, bytes] = {}
        self.commands: list[tuple[bytes, ...]] = []
        self.prefix_commands = prefix_commands
        self.refuse_writes_with: bytes | None = None
        self.admit_pairs: int | None = None  # PREFIX.SET stores at most this many
        self.forget_after_lookup: set[bytes] = set()
        self.drop_connection_at: bytes | None = None
        self.on_command = lambda name: None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    name = command[0].upper()
                    self.commands.append((name, *command[1:]))
                    self.on_command(name)
                    if name == self.drop_connection_at:
                        return
                    writer.write(self.answer(name, command[1:]))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def answer(self, name: bytes, args: list[bytes]) -> bytes:
        if name == b"INFO":
            return bulk(b"# Server\r\nredis_version:7.0.15\r\nkvcd_version:1.2.3\r\nmaxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n")
        if name == b"EXISTS":
            return b":%d\r\n" % self.present(args[0])
        if name == b"GET":
            return bulk(self.data.get(args[0]))
        if name == b"SET":
            return self.store([(args[0], args[1])]) or b"+OK\r\n"
        if name.startswith(b"PREFIX.") and self.prefix_commands:
            return self.answer_prefix(name, args)
        if name in (b"CLIENT", b"SELECT"):
            return b"+OK\r\n"
        return b"-ERR unknown command '" + name + b"', with args beginning with: \r\n"

    def answer_prefix(self, name: bytes, args: list[bytes]) -> bytes:
        if name == b"PREFIX.MATCH":
            return b":%d\r\n" % self.leading([self.present(key) for key in args])
        if name == b"PREFIX.GET":
            run = args[: self.leading([key in self.data for key in args])]
            return b"*%d\r\n" % len(run) + b"".join(bulk(self.data[key]) for key in run)
        if args[0].upper() == b"PARENT":
            args = args[2:]
        pairs = list(zip(args[::2], args[1::2], strict=True))[: self.admit_pairs]
        return self.store(pairs) or b":%d\r\n" % len(pairs)

    def present(self, key: bytes) -> bool:
        found = key in self.data
        if key in self.forget_after_lookup:
            self.data.pop(key, None)
        return found

    def store(self, pairs: list[tuple[bytes, bytes]]) -> bytes | None:
        if self.refuse_writes_with is not None:
            return b"-" + self.refuse_writes_with + b"\r\n"
        self.data.update(pairs)
        return None

    @staticmethod
    def leading(present: list[bool]) -> int:
        return present.index(False) if False in present else len(present)

    def named(self, name: bytes) -> list[tuple[bytes, ...]]:
        return [command for command in self.commands if command[0] == name]


def bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


@asynccontextmanager
async def serving(model: ModelServer, folder: Path) -> AsyncIterator[ReplayPlan]:
    """Serve ``model`` on a socket; yields a plan that leads there."""
    path = folder / "model.sock"
    server = await asyncio.start_unix_server(model.serve, path)
    try:
        yield ReplayPlan(
            url=f"unix://{path}",
            mode=Mode.PLAIN,
            value_size_bytes=VALUE_SIZE_BYTES,
            connections=1,
            key_prefix=b"kv:",
            speed=None,
            inflight_limit_bytes=1 << 20,
        )
    finally:
        server.close()


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_small_trace_hits_what_counting_by_hand_says(mode: Mode, tmp_path: Path) -> None:
    model = ModelServer()
    async with serving(model, tmp_path) as plan:
        report = await Replay(replace(plan, mode=mode)).run(SMALL_TRACE)
    assert (report.requests, report.blocks, report.hit_blocks, report.looked_up_blocks) == (4, 12, 2 + 1 + 3, 6)
    assert report.hit_tokens == 1_024 + 512 + 1_500
    assert report.tokens == 1_500 + 1_400 + 1_536 + 1_500
    assert report.written_blocks == 3 + 1 + 2
    assert report.read_bytes == 6 * VALUE_SIZE_BYTES
    assert report.written_bytes == 6 * VALUE_SIZE_BYTES
    assert {name: times.count for name, times in report.operations.items()} == {"lookup": 4, "get": 3, "set": 3}
    assert report.exit_code == 0
    values = BlockValues(VALUE_SIZE_BYTES)
    assert model.data == {b"kv:%d" % block: values.make(block) for block in (0, 1, 2, 3, 7)}


async def test_plain_speaks_only_exists_get_and_set(tmp_path: Path) -> None:
    model = ModelServer(prefix_commands=False)
    async with serving(model, tmp_path) as plan:
        run = Replay(plan)
        await run.check_server()
        await run.run(SMALL_TRACE)
    assert {command[0] for command in model.commands} - {b"CLIENT", b"INFO"} == {b"EXISTS", b"GET", b"SET"}


async def test_prefix_names_the_last_hit_as_parent(tmp_path: Path) -> None:
    model = ModelServer()
    async with serving(model, tmp_path) as plan:
        await Replay(replace(plan, mode=Mode.PREFIX)).run(SMALL_TRACE)
    written = model.named(b"PREFIX.SET")
    assert written[0][1] == b"kv:0"  # a chain's first block has no parent
    assert written[1][1:4] == (b"PARENT", b"kv:1", b"kv:3")
    assert written[2][1:4] == (b"PARENT", b"kv:0", b"kv:7")
    assert not model.named(b"GET")


@pytest.mark.parametrize("mode", list(Mode))
async def test_chunks_keep_values_in_flight_within_the_limit(mode: Mode, tmp_path: Path) -> None:
    model = ModelServer()
    chain = tuple(range(11))
    trace = [Request(0, 11 * 512, 1, chain), Request(3_000, 12 * 512, 1, (*chain, 99))]
    async with serving(model, tmp_path) as plan:
        report = await Replay(replace(plan, mode=mode, inflight_limit_bytes=4 * VALUE_SIZE_BYTES)).run(trace)
    assert (report.hit_blocks, report.written_blocks) == (11, 12)
    if mode is Mode.PREFIX:
        assert [len(command) - 1 for command in model.named(b"PREFIX.GET")] == [4, 4, 3]
        parents = [command[2] if command[1] == b"PARENT" else None for command in model.named(b"PREFIX.SET")]
        assert parents == [None, b"kv:3", b"kv:7", b"kv:10"]


@pytest.mark.parametrize("mode", list(Mode))
async def test_hits_of_a_generated_trace_equal_those_of_a_cache_that_never_forgets(mode: Mode, tmp_path: Path) -> None:
    trace = list(generate(Shape.CONVERSATION, requests=250, seed=2))
    async with serving(ModelServer(), tmp_path) as plan:
        report = await Replay(replace(plan, mode=mode, value_size_bytes=20)).run(trace)
    statistics = summarize(trace)
    assert report.block_hit_ratio == pytest.approx(statistics.block_hit_ratio)
    assert report.token_hit_ratio == pytest.approx(statistics.token_hit_ratio)


async def test_many_connections_find_what_earlier_timestamps_stored(tmp_path: Path) -> None:
    # Each tick's requests continue those of the tick before; any overlap of ticks would lose hits.
    trace = [
        Request(tick * 3_000, 512 * (tick + 1), 1, tuple(session * 100 + depth for depth in range(tick + 1)))
        for tick in range(12)
        for session in range(5)
    ]
    async with serving(ModelServer(), tmp_path) as plan:
        report = await Replay(replace(plan, connections=4)).run(trace)
    assert report.hit_blocks == sum(len(request.hash_ids) - 1 for request in trace)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("damage", ["flip", "shorten", "swap"])
async def test_a_wrong_byte_is_found_and_fails_the_run(mode: Mode, damage: str, tmp_path: Path) -> None:
    model = ModelServer()
    async with serving(model, tmp_path) as plan:
        await Replay(replace(plan, mode=mode)).run(SMALL_TRACE[:1])
        right = model.data[b"kv:1"]
        model.data[b"kv:1"] = {"flip": right[:-1] + bytes([right[-1] ^ 1]), "shorten": right[:-1], "swap": model.data[b"kv:2"]}[damage]
        report = await Replay(replace(plan, mode=mode)).run(SMALL_TRACE[:1])
    assert report.wrong_values == 1
    assert report.hit_blocks == 1  # the run of hits ends before the wrong block
    assert report.exit_code == 1
    assert "kv:1" in report.wrong_examples[0]
    assert model.data[b"kv:1"] == right  # what was not got was computed anew and stored


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("blocks_in_flight", [1, 100])
async def test_a_block_evicted_after_the_look_up_is_a_promise_not_a_hit(mode: Mode, blocks_in_flight: int, tmp_path: Path) -> None:
    model = ModelServer()
    async with serving(model, tmp_path) as plan:
        await Replay(replace(plan, mode=mode)).run(SMALL_TRACE[:1])
        model.forget_after_lookup = {b"kv:1"}
        limited = replace(plan, mode=mode, inflight_limit_bytes=blocks_in_flight * VALUE_SIZE_BYTES)
        report = await Replay(limited).run(SMALL_TRACE[:1])
    assert (report.looked_up_blocks, report.hit_blocks) == (3, 1)
    assert report.exit_code == 0


@pytest.mark.parametrize("mode", list(Mode))
async def test_out_of_memory_is_counted_and_the_replay_goes_on(mode: Mode, tmp_path: Path) -> None:
    model = ModelServer()
    model.refuse_writes_with = b"OOM command not allowed when used memory > 'maxmemory'."
    async with serving(model, tmp_path) as plan:
        report = await Replay(replace(plan, mode=mode)).run(SMALL_TRACE)
    assert report.requests == 4
    assert report.errors["OOM"].count == (12 if mode is Mode.PLAIN else 4)
    assert (report.hit_blocks, report.written_blocks, report.exit_code) == (0, 0, 0)


async def test_a_chain_that_is_refused_in_the_middle_is_not_sent_further(tmp_path: Path) -> None:
    model = ModelServer()
    model.admit_pairs = 1
    async with serving(model, tmp_path) as plan:
        report = await Replay(replace(plan, mode=Mode.PREFIX, inflight_limit_bytes=2 * VALUE_SIZE_BYTES)).run(SMALL_TRACE[:1])
    assert len(model.named(b"PREFIX.SET")) == 1
    assert (report.written_blocks, report.refused_blocks, report.errors) == (1, 1, {})


async def test_a_server_without_prefix_commands_is_named(tmp_path: Path) -> None:
    async with serving(ModelServer(prefix_commands=False), tmp_path) as plan:
        with pytest.raises(ReplayError, match="no PREFIX commands; use --mode plain"):
            await Replay(replace(plan, mode=Mode.PREFIX)).check_server()


async def test_the_server_tells_who_it_is(tmp_path: Path) -> None:
    async with serving(ModelServer(), tmp_path) as plan:
        facts = await Replay(plan).check_server()
    assert (facts.name, facts.version, facts.redis_version) == ("kvcd", "1.2.3", "7.0.15")
    assert (facts.maxmemory, facts.maxmemory_policy) == (1000, "allkeys-lru")


async def test_a_lost_server_ends_the_replay_with_what_was_done(tmp_path: Path) -> None:
    model = ModelServer()
    seen: list[bytes] = []

    def lose_it_in_the_second_request(name: bytes) -> None:
        seen.append(name)
        if seen.count(b"SET") == 3:
            model.drop_connection_at = b"EXISTS"

    model.on_command = lose_it_in_the_second_request
    async with serving(model, tmp_path) as plan:
        report = await Replay(plan).run([*SMALL_TRACE, replace(SMALL_TRACE[0], timestamp_ms=12_000)])
    assert report.requests == 1
    assert report.stopped_because is not None
    assert report.errors["connection"].count == 3
    assert report.exit_code == 1


async def test_connections_that_break_now_and_then_are_errors_not_the_end(tmp_path: Path) -> None:
    model = ModelServer()

    def drop_every_other_get(name: bytes) -> None:
        model.drop_connection_at = b"GET" if len(model.named(b"GET")) % 2 else None

    model.on_command = drop_every_other_get
    async with serving(model, tmp_path) as plan:
        report = await Replay(plan).run([Request(3_000 * tick, 500, 1, (0,)) for tick in range(9)])
    assert report.errors["connection"].count == 4  # more than the limit, but never in a row
    assert report.requests == 5
    assert report.stopped_because is None


async def test_stop_reports_what_was_done(tmp_path: Path) -> None:
    async with serving(ModelServer(), tmp_path) as plan:
        run = Replay(plan)
        report = await run.run(SMALL_TRACE, lambda tally: run.stop() if tally.requests == 2 else None)
    assert (report.requests, report.interrupted, report.exit_code) == (2, True, 130)


async def test_by_the_clock_requests_keep_their_distance(tmp_path: Path) -> None:
    async with serving(ModelServer(), tmp_path) as plan:
        report = await Replay(replace(plan, speed=100)).run(SMALL_TRACE)
    assert report.elapsed_s >= 0.09  # 9 s of trace a hundred times as fast
    assert (report.requests, report.hit_blocks) == (4, 6)


async def test_stop_ends_a_wait_for_a_far_timestamp(tmp_path: Path) -> None:
    async with serving(ModelServer(), tmp_path) as plan:
        run = Replay(replace(plan, speed=1e-3))
        async with asyncio.timeout(20):
            report = await run.run(SMALL_TRACE, lambda tally: run.stop())
    assert (report.requests, report.interrupted) == (1, True)


@given(st.integers(1, 3_000), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.data())
def test_values_are_right_for_their_own_block_only(size: int, block: int, other: int, data: st.DataObject) -> None:
    values = BlockValues(size)
    value = values.make(block)
    assert len(value) == size
    assert values.is_right(block, value)
    assert BlockValues(size).make(block) == value
    assert not values.is_right(block, value + b"x")
    assert not values.is_right(block, value[:-1])
    position = data.draw(st.integers(0, size - 1))
    damaged = bytearray(value)
    damaged[position] ^= data.draw(st.integers(1, 255))
    assert not values.is_right(block, bytes(damaged))
    if size >= 16 and other != block:
        assert not values.is_right(other, value)


def test_values_show_pages_in_the_wrong_order() -> None:
    values = BlockValues(3 * 65_536)
    value = values.make(5)
    assert not values.is_right(5, value[65_536 : 2 * 65_536] + value[:65_536] + value[2 * 65_536 :])


@pytest.mark.parametrize("size", [0, (512 << 20) + 1])
def test_values_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a value has 1 to"):
        BlockValues(size)


@pytest.mark.parametrize(("text", "speed"), [("max", None), ("1x", 1.0), ("10x", 10.0), ("0.5x", 0.5), ("3", 3.0)])
def test_speed_is_max_or_a_factor(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0x", "-1x", "fast", "", "nanx", "infx"])
def test_other_speeds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected max, or a factor"):
        parse_speed(text)


def test_a_displayed_url_has_no_password() -> None:
    assert display_url("redis://me:se:cr@et@host:1/2") == "redis://me:***@host:1/2"
    assert display_url("redis://host:1") == "redis://host:1"


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    with path.open("wb") as file:
        write_trace(SMALL_TRACE, file)
    return path


@pytest.fixture
def redis_socket(tmp_path: Path) -> Iterator[Path]:
    require_program("redis-server")
    path = tmp_path / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("ready to accept connections" in line for line in process.stdout)
        yield path
        process.terminate()
        process.communicate()


def command_line() -> typer.Typer:
    app = typer.Typer()
    app.command()(replay_command)
    return app


def test_the_command_against_redis_server_writes_its_report(redis_socket: Path, trace_file: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    arguments = [str(trace_file), "--url", f"unix://{redis_socket}", "--value-size", "70000", "--json", str(report_file)]
    result = CliRunner().invoke(command_line(), arguments)
    assert result.exit_code == 0, result.output
    assert "0.5000  (6 of 12)" in result.stdout
    report = orjson.loads(report_file.read_bytes())
    assert report["server"]["name"] == "redis"
    assert report["result"]["hit_blocks"] == 6
    assert report["plan"]["value_size_bytes"] == 70_000
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        assert client.get("kv:7") == BlockValues(70_000).make(7)
        client.setrange("kv:1", 69_999, b"\0\0"[: 1 + (client.get("kv:1")[-1:] == b"\0")])
        again = CliRunner().invoke(command_line(), arguments)
    assert again.exit_code == 1
    assert "wrong: kv:1" in again.stdout


def test_the_command_tells_redis_server_has_no_prefix_commands(redis_socket: Path, trace_file: Path) -> None:
    result = CliRunner().invoke(command_line(), [str(trace_file), "--url", f"unix://{redis_socket}", "--mode", "prefix"])
    assert result.exit_code == 2
    assert "this server has no PREFIX commands; use --mode plain" in result.stderr


def test_help_is_printed() -> None:
    result = CliRunner().invoke(command_line(), ["--help"])
    assert result.exit_code == 0
    assert "--value-size" in result.stdout


async def test_interrupted_the_command_reports_what_was_done(trace_file: Path, tmp_path: Path) -> None:
    model = ModelServer()
    started: asyncio.Future[asyncio.subprocess.Process] = asyncio.get_running_loop().create_future()

    def interrupt_after_the_first_request(name: bytes) -> None:
        if len(model.named(b"SET")) == 3:
            started.result().send_signal(signal.SIGINT)

    model.on_command = interrupt_after_the_first_request
    async with serving(model, tmp_path) as plan:
        script = "import typer; from kvcd.replay import replay; typer.run(replay)"
        # by this clock the second request is due in a month
        arguments = [str(trace_file), "--url", plan.url, "--speed", "0.000001x", "--json", "-"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.set_result(process)
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
    assert process.returncode == 130, errors
    assert b"interrupted" in errors
    result = orjson.loads(output)["result"]
    assert (result["requests"], result["interrupted"]) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "missing.jsonl: No such file"),
        (["TRACE", "--url", "unix://nowhere.sock"], "no server at unix://nowhere.sock"),
        (["TRACE", "--url", "http://127.0.0.1:1"], "http://127.0.0.1:1"),
        (["TRACE", "--speed", "warp"], "--speed warp: expected max"),
    ],
)
def test_the_command_says_why_it_cannot_begin(arguments: list[str], message: str, trace_file: Path) -> None:
    result = CliRunner().invoke(command_line(), [str(trace_file) if part == "TRACE" else part for part in arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
