"""The RDMA yardstick: perftest's figures for the guest's device."""

from __future__ import annotations

import pytest

from bench import rdma

pytestmark = [pytest.mark.verbs, pytest.mark.long]


def test_yardstick_has_figures_for_every_probe() -> None:
    figures = rdma.yardstick(rounds=1, iterations=100)
    assert figures["device"] == "rxe0"
    assert set(figures["latency"]) == {probe.name for probe in rdma.LATENCIES}
    assert set(figures["rate"]) == {probe.name for probe in rdma.RATES}
    for probe in (*figures["latency"].values(), *figures["rate"].values()):
        assert all(figure > 0 for figure in probe.values()), figures
