"""Digests: DEBUG DIGEST's fingerprint of all keys, by redis-server's rule, so that two servers can be compared."""

from __future__ import annotations

import hashlib

from kvcd.context import ServerState
from storage.interface import NO_EXPIRY, Entry

DIGEST_BYTES = 20
_SWEEP_COUNT = 256


def _mixed_in(digest: bytes, data: bytes) -> bytes:
    """Return the digest with the data's added; the order of additions does not matter."""
    added = hashlib.sha1(data).digest()
    return bytes(one ^ other for one, other in zip(digest, added, strict=True))


def _followed_by(digest: bytes, data: bytes) -> bytes:
    """Return the digest of what came before and then the data."""
    return hashlib.sha1(_mixed_in(digest, data)).digest()


def digest_of(entry: Entry, begin: bytes = bytes(DIGEST_BYTES)) -> bytes:
    """Return the digest of a value and whether it expires."""
    digest = _followed_by(_followed_by(begin, int(entry.type).to_bytes(4, "big")), entry.payload)
    return digest if entry.expire_at_ms == NO_EXPIRY else _mixed_in(digest, b"!!expire!!")


async def digest_of_all(server: ServerState) -> bytes:
    """Return the digest of every key of every database."""
    total = bytes(DIGEST_BYTES)
    for number, database in enumerate(server.order.places):
        if not server.store.database_size(database).keys:
            continue
        total = _followed_by(total, number.to_bytes(4, "big"))
        seen: set[bytes] = set()
        cursor = 0
        while True:
            cursor, keys = await server.store.scan(database, cursor, _SWEEP_COUNT)
            new = [key for key in dict.fromkeys(keys) if key not in seen]
            seen.update(new)
            entries = await server.store.read_many(database, new, touch=False)
            for key, entry in zip(new, entries, strict=True):
                if entry is not None:
                    total = _mixed_in(total, digest_of(entry, _followed_by(bytes(DIGEST_BYTES), key)))
            if cursor == 0:
                break
    return total
