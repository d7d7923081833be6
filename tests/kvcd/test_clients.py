"""Clients that people use, unchanged: redis-cli, redis-benchmark, redis-py of two generations, plain sockets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import redis.asyncio

from tests.programs import require_program
from tests.servers import ROOT, ServerProcess

DEADLINE_S = 60
OLD_REDIS_PY = "redis>=5.0,<6"

@pytest.fixture
def redis_cli() -> None:
    """Skip or fail without redis-cli."""
    require_program("redis-cli")


needs_cli = pytest.mark.usefixtures("redis_cli")


def cli(server: ServerProcess, *words: str, data: bytes = b"") -> str:
    """Run redis-cli and return what it printed."""
    done = subprocess.run(
        ["redis-cli", "-p", str(server.port), *words], input=data, capture_output=True, timeout=DEADLINE_S, check=True
    )
    assert not done.stderr, done.stderr
    return done.stdout.decode()


@needs_cli
@pytest.mark.parametrize("version", ["-2", "-3"])
def test_redis_cli(kvcd_server: ServerProcess, version: str) -> None:
    """Single commands, commands from a file, and its way of showing replies in both protocols."""
    assert cli(kvcd_server, version, "SET", "k", "v", "EX", "100") == "OK\n"
    assert cli(kvcd_server, version, "GET", "k") == "v\n"
    assert cli(kvcd_server, version, "--no-raw", "GET", "none") == "(nil)\n"
    assert cli(kvcd_server, version, "--no-raw", "MGET", "k", "none") == '1) "v"\n2) (nil)\n'
    assert cli(kvcd_server, version, data=b"SET a 1\nINCR a\nPREFIX.MATCH a b\nGET\n").split("\n")[:3] == ["OK", "2", "1"]
    assert "kvcd_version:" in cli(kvcd_server, version, "INFO", "server") + cli(kvcd_server, version, "INFO")
    assert "maxmemory" in cli(kvcd_server, version, "CONFIG", "GET", "maxmemory")
    value = os.urandom(200_000)
    assert cli(kvcd_server, version, "-x", "SET", "large", data=value) == "OK\n"
    assert cli(kvcd_server, version, "STRLEN", "large") == "200000\n"


@needs_cli
def test_redis_cli_walks_pipes_and_looks_for_large_keys(kvcd_server: ServerProcess) -> None:
    """--scan, --pipe, --bigkeys, and the raw value back."""
    frames = b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\nkey:%d\r\n$3\r\nabc\r\n" % (len(b"key:%d" % number), number) for number in range(2000))
    assert "errors: 0, replies: 2000" in cli(kvcd_server, "--pipe", data=frames)
    assert sorted(cli(kvcd_server, "--scan").split()) == sorted(f"key:{number}" for number in range(2000))
    assert sorted(cli(kvcd_server, "--scan", "--pattern", "key:19?5").split()) == sorted(f"key:19{number}5" for number in range(10))
    value = os.urandom(1_000_000).replace(b"\n", b" ")
    cli(kvcd_server, "-x", "SET", "large", data=value)
    done = subprocess.run(["redis-cli", "-p", str(kvcd_server.port), "GET", "large"], capture_output=True, timeout=DEADLINE_S, check=True)
    assert done.stdout == value + b"\n"
    assert "Biggest string found" in cli(kvcd_server, "--bigkeys")


@pytest.mark.parametrize("pipeline", [1, 16])
def test_redis_benchmark(kvcd_server: ServerProcess, pipeline: int) -> None:
    """Its usual tests run to the end without an error; no figure is judged."""
    require_program("redis-benchmark")
    words = ["-t", "ping_inline,ping_mbulk,set,get,incr,mset", "-n", "2000", "-c", "20", "-r", "1000", "-P", str(pipeline), "-q"]
    done = subprocess.run(
        ["redis-benchmark", "-p", str(kvcd_server.port), *words], capture_output=True, timeout=DEADLINE_S, check=True, text=True
    )
    for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"):
        assert f"{name}: " in done.stdout
    assert "rror" not in done.stdout + done.stderr
    keys = kvcd_server.call("DBSIZE")
    assert isinstance(keys, int)
    assert 500 < keys <= 2001


# What both generations of redis-py are asked to do; a script, because two of them do not fit into one process.
_SCRIPT = """
import asyncio, os, sys
import redis, redis.asyncio

port, protocol = int(sys.argv[1]), int(sys.argv[2])
value = os.urandom(300_000)

def sync():
    with redis.Redis(port=port, protocol=protocol, socket_timeout=30) as client:
        client.flushall()
        assert client.ping() is True
        assert client.set("k", "v", ex=100, nx=True) is True
        assert client.set("k", "w", nx=True) is None
        assert client.set("k", "w", get=True) == b"v"
        assert client.get("k") == b"w" and client.get("none") is None
        assert client.mset({"a": 1, "b": value}) is True
        assert client.mget("a", "none", "b") == [b"1", None, value]
        assert client.incrby("a", 5) == 6 and client.incrbyfloat("a", 0.5) == 6.5
        assert client.append("k", "xyz") == 4 and client.getrange("k", 1, 2) == b"xy"
        assert client.expire("k", 50) is True and 0 < client.ttl("k") <= 50 and client.persist("k") is True
        assert client.exists("k", "a", "none") == 2 and client.delete("k", "none") == 1
        assert sorted(client.scan_iter(count=1)) == [b"a", b"b"]
        assert client.type("a") == b"string" and client.dbsize() == 2
        assert client.client_setname("me") is True and client.client_getname() in ("me", b"me")
        assert any(entry["name"] == "me" for entry in client.client_list())
        assert client.info()["kvcd_version"] and client.config_get("maxmemory") == {"maxmemory": "0"}
        assert client.execute_command("PREFIX.MATCH", "a", "b", "c") == 2
        with client.pipeline(transaction=False) as pipeline:
            for number in range(500):
                pipeline.set(f"p{number}", number).get(f"p{number}")
            assert pipeline.execute() == [part for number in range(500) for part in (True, b"%d" % number)]
        try:
            client.execute_command("NONSENSE")
        except redis.ResponseError as error:
            assert "unknown command" in str(error)
        else:
            raise AssertionError("no error")

async def main():
    client = redis.asyncio.Redis(port=port, protocol=protocol, socket_timeout=30)
    try:
        assert await client.set("async", value) is True
        assert await asyncio.gather(*(client.get("async") for _ in range(20))) == [value] * 20
        async with client.pipeline(transaction=False) as pipeline:
            assert await pipeline.incr("n").incr("n").get("n").execute() == [1, 2, b"2"]
    finally:
        await client.aclose()

sync()
asyncio.run(main())
print(redis.__version__)
"""


def run_script(server: ServerProcess, protocol: int, folder: Path | None) -> str:
    """Run the script with this environment's redis-py, or with the one in ``folder``; return the version that ran."""
    environment = dict(os.environ) | ({"PYTHONPATH": str(folder)} if folder else {})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT, str(server.port), str(protocol)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env=environment,
        cwd=folder or ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.parametrize("protocol", [2, 3])
def test_newest_redis_py(kvcd_server: ServerProcess, protocol: int) -> None:
    """The version of this environment, synchronous and asynchronous."""
    assert run_script(kvcd_server, protocol, None) == redis.__version__


@pytest.fixture(scope="session")
def old_redis_py() -> Path:
    """A folder with redis-py 5, installed once and kept with the other build outputs; skips where no index can be reached."""
    folder = ROOT / "build" / "redis-py-5"
    if not folder.is_dir():
        # Beside its place and then moved there: what an interrupted run left is not taken for whole.
        begun = folder.with_name(f"redis-py-5.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(begun), OLD_REDIS_PY]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            shutil.rmtree(begun, ignore_errors=True)
            pytest.skip(f"redis-py 5 cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
        begun.rename(folder)
    return folder


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_5(kvcd_server: ServerProcess, old_redis_py: Path, protocol: int) -> None:
    """The generation that most services still have."""
    assert run_script(kvcd_server, protocol, old_redis_py).startswith("5.")


def test_inline_commands_by_hand(kvcd_server: ServerProcess) -> None:
    """What somebody types into nc: bare line feeds, quotes, blanks, an empty line, several at once."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(b'ping\n\r\n  SET  k  "a\\x41 b" \r\nget k\nSET k \'it\\\'s\'\nGET k\nmget k none\nQUIT\n')
        assert wire.rest() == b"+PONG\r\n+OK\r\n$4\r\naA b\r\n+OK\r\n$4\r\nit's\r\n*2\r\n$4\r\nit's\r\n$-1\r\n+OK\r\n"


async def test_many_asynchronous_clients_at_once(kvcd_server: ServerProcess) -> None:
    """Fifty connections of one event loop, values of all sizes, each reply its own."""
    import asyncio

    async def work(number: int) -> None:
        client = redis.asyncio.Redis(port=kvcd_server.port, socket_timeout=DEADLINE_S)
        try:
            for size in (0, 10, 5000, 70_000, 400_000):
                value = number.to_bytes(2, "little") * (size // 2)
                await client.set(f"k{number}", value)
                assert await client.get(f"k{number}") == value
        finally:
            await client.aclose()

    await asyncio.gather(*(work(number) for number in range(50)))
