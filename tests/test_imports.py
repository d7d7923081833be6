"""Import directions: session > command > store > pool > fabric, in Python and in Cython sources alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What no module below a place may import. A place and an import are dotted names, and hold for everything under them.
FORBIDDEN = {
    "protocol": ("storage", "kvcd", "tests", "bench"),
    "storage": ("protocol", "kvcd", "tests", "bench"),
    "kvcd": ("tests", "bench"),
    # The wire below the pool knows nothing of what is built on it.
    "storage.fabric": ("storage.pool", "storage.pages", "storage.cells", "storage.index", "storage.store", "storage.batch"),
    # Handlers see the service through kvcd.context only.
    "kvcd.commands": ("kvcd.server", "kvcd.session", "kvcd.fastlane", "kvcd.cli", "kvcd.cli_app"),
    "kvcd.context": ("kvcd.server", "kvcd.session", "kvcd.fastlane", "kvcd.cli", "kvcd.cli_app"),
    "kvcd.session": ("kvcd.server", "kvcd.cli", "kvcd.cli_app"),
    "kvcd.fastlane": ("kvcd.server", "kvcd.cli", "kvcd.cli_app"),
    # The supervisor serves nobody, and carries nothing that only who serves needs.
    "kvcd.supervisor": ("kvcd.server", "kvcd.session", "kvcd.fastlane", "kvcd.commands", "kvcd.worker", "storage.store"),
    "kvcd.service": ("kvcd.server", "kvcd.session", "kvcd.fastlane", "kvcd.commands", "kvcd.supervisor"),
    "kvcd.exchange": ("kvcd.server", "kvcd.session", "kvcd.service", "kvcd.supervisor", "kvcd.commands", "kvcd.channel", "storage"),
    "kvcd.config": ("kvcd.server", "kvcd.session", "kvcd.fastlane", "kvcd.commands", "kvcd.logs"),
}
# Whatever may open sockets or wait does not belong where bytes are only parsed.
NO_INPUT_OUTPUT = ("asyncio", "socket", "selectors", "uvloop", "ssl", "threading", "subprocess")

_FROM = re.compile(r"^\s*from\s+(\.*)([\w.]*)\s+c?import\s+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_PLAIN = re.compile(r"^\s*c?import\s+([\w., \t]+)", re.MULTILINE)
_TEXT = re.compile(r'("""|\'\'\').*?\1|#[^\n]*', re.DOTALL)


def sources(root: Path) -> list[Path]:
    """Return every Python and Cython source below the three packages."""
    return [
        path
        for package in ("protocol", "storage", "kvcd")
        for suffix in ("py", "pyi", "pyx", "pxd")
        for path in sorted((root / package).rglob(f"*.{suffix}"))
    ]


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path, root: Path) -> Iterator[str]:
    """Yield what a source imports or cimports, as dotted names; relative ones in full."""
    text = _TEXT.sub("", path.read_text())
    package = path.relative_to(root).parent.parts
    for dots, module, names in _FROM.findall(text):
        base = ".".join([*package[: len(package) - len(dots) + 1], *filter(None, [module])]) if dots else module
        yield base
        yield from (f"{base}.{name.split()[0]}" for name in names.strip("()").split(",") if name.strip())
    for names in _PLAIN.findall(text):
        yield from (name.split()[0] for name in names.split(",") if name.strip())


def is_below(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def violations(root: Path) -> list[str]:
    """Return every import that points the wrong way, as `module imports name`."""
    found = set()
    for path in sources(root):
        module = module_name(path, root)
        forbidden = [name for place, names in FORBIDDEN.items() if is_below(module, place) for name in names]
        if is_below(module, "protocol"):
            forbidden += NO_INPUT_OUTPUT
        for imported in imported_names(path, root):
            found.update(f"{module} imports {name}" for name in forbidden if is_below(imported, name))
    return sorted(found)


def test_all_imports_point_the_right_way() -> None:
    assert len(sources(ROOT)) > 20
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "text", "violation"),
    [
        ("protocol/a.py", "import storage.interface\n", "protocol.a imports storage"),
        ("protocol/a.pyx", "from storage cimport pool\n", "protocol.a imports storage"),
        ("protocol/a.pxd", "cimport kvcd.session\n", "protocol.a imports kvcd"),
        ("protocol/a.py", "def f():\n    import json, socket\n", "protocol.a imports socket"),
        ("storage/a.pyx", "from libc.string cimport memcpy\nfrom protocol.a cimport (\n    A,\n)\n", "storage.a imports protocol"),
        ("storage/fabric/a.pxd", "from ..pool cimport Pool\n", "storage.fabric.a imports storage.pool"),
        ("storage/fabric/a.py", "from .. import pool\n", "storage.fabric.a imports storage.pool"),
        ("kvcd/commands/a.py", "from kvcd import server\n", "kvcd.commands.a imports kvcd.server"),
        ("kvcd/a.py", "from bench.runner import run\n", "kvcd.a imports bench"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, text: str, violation: str) -> None:
    target = tmp_path / path
    target.parent.mkdir(parents=True)
    target.write_text(text)
    assert violations(tmp_path) == [violation]


@pytest.mark.parametrize("text", ['"""import storage"""\n', "# from kvcd import server\n", "from protocol.replies import Error\n"])
def test_a_right_import_and_mere_words_are_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "protocol").mkdir()
    (tmp_path / "protocol/a.py").write_text(text)
    assert violations(tmp_path) == []


def test_every_compiled_module_says_what_python_sees() -> None:
    compiled = [path for path in sources(ROOT) if path.suffix == ".pyx"]
    assert [path.relative_to(ROOT).as_posix() for path in compiled if not path.with_suffix(".pyi").exists()] == []


def test_every_module_begins_by_saying_what_it_owns() -> None:
    silent = []
    for path in sources(ROOT):
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
        if path.suffix in (".py", ".pyx") and not (lines and lines[0].lstrip("r").startswith('"""')):
            silent.append(path.relative_to(ROOT).as_posix())
    assert silent == []
