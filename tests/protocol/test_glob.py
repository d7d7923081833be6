"""Glob patterns: redis-server's KEYS and CONFIG GET judge which texts match."""

from __future__ import annotations

import time
from collections.abc import Callable

import hiredis
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.glob import matches

Exchange = Callable[..., bytes]

LETTERS = [b"a", b"b", b"c", b"A", b"]", b"-", b"^", b"\\", b"*", b"[", b"?", b"\x00", b"\x7f", b"\x80", b"\xff", b"\n"]
CLASSES = [b"[a-c]", b"[^a]", b"[c-a]", b"[^", b"[\\]a]", b"[]", b"[^]", b"[a-]", b"[\x00-\xff]", b"[Z-a]", b"[-a]", b"[\\", b"\\*", b"**"]


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (b"", b"", True),
        (b"", b"a", False),
        (b"*", b"", True),
        (b"**", b"", False),
        (b"a*", b"a", True),
        (b"*a", b"ba", True),
        (b"h?llo", b"hello", True),
        (b"h[^e]llo", b"hello", False),
        (b"h\\?llo", b"hello", False),
        (b"h\\?llo", b"h?llo", True),
        (b"*ab*ab", b"abcabab", True),
        (b"a*b*c", b"aXbXbXc", True),
        (b"a*b*c", b"aXbXbXcd", False),
        (b"[a-c]*", b"bird", True),
        (b"\\", b"\\", True),
        (b"user:*:[0-9]", b"user:\x00\n:7", True),
    ],
)
def test_what_matches(pattern: bytes, text: bytes, expected: bool) -> None:
    assert matches(pattern, text) is expected


def test_case_is_folded_on_request() -> None:
    assert matches(b"MaxMem*", b"maxmemory", nocase=True)
    assert not matches(b"MaxMem*", b"maxmemory")
    assert matches(b"[A-C]x", b"bX", nocase=True)


def frame(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments)


KEYS_BATCH = 40


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(keys=set(LETTERS), patterns=CLASSES)
@given(
    keys=st.sets(st.lists(st.sampled_from(LETTERS), max_size=6).map(b"".join), min_size=1, max_size=KEYS_BATCH),
    patterns=st.lists(st.lists(st.sampled_from(LETTERS + CLASSES), max_size=6).map(b"".join), min_size=1, max_size=KEYS_BATCH),
)
def test_keys_of_redis_are_the_keys_that_match(redis_exchange: Exchange, keys: set[bytes], patterns: list[bytes]) -> None:
    commands = [[b"FLUSHALL"], *([b"SET", key, b""] for key in sorted(keys)), *([b"KEYS", pattern] for pattern in patterns)]
    reader = hiredis.Reader()
    reader.feed(redis_exchange(b"".join(frame(*command) for command in commands)))
    replies = [reader.gets() for _ in commands]
    for pattern, found in zip(patterns, replies[1 + len(keys) :], strict=True):
        assert {key for key in keys if matches(pattern, key)} == set(found), pattern


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(patterns=[b"[\\m]*", b"[\\M]*", b"[Z-a]*", b"[M-a]*", b"[a-M]*"])
@given(
    patterns=st.lists(
        st.lists(
            st.sampled_from(
                [b"*", b"?", b"M", b"a", b"X", b"[A-Z]", b"[^A-M]", b"[\\m]", b"[\\M]", b"[Z-a]", b"[kM]", b"-", b"max", b"E*"]
            ),
            max_size=7,
        )
        .map(b"".join)
        # Without a wildcard CONFIG GET looks the name up instead of matching it.
        .filter(lambda pattern: any(wildcard in pattern for wildcard in (b"*", b"?", b"["))),
        min_size=1,
        max_size=20,
    )
)
def test_config_get_of_redis_folds_case_alike(redis_exchange: Exchange, patterns: list[bytes]) -> None:
    commands = [(b"CONFIG", b"GET", b"*"), *((b"CONFIG", b"GET", pattern) for pattern in patterns)]
    reader = hiredis.Reader()
    reader.feed(redis_exchange(b"".join(frame(*command) for command in commands)))
    names, *replies = [reader.gets()[::2] for _ in commands]
    assert len(names) > 100
    for pattern, found in zip(patterns, replies, strict=True):
        assert {name for name in names if matches(pattern, name, nocase=True)} == set(found), pattern


def test_many_stars_take_no_exponential_time() -> None:
    # Naive backtracking needs more than 10^100 steps for this one, the bound here is 100 x 100 000.
    started_s = time.process_time()
    assert not matches(b"a*" * 100 + b"b", b"a" * 100_000)
    assert not matches(b"*[a-b]*?a" * 30 + b"b", b"a" * 100_000)
    # Far from any time that a slow machine could need, and nearer to it than to the age of the universe.
    assert time.process_time() - started_s < 30
