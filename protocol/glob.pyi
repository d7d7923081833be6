"""Glob matcher: Redis's patterns (KEYS, SCAN, CONFIG GET) in time proportional to pattern times text."""

def matches(pattern: bytes, text: bytes, nocase: bool = False) -> bool:
    r"""Whether the whole of ``text`` matches ``pattern``.

    ``*`` any run, ``?`` one byte, ``[a-z]`` and ``[^a]`` a class, ``\x`` the byte x itself. As KEYS and SCAN have it,
    a lone ``*`` matches an empty text too; ``**`` does not. ``nocase`` folds ASCII letters.
    """
