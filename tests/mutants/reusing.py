"""Faults of allkeys-prefix: the clock of accesses, what is learned of reuse, ghosts, admission, and policies that are changed meanwhile."""

from __future__ import annotations

from tests.mutants.mutant import one

REUSE = "storage/reuse.pyx"
POLICY = "storage/policy.pyx"
CHANGE = "storage/change.pyx"
REUSE_TESTS = "tests/storage/test_reuse.py"
CHANGES_TESTS = "tests/storage/test_policy_changes.py"
PREFIX_TESTS = "tests/kvcd/test_prefix_policy.py"
HOT = f"{REUSE_TESTS}::test_what_came_back_outlives_what_never_did"
REMEMBERED = f"{REUSE_TESTS}::test_an_evicted_block_is_remembered"
CLOCK = f"{REUSE_TESTS}::test_the_clock_is_everybodys"
SWITCHED = f"{REUSE_TESTS}::test_policies_change_while_values_are_there"

MUTANTS = (
    one(
        "accesses-of-others-unknown",
        "the clock counts the accesses of all front ends",
        REUSE,
        "                self.note_clock(seen)\n        self.moment = self.clock",
        "                pass\n        self.moment = self.clock",
        f"{REUSE_TESTS}::test_what_others_accessed_is_known_with_the_next_batch",
    ),
    one(
        "accesses-told-to-nobody",
        "other front ends learn of accesses",
        REUSE,
        "        if self.pending >= CLOCK_PENDING and not self.pool.fabric.is_remote:",
        "        if False:",
        CLOCK,
    ),
    one(
        "uses-are-not-counted",
        "a block that was asked for often is worth more",
        REUSE,
        "        weight = log2f(count)\n",
        "        weight = 0\n",
        HOT,
    ),
    one(
        "idle-alone-decides",
        "the bonus is part of the key",
        REUSE,
        "        return idle - wide(heat.bonus) if self.follows_rule else idle",
        "        return idle",
        HOT,
    ),
    one(
        "what-is-new-goes-next",
        "a block that was just stored stays for a while",
        POLICY,
        "            self.rule == RULE_REUSE and self.forced < FORCED_YOUNG and self._is_young(slot)",
        "            False",
        f"{PREFIX_TESTS}::test_what_was_just_stored_is_not_the_next_to_go",
    ),
    one(
        "blocks-outlive-their-heads",
        "the head of a chain is the youngest of it",
        REUSE,
        "        cdef uint64_t now = self.moment - (place if place < PLACES_LIMIT else PLACES_LIMIT)",
        "        cdef uint64_t now = self.moment",
        f"{PREFIX_TESTS}::test_no_block_outlives_what_stands_before_it_in_its_chain",
    ),
    one(
        "all-small-values-for-one-page",
        "where few pages hold all values of a size, a page does not come from them",
        POLICY,
        "        return pages >= FEW_PAGES or pages * FEW_SHARE > self.engine.allocator.limit_pages",
        "        return True",
        f"{REUSE_TESTS}::test_small_values_do_not_go_for_the_page_that_they_share",
    ),
    one(
        "ghosts-never-left",
        "an evicted block is remembered",
        CHANGE,
        "        if request.ghosts != NULL:\n            leave_ghost(engine, batch, request)",
        "        if False:\n            leave_ghost(engine, batch, request)",
        REMEMBERED,
    ),
    one(
        "ghosts-never-found",
        "a block that comes back is known",
        REUSE,
        "            if ghost.tag_count >> 16 == tag and ghost.tag_count and self._is_recent(ghost):",
        "            if False:",
        REMEMBERED,
    ),
    one(
        "ghosts-under-a-wrong-tag",
        "a ghost is that of the key that was evicted",
        CHANGE,
        "    cdef uint64_t tag = word1_tag(request.checked_word1)\n",
        "    cdef uint64_t tag = word1_tag(request.checked_word1) ^ 1\n",
        REMEMBERED,
    ),
    one(
        "ghosts-without-places",
        "there are none before the first eviction, and some from then on",
        REUSE,
        "            self.tick = <int64_t>(self.clock >> self.shift)\n            self.size_ghosts()\n",
        "            self.tick = <int64_t>(self.clock >> self.shift)\n",
        f"{REUSE_TESTS}::test_what_goes_before_the_first_look_at_the_capacity_is_remembered_too",
    ),
    one(
        "unknown-from-before-is-worth-keeping",
        "what was written under another policy goes before what was used since",
        REUSE,
        "            return 1e15  # from before this policy was chosen",
        "            return -1e15",
        SWITCHED,
    ),
    one(
        "learned-long-ago",
        "what was learned before another policy ruled says nothing of now",
        REUSE,
        "            self.evicted_at = self.pending = 0\n",
        "",
        f"{REUSE_TESTS}::test_nothing_is_left_of_what_was_learned_before_another_policy",
    ),
    one(
        "stale-candidates-are-taken",
        "what was sampled for a policy may not go under the next",
        POLICY,
        "        if self.changes == changes:\n            return False",
        "        if True:\n            return False",
        CHANGES_TESTS,
    ),
    one(
        "everything-is-admitted",
        "a new chain does not push out what is used",
        POLICY,
        "        self.engine.reuse.refused += refused\n        return refused",
        "        return False",
        f"{PREFIX_TESTS}::test_a_new_chain_does_not_push_out_what_is_used",
    ),
    one(
        "an-expiry-needs-room",
        "a changed expiry makes nothing grow: at a full pool it is not refused",
        CHANGE,
        "        if location < 0 and keep:\n",
        "        if False:\n",
        "tests/kvcd/test_policies.py::test_expiries_of_a_whole_full_pool_can_be_changed",
    ),
    one(
        "frequency-never-decays",
        "what was asked for often long ago is cold by now",
        "storage/engine.pyx",
        "            periods = <uint32_t>idle_ms // 60000 // self.frequency_decay_minutes",
        "            periods = 0",
        "tests/storage/test_policy.py::test_the_frequency_counter_decays_as_told",
    ),
)
