"""Sparkline: a few numbers as a picture of characters, as LATENCY GRAPH shows them."""

from __future__ import annotations

from collections.abc import Sequence

COLUMNS = 80  # of one picture; more points are shown below it
ROWS = 4
_FILLED = "_o#"  # a row in thirds


def sparkline(points: Sequence[tuple[float, str]]) -> str:
    """Return the picture of (value, label) from left to right; labels stand upright below it."""
    lowest, highest = min(value for value, _ in points), max(value for value, _ in points)
    spread = highest - lowest or 1
    parts = [_picture(points[start : start + COLUMNS], lowest, spread) for start in range(0, len(points), COLUMNS)]
    return "\n".join(parts)


def _picture(points: Sequence[tuple[float, str]], lowest: float, spread: float) -> str:
    steps = len(_FILLED) * ROWS
    # One step is kept for the lowest, so that it can be seen.
    levels = [1 + int((value - lowest) / spread * (steps - 1)) for value, _ in points]
    lines = []
    for row in reversed(range(ROWS)):
        below = row * len(_FILLED)
        line = "".join(" " if level <= below else _FILLED[min(level - below, len(_FILLED)) - 1] for level in levels)
        lines.append(line + "\n")
    lines.append("\n")
    longest = max(len(label) for _, label in points)
    lines += ["".join(label[place] if place < len(label) else " " for _, label in points) + "\n" for place in range(longest)]
    return "".join(lines)
