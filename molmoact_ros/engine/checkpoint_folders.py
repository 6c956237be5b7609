"""Opens a checkpoint folder of either family."""

from __future__ import annotations

from pathlib import Path

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.folder_kind import family
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder

AnyFolder = CheckpointFolder | RobotCheckpointFolder


def open_folder(path: Path) -> AnyFolder:
    """The small files of a folder, by the family that its config.json names."""
    return RobotCheckpointFolder(path) if family(path) == "molmoact2" else CheckpointFolder(path)
