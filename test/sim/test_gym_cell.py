"""Environments of SimplerEnv's and ManiSkill 3's interface, in a process of their own. Gymnasium is a stand-in here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.control.gym_actions import ARMS
from molmoact_ros.evaluation.gym_rollout import PickCubePolicy, check_gym_fit, front_image, run_gym_episode
from molmoact_ros.evaluation.suite_report import PlanLog
from molmoact_ros.reasoning.action_convention import RELEASED, UNSTATED
from molmoact_ros.sim.gym_cell import GymCell, GymError, GymObservation

GYMNASIUM = '''
import os
import numpy as np

print("what an environment prints is no reply")

class Tensor:
    """As a torch tensor: an array only by way of cpu()."""
    def __init__(self, values): self.values = np.asarray(values)
    shape = property(lambda self: self.values.shape)
    def cpu(self): return self.values

class Simpler:
    """Its hand moves by its actions; the task is done while it is more than 0.05 m out, and in the first step."""
    robot_uid, control_mode = "google_robot_static", "arm_pd_ee_delta_pose_align_x"
    unwrapped = property(lambda self: self)
    def reset(self, seed):
        self.at, self.steps, self.action = np.full(3, seed * 1e-3), 0, np.zeros(7)
        return self.seen(), {"episode_id": 0}
    def seen(self):
        rgb = np.full((64, 96, 3), self.steps, np.uint8); rgb[0, 0] = (1, 2, 3)
        camera = {"rgb": rgb, "Position": rgb}
        return {"image": {"overhead_camera": camera}, "extra": {"action": self.action, "at": self.at}}
    def get_language_instruction(self): return "pick coke can"
    def step(self, action):
        if abs(action[0]) > 1: raise FloatingPointError("too\\nfar")
        self.at, self.steps, self.action = self.at + action[:3], self.steps + 1, action
        return self.seen(), 0.0, bool(self.steps == 1 or self.at[0] > 0.05), self.steps == 6, {}

class Skill:
    """The task is done when the action's first value was 0.5, which is 0.05 m."""
    robot_uids, control_mode = "panda", "pd_ee_delta_pose"
    unwrapped = property(lambda self: self)
    def reset(self, seed): return self.seen(), {"success": Tensor([True])}
    def seen(self):
        return {"sensor_data": {"base_camera": {"rgb": Tensor(np.zeros((1, 8, 9, 3), np.uint8))}}, "extra": {}}
    def step(self, action):
        done = np.isclose(action[0], 0.5)
        return self.seen(), Tensor([0.0]), Tensor([done]), Tensor([False]), {"success": Tensor([done])}

def make(name, **options):
    if name == "crash:Now": os._exit(3)
    kind = {"mani_skill2_real2sim.envs:Coke": Simpler, "mani_skill.envs:Cube": Skill}[name]
    wanted = {Simpler: {"obs_mode": "rgbd", "prepackaged_config": True},
              Skill: {"obs_mode": "rgb", "control_mode": "pd_ee_delta_pose", "num_envs": 1}}[kind]
    assert options == wanted, options
    return kind()
'''


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Python that has the stand-in for Gymnasium."""
    (tmp_path / "gymnasium.py").write_text(GYMNASIUM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield Path(sys.executable)


class Pushing:
    """A policy that says what was seen, and pushes."""

    needs_cameras = True
    name = "pushing"

    def __init__(self, move: float) -> None:
        self.move, self.seen, self.words = move, list[GymObservation](), set[str]()

    def begin(self, arm: object) -> None:
        pass

    def plan(self, seen: GymObservation, instruction: str, now: float, log: PlanLog) -> np.ndarray:
        self.seen.append(seen)
        self.words.add(instruction)
        return np.array([[self.move, 0, 0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0, 0.2, 0.0]])


def test_an_episode_of_simplerenv_goes_to_its_limit_and_its_last_step_counts(python: Path) -> None:
    policy = Pushing(0.02)
    with GymCell("mani_skill2_real2sim.envs:Coke", python=python) as cell:
        done = run_gym_episode(cell, policy, 4, "", PlanLog())
        again = run_gym_episode(cell, Pushing(0.01), 0, "open it", PlanLog())
        with pytest.raises(GymError, match="the environment says: FloatingPointError: too far"):
            cell.step(np.array([2.0, 0, 0, 0, 0, 0, 1]))
    assert (done.success, done.steps, done.plans, done.instruction) == (True, 6, 3, "pick coke can")
    assert (again.success, again.steps) == (False, 6), "success in the first step alone is none"
    assert policy.words == {"pick coke can"}
    np.testing.assert_allclose([seen.state["at"][0] for seen in policy.seen], [0.004, 0.024, 0.044], atol=1e-7)
    np.testing.assert_allclose(policy.seen[1].state["action"], [0, 0, 0, 0, 0, 0.2, 1], atol=1e-7)
    image = policy.seen[1].images["overhead_camera"]
    assert image.shape == (64, 96, 3) and image[0, 0].tolist() == [1, 2, 3] and image[5, 5].tolist() == [2, 2, 2]
    assert front_image(policy.seen[1], cell.arm).shape == (256, 256, 3), "the released evaluation's size"


def test_an_episode_of_maniskill_ends_with_success(python: Path) -> None:
    policy = Pushing(0.05)
    with GymCell("mani_skill.envs:Cube", python=python) as cell:
        with pytest.raises(ValueError, match="--instruction"):
            run_gym_episode(cell, policy, 0, "", PlanLog())
        done = run_gym_episode(cell, policy, 0, "push", PlanLog())
        with pytest.raises(ValueError, match="this environment's state has no tcp_pose"):
            run_gym_episode(cell, PickCubePolicy(), 0, "", PlanLog())
    assert (done.success, done.steps) == (True, 1)
    assert policy.seen[0].images["base_camera"].shape == (8, 9, 3)


def test_an_environment_that_dies_is_said_in_one_line(python: Path) -> None:
    with pytest.raises(GymError, match="process ended"):
        GymCell("crash:Now", python=python)


def test_a_python_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMOACT_GYM", "/nowhere/python")
    with pytest.raises(GymError, match="make maniskill"):
        GymCell("mani_skill.envs:Cube")


def test_a_checkpoint_moves_the_arm_that_it_was_made_for() -> None:
    google, widowx, panda = ARMS
    check_gym_fit("fractal20220817_data", RELEASED["fractal20220817_data"], google)
    check_gym_fit("bridge_orig", RELEASED["bridge_orig"], widowx)
    check_gym_fit("ours", UNSTATED, panda)
    for convention in (RELEASED["libero_10_no_noops_modified"], RELEASED["franka_droid"], RELEASED["bridge_orig"]):
        with pytest.raises(ValueError, match="choose another --unnorm-key or checkpoint"):
            check_gym_fit("key", convention, panda)
