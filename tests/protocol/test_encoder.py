"""The reply encoder: hiredis decodes what it wrote, and a real redis-server writes the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.encoder import encode
from protocol.replies import NULL_ARRAY, OK, Error, Push, Simple, Verbatim

Exchange = Callable[..., bytes]

HELLO_3 = b"HELLO 3\r\n"


def frame(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments)


def ask(redis_exchange: Exchange, resp: int, *arguments: bytes) -> bytes:
    """The bytes of redis-server's reply to one command, in the given version of the protocol."""
    command = frame(*arguments)
    if resp == 2:
        return redis_exchange(command)
    greeting_and_reply = redis_exchange(HELLO_3 + b"PING\r\n" + command)
    return greeting_and_reply.partition(b"+PONG\r\n")[2]


@pytest.mark.parametrize(
    ("reply", "resp2", "resp3"),
    [
        (OK, b"+OK\r\n", b"+OK\r\n"),
        (Simple("two\r\nlines"), b"+two  lines\r\n", b"+two  lines\r\n"),
        (Error("ERR no\r\n"), b"-ERR no\r\n", b"-ERR no\r\n"),
        (Error("ERR '\udcff'"), b"-ERR '\xff'\r\n", b"-ERR '\xff'\r\n"),
        (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
        (b"\0\r\n", b"$3\r\n\0\r\n\r\n", b"$3\r\n\0\r\n\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
        (True, b":1\r\n", b"#t\r\n"),
        (False, b":0\r\n", b"#f\r\n"),
        (0, b":0\r\n", b":0\r\n"),
        (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
        (2**63 - 1, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
        (2**63, b"$19\r\n9223372036854775808\r\n", b"(9223372036854775808\r\n"),
        (-(2**63) - 1, b"$20\r\n-9223372036854775809\r\n", b"(-9223372036854775809\r\n"),
        (0.1, b"$19\r\n0.10000000000000001\r\n", b",0.10000000000000001\r\n"),
        (3.0, b"$1\r\n3\r\n", b",3\r\n"),
        (math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
        (-math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
        ([], b"*0\r\n", b"*0\r\n"),
        ([b"a", [None, NULL_ARRAY]], b"*2\r\n$1\r\na\r\n*2\r\n$-1\r\n*-1\r\n", b"*2\r\n$1\r\na\r\n*2\r\n_\r\n_\r\n"),
        ({b"k": [1, True]}, b"*2\r\n$1\r\nk\r\n*2\r\n:1\r\n:1\r\n", b"%1\r\n$1\r\nk\r\n*2\r\n:1\r\n#t\r\n"),
        ({}, b"*0\r\n", b"%0\r\n"),
        ({b"m"}, b"*1\r\n$1\r\nm\r\n", b"~1\r\n$1\r\nm\r\n"),
        (frozenset({7}), b"*1\r\n:7\r\n", b"~1\r\n:7\r\n"),
        (Push((b"message", 1)), b"*2\r\n$7\r\nmessage\r\n:1\r\n", b">2\r\n$7\r\nmessage\r\n:1\r\n"),
        (Verbatim(b"a\nb"), b"$3\r\na\nb\r\n", b"=7\r\ntxt:a\nb\r\n"),
        (Verbatim(b"", "mkd"), b"$0\r\n\r\n", b"=4\r\nmkd:\r\n"),
    ],
)
def test_bytes_of_each_kind(reply: object, resp2: bytes, resp3: bytes) -> None:
    assert encode(reply, 2) == resp2
    assert encode(reply, 3) == resp3


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        (b"string", b"Hello World"),
        (b"integer", 12345),
        (b"double", 3.141),
        (b"null", None),
        (b"array", [0, 1, 2]),
        (b"set", {0, 1, 2}),
        (b"map", {0: False, 1: True, 2: False}),
        (b"bignum", 1234567999999999999999999999999999999),
        (b"verbatim", Verbatim(b"This is a verbatim\nstring")),
        (b"true", True),
        (b"false", False),
    ],
)
def test_debug_protocol_of_redis_sends_the_same_bytes(redis_exchange: Exchange, resp: int, kind: bytes, reply: object) -> None:
    assert ask(redis_exchange, resp, b"DEBUG", b"PROTOCOL", kind) == encode(reply, resp)


def test_a_push_of_redis_has_the_same_bytes(redis_exchange: Exchange) -> None:
    assert encode(Push((b"server-cpu-usage", 42)), 3) in ask(redis_exchange, 3, b"DEBUG", b"PROTOCOL", b"push")


@pytest.mark.parametrize("resp", [2, 3])
def test_a_null_array_of_redis_has_the_same_bytes(redis_exchange: Exchange, resp: int) -> None:
    assert ask(redis_exchange, resp, b"LPOP", b"no-such-list", b"1") == encode(NULL_ARRAY, resp)


@pytest.mark.parametrize("name", [b"a\nb", b"a\r\n", b"\xff\xfe", "µ".encode()])
def test_an_error_of_redis_that_quotes_odd_bytes_is_the_same(redis_exchange: Exchange, name: bytes) -> None:
    text = f"ERR unknown command '{name.decode('utf-8', 'surrogateescape')}', with args beginning with: "
    assert ask(redis_exchange, 2, name) == encode(Error(text), 2)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=st.floats(allow_nan=False) | st.sampled_from([1e17, 1e16, 123456789012345680.0, 5e-324, -0.0, 1e-5, 0.0001]))
def test_doubles_of_redis_have_the_same_digits(redis_exchange: Exchange, value: float) -> None:
    for resp in (2, 3):
        answer = ask(redis_exchange, resp, b"EVAL", b"return {double=tonumber(ARGV[1])}", b"0", repr(value).encode())
        assert answer == encode(value, resp)


leaves = st.none() | st.booleans() | st.binary(max_size=20) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
replies = st.recursive(
    leaves,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.binary(max_size=5) | st.integers(0, 9), children, max_size=4),
    max_leaves=15,
)


def depth(reply: object) -> int:
    if isinstance(reply, list):
        return 1 + max(map(depth, reply), default=0)
    if isinstance(reply, dict):
        return 1 + max(map(depth, reply.values()), default=0)
    return 0


# hiredis itself reads no deeper than 8 containers.
@settings(deadline=None)
@given(reply=replies.filter(lambda reply: depth(reply) <= 7))
def test_hiredis_decodes_what_was_encoded(reply: object) -> None:
    reader = hiredis.Reader()
    reader.feed(encode(reply, 3))
    assert reader.gets() == reply
    assert reader.gets() is False


def flattened(reply: object) -> object:
    """What RESP2 leaves of a reply."""
    if isinstance(reply, bool):
        return int(reply)
    if isinstance(reply, float):
        return format(reply, ".17g").encode()
    if isinstance(reply, list):
        return [flattened(item) for item in reply]
    if isinstance(reply, dict):
        return [flattened(item) for pair in reply.items() for item in pair]
    return reply


@settings(deadline=None)
@given(reply=replies.filter(lambda reply: depth(reply) <= 7))
def test_resp2_flattens_what_it_has_no_word_for(reply: object) -> None:
    reader = hiredis.Reader()
    reader.feed(encode(reply, 2))
    assert reader.gets() == flattened(reply)


@settings(deadline=None)
@given(number=st.integers(-(2**70), 2**70) | st.builds(lambda power, near: 10**power + near, st.integers(0, 18), st.integers(-2, 2)))
def test_integers_of_every_length(number: int) -> None:
    fits = -(2**63) <= number < 2**63
    assert encode(number, 3) == b"%s%d\r\n" % (b":" if fits else b"(", number)


def test_long_replies_outgrow_the_first_allocation() -> None:
    payload = bytes(range(256)) * 1000
    reply = [payload, *range(5000), payload]
    reader = hiredis.Reader()
    reader.feed(encode(reply, 2))
    assert reader.gets() == reply


def test_what_is_no_reply_is_refused() -> None:
    with pytest.raises(TypeError, match="str is not a reply"):
        encode([b"a", "text"], 2)
    with pytest.raises(ValueError, match="RESP version 4"):
        encode(b"a", 4)
    with pytest.raises(ValueError, match="three bytes"):
        encode(Verbatim(b"a", "text"), 3)


def test_nesting_has_a_limit() -> None:
    reply: list[object] = []
    for _ in range(31):
        reply = [reply]
    assert encode(reply, 2) == b"*1\r\n" * 31 + b"*0\r\n"
    with pytest.raises(ValueError, match="nested deeper than 32"):
        encode([reply], 2)
    reply.append(reply)
    with pytest.raises(ValueError, match="nested deeper than 32"):
        encode(reply, 2)
