"""The controller without ROS: chunks, joint states and a person's hand in, one limited command an arm and cycle out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from molmoact_ros.control.arm import ArmConfig, ArmController
from molmoact_ros.control.chunk_player import ActionChunk, RefusedChunk, check_chunk, split
from molmoact_ros.control.supervisor import Event, State, Supervisor
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import SINGLE, Arm


class ControllerConfig(ArmConfig):
    """Rates in Hz, deadlines in s, of every arm alike. docs/safety.md has them in a table."""

    rate: float = Field(100.0, gt=0)
    joints_deadline: float = 0.1  # age of the joint states
    silence_deadline: float = 2.0  # no motion left, and no new chunk
    engine_deadline: float = 1.0  # no heartbeat of an engine that has had one, or nothing but faults
    camera_deadline: float = 1.0  # age of the newest frame that shows something new, by the engine's word
    following: float = Field(0.25, gt=0)  # rad between command and measurement


class Controller:
    """Call `step` at `config.rate`. Times are seconds of one clock, the observations' one."""

    def __init__(self, robot: Path, config: ControllerConfig | None = None, arms: Sequence[Arm] = (SINGLE,)) -> None:
        """`robot`: an arm's MJCF file. Chunks hold the arms' actions as msg/ActionChunk.msg says, in `arms`' order."""
        self.config = config or ControllerConfig()
        dt = 1.0 / self.config.rate
        self.arms = tuple(
            ArmController(robot, arm, self.config, dt, [*arms[:n], *arms[n + 1 :]]) for n, arm in enumerate(arms)
        )
        self.supervisor = Supervisor()
        self.refused, self.last_refusal = 0, ""
        self._moving_since = 0.0
        self._chunk_due = -np.inf  # when the newest chunk is over
        self._took_over = False  # the person took over from the policy
        self.heard: float | None = None  # the engine's last heartbeat
        self.camera_age, self.engine_fault, self._fault_since = 0.0, "", 0.0

    # In

    def update_joints(self, q: Sequence[float] | np.ndarray, opening: float, now: float, arm: int = 0) -> None:
        """Take a measurement: joints [7] rad and the gripper's opening in m. One that is not finite is ignored."""
        self.arms[arm].update(np.asarray(q, np.float64), opening, now)

    def on_chunk(self, chunk: ActionChunk, now: float) -> bool:
        """Take a new plan; False when it is not played (`last_refusal` says why). It never moves an arm at rest.

        A plan that no engine makes while it is sound (NaN, a wrong shape, steps of no time) holds the arm.
        """
        try:
            parts = split(chunk, len(self.arms))
            for part in parts:
                check_chunk(part, now)
            if self.supervisor.state is not State.POLICY:
                self.last_refusal = f"the arm is in {self.supervisor.state.value}: start or resume it first"
                return False
            # All or none: no arm begins a plan that another one refuses.
            paths = [arm.player.prepare(part, now) for arm, part in zip(self.arms, parts, strict=True)]
        except RefusedChunk as refusal:
            self.refused, self.last_refusal = self.refused + 1, str(refusal)
            if refusal.insane:
                self.supervisor.on(Event.CHUNK_INSANE, str(refusal))
            return False
        for arm, part, path in zip(self.arms, parts, paths, strict=True):
            arm.player.take(part, path, now)
        self._chunk_due = chunk.end
        return True

    def on_engine(self, now: float, fault: str = "", camera_age: float = 0.0, pending: bool = False) -> None:
        """The engine's heartbeat at `now`, s; `fault`: why it cannot reason; camera_age: of the newest news, s.

        pending: its plan waits for a person's approval; that is no silence, however long.
        """
        if pending:
            self._moving_since = now
        if not fault or not self.engine_fault:
            self._fault_since = now
        self.heard, self.engine_fault, self.camera_age = now, fault, camera_age

    def start(self, now: float) -> bool:
        """Somebody gave an instruction: chunks may move the arm, unless it is stopped or in a person's hand."""
        return self._go(Event.START, now)

    def resume(self, now: float) -> bool:
        """A person lifts a hold or a stop, or hands back to the policy."""
        return self._go(Event.RESUME, now)

    def stop(self, detail: str = "") -> None:
        """Latched stop: brake, and stay until `resume`."""
        self.supervisor.on(Event.STOP, detail)

    def hold(self) -> None:
        """The task ended: brake and hold until the next start or resume."""
        self.supervisor.on(Event.HOLD)

    def fault(self, event: Event, detail: str = "") -> None:
        """Something that only the caller can see went wrong, such as the clock."""
        self.supervisor.on(event, detail)

    def _go(self, event: Event, now: float) -> bool:
        if self._stale(now):
            self.supervisor.reason = "no fresh joint states; start the robot or the simulator first"
            return False
        before = self.supervisor.state
        if self.supervisor.on(event):
            self._hand_over(now, before)
        self._moving_since = now
        return self.supervisor.state is State.POLICY

    def _hand_over(self, now: float, before: State) -> None:
        """Another one moves the arms from here: begin where each comes to rest, or where it really is."""
        for arm in self.arms:
            if before not in (State.POLICY, State.TELEOP):
                arm.follow_measured()
            arm.settle(now)
            arm.player.latency.restart()
        self._moving_since, self._chunk_due, self.heard = now, -np.inf, None if self.heard is None else now
        self._took_over = before is State.POLICY

    def _stale(self, now: float) -> bool:
        deadline = self.config.joints_deadline
        return any(not abs(now - arm.measured_at) <= deadline for arm in self.arms)

    # Out

    def step(self, now: float, missed: int = 0) -> tuple[ArmCommand, ...] | None:
        """The arms' commands for this cycle; None until all joints are known: an unknown arm is never commanded.

        missed: cycles that the caller could not call; the arms were told to brake in them.
        """
        if any(arm.measured is None for arm in self.arms):
            return None
        for arm in self.arms:
            for _ in range(missed):
                arm.limiter.step(None)
        self._watch(now)
        self._watch_person(now)
        state = self.supervisor.state
        pace = min(arm.pace() for arm in self.arms) if state is State.POLICY else 1.0
        return tuple(arm.step(state, now, pace, self._beside(number)) for number, arm in enumerate(self.arms))

    def _beside(self, number: int) -> np.ndarray | None:
        """What the arms beside `number` have planned, [k, 7 n] rad; those before it have had their step already."""
        plans = [arm.limiter.planned(n < number) for n, arm in enumerate(self.arms) if n != number]
        if not plans:
            return None
        longest = max(len(plan) for plan in plans)
        return np.hstack([np.pad(plan, ((0, longest - len(plan)), (0, 0)), "edge") for plan in plans])

    def _watch(self, now: float) -> None:
        state, config, on = self.supervisor.state, self.config, self.supervisor.on
        if state not in (State.POLICY, State.TELEOP):
            return
        if self._stale(now):
            on(Event.JOINTS_STALE)
        elif (gap := max(arm.gap() for arm in self.arms)) > config.following:
            on(Event.NOT_FOLLOWING, f"{gap:.2f} rad behind")
        if now - max(self._moving_since, self._chunk_due) > config.silence_deadline:
            on(Event.POLICY_SILENT)
        if self.heard is not None:
            if now - self.heard > config.engine_deadline:
                on(Event.ENGINE_SILENT)
            if self.engine_fault and now - self._fault_since > config.engine_deadline:
                on(Event.ENGINE_FAULT, self.engine_fault)
            if self.camera_age > config.camera_deadline:
                on(Event.CAMERA_STALE)

    def _watch_person(self, now: float) -> None:
        before, active = self.supervisor.state, any(arm.teleop.active(now) for arm in self.arms)
        detail = ""
        if active and before is not State.TELEOP and not self._stale(now):
            event, detail = Event.TELEOP, self._who(now)
        elif before is State.TELEOP and not active:
            back = self.config.teleop.hand_back and self._took_over
            event = Event.HANDED_BACK if back else Event.TELEOP_SILENT
        else:
            return
        if self.supervisor.on(event, detail):
            self._hand_over(now, before)

    def _who(self, now: float) -> str:
        """By what a person moves which arms, as the topics under `teleop/` are named."""
        return ", ".join(f"{arm.arm.prefix}{arm.teleop.source}" for arm in self.arms if arm.teleop.active(now))

    @property
    def counts(self) -> dict[str, int]:
        """How often each limit has bitten, over all arms, by name; `singularity`: cycles slowed down near one."""
        names = self.arms[0].limiter.counts
        counts = {name: sum(arm.limiter.counts[name] for arm in self.arms) for name in names}
        return counts | {"singularity": sum(arm.slowed for arm in self.arms), "refused": self.refused}
