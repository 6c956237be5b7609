"""What is known of a server's robot without its weights: by norm_tag, what goes in and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder
from molmoact_ros.reasoning.action_convention import RELEASED, ActionConvention
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.robot_stats import TagScaling, only_tag


@dataclass(frozen=True)
class ServedRobot:
    """Input and output of a server with the norm_tag `tag`.

    convention: what its numbers mean. cameras: how many. state_dimensions: values of a state. action_shape: most
    actions of an answer, and values of one.
    """

    tag: str
    convention: ActionConvention
    cameras: int
    state_dimensions: int
    action_shape: tuple[int, int]


_SIZES: Final = {"franka_droid": (2, 8, (15, 8)), "yam_dual_molmoact2": (3, 14, (30, 14))}
RELEASED_ROBOTS: Final = {tag: ServedRobot(tag, RELEASED[tag], *sizes) for tag, sizes in _SIZES.items()}
"""Those of the released servers (MolmoAct2-DROID, MolmoAct2-BimanualYAM)."""


def served_robot(tag: str, folder: Path | None = None) -> ServedRobot:
    """The robot of a norm_tag: from a checkpoint's folder, whose weights are not read, or else a released one.

    Raises RefusedStep that lists the tags for an unknown one, and CheckpointError for the folder.
    """
    if folder is None:
        if tag not in RELEASED_ROBOTS:
            raise RefusedStep(
                f"the norm_tag (unnorm_key) is {tag or None!r}; choose one of: {', '.join(RELEASED_ROBOTS)}, or set "
                "checkpoint to the folder of the server's model (its weights are not needed)"
            )
        return RELEASED_ROBOTS[tag]
    files = RobotCheckpointFolder(folder)
    tag = only_tag(files.stats.metadata_by_tag, tag)
    scaling, convention = TagScaling(files.stats, tag), files.run.convention(tag)
    return ServedRobot(
        tag, convention, len(convention.cameras) or len(scaling.metadata.camera_keys), scaling.state_dimensions,
        (scaling.metadata.n_action_steps, scaling.action_dimensions),
    )  # fmt: skip
