"""Faults of recovery: what a killed process left is judged, and nothing of it believed that is not proved."""

from __future__ import annotations

from tests.mutants.mutant import one

RECOVERY = "storage/recovery.pyx"
TESTS = "tests/storage/test_recovery.py"
DAMAGE_TESTS = "tests/storage/test_recovery_damage.py"
PAGES_TESTS = "tests/storage/test_pages.py"
KILLS = f"{TESTS}::test_a_kill_between_any_two_operations_loses_and_leaks_nothing"
DAMAGE = f"{DAMAGE_TESTS}::test_damaged_metadata_costs_values_and_never_gives_wrong_ones"

MUTANTS = (
    one(
        "recovery-keeps-what-does-not-echo",
        "a slot whose cell names another word holds an older value, or none",
        RECOVERY,
        "header.slot != found.slot or header.echo != <uint32_t>word or header.flags",
        "header.slot != found.slot or header.flags",
        f"{DAMAGE_TESTS}::test_a_slot_that_points_to_an_older_cell_of_its_own_key_is_not_believed",
        DAMAGE,
    ),
    one(
        "recovery-keeps-what-was-flushed",
        "an entry of an older epoch must not come back as a key of this one",
        RECOVERY,
        "        if header.epoch != <uint32_t>self.pool.epochs[header.database]:\n            return FLUSHED\n",
        "",
        f"{TESTS}::test_a_flushed_value_that_was_not_swept_yet_stays_away",
    ),
    one(
        "recovery-keeps-a-page-twice",
        "two values that name one page: one of them has another's bytes",
        RECOVERY,
        "            if owner:\n                if owner != CONTESTED",
        "            if False:\n                if owner != CONTESTED",
        f"{DAMAGE_TESTS}::test_a_page_that_two_values_name_is_believed_of_neither",
    ),
    one(
        "recovery-keeps-the-first-of-two",
        "nothing says which of two values that name one page is right",
        RECOVERY,
        "                    self.doomed.add(owner - 1)\n",
        "",
        f"{DAMAGE_TESTS}::test_a_page_that_two_values_name_is_believed_of_neither",
    ),
    one(
        "recovery-keeps-reservations",
        "a dead one's reservation would block its slot for ever",
        RECOVERY,
        "            self.reservations += 1\n            return self.free_slot(slot, word)",
        "            self.reservations += 1\n            return 0",
        KILLS,
    ),
    one(
        "recovery-keeps-claimed-pages",
        "pages that were claimed and not named are lost",
        RECOVERY,
        "                wanted = make_page_word(known, PAGE_FREE, 0, 0, 0)\n",
        "",
        PAGES_TESTS,
    ),
    one(
        "recovery-keeps-the-page-counter",
        "a count that is off by what died makes the pool smaller for ever",
        RECOVERY,
        "        if seen != used:",
        "        if False:",
        KILLS,
    ),
    one(
        "recovery-keeps-overflow-words",
        "a count that is too high is never lowered to zero again",
        RECOVERY,
        "                if <uint32_t>word != (away << 4 | distance):",
        "                if False:",
        KILLS,
        DAMAGE,
    ),
    one(
        "recovery-does-not-hash",
        "an entry that no look-up of its key finds is lost memory",
        RECOVERY,
        "            tag_of(request.hash_high, epoch) == word1_tag(found.word1) and",
        "            True and",
        DAMAGE,
        TESTS,
    ),
    one(
        "recovery-believes-any-page",
        "a cell on a page that holds something else is not one",
        RECOVERY,
        "        if page_kind(page_word) != PAGE_CELLS or page_class(page_word) != cell_class:",
        "        if False:",
        f"{DAMAGE_TESTS}::test_cells_on_a_page_that_holds_something_else_are_not_believed",
    ),
    one(
        "recovery-keeps-hazards",
        "what the dead were reading would never be freed",
        RECOVERY,
        "            if data != bytes(length):",
        "            if False:",
        PAGES_TESTS,
    ),
    one(
        "recovery-does-not-notice-others",
        "somebody else at work would be overrun",
        RECOVERY,
        "            if self.swaps[i].result != self.swaps[i].compare:",
        "            if False:",
        f"{TESTS}::test_somebody_else_at_work_is_noticed",
    ),
)
