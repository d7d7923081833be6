"""redis-cli and redis-benchmark: on a terminal, in a pipe, and in every mode of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.drive import Judge
from tests.clients.terminal import Terminal
from tests.kvcd.certificates import Authority
from tests.programs import require_program
from tests.servers import ServerProcess, Servers, free_port

DEADLINE_S = 60
BENCHMARKS_OFFERED = "ping_inline,ping_mbulk,set,get,incr,mset"


@pytest.fixture(scope="module", autouse=True)
def _programs(judge: Judge) -> None:
    """Fail or skip without them; write down their versions."""
    for program in ("redis-cli", "redis-benchmark"):
        require_program(program)
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=DEADLINE_S, check=True).stdout
        judge.versions[program] = told.split()[1]


@pytest.fixture(autouse=True)
def _emptied(judge: Judge) -> None:
    """Every test begins with two empty servers."""
    judge.kvcd.call("FLUSHALL")
    judge.redis.call("FLUSHALL")


def cli(server: ServerProcess, *words: str, data: bytes = b"", status: int = 0) -> str:
    """Run redis-cli and return what it printed, without the port's number."""
    command = ["redis-cli", *([] if "-u" in words or "-p" in words else ["-p", str(server.port)]), *words]
    done = subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return (done.stdout + done.stderr).decode().replace(f":{server.port}", ":PORT")


def same(judge: Judge, *words: str, data: bytes = b"", status: int = 0, shape: Callable[[str], object] = str) -> str:
    """Run it at both; what ``shape`` keeps of the two outputs must be the same. Return kvcd's."""
    ours, theirs = (cli(server, *words, data=data, status=status) for server in (judge.kvcd, judge.redis))
    assert shape(ours) == shape(theirs)
    return ours


def lines_of(server: ServerProcess, *words: str) -> Iterator[str]:
    """Run redis-cli until its lines are no longer asked for."""
    with subprocess.Popen(["redis-cli", "-p", str(server.port), *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield from process.stdout
        finally:
            process.kill()


@pytest.mark.parametrize("version", ["-2", "-3"])
def test_single_commands(judge: Judge, version: str) -> None:
    """Replies of all kinds in its three ways of showing them; commands from a file; a value from standard input."""
    assert same(judge, version, "SET", "k", "v", "EX", "100") == "OK\n"
    for output in ("--raw", "--no-raw", "--csv", "--json", "--quoted-json"):
        for words in (("GET", "k"), ("GET", "none"), ("MGET", "k", "none"), ("NONSENSE",), ("CLIENT", "TRACKINGINFO"), ("STRLEN", "k")):
            same(judge, version, output, *words)
    same(judge, version, "--no-raw", "COMMAND", "INFO", "get", "none")
    same(judge, version, "-e", "NONSENSE", status=1)
    same(judge, version, data=b"SET a 1\nINCR a\nMULTI\nINCR a\nGET\nEXEC\nGET\nPING\nSELECT 3\nGET a\n")
    same(judge, version, "-r", "3", "INCR", "many")
    same(judge, version, "-n", "3", "SET", "in", "three")
    value = os.urandom(200_000)
    assert same(judge, version, "-x", "SET", "large", data=value) == "OK\n"
    assert same(judge, version, "-X", "tag", "SET", "tagged", "tag", data=value) == "OK\n"
    assert same(judge, version, "STRLEN", "large") == "200000\n"
    assert "maxmemory" in same(judge, version, "CONFIG", "GET", "maxmemory")


def test_addresses(judge: Judge, servers: Servers) -> None:
    """By URI with and without a user, by a password, by a Unix socket."""
    for server in (judge.kvcd, judge.redis):
        server.call("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all")
        assert cli(server, "-u", f"redis://127.0.0.1:{server.port}/5", "SET", "k", "v") == "OK\n"
        assert cli(server, "-u", f"redis://reader:secret@127.0.0.1:{server.port}/5", "--no-auth-warning", "GET", "k") == "v\n"
        server.call("ACL", "DELUSER", "reader")
    same(judge, "--user", "nobody", "-a", "wrong", "--no-auth-warning", "PING")
    path = f"{servers.folder}/clients.sock"
    with servers.kvcd(unixsocket=path):
        assert cli(judge.kvcd, "-p", "0", "-s", path, "PING") == "PONG\n"


def test_tls(servers: Servers, tmp_path: Path) -> None:
    """With a certificate of its own and the authority's; redis-benchmark too."""
    authority = Authority.make(tmp_path)
    own, port = authority.sign("server"), free_port()
    with servers.kvcd(tls_port=port, tls_cert_file=own.file, tls_key_file=own.key, tls_ca_cert_file=authority.own.file) as server:
        client = authority.sign("client")
        words = ["-p", str(port), "--tls", "--cacert", str(authority.own.file), "--cert", str(client.file), "--key", str(client.key)]
        if "Unrecognized option" in cli_refuses(*words):
            pytest.fail("this redis-cli is made without TLS", pytrace=False)
        assert cli(server, *words, "SET", "k", "v") == "OK\n"
        assert cli(server, *words, "-3", "GET", "k") == "v\n"
        assert "SET: " in benchmark(server, *words, "-t", "set", "-n", "500", "-c", "5", "-q")


def cli_refuses(*words: str) -> str:
    """What it says to a command line."""
    return subprocess.run(["redis-cli", *words, "PING"], capture_output=True, text=True, timeout=DEADLINE_S, check=False).stderr


def test_walks(judge: Judge) -> None:
    """--scan with patterns, --pipe, --bigkeys, --memkeys, --hotkeys."""
    frames = b"".join(b"*3\r\n$3\r\nSET\r\n$8\r\nkey:%04d\r\n$3\r\nabc\r\n" % number for number in range(2000))
    assert "errors: 0, replies: 2000" in same(judge, "--pipe", data=frames, shape=lambda shown: shown.splitlines()[-1])
    assert "errors: 1, replies: 2" in same(judge, "--pipe", data=b"*1\r\n$4\r\nPING\r\n*1\r\n$3\r\nGET\r\n", status=1)
    same(judge, "--scan", shape=lambda shown: sorted(shown.split()))
    same(judge, "--scan", "--pattern", "key:19?5", shape=lambda shown: sorted(shown.split()))
    for server in (judge.kvcd, judge.redis):
        cli(server, "-x", "SET", "largest", data=b"x" * 1_000_000)
    summary = same(judge, "--bigkeys", "-i", "0.01", shape=lambda shown: shown.partition("-------- summary -------")[2])
    assert re.search(r"Biggest string found \S*largest\S* has 1000000 bytes", summary)
    for server in (judge.kvcd, judge.redis):
        for samples in ((), ("--memkeys-samples", "3")):
            assert re.search(r"Biggest string found \S*largest\S* has \d{7} bytes", cli(server, "--memkeys", *samples))
        assert "LFU" in cli(server, "--hotkeys", status=1)
        server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        for _ in range(300):
            server.call("GET", "largest")
        assert re.search(r'hot key found with counter: \d+\s+keyname: "?largest', cli(server, "--hotkeys"))
        server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_figures_that_go_on(judge: Judge) -> None:
    """--stat, --latency, --latency-history."""
    for server in (judge.kvcd, judge.redis):
        server.call("SET", "k", "v")
        with Terminal("redis-cli", "-p", str(server.port), "--stat", "-i", "0.05") as terminal:
            terminal.until("keys       mem      clients blocked requests            connections")
            for _ in range(3):
                terminal.until("(+")
                terminal.until("\r\n")
            lines = terminal.shown.decode().splitlines()
            assert all(re.match(r"1 +\d+\.\d+[KMG] +\d+ +0 +\d+ \(\+\d+\) +\d+", line) for line in lines[2:4]), lines
        assert re.fullmatch(r"\d+ \d+ \d+\.\d+ \d+\n", cli(server, "--latency", "-i", "0.1"))
        with Terminal("redis-cli", "-p", str(server.port), "--latency-history", "-i", "0.1") as terminal:
            terminal.until("seconds range")


def test_what_is_refused_is_said(judge: Judge, tmp_path: Path) -> None:
    """Scripts and the replica's stream are not there: an error, and no waiting for ever."""
    script = tmp_path / "one.lua"
    script.write_text("return 1")
    assert "unknown command" in cli(judge.kvcd, "--eval", str(script))
    assert "SYNC with master failed" in cli(judge.kvcd, "--rdb", str(tmp_path / "dump.rdb"), status=1)


@pytest.mark.parametrize("version", ["-2", "-3"])
def test_streams_of_lines(judge: Judge, version: str) -> None:
    """MONITOR and SUBSCRIBE print what others do."""
    shown = []
    for server in (judge.kvcd, judge.redis):
        monitor, channel = lines_of(server, version, "MONITOR"), lines_of(server, version, "--csv", "SUBSCRIBE", "news", "other")
        told = [next(monitor), next(channel), next(channel)]
        server.call("SET", "k", 'a "quoted" value\r\n')
        server.call("PUBLISH", "news", "text")
        told.append(next(channel))
        for word in ("SET", "PUBLISH"):
            line = next(line for line in monitor if f'"{word}"' in line)
            told.append(re.sub(r"^\S+ \[0 \S+\]", "", line))
        shown.append(told)
        monitor.close()  # type: ignore[attr-defined]
        channel.close()  # type: ignore[attr-defined]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("version", ["-2", "-3"])
def test_on_a_terminal(judge: Judge, version: str) -> None:
    """Prompt, hints while one types, help, transactions and databases in the prompt, subscribing and leaving again."""
    shown = []
    for server in (judge.kvcd, judge.redis):
        prompt = f"127.0.0.1:{server.port}"
        with Terminal("redis-cli", version, "-p", str(server.port)) as terminal:
            terminal.until(f"{prompt}> ")
            for line, wanted in (
                ("SET k v", f"{prompt}> "),
                ("get k", f"{prompt}> "),
                ("mget k none", f"{prompt}> "),
                ("nonsense", f"{prompt}> "),
                ("help expire", f"{prompt}> "),
                ("select 3", f"{prompt}[3]> "),
                ("multi", f"{prompt}[3](TX)> "),
                ("incr n", f"{prompt}[3](TX)> "),
                ("exec", f"{prompt}[3]> "),
                ("config get maxclients", f"{prompt}[3]> "),
                ("client getname", f"{prompt}[3]> "),
            ):
                terminal.type(f"{line}\r")
                terminal.until("\r\n")
                terminal.until(wanted)
            terminal.type("subscribe news\r")
            terminal.until("(integer) 1")
            server.call("PUBLISH", "news", "text")
            terminal.until("text")
        # The summaries are kvcd's own words.
        shown.append(re.sub(r"(summary:\S*) [^\r]*", r"\1", terminal.shown.decode().replace(str(server.port), "PORT")))
    assert shown[0] == shown[1]
    assert "value [NX|XX]" in shown[0]  # the hint


def benchmark(server: ServerProcess, *words: str) -> str:
    """Run redis-benchmark and return what it printed."""
    given = words if "-p" in words else ("-p", str(server.port), *words)
    done = subprocess.run(["redis-benchmark", *given], capture_output=True, timeout=DEADLINE_S, check=True, text=True)
    assert "rror" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("words", ["-P 1", "-P 16", "-3", "--threads 2", "-3 --enable-tracking", "-k 0 -n 300", "-x"])
def test_redis_benchmark(judge: Judge, words: str) -> None:
    """All its tests whose commands are offered run to the end without an error; no figure is judged."""
    for server in (judge.kvcd, judge.redis):
        shown = benchmark(server, "-t", BENCHMARKS_OFFERED, "-n", "1000", "-c", "20", "-r", "1000", "-q", *words.split())
        for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"):
            assert f"{name}: " in shown
        keys = server.call("DBSIZE")
        assert isinstance(keys, int)
        assert 50 < keys <= 2001


def test_redis_benchmark_of_any_command(judge: Judge) -> None:
    """A command of one's own, the table for programs, and idle connections."""
    for server in (judge.kvcd, judge.redis):
        shown = benchmark(server, "--csv", "-n", "500", "-c", "10", "-r", "100", "SETRANGE", "key:__rand_int__", "10", "value")
        assert '"SETRANGE key:__rand_int__ 10 value"' in shown
        assert json.loads(f"[{shown.splitlines()[-1]}]")
