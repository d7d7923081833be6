"""Reply encoder: turns the values of ``protocol.replies`` into RESP2 or RESP3 bytes."""

def encode(reply: object, resp: int) -> bytes:
    """Return ``reply`` as RESP bytes, equal to what Redis 7.0 sends for it.

    ``resp`` is 2 or 3. Raises TypeError for a value that is no reply (``str`` is none), ValueError for any other
    ``resp``, a verbatim format that is not three bytes, or a reply nested deeper than 32 containers.
    """
