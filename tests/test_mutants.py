"""The catalogue of mutants keeps step with the sources: every fault can still be seeded, and every test that it names is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant, MutantError, one

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_sources(mutant: Mutant) -> None:
    assert mutant.mutated(ROOT)
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), test
        assert not name or f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test


@pytest.mark.parametrize("text", ["nothing of it", "a word, and again a word"])
def test_a_text_that_is_not_there_once_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "module.pyx").write_text(text)
    with pytest.raises(MutantError, match=f"{text.count('a word')} times"):
        one("name", "why", "module.pyx", "a word", "another", "tests/none.py").mutated(tmp_path)
