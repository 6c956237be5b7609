"""The process that controls the robot: 1000 positions per second, whether or not the sender keeps sending commands.

python -m molmoact_ros.robots.libfranka.process ADDRESS SOCKET SETTINGS [RECORD]: started by `LibfrankaArm`, which holds
the other end of the socket. The process ends when that end closes, after the arm has come to rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3
from molmoact_ros.robots.libfranka.client import COMMAND, ArmSettings, Kind, LibfrankaState, RobotMode, real_time_note
from molmoact_ros.robots.libfranka.interpolator import CYCLE, Interpolator, RefusedCommand, checked

PRIORITY: Final = 80
"""Of SCHED_FIFO; the FCI documentation's own examples use the highest, which preempts the kernel's threads."""
REPORT_EVERY: Final = 5
"""Cycles between states that are sent to the client: 200 Hz."""
SAME: Final = 4e-7, 2e-3, 1.0
"""rad, rad/s, rad/s^2; tolerance within which the robot's reported command equals the one that was sent. Its q_d has
single precision, rounded by up to 1.2e-7 at 3 rad."""
LATE: Final = 0.8e-3
"""s after a state was read; a later answer may not arrive before the next state."""
PROMPT: Final = 2.5e-3
"""s between two states; a longer gap means that the network or this process stalled."""
SETTLE_MAX: Final = 8
"""Cycles left unanswered at most until the robot's trajectory is known; after 20 lost ones in a row it would stop."""
RECORDED: Final = 200_000
"""Number of cycles in a record, the last ones."""
MCL_CURRENT_AND_FUTURE: Final = 3
STANDS: Final = 0.01
"""rad between the robot's position and the first command, beyond what an arm reaches in a period from rest: its q is
measured, and the arm yields a little to external forces."""


class Link:
    """The non-blocking socket to the client."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self.open = True
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)

    def _end(self, *_: object) -> None:
        self.open = False

    def receive(self) -> tuple[Kind, ArmCommand] | None:
        """The next request, or None."""
        if not self.open:
            return None
        try:
            data = self._socket.recv(COMMAND.size)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if len(data) != COMMAND.size:
            self.open = False
            return None
        kind, *numbers = COMMAND.unpack(data)
        q, v, a = np.array(numbers[:21]).reshape(3, 7)
        return Kind(kind), ArmCommand(q, v, a, opening=numbers[21], period=numbers[22])

    def send(self, state: LibfrankaState) -> None:
        """Send a state to the client; it is lost if the client does not read."""
        with contextlib.suppress(OSError):
            self._socket.send(state.pack())


class CommandLog:
    """The values of every cycle, in memory until the end; then a file of arrays with one row per cycle."""

    FIELDS: Final = {"time": 1, "cycles": 1, "sent": 7, "q_d": 7, "q": 7, "success_rate": 1, "open": 1, "braking": 1}

    def __init__(self, file: Path) -> None:
        self._file, self._count = file, 0
        self._rows = np.zeros((RECORDED, sum(self.FIELDS.values())))
        self.message = ""

    def add_sample(self, *numbers: float) -> None:
        """Add one cycle: the values of FIELDS in their order."""
        self._rows[self._count % RECORDED] = numbers
        self._count += 1

    def write(self) -> None:
        """Write the file."""
        rows = np.roll(self._rows, -self._count, axis=0) if self._count > RECORDED else self._rows[: self._count]
        columns = np.split(rows, np.cumsum(list(self.FIELDS.values()))[:-1], axis=1)
        arrays: dict[str, Any] = {
            n: c.squeeze(1) if c.shape[1] == 1 else c for n, c in zip(self.FIELDS, columns, strict=True)
        }
        np.savez_compressed(self._file, message=np.array(self.message), **arrays)


class PylibfrankaArm:
    """The robot, either idle (it holds by itself, and is only read) or in control (a position every cycle)."""

    def __init__(
        self, franka: ModuleType, address: str, link: Link, settings: ArmSettings, recorder: CommandLog | None
    ) -> None:
        self._franka, self._link, self._recorder = franka, link, recorder
        real_time = franka.RealtimeConfig.kEnforce if not real_time_note() else franka.RealtimeConfig.kIgnore
        self._robot = franka.Robot(address, real_time)
        set_up(self._robot, settings)
        self._mode, self._message = RobotMode.IDLE, ""
        self._missed = self._refused = self._cycle = 0
        self._read, self._prompt = 0.0, True  # when the last state was read, s; whether promptly after the previous one
        self._last = np.zeros(7), np.zeros(7)  # the last position that the robot followed, and its velocity

    def run(self) -> None:
        """Run until the client is gone and the arm rests."""
        arm: Interpolator | None = None
        while self._link.open:
            state = self._robot.read_once()
            if arm is None or np.abs(arm.position - state.q_d).max() > SAME[0]:
                arm = Interpolator(np.array(state.q_d))
            if self._mode is not RobotMode.FAULT and (why := stopped(self._franka, state)):
                self._fault(why)
            self._report(state)
            self._listen(arm, state)
            if not arm.resting and self._mode is not RobotMode.FAULT:
                self._control(arm)
                arm = None

    def _listen(self, arm: Interpolator, idle: Any = None) -> None:
        """Process all pending requests. idle: the robot's state while not in control.

        Commands are not kept through a fault; those that arrive during recovery are dropped, too.
        """
        while (message := self._link.receive()) is not None:
            kind, command = message
            if kind is Kind.RECOVER and self._mode is RobotMode.FAULT:
                self._recover()
                while self._link.receive() is not None:
                    pass
                return
            if kind is Kind.COMMAND and self._mode is not RobotMode.FAULT:
                try:
                    if idle is not None and arm.resting:
                        begins_at(checked(command), np.array(idle.q), np.array(idle.q_d))
                    arm.take_command(command)
                    self._message = ""
                except RefusedCommand as refusal:
                    self._refused, self._message = self._refused + 1, f"command refused: {refusal}"

    def _control(self, arm: Interpolator) -> None:
        """Control the robot until the client is gone, or the robot stops by itself."""
        try:
            active = self._robot.start_joint_position_control(self._franka.ControllerMode.JointImpedance)
            state, _ = self._next(active)
            self._last = np.array(state.q_d), np.zeros(7)
            arm.correct(np.array(state.q_d), np.zeros(7), np.zeros(7), cycles=0)
            self._mode = RobotMode.MOVING
            missed = self._missed
            self._one_cycle(active, arm)
            self._missed = missed  # cycles during the start of control do not count
            while self._link.open or not arm.resting:
                self._one_cycle(active, arm)
            last = self._franka.JointPositions(arm.position.tolist())
            last.motion_finished = True
            active.writeOnce(last)
            self._mode = RobotMode.IDLE
        except (self._franka.ControlException, self._franka.CommandException) as error:
            self._fault(str(error))

    def _one_cycle(self, active: Any, arm: Interpolator) -> None:
        """Answer the last state, and wait for the next one."""
        self._listen(arm)
        sent = arm.step()
        # A late answer is worse than none: the robot has continued by itself.
        if time.monotonic() - self._read < LATE:
            active.writeOnce(self._franka.JointPositions(sent.tolist()))
        # Normally 1; a state that was lost, or came while we were late, is a cycle that the robot continued by itself.
        state, cycles = self._next(active)
        if cycles > 1 or not self._prompt:
            state, more = self._settle(active, state)
            cycles += more
        q_d, dq_d, ddq_d = np.array(state.q_d), np.array(state.dq_d), np.array(state.ddq_d)
        if cycles > 1 or not self._followed(sent, q_d, dq_d, ddq_d):
            self._missed += max(1, cycles - 1)
            arm.correct(q_d, dq_d, ddq_d, cycles - 1)
        self._last = q_d if cycles > 1 else sent, dq_d
        self._mode = RobotMode.BRAKING if arm.braking else RobotMode.MOVING
        self._report(state)
        if self._recorder is not None:
            rate = state.control_command_success_rate
            self._recorder.add_sample(self._read, cycles, *sent, *q_d, *state.q, rate, self._link.open, arm.braking)

    def _next(self, active: Any) -> tuple[Any, int]:
        """Wait for the robot's next state; returns it with the number of cycles since the last one."""
        before = self._read
        state, since = active.readOnce()
        self._read = time.monotonic()
        self._prompt = self._read - before < PROMPT
        return state, max(1, round(since.to_sec() / CYCLE))

    def _settle(self, active: Any, state: Any) -> tuple[Any, int]:
        """After a gap: wait, without answering, until the robot extrapolates by itself from one state to the next.

        Packets sent before the gap may still arrive, and may still count. Returns the state, and the cycles waited.
        """
        waited = 0
        for _ in range(SETTLE_MAX):
            before = state
            state, cycles = self._next(active)
            waited += cycles
            velocity = np.array(before.dq_d) + np.array(before.ddq_d) * CYCLE
            position = before.q_d + velocity * CYCLE
            same = np.abs(position - state.q_d).max() < SAME[0] and np.abs(velocity - state.dq_d).max() < SAME[1]
            if same and cycles == 1 and self._prompt:
                break
        return state, waited

    def _followed(self, sent: np.ndarray, q_d: np.ndarray, dq_d: np.ndarray, ddq_d: np.ndarray) -> bool:
        """Whether the robot accepted the position sent, and derives the same velocity and acceleration from it."""
        velocity = (sent - self._last[0]) / CYCLE
        return bool(
            np.abs(q_d - sent).max() < SAME[0]
            and np.abs(dq_d - velocity).max() < SAME[1]
            and np.abs(ddq_d - (velocity - self._last[1]) / CYCLE).max() < SAME[2]
        )

    def _fault(self, errors: str) -> None:
        """Report a fault with the next state. It is not printed: a full, unread pipe would block this process."""
        self._mode, self._message, self._cycle = RobotMode.FAULT, errors, -1
        if self._recorder is not None:
            self._recorder.message = errors

    def _recover(self) -> None:
        """Clear a fault at the operator's request; the robot's objection becomes the message."""
        try:
            self._robot.automatic_error_recovery()
            self._mode, self._message = RobotMode.IDLE, ""
        except (self._franka.CommandException, self._franka.ControlException) as error:
            self._message = str(error)

    def _report(self, state: Any) -> None:
        self._cycle += 1
        if self._cycle % REPORT_EVERY == 0:
            arrays = np.array(state.q), np.array(state.dq), np.array(state.q_d)
            rate = state.control_command_success_rate
            now = time.monotonic()
            self._link.send(LibfrankaState(now, self._mode, *arrays, rate, self._missed, self._refused, self._message))


def set_up(robot: Any, settings: ArmSettings) -> None:
    """Set the robot's load, collision thresholds and tool."""
    if settings.load_mass > 0:
        robot.set_load(settings.load_mass, settings.load_centre, settings.load_inertia)
    if settings.collision_torque:
        # Between lower and upper threshold the robot only reports a contact, which is not used here.
        torque, force = settings.collision_torque, settings.collision_force
        robot.set_collision_behavior(torque, torque, force, force)
    if settings.tool_frame:
        robot.set_EE(settings.tool_frame)


def stopped(franka: ModuleType, state: Any) -> str:
    """Why the robot accepts no commands in this state: its errors, or its mode; "" if it does."""
    if state.current_errors:
        return str(state.current_errors)
    modes = franka.RobotMode
    return {modes.Guiding: "guided by hand", modes.Reflex: "reflex", modes.UserStopped: "stopped by the user"}.get(
        state.robot_mode, ""
    )


def begins_at(command: ArmCommand, q: np.ndarray, q_d: np.ndarray) -> None:
    """Raise RefusedCommand if a first command does not start at rest where the arm stands.

    That is anywhere between `q`, measured, and `q_d`, the position that the robot holds, float64 [7] rad.
    """
    speed = FR3.acceleration_max * command.period  # velocity limit one period after rest
    reached = STANDS + speed * command.period / 2
    nearest = np.clip(command.position, np.minimum(q, q_d) - reached, np.maximum(q, q_d) + reached)
    bad = (nearest != command.position) | (np.abs(command.velocity) > speed)
    if bad.any():
        joint = int(np.argmax(bad))
        raise RefusedCommand(
            f"the first command begins where the arm stands, at rest; joint {joint + 1} is "
            f"{abs(command.position[joint] - q[joint]):.3f} rad from there, at {abs(command.velocity[joint]):.3f} rad/s"
        )


def run_in_real_time() -> None:
    """Set up real-time scheduling as far as this machine permits, and print what it does not permit."""
    if note := real_time_note():
        print(f"libfranka: {note}; expect lost packets on a real arm", file=sys.stderr, flush=True)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    ctypes.CDLL(None).mlockall(MCL_CURRENT_AND_FUTURE)  # without permission it only returns an error
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here creates reference cycles, and a collection takes longer than a cycle of the robot


def main() -> int:
    """Control one arm; the exit status is 1 when the robot could not be reached or was lost."""
    import pylibfranka

    address, descriptor, settings, *record = sys.argv[1:]
    link, recorder = Link(int(descriptor)), CommandLog(Path(record[0])) if record else None
    run_in_real_time()
    try:
        PylibfrankaArm(pylibfranka, address, link, ArmSettings.from_json(settings), recorder).run()
    except (RuntimeError, pylibfranka.FrankaException) as error:
        # pylibfranka's exceptions are RuntimeErrors, except one.
        message = f"no connection to the robot at {address}: {' '.join(str(error).split())}"
        zero = np.zeros(7)
        link.send(LibfrankaState(time.monotonic(), RobotMode.ENDED, zero, zero, zero, 0.0, 0, 0, message))
        print(f"error: {message}", file=sys.stderr, flush=True)
        return 1
    finally:
        if recorder is not None:
            recorder.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
