"""What tests need beside Python: a missing program is a failure under `make test`, and skips its tests elsewhere."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require_program(name: str) -> None:
    """Fail when ``name`` is not installed and REQUIRE_PROGRAMS=1 (`make test` sets it, having installed all); else skip."""
    if shutil.which(name) is None:
        cannot_run(f"{name} is not installed", required_by="REQUIRE_PROGRAMS")


def cannot_run(reason: str, *, required_by: str) -> NoReturn:
    """Skip the test for this reason, or fail it when the environment variable ``required_by`` is 1."""
    if os.environ.get(required_by) == "1":
        pytest.fail(f"{reason}, and {required_by}=1", pytrace=False)
    pytest.skip(reason)
