"""Parameters of the policy node, and the engine that they select."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator
from rclpy.logging import get_logger

from molmoact_ros.control.action_conversion import check_fit, check_state
from molmoact_ros.control.approval import ApprovalMode
from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.factory import EngineOptions, open_engine, read_meaning
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.robots.franka import BASE_FRAME, Arm
from molmoact_ros.robots.hands import HANDS
from molmoact_ros.ros.image_transport import IMAGE_TRANSPORT, ImageTransport
from molmoact_ros.ros.live_parameters import LiveParameter
from molmoact_ros.utils.paths import default_checkpoint


class PolicyConfig(EngineOptions):
    """Parameters of the policy node."""

    autostart: bool = Field(True, description="configure and activate by itself; false: a life-cycle manager does")
    cameras: list[str] = Field(["front", "wrist"], min_length=1, description="names of the cameras, front first")
    image_transport: ImageTransport = IMAGE_TRANSPORT
    max_age: float = Field(0.5, gt=0, le=60, description="greatest age of a frame, s")
    slop: float = Field(0.05, gt=0, le=1, description="greatest difference between the frames of one step, s")
    joint_states: str = Field(
        "joint_states", description="topic of the joints: noted with each plan, and where the gripper is"
    )
    state_max_age: float = Field(
        0.1,
        gt=0,
        le=1,
        description="of MolmoAct 2: greatest difference between the robot's state and the front frame, s",
    )
    hand: Literal["franka_hand", "robotiq_2f85"] = Field(
        "franka_hand", description="of MolmoAct 2: each arm's hand, whose joints say how far it is open"
    )
    joint_slop: float = Field(0.02, gt=0, le=1, description="greatest difference between them and the front frame, s")
    noisy_cameras: bool = Field(True, description="a frame that equals the last one to the bit is frozen, not news")
    period: float = Field(0.0, ge=0, le=600, description="least time from one plan's image to the next's, s")
    action_dt: float = Field(0.0, ge=0, le=1, description="seconds of one action; 0: as the checkpoint says, else 0.1")
    drawing_max_age: float = Field(10.0, gt=0, le=600, description="greatest age of the image that is drawn on, s")
    drawing_timeout: float = Field(30.0, gt=0, le=3600, description="time after which an operator's trace ends, s")
    robot: str = Field("franka", min_length=1, description="what a checkpoint's actions have to be made for")
    arms: list[str] = Field([""], min_length=1, max_length=2, description="prefix of each arm's names, left first")
    base_frame: str = Field(BASE_FRAME, description="base of a single arm, in which its actions are")
    controller: str = Field("controller", description="node name of the controller; a relative one: in this namespace")
    priority: int = Field(
        5, ge=0, le=90, description="real-time priority where the system allows it, below the controller's 10; 0: none"
    )

    @field_validator("action_dt")
    @classmethod
    def _check_dt(cls, dt: float) -> float:
        if 0 < dt < 0.01:
            raise ValueError("an action takes at least 0.01 s; 0 is what the checkpoint says")
        return dt

    @property
    def franka_arms(self) -> list[Arm]:
        """The arms, left first, with their hands."""
        return [Arm(prefix, hand=HANDS[self.hand]) for prefix in self.arms]

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return Path(self.checkpoint) if self.checkpoint else default_checkpoint()

    @property
    def model(self) -> str:
        """What runs the model, for people: the checkpoint's folder, or a server that needs none here."""
        return self.server if self.backend == "act" and not self.checkpoint else str(self.folder)

    @property
    def place(self) -> str:
        """Where the model runs, for people."""
        return self.server if self.backend in ("server", "act") else self.device

    @property
    def real_time_priority(self) -> int:
        """Of the process: above all but the controller's, since a plan that is late is a worse plan.

        0 for an engine on all cores at once: it would starve the cameras.
        """
        everywhere = self.backend == "torch" and self.device == "cpu" and self.threads >= (os.cpu_count() or 1)
        return 0 if everywhere else self.priority


def load_engine(config: PolicyConfig) -> Engine:
    """Open the engine that the parameters select, and warm it up.

    Raises ValueError, before weights are read, if the checkpoint's actions do not fit the robot, and what
    `open_engine` raises.
    """
    meant, arms = read_meaning(config, config.folder), len(config.arms)
    check_fit(meant.key, meant.convention, meant.dimensions, config.robot, arms, config.cameras)
    check_state(meant.key, meant.convention, meant.state_dimensions, arms)
    engine = open_engine(config, config.folder)
    engine.warm_up(_log_progress)
    return engine


def _log_progress(done: int, of: int) -> None:
    """Log a line for each quarter."""
    if done * 4 // of > (done - 1) * 4 // of:
        get_logger("policy").info(f"warming up: {done} of {of} passes recorded")


def _choice(choices: Sequence[str], value: Any) -> str:
    if value in choices:
        return ""
    return f"choose one of: {', '.join(choice or repr(choice) for choice in choices)}"


def _not_a_time(value: Any) -> str:
    fits = isinstance(value, int | float) and 0 < value <= 600
    return "" if fits else f"{value!r} s is no time to look at a plan; give up to 600"


CHOICES = tuple(mode.value for mode in ReasoningMode if mode is not ReasoningMode.STEERED)
"""Modes that may be selected; an operator's trace always steers."""


def wrong_mode(known: Collection[ReasoningMode], value: Any) -> str:
    """Why a checkpoint that answers in the modes `known` has no mode `value`; empty: it has."""
    return _choice([mode for mode in CHOICES if mode in {of.value for of in known}], value)


LIVE: Final = {
    "mode": LiveParameter(
        ReasoningMode.FULL.value, "how much the model is asked for: full, grounded, reuse, or direct (MolmoAct 2)",
        partial(_choice, CHOICES),
    ),
    "approve": LiveParameter(
        ApprovalMode.NEVER.value, "actions wait for: nothing (empty), their time (timed), a yes (required)",
        partial(_choice, [how.value for how in ApprovalMode]),
    ),
    "approve_seconds": LiveParameter(3.0, "how long a plan is shown before it moves the arm, s", _not_a_time),
}  # fmt: skip
