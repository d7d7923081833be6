"""The request parser beside a real redis-server: the same bytes, the same commands and the same errors."""

from __future__ import annotations

from collections.abc import Callable

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.parser import ProtocolError, PythonParser

Exchange = Callable[..., bytes]

PING = b"*1\r\n$4\r\nPING\r\n"


def outcome(stream: bytes, *, authenticated: bool = True) -> tuple[list[list[bytes]], bytes]:
    """The commands in ``stream``, and the error reply that ends it or nothing."""
    parser = PythonParser(authenticated=authenticated)
    parser.feed(stream)
    commands = []
    try:
        while taken := parser.take_all():
            commands += taken
    except ProtocolError as error:
        return commands, b"-ERR " + str(error).encode("latin-1") + b"\r\n"
    return commands, b""


ENDINGS = [
    # Multi-bulk headers.
    b"*\r\n", b"*a\r\n", b"*1a\r\n", b"* 1\r\n", b"*1 \r\n", b"*+1\r\n", b"*01\r\n", b"*00\r\n", b"*-0\r\n", b"*-\r\n", b"*--1\r\n",
    b"*1\n\r\n", b"*2147483647\r\n", b"*2147483648\r\n", b"*1048577\r\n", b"*9223372036854775807\r\n", b"*9223372036854775808\r\n",
    b"*-9223372036854775808\r\n", b"*-9223372036854775809\r\n", b"*18446744073709551617\r\n", b"*00000000000000000000000000000001\r\n",
    b"*000000001\r\n", b"*0\r\n", b"*-1\r\n", b"*0\rx", b"*1\rx$4\rxPING\r\n", b"*1", b"*1\r", b"*1\0\r\n", b"*\0" + b"1" * 10,
    b"*99999999999999999999\r\n", b"*123456789\r\n", b"*1234567890\r\n", b"*12345678901\r\n",
    # Bulk headers.
    b"*1\r\n#\r\n", b"*1\r\n#", b"*1\r\n#\r", b"*1\r\n\r\n", b"*1\r\n\n\r\n", b"*1\r\n\0\r\n", b"*1\r\n\xff\r\n", b"*1\r\n4\r\nPING\r\n",
    b"*1\r\n'\r\n", b"*1\r\n$\r\n", b"*1\r\n$a\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$-0\r\n", b"*1\r\n$+4\r\n", b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$4 \r\nPING\r\n", b"*1\r\n$4\0\r\nPING\r\n", b"*1\r\n$536870912\r\n", b"*1\r\n$536870913\r\n",
    b"*1\r\n$9223372036854775807\r\n", b"*1\r\n$9223372036854775808\r\n", b"*1\r\n$99999999999\r\n", b"*1\r\n$4\r\nPINGxx" + PING,
    b"*1\r\n$4\r\nPING\0\0" + PING, b"*1\r\n$4\rxPING\r\n", b"*1\r\n$0\r\n\r\n", b"*1\r\n$000000000\r\n\r\n",
    # Inline requests.
    b"PING\r\n", b"PING\n", b"\n", b"\r\n", b"\r\r\n", b" \r\n", b"PING\r\r\n", b"PING\rPING\r\n", b"'PING\r\n", b"\"PING\r\n",
    b"PING 'a'b\r\n", b"PING \"a\"b\r\n", b"PING 'a'\x0b\r\n", b"PING \"a\\\r\n", b"PING 'a\\'\r\n", b"PI\0NG\r\n", b"PING\0\r\n" + PING,
    b"'PI\0\r\n", b"-1\r\n", b"$4\r\nPING\r\n", b"\0\r\n", b"PING \"\\\"\n",
    # Lines that never end, at the limit and behind it.
    b"x" * 65536, b"x" * 65537, b"*" + b"1" * 65535, b"*" + b"1" * 65536, b"*1\r\n$" + b"1" * 65535, b"*1\r\n$" + b"1" * 65536,
    b"*1\r\n" + b"x" * 65537, b"a\0" + b"\n" * 65534, b"a\0" + b"\n" * 65535, b"*\0" + b"\r\n" * 32767, b"*\0" + b"\r\n" * 32768,
]  # fmt: skip


def assert_same_as_redis(redis_exchange: Exchange, stream: bytes, *, authenticated: bool = True) -> None:
    """Redis answers each command of the parser once, in that number, then with the parser's error."""
    answer = redis_exchange(stream, authenticated=authenticated)
    commands, error = outcome(stream, authenticated=authenticated)
    reader = hiredis.Reader()
    reader.feed(answer)
    replies = []
    while (reply := reader.gets()) is not False:
        replies.append(reply)
    is_error = answer.rpartition(b"-ERR Protocol error")[1] != b""
    assert is_error == bool(error), (answer, commands, error)
    assert answer.endswith(error), (answer, error)
    assert len(replies) == len(commands) + is_error, (answer, commands, error)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: repr(ending[:24]))
def test_errors_are_those_of_redis(redis_exchange: Exchange, ending: bytes) -> None:
    assert_same_as_redis(redis_exchange, PING + ending)


@pytest.mark.parametrize(
    "stream",
    [
        b"*10\r\n" + b"$1\r\na\r\n" * 10,
        b"*11\r\n" + b"$1\r\na\r\n" * 11,
        b"*2\r\n$3\r\nGET\r\n$16384\r\n" + b"a" * 16384 + b"\r\n",
        b"*2\r\n$3\r\nGET\r\n$16385\r\n" + b"a" * 16385 + b"\r\n",
        b"*2\r\n$3\r\nGET\r\n$536870913\r\n",
        b"*2147483648\r\n",
        b"GET " + b"a" * 20000 + b"\r\n",
        b"GET " + b"a " * 20 + b"\r\n",
    ],
    ids=lambda stream: repr(stream[:30]),
)
def test_limits_before_authentication_are_those_of_redis(redis_exchange: Exchange, stream: bytes) -> None:
    assert_same_as_redis(redis_exchange, stream, authenticated=False)


INLINE_PIECES = [
    b'"', b"'", b"\\", b"\\x", b"\\x4", b"\\x41", b"\\xfg", b"\\n", b"\\r", b"\\t", b"\\b", b"\\a", b"\\\\", b"\\\"", b"\\'", b" ",
    b"\t", b"\r", b"\x0b", b"\x0c", b"a", b"B", b"\xff", b"' '", b'" "', b"\x80", b"\x1f",
]  # fmt: skip


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pieces=st.lists(st.sampled_from(INLINE_PIECES), max_size=12))
def test_inline_arguments_are_those_of_redis(redis_exchange: Exchange, pieces: list[bytes]) -> None:
    line = b"EVAL 'return ARGV' 0 " + b"".join(pieces) + b"\r\n"
    commands, error = outcome(line)
    answer = redis_exchange(line)
    if error:
        assert answer == error
        return
    reader = hiredis.Reader()
    reader.feed(answer)
    assert [reader.gets()] == [command[3:] for command in commands]


STREAM_PIECES = [
    b"*", b"$", b"\r\n", b"\r", b"\n", b"\0", b"-", b"0", b"1", b"2", b"3", b'"', b"'", b"\\", b" ", b"zz", b"*1\r\n", b"*2\r\n",
    b"*0\r\n", b"$2\r\nzz\r\n", b"$0\r\n\r\n", b"$2\r\n\r\nzz", b"$-1\r\n", b"*-1\r\n", b"99999999999", b"\r\n*1\r\n$2\r\nzz\r\n",
]  # fmt: skip


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pieces=st.lists(st.sampled_from(STREAM_PIECES), max_size=16))
def test_any_bytes_end_as_in_redis(redis_exchange: Exchange, pieces: list[bytes]) -> None:
    assert_same_as_redis(redis_exchange, b"".join(pieces))
