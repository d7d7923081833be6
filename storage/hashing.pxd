# cython: language_level=3
"""Keyed hash of a key: SipHash-1-3 with 128 bits of output (Aumasson and Bernstein 2012)."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef struct KeyHash:
    uint64_t low
    uint64_t high


cdef inline uint64_t rotate_left(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline KeyHash hash_key(
    uint64_t secret_low, uint64_t secret_high, const char *key, size_t length
) noexcept nogil:
    """128-bit hash of ``length`` bytes under a 128-bit secret."""
    cdef uint64_t v0 = secret_low ^ <uint64_t>0x736F6D6570736575
    cdef uint64_t v1 = secret_high ^ <uint64_t>0x646F72616E646F6D ^ <uint64_t>0xEE
    cdef uint64_t v2 = secret_low ^ <uint64_t>0x6C7967656E657261
    cdef uint64_t v3 = secret_high ^ <uint64_t>0x7465646279746573
    cdef uint64_t word
    cdef size_t i = 0
    cdef size_t whole = length & ~<size_t>7
    cdef KeyHash result
    cdef int turn
    while i < whole:
        memcpy(&word, key + i, 8)
        v3 ^= word
        v0 += v1; v1 = rotate_left(v1, 13); v1 ^= v0; v0 = rotate_left(v0, 32)
        v2 += v3; v3 = rotate_left(v3, 16); v3 ^= v2
        v0 += v3; v3 = rotate_left(v3, 21); v3 ^= v0
        v2 += v1; v1 = rotate_left(v1, 17); v1 ^= v2; v2 = rotate_left(v2, 32)
        v0 ^= word
        i += 8
    word = <uint64_t>(length & 0xFF) << 56
    while i < length:
        word |= <uint64_t>(<uint8_t>key[i]) << (8 * (i & 7))
        i += 1
    v3 ^= word
    v0 += v1; v1 = rotate_left(v1, 13); v1 ^= v0; v0 = rotate_left(v0, 32)
    v2 += v3; v3 = rotate_left(v3, 16); v3 ^= v2
    v0 += v3; v3 = rotate_left(v3, 21); v3 ^= v0
    v2 += v1; v1 = rotate_left(v1, 17); v1 ^= v2; v2 = rotate_left(v2, 32)
    v0 ^= word
    v2 ^= 0xEE
    for turn in range(3):
        v0 += v1; v1 = rotate_left(v1, 13); v1 ^= v0; v0 = rotate_left(v0, 32)
        v2 += v3; v3 = rotate_left(v3, 16); v3 ^= v2
        v0 += v3; v3 = rotate_left(v3, 21); v3 ^= v0
        v2 += v1; v1 = rotate_left(v1, 17); v1 ^= v2; v2 = rotate_left(v2, 32)
    result.low = v0 ^ v1 ^ v2 ^ v3
    v1 ^= 0xDD
    for turn in range(3):
        v0 += v1; v1 = rotate_left(v1, 13); v1 ^= v0; v0 = rotate_left(v0, 32)
        v2 += v3; v3 = rotate_left(v3, 16); v3 ^= v2
        v0 += v3; v3 = rotate_left(v3, 21); v3 ^= v0
        v2 += v1; v1 = rotate_left(v1, 17); v1 ^= v2; v2 = rotate_left(v2, 32)
    result.high = v0 ^ v1 ^ v2 ^ v3
    return result
