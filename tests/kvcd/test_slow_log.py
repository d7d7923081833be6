"""SLOWLOG and LATENCY: what is remembered, in which form, of both lanes and of all workers."""

from __future__ import annotations

import pytest

from kvcd.latency import border_us, bucket_of
from kvcd.slow_log import SlowLog, without_secrets
from protocol.replies import OK, Error
from tests.kvcd.service import Service
from tests.servers import Servers
from tests.wire import encode


def test_each_slow_command_is_remembered_newest_first() -> None:
    """With number, time, duration, words, and who asked."""
    service = Service()
    service.server.statistics.slow_log.threshold_us = 0
    service.client.name = b"me"
    service.do("SET", "a", "1")
    service.do("GET", "a")
    reply = service.do("SLOWLOG", "GET")
    assert isinstance(reply, list)
    newest, oldest = reply
    assert newest[0] == oldest[0] + 1  # type: ignore[index]
    assert newest[3:] == [[b"GET", b"a"], b"127.0.0.1:50000", b"me"]  # type: ignore[index]
    assert service.do("SLOWLOG", "LEN") == 3
    assert service.do("SLOWLOG", "RESET") == OK
    assert service.do("SLOWLOG", "GET") == [[4, 1000, pytest.approx(0, abs=10_000_000), [b"SLOWLOG", b"RESET"], b"127.0.0.1:50000", b"me"]]


def test_nothing_is_remembered_below_the_threshold_or_when_off() -> None:
    """A threshold of -1 switches it off."""
    service = Service()
    for threshold_us in (-1, 3_600_000_000):
        service.server.statistics.slow_log.threshold_us = threshold_us
        service.do("GET", "a")
        assert service.do("SLOWLOG", "LEN") == 0


def test_long_lines_and_long_arguments_are_cut() -> None:
    """At 32 arguments and 128 bytes, as Redis cuts them; the oldest entries go when there are too many."""
    log = SlowLog()
    log.longest = 2
    for number in range(3):
        log.note([b"%d" % number], duration_us=1, at_s=1, address="", name=b"")
    assert [entry.number for entry in log.latest(10)] == [2, 1]
    log.note([b"SADD", *([b"x"] * 33), b"last"], duration_us=1, at_s=1, address="", name=b"")
    words = log.latest(1)[0].words
    assert (len(words), words[-1]) == (32, b"... (4 more arguments)")
    log.note([b"SET", b"k", b"A" * 129], duration_us=1, at_s=1, address="", name=b"")
    assert log.latest(1)[0].words[-1] == b"A" * 128 + b"... (1 more bytes)"


@pytest.mark.parametrize(
    ("name", "line", "shown"),
    [
        ("auth", "AUTH pw", "AUTH (redacted)"),
        ("auth", "AUTH me pw", "AUTH (redacted) (redacted)"),
        ("hello", "HELLO 3 auth me pw SETNAME x", "HELLO 3 auth (redacted) (redacted) SETNAME x"),
        ("config|set", "CONFIG SET maxmemory 1 requirepass pw", "CONFIG SET maxmemory 1 requirepass (redacted)"),
        ("acl|setuser", "ACL SETUSER me >pw", "ACL SETUSER (redacted) (redacted)"),
        ("migrate", "MIGRATE h 1 k 0 1 AUTH2 me pw", "MIGRATE h 1 k 0 1 AUTH2 (redacted) (redacted)"),
        ("set", "SET auth pw", "SET auth pw"),
    ],
)
def test_no_secret_is_remembered(name: str, line: str, shown: str) -> None:
    """Passwords and users stay out."""
    assert without_secrets(name, line.encode().split()) == shown.encode().split()


def test_durations_fall_into_redis_buckets() -> None:
    """Powers of two of nanoseconds, told apart by Redis's precision, shown in whole microseconds."""
    assert [border_us(power) for power in range(10, 18)] == [1, 2, 4, 8, 16, 33, 66, 132]
    assert [bucket_of(ns) for ns in (0, 1, 1024, 1031, 1032, 2048, 131_072, 132_095, 132_096)] == [10, 10, 10, 10, 11, 11, 17, 17, 18]


def test_spikes_are_remembered_by_event() -> None:
    """The longest of a second, the longest ever, and how many events a reset took away."""
    service = Service()
    monitor = service.server.statistics.latency
    assert service.do("LATENCY", "LATEST") == []
    monitor.threshold_ms = 10
    monitor.note("command", duration_ms=9, at_s=5)
    monitor.note("command", duration_ms=30, at_s=5)
    monitor.note("command", duration_ms=20, at_s=5)
    monitor.note("command", duration_ms=12, at_s=7)
    assert service.do("LATENCY", "LATEST") == [[b"command", 7, 12, 30]]
    assert service.do("LATENCY", "HISTORY", "command") == [[5, 30], [7, 12]]
    graph = service.do("LATENCY", "GRAPH", "command")
    assert b"command - high 30 ms, low 12 ms (all time high 30 ms)" in graph.text  # type: ignore[union-attr]
    assert b"2 latency spikes" in service.do("LATENCY", "DOCTOR").text  # type: ignore[union-attr]
    assert service.do("LATENCY", "RESET", "command", "command") == 1
    assert service.do("LATENCY", "GRAPH", "command") == Error("ERR No samples available for event 'command'")


def test_calls_are_in_histograms_of_both_lanes() -> None:
    """The fast lane's come as counters of the session layer; CONFIG RESETSTAT begins anew."""
    service = Service()
    service.server.counts = {"calls:get": 3, "ns:get": 9000, "took:get:10": 1, "took:get:12": 2}
    service.do("SETNX", "a", "1")
    reply = service.do("LATENCY", "HISTOGRAM", "get", "setnx", "nonsense")
    assert reply[b"get"] == {b"calls": 3, b"histogram_usec": {1: 1, 4: 3}}  # type: ignore[index, call-overload]
    assert reply[b"setnx"][b"calls"] == 1  # type: ignore[index, call-overload]
    text = service.do("INFO", "commandstats", "latencystats").text.decode()  # type: ignore[union-attr]
    assert "cmdstat_get:calls=3,usec=9,usec_per_call=3.00," in text
    assert "latency_percentiles_usec_get:p50=4." in text
    assert service.do("CONFIG", "RESETSTAT") == OK
    assert service.do("LATENCY", "HISTOGRAM", "get", "setnx") == {}


def test_the_real_server_sees_slow_commands_of_both_lanes() -> None:
    """With a low threshold every command by itself, of all workers together; a run of the fast lane is timed as well."""
    servers = Servers()
    try:
        server = servers.kvcd(workers=2, slowlog_log_slower_than=0, latency_monitor_threshold=0)
        for number in range(6):
            server.call("SET", f"key:{number}", "v")
        found = server.call("SLOWLOG", "GET", "-1")
        assert isinstance(found, list)
        sets = [entry[3] for entry in found if entry[3][0] == b"SET"]
        assert sorted(sets) == [[b"SET", b"key:%d" % number, b"v"] for number in range(6)]
        assert server.call("CONFIG", "SET", "slowlog-log-slower-than", "10000000") == b"OK"
        assert server.call("SLOWLOG", "RESET") == b"OK"
        assert server.call("SLOWLOG", "LEN") == 0
        server.call("CONFIG", "RESETSTAT")
        server.call("GET", "key:1")
        histogram = server.call("LATENCY", "HISTOGRAM", "get")
        assert isinstance(histogram, list)
        assert histogram[0] == b"get"
        assert histogram[1][:2] == [b"calls", 1]
    finally:
        servers.close()


def test_a_slow_run_of_the_fast_lane_is_remembered() -> None:
    """By its first command, and how many more there were in the pipeline."""
    servers = Servers()
    try:
        server = servers.kvcd(slowlog_log_slower_than=100)
        with server.connect() as wire:
            # Larger than one command of 64 KiB and less than a batch: a run of many commands, however fast the machine.
            sender = wire.send_in_background(b"".join(encode("SET", f"key:{number}", b"v" * 60_000) for number in range(300)))
            wire.replies(300)
            sender.join()
        found = server.call("SLOWLOG", "GET", "-1")
        assert isinstance(found, list)
        runs = [entry[3] for entry in found if b"more commands in one pipeline" in entry[3][-1]]
        assert runs
        assert all(run[0] == b"SET" and run[1].startswith(b"key:") for run in runs)
    finally:
        servers.close()
