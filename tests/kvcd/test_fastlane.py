"""Fast lane: runs of commands in one write answer as the same commands one by one do; keys named twice; odd forms."""

from __future__ import annotations

import random

import pytest

from tests.servers import ServerProcess, Servers
from tests.wire import ReplyError, Wire, encode

DEADLINE_S = 10  # a run that hangs shows as a timeout


def test_a_run_sees_its_own_writes_in_order(kvcd_server: ServerProcess) -> None:
    """A read behind a write of its key, a write behind a read, and deletes between them, all in one write."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(
            encode("GET", "k")
            + encode("SET", "k", "1")
            + encode("GET", "k")
            + encode("SET", "k", "2")
            + encode("STRLEN", "k")
            + encode("MSET", "k", "333", "other", "4")
            + encode("MGET", "k", "other", "k")
            + encode("DEL", "k", "k", "other")
            + encode("EXISTS", "k", "other")
            + encode("SET", "k", "5", "NX")
            + encode("SET", "k", "6", "NX")
            + encode("GET", "k")
            + encode("TTL", "k")
        )
        assert wire.replies(13) == [None, b"OK", b"1", b"OK", 1, b"OK", [b"333", b"4", b"333"], 2, 0, b"OK", None, b"5", -1]


def test_a_key_read_before_it_is_written_in_the_same_run(kvcd_server: ServerProcess) -> None:
    """The reads of a run that became a writing one are noted too."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.call("SET", "a", "old")
        wire.send(encode("GET", "a") + encode("GET", "b") + encode("SET", "c", "x") + encode("SET", "a", "new") + encode("GET", "a"))
        assert wire.replies(5) == [b"old", None, b"OK", b"OK", b"new"]


def test_a_large_value_read_before_it_is_replaced_in_the_same_run(kvcd_server: ServerProcess) -> None:
    """Its pages are pinned a round later than a small value is replaced."""
    large = bytes(range(256)) * 1000
    with kvcd_server.connect() as wire:
        assert wire.call("SET", "k", large) == b"OK"
        for _ in range(5):
            wire.send(encode("GET", "k") + encode("SET", "k", "small") + encode("GET", "k") + encode("SET", "k", large))
            assert wire.replies(4) == [large, b"OK", b"small", b"OK"]


def test_the_same_key_in_another_database_is_another_key(kvcd_server: ServerProcess) -> None:
    """SELECT takes effect between the commands around it."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(encode("SET", "k", "zero") + encode("SELECT", 1) + encode("GET", "k") + encode("SET", "k", "one"))
        wire.send(encode("GET", "k") + encode("SELECT", 0) + encode("GET", "k"))
        assert wire.replies(7) == [b"OK", b"OK", None, b"OK", b"one", b"OK", b"zero"]


def test_commands_of_both_lanes_keep_their_order(kvcd_server: ServerProcess) -> None:
    """INCR and APPEND between SET and GET of one key."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        expected: list[object] = []
        data = b""
        for number in range(300):
            data += encode("SET", "n", number) + encode("INCR", "n") + encode("GET", "n") + encode("APPEND", "n", "0") + encode("GET", "n")
            expected += [b"OK", number + 1, b"%d" % (number + 1), len(str(number + 1)) + 1, b"%d0" % (number + 1)]
        wire.send(data)
        assert wire.replies(len(expected)) == expected


@pytest.mark.parametrize("name", ["MSET", "PREFIX.SET"])
def test_many_commands_that_name_a_key_twice(kvcd_server: ServerProcess, name: str) -> None:
    """Each is left to the slow lane; the marks of the keys that it named do not pile up until their table is full."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        for round_number in range(14):
            keys = [f"{round_number}:{number}" for number in range(400)]
            wire.send(encode(name, *(word for key in [*keys, keys[0]] for word in (key, "v"))))
            assert wire.reply() == (b"OK" if name == "MSET" else 401)
        assert wire.call("GET", "3:0") == b"v"
        assert kvcd_server.call("PING") == b"PONG"


def test_mset_with_a_key_twice_keeps_the_last(kvcd_server: ServerProcess) -> None:
    """Alone, and behind other commands of its run."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(encode("MSET", "k", "1", "l", "2", "k", "3") + encode("GET", "k"))
        wire.send(encode("GET", "x") + encode("MSET", "k", "4", "k", "5") + encode("MGET", "k", "l"))
        assert wire.replies(5) == [b"OK", b"3", None, b"OK", [b"5", b"2"]]


def test_longer_lists_than_a_run_holds(kvcd_server: ServerProcess) -> None:
    """Lists of keys around the bounds of runs and of the fast lane, in one write with small commands around."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        for count in (255, 256, 257, 511, 512, 767, 768, 769, 1023, 1024, 1025, 3000):
            keys = [f"{count}:{number}" for number in range(count)]
            wire.send(
                encode("PING")
                + encode("MSET", *(word for key in keys for word in (key, key)))
                + encode("MGET", *keys)
                + encode("EXISTS", *keys, "none")
                + encode("PREFIX.MATCH", *keys, "none", keys[0])
                + encode("DEL", *keys, *keys)
                + encode("PING", "end")
            )
            assert wire.replies(7) == [b"PONG", b"OK", [key.encode() for key in keys], count, count, count, b"end"]


def test_more_commands_than_a_run_holds(kvcd_server: ServerProcess) -> None:
    """A pipeline far longer than a run and than a read, its replies in order."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        count = 30_000
        sender = wire.send_in_background(b"".join(encode("SET", f"k{number}", number) for number in range(count)))
        assert wire.replies(count) == [b"OK"] * count
        sender.join()
        sender = wire.send_in_background(b"".join(encode("GET", f"k{number}") for number in range(count)))
        assert wire.replies(count) == [b"%d" % number for number in range(count)]
        sender.join()


def test_odd_forms_get_the_words_of_the_slow_lane(kvcd_server: ServerProcess) -> None:
    """What the fast lane does not take is refused in Redis's words, and the connection stays in step."""
    cases = {
        ("GET",): "ERR wrong number of arguments for 'get' command",
        ("GET", "a", "b"): "ERR wrong number of arguments for 'get' command",
        ("SET", "a"): "ERR wrong number of arguments for 'set' command",
        ("SET", "a", "b", "EX"): "ERR syntax error",
        ("SET", "a", "b", "EX", "0"): "ERR invalid expire time in 'set' command",
        ("SET", "a", "b", "EX", "1", "PX", "1"): "ERR syntax error",
        ("SET", "a", "b", "NX", "XX"): "ERR syntax error",
        ("SET", "a", "b", "EX", "1", "KEEPTTL"): "ERR syntax error",
        ("MSET", "a", "b", "c"): "ERR wrong number of arguments for 'mset' command",
        ("PING", "a", "b"): "ERR wrong number of arguments for 'ping' command",
        ("PREFIX.SET", "NX"): "ERR wrong number of arguments for 'prefix.set' command",
        ("NONSENSE", "a"): "ERR unknown command 'NONSENSE', with args beginning with: 'a' ",
    }
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(b"".join(encode("PING") + encode(*words) for words in cases))
        assert wire.replies(2 * len(cases)) == [reply for text in cases.values() for reply in (b"PONG", ReplyError(text))]


def test_prefix_commands_in_one_write(kvcd_server: ServerProcess) -> None:
    """A chain is matched, read and extended in one pipeline, with and without a parent."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(
            encode("PREFIX.MATCH", "a", "b")
            + encode("PREFIX.SET", "a", "1", "b", "2")
            + encode("PREFIX.SET", "PARENT", "b", "c", "3")
            + encode("PREFIX.MATCH", "a", "b", "c", "d", "a")
            + encode("PREFIX.GET", "a", "x", "b")
            + encode("PREFIX.GET", "x", "a")
            + encode("PREFIX.EXISTS", "a", "x", "c")
            + encode("PREFIX.SET", "NX", "PX", "100000", "a", "9", "d", "4")
            + encode("MGET", "a", "b", "c", "d")
            + encode("TTL", "d")
        )
        assert wire.replies(10) == [0, 2, 1, 3, [b"1"], [], [1, 0, 1], 2, [b"1", b"2", b"3", b"4"], 100]


def test_long_and_empty_keys(kvcd_server: ServerProcess) -> None:
    """Keys of any bytes; one over the limit is refused and the next command answered."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        for key in (b"", b"\x00", b"\r\n", bytes(range(256)), b"x" * 16383, b"y" * 16384):
            assert wire.call("SET", key, key) == b"OK"
            assert wire.call("GET", key) == key
        wire.send(encode("SET", b"z" * 16385, "v") + encode("GET", b"z" * 16385) + encode("PING"))
        first, second, third = wire.replies(3)
        assert isinstance(first, ReplyError)
        assert second is None or isinstance(second, ReplyError)
        assert third == b"PONG"


def replies_one_by_one(wire: Wire, commands: list[tuple[object, ...]]) -> list[object]:
    """Return each command's reply, asked for before the next is sent."""
    return [wire.call(*command) for command in commands]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12))
def test_a_pipeline_answers_as_its_commands_do_one_by_one(kvcd_server: ServerProcess, seed: int) -> None:
    """Random fast commands over few keys, so that nearly every run has dependencies."""
    pick = random.Random(seed)

    def key() -> str:
        return pick.choice("abcdef")

    def command() -> tuple[object, ...]:
        value = pick.choice(("", "1", "x" * 50, "y" * 3000, "z" * 40_000, "L" * 70_000))
        return pick.choice(
            (
                ("GET", key()),
                ("SET", key(), value, *pick.choice(((), ("NX",), ("XX",), ("EX", "1000"), ("KEEPTTL",)))),
                ("MGET", *(key() for _ in range(pick.randint(1, 5)))),
                ("MSET", *(word for _ in range(pick.randint(1, 3)) for word in (key(), value))),
                ("DEL", *(key() for _ in range(pick.randint(1, 3)))),
                ("EXISTS", key(), key()),
                ("STRLEN", key()),
                ("PREFIX.MATCH", key(), key(), key()),
                ("PREFIX.GET", key(), key(), key()),
                ("PREFIX.EXISTS", key(), key()),
                ("PREFIX.SET", *pick.choice(((), ("NX",), ("PARENT", key()))), key(), value, key(), value),
                ("PING", value),
            )
        )

    commands = [command() for _ in range(200)]
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        expected = replies_one_by_one(wire, commands)
        wire.call("FLUSHALL")
        sender = wire.send_in_background(b"".join(encode(*words) for words in commands))  # type: ignore[arg-type]
        assert wire.replies(len(commands)) == expected
        sender.join()


@pytest.mark.parametrize("refused", [8, 9])
def test_order_holds_after_more_runs_than_a_mark_can_count(servers: Servers, refused: int) -> None:
    """Runs are told apart by 16 bits: when those are used up the table begins anew, whichever way the last run ended."""
    with servers.kvcd(pool_size="48mb") as server, server.connect() as wire:
        # A run ends at each of these: an MSET that names a key twice (left to the slow lane), and the next SET of the same key.
        turn = encode("MSET", "k", "1", "k", "2") * refused + encode("SET", "k", "3") * 24
        check = encode("SET", "k", "old") + encode("SET", "k", "new") + encode("GET", "k") + encode("DEL", "k") + encode("GET", "k")
        for _repeat in range(50):
            wire.send(turn * 50 + check)
            wire.replies((refused + 24) * 50)
            assert wire.replies(5) == [b"OK", b"OK", b"new", 1, None]
