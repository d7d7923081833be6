# cython: language_level=3
"""Compiler builtins that the fabrics use: atomics, fences, prefetch."""

from libc.stdint cimport uint64_t

cdef extern from * nogil:
    uint64_t __sync_val_compare_and_swap(uint64_t *, uint64_t, uint64_t)
    uint64_t __sync_fetch_and_add(uint64_t *, uint64_t)
    void __sync_synchronize()
    void __builtin_prefetch(const void *)
    int __builtin_ctzll(unsigned long long)
    int __builtin_clzll(unsigned long long)
    int __builtin_popcountll(unsigned long long)
    bint __builtin_expect(bint, bint)
