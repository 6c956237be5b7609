"""Episodes in a Gymnasium environment (sim/gym_cell.py): by a checkpoint, or by the scripted expert of PickCube."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from molmoact_ros.control.action_conversion import convert_actions
from molmoact_ros.control.gym_actions import GymArm
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.evaluation.suite_report import PlanLog, SuiteEpisode
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.gym_cell import GymCell, GymObservation
from molmoact_ros.training.pick_cube_expert import pick_cube_action
from molmoact_ros.visualization.overlay import draw_for_people
from molmoact_ros.visualization.video import compose_cameras


class GymPolicy(Protocol):
    """Plans the episodes of an environment, one after the other."""

    needs_cameras: bool
    name: str

    def begin(self, arm: GymArm) -> None:
        """A new episode. Raises ValueError, in one line that says what to do, for an arm that it cannot move."""

    def plan(self, seen: GymObservation, instruction: str, now: float, log: PlanLog) -> np.ndarray:
        """The next actions float64 [N, 7] in the meaning of msg/ActionChunk.msg."""
        ...


class PickCubePolicy:
    """The scripted expert."""

    needs_cameras = False
    name = "scripted expert"

    def begin(self, arm: GymArm) -> None:
        """See GymPolicy."""

    def plan(self, seen: GymObservation, instruction: str, now: float, log: PlanLog) -> np.ndarray:
        """See GymPolicy: float64 [1, 7]."""
        return pick_cube_action(seen.state)[None]


class GymEnginePolicy:
    """A checkpoint through the engine that is deployed.

    It sees the front camera alone, as in the released evaluation on SimplerEnv, which is what single-image prompts are
    for. A refused step is one action that moves nothing and leaves the gripper.
    """

    needs_cameras = True

    def __init__(self, engine: Engine) -> None:
        self._engine, self.name = engine, f"{engine.digest} {engine.unnorm_key}"
        self._opening, self._arm = 1.0, GymArm("", "", "", "")

    def begin(self, arm: GymArm) -> None:
        """See GymPolicy."""
        check_gym_fit(self._engine.unnorm_key, self._engine.convention, arm)
        self._arm, self._opening = arm, 1.0
        self._engine.forget()

    def plan(self, seen: GymObservation, instruction: str, now: float, log: PlanLog) -> np.ndarray:
        """See GymPolicy: float64 [N, 7]. Raises ValueError if the environment lacks the front camera's image."""
        image = front_image(seen, self._arm)
        try:
            *_, reasoning = self._engine.reason(Observation((image,), instruction, now))
            if reasoning.actions is None:
                raise RefusedStep("the answer has no actions")
        except RefusedStep as refusal:
            log.refusals.append(str(refusal))
            return np.array([[0.0] * 6 + [self._opening]])
        log.seconds.append(self._engine.timings.total)
        shown = image if reasoning.trace is None else draw_for_people(image, reasoning.trace)
        log.frames.append(compose_cameras(shown, [], instruction, f"plan {len(log.seconds)}"))
        actions = convert_actions(reasoning.actions, self._engine.convention)
        self._opening = float(actions[-1, 6])
        return actions


def check_gym_fit(key: str, convention: ActionConvention, arm: GymArm) -> None:
    """Raise ValueError, in one line that says what to do, if a checkpoint cannot move an environment's arm."""
    if convention.robot != arm.robot or convention.space != "delta_ee_pose" or convention.frame != "base":
        raise ValueError(
            f"this environment needs displacements for the robot {arm.robot} in its base frame, and the key {key!r} "
            f"holds {convention}: choose another --unnorm-key or checkpoint"
        )


def front_image(seen: GymObservation, arm: GymArm) -> np.ndarray:
    """The front camera's image uint8 [H, W, 3] RGB as the released evaluation gives it to the model."""
    if arm.camera not in seen.images:
        raise ValueError(f"the environment has no camera {arm.camera}; it has: {', '.join(seen.images) or 'none'}")
    image = seen.images[arm.camera]
    size = arm.image_size
    return image if size is None else np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))


def run_gym_episode(cell: GymCell, policy: GymPolicy, trial: int, instruction: str, log: PlanLog) -> SuiteEpisode:
    """One episode, drawn from seed `trial`. instruction: in place of the environment's; "": its own.

    It ends at the first success after a step, or with the environment's limit of steps. In SimplerEnv it goes on to
    the limit, and the last step counts. Raises ValueError where nobody says what is to be done.
    """
    seen = cell.reset(trial)
    policy.begin(cell.arm)
    steps, plans, queue = 0, 0, list[np.ndarray]()
    while not seen.truncated and (steps == 0 or cell.arm.to_the_end or not (seen.success or seen.terminated)):
        words = instruction or seen.instruction
        if policy.needs_cameras and not words:
            raise ValueError("the environment has no instruction; say what is to be done by --instruction")
        if not queue:
            queue, plans = list(policy.plan(seen, words, float(steps), log)), plans + 1
        seen = cell.step(queue.pop(0))
        steps += 1
    seconds = float(np.median(log.seconds)) if log.seconds else float("nan")
    return SuiteEpisode(
        0, trial, instruction or seen.instruction, seen.success, steps, plans, seconds, tuple(log.refusals)
    )  # fmt: skip
