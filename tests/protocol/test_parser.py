"""The request parser by itself: framing, splits, staging, limits; hiredis judges valid frames."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.parser import ProtocolError, PythonParser

LARGE_BYTES = 12


def frame(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments)


def parse(chunks: Iterable[bytes], *, stage: bool = False, authenticated: bool = True) -> tuple[list[list[bytes]], str | None]:
    """All commands in ``chunks``, taken after each of them, and the text of the protocol error that ended them."""
    parser = PythonParser(large_bytes=LARGE_BYTES, max_bulk_bytes=100_000, stage=stage, authenticated=authenticated)
    commands: list[list[bytes]] = []
    try:
        for chunk in chunks:
            parser.feed(chunk)
            while taken := parser.take_all():
                commands += taken
    except ProtocolError as error:
        return commands, str(error)
    return commands, None


STREAMS = [
    frame(b"GET", b"key") + frame(b"SET", b"key", b"v" * 30, b"PX", b"100") + frame(b"PING"),
    frame(b"SET", b"", b"\r\n*1\r\n$4\r\nPING\r\n\0") + frame(b"MSET", b"a" * 12, b"b" * 12, b"c" * 11, b"d" * 13),
    b"*0\r\n\r\n*-7\r\n\n  \t \r\n" + frame(b"PING") + b"PING\r\nping x\n",
    b"set 'it\\'s' \"a\\x41\\n\\r\\t\\b\\a\\q\\\"\" ''\"\"\r\n" + frame(b"PING"),
    b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\n\r" + frame(b"PING"),
    frame(b"SET", b"k", b"v" * 20) + b"*2\r\n$3\r\nGET\r\n#3\r\n",
    b"*3\r\n$3\r\nSET\r\n$20\r\n" + b"v" * 20 + b"\r\n#1\r\n",
    frame(b"GET", b"k") + b"*x\r\n" + frame(b"GET", b"k"),
    frame(b"GET", b"k") + b'echo "unbalanced\r\n' + frame(b"GET", b"k"),
    b"PI\0NG\r\n" + frame(b"GET", b"k"),
    b"*1\r\n$4\0\r\nPING\r\n" + frame(b"GET", b"k"),
    b"*1\r\n$100001\r\n",
    b"*00001\r\n$4\r\nPING\r\n",
    b"*1\r\n$0004\r\nPING\r\n",
    b"*00000000001\r\n$4\r\nPING\r\n",
]


@pytest.mark.parametrize("stage", [False, True])
@pytest.mark.parametrize("stream", STREAMS)
def test_every_split_gives_the_same_commands(stream: bytes, stage: bool) -> None:
    whole = parse([stream])
    assert parse([stream], stage=stage) == whole
    for middle in range(len(stream) + 1):
        assert parse([stream[:middle], stream[middle:]], stage=stage) == whole, middle
    assert parse([stream[index : index + 1] for index in range(len(stream))], stage=stage) == whole


def test_commands_are_what_was_sent() -> None:
    assert parse(STREAMS[:1]) == ([[b"GET", b"key"], [b"SET", b"key", b"v" * 30, b"PX", b"100"], [b"PING"]], None)
    assert parse(STREAMS[2:3]) == ([[b"PING"], [b"PING"], [b"ping", b"x"]], None)
    # The quotes that open right behind a closing pair are an error, so the stream above ends there.
    assert parse(STREAMS[3:4]) == ([], "Protocol error: unbalanced quotes in request")
    assert parse(STREAMS[4:5]) == ([[b"PING"]] * 3, None)


def test_inline_arguments_are_unescaped() -> None:
    line = b"set 'it\\'s \\n' \"a\\x41\\xfF\\xg0\\n\\r\\t\\b\\a\\q\\\"\\\\\" '' \"\" a'b c'\tx\\n\x0by \x0b\x0cz\r\n"
    expected = [b"set", b"it's \\n", b'aA\xffxg0\n\r\t\b\aq"\\', b"", b"", b"ab c", b"x\\n\x0by", b"z"]
    assert parse([line]) == ([expected], None)
    assert parse([line[index : index + 1] for index in range(len(line))]) == ([expected], None)


def test_inline_and_frames_are_told_apart() -> None:
    parser = PythonParser()
    parser.feed(b"PING\r\n" + frame(b"PING") + b"PING\n")
    assert parser.take_all() == [[b"PING"]] * 3
    assert parser.inline_flags == [True, False, True]


arguments_strategy = st.lists(st.binary(max_size=40) | st.sampled_from([b"\r\n", b"$3\r\n", b"*1\r\n", b"\0"]), min_size=1, max_size=15)


@settings(deadline=None)
@given(commands=st.lists(arguments_strategy, max_size=6), cuts=st.lists(st.integers(0, 2000), max_size=8), stage=st.booleans())
def test_valid_frames_agree_with_hiredis(commands: list[list[bytes]], cuts: list[int], stage: bool) -> None:
    stream = b"".join(frame(*command) for command in commands)
    reader = hiredis.Reader()
    reader.feed(stream)
    expected = []
    while (command := reader.gets()) is not False:
        expected.append(command)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(bounds)]
    assert parse(chunks, stage=stage) == (expected, None)
    assert expected == commands


DICTIONARY = [
    b"*", b"$", b"\r\n", b"\r", b"\n", b"\0", b"-", b"0", b"1", b"2", b"3", b"12", b"99999999999999999999", b"2147483648", b'"', b"'",
    b"\\", b"\\x4", b"\\x41", b" ", b"\t", b"\x0b", b"abc", b"*1\r\n", b"*2\r\n", b"$1\r\na\r\n", b"$0\r\n\r\n",
    b"$12\r\nabcdefghijkl\r\n", b"$-1\r\n",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(st.sampled_from(DICTIONARY) | st.binary(max_size=3), max_size=30), cuts=st.lists(st.integers(0, 100), max_size=6))
def test_any_bytes_at_any_split_give_the_same_outcome(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    whole = parse([stream])
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(bounds)]
    assert parse(chunks) == whole
    assert parse(chunks, stage=True) == whole
    assert parse([stream[index : index + 1] for index in range(len(stream))], stage=True) == whole


def test_large_bulks_leave_the_buffer_and_small_ones_do_not() -> None:
    parser = PythonParser(large_bytes=LARGE_BYTES, stage=True)
    parser.feed(frame(b"MSET", b"a", b"x" * LARGE_BYTES, b"b" * (LARGE_BYTES - 1), b"y" * 1000))
    assert parser.take_all() == [[b"MSET", b"a", b"x" * LARGE_BYTES, b"b" * (LARGE_BYTES - 1), b"y" * 1000]]
    assert parser.staged_count == 2


def test_nothing_is_staged_before_authentication() -> None:
    parser = PythonParser(large_bytes=LARGE_BYTES, stage=True, authenticated=False)
    login = frame(b"AUTH", b"x" * 1000)
    parser.feed(login[:-1])
    assert parser.take_all() == []
    parser.feed(login[-1:] + login)
    assert parser.take_all() == [[b"AUTH", b"x" * 1000]] * 2
    assert parser.staged_count == 0
    parser.authenticate()
    parser.feed(frame(b"SET", b"k", b"x" * 1000) + frame(*[b"a"] * 11))
    assert [len(command) for command in parser.take_all()] == [3, 11]
    assert parser.staged_count == 1


def test_an_inline_argument_is_never_staged() -> None:
    parser = PythonParser(large_bytes=LARGE_BYTES, stage=True)
    parser.feed(b"SET k " + b"v" * 100 + b"\r\n")
    assert parser.take_all() == [[b"SET", b"k", b"v" * 100]]
    assert parser.staged_count == 0


def test_wanted_counts_down_to_the_end_of_the_bulk() -> None:
    parser = PythonParser()
    for data, wanted_bytes in [(b"*2\r\n$3\r\nGET\r\n", 0), (b"$10\r", 0), (b"\n", 12), (b"abcdefghi", 3), (b"j\r", 1), (b"\n", 0)]:
        parser.feed(data)
        commands = parser.take_all()
        assert parser.wanted_bytes == wanted_bytes, data
    assert commands == [[b"GET", b"abcdefghij"]]


def test_wanted_of_a_staged_bulk_ends_with_its_line_end() -> None:
    parser = PythonParser(large_bytes=LARGE_BYTES, stage=True)
    for data, wanted_bytes in [(b"*1\r\n$12\r\nabcdefghijk", 3), (b"l", 2), (b"\r", 1), (b"\n", 0)]:
        parser.feed(data)
        commands = parser.take_all()
        assert parser.wanted_bytes == wanted_bytes, data
    assert commands == [[b"abcdefghijkl"]]


def test_wanted_does_not_wrap_around_at_an_absurd_limit() -> None:
    parser = PythonParser(max_bulk_bytes=2**64 - 1, large_bytes=2**64 - 1)
    parser.feed(b"*1\r\n$9223372036854775807\r\nabc\r\n")
    assert parser.take_all() == []
    assert parser.wanted_bytes == 2**63 - 1 + 2 - 5


def test_the_argument_list_grows_with_arrivals_and_shrinks_again() -> None:
    parser = PythonParser()
    idle_capacity = parser.argument_capacity
    parser.feed(b"*2147483647\r\n")
    assert parser.take_all() == []
    assert parser.argument_capacity == idle_capacity

    parser = PythonParser()
    stream = frame(*[b"a"] * 100_000)
    parser.feed(stream[:-1])
    assert parser.take_all() == []
    assert 99_999 <= parser.argument_capacity < 200_000
    parser.feed(stream[-1:] + frame(b"PING"))
    assert [len(command) for command in parser.take_all()] == [100_000, 1]
    assert parser.argument_capacity == idle_capacity


def test_an_error_comes_after_the_commands_before_it_and_stays() -> None:
    parser = PythonParser()
    parser.feed(frame(b"PING") + b"*1\r\n+\r\n" + frame(b"PING"))
    assert parser.take_all() == [[b"PING"]]
    for _ in range(2):
        with pytest.raises(ProtocolError, match=r"expected '\$', got '\+'"):
            parser.take_all()
        parser.feed(frame(b"PING"))


@pytest.mark.parametrize("prefix", [b"", b"*", b"*1\r\n", b"*1\r\n$"])
def test_a_long_line_fails_one_byte_behind_the_limit(prefix: bytes) -> None:
    line_length = 65536 - (len(prefix) if prefix != b"*1\r\n$" else 1) if prefix != b"*1\r\n" else 65536
    parser = PythonParser()
    parser.feed(prefix + b"1" * line_length)
    assert parser.take_all() == []
    parser.feed(b"1")
    with pytest.raises(ProtocolError, match="Protocol error: too big"):
        parser.take_all()


def test_the_limits_verdict_does_not_depend_on_the_split() -> None:
    stream = b"x" * 65537 + b"\r\n"
    assert parse([stream]) == parse([stream[:65536], stream[65536:]]) == ([], "Protocol error: too big inline request")
    stream = b"x" * 65535 + b"\r\n"
    assert parse([stream]) == parse([stream[:65536], stream[65536:]]) == ([[b"x" * 65535]], None)
