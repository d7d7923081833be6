"""Benchmarks: ratios and marks, the compact client's refusals, processor time, and each case once against redis-server."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench import large_values, longest_prefix, small_values, wire
from bench.measure import Case, Measurement, Median, Way, timed
from bench.report import Row, as_json, machine, table
from bench.servers import BenchError, Server, running
from bench.wire import Connection, WireError, encode
from tests.programs import require_program

REDIS = 'redis-server --port {port} --bind 127.0.0.1 --save "" --appendonly no'


@pytest.fixture
def redis_server() -> Iterator[Server]:
    require_program("redis-server")
    with running("reference", REDIS) as server:
        yield server


def median(*costs_us: float) -> Median:
    return Median.of([Measurement(operations=1_000, elapsed_s=cost / 1_000, processor_s=cost / 1_000) for cost in costs_us])


def row(mark: float | None, candidate: dict[str, Median], reference: dict[str, Median]) -> Row:
    ways = tuple(Way(name, name, lambda server, seconds: Measurement(1, 1, 1)) for name in ("PREFIX.MATCH", "EXISTS", "EVALSHA"))
    return Row(Case("prefix", "a case", ways, mark), candidate, reference)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # in the second round the machine was ten times slower for both
    outcome = row(0.5, {"PREFIX.MATCH": median(1, 20, 3)}, {"EXISTS": median(2, 50, 6)})
    assert outcome.processor_ratio == pytest.approx(0.5)
    assert outcome.throughput_ratio == pytest.approx(2.0)
    assert outcome.reaches_mark


def test_the_reference_counts_by_its_cheapest_way_and_the_candidate_by_its_own() -> None:
    outcome = row(0.4, {"PREFIX.MATCH": median(9), "EXISTS": median(1)}, {"EXISTS": median(20), "EVALSHA": median(10)})
    assert (outcome.candidate_way, outcome.reference_way) == ("PREFIX.MATCH", "EVALSHA")
    assert outcome.processor_ratio == pytest.approx(0.9)
    assert outcome.reaches_mark is False


def test_a_candidate_without_prefix_match_is_taken_by_its_cheapest_way() -> None:
    outcome = row(None, {"EXISTS": median(4), "EVALSHA": median(2)}, {"EXISTS": median(2)})
    assert outcome.candidate_way == "EVALSHA"
    assert outcome.processor_ratio == pytest.approx(1.0)
    assert outcome.reaches_mark is None


def test_an_error_reply_is_an_error_even_where_a_longer_reply_was_due() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection.__new__(Connection)
    connection._socket = ours
    with ours, theirs:
        theirs.sendall(b"-ERR no\r\n")
        with pytest.raises(WireError, match="ERR no"):
            connection.expect(b":1\r\n" * 100, bytearray(400))
        theirs.sendall(b":0\r\n")
        with pytest.raises(WireError, match=r":0.*where b':1"):
            connection.expect(b":1\r\n", bytearray(4))


def test_processor_time_is_that_of_all_threads() -> None:
    me = Server("me", "", "", 0, os.getpid())

    def burn() -> None:
        began_s = time.thread_time()
        while time.thread_time() - began_s < 0.1:
            pass

    # held until after the reading: a thread that has ended is in no list
    finished, release = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (burn(), finished.set(), release.wait()))
    with timed(me) as watch:
        thread.start()
        finished.wait()
    release.set()
    thread.join()
    assert watch.processor_s > 0.08


def test_a_server_that_cannot_start_is_explained() -> None:
    with pytest.raises(BenchError, match="No such file"), running("x", "no-such-server --port {port}"):
        pass
    with pytest.raises(BenchError, match=r"(?s)ended with exit code 3.*out of luck"), running("x", "sh -c 'echo out of luck; exit 3'"):
        pass


def test_small_values_run_and_every_key_is_there(redis_server: Server) -> None:
    group = small_values.group()
    group.load(redis_server)
    with redis_server.client() as client:
        assert client.dbsize() == small_values.KEYS
    require_program("redis-benchmark")
    case = next(case for case in group.cases if case.name == "GET 64 B, pipeline 64")
    assert case.ways[0].run(redis_server, 0.01).processor_s > 0
    with redis_server.client() as client:
        assert client.info("stats")["keyspace_misses"] == 0


def test_large_values_move_what_they_say(redis_server: Server) -> None:
    group = large_values.group()
    group.load(redis_server)
    for case in group.cases[:2]:
        measurement = case.ways[0].run(redis_server, 0.05)
        assert measurement.operations > 0
        assert measurement.payload_bytes == measurement.operations * (2 << 20)


def test_both_redis_ways_find_the_longest_prefix(redis_server: Server) -> None:
    group = longest_prefix.group()
    group.load(redis_server)
    for case in group.cases:
        for way in case.ways:
            known = redis_server.knows(way.command)
            assert known == (way.name != "PREFIX.MATCH")
            if known:  # the runner compares each reply
                assert way.run(redis_server, 0.01).operations > 0


def test_a_missing_block_would_fail_the_longest_prefix(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "REPLY_TIMEOUT_S", 1)  # EVALSHA's wrong count is a byte shorter than the right one
    group = longest_prefix.group()
    group.load(redis_server)
    with Connection(redis_server.host, redis_server.port) as connection:
        connection.ask(encode(b"DEL", longest_prefix._key("present", 0, 0)), b":1\r\n")
    for way in group.cases[0].ways[1:]:
        with pytest.raises(WireError, match="was due"):
            way.run(redis_server, 0.01)


def test_table_and_json_hold_every_case() -> None:
    rows = [row(0.4, {"PREFIX.MATCH": median(1)}, {"EXISTS": median(4), "EVALSHA": median(5)})]
    server = Server("candidate", "kvcd 1", "", 0, 0)
    document = as_json(rows, server, server, {"rounds": 1})
    assert document["cases"][0]["reaches_mark"] is True
    assert document["machine"].keys() == machine().keys()
    assert table(rows, server, server).row_count == 4  # the case and its three ways
