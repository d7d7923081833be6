"""Arithmetic in C's long double, which INCRBYFLOAT's texts depend on to the last digit."""

from __future__ import annotations

import ctypes
import errno
import math

_MAX_TEXT_BYTES = 5 * 1024  # Redis's bound on the text of a long double, both ways
_SPACE = b" \t\n\v\f\r"


class _LongDouble(ctypes.c_longdouble):
    """Keeps all bits: ctypes turns results of a subclass into an object, not into a Python float."""


_libc = ctypes.CDLL(None, use_errno=True)
_libm = ctypes.CDLL("libm.so.6")
_strtold = _libc.strtold
_strtold.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
_strtold.restype = _LongDouble
_snprintf = _libc.snprintf
_snprintf.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p)  # and a long double
_snprintf.restype = ctypes.c_int
_fused_multiply_add = _libm.fmal
_fused_multiply_add.argtypes = (_LongDouble, _LongDouble, _LongDouble)
_fused_multiply_add.restype = _LongDouble
_ONE = _LongDouble(1.0)


def parse(text: bytes) -> _LongDouble | None:
    """Return the number that all of ``text`` spells as C's strtold reads it (hexadecimal and inf included), or None."""
    if not text or len(text) >= _MAX_TEXT_BYTES or text[0] in _SPACE:
        return None
    buffer = ctypes.create_string_buffer(text)  # adds the zero byte
    start = ctypes.addressof(buffer)
    end = ctypes.c_void_p()
    ctypes.set_errno(0)
    number: _LongDouble = _strtold(start, ctypes.byref(end))
    if end.value != start + len(text) or math.isnan(number.value):
        return None
    if ctypes.get_errno() == errno.ERANGE and (_is_zero(number) or is_infinite(number)):
        return None
    return number


def add(left: _LongDouble, right: _LongDouble) -> _LongDouble:
    """Return the sum, rounded once."""
    # ctypes has no arithmetic of its own; left * 1 + right with a single rounding is the sum.
    total: _LongDouble = _fused_multiply_add(left, _ONE, right)
    return total


def is_infinite(number: _LongDouble) -> bool:
    """Whether the number is an infinity of long double (1e400 is not, though a Python float cannot hold it)."""
    return _printed(number).lstrip(b"-") == b"inf"


def is_nan(number: _LongDouble) -> bool:
    """Whether the number is no number."""
    return math.isnan(number.value)


def to_text(number: _LongDouble) -> bytes:
    """Return the number as Redis prints it for people: 17 digits after the point, without trailing zeros."""
    text = _printed(number)
    if b"." in text:
        text = text.rstrip(b"0").rstrip(b".")
    return b"0" if text == b"-0" else text


def _is_zero(number: _LongDouble) -> bool:
    # Printed with an exponent: the smallest long doubles round to 0.0 both as a Python float and with 17 digits.
    return _printed(number, b"%La").lstrip(b"-").startswith(b"0x0p")


def _printed(number: _LongDouble, form: bytes = b"%.17Lf") -> bytes:
    buffer = ctypes.create_string_buffer(_MAX_TEXT_BYTES)
    length = _snprintf(buffer, len(buffer), form, number)
    assert 0 < length < _MAX_TEXT_BYTES
    return buffer.raw[:length]
