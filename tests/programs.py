"""Programs that tests need beside Python: a missing one is a failure under `make test`, and skips its tests elsewhere."""

from __future__ import annotations

import os
import shutil

import pytest


def require_program(name: str) -> None:
    """Fail when ``name`` is not installed and REQUIRE_PROGRAMS=1 (`make test` sets it, having installed all); else skip."""
    if shutil.which(name) is None:
        if os.environ.get("REQUIRE_PROGRAMS") == "1":
            pytest.fail(f"{name} is not installed, and REQUIRE_PROGRAMS=1", pytrace=False)
        pytest.skip(f"{name} is not installed")
