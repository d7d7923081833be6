"""INCRBYFLOAT's arithmetic: texts that redis-server 7.0 gave, and what strtold takes."""

from __future__ import annotations

import pytest

from kvcd.commands import long_double


@pytest.mark.parametrize(
    ("left", "right", "total"),
    [
        (b"3000", b"0.1", b"3000.10000000000000009"),
        (b"10.5", b"0.1", b"10.6"),
        (b"3.0e3", b"2.0e2", b"3200"),
        (b"5", b"-5", b"0"),
        (b"-0", b"0", b"0"),
        (b"0x10", b".5", b"16.5"),
        (b"1e18", b"0.25", b"1000000000000000000.25"),
        (b"1e-30", b"0", b"0"),
    ],
)
def test_sums_print_as_redis_prints_them(left: bytes, right: bytes, total: bytes) -> None:
    """To the last digit."""
    one, other = long_double.parse(left), long_double.parse(right)
    assert one is not None
    assert other is not None
    assert long_double.to_text(long_double.add(one, other)) == total


@pytest.mark.parametrize(
    "text", [b"", b" 1", b"1 ", b"x", b"1e", b"--1", b"1,5", b"nan", b"1\x00", b"1e5000", b"-1e5000", b"1e-5000", b"1" * 5120]
)
def test_what_is_no_number(text: bytes) -> None:
    """Nor what does not fit, on either side."""
    assert long_double.parse(text) is None


def test_infinity_and_what_is_only_large() -> None:
    """A long double holds what a Python float cannot."""
    large, infinite = long_double.parse(b"1e4000"), long_double.parse(b"-inf")
    assert large is not None
    assert infinite is not None
    assert not long_double.is_infinite(large)
    assert long_double.is_infinite(infinite)
    opposite = long_double.parse(b"inf")
    assert opposite is not None
    assert long_double.is_nan(long_double.add(infinite, opposite))
