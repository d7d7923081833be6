"""Faults of memory: pages and cells, hazards, retirement, eviction."""
# ruff: noqa: E501 - texts of the sources as they stand there

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant, one

PAGES = "storage/pages.pyx"
RECLAIM = "storage/reclaim.pyx"
POLICY = "storage/policy.pyx"
INTERLEAVING = "tests/storage/test_interleaving.py"
BATCHES = "tests/storage/test_concurrent_batches.py"
STAGING = "tests/storage/test_staging.py"
EVICTION = "tests/storage/test_eviction.py"
RECLAIM_TESTS = "tests/storage/test_reclaim.py"
PINNED = f"{STAGING}::test_a_pinned_value_outlives_everything_that_happens_to_its_key"
PAGES_TESTS = "tests/storage/test_pages.py"
POLICY_TESTS = "tests/storage/test_policy.py"

MUTANTS = (
    one(
        "hazards-ignored",
        "what somebody reads is freed under him",
        RECLAIM,
        "            if named:\n                self._keep(entries[i])",
        "            if False:\n                self._keep(entries[i])",
        PINNED,
    ),
    one(
        "page-hazards-ignored",
        "pages are freed while a client is being sent what they hold",
        RECLAIM,
        "                    entries[i].page_count and hazards[j] == hazard_of_page(entries[i].pages[0])\n",
        "                    False\n",
        PINNED,
    ),
    one(
        "cell-hazards-ignored",
        "a reader without order between READs sees another value's bytes",
        RECLAIM,
        "                if hazards[j] == hazard_of_cell(entries[i].location) or (",
        "                if (",
        RECLAIM_TESTS,
        BATCHES,
    ),
    one(
        "other-rows-ignored",
        "a front end must keep what others read, not only what it reads itself",
        RECLAIM,
        "            if i == <uint32_t>self.pool.front_end or rows == 1:\n                continue",
        "            continue",
        PINNED,
    ),
    one(
        "own-row-ignored",
        "a front end's own clients read too",
        RECLAIM,
        "            for j in range(<uint32_t>self.high_water if i == own else self.row_used[i]):\n"
        "                name = self.row[j] if i == own else self.all_rows[i * HAZARDS_PER_ROW + j]\n                if name == 0:",
        "            for j in range(0 if i == own else self.row_used[i]):\n"
        "                name = self.row[j] if i == own else self.all_rows[i * HAZARDS_PER_ROW + j]\n                if name == 0:",
        f"{STAGING}::test_readers_of_one_value_share_a_hazard",
    ),
    one(
        "many-hazards-not-searched",
        "beyond the short list every row must still be searched",
        RECLAIM,
        "            if not named and many:",
        "            if False:",
        RECLAIM_TESTS,
    ),
    one(
        "newcomers-row-not-read",
        "a front end that joined after the last look reads too",
        RECLAIM,
        "            if high_water <= rows or high_water > MAX_FRONT_ENDS:",
        "            if True:",
        RECLAIM_TESTS,
    ),
    Mutant(
        "retired-values-freed-at-once",
        "who saw the slot before it changed may still be reading",
        (
            Edit(
                RECLAIM,
                "            memcpy(entry.pages, pages, page_count * 4)\n        self._keep(entry)",
                "            memcpy(entry.pages, pages, page_count * 4)\n        self.allocator.free_cell(location, cell_class)\n"
                "        if page_count:\n            self.allocator.free_pages(entry.pages, page_count)\n            free(entry.pages)",
            ),
        ),
        (PINNED,),
    ),
    one(
        "retired-during-the-look-freed-with-it",
        "what is unlinked while the rows are being read was unlinked too late for them",
        RECLAIM,
        "        self._free_unnamed(entries, count if rows >= 0 else 0, <uint32_t>rows if rows > 0 else 0)",
        "        self._free_unnamed(entries, count if rows >= 0 else 0, <uint32_t>rows if rows > 0 else 0)\n"
        "        if self.retired_count:\n            self._free_unnamed(self.retired, self.retired_count, <uint32_t>rows if rows > 0 else 0)\n"
        "            self.retired_count = 0\n            self.retired_pages = 0",
        BATCHES,
        RECLAIM_TESTS,
    ),
    one(
        "last-reader-is-any-reader",
        "two who read one value share a hazard, which stays until both are done",
        RECLAIM,
        "        self.pins[index] -= 1\n        if self.pins[index]:\n            return False",
        "        self.pins[index] = 0",
        f"{STAGING}::test_readers_of_one_value_share_a_hazard",
    ),
    one(
        "double-free-accepted",
        "a cell that is free already would be handed out twice",
        PAGES,
        "        if state.free_bits[cell >> 6] & bit:\n            return  # free already",
        "        if False:\n            return  # free already",
        PAGES_TESTS,
    ),
    one(
        "foreign-free-overwrites-others",
        "two cells of a page that are freed by others: both bits count",
        PAGES,
        "                ops[i].swap = seen[i] | <uint64_t>1 <<",
        "                ops[i].swap = <uint64_t>1 <<",
        PAGES_TESTS,
    ),
    one(
        "foreign-free-not-checked",
        "a bit that was lost to a CAS of somebody else is a cell that never comes back",
        PAGES,
        "                while found != ops[i].compare and not found & bit:",
        "                while False:",
        PAGES_TESTS,
    ),
    one(
        "harvest-not-checked",
        "bits that were set since the READ would be wiped out or cells be taken back twice",
        PAGES,
        "if self.pool.compare_and_swap(self.pool.page_offset(pages[i]) + word * 8, bits, 0) != bits:\n                    continue",
        "if self.pool.compare_and_swap(self.pool.page_offset(pages[i]) + word * 8, bits, 0) != bits:\n                    pass",
        PAGES_TESTS,
    ),
    one(
        "foreign-cells-not-harvested",
        "cells that others freed are room",
        PAGES,
        "            if self.pool.front_end_high_water > 1:\n                harvested",
        "            if False:\n                harvested",
        PAGES_TESTS,
    ),
    one(
        "page-claimed-without-winning",
        "a page whose CAS failed is another front end's",
        PAGES,
        "                if ops[i].result == ops[i].compare:\n                    self.known_words[page] = ops[i].swap\n                    pages[got] = page",
        "                if True:\n                    self.known_words[page] = ops[i].swap\n                    pages[got] = page",
        PAGES_TESTS,
    ),
    one(
        "limit-not-checked",
        "pages in use may not pass the limit",
        PAGES,
        "        if before + count + reserve > limit:",
        "        if False:",
        f"{EVICTION}::test_a_lower_limit_holds_at_once_for_writes_and_soon_for_all",
        f"{EVICTION}::test_noeviction_refuses_and_loses_nothing",
    ),
    one(
        "refused-claim-stays-counted",
        "a claim that was refused must not make the pool look fuller",
        PAGES,
        "            self.pool.fetch_and_add(used_offset, -<uint64_t>count)\n            self.used_pages = before",
        "            self.used_pages = before",
        f"{EVICTION}::test_a_write_never_fails_while_something_may_go",
        f"{EVICTION}::test_noeviction_refuses_and_loses_nothing",
    ),
    one(
        "stale-free-words-kept",
        "a page that is claimed for cells begins without bits of its earlier life",
        PAGES,
        "        self.pool.write_from(self.pool.page_offset(page), zeros, PAGE_HEAD_BYTES)\n",
        "",
        PAGES_TESTS,
    ),
    one(
        "freed-page-not-counted",
        "pages in use would only grow",
        PAGES,
        "        self.used_pages = self.pool.fetch_and_add(self.pool.geometry.globals + GLOBAL_PAGES_USED, -freed) - freed",
        "        self.used_pages -= freed",
        f"{INTERLEAVING}::test_two_front_ends_on_one_key",
    ),
    one(
        "evicts-what-was-just-used",
        "a candidate that was used since it was sampled is not cold",
        POLICY,
        "            if looks and victims[i].score and victims[i].last_ms and (",
        "            if looks and False and (",
        POLICY_TESTS,
    ),
    one(
        "evicts-what-has-no-ttl",
        "under a volatile policy what has no TTL is never evicted",
        POLICY,
        "(self.volatile_only and not word_has_ttl(words[i])):\n                    continue\n                if leased[i]",
        "False:\n                    continue\n                if leased[i]",
        f"{EVICTION}::test_volatile_policies_leave_what_has_no_ttl",
    ),
    one(
        "sweep-takes-newer-epochs",
        "whoever has not yet learnt of a flush must not sweep what was written after it",
        POLICY,
        "flushed and <int32_t>(header.epoch - <uint32_t>self.engine.pool.epochs[header.database]) < 0",
        "flushed and header.epoch != <uint32_t>self.engine.pool.epochs[header.database]",
        POLICY_TESTS,
    ),
)
