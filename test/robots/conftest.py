"""A simulated robot behind the real protocol, one for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from molmoact_ros.paths import robot_model
from molmoact_ros.sim.franka_sim import FrankaSim


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[FrankaSim]:
    with FrankaSim(robot_model(), tmp_path / "franka_sim.log") as robot:
        yield robot
