"""Converts a demonstration to a bag that can be replayed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.datasets.episode import HAND, Demonstration, joint_names, state_names

CHUNK: Final = 8  # number of actions in each plan of an imported demonstration

_BEGIN: Final = 1.0  # s, start of an imported bag's clock: a stamp of zero means none


def write_bag(folder: Path, demonstration: Demonstration) -> None:
    """Write an episode as a bag: images, joints or poses, and at each frame the next CHUNK actions as a plan.

    An unknown gripper (NaN) is left out, and so are plans that lack it. Raises FileExistsError if the folder exists.
    What is raised while images are read leaves no folder.
    """
    d, dt = demonstration, 1.0 / demonstration.fps
    names, states = _known(state_names(d.arms), d.states)
    joints, positions = _known(joint_names(d.arms), d.joints) if d.joints is not None else ([], None)
    plans = bool(np.isfinite(d.actions).all())
    streams = {camera: read() for camera, read in d.pictures.items()}
    bag = BagWriter(folder, about={"imported": "LeRobot"})
    try:
        with bag:
            out = EpisodeWriter(bag)
            for k in range(len(d.states)):
                now = _BEGIN + k * dt
                out.engine_status(now, d.tasks[k], k + 1, 0.0, "")
                for camera, stream in streams.items():
                    out.image(f"/{camera}/color/image_raw", next(stream), "rgb8", now)
                out.joints(names, states[k], np.zeros(len(names)), now, HAND)
                if positions is not None:
                    out.joints(joints, positions[k], np.zeros(len(joints)), now)
                if plans:
                    out.chunk(d.actions[k : k + CHUNK], dt, now, k + 1, now)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _known(names: Sequence[str], values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The columns of values [n, D] that are known, with their names."""
    known = np.isfinite(values).all(axis=0)
    return [name for name, there in zip(names, known, strict=True) if there], values[:, known]
