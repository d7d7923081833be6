"""Mutant: one seeded fault as data, and how it is written into a tree of sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TIME_LIMIT_S = 120.0


class MutantError(Exception):
    """A fault that cannot be seeded: the sources have changed under it."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of text; ``old`` occurs exactly once in the file."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault. ``tests`` are what must go red, cheapest first; ``also_built`` are modules that include what was edited.

    ``limit_s`` is for the tests alone; a run that takes longer counts as killed, since `make test` has a deadline too.
    """

    name: str
    why: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    also_built: tuple[str, ...] = ()
    limit_s: float = TIME_LIMIT_S

    def files(self) -> list[str]:
        """Return the sources that the fault changes, each once."""
        return list(dict.fromkeys(edit.file for edit in self.edits))

    def modules(self) -> list[str]:
        """Return the sources to be compiled for it."""
        return list(dict.fromkeys([file for file in self.files() if file.endswith(".pyx")] + list(self.also_built)))

    def apply(self, root: Path) -> None:
        """Write the fault into the tree."""
        for file, text in self.mutated(root).items():
            (root / file).write_text(text)

    def mutated(self, root: Path) -> dict[str, str]:
        """Return the changed files' texts. Raises MutantError unless every old text is there exactly once."""
        texts = {file: (root / file).read_text() for file in self.files()}
        for edit in self.edits:
            found = texts[edit.file].count(edit.old)
            if found != 1:
                raise MutantError(f"{self.name}: its text occurs {found} times in {edit.file}, expected once:\n{edit.old}")
            texts[edit.file] = texts[edit.file].replace(edit.old, edit.new)
        return texts


def one(name: str, why: str, file: str, old: str, new: str, *tests: str, limit_s: float = TIME_LIMIT_S) -> Mutant:
    """Return a mutant of one edit."""
    return Mutant(name, why, (Edit(file, old, new),), tests, limit_s=limit_s)
