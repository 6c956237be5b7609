"""The evaluation in lock-step: the figures of the live one, other cameras from the scene's seed, and any period."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from molmoact_ros.cli.evaluate import asked_scenes
from molmoact_ros.evaluation import metrics
from molmoact_ros.evaluation.lockstep import run_scenes
from molmoact_ros.evaluation.rollout import LATENCY, PERIOD
from molmoact_ros.evaluation.workcell_expert import WorkcellExpert
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.utils.paths import robot_model


@dataclass
class Seen:
    """What a policy was shown, and where the front camera stood."""

    stamps: list[float]
    position: np.ndarray


class Watched(WorkcellExpert):
    """The expert, which also keeps what it was shown."""

    def __init__(self, cell: Workcell) -> None:
        super().__init__(cell)
        self.cell, self.seen = cell, Seen([], np.zeros(3))

    def reason(self, observation: Observation, *options):  # type: ignore[no-untyped-def]
        self.seen.stamps.append(observation.stamp)
        self.seen.position = self.cell.camera_pose("front")[0]
        return super().reason(observation, *options)


@pytest.fixture(scope="module")
def cell() -> Workcell:
    cell = Workcell(robot_model())
    cell.reset(sample_scene(0))
    return cell


@pytest.mark.parametrize("moved", [False, True])
def test_the_expert_does_its_tasks_and_is_judged_as_live(cell: Workcell, moved: bool) -> None:
    built, policy = cell.camera_pose("front")[0], Watched(cell)
    period = 0.0 if moved else PERIOD
    (row,) = run_scenes(cell, policy, None, robot_model(), asked_scenes(1, 5001, False, ""), period, moved)
    assert row.seed == 5001 and row.success and row.right_object_first and row.message == "done"
    assert row.instruction == sample_scene(5001).task.instruction
    assert row.trace_error < 4, "it agrees with itself, through the camera as it stands"
    steps = np.diff(policy.seen.stamps)
    assert np.allclose(steps, max(period, LATENCY), atol=0.011)
    distance = np.linalg.norm(policy.seen.position - built)
    assert (0.001 < distance < 0.02) if moved else distance == 0
    np.testing.assert_array_equal(cell.camera_pose("front")[0], built, err_msg="the cameras are put back")
    figures = metrics.summary([row])["all"]
    assert figures["success"] == 1.0 and np.isnan(figures["depth_code_accuracy"])


def test_what_is_not_done_in_time_has_failed(cell: Workcell) -> None:
    scenes = asked_scenes(1, 5001, False, "")
    (row,) = run_scenes(cell, WorkcellExpert(cell), None, robot_model(), scenes, timeout=0.5)
    assert not row.success and row.message.startswith("not done")


def test_swapped_scenes_ask_for_another_object_of_the_same_table() -> None:
    for (seed, plain), (_, other) in zip(asked_scenes(20, 0, False, ""), asked_scenes(20, 0, True, ""), strict=True):
        assert plain == sample_scene(seed) and plain.objects == other.objects
        assert other.task.object == plain.objects[1].name != plain.task.object
