"""Catalogue: all mutants, in the order of a value's life."""

from __future__ import annotations

from tests.mutants import changing, dying, memory, reading, recovering, reusing, serving

MUTANTS = (*reading.MUTANTS, *changing.MUTANTS, *memory.MUTANTS, *recovering.MUTANTS, *dying.MUTANTS, *serving.MUTANTS, *reusing.MUTANTS)

assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
