# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reuse: how soon a block is wanted again, learned from the accesses of one front end.

A block's key is the time of its last access plus a bonus: the median interval between two accesses, times a
value that grows with how often the block was wanted lately and falls with how many unknown blocks came with
it. The smallest key goes. Time is the number of accesses, so nothing depends on how fast they come.

The rule is compared all the time with least-recently-used on the same accesses, hits of both being told from
rings that count known blocks by key and by last access; while it loses it is not followed (after the duel of
ARC: Megiddo and Modha 2003; Qureshi et al. 2007). Everything but the clock belongs to this front end: with
connections spread over front ends each of them sees a sample, whose rings hold its share of the blocks.
"""

cimport cython
from libc.math cimport exp2f, log2f
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from storage.pool cimport GLOBAL_CLOCK, GLOBAL_GHOST_BUCKETS, Pool
from storage.words cimport HEAT_LEASED, Heat

cdef enum:
    COUNT_UNIT = 2048       # of log2 of the count
    CLOCK_PENDING = 32      # accesses after which other front ends learn of them
    WINDOW = 32             # capacities before the clock and after it that the rings reach
    PLACES_LIMIT = 2048     # of a request count as places of their own
    MEDIAN_CAPACITIES = 16  # the median is at most so many capacities
    DECAY_MEDIANS = 10      # a count falls to 1/e in so many medians
    TAIL_PENALTY_LIMIT = 4
    MEMORY_CAPACITIES = 16  # accesses that the duel remembers, in capacities,
    MEMORY_LEAST = 25600    # and at least: of a small cache's 16 capacities a hundredth would be less than chance
    MOST_LEAD = 2           # limits that the rule's lead counts for at most: it may be from another load
    MOST_LAG = 3
    LEAST_SHIFT = 2
    GHOST_CAPACITIES = 16   # so many ghosts are kept, in capacities

cdef double MEDIAN_STEP = 1.0027112750502025  # a 256th of an octave
cdef double UNKNOWN_WEIGHT = 0.25
cdef double LIMIT_SHARE = 0.08      # of the capacity: by so many hits the rule has to lose
cdef double LIMIT_LEAST = 128


@cython.final
cdef class Reuse:
    """Raises nothing; all of it is advice.

    There as long as its engine, and off under other policies: a batch that waits for a memory node while the policy is changed goes on with it.
    """

    def __cinit__(self, Pool pool):
        self.pool = pool
        self.capacity = 1.0
        self.median = self.median_inverse = 1.0

    def switch(self, bint on) -> None:
        """Begin anew, or stop: what was learned before other policies ruled says nothing of now."""
        if on and not self.is_on:
            self.follows_rule = True
            self.share = 1.0
            self.capacity = 1.0
            self.shift = LEAST_SHIFT
            self.evicted_at = self.pending = 0
            self.own = self.own_before = 0
            self.duel = self.tail_penalty = 0
            self.median = self.median_inverse = 1.0
            self.last_threshold = self.key_threshold = -1e300
            memset(self.made, 0, sizeof(self.made))
            memset(self.back, 0, sizeof(self.back))
            memset(self.by_last, 0, sizeof(self.by_last))
            memset(self.by_key, 0, sizeof(self.by_key))
            self.pool.read_into(self.pool.geometry.globals + GLOBAL_CLOCK, &self.clock, 8)
            self.clock_before = self.moment = self.clock
            self.tick = <int64_t>(self.clock >> self.shift)
        self.is_on = on

    def facts(self) -> dict[str, float]:
        """What is learned, for people."""
        return {
            "clock": self.clock, "median_interval": self.median, "tail_penalty": self.tail_penalty, "capacity": self.capacity,
            "share": self.share, "rule_is_followed": float(self.follows_rule), "tails_made": self.made[1], "tails_back": self.back[1],
            "bodies_made": self.made[0], "bodies_back": self.back[0], "duel": self.duel, "last_threshold": self.last_threshold, "key_threshold": self.key_threshold,
        }

    # ------------------------------------------------------------------ clock

    cdef void begin(self) noexcept nogil:
        """A batch begins: its accesses are told from this moment."""
        cdef uint64_t seen = 0
        if self.pool.front_end_high_water > 1 and not self.pool.fabric.is_remote:
            if self.pool.read_into(self.pool.geometry.globals + GLOBAL_CLOCK, &seen, 8) == 0:
                self.note_clock(seen)
        self.moment = self.clock

    cdef void end(self) noexcept nogil:
        """The batch is over: the clock has moved by what was accessed."""
        if self.pending >= CLOCK_PENDING and not self.pool.fabric.is_remote:
            self.clock = self.pool.fetch_and_add(self.pool.geometry.globals + GLOBAL_CLOCK, self.pending) + self.pending
            self.pending = 0
        self._advance()

    cdef uint32_t take_pending(self) noexcept nogil:
        """Accesses that the caller adds to the pool's clock; 0 while they are few."""
        cdef uint32_t pending = self.pending
        if pending < CLOCK_PENDING:
            return 0
        self.pending = 0
        return pending

    cdef void note_clock(self, uint64_t seen) noexcept nogil:
        """The pool's clock was read, or moved: it is never behind what is known of it."""
        if seen + self.pending > self.clock:
            self.clock = seen + self.pending

    cdef void set_capacity(self, uint64_t blocks) noexcept nogil:
        """So many blocks are there, of all front ends; called some times a second."""
        cdef double moved = <double>(self.clock - self.clock_before)
        cdef uint64_t seen[2]  # the clock, and behind it the buckets in use
        self.capacity = <double>blocks if blocks else 1.0
        if self.pool.read_into(self.pool.geometry.globals + GLOBAL_CLOCK, seen, 16) != 0:
            return
        self.note_clock(seen[0])
        self.ghost_buckets = seen[1]
        if self.ghost_buckets > self.pool.geometry.ghost_buckets:
            self.ghost_buckets = self.pool.geometry.ghost_buckets  # damaged
        if self.evicted_at:
            self.size_ghosts()
        if moved > 1000:
            self.share += 0.25 * ((self.own - self.own_before) / moved - self.share)
            if self.share > 1.0 or self.pool.front_end_high_water <= 1:
                self.share = 1.0
            if self.share < 0.001:
                self.share = 0.001
            self.own_before = self.own
            self.clock_before = self.clock
        while self.capacity > 16.0 * (<uint64_t>1 << self.shift) and self.shift < 40:
            self._widen()
        if self.shift > LEAST_SHIFT and self.capacity < 4.0 * (<uint64_t>1 << self.shift) and self.evicted_at:
            # Many fewer than before: what the rings hold says nothing about so few.
            while self.shift > LEAST_SHIFT and self.capacity <= 8.0 * (<uint64_t>1 << self.shift):
                self.shift -= 1
            memset(self.by_last, 0, sizeof(self.by_last))
            memset(self.by_key, 0, sizeof(self.by_key))
            self.last_threshold = self.key_threshold = -1e300
            self.tick = <int64_t>(self.clock >> self.shift)

    # ----------------------------------------------------------------- access

    cdef void access(
        self, Heat *heat, bint is_known, uint32_t place, uint32_t unknown, bint is_tail, bint is_stored, ChainWorth *chain
    ) noexcept nogil:
        """A block was asked for or stored: ``heat`` is what was known of it, and becomes what is known now.

        ``place``: blocks of its request before it. ``unknown``: blocks that were stored with it and never heard of.
        ``chain``: what those before it are worth; the accesses of a chain come in its order.
        """
        cdef uint64_t now = self.moment - (place if place < PLACES_LIMIT else PLACES_LIMIT)
        cdef int64_t last, key
        cdef double interval
        is_known = is_known and heat.flags & HEAT_COUNTED
        if is_known:
            last = <int64_t>self.clock - <int64_t><uint32_t>(<uint32_t>self.clock - heat.last)
            key = last + <int64_t>wide(heat.bonus)
            if self.evicted_at:
                # Before that everything is kept, and there is nothing to be told from what would have been.
                if <double>last > self.last_threshold:
                    self.duel -= 1
                if <double>key > self.key_threshold:
                    self.duel += 1
            self.by_last[(last >> self.shift) & (RING_BUCKETS - 1)] -= 1
            self.by_key[(self._clamped(key) >> self.shift) & (RING_BUCKETS - 1)] -= 1
            interval = <double>(<int64_t>now - last)
            interval = interval if interval > 0 else 0
            self._learn(heat, interval)
            self._compute(heat, True, interval, place, unknown, is_tail, is_stored, chain)
        else:
            self._compute(heat, False, 0, place, unknown, is_tail, is_stored, chain)
        self.made[is_tail] += 1
        heat.last = <uint32_t>now
        self.by_last[(<int64_t>now >> self.shift) & (RING_BUCKETS - 1)] += 1
        self.by_key[(self._clamped(<int64_t>now + <int64_t>wide(heat.bonus)) >> self.shift) & (RING_BUCKETS - 1)] += 1
        self.clock += 1
        self.pending += 1
        self.own += 1

    cdef int64_t _clamped(self, int64_t key) noexcept nogil:
        """Keys far beyond the window count as its ends."""
        cdef int64_t reach = (<int64_t>RING_BUCKETS // 2 - 2) << self.shift
        if key > <int64_t>self.clock + reach:
            return <int64_t>self.clock + reach
        if key < <int64_t>self.clock - reach:
            return <int64_t>self.clock - reach
        return key

    cdef void preview(
        self, Heat *heat, bint is_known, uint32_t place, uint32_t unknown, bint is_tail, ChainWorth *chain
    ) noexcept nogil:
        """What ``access`` would make of a block's heat, and of ``chain``. Nothing is learned from it."""
        cdef uint64_t now = self.clock - (place if place < PLACES_LIMIT else PLACES_LIMIT)
        cdef double interval = 0
        is_known = is_known and heat.flags & HEAT_COUNTED
        if is_known:
            interval = <double><int32_t>(<uint32_t>now - heat.last)
        self._compute(heat, is_known, interval if interval > 0 else 0, place, unknown, is_tail, True, chain)
        heat.last = <uint32_t>now

    cdef void _learn(self, const Heat *heat, double interval) noexcept nogil:
        """One more interval between two accesses to a block."""
        self.back[1 if heat.flags & HEAT_TAIL else 0] += 1
        if interval > self.median:
            self.median *= MEDIAN_STEP
            if self.median > MEDIAN_CAPACITIES * self.capacity:
                self.median = MEDIAN_CAPACITIES * self.capacity
        else:
            self.median /= MEDIAN_STEP
            if self.median < 1.0:
                self.median = 1.0
        self.median_inverse = 1.0 / self.median

    cdef void _compute(
        self, Heat *heat, bint is_known, double interval, uint32_t place, uint32_t unknown, bint is_tail, bint is_stored, ChainWorth *chain
    ) noexcept nogil:
        cdef float count = 1.0, weight, bonus
        if is_known:
            count = exp2f(heat.count / <float>COUNT_UNIT - <float>(interval * 1.4427 / DECAY_MEDIANS * self.median_inverse)) + 1
        weight = log2f(count)
        heat.count = <uint16_t>(weight * COUNT_UNIT) if weight < 31 else 63488
        if unknown:
            weight -= <float>UNKNOWN_WEIGHT * log2f(<float>(1 + unknown))
        if is_tail and is_stored:
            weight -= <float>self.tail_penalty
        bonus = <float>self.median * weight
        # Without its head a block is of no use, however well it is remembered while its head is not. The median moves while a
        # chain is asked for: by octaves alone deeper blocks could come to be worth more.
        if place > chain.place and bonus > chain.bonus:
            bonus = chain.bonus
        chain.bonus = bonus
        chain.place = place
        heat.bonus = narrow(bonus)
        heat.flags = (heat.flags & HEAT_LEASED) | HEAT_COUNTED | (HEAT_TAIL if is_tail else 0)

    cdef double age(self, const Heat *heat) noexcept nogil:
        """How much a block deserves to go: the clock less its key."""
        cdef double idle
        if not heat.flags & HEAT_COUNTED:
            return 1e15  # from before this policy was chosen
        idle = <double><int32_t>(<uint32_t>self.clock - heat.last)
        return idle - wide(heat.bonus) if self.follows_rule else idle

    cdef bint is_full(self) noexcept nogil:
        """Whether something was evicted lately."""
        return self.evicted_at and <double>(self.clock - self.evicted_at) <= self.capacity / 64 + CLOCK_PENDING

    cdef void size_ghosts(self) noexcept nogil:
        """So many ghosts as are of use: more of them would keep blocks for known that nobody asks for any more.

        When there are half or twice as many blocks as before, what was remembered is forgotten.
        """
        cdef uint64_t offset = self.pool.geometry.globals + GLOBAL_GHOST_BUCKETS
        cdef uint64_t wanted = <uint64_t>(self.capacity * GHOST_CAPACITIES / GHOSTS_PER_BUCKET) + 1, found
        if wanted > self.pool.geometry.ghost_buckets:
            wanted = self.pool.geometry.ghost_buckets
        if wanted == self.ghost_buckets or (self.ghost_buckets and self.ghost_buckets < wanted * 2 and wanted < self.ghost_buckets * 2):
            return
        found = self.pool.compare_and_swap(offset, self.ghost_buckets, wanted)
        self.ghost_buckets = wanted if found == self.ghost_buckets else (
            found if found < self.pool.geometry.ghost_buckets else self.pool.geometry.ghost_buckets
        )

    cdef void note_eviction(self) noexcept nogil:
        if self.evicted_at == 0:
            self.evicted_at = 1
            self.tick = <int64_t>(self.clock >> self.shift)
            self.size_ghosts()
            # Full for the first time. The capacity is a guess that a thousand intervals correct, whatever came before.
            self.median = self.capacity
            self.median_inverse = 1.0 / self.median
        self.evicted_at = self.clock if self.clock else 1

    # ------------------------------------------------------------------ rings

    cdef void _advance(self) noexcept nogil:
        """The clock has reached further buckets: empty those that come into the window, and judge."""
        cdef int64_t reached = <int64_t>(self.clock >> self.shift)
        cdef int64_t bucket = self.tick + 1, ticks
        cdef double half
        if reached == self.tick:
            return
        if reached - self.tick > RING_BUCKETS:
            bucket = reached - RING_BUCKETS
        while bucket <= reached:
            self.by_last[(bucket + RING_BUCKETS // 2) & (RING_BUCKETS - 1)] = 0
            self.by_key[(bucket + RING_BUCKETS // 2) & (RING_BUCKETS - 1)] = 0
            bucket += 1
        ticks = reached - self.tick
        self.tick = reached
        if self.evicted_at == 0:
            return  # the rings are kept all the same: what they hold is wanted as soon as something is evicted
        self._judge(ticks)
        half = self.made[0] + self.made[1]
        if half > WINDOW * self.capacity * self.share + 1000:
            self.made[0] /= 2
            self.made[1] /= 2
            self.back[0] /= 2
            self.back[1] /= 2
        if self.made[1]:
            half = log2f(<float>(
                (self.back[0] + 1) / (self.made[0] + 2) / ((self.back[1] + 1) / (self.made[1] + 2))
            ))
            self.tail_penalty = 0 if half < 0 else (TAIL_PENALTY_LIMIT if half > TAIL_PENALTY_LIMIT else half)

    cdef void _judge(self, int64_t ticks) noexcept nogil:
        """Who leads, so many buckets of the rings after the last time."""
        cdef double blocks = self.capacity * self.share
        cdef double limit = LIMIT_SHARE * blocks + LIMIT_LEAST
        cdef double memory = MEMORY_CAPACITIES * blocks if MEMORY_CAPACITIES * blocks > MEMORY_LEAST else MEMORY_LEAST
        cdef bint before = self.follows_rule
        self.last_threshold = self._threshold(self.by_last, blocks)
        self.key_threshold = self._threshold(self.by_key, blocks)
        self.duel *= exp2f(<float>(-1.4427 * ticks * self.share * (<uint64_t>1 << self.shift) / memory))
        if self.duel > MOST_LEAD * limit:
            self.duel = MOST_LEAD * limit
        if self.duel < -MOST_LAG * limit:
            self.duel = -MOST_LAG * limit
        if self.duel < -limit:
            self.follows_rule = False
        elif self.duel > 0:
            self.follows_rule = True
        self.turns += before != self.follows_rule

    cdef double _threshold(self, const int32_t *ring, double blocks) noexcept nogil:
        """The value above which the ring holds so many blocks."""
        cdef int64_t bucket = self.tick + RING_BUCKETS // 2 - 1, last = self.tick - RING_BUCKETS // 2
        cdef double sum = 0
        cdef int32_t count
        while bucket > last:
            count = ring[bucket & (RING_BUCKETS - 1)]
            if count > 0:
                if sum + count >= blocks:
                    return (<double>bucket + 1 - (blocks - sum) / count) * (<uint64_t>1 << self.shift)
                sum += count
            bucket -= 1
        return -1e300

    cdef void _widen(self) noexcept nogil:
        """Twice as many accesses to a bucket: each takes what two held."""
        cdef int32_t before[RING_BUCKETS]
        cdef int32_t *ring
        cdef int64_t bucket, first = self.tick - RING_BUCKETS // 2
        cdef int number
        for number in range(2):
            ring = &self.by_last[0] if number == 0 else &self.by_key[0]
            memcpy(before, ring, sizeof(before))
            memset(ring, 0, sizeof(before))
            for bucket in range(first + 1, first + RING_BUCKETS):
                ring[(bucket >> 1) & (RING_BUCKETS - 1)] += before[bucket & (RING_BUCKETS - 1)]
        self.shift += 1
        self.tick = <int64_t>(self.clock >> self.shift)

    # ----------------------------------------------------------------- ghosts

    cdef uint64_t bucket_offset(self, uint64_t tag) noexcept nogil:
        """Where ghosts with this tag are looked for; 0 while there are none."""
        if self.ghost_buckets == 0:
            return 0
        return self.pool.geometry.ghosts + (
            (tag * <uint64_t>0x9E3779B97F4A7C15) >> 20
        ) % self.ghost_buckets * GHOST_BUCKET_BYTES

    cdef bint find_ghost(self, const char *bucket, uint64_t tag, Heat *heat, uint32_t *place) noexcept nogil:
        """Whether a copy of a bucket holds the tag: its heat, and where."""
        cdef const Ghost *ghost
        cdef uint32_t i
        for i in range(GHOSTS_PER_BUCKET):
            ghost = <const Ghost *>bucket + i
            if ghost.tag_count >> 16 == tag and ghost.tag_count and self._is_recent(ghost):
                heat.last = ghost.last
                heat.bonus = ghost.bonus
                heat.count = <uint16_t>ghost.tag_count
                heat.flags = ghost.flags
                place[0] = i
                return True
        return False

    cdef bint _is_recent(self, const Ghost *ghost) noexcept nogil:
        return <double><uint32_t>(<uint32_t>self.clock - ghost.last) - wide(ghost.bonus) < WINDOW * self.capacity + 1000

    cdef uint32_t make_ghost(self, const char *bucket, uint64_t tag, const Heat *heat, Ghost *made) noexcept nogil:
        """Fill ``made`` and return which place of the bucket it takes: its own, an empty one, or that of the smallest key."""
        cdef const Ghost *ghost
        cdef uint32_t i, chosen = 0
        cdef double age, oldest = -1e300
        for i in range(GHOSTS_PER_BUCKET):
            ghost = <const Ghost *>bucket + i
            if ghost.tag_count >> 16 == tag:
                chosen = i
                break
            age = 1e300
            if ghost.tag_count and self._is_recent(ghost):
                age = <double><int32_t>(<uint32_t>self.clock - ghost.last) - wide(ghost.bonus)
            if age > oldest:
                oldest = age
                chosen = i
        made.tag_count = tag << 16 | heat.count
        made.last = heat.last
        made.bonus = heat.bonus
        made.flags = heat.flags & ~<uint32_t>HEAT_LEASED
        made.spare = 0
        return chosen
