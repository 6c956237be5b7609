"""The graph under test: the simulator and the controller with a fault injector between them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import rclpy
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.benchmarks.fault_rig import CAMERAS, JOINT_STATES, FaultInjector
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.ros.action_client import ThreadsafeActionClient
from molmoact_ros.srv import ResetScene

ArmMode = Literal["IDLE", "HOLD", "POLICY", "TELEOP"]
JOINTS_DEADLINE: Final = 0.2  # s, as the graph is configured here
LET_GO: Final = 0.4  # s of silence after which an operator has certainly released the arm
SIM: Final = {"front_size": [320, 240], "wrist_size": [212, 120]}


class UnreadLog:
    """A pipe in place of a node's log, which nobody reads; create it before the node is started."""

    def __init__(self, file: Path) -> None:
        os.mkfifo(file)
        self._descriptor = os.open(file, os.O_RDWR | os.O_NONBLOCK)

    def fill(self) -> None:
        """Fill the pipe, so that no byte more fits."""
        for size in (4096, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(self._descriptor, b"\n" * size)

    def drain(self) -> None:
        """Read the pipe until it is empty."""
        with suppress(BlockingIOError):
            while os.read(self._descriptor, 65536):
                pass

    def close(self) -> None:
        """Close the read end: later writes of the node fail."""
        os.close(self._descriptor)


@dataclass
class Graph:
    """The running graph. began: when the present fault did, s; beside: further processes that a fault has started."""

    bringup: Bringup
    rig: FaultInjector
    logs: Path
    policy: ThreadsafeActionClient | None = None  # None: the fault injector is in its place
    unread: UnreadLog | None = None  # the controller's log
    began: float = 0.0
    beside: ExitStack = field(default_factory=ExitStack)

    def begin(self, mode: ArmMode = "POLICY") -> None:
        """Bring the arm into motion, or to rest, in `mode`, from any state. Raises RuntimeError where that fails."""
        self.rig.streaming = False
        if mode == "IDLE":
            self.bringup.kill("controller")
            self.restart("controller")
        elif mode == "HOLD":
            self._stand()
        else:
            self._move(mode)

    def restart(self, name: str) -> None:
        """Restart a node that has ended, and wait for the status of a controller that receives joint states."""
        self.rig.safety, self.rig.command_speed = SafetyStatus(), 0.0  # of the process that has ended
        self.rig.forget_services()
        self.bringup.start(name)
        if not self.rig.until(lambda: self.rig.safety.joints_age > 0, 60.0):
            raise RuntimeError(f"the controller hears no joints after {name} was started again; see its log")

    def _move(self, mode: ArmMode) -> None:
        rig, state = self.rig, getattr(SafetyStatus, mode)
        for _ in range(6):  # on a busy machine the joint states may become stale meanwhile
            if mode == "TELEOP":
                self._stand()
                rig.streaming = True
            elif self.policy is not None:
                rig.call(Trigger, "/controller/hold")
                rig.call(ResetScene, "/sim/reset_scene", seed=7, instruction="", distractors=-1)
                time.sleep(0.5)
                rig.go()  # resets a stop; the goal's own start does not
                self._execute()
            else:
                rig.go()
            if rig.until(lambda: rig.moving(state), 8.0):
                rig.until(lambda: False, 0.15)
                if rig.moving(state):
                    return
        said = "; ".join(filter(None, [rig.safety.reason, *rig.safety.warnings])) or "no reason given"
        raise RuntimeError(f"the arm does not move in {mode}: {said}; see the nodes' logs")

    def _stand(self) -> None:
        """Bring the controller to HOLD, without teleoperation. A stop is reset."""
        rig = self.rig
        rig.streaming = False
        if rig.safety.state in (SafetyStatus.IDLE, SafetyStatus.STOPPED):
            rig.go()
        rig.call(Trigger, "/controller/hold")
        rig.until(lambda: False, LET_GO)
        if not rig.until(lambda: rig.standing() and rig.halted(), 5.0):
            raise RuntimeError(f"the arm does not hold: {rig.safety.reason}")

    def _execute(self) -> None:
        assert self.policy is not None
        if not self.rig.until(self.policy.server_is_ready, 60.0):
            raise RuntimeError("no policy answers at /policy/execute; see its log")
        self.policy.send_goal_async(ExecuteInstruction.Goal(instruction="put the red cube in the bowl", timeout=60.0))


def controller_parameters(clock: bool) -> dict[str, Any]:
    """Parameters of the controller here. clock: it follows the fault injector's clock."""
    return {
        "joint_states": JOINT_STATES, "joints_deadline": JOINTS_DEADLINE, "use_sim_time": clock, "keep_stop": False,
    }  # fmt: skip


@contextmanager
def graph(
    policy: bool, clock: bool, logs: Path | None = None, more: dict[str, dict[str, Any]] | None = None,
    unread: bool = False,
) -> Iterator[Graph]:  # fmt: skip
    """The simulator and the controller with the fault injector between them, and the policy, or the injector in its
    place.

    more: parameters, and nodes, beside those. unread: the controller writes its log into a pipe that nobody reads.
    """
    nodes: dict[str, dict[str, Any]] = {"sim": SIM, "controller": controller_parameters(clock)}
    if policy:
        nodes["policy"] = {"cameras": list(CAMERAS), "period": 0.75}
    with ExitStack() as stack:
        folder = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="molmoact-")))
        pipe = None
        if unread:
            folder.mkdir(parents=True, exist_ok=True)
            pipe = UnreadLog(folder / "controller.log")
            stack.callback(pipe.close)
        up = stack.enter_context(Bringup(Profile(nodes=nodes).with_parameters(more or {}), folder))
        context = rclpy.Context()
        rclpy.init(context=context)
        stack.callback(context.try_shutdown)
        rig = FaultInjector(context)
        stack.callback(rig.close)
        if policy:
            rig.relay_cameras()
        else:
            rig.drive(clock)
        if not rig.until(lambda: rig.safety.joints_age > 0 and rig.joints_heard > 0, 60.0):
            if not unread:  # nobody could read why
                up.check()
            raise RuntimeError("the controller hears no joints; see the nodes' logs")
        client = ThreadsafeActionClient(rig, ExecuteInstruction, "/policy/execute") if policy else None
        running = Graph(up, rig, folder, client, pipe)
        stack.callback(running.beside.close)
        yield running
