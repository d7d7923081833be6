"""Pages: the made ones are as the tables are now, and what the others point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvcd import compatibility, configuration_reference
from kvcd.directives import DIRECTIVES
from protocol.command_table import COMMANDS
from protocol.redis_commands import REDIS_COMMANDS
from tests.servers import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize(("name", "text"), [("compatibility", compatibility.page()), ("configuration", configuration_reference.page())])
def test_a_made_page_is_not_stale(name: str, text: str) -> None:
    assert (ROOT / f"docs/{name}.md").read_text() == text, "make docs"


def test_every_command_of_ours_and_of_redis_is_on_the_page() -> None:
    words = set(re.findall(r"[A-Z0-9_.-]+", compatibility.page()))
    names = {name.decode() for name in COMMANDS} | {name for commands in REDIS_COMMANDS.values() for name in commands}
    assert {name.upper() for name in names} - words == set()


def test_the_names_of_redis_commands_are_complete(redis_server: ServerProcess) -> None:
    with redis_server.connect() as wire:
        rows = wire.call("COMMAND")
    assert isinstance(rows, list)
    theirs: set[str] = set()
    for row in rows:
        theirs.add(row[0].decode())
        theirs.update(subcommand[0].decode() for subcommand in row[9])
    ours = {name for commands in REDIS_COMMANDS.values() for name in commands}
    ours |= {f"{name}|{part}" for commands in REDIS_COMMANDS.values() for name, parts in commands.items() for part in parts}
    newer = {"waitaof", "client|no-touch", "client|setinfo", "cluster|myshardid"}  # than the 7.0 that Debian has
    assert theirs - ours == set()
    assert ours - theirs - newer == set()


def test_every_directive_is_on_the_page() -> None:
    names = set(re.findall(r"`([a-z_-]+)`", configuration_reference.page()))
    assert {directive.name for directive in DIRECTIVES} - names == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_make_target_that_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", page.read_text())) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_program_that_a_page_names_is_there(page: Path) -> None:
    for module in re.findall(r"python -m ((?:bench|kvcd|tests)[\w.]*)", page.read_text()):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def test_every_page_is_linked_from_the_first_one() -> None:
    links = set(re.findall(r"\]\(docs/([^)#]+)", (ROOT / "README.md").read_text()))
    assert {page.name for page in PAGES if page.parent.name == "docs"} - links == set()
