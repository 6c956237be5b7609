"""The controller's benchmarks: fuzzing, and seams between chunks."""

from __future__ import annotations

from molmoact_ros.benchmarks.chunk_seams import seams
from molmoact_ros.benchmarks.fuzz import fuzz

from ..control.helpers import ROBOT


def test_nonsense_never_breaks_a_limit() -> None:
    result = fuzz(ROBOT, 6000, seed=11)
    print(f"{result.actions} actions, seed {result.seed}: {result.cycles} cycles, broken {result.broken}")
    assert result.played > 40 and result.refused > 100 and result.moving > result.cycles / 4
    assert not any(result.broken.values()), result.broken


def test_our_seams_are_the_smoothest_and_as_exact_as_any() -> None:
    rows = {(row.mode, row.latency): row for row in seams(ROBOT, (0.0, 0.2), seconds=6.0)}
    assert all(row.within_limits for row in rows.values())
    for latency in (0.0, 0.2):
        ours, naive = rows["realtime", latency], rows["naive", latency]
        assert ours.jerk < 0.5 * min(naive.jerk, rows["ensemble", latency].jerk)
        assert ours.mean_error < min(naive.mean_error, rows["ensemble", latency].mean_error) + 0.5  # mm
