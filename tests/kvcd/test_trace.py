"""Traces: the reader's errors, the statistics against slow sums, the generator's determinism and figures."""

from __future__ import annotations

import io
import os
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from kvcd.trace import Request, TraceError, TraceStatistics, read_trace, summarize, write_trace
from kvcd.trace_cli import trace_app
from kvcd.trace_generate import CONVERSATION_REQUESTS, Shape, generate

GOOD_LINE = b'{"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 7]}\n'


def conversation_trace() -> list[Request]:
    """The real trace where KVCD_TRACE_DIR names its folder, a generated one elsewhere."""
    folder = os.environ.get("KVCD_TRACE_DIR")
    if folder:
        return read_trace(Path(folder) / "conversation_trace.jsonl")
    return list(generate(Shape.CONVERSATION))


def check_conversation_statistics(statistics: TraceStatistics) -> None:
    """The figures of the real trace; the tolerances leave room for a seed's luck with its few very long prompts."""
    assert statistics.requests == 12_031
    assert statistics.duration_s == pytest.approx(3_537, abs=10)
    assert statistics.blocks_per_request_mean == pytest.approx(24, rel=0.05)
    assert statistics.blocks_per_request_p99 == pytest.approx(167, rel=0.08)
    assert statistics.unique_blocks == pytest.approx(182_790, rel=0.05)
    assert statistics.never_reused_share == pytest.approx(0.76, abs=0.015)
    assert statistics.block_hit_ratio == pytest.approx(0.366, abs=0.012)
    assert statistics.partial_last_block_reused_share == pytest.approx(0.008, abs=0.002)
    assert 20 <= statistics.largest_burst_requests <= 60


def test_the_conversation_trace_has_the_statistics_it_is_known_for() -> None:
    check_conversation_statistics(summarize(conversation_trace()))


def test_a_generated_conversation_has_the_real_traces_statistics() -> None:
    trace = list(generate(Shape.CONVERSATION, requests=CONVERSATION_REQUESTS, seed=0))
    check_conversation_statistics(summarize(trace))


@pytest.mark.parametrize("shape", list(Shape))
def test_the_seed_decides_the_whole_trace(shape: Shape) -> None:
    first = list(generate(shape, requests=400, seed=3))
    assert first == list(generate(shape, requests=400, seed=3))
    assert len(first) == 400
    if shape is not Shape.SCAN:  # a scan has chance in its arrival times only
        assert [r.hash_ids for r in first] != [r.hash_ids for r in generate(shape, requests=400, seed=4)]
    assert [r.timestamp_ms for r in first] != [r.timestamp_ms for r in generate(shape, requests=400, seed=4)]


@pytest.mark.parametrize("shape", list(Shape))
def test_every_block_has_one_parent_and_time_runs_forward(shape: Shape) -> None:
    parents: dict[int, int | None] = {}
    previous_ms = 0
    for request in generate(shape, requests=1_000, seed=1):
        assert request.timestamp_ms >= previous_ms
        previous_ms = request.timestamp_ms
        assert len(request.hash_ids) == -(-request.input_tokens // 512)
        parent: int | None = None
        for block in request.hash_ids:
            assert parents.setdefault(block, parent) == parent
            parent = block


def test_agent_requests_find_most_of_their_blocks() -> None:
    assert summarize(generate(Shape.AGENT, requests=4_000)).requests_over_half_found_share > 0.75


def test_a_scan_asks_for_every_prompt_before_it_repeats_one() -> None:
    chains = [request.hash_ids for request in generate(Shape.SCAN, requests=400)]
    assert len(set(chains[:100])) == 100
    assert chains[100:200] == chains[:100]


@pytest.mark.parametrize("requests", [0, -1, 10_000_001])
def test_generate_refuses_a_count_out_of_range(requests: int) -> None:
    with pytest.raises(ValueError, match="requests must lie between"):
        generate(Shape.ZIPF, requests=requests)


def test_statistics_of_a_trace_small_enough_to_count_by_hand() -> None:
    trace = [
        Request(0, 1_100, 1, (0, 1, 2)),
        Request(3_000, 1_536, 1, (0, 1, 3)),
        Request(3_000, 600, 1, (9, 1)),  # 9 is new: the hit on 1 behind it does not count
        Request(9_000, 1_100, 1, (0, 1, 2)),
    ]
    statistics = summarize(trace)
    assert statistics.blocks == 11
    assert statistics.unique_blocks == 5
    assert statistics.block_hit_ratio == pytest.approx(5 / 11)
    assert statistics.token_hit_ratio == pytest.approx((1_024 + 1_100) / (1_100 + 1_536 + 600 + 1_100))
    assert statistics.never_reused_share == pytest.approx(2 / 5)
    assert statistics.partial_last_blocks == 2  # 2 and 1
    assert statistics.partial_last_block_reused_share == 1.0
    assert statistics.requests_over_half_found_share == pytest.approx(2 / 4)
    assert statistics.duration_s == 9.0
    assert statistics.largest_burst_requests == 2


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    trace = list(generate(Shape.CONVERSATION, requests=50))
    path = tmp_path / "trace.jsonl"
    with path.open("wb") as file:
        write_trace(trace, file)
    assert read_trace(path) == trace
    assert read_trace(path, limit=7) == trace[:7]


def test_the_writer_keeps_mooncakes_field_order() -> None:
    output = io.BytesIO()
    write_trace([Request(1, 2, 3, (4, 5))], output)
    assert output.getvalue() == b'{"timestamp":1,"input_length":2,"output_length":3,"hash_ids":[4,5]}\n'


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        (b"{", r":2: not JSON"),
        (b"[1]", r":2: expected an object"),
        (b'{"timestamp": 3000, "input_length": 1, "output_length": 1}', r":2: hash_ids must be a list"),
        (b'{"timestamp": 3000, "input_length": 1, "output_length": 1, "hash_ids": []}', r":2: hash_ids must be a list"),
        (b'{"timestamp": 3000, "input_length": 1, "output_length": 1, "hash_ids": [true]}', r":2: hash_ids holds True"),
        (b'{"timestamp": 3000, "input_length": 1, "output_length": 1, "hash_ids": [-4]}', r":2: hash_ids holds -4"),
        (b'{"timestamp": 3000, "output_length": 1, "hash_ids": [1]}', r":2: input_length is missing"),
        (b'{"timestamp": 3000, "input_length": 0, "output_length": 1, "hash_ids": [1]}', r":2: input_length is 0"),
        (b'{"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": [1]}', r":2: timestamp is -1"),
        (b'{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]}', r":2: timestamp 0 lies before"),
        (b'{"timestamp": 3000, "input_length": 1, "output_length": "x", "hash_ids": [1]}', r":2: output_length is 'x'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, second_line: bytes, message: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(GOOD_LINE + second_line + b"\n")
    with pytest.raises(TraceError, match=message):
        read_trace(path)


def test_empty_lines_and_whole_floats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"\n" + GOOD_LINE.replace(b"3000", b"3000.0") + b"\n")
    assert read_trace(path) == [Request(3_000, 700, 5, (0, 7))]


def test_an_empty_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"")
    with pytest.raises(TraceError, match="no requests"):
        read_trace(empty)
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "missing.jsonl")


def test_generate_and_stats_as_commands(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    runner = CliRunner()
    made = runner.invoke(trace_app, ["generate", "--requests", "60", "--seed", "5", "--shape", "agent", "-o", str(path)])
    assert made.exit_code == 0, made.output
    assert read_trace(path) == list(generate(Shape.AGENT, requests=60, seed=5))
    printed = runner.invoke(trace_app, ["generate", "--requests", "60", "--seed", "5", "--shape", "agent"])
    assert printed.stdout_bytes == path.read_bytes()
    as_json = runner.invoke(trace_app, ["stats", str(path), "--json"])
    assert orjson.loads(as_json.stdout)["requests"] == 60
    as_table = runner.invoke(trace_app, ["stats", str(path)])
    assert "block hit ratio" in as_table.stdout


def test_stats_of_a_file_that_is_no_trace_exits_2_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello\n")
    result = CliRunner().invoke(trace_app, ["stats", str(path)])
    assert result.exit_code == 2
    assert "notes.txt:1: not JSON" in result.stderr
