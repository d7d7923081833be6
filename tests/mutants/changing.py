"""Faults of changing: inserting, overwriting, removing, flushing."""
# ruff: noqa: E501 - texts of the sources as they stand there

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant, one

CHANGE = "storage/change.pyx"
ENGINE = "storage/engine.pyx"
INTERLEAVING = "tests/storage/test_interleaving.py"
BATCHES = "tests/storage/test_concurrent_batches.py"
LOCATIONS = "tests/storage/test_locations.py"
DUEL = f"{INTERLEAVING}::test_one_interruption_at_every_doorbell"
WORDS_TESTS = "tests/storage/test_words.py"
CHANGE_TESTS = "tests/storage/test_change.py"
CROWDED = f"{INTERLEAVING}::test_two_front_ends_on_crowded_sets"
OVERFLOW = f"{BATCHES}::test_keys_that_overflow_each_other"
STOPPED = f"{CHANGE_TESTS}::test_who_has_reserved_and_stops_keeps_nobody"
GONE = f"{CHANGE_TESTS}::test_who_has_gone_before_it_was_expelled_keeps_nobody"
CROSSED = f"{CHANGE_TESTS}::test_of_two_keys_in_one_slot_the_one_that_has_the_first_word_stays"
TWIN = f"{INTERLEAVING}::test_a_twin_in_a_lower_slot"

MUTANTS = (
    one(
        "twin-not-looked-for",
        "publish-then-look: two SETNX of one key in two slots would both succeed",
        CHANGE,
        "        if number == mine or not is_twin(request, number):",
        "        if True:",
        DUEL,
        TWIN,
    ),
    one(
        "published-twin-ignored",
        "a LIVE slot with this key must be overwritten, not joined by a second one",
        CHANGE,
        "            if not is_other_key(engine, request, number):",
        "            if False:",
        DUEL,
        TWIN,
    ),
    one(
        "expulsion-not-checked",
        "a reservation that could not be expelled was published: the key is there already",
        CHANGE,
        "        if word_state(op.result) == STATE_LIVE:",
        "        if False:",
        CHANGE_TESTS,
    ),
    one(
        "expulsion-of-what-has-gone-counts-as-lost",
        "of two that keep step one gives way and the other takes that for a publication: both begin again, and again",
        CHANGE,
        "        if word_state(op.result) == STATE_LIVE:",
        "        if op.result != op.compare:",
        GONE,
    ),
    one(
        "reservation-not-taken-over",
        "whoever stops with a slot reserved would block the key for everybody",
        CHANGE,
        "    cdef int number = first_reserved(request)",
        "    cdef int number = -1",
        STOPPED,
    ),
    one(
        "lower-reservation-expelled",
        "of two that see each other both would be expelled",
        CHANGE,
        "            if number < mine:",
        "            if False:",
        GONE,
    ),
    one(
        "lost-tag-of-this-key-counts-as-lost",
        "who inserts the same key has written the very tag: nothing is lost",
        CHANGE,
        "    if found == second.compare or found == second.swap:",
        "    if found == second.compare:",
        f"{CHANGE_TESTS}::test_the_tag_may_come_from_another_who_inserts_the_key",
    ),
    one(
        "slot-with-another-tag-given-up",
        "of two keys in one slot each has one word: both would begin again for as long as they keep step",
        CHANGE,
        "    if word1_binding(found) == word_binding(request.reserved_word):",
        "    if False:",
        CROSSED,
    ),
    one(
        "tag-not-checked",
        "a slot whose second word somebody else holds would be published under the wrong key's tag",
        CHANGE,
        "    if found == second.compare or found == second.swap:",
        "    if True:",
        CHANGE_TESTS,
    ),
    one(
        "publish-not-checked",
        "a reservation that was expelled is not published, whatever its owner thinks",
        CHANGE,
        "    if batch.round.finished.items[request.cas_op].result != request.reserved_word:",
        "    if False:",
        INTERLEAVING,
        BATCHES,
    ),
    Mutant(
        "publish-without-cas",
        "a plain WRITE brings back a reservation that was expelled, over whatever took its slot",
        (
            Edit(
                CHANGE,
                "    op = emit(batch, OP_CAS, engine.pool.slot_offset(request.slot), NULL, 0)\n"
                "    op.compare = request.reserved_word\n    op.swap = request.new_word\n    request.state = PUBLISH",
                "    op = emit(batch, OP_WRITE, engine.pool.slot_offset(request.slot), &request.new_word, 8)\n    request.state = PUBLISH",
            ),
            Edit(CHANGE, "    if batch.round.finished.items[request.cas_op].result != request.reserved_word:", "    if False:"),
        ),
        (INTERLEAVING, BATCHES),
    ),
    one(
        "overwrite-not-checked",
        "an overwrite that lost the race must not retire the winner's value",
        CHANGE,
        "    if batch.round.finished.items[request.cas_op].result != old:",
        "    if False:",
        DUEL,
        INTERLEAVING,
    ),
    one(
        "removal-not-checked",
        "of two that remove one entry only one may free its memory and count it",
        CHANGE,
        "    if batch.round.finished.items[request.cas_op].result != request.word:\n        if request.kind == KIND_EVICT:",
        "    if False:\n        if request.kind == KIND_EVICT:",
        DUEL,
        INTERLEAVING,
    ),
    one(
        "version-not-advanced-by-an-overwrite",
        "a word that comes again lets a reader or writer of an older value through",
        CHANGE,
        "live_word(engine, request, word_binding(request.word), word_version(request.word) + 1)",
        "live_word(engine, request, word_binding(request.word), word_version(request.word))",
        WORDS_TESTS,
        INTERLEAVING,
    ),
    one(
        "slot-freed-to-zero",
        "a slot that forgets its binding and version lets a stopped writer relabel somebody else's entry",
        CHANGE,
        "    op.compare = request.word\n    op.swap = freed_word(engine.pool.word_format, request.word)\n    engine.count_change",
        "    op.compare = request.word\n    op.swap = 0\n    engine.count_change",
        WORDS_TESTS,
        INTERLEAVING,
    ),
    one(
        "binding-not-advanced",
        "the tag of the slot's earlier key would count for the new one",
        CHANGE,
        "STATE_RESERVED, False, False, 0, (word_binding(word) + 1) & engine.pool.word_format.binding_mask,",
        "STATE_RESERVED, False, False, 0, word_binding(word),",
        WORDS_TESTS,
        INTERLEAVING,
    ),
    one(
        "binding-of-the-tag-ignored",
        "word 1 belongs to word 0 only while both bindings are equal",
        ENGINE,
        "word_state(word) == STATE_LIVE and word_binding(word) == word1_binding(word1)\n",
        "word_state(word) == STATE_LIVE\n",
        WORDS_TESTS,
        INTERLEAVING,
    ),
    one(
        "overflow-never-raised",
        "an entry away from home is found only if its home says that there are such",
        CHANGE,
        "    if distance > 0 and not request.raised:",
        "    if False:",
        CROWDED,
    ),
    Mutant(
        "overflow-raised-after-reserving",
        "between publishing and raising nobody finds the entry, and who inserts the key too does so a second time",
        (
            Edit(CHANGE, "    if distance > 0 and not request.raised:", "    if False:"),
            Edit(
                CHANGE,
                "cdef void after_publish(",
                """cdef void raise_late(Engine engine, Request *request) noexcept nogil:
    cdef uint64_t overflow = 0
    cdef uint32_t distance = request.candidate // SLOTS_PER_SET
    if distance == 0:
        return
    while True:
        engine.pool.read_into(engine.pool.set_offset(request.home), &overflow, 8)
        if engine.pool.compare_and_swap(engine.pool.set_offset(request.home), overflow, make_overflow(
            overflow, distance if distance > overflow_distance(overflow) else overflow_distance(overflow), overflow_count(overflow) + 1,
        )) == overflow:
            return


cdef void after_publish(""",
            ),
            Edit(
                CHANGE,
                "    request.is_published = True\n    request.word = request.new_word\n    engine.counts.inserted += 1",
                "    raise_late(engine, request)\n    request.is_published = True\n    request.word = request.new_word\n"
                "    engine.counts.inserted += 1",
            ),
        ),
        (CHANGE_TESTS,),
    ),
    Mutant(
        "overflow-lowered-before-freeing",
        "the entry is still there while its home says that nothing lives away",
        (
            Edit(
                CHANGE,
                "cdef void unlink_old(Engine engine, Batch batch, Request *request) noexcept nogil:\n    cdef FabricOp *op\n",
                "cdef void unlink_old(Engine engine, Batch batch, Request *request) noexcept nogil:\n    cdef FabricOp *op\n"
                "    if word1_distance(request.checked_word1):\n        engine.lower_overflow(request.home)\n",
            ),
            Edit(
                CHANGE,
                "    if word1_distance(request.checked_word1):\n        engine.lower_overflow(request.home)\n    if request.was_expired and",
                "    if request.was_expired and",
            ),
        ),
        (CROWDED,),
    ),
    one(
        "raise-not-checked",
        "a lost count of entries away from home hides one of them when the other goes",
        CHANGE,
        "    if op.result != op.compare:\n        engine.restart(batch, request)\n        return\n    request.raised = True",
        "    request.raised = True",
        OVERFLOW,
        CROWDED,
    ),
    one(
        "epoch-not-read-before-publishing",
        "a key that was there until a flush would pass for absent, and NX would succeed beside it",
        CHANGE,
        "    if request.condition == CONDITION_NX and <uint32_t>request.epoch_after != request.epoch:",
        "    if False:",
        CHANGE_TESTS,
    ),
    one(
        "change-ended-before-it-is-made",
        "who reads slot and counter in between keeps the old word and finds it proved",
        CHANGE,
        "    engine.count_change(batch, request, CHANGE_BEGINS)\n    request.cas_op = batch.round.building.count\n"
        "    op = emit(batch, OP_CAS, engine.pool.slot_offset(request.slot), NULL, 0)\n    op.compare = request.word\n"
        "    op.swap = freed_word(engine.pool.word_format, request.word)\n    engine.count_change(batch, request, CHANGE_ENDS)\n",
        "    engine.count_change(batch, request, CHANGE_BEGINS)\n    engine.count_change(batch, request, CHANGE_ENDS)\n"
        "    request.cas_op = batch.round.building.count\n"
        "    op = emit(batch, OP_CAS, engine.pool.slot_offset(request.slot), NULL, 0)\n    op.compare = request.word\n"
        "    op.swap = freed_word(engine.pool.word_format, request.word)\n",
        CHANGE_TESTS,
    ),
    one(
        "replaced-by-key-alone",
        "a token names one value: what was written since must not be replaced or removed",
        CHANGE,
        "    if request.flags & EXACT and (request.word != request.expected or request.slot != request.expected_slot):",
        "    if False:",
        f"{INTERLEAVING}::test_two_front_ends_on_one_key",
    ),
    one(
        "replaced-whatever-its-slot",
        "the word alone may come again in another slot",
        CHANGE,
        "    if request.flags & EXACT and (request.word != request.expected or request.slot != request.expected_slot):",
        "    if request.flags & EXACT and request.word != request.expected:",
        WORDS_TESTS,
    ),
    one(
        "old-value-not-retired",
        "memory of overwritten and removed values would never come back",
        CHANGE,
        "    engine.reclaimer.retire(word_location(request.word), word_class(request.word), request.page_list, pages)",
        "    return",
        f"{INTERLEAVING}::test_two_front_ends_on_one_key",
    ),
)
