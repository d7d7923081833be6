"""Faults of adoption: what the dead held comes back, what the living hold does not."""
# ruff: noqa: E501 - texts of the sources as they stand there

from __future__ import annotations

from tests.mutants.mutant import one

ADOPTION = "storage/adoption.pyx"
PAGES = "storage/pages.pyx"
POOL = "storage/pool.pyx"
RECLAIM = "storage/reclaim.pyx"
TESTS = "tests/storage/test_adoption_steps.py"

MUTANTS = (
    one(
        "adoption-without-proof",
        "who is stopped is not dead: it wakes and writes into what was its own",
        ADOPTION,
        "            if self.membership.prove_dead(number, (self.lives[number] >> 1) & 0x7FFF):\n",
        "            self.membership.prove_dead(number, (self.lives[number] >> 1) & 0x7FFF)\n            if True:\n",
        f"{TESTS}::test_who_stands_still_is_not_dead",
        f"{TESTS}::test_a_death_is_noticed_by_its_proof",
    ),
    one(
        "proof-kept-for-ever",
        "a number whose proof is never let go is lost to whoever starts next",
        ADOPTION,
        "                finally:\n                    self.membership.release(number)",
        "                finally:\n                    pass",
        f"{TESTS}::test_a_death_is_noticed_by_its_proof",
    ),
    one(
        "no-grace-before-freeing",
        "whoever unlinked a value before its slot was looked at frees it too: twice",
        ADOPTION,
        "            if rows[number * 8] & 1 and rows[number * 8 + ROW_TICKET // 8] < ticket:",
        "            if False:",
        TESTS,
    ),
    one(
        "ticket-passed-with-batches-open",
        "what a batch has claimed and not yet published would be freed under it",
        RECLAIM,
        "return self.open_rounds[before] == 0 and self.retired_of[before] == 0",
        "return self.retired_of[before] == 0",
        f"{TESTS}::test_a_batch_of_the_adopter_keeps_what_it_has_claimed",
    ),
    one(
        "ticket-passed-with-values-retired",
        "what was unlinked and waits to be freed would be freed twice",
        RECLAIM,
        "return self.open_rounds[before] == 0 and self.retired_of[before] == 0 and",
        "return self.open_rounds[before] == 0 and",
        f"{TESTS}::test_who_unlinked_a_value_of_the_dead_frees_it_and_nobody_else_does",
        TESTS,
    ),
    one(
        "ticket-passed-with-readers",
        "pages that the dead unlinked are still being sent",
        RECLAIM,
        " and self.pins_of[before] == 0",
        "",
        f"{TESTS}::test_what_a_client_is_being_sent_stays_though_its_owner_is_dead",
    ),
    one(
        "phase-never-turns",
        "old and new work cannot be told apart: a busy front end would let no grace period pass, or an old one at once",
        RECLAIM,
        "        self.phase ^= 1\n",
        "        pass\n",
        TESTS,
    ),
    one(
        "freed-cell-stays-in-doubt",
        "it may be somebody's again by the time the sweep ends",
        PAGES,
        "        if self.suspect_cells != NULL:\n            self.suspect_cells[page * 16 + (cell >> 6)] &= ~bit\n",
        "",
        f"{TESTS}::test_a_cell_that_was_freed_and_taken_again_meanwhile_is_in_no_doubt",
        limit_s=20.0,  # the end of the sweep frees it for ever
    ),
    one(
        "named-cell-stays-in-doubt",
        "a published value would be freed",
        ADOPTION,
        "            suspects[0] &= ~(<uint64_t>1 << (cell & 63))\n",
        "",
        f"{TESTS}::test_all_that_the_dead_held_comes_back",
    ),
    one(
        "named-pages-stay-in-doubt",
        "pages of a published value would be freed",
        ADOPTION,
        "                        self.allocator.suspect_pages[pages_at[i]] = 0\n",
        "                        pass\n",
        f"{TESTS}::test_all_that_the_dead_held_comes_back",
    ),
    one(
        "received-pages-come-into-doubt",
        "no slot names a value that is still being received",
        ADOPTION,
        "        elif kind == PAGE_PAYLOAD and self.allocator.holders[page] == 0:",
        "        elif kind == PAGE_PAYLOAD:",
        f"{TESTS}::test_a_value_that_is_being_received_keeps_its_pages",
    ),
    one(
        "received-page-stays-in-doubt",
        "claimed between the look at the table and the end of the sweep, for a value that is still being received",
        PAGES,
        "            if self.suspect_pages != NULL:\n                self.suspect_pages[pages[i]] = 0\n",
        "",
        "tests/storage/test_adoption.py",
        TESTS,
    ),
    one(
        "reservation-of-the-living-freed",
        "who inserts would begin again and again for nothing",
        ADOPTION,
        "            if not self._is_live(location & 0xFF, location >> 8) and self.pool.compare_and_swap(",
        "            if self.pool.compare_and_swap(",
        f"{TESTS}::test_a_reservation_of_the_living_stays_reserved",
    ),
    one(
        "reservation-of-the-dead-kept",
        "a slot that nobody will ever publish or free",
        ADOPTION,
        "            if not self._is_live(location & 0xFF, location >> 8) and self.pool.compare_and_swap(",
        "            if False and self.pool.compare_and_swap(",
        f"{TESTS}::test_all_that_the_dead_held_comes_back",
    ),
    one(
        "pages-of-the-living-taken",
        "two front ends would hand out the same cells",
        ADOPTION,
        "            if self._is_live(page_owner(word), page_incarnation(word)):\n                return True\n",
        "",
        f"{TESTS}::test_pages_of_the_living_stay_theirs",
        limit_s=20.0,  # the pages change hands for ever
    ),
    one(
        "page-of-the-dead-taken-without-winning",
        "two adopters would own one page",
        ADOPTION,
        "            if self.pool.compare_and_swap(self.pool.page_word_offset(page), word, mine) != word:\n                return not self.pool.fabric.is_lost",
        "            if self.pool.compare_and_swap(self.pool.page_word_offset(page), word, mine) == 1:\n                return not self.pool.fabric.is_lost",
        TESTS,
    ),
    one(
        "incarnation-ignored",
        "whoever has the dead one's number next is somebody else: what the dead held would never come back",
        ADOPTION,
        "self.lives[front_end] & 1 and (self.lives[front_end] >> 1) & 0x7FFF == incarnation\n",
        "self.lives[front_end] & 1\n",
        f"{TESTS}::test_whoever_has_the_number_next_is_somebody_else",
    ),
    one(
        "row-reused-with-the-same-incarnation",
        "words of the dead would count as the new one's",
        POOL,
        "found = self.compare_and_swap(row + ROW_LIFE, life, (((life >> 1) + 1) << 1) | 1)",
        "found = self.compare_and_swap(row + ROW_LIFE, life, life | 1)",
        "tests/storage/test_refusals.py::test_every_attach_is_another_incarnation",
        TESTS,
    ),
    one(
        "death-not-counted",
        "nobody would look for what the dead one held",
        POOL,
        "            return False\n        self.fetch_and_add(self.geometry.globals + GLOBAL_DEATHS, 1)\n        return True",
        "            return False\n        return True",
        f"{TESTS}::test_all_that_the_dead_held_comes_back",
    ),
    one(
        "free-words-not-read-before-the-end",
        "cells that others freed are in no doubt: freeing them as unclaimed and taking them back later frees them twice",
        ADOPTION,
        "        self.allocator.harvest_all()\n        for page in range(self.pool.geometry.page_count):",
        "        for page in range(self.pool.geometry.page_count):",
        TESTS,
    ),
    one(
        "page-counter-not-audited",
        "a pool would shrink by every front end that dies while it claims a page",
        ADOPTION,
        "        if self.audits == 0:\n            return False\n",
        "        return False\n",
        f"{TESTS}::test_a_count_of_pages_that_somebody_died_over_is_put_right",
    ),
    one(
        "overflow-words-not-lowered",
        "look-ups of that home would read further sets for ever",
        ADOPTION,
        "        self._lower_overflows()\n        self._settle_counters()",
        "        self._settle_counters()",
        f"{TESTS}::test_an_overflow_word_that_the_dead_raised_falls_again",
    ),
)
