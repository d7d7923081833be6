"""Picture: samples as lines over time, one panel a figure, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.soak.samples import Sample

WIDTH, PANEL_HEIGHT, MARGIN = 900, 120, 60
PANELS = (
    ("private_bytes", "memory outside the pool, MB", 1e-6),
    ("pool_bytes", "pool in use, MB", 1e-6),
    ("descriptors", "descriptors", 1.0),
    ("operations_per_s", "operations a second", 1.0),
    ("p50_ms", "pipeline p50, ms", 1.0),
    ("p99_ms", "pipeline p99, ms", 1.0),
)


def picture(samples: Sequence[Sample], title: str) -> str:
    """Return the SVG; every panel begins at zero, so that what looks flat is."""
    height = MARGIN + len(PANELS) * (PANEL_HEIGHT + 30)
    last_s = max(sample.elapsed_s for sample in samples) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/><text x="{MARGIN}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for number, (field, label, scale) in enumerate(PANELS):
        top = MARGIN + number * (PANEL_HEIGHT + 30)
        values = [float(getattr(sample, field)) * scale for sample in samples]
        most = max(values) * 1.1 or 1.0
        points = " ".join(
            f"{MARGIN + sample.elapsed_s / last_s * (WIDTH - 2 * MARGIN):.1f},{top + PANEL_HEIGHT * (1 - value / most):.1f}"
            for sample, value in zip(samples, values, strict=True)
        )
        parts += [
            f'<text x="{MARGIN}" y="{top - 6}">{escape(label)}: {values[0]:.4g} to {values[-1]:.4g}, at most {max(values):.4g}</text>',
            f'<rect x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{PANEL_HEIGHT}" fill="none" stroke="#999"/>',
            f'<polyline points="{points}" fill="none" stroke="#1565c0" stroke-width="1.5"/>',
            f'<text x="{MARGIN - 8}" y="{top + 10}" text-anchor="end">{most:.3g}</text>',
            f'<text x="{MARGIN - 8}" y="{top + PANEL_HEIGHT}" text-anchor="end">0</text>',
        ]
    parts.append(f'<text x="{WIDTH - MARGIN}" y="{height - 8}" text-anchor="end">{last_s / 60:.1f} minutes</text></svg>')
    return "\n".join(parts)
