"""Chart: hit ratio over capacity, one line a policy, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from kvcd.simulation.simulator import Simulation

_WIDTH, _HEIGHT, _MARGIN, _LEGEND = 900, 520, 60, 170
_COLOURS = ("#1565c0", "#c62828", "#2e7d32", "#ef6c00", "#6a1b9a", "#00838f", "#ad1457", "#558b2f", "#4e342e")
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)


def chart(simulations: Sequence[Simulation], *, title: str) -> str:
    """Return the SVG; capacities on a logarithmic scale, ratios from zero. Raises ``ValueError`` when there is nothing to draw."""
    if not simulations:
        raise ValueError("there is nothing to draw")
    capacities = sorted({simulation.capacity_blocks for simulation in simulations})
    most = max(simulation.block_hit_ratio for simulation in simulations) * 1.05 or 1.0
    spread = math.log(capacities[-1] / capacities[0]) or 1.0

    def place(capacity: int, ratio: float) -> str:
        across = math.log(capacity / capacities[0]) / spread
        return f"{_MARGIN + across * (_WIDTH - _MARGIN - _LEGEND):.1f},{_HEIGHT - _MARGIN - ratio / most * (_HEIGHT - 2 * _MARGIN):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/><text x="{_MARGIN}" y="28" font-size="15">{escape(title)}</text>',
        f'<text x="{(_WIDTH - _LEGEND) / 2:.0f}" y="{_HEIGHT - 14}" text-anchor="middle">capacity, blocks</text>',
    ]
    step = next((step for step in _STEPS if most / step <= 8), _STEPS[-1])
    for line in range(int(most / step) + 1):
        x, y = place(capacities[0], line * step).split(",")
        parts.append(f'<line x1="{x}" y1="{y}" x2="{_WIDTH - _LEGEND}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{_MARGIN - 8}" y="{y}" text-anchor="end">{line * step:.2f}</text>')
    for capacity in capacities:
        x = place(capacity, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">{capacity:,}</text>')
    for number, policy in enumerate(dict.fromkeys(simulation.policy for simulation in simulations)):
        colour = _COLOURS[number % len(_COLOURS)]
        line_of = sorted((s.capacity_blocks, s.block_hit_ratio) for s in simulations if s.policy == policy)
        points = [place(capacity, ratio) for capacity, ratio in line_of]
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in (point.split(",") for point in points)]
        parts.append(f'<text x="{_WIDTH - _LEGEND + 14}" y="{_MARGIN + 20 * number}" fill="{colour}">{escape(policy)}</text>')
    return "\n".join([*parts, "</svg>\n"])
