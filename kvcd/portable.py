"""Portable text: any text, be it the bytes of a path or a password, as text that JSON can hold."""

from __future__ import annotations


def portable(text: str) -> str:
    """Return each byte of ``text`` as one character; ``restored`` makes the text of it again."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def restored(text: str) -> str:
    """Return what ``portable`` was given."""
    return text.encode("latin-1").decode("utf-8", "surrogateescape")
