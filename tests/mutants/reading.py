"""Faults of reading: look-ups, cells, pins, remembered locations."""
# ruff: noqa: E501 - texts of the sources as they stand there

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant, one

LOOKUP = "storage/lookup.pyx"
ENGINE = "storage/engine.pyx"
COLLISIONS = "tests/storage/test_collisions.py"
INTERLEAVING = "tests/storage/test_interleaving.py"
BATCHES = "tests/storage/test_concurrent_batches.py"
LOCATIONS = "tests/storage/test_locations.py"
STAGING = "tests/storage/test_staging.py"
EVICTION = "tests/storage/test_eviction.py"
MODEL = "tests/storage/test_model.py"
RECLAIM_TESTS = "tests/storage/test_reclaim.py"
CHANGE_TESTS = "tests/storage/test_change.py"
WORDS_TESTS = "tests/storage/test_words.py"
HOT_VALUES = "tests/storage/test_hot_values.py"
PINNED = f"{STAGING}::test_a_pinned_value_outlives_everything_that_happens_to_its_key"

MUTANTS = (
    one(
        "echo-not-checked",
        "a cell that does not name its slot back belongs to another value, or to none",
        LOOKUP,
        "if header.slot != slot or header.echo != <uint32_t>word:\n        return False",
        "if False:\n        return False",
        COLLISIONS,
    ),
    one(
        "slot-not-read-again-after-the-cell",
        "the cell may have been freed and filled anew between the two READs",
        LOOKUP,
        "if request.checked_word != request.word:\n        engine.restart(batch, request)\n        return\n    is_whole = parse_cell",
        "is_whole = parse_cell",
        f"{INTERLEAVING}::test_a_cell_used_again_before_its_reader_comes",
    ),
    one(
        "slot-not-read-again-after-the-hazard",
        "pages may have been freed before the hazard was out",
        LOOKUP,
        "if request.checked_word != request.word:\n        engine.release_hazard(batch, request)\n"
        "        engine.restart(batch, request)\n        return\n    other",
        "other",
        f"{INTERLEAVING}::test_pages_used_again_before_they_are_pinned",
    ),
    one(
        "hazard-not-written",
        "a hazard that stays in one's own books keeps nobody else from freeing",
        LOOKUP,
        "    emit(batch, OP_WRITE, engine.pool.hazard_offset(engine.pool.front_end, request.hazard),\n"
        "        &engine.reclaimer.row[request.hazard], 8,\n    )",
        "    return",
        PINNED,
    ),
    one(
        "hazard-after-the-slot-was-read",
        "the value may be unlinked and freed between that READ and the hazard",
        LOOKUP,
        "    emit_hazard(engine, batch, request)\n    op = emit(batch, OP_READ, engine.pool.slot_offset(request.slot), &request.checked_word, 8)\n"
        "    op.flags = OP_FENCE\n",
        "    op = emit(batch, OP_READ, engine.pool.slot_offset(request.slot), &request.checked_word, 8)\n"
        "    op.flags = OP_FENCE\n    emit_hazard(engine, batch, request)\n",
        RECLAIM_TESTS,
    ),
    one(
        "cell-hazard-after-the-cell-was-read",
        "without order between READs the slot may be read first, the cell freed and filled anew, and then be read",
        LOOKUP,
        "            return\n        emit_hazard(engine, batch, request)\n    cell_offset = engine.cell_offset(location, cell_class)\n"
        "    request.cell = <char *>allocate(batch, size)\n    request.cell_bytes = size\n"
        "    if request.is_remembered and engine.hot_values is not None:\n"
        "        emit(batch, OP_READ, engine.pool.counter_offset(request.hash_high), &request.counter, 8)\n"
        "    emit(batch, OP_READ, cell_offset, request.cell, size)\n",
        "            return\n    cell_offset = engine.cell_offset(location, cell_class)\n"
        "    request.cell = <char *>allocate(batch, size)\n    request.cell_bytes = size\n"
        "    emit(batch, OP_READ, cell_offset, request.cell, size)\n"
        "    if not engine.pool.fabric.ordered_reads:\n        emit_hazard(engine, batch, request)\n",
        RECLAIM_TESTS,
    ),
    one(
        "hazard-row-not-announced",
        "others look at a row only as far as its owner says",
        LOOKUP,
        "if engine.reclaimer.high_water > engine.reclaimer.published_high_water:",
        "if False:",
        PINNED,
    ),
    one(
        "hazard-place-reused-before-it-is-emptied",
        "the zero that empties a place may then wipe out the next reader's name",
        ENGINE,
        "        if request.hazard >= 0:\n            note_released(batch.round, request.hazard)\n",
        "        if request.hazard >= 0:\n            self.reclaimer.drop_hazard(request.hazard)\n"
        "            note_released(batch.round, request.hazard)\n",
        BATCHES,
        INTERLEAVING,
    ),
    one(
        "expiry-ignored-in-a-match",
        "PREFIX.MATCH must not name what has expired",
        LOOKUP,
        "    expiry = cell_expiry_ms(header)\n    if expiry >= 0 and expiry <= batch.now_ms:",
        "    expiry = cell_expiry_ms(header)\n    if False:",
        f"{EVICTION}::test_expiry_is_lazy_and_exact_to_the_millisecond",
    ),
    one(
        "expiry-of-what-is-remembered-ignored",
        "a remembered block expires like any other",
        LOOKUP,
        "    engine.locations.hits += 1\n    if request.out_expire_ms >= 0 and request.out_expire_ms <= batch.now_ms:",
        "    engine.locations.hits += 1\n    if False:",
        LOCATIONS,
        MODEL,
    ),
    one(
        "expiry-ignored-by-reads",
        "GET must not find what has expired",
        LOOKUP,
        "    request.last_ms_before = request.heat.last_ms\n    if request.out_expire_ms >= 0 and request.out_expire_ms <= batch.now_ms:",
        "    request.last_ms_before = request.heat.last_ms\n    if False:",
        f"{EVICTION}::test_expiry_is_lazy_and_exact_to_the_millisecond",
    ),
    one(
        "stale-location-trusted",
        "a remembered slot word proves nothing once the key's change counter has moved",
        LOOKUP,
        "if batch.round.counters[request.hash_high % CHANGE_COUNTERS] != request.stamp:",
        "if False:",
        LOCATIONS,
    ),
    Mutant(
        "stamp-taken-during-a-change",
        "a change that was counted but had not reached its slot would never be noticed",
        (
            Edit(ENGINE, "request.stamp = counter if is_settled(counter) else NO_STAMP", "request.stamp = counter"),
            Edit("storage/locations.pxd", "return counter if is_settled(counter) else NO_STAMP", "return counter"),
        ),
        (LOCATIONS,),
        also_built=("storage/locations.pyx", "storage/change.pyx"),
    ),
    one(
        "evictions-not-counted",
        "what was evicted or has expired would still be named by who remembers it",
        ENGINE,
        "        if self.pool.fabric.is_remote:\n            op = emit(batch, OP_FAA, self.pool.counter_offset",
        "        if self.pool.fabric.is_remote and request.kind != KIND_EVICT:\n            op = emit(batch, OP_FAA, self.pool.counter_offset",
        CHANGE_TESTS,
    ),
    one(
        "flush-not-noticed",
        "another front end's flush must be seen by every command that comes after it",
        ENGINE,
        "        self.note_epochs(round.epochs)\n        for i in range(batch.count):",
        "        return\n        for i in range(batch.count):",
        f"{INTERLEAVING}::test_one_interruption_at_every_doorbell",
        BATCHES,
    ),
    one(
        "database-not-compared",
        "the same key in another database is another key",
        LOOKUP,
        "and header.database == request.database and",
        "and",
        WORDS_TESTS,
    ),
    one(
        "epoch-not-compared",
        "an entry of before a flush is not the key of after it",
        LOOKUP,
        "and header.epoch == request.epoch\n",
        "\n",
        WORDS_TESTS,
    ),
    one(
        "key-not-compared",
        "two keys may have one tag",
        LOOKUP,
        "        and memcmp(key, request.key, request.key_bytes) == 0\n",
        "",
        COLLISIONS,
    ),
    one(
        "copy-not-proved",
        "a copy is current only while the slot holds its word",
        LOOKUP,
        "        if request.checked_word != request.word or changes >",
        "        if changes >",
        f"{HOT_VALUES}::test_no_change_is_missed",
    ),
    one(
        "copy-whose-version-came-round",
        "a word proves nothing once its version may have come round",
        LOOKUP,
        "request.checked_word != request.word or changes > <int32_t>(engine.pool.word_format.version_mask >> 2):",
        "request.checked_word != request.word:",
        f"{HOT_VALUES}::test_a_value_may_change_as_often_as_its_version_has_values",
    ),
    one(
        "copy-freed-while-sent",
        "who sends a copy holds it",
        LOOKUP,
        "        copy.references += 1\n        request.copy = copy\n",
        "        request.copy = copy\n",
        f"{HOT_VALUES}::test_a_copy_that_gives_way_while_it_is_sent_stays_whole",
    ),
    one(
        "copy-of-what-expired",
        "a copy ends with its value",
        LOOKUP,
        "    if copy.expire_at_ms >= 0 and copy.expire_at_ms <= batch.now_ms:\n",
        "    if False:\n",
        f"{HOT_VALUES}::test_no_change_is_missed",
    ),
    one(
        "copy-of-another-epoch",
        "a flush makes copies void",
        "storage/hot_values.pyx",
        "            if value.epoch != epoch:\n",
        "            if False:\n",
        f"{HOT_VALUES}::test_no_change_is_missed",
    ),
)
