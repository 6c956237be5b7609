"""The robot's state that a model reads: joints and grippers at the moment of the front image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from molmoact_ros.control.action_conversion import robot_state, state_joints
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.reasoning.observation import RobotState
from molmoact_ros.robots.franka import Arm


class StateReader:
    """Makes states in the meaning of a checkpoint's convention.

    max_age: greatest difference between a joint's stamp and the front image's, s.
    """

    def __init__(self, convention: ActionConvention, arms: Sequence[Arm], max_age: float) -> None:
        self._convention, self._arms, self.max_age = convention, arms, max_age
        self._names = state_joints(arms)

    @staticmethod
    def of(engine: Engine, arms: Sequence[Arm], max_age: float) -> StateReader | None:
        """For an engine's model; None for one that reads no state."""
        return StateReader(engine.convention, arms, max_age) if engine.state_dimensions else None

    def missing(self, joints: Mapping[str, tuple[float, float]]) -> str:
        """Why there is no state, in one line; empty: there is. joints: position and stamp by name, near the image."""
        lacking = next((name for name in self._names if name not in joints), "")
        return lacking and (
            f"the model reads the robot's state, and {lacking} was not received within {self.max_age:g} s of the front "
            "image; check the parameters joint_states, arms and hand"
        )

    def read(self, joints: Mapping[str, tuple[float, float]]) -> RobotState:
        """The state, of joints of which none is missing."""
        positions = {name: joints[name][0] for name in self._names}
        return RobotState(
            robot_state(positions, self._convention, self._arms), min(joints[name][1] for name in self._names)
        )  # fmt: skip
