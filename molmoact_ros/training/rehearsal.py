"""Rehearsal data: labelled samples of the tasks that the nano model has learnt, in the layout of `molmoact-ros label`.

A fine-tune on a few demonstrations of a new task forgets the old ones unless it sees them, too. For a released
checkpoint that is a part of its own training data; the simulated workcell can sample as much as is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.datasets.arrow_writer import ArrowReport, write_arrow
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.given_statistics import given_statistics
from molmoact_ros.datasets.labelled_episode import LabelledEpisode
from molmoact_ros.engine.model.checkpoint import load_depth_decoder
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.robots.franka import OPENING_MAX
from molmoact_ros.training.demonstrations import ASKED, Sampler
from molmoact_ros.training.expert import CHUNK_STEPS, STEP
from molmoact_ros.utils.progress import Progress, ignore


def write_rehearsal(
    robot: Path, checkpoint: Path, folder: Path, samples: int, first_seed: int, key: str = "",
    progress: Progress = ignore,
) -> ArrowReport:  # fmt: skip
    """Write `samples` labelled samples of the nano's training tasks into a new folder.

    robot: the arm's MJCF file. checkpoint: its depth decoder and statistics label them. first_seed: of the samples'
    states; training begins at `TRAIN_SEED`. key: of the statistics, where it has several. progress: in samples.
    Raises CheckpointError without a depth decoder, and like `given_statistics` and `write_arrow`.
    """
    vq = load_depth_decoder(checkpoint)
    if vq is None:
        raise CheckpointError(f"{checkpoint} has no depth decoder, which makes depth tokens; give one that has it")
    name, statistics = given_statistics(checkpoint, key)

    def episodes() -> Iterator[LabelledEpisode]:
        sampler = Sampler(robot)
        for number in range(samples):
            yield sampled_episode(sampler, vq, first_seed + number)
            progress(number + 1, samples)
        sampler.cell.close()

    return write_arrow(folder, name, statistics, episodes())


def sampled_episode(sampler: Sampler, vq: DepthVq, seed: int) -> LabelledEpisode:
    """The sample of a seed as an episode as long as a chunk of actions, whose first frame alone has labels.

    Its images are as large as the cameras', and one of the sample's instructions is drawn. The states after the first
    one follow from the actions.
    """
    scene, state, q, rng = sampler.moment(seed)
    sampler.pose(scene, state, q)
    (front, depth), (wrist, _) = (sampler.cell.render(camera) for camera in ("front", "wrist"))
    traces, actions, instructions = sampler.labels(scene, state, rng)
    asked, arm = int(rng.integers(ASKED)), sampler.cell.arm
    pose = [*arm.tcp_position, *Rotation.from_matrix(arm.tcp_rotation).as_euler("xyz"), arm.opening / OPENING_MAX]
    states = np.tile(np.array(pose, np.float32), (CHUNK_STEPS, 1))
    states[1:, :3] += np.cumsum(actions[asked, :-1, :3], axis=0)
    images = {"front": front, "wrist": wrist}
    demonstration = Demonstration(
        tasks=[instructions[asked]] * CHUNK_STEPS, fps=1 / STEP,
        pictures={name: partial(repeat, image, CHUNK_STEPS) for name, image in images.items()},
        states=states, actions=actions[asked], joints=None, name=f"sample {seed}",
    )  # fmt: skip
    unlabelled = [None] * (CHUNK_STEPS - 1)
    codes, trace = vq.encode_depth(depth).astype(np.uint8), traces[asked].astype(np.int64)
    return LabelledEpisode(demonstration, [codes, *unlabelled], [trace, *unlabelled])
