# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Protection after a look-up: who was told that a block is there finds it there for a while.

A look-up marks the time in a block's heat. Now and then an evicting front end draws some blocks at random: they tell how many
bytes have such a mark, and how old it is. Where they are more than their share, only the youngest are protected. So no count is kept
anywhere, and a storm of look-ups protects no more than the share.
"""

from libc.math cimport exp2, log2
from libc.stdint cimport uint32_t
from libc.string cimport memset

from storage.words cimport LOOKED_UP, Heat

cdef enum:
    EVICTIONS_A_SURVEY = 16
    AGES_PER_OCTAVE = 3      # a small pool may turn over in some milliseconds, of which a share is wanted as well: AGES reach to 40 minutes
    LEAST_BLOCKS = 2         # protected in any pool: a share of very few would be none


cdef class LookupProtection:
    """Which blocks are kept because somebody was just told that they are there."""

    def __cinit__(self):
        self.set_limits(5000, 0.1)

    cdef void set_limits(self, uint32_t window_ms, double share) noexcept nogil:
        """``lookup-protection-ms``, and the share of the limit (0 to 1)."""
        self.window_ms = window_ms
        self.share = share
        self.cutoff_ms = window_ms
        memset(self.ages, 0, sizeof(self.ages))
        self.drawn = 0
        self.asked = EVICTIONS_A_SURVEY

    cdef bint covers(self, const Heat *heat, uint32_t now_ms) noexcept nogil:
        """Whether a block is protected. A mark from the future is one of another machine's clock."""
        return heat.last_ms & LOOKED_UP and (
            now_ms - heat.last_ms < self.cutoff_ms or (heat.last_ms - now_ms < self.window_ms and self.cutoff_ms > 0)
        )

    cdef bint is_due(self) noexcept nogil:
        """Whether it is time for a survey; asked before each eviction."""
        self.asked += 1
        if self.asked < EVICTIONS_A_SURVEY:
            return False
        self.asked = 0
        return True

    cdef void note(self, const Heat *heat, uint32_t now_ms, double size_bytes) noexcept nogil:
        """What was drawn at random was this block."""
        cdef uint32_t age = now_ms - heat.last_ms
        if heat.last_ms & LOOKED_UP:
            if age > <uint32_t>0x80000000:
                age = 0
            if age < self.window_ms:
                self.ages[<uint32_t>(AGES_PER_OCTAVE * log2(1.0 + age))] += size_bytes

    cdef void reckon(self, uint32_t drawn, uint32_t blocks, double limit_bytes) noexcept nogil:
        """How old a look-up may be for its block to be among the share of ``limit_bytes``: ``drawn`` of ``blocks`` were looked at.

        What was drawn counts half from now on.
        """
        cdef double allowed = self.share if self.share * blocks > LEAST_BLOCKS or blocks == 0 else <double>LEAST_BLOCKS / blocks
        cdef double sum = 0, youngest, oldest
        cdef uint32_t i
        self.drawn += drawn
        allowed *= limit_bytes * self.drawn / (blocks if blocks else 1)
        self.cutoff_ms = self.window_ms
        for i in range(AGES):
            if sum + self.ages[i] > allowed:
                youngest = exp2(<double>i / AGES_PER_OCTAVE) - 1.0
                oldest = exp2(<double>(i + 1) / AGES_PER_OCTAVE) - 1.0
                self.cutoff_ms = <uint32_t>(youngest + (allowed - sum) / self.ages[i] * (oldest - youngest))
                if self.cutoff_ms > self.window_ms:
                    self.cutoff_ms = self.window_ms
                break
            sum += self.ages[i]
        for i in range(AGES):
            self.ages[i] *= 0.5
        self.drawn *= 0.5
