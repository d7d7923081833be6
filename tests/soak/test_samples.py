"""The soak's verdict: what grows is seen, what jitters is not."""

from __future__ import annotations

import pytest

from tests.soak.picture import picture
from tests.soak.samples import Sample, judge


def samples(*, leak_bytes: float = 0.0, descriptors: float = 0.0, p99_ms: float = 0.0) -> list[Sample]:
    """Thirty minutes, filling at first; the arguments are growth a sample."""
    return [
        Sample(
            number * 10.0,
            int(60e6 + (number % 3) * 1e5 + leak_bytes * number - (2e7 if number < 20 else 0)),
            500_000_000,
            int(100 + number % 2 + descriptors * number),
            10_000,
            2.0 + number % 2,
            20.0 + number % 5 + p99_ms * number,
        )
        for number in range(180)
    ]


def test_what_is_flat_passes() -> None:
    assert all(judgement.is_flat for judgement in judge(samples()))


@pytest.mark.parametrize(
    ("field", "growth"), [("private_bytes", {"leak_bytes": 1e5}), ("descriptors", {"descriptors": 0.05}), ("p99_ms", {"p99_ms": 0.2})]
)
def test_what_grows_is_named(field: str, growth: dict[str, float]) -> None:
    assert [judgement.field for judgement in judge(samples(**growth)) if not judgement.is_flat] == [field]


def test_too_few_samples_judge_nothing() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        judge(samples()[:2])


def test_the_picture_has_a_line_for_each_figure() -> None:
    drawn = picture(samples(), "a <title>")
    assert drawn.count("<polyline") == 6
    assert "a &lt;title&gt;" in drawn
