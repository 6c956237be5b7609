"""The controller without ROS: chunks and joint states in, one limited joint command a cycle out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from molmoact_ros.control.chunk_player import ActionChunk, ChunkPlayer, RefusedChunk
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.control.limiter import Limiter, Workspace
from molmoact_ros.control.supervisor import Event, State, Supervisor
from molmoact_ros.robots.franka import OPENING_MAX


class ControllerConfig(BaseModel):
    """Rates in Hz and deadlines in s."""

    rate: float = 50.0
    joints_deadline: float = 0.1  # joint states older than this: hold
    silence_deadline: float = 2.0  # no motion left for this long: hold until resumed
    workspace: Workspace = Workspace()


@dataclass(frozen=True)
class Command:
    """q, dq float64 [7] in rad and rad/s; opening in m between the fingers (0..0.08)."""

    q: np.ndarray
    dq: np.ndarray
    opening: float


class Controller:
    """Call `step` at `config.rate`. Times are seconds of one clock, the observations' one."""

    def __init__(self, robot: Path, config: ControllerConfig | None = None) -> None:
        """`robot`: the arm's MJCF file."""
        self.config = config or ControllerConfig()
        self.kinematics, self.player, self.limiter = Kinematics(robot), ChunkPlayer(), Limiter()
        self.supervisor = Supervisor()
        self.refused, self.clamped, self.last_refusal = 0, 0, ""
        self._measured: np.ndarray | None = None
        self._measured_at = -np.inf
        self._q: np.ndarray | None = None
        self._dq, self._opening, self._moving_since = np.zeros(7), OPENING_MAX, 0.0

    def update_joints(self, q: Sequence[float] | np.ndarray, opening: float, now: float) -> None:
        """Take a measurement: joints [7] rad and the gripper's opening in m. One that is not finite is ignored."""
        q = np.asarray(q, np.float64)
        if q.shape != (7,) or not np.isfinite(q).all():
            return
        if self._q is None:
            self._q, self._opening = q.copy(), float(np.clip(opening, 0, OPENING_MAX))
            self.player.reset(self.kinematics.forward(q), now)
        self._measured, self._measured_at = q, now

    def on_chunk(self, chunk: ActionChunk, now: float) -> bool:
        """Take a new plan; False when it is not played (`last_refusal` says why). It never moves an arm at rest."""
        if self.supervisor.state is not State.POLICY:
            self.last_refusal = f"the arm is in {self.supervisor.state.value}: start or resume it first"
            return False
        try:
            self.player.load(chunk, now)
        except RefusedChunk as refusal:
            self.refused, self.last_refusal = self.refused + 1, str(refusal)
            return False
        return True

    def start(self, now: float) -> bool:
        """A person gave an instruction: chunks may move the arm, unless it is stopped. False when they may not."""
        return self._go(Event.START, now)

    def resume(self, now: float) -> bool:
        """A person lifts a hold or a stop."""
        return self._go(Event.RESUME, now)

    def stop(self) -> None:
        """Latched stop: brake, and stay until `resume`."""
        self.supervisor.on(Event.STOP)

    def hold(self) -> None:
        """The task ended: brake and hold until the next start or resume."""
        self.supervisor.on(Event.HOLD)

    def _go(self, event: Event, now: float) -> bool:
        if self._measured is None or now - self._measured_at > self.config.joints_deadline:
            self.supervisor.reason = "no fresh joint states; start the robot or the simulator first"
            return False
        if self.supervisor.on(event):
            self._anchor(now)
        self._moving_since = now
        return self.supervisor.state is State.POLICY

    def _anchor(self, now: float) -> None:
        """Begin where the arm is commanded to be, or where it really is when it was moved by something else."""
        assert self._q is not None and self._measured is not None
        if np.abs(self._q - self._measured).max() > 0.05:
            self._q, self._dq = self._measured.copy(), np.zeros(7)
        self.player.reset(self.kinematics.forward(self._q), now)

    def step(self, now: float) -> Command | None:
        """The command for this cycle; None until the first joint states: an unknown arm is never commanded."""
        if self._q is None:
            return None
        if now - self._measured_at > self.config.joints_deadline:
            self.supervisor.on(Event.JOINTS_STALE)
        quiet = min(now - self._moving_since, -self.player.remaining(now))
        if quiet > self.config.silence_deadline:
            self.supervisor.on(Event.POLICY_SILENT)
        dt = 1.0 / self.config.rate
        self._q, self._dq = self.limiter.step(self._q, self._dq, self._wanted(now, dt), dt)
        self.player.commanded(self.kinematics.forward(self._q), now)
        return Command(self._q.copy(), self._dq.copy(), self._opening)

    def _wanted(self, now: float, dt: float) -> np.ndarray:
        assert self._q is not None
        if self.supervisor.state is not State.POLICY:
            return self._q
        target, gripper = self.player.target(now)
        if gripper is not None:
            self._opening = OPENING_MAX if gripper > 0.5 else 0.0
        inside, changed = self.config.workspace.clamp(target)
        self.clamped += int(changed)
        return self.kinematics.solve(self._q, inside, dt)
