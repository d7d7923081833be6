"""``kvcd simulate``: its table, JSON and picture, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest
from typer.testing import CliRunner

from kvcd.cli_app import app
from kvcd.simulate import parse_capacities, parse_policies
from kvcd.simulation.catalogue import POLICIES
from kvcd.trace import write_trace
from kvcd.trace_generate import Shape, generate


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    with path.open("wb") as file:
        write_trace(generate(Shape.ZIPF, requests=200, seed=1), file)
    return path


def test_all_policies_as_json_and_as_a_picture(trace: Path, tmp_path: Path) -> None:
    picture = tmp_path / "ratios.svg"
    result = CliRunner().invoke(app, ["simulate", str(trace), "--capacity", "300,50", "--json", "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    simulations = orjson.loads(result.stdout)["simulations"]
    assert [(each["policy"], each["capacity_blocks"]) for each in simulations] == [(name, size) for name in POLICIES for size in (50, 300)]
    assert all(each["blocks"] == 3_200 and each["mode"] == "prefix" for each in simulations)
    assert all(each["hit_blocks"] == pytest.approx(each["block_hit_ratio"] * 3_200) for each in simulations)
    lines = ElementTree.parse(picture).getroot().findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(POLICIES)


def test_a_table_of_chosen_policies(trace: Path) -> None:
    result = CliRunner().invoke(
        app, ["simulate", str(trace), "--policy", "sieve,lru", "--capacity", "50", "--mode", "plain", "--limit", "20"]
    )
    assert result.exit_code == 0, result.output
    assert "sieve" in result.stdout
    assert "arc" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--capacity", "0"], "--capacity 0: expected numbers of blocks"),
        (["--capacity", "10,x"], "--capacity 10,x: expected"),
        (["--capacity", "10", "--policy", "mru"], "no policy 'mru'; there are lru,"),
        (["--capacity", "10", "--plot", "ratios.png"], "must end in .svg"),
    ],
)
def test_wrong_arguments_exit_2_and_say_what_is_wrong(trace: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["simulate", str(trace), *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_that_is_no_trace_exits_2_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello\n")
    result = CliRunner().invoke(app, ["simulate", str(path), "--capacity", "10"])
    assert result.exit_code == 2
    assert "notes.txt:1: not JSON" in result.stderr


def test_lists_are_read_in_order_and_once() -> None:
    assert parse_capacities("30,10,30") == [10, 30]
    assert parse_policies("arc,lru,arc") == ["arc", "lru"]
    assert parse_policies("all") == list(POLICIES)
