"""Open stays open and closed stays closed: from a recorded episode through its data set to the arm's command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace
from molmoact_ros.control.controller import Controller
from molmoact_ros.datasets.arrow_writer import write_arrow
from molmoact_ros.datasets.collection import Outcome
from molmoact_ros.datasets.episode_record import EpisodeRecord
from molmoact_ros.datasets.episode_source import EpisodeSource, SourceOptions
from molmoact_ros.datasets.gripper_scale import GripperScale
from molmoact_ros.datasets.labelled_episode import LabelledEpisode
from molmoact_ros.datasets.lerobot_writer import WriteOptions, write_dataset
from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.nodes.planning.chunk_messages import ChunkMessages
from molmoact_ros.nodes.planning.inference_thread import ReasonedPlan
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.robots.franka import HOME_Q, OPENING_MAX, SINGLE
from molmoact_ros.ros import conversions
from molmoact_ros.training.finetuning.arrow_data import ArrowData
from molmoact_ros.training.finetuning.examples import ExampleMaker
from molmoact_ros.utils.paths import default_checkpoint, robot_model

TASK, START, SECONDS, DT = "pick up the red cube", 50.0, 4, 0.01


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kept episode of a moving arm, whose fingers are commanded and measured open, then closed."""
    folder = tmp_path_factory.mktemp("session") / "episode_000"
    with BagWriter(folder) as bag:
        out = EpisodeWriter(bag)
        for k in range(100 * SECONDS):
            now, finger = START + k / 100, OPENING_MAX / 2 if k < 50 * SECONDS else 0.0
            moved = HOME_Q + 0.1 * np.sin(k / 100)
            out.joints([*SINGLE.joints, *SINGLE.fingers], np.array([*moved, finger, finger]), np.zeros(0), now)
            commands = {"data": np.array([finger] * 2)}
            out.write("/fr3_gripper_controller/commands", "std_msgs/msg/Float64MultiArray", now, **commands)
            if k % 10 == 0:
                for camera in ("front", "wrist"):
                    out.image(f"/{camera}/color/image_raw", np.full((24, 32, 3), k % 256, np.uint8), "rgb8", now)
    EpisodeRecord(
        session="session", number=0, task=TASK, begin=START, end=START + SECONDS, outcome=Outcome.KEPT
    ).write(folder)  # fmt: skip
    return folder


def labelled(paths: list[Path]) -> Iterator[LabelledEpisode]:
    for found in EpisodeSource(paths, SourceOptions()):
        count = len(found.actions)
        yield LabelledEpisode(found, [np.zeros((10, 10), np.uint8)] * count, [np.array([[1, 2], [30, 40]])] * count)


def commanded(message: Any, measured: float) -> float:
    """The opening, m, that the controller commands at the end of a chunk, from a hand that is `measured` m open."""
    controller = Controller(robot_model())
    controller.update_joints(HOME_Q, measured, 0.0)
    assert controller.start(0.0)
    chunk = ActionChunk(
        conversions.chunk_actions(message), message.dt, 0.0, message.plan_id, ActionSpace(message.action_space)
    )
    assert controller.on_chunk(chunk, 0.0), controller.last_refusal
    for k in range(round(chunk.end / DT)):
        controller.update_joints(controller.arms[0].limiter.motion.q, measured, k * DT)
        commands = controller.step(k * DT)
    assert commands is not None
    return float(commands[0].opening)


@pytest.mark.parametrize("closed", [None, 1.0], ids=["bag", "data set with 1 for closed"])
def test_open_is_open_and_closed_is_closed_from_the_episode_to_the_command(
    episode: Path, tmp_path: Path, closed: float | None
) -> None:
    source = episode
    if closed is not None:
        source, options = tmp_path / "lerobot", WriteOptions(gripper=GripperScale(1.0 - closed, closed))
        write_dataset(source, EpisodeSource([episode], SourceOptions()), options)
    (actions,) = (found.demonstration.actions for found in labelled([source]))
    write_arrow(tmp_path / "lab", "lab", NormStats.from_actions(actions), labelled([source]))
    data = ArrowData(tmp_path / "lab")
    maker = ExampleMaker(CheckpointFolder(default_checkpoint()), data)
    chunks = ChunkMessages("lab", maker.run.convention("lab"))
    seen, timings = Observation((), TASK, 0.0), SimpleNamespace(mode=ReasoningMode.FULL)
    for row, opening in ((0, OPENING_MAX), (len(data) - 1, 0.0)):
        for steered in (False, True):
            answer = maker.answer(data.sample(row), steered)
            read = maker.engine.grammars[steered].parse(answer.tolist())
            message = chunks.message(ReasonedPlan(0, seen, read, 0.0, timings))  # type: ignore[arg-type]
            assert message is not None and message.stated
            assert commanded(message, OPENING_MAX - opening) == opening
