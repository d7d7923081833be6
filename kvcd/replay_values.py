"""Values of replayed blocks: bytes that follow from the block's id, cheap to make and to check."""

from __future__ import annotations

import hashlib
import random

_HEAD_BYTES = 32
_SHIFT_BYTES = 1 << 20  # blocks begin at one of this many places on the tape
_PERIOD_BYTES = 8_388_593  # prime: a value whose pages were mixed up never looks right by the tape's repetition
MAX_VALUE_SIZE_BYTES = 512 << 20  # Redis's own limit on one value


class BlockValues:
    """Makes and checks the value of any block id; the same id and size give the same bytes in every run.

    A value is a head (id, size, a digest of both) followed by a stretch of one random tape that
    begins at a place the digest chooses. So a wrong, shortened, shifted or mixed-up value shows,
    and neither making nor checking one costs more than moving its bytes once.
    """

    def __init__(self, value_size_bytes: int) -> None:
        if not 1 <= value_size_bytes <= MAX_VALUE_SIZE_BYTES:
            raise ValueError(f"a value has 1 to {MAX_VALUE_SIZE_BYTES} bytes, not {value_size_bytes}")
        self.value_size_bytes = value_size_bytes
        length = max(0, value_size_bytes - _HEAD_BYTES) + _SHIFT_BYTES
        period = random.Random(0x6B766364).randbytes(min(length, _PERIOD_BYTES))
        self._tape = (period * -(-length // len(period)))[:length]

    def make(self, block: int) -> bytes:
        """Return the value of ``block``."""
        head, begin = self._head(block)
        size = self.value_size_bytes
        return head[:size] + self._tape[begin : begin + max(0, size - _HEAD_BYTES)]

    def is_right(self, block: int, value: bytes) -> bool:
        """Compare ``value`` with that of ``block``, every byte of it."""
        if len(value) != self.value_size_bytes:
            return False
        head, begin = self._head(block)
        body = memoryview(value)[_HEAD_BYTES:]
        # startswith is memcmp on the tape in place: the expected value is never built
        return value.startswith(head[: len(value)]) and self._tape.startswith(body, begin)

    def _head(self, block: int) -> tuple[bytes, int]:
        """The head of ``block``'s value, and where its body begins on the tape."""
        # the digest first: values shorter than the head still differ from block to block
        identity = block.to_bytes(8, "little") + self.value_size_bytes.to_bytes(8, "little")
        digest = hashlib.blake2b(identity, digest_size=16).digest()
        return digest + identity, int.from_bytes(digest[:4], "little") % _SHIFT_BYTES
