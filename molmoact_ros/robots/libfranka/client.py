"""A Franka arm without ros2_control: the client of the process that controls the robot at 1 kHz.

`LibfrankaArm` starts `molmoact_ros.robots.libfranka.process` and is its only sender. A socket pair connects the two. It
closes when either process ends, for whatever reason; the control process then brakes the arm by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.libfranka.interpolator import checked

COMMAND: Final = struct.Struct("<B7d7d7ddd")
"""Kind, then position, velocity, acceleration, opening and period of an ArmCommand, zero for other kinds."""
STATE: Final = struct.Struct("<dB7d7d7ddII")
"""The fields of LibfrankaState except its message, which follows as UTF-8."""
LONGEST: Final = 2048
"""Bytes of a packet at most."""


class Kind(IntEnum):
    """Kind of a request to the process."""

    COMMAND = 1
    RECOVER = 2


class RobotMode(IntEnum):
    """State of the control process."""

    CONNECTING = 0
    IDLE = 1  # connected; the robot holds its position by itself
    MOVING = 2  # in control, also while the arm holds
    BRAKING = 3  # in control, braking because no command followed
    FAULT = 4  # the robot stopped by itself; waiting for RECOVER
    ENDED = 5


class LibfrankaState(NamedTuple):
    """State of the robot. `q`, `dq`: measured, `q_d`: commanded, float64 [7], rad and s. `stamp`: s, monotonic clock.

    `success_rate`: fraction of the last 100 packets that the robot received in time. `missed`: cycles lost since the
    start. `refused`: number of refused commands. `message`: why the robot stopped, by the FCI's names of errors, or why
    a command was refused.
    """

    stamp: float
    mode: RobotMode
    q: np.ndarray
    dq: np.ndarray
    q_d: np.ndarray
    success_rate: float
    missed: int
    refused: int
    message: str

    def pack(self) -> bytes:
        """Serialize for the socket."""
        numbers = (self.stamp, self.mode, *self.q, *self.dq, *self.q_d, self.success_rate, self.missed, self.refused)
        return STATE.pack(*numbers) + self.message.encode()[: LONGEST - STATE.size]

    @classmethod
    def unpack(cls, data: bytes) -> LibfrankaState:
        """Deserialize the output of `pack`."""
        stamp, mode, *joints, rate, missed, refused = STATE.unpack_from(data)
        q, dq, q_d = np.array(joints).reshape(3, 7)
        return cls(
            stamp, RobotMode(mode), q, dq, q_d, rate, missed, refused, data[STATE.size :].decode(errors="replace")
        )


@dataclass(frozen=True)
class ArmSettings:
    """Robot settings that are sent before the first motion. Empty values and a mass of 0 keep the robot's own.

    load_mass: kg, load_centre: m in the flange's frame, load_inertia: kg m^2, 9 values, column-major (libfranka's
    `setLoad`). collision_torque: N m at the 7 joints, collision_force: 3 values in N and 3 in N m at the hand; both or
    neither (`setCollisionBehavior`). tool_frame: NE_T_EE, 16 values, column-major, m (`setEE`).
    """

    load_mass: float = 0.0
    load_centre: tuple[float, ...] = (0.0,) * 3
    load_inertia: tuple[float, ...] = (0.0,) * 9
    collision_torque: tuple[float, ...] = ()
    collision_force: tuple[float, ...] = ()
    tool_frame: tuple[float, ...] = ()

    def to_json(self) -> str:
        """Serialize for the command line of the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ArmSettings:
        """Deserialize the output of `to_json`."""
        return cls(**json.loads(text))


class LibfrankaArm:
    """A Franka arm that is controlled by libfranka, in a process of its own.

    Commands may come at 10..500 Hz. Nothing moves before the first one, which must start where the arm stands. A
    command that an FR3 could not follow is refused.

        with LibfrankaArm("172.16.0.2") as arm:
            arm.send(ArmCommand(q, np.zeros(7), np.zeros(7), opening=0.08, period=0.01))
            print(arm.state().q)
    """

    def __init__(self, address: str, record: Path | None = None, settings: ArmSettings | None = None) -> None:
        """Start the process; it connects in the background.

        Args:
            address: host name or IP address of the robot.
            record: .npz file to which every 1 ms cycle is written at the end; None: none.
            settings: load, collision thresholds and tool; None: the robot's own.

        Raises RuntimeError if pylibfranka is missing.
        """
        require_pylibfranka()
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        command = [
            sys.executable, "-P", "-m", "molmoact_ros.robots.libfranka.process", address, str(far.fileno()),
            (settings or ArmSettings()).to_json(), *([str(record)] if record else []),
        ]  # fmt: skip
        # In a session of its own: Ctrl-C in a terminal must not end a process that has still to brake the arm.
        self._process = subprocess.Popen(command, pass_fds=[far.fileno()], start_new_session=True)
        far.close()
        zero = np.zeros(7)
        self._reading = threading.Lock()  # never held across a blocking call
        self._state = LibfrankaState(-np.inf, RobotMode.CONNECTING, zero, zero, zero, 0.0, 0, 0, "")

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    def send(self, command: ArmCommand) -> None:
        """Send a command. Raises RefusedCommand if it is invalid, ConnectionError once the process has ended."""
        command = checked(command)
        numbers = (*command.position, *command.velocity, *command.acceleration, command.opening, command.period)
        self._send(COMMAND.pack(Kind.COMMAND, *numbers))

    def recover(self) -> None:
        """Clear a fault on behalf of the operator.

        Recovery moves nothing, and commands sent before it completes are dropped. The next command must start at rest
        where the arm stands, or it is refused.
        """
        self._send(COMMAND.pack(Kind.RECOVER, *[0.0] * 23))

    def state(self) -> LibfrankaState:
        """The newest state, or the last one if nothing new came. Its mode is ENDED when the process is gone.

        Thread-safe; never blocks.
        """
        with self._reading:
            newest = None
            with contextlib.suppress(OSError):  # nothing more, or closed
                while data := self._socket.recv(LONGEST):
                    newest = data
            if newest is not None:
                self._state = LibfrankaState.unpack(newest)
            elif self._process.poll() is not None:
                why = self._state.message or f"its process ended with status {self._process.returncode}"
                self._state = self._state._replace(mode=RobotMode.ENDED, message=why)
            return self._state

    def close(self) -> None:
        """Bring the arm to rest, and end the process."""
        self._socket.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except BlockingIOError:
            pass  # the process is hundreds of commands behind; it brakes where they are missing
        except OSError:
            raise ConnectionError(f"the arm is not driven: {self.state().message}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def own_priority() -> Iterator[None]:
    """Keep the calling thread's scheduling: libfranka gives the thread that connects the highest real-time priority."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def require_pylibfranka() -> None:
    """Raise RuntimeError, with what to install, if pylibfranka is missing."""
    try:
        import pylibfranka  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"the sink libfranka needs pylibfranka ({error}); pip install 'molmoact_ros[libfranka]'"
        ) from None


def real_time_note() -> str:
    """What this machine lacks to meet the FCI's 1 ms cycle, in one line; empty: nothing known."""
    lacks = []
    if not Path("/sys/kernel/realtime").exists():
        lacks.append("the kernel is not PREEMPT_RT")
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, *before)
    except PermissionError:
        lacks.append("real-time scheduling is not permitted (add rtprio 99 to /etc/security/limits.conf)")
    return "; ".join(lacks)
