"""A small random MolmoAct 2 whose widths fill vectors, so that the compiled kernels can run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpoint, load_robot_checkpoint


@pytest.fixture(scope="session")
def wide(droid_folder: Path) -> RobotCheckpoint:
    return load_robot_checkpoint(droid_folder)
