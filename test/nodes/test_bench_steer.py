"""A stroke drawn in a real browser is followed by the arm and the model of this repository."""

from __future__ import annotations

import pytest

from molmoact_ros.benchmarks.stroke_following import NEAR, Followed, bench_steer
from molmoact_ros.utils.paths import default_checkpoint


@pytest.mark.usefixtures("domain")
def test_the_arm_goes_along_strokes_drawn_in_a_browser() -> None:
    told: list[Followed] = []
    strokes = bench_steer(2, 0, default_checkpoint(), told.append)
    assert told == strokes and len(strokes) == 2
    # One stroke may be missed on a busy machine; an arm that goes elsewhere is 60 pixels and more off.
    best = min(strokes, key=lambda stroke: stroke.off)
    assert best.off < 2 * NEAR and min(stroke.end for stroke in strokes) < 2 * NEAR
