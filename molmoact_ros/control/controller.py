"""The controller without ROS: chunks, joint states and teleoperation in, one limited command per arm and cycle out.

There are two clocks. `now` is ROS time, the clock of stamps; it gives the age of data, and it may be set. `steady` is a
monotonic clock, which measures timeouts. Where only `now` is given, it serves as both.

    controller = Controller(Path("models/fr3/fr3.xml"))
    controller.update_joints(HOME_Q, opening=0.08, stamp=now)
    controller.start(now)  # False: `refusal` says why
    controller.on_chunk(chunk, now)  # False: `last_refusal` says why
    (command,) = controller.step(now)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from molmoact_ros.control.action_chunk import ActionChunk, RefusedChunk, check_chunk, split
from molmoact_ros.control.arm_controller import ArmConfig, ArmController
from molmoact_ros.control.consent import Consent
from molmoact_ros.control.homing import home_outcome
from molmoact_ros.control.supervisor import Event, State, Supervisor
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import SINGLE, Arm

LONGEST = 10.0
"""s: the longest deadline that is still useful."""


class ControllerConfig(ArmConfig):
    """Rates in Hz and deadlines in s, the same for every arm. docs/safety.md has them in a table."""

    rate: float = Field(100.0, ge=10, le=1000)
    joints_deadline: float = Field(0.1, gt=0, le=LONGEST)  # age of the joint states, and time since the last ones
    silence_deadline: float = Field(2.0, gt=0, le=60)  # no motion left, and no new chunk
    engine_deadline: float = Field(1.0, gt=0, le=LONGEST)  # no heartbeat while chunks are played, or only faults
    camera_deadline: float = Field(
        1.0, gt=0, le=LONGEST
    )  # age of the newest frame that differs from the one before, as the engine reports it
    presence_timeout: float = Field(0.0, ge=0, le=LONGEST)  # since the last presence message; 0: none required
    following: float = Field(0.25, gt=0, le=10)  # rad between command and measurement
    approve: bool = False  # play only plans that the operator has approved here
    stop_and_go: bool = False  # play a plan of any age whose image shows the arm where it still stands


class Controller:
    """Arbitrates between policy and teleoperation and computes the commands of all arms.

    Call `step` at `config.rate`. Times are seconds: `now` in ROS time, `steady` on the monotonic clock.
    """

    def __init__(self, robot: Path, config: ControllerConfig | None = None, arms: Sequence[Arm] = (SINGLE,)) -> None:
        """robot: an arm's MJCF file (FileNotFoundError). arms: in the order of msg/ActionChunk.msg's actions."""
        self.config = config or ControllerConfig()
        dt = 1.0 / self.config.rate
        self.arms = tuple(
            ArmController(robot, arm, self.config, dt, [*arms[:n], *arms[n + 1 :]]) for n, arm in enumerate(arms)
        )
        self.supervisor, self.consent = Supervisor(), Consent()
        self.refused, self.last_refusal = 0, ""
        self.refusal = ""  # why the last start or resume was refused
        self._moving_since = 0.0
        self._chunk_due = -np.inf  # end time of the newest chunk
        self._chunk_since: float | None = None  # when the first chunk since the hand-over was accepted
        self._took_over = False  # the operator took over from the policy
        self._release_required = False  # an ongoing teleoperation stream does not move the arm until it has paused
        self._pause_since: float | None = None  # start of that pause; None: this cycle
        self._moved_at = -np.inf  # when teleoperation last asked for motion
        self._handed_back = False  # nor does an ongoing stream without motion, after the operator handed back
        self.heard: float | None = None  # time of the engine's last heartbeat
        self._presence_at = -np.inf  # time of the operator's last presence message
        self.camera_age, self.engine_fault, self._fault_since = 0.0, "", 0.0
        self._lasting_faults: dict[Event, str] = {}  # lasting faults, until they are cleared

    # Inputs

    def update_joints(
        self, q: Sequence[float] | np.ndarray, opening: float, stamp: float, arm: int = 0, heard: float | None = None
    ) -> None:
        """Process a measurement: joints [7] rad and gripper opening in m, taken at `stamp`; heard: arrival, steady, s.

        An implausible one is ignored (control/measurement.py)."""
        self.arms[arm].update(np.asarray(q, np.float64), opening, stamp, stamp if heard is None else heard)

    def update_joint_state(
        self, names: Sequence[str], positions: Sequence[float], stamp: float, heard: float | None = None
    ) -> None:
        """Process a message of joint states, rad or m by name, of any of the arms' and hands' joints."""
        for arm in self.arms:
            arm.update_by_name(names, positions, stamp, stamp if heard is None else heard)

    def on_chunk(self, chunk: ActionChunk, now: float, steady: float | None = None) -> bool:
        """Switch to a new chunk. False if it is refused; `last_refusal` gives the reason.

        A chunk moves the arm only in state POLICY. A malformed one (NaN, wrong shape, steps of no duration) raises the
        fault CHUNK_INSANE, which holds the arm.
        """
        steady = now if steady is None else steady
        try:
            parts = split(chunk, len(self.arms))
            standing = self.config.stop_and_go and all(arm.standstill.at(chunk.stamp) for arm in self.arms)
            actions = [check_chunk(part, now, standing) for part in parts]
            if self.supervisor.state is not State.POLICY:
                self.last_refusal = f"the arm is in {self.supervisor.state.value}: start or resume it first"
                return False
            if self.config.approve:
                self.consent.check(chunk)
            # All or none: no arm begins a plan that another one refuses.
            paths = [
                arm.player.prepare(part, now, checked, standing)
                for arm, part, checked in zip(self.arms, parts, actions, strict=True)
            ]
        except RefusedChunk as refusal:
            self.refused, self.last_refusal = self.refused + 1, str(refusal)
            if refusal.insane:
                self.fault(Event.CHUNK_INSANE, str(refusal))
            return False
        for arm, part, path in zip(self.arms, parts, paths, strict=True):
            arm.player.take_chunk(part, path, now)
        self.consent.used(chunk)
        self._chunk_due = steady + (len(chunk.actions) * chunk.dt if standing else chunk.end - now)
        self._chunk_since = steady if self._chunk_since is None else self._chunk_since
        return True

    def refuse(self, why: str) -> None:
        """Count a chunk that the caller refuses itself, because it is not for these arms."""
        self.refused, self.last_refusal = self.refused + 1, why

    def on_engine(self, steady: float, fault: str = "", camera_age: float = 0.0, pending: bool = False) -> None:
        """Process the engine's heartbeat, received at `steady`, s.

        fault: why the engine cannot reason. camera_age: age of the newest frame that differs from the one before, s.
        pending: a plan waits for approval, which never counts as silence.
        """
        if pending:
            self._moving_since = steady
        if not fault or not self.engine_fault:
            self._fault_since = steady
        self.heard, self.engine_fault, self.camera_age = steady, fault, camera_age

    def on_presence(self, steady: float) -> None:
        """Process a presence message of the operator, received at `steady`, s."""
        self._presence_at = steady

    def start(self, now: float, steady: float | None = None) -> bool:
        """A new instruction: let chunks move the arm. False if it is refused; `refusal` gives the reason."""
        return self._start_or_resume(Event.START, now, now if steady is None else steady)

    def resume(self, now: float, steady: float | None = None) -> bool:
        """Lift a hold, hand back to the policy, or reset a stop, which leads to HOLD. False if it is refused."""
        return self._start_or_resume(Event.RESUME, now, now if steady is None else steady)

    def stop(self, detail: str = "") -> None:
        """Latched stop: brake, and stand until `resume`, which is its reset."""
        self._require_release()
        self.supervisor.on(Event.STOP, detail)

    def hold(self) -> None:
        """The task ended: brake and hold until the next start or resume. Ongoing teleoperation must pause first."""
        self._require_release()
        self.supervisor.on(Event.HOLD)

    def fault(self, event: Event, detail: str = "", lasts: bool = False) -> None:
        """Report a fault; lasts: until `clear`. Ongoing teleoperation must pause before it moves the arm again."""
        self._require_release()
        if lasts:
            self._lasting_faults[event] = detail
        self.supervisor.on(event, detail)

    def level(self, event: Event, wrong: str) -> None:
        """Set a lasting fault with the reason `wrong`; empty: clear it."""
        if wrong:
            self.fault(event, wrong, lasts=True)
        else:
            self.clear(event)

    def expect_silence(self, until: float) -> None:
        """Ignore a teleoperation stream that continues past `until`, s on the steady clock, until it has paused."""
        self._release_required, self._pause_since = True, until - self.config.teleop.timeout

    def _require_release(self) -> None:
        self._release_required, self._pause_since = True, None

    def clear(self, event: Event) -> None:
        """Clear a lasting fault; the arm stays where it is."""
        self._lasting_faults.pop(event, None)

    def _start_or_resume(self, event: Event, now: float, steady: float) -> bool:
        before = self.supervisor.state
        if before is State.STOPPED:
            self.refusal = "" if event is Event.RESUME else "the arm is stopped; resume it (the reset of a stop) first"
            return self.supervisor.on(event, "the stop is reset")
        if before is State.POLICY:
            self.refusal, self._moving_since = "", steady
            return True
        self.refusal = self._not_startable(event, now, steady)
        if not self.refusal and self.supervisor.on(event):
            self._handed_back = before is State.TELEOP
            self._hand_over(now, steady, before)
        return not self.refusal

    def _not_startable(self, event: Event, now: float, steady: float) -> str:
        """Why the policy must not move the arms now, in one line; empty: it may."""
        state, config = self.supervisor.state, self.config
        moves = any(arm.teleop.wish(steady).moves for arm in self.arms)
        if moves or (state is State.TELEOP and event is Event.START):
            return "an operator moves the arm; wait until they have let go"
        doubted = next(
            (f"joint states are not believed: {why}" for arm in self.arms if (why := arm.measurement.refused)), ""
        )
        if refusal := self._not_movable(now, steady) or doubted:
            return refusal
        if config.presence_timeout and steady - self._presence_at > config.presence_timeout:
            return "no operator is present: nothing is heard on the controller's presence topic (presence_timeout)"
        unsettled = "" if state is State.TELEOP else self._unsettled()
        return unsettled or next((why for arm in self.arms if (why := arm.outside())), "")

    def _not_movable(self, now: float, steady: float) -> str:
        """Why neither policy nor teleoperation may start to move the arms now, in one line; empty: they may."""
        for event, detail in self._lasting_faults.items():
            return f"{event.value}: {detail}" if detail else event.value
        return self.wrong_joints(now, steady)

    def _unsettled(self) -> str:
        """Why motion cannot start: an arm still moves though it is commanded to stand; empty: none does."""
        return next((why for arm in self.arms if (why := arm.unsettled())), "")

    def _hand_over(self, now: float, steady: float, before: State) -> None:
        """Change who moves the arms: start where each arm comes to rest, or at its measured joints."""
        for arm in self.arms:
            if before not in (State.POLICY, State.TELEOP):
                arm.take_up()
            arm.settle(now)
            arm.player.latency.restart()
        self._moving_since, self._chunk_due, self._chunk_since = steady, -np.inf, None
        self.heard = None if self.heard is None else steady
        self._took_over = before is State.POLICY

    def wrong_joints(self, now: float, steady: float) -> str:
        """Why the joint states are none that the arms may be moved by, in one line; empty: they are."""
        deadline = self.config.joints_deadline
        return next((why for arm in self.arms if (why := arm.joint_state.wrong(now, steady, deadline))), "")

    # Outputs

    def step(
        self, now: float, missed: int = 0, steady: float | None = None, braked: bool = True
    ) -> tuple[ArmCommand, ...] | None:
        """The arms' commands for this cycle; None until the joints of all arms are known.

        missed: cycles that the caller skipped. braked: the arms executed their braking trajectory in these cycles;
        otherwise they stood at their last commanded position, and continue from there.
        """
        if any(arm.measured is None for arm in self.arms):
            return None
        steady = now if steady is None else steady
        for arm in self.arms:
            arm.miss(missed, braked)
        self._watch(now, steady)
        self._watch_operator(now, steady)
        state = self.supervisor.state
        pace = min(arm.pace() for arm in self.arms) if state is State.POLICY else 1.0
        return tuple(arm.step(state, now, steady, pace, self._beside(number)) for number, arm in enumerate(self.arms))

    def _beside(self, number: int) -> np.ndarray | None:
        """Planned joints of the arms beside `number`, [k, 7 n] rad; those before it have stepped already."""
        plans = [arm.limiter.planned(n < number) for n, arm in enumerate(self.arms) if n != number]
        if not plans:
            return None
        longest = max(len(plan) for plan in plans)
        return np.hstack([np.pad(plan, ((0, longest - len(plan)), (0, 0)), "edge") for plan in plans])

    def _watch(self, now: float, steady: float) -> None:
        if self.supervisor.state not in (State.POLICY, State.TELEOP):
            return
        if wrong := self.wrong_joints(now, steady):
            self.fault(Event.JOINTS_STALE, wrong)
        elif (gap := max(arm.gap() for arm in self.arms)) > self.config.following:
            self.fault(Event.NOT_FOLLOWING, f"{gap:.2f} rad behind")
        if self.supervisor.state is State.POLICY:
            self._watch_policy(steady)
        elif outcome := home_outcome([arm.homing for arm in self.arms]):
            self.fault(outcome)  # before anything else moves, the operator lets go

    def _watch_policy(self, steady: float) -> None:
        config = self.config
        if steady - max(self._moving_since, self._chunk_due) > config.silence_deadline:
            self.fault(Event.POLICY_SILENT)
        if self._chunk_since is not None:
            heard = max(self._chunk_since, -np.inf if self.heard is None else self.heard)
            if steady - heard > config.engine_deadline:
                self.fault(Event.ENGINE_SILENT)
        elif self.heard is not None and steady - self.heard > config.engine_deadline:
            self.fault(Event.ENGINE_SILENT)
        if self.engine_fault and steady - self._fault_since > config.engine_deadline:
            self.fault(Event.ENGINE_FAULT, self.engine_fault)
        if self.camera_age > config.camera_deadline:
            self.fault(Event.CAMERA_STALE)
        if config.presence_timeout and steady - self._presence_at > config.presence_timeout:
            self.fault(Event.OPERATOR_ABSENT)

    def _watch_operator(self, now: float, steady: float) -> None:
        before, active = self.supervisor.state, _is_teleoperated(self.arms, steady)
        if self._pause_since is None:
            self._pause_since = steady
        if not active:
            # The pause starts at the fault: before it, commands may have been sent that did not arrive here.
            self._release_required &= steady - self._pause_since < self.config.teleop.timeout
            self._handed_back = False
            if before is State.TELEOP:
                back = self.config.teleop.hand_back and self._took_over
                self._change(Event.HANDED_BACK if back else Event.TELEOP_SILENT, "", now, steady)
            return
        moves = any(arm.teleop.wish(steady).moves for arm in self.arms)
        self._moved_at = steady if moves else self._moved_at
        if before is State.TELEOP:
            return
        if steady - max(self._pause_since, self._moved_at) >= self.config.teleop.timeout:
            self._release_required = False  # a stick that is released: some devices stream zeros
        if before is State.STOPPED or self._not_movable(now, steady):
            self._release_required = True
        waits = self._release_required or (self._handed_back and not moves)
        if not waits and (before is State.POLICY or not self._unsettled()):
            self._change(*_request(self.arms, steady), now, steady)

    def _change(self, event: Event, detail: str, now: float, steady: float) -> None:
        before = self.supervisor.state
        if self.supervisor.on(event, detail):
            self._hand_over(now, steady, before)

    def notes(self, now: float, steady: float) -> list[str]:
        """Warnings that do not hold the arm, one line each."""
        notes = [line for arm in self.arms for line in arm.joint_state.warnings(steady)]
        if self._release_required and _is_teleoperated(self.arms, steady) and self.supervisor.state is not State.TELEOP:
            why = self._not_movable(now, steady)
            notes.append(f"an operator's hand is not followed until they let go once{f' ({why})' if why else ''}")
        return notes

    @property
    def counts(self) -> dict[str, int]:
        """How often each limit was active, over all arms, by name; `singularity`: cycles slowed down near one."""
        names = self.arms[0].limiter.counts
        counts = {name: sum(arm.limiter.counts[name] for arm in self.arms) for name in names}
        return counts | {"singularity": sum(arm.slowed for arm in self.arms), "refused": self.refused}


def _is_teleoperated(arms: Sequence[ArmController], steady: float) -> bool:
    return any(arm.teleop.active(steady) for arm in arms)


def _request(arms: Sequence[ArmController], steady: float) -> tuple[Event, str]:
    """What an operator asks for, and by what for which arms, as the topics under `teleop/` are named."""
    event = Event.HOME if any(arm.teleop.wish(steady).home for arm in arms) else Event.TELEOP
    return event, ", ".join(f"{arm.arm.prefix}{arm.teleop.source}" for arm in arms if arm.teleop.active(steady))
