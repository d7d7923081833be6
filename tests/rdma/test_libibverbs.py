"""libibverbs' structures as kvcd writes them down, against the real header; and what is said where the library is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from storage.fabric.libibverbs import enumerations, structure_layout
from tests.programs import cannot_run

ROOT = Path(__file__).resolve().parents[2]
HEADER = Path("/usr/include/infiniband/verbs.h")


def test_structures_and_constants_are_those_of_the_header(tmp_path: Path) -> None:
    """Compile the questions with the header, and compare the answers."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not HEADER.exists():
        cannot_run("no C compiler, or no libibverbs-dev (apt install gcc libibverbs-dev)", required_by="REQUIRE_VERBS")
    layout, constants = structure_layout(), enumerations()
    questions = []
    for structure, fields in layout.items():
        for field in fields:
            answer = f"offsetof(struct {structure}, {field})" if field else f"sizeof(struct {structure})"
            questions.append(f'printf("%s\\"{structure}.{field}\\": %zu", separator, {answer}); separator = ", ";')
    questions += [f'printf("%s\\"{name}\\": %zu", separator, (size_t){name});' for name in constants]
    source = tmp_path / "layout.c"
    body = "\n".join(questions)
    source.write_text(
        f'#include <infiniband/verbs.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\nconst char *separator = "{{";\n'
        f'{body}\nputs("}}");\nreturn 0;\n}}\n'
    )
    subprocess.run([compiler, "-o", tmp_path / "layout", source], check=True, timeout=60)
    told = json.loads(subprocess.run([tmp_path / "layout"], check=True, capture_output=True, timeout=10).stdout)
    ours = {f"{structure}.{field}": value for structure, fields in layout.items() for field, value in fields.items()} | constants
    assert len(ours) > 100
    assert ours == told


def test_a_missing_library_is_answered_with_the_packages_to_install(tmp_path: Path) -> None:
    (tmp_path / "libibverbs.so.1").write_bytes(b"not a library")
    program = "from storage.fabric.verbs_device import VerbsDevice\nVerbsDevice()"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert ended.returncode == 1
    assert "VerbsError: RDMA's library cannot be loaded" in ended.stderr
    assert "apt install libibverbs1 ibverbs-providers" in ended.stderr
