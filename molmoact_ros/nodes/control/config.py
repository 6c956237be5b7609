"""Parameters of the controller node."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, model_validator

from molmoact_ros.control.chunk_player import ChunkMode
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import ControllerConfig
from molmoact_ros.control.homing import HomeConfig
from molmoact_ros.control.limiter import LimitScaling
from molmoact_ros.control.teleop import TeleopConfig
from molmoact_ros.robots.franka import HOME_Q, Arm, arms_at


class ControllerNodeConfig(BaseModel):
    """Parameters of the controller node."""

    model_config = ConfigDict(allow_inf_nan=False)

    autostart: bool = Field(True, description="configure and activate by itself; false: a life-cycle manager does")
    policy: str = Field("policy", min_length=1, description="node name of the policy")
    arms: list[str] = Field([""], min_length=1, max_length=2, description="prefix of each arm's names, left first")
    bases: list[float] = Field(
        [0.0] * 4, description="each arm's base in the workcell: x, y, z in m and yaw in rad, one arm after the other"
    )
    sink: str = Field("joint_trajectory", description="where the arms' commands go")
    gripper: str = Field("joint_trajectory", description="where the grippers' commands go; none: there is no gripper")
    hand: str = Field("franka_hand", description="preset of the hands: franka_hand, robotiq_2f85 or crisp")
    joint_states: str = Field("joint_states", min_length=1, description="topic of the joint states")
    agreeing: int = Field(3, ge=1, le=20, description="joint states in a row that agree before they are believed")
    rate: float = Field(100.0, ge=10, le=1000, description="cycles/s")
    priority: int = Field(20, ge=0, le=90, description="real-time priority where the system allows it; 0: none")
    mode: ChunkMode = Field("realtime", description="how chunks are joined: realtime, naive or ensemble")
    unnorm_keys: list[str] = Field(
        [""], description="un-normalisation keys that somebody has checked to mean what msg/ActionChunk.msg says"
    )
    approve: bool = Field(False, description="play only plans that an operator has approved at ~/approve_plan")
    stop_and_go: bool = Field(
        False, description="play a plan of any age whose image shows the arm where it still stands: for slow engines"
    )
    presence_timeout: float = Field(
        0.0, ge=0, le=10, description="time without ~/presence after which the policy holds, s; 0: not asked for"
    )
    keep_stop: bool = Field(True, description="a latched stop is kept over a restart, in ROS_HOME (~/.ros)")
    joints_deadline: float = Field(0.1, gt=0, le=10, description="age of the joint states at which the arm holds, s")
    silence_deadline: float = Field(2.0, gt=0, le=60, description="time without motion left after which it holds, s")
    engine_deadline: float = Field(1.0, gt=0, le=10, description="time without the engine's heartbeat, s")
    camera_deadline: float = Field(1.0, gt=0, le=10, description="age of the newest camera frame with news, s")
    following: float = Field(0.25, gt=0, le=10, description="greatest gap between command and measurement, rad")
    speed: float = Field(0.5, gt=0, le=1, description="fraction of the joints' velocity limits")
    acceleration: float = Field(0.8, gt=0, le=1, description="fraction of the joints' acceleration limits")
    jerk: float = Field(0.2, gt=0, le=1, description="fraction of the joints' jerk limits")
    cartesian_speed: float = Field(0.5, gt=0, le=2, description="of the hand while a policy moves it, m/s at most")
    teleop_cartesian_speed: float = Field(0.25, gt=0, le=2, description="the same while an operator moves it, m/s")
    workspace_low: list[float] = Field(list(Workspace().low), min_length=3, max_length=3, description="corner, m")
    workspace_high: list[float] = Field(list(Workspace().high), min_length=3, max_length=3, description="corner, m")
    table: float = Field(
        0.0, allow_inf_nan=True, description="height of the table in the base frame, m; nan: there is none"
    )
    table_distance: float = Field(0.002, ge=0, le=1, description="kept between arm and table, m")
    self_distance: float = Field(0.02, ge=0, le=1, description="kept between hand and shoulder side of the arm, m")
    arm_distance: float = Field(0.04, ge=0, le=1, description="kept between two arms, m")
    teleop_timeout: float = Field(0.2, gt=0, le=2, description="silence after which an operator has let go, s")
    teleop_deadman: bool = Field(
        False, description="an operator's hand counts only while the dead-man's switch is held"
    )
    teleop_hand_back: bool = Field(False, description="the policy goes on by itself when an operator lets go")
    home_position: list[float] = Field(
        HOME_Q.tolist(), description="joints of each arm at its start position, rad; see `molmoact-ros home`"
    )
    home_speed: float = Field(0.1, ge=0.01, le=0.5, description="fraction of the velocity limits on the way home")

    @model_validator(mode="after")
    def _fit_together(self) -> ControllerNodeConfig:
        arms_at(self.arms, self.bases)
        if math.isinf(self.table):
            raise ValueError("table is a height in m, or nan where there is none")
        _ = self.workspace, self.home
        return self

    @property
    def robots(self) -> list[Arm]:
        """The robot's arms."""
        return arms_at(self.arms, self.bases)

    @property
    def workspace(self) -> Workspace:
        """The workspace box. Raises ValueError for an invalid one."""
        return Workspace.model_validate({"low": self.workspace_low, "high": self.workspace_high})

    @property
    def home(self) -> HomeConfig:
        """The way to the start position. Raises ValueError for a position outside of the robot's ranges."""
        return HomeConfig(position=tuple(self.home_position), speed=self.home_speed)

    @property
    def control(self) -> ControllerConfig:
        """The same parameters as the controller's own configuration."""
        return ControllerConfig(
            rate=self.rate, mode=self.mode, following=self.following, agreeing=self.agreeing,
            stop_and_go=self.stop_and_go,
            approve=self.approve, presence_timeout=self.presence_timeout, cartesian_speed=self.cartesian_speed,
            joints_deadline=self.joints_deadline, silence_deadline=self.silence_deadline,
            engine_deadline=self.engine_deadline, camera_deadline=self.camera_deadline,
            fractions=LimitScaling(speed=self.speed, acceleration=self.acceleration, jerk=self.jerk),
            surroundings=Surroundings(
                workspace=self.workspace, table=None if math.isnan(self.table) else self.table,
                table_distance=self.table_distance, self_distance=self.self_distance, arm_distance=self.arm_distance,
            ),
            teleop=TeleopConfig(
                timeout=self.teleop_timeout, deadman=self.teleop_deadman, hand_back=self.teleop_hand_back,
                linear=self.teleop_cartesian_speed,
            ),
            home=self.home,
        )  # fmt: skip
