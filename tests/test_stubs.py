"""Stubs: every compiled module has one beside it, and what one names the other has."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILED = sorted(path for package in ("protocol", "storage", "kvcd") for path in (ROOT / package).rglob("*.pyx"))


def declared(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Return what a module's or class's stub declares, imports apart, by name."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def has(owner: object, name: str) -> bool:
    # A dataclass's fields are no attributes of the class.
    # __buffer__ is what stubs call the buffer protocol, which has a name in Python itself from 3.12 on only.
    return hasattr(owner, name) or name in getattr(owner, "__dataclass_fields__", {}) or name == "__buffer__"


def named(base: ast.expr) -> object:
    """Return what a stub's ``module.Class`` names; the stub may promise a base that the compiled class only resembles."""
    module_name, _, name = ast.unparse(base).rpartition(".")
    return getattr(importlib.import_module(module_name), name) if module_name else None


def public(owner: object) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


@pytest.mark.parametrize("source", COMPILED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_compiled_module_and_its_stub_name_the_same_things(source: Path) -> None:
    stub = declared(ast.parse(source.with_suffix(".pyi").read_text()).body)
    module_name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
    module = importlib.import_module(module_name)
    own = {name for name in public(module) if getattr(getattr(module, name), "__module__", "") == module_name}
    assert own - set(stub) == set()
    for name, node in stub.items():
        assert hasattr(module, name), name
        if isinstance(node, ast.ClassDef):
            compiled = getattr(module, name)
            members = declared(node.body)
            assert [member for member in members if not has(compiled, member)] == [], name
            # Methods all of them; an attribute that only compiled code and tests look at may be left out.
            bases = [*compiled.__mro__[1:], *map(named, node.bases)]
            inherited = {name for base in bases for name in dir(base)}
            methods = {name for name in public(compiled) if callable(getattr(compiled, name))}
            assert methods - set(members) - inherited == set(), name
