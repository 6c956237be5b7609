"""Every fault of docs/safety.md in a running graph: does the arm stand within the deadline, and does it stay?"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.nodes.actions import ThreadsafeActionClient
from molmoact_ros.nodes.bringup import Bringup, Profile, use_environment
from molmoact_ros.nodes.rig import CAMERAS, JOINT_STATES, Rig, from_the_past, with_nan
from molmoact_ros.srv import ResetScene

STAY = 1.0  # s that the arm is watched for while the fault lasts, and again when it is over
BRAKING = 0.4  # s: braking, and the measurement on its way back
SIM = {"front_size": [320, 240], "wrist_size": [212, 120]}
JOINTS_DEADLINE = 0.2  # s, as the graph is started here


@dataclass
class Fault:
    """A fault: when the arm must stand (s), and how often it did. worst: s; moved: times it moved again by itself."""

    name: str
    deadline: float
    inject: Callable[[Graph], None]
    repair: Callable[[Graph], None] = lambda graph: None
    happened: Callable[[Rig], bool] = Rig.halted
    times: int = 0
    held: int = 0
    moved: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def missed(self) -> int:
        """Times that it did not hold in time, or moved again."""
        return self.times - self.held + self.moved


@dataclass
class Graph:
    """What faults are done to."""

    bringup: Bringup
    rig: Rig
    policy: ThreadsafeActionClient | None  # None: the rig is in its place

    def begin(self) -> None:
        """Have the arm moving, whatever was before. Raises RuntimeError when it does not."""
        rig = self.rig
        for _ in range(3):
            if self.policy is not None:
                rig.call(Trigger, "/controller/hold")
                rig.call(ResetScene, "/sim/reset_scene", seed=7, instruction="", distractors=-1)
                time.sleep(0.5)
                rig.go()  # lifts a stop; the goal's own start does not
                self._execute()
            else:
                rig.go()
            if rig.until(rig.moving, 8.0):
                rig.until(lambda: False, 0.15)
                if rig.moving():
                    return
        raise RuntimeError(f"the arm does not move: {rig.safety.reason or 'no reason given'}; see the nodes' logs")

    def _execute(self) -> None:
        assert self.policy is not None
        if not self.rig.until(self.policy.server_is_ready, 60.0):
            raise RuntimeError("no policy answers at /policy/execute; see its log")
        self.policy.send_goal_async(ExecuteInstruction.Goal(instruction="put the red cube in the bowl", timeout=60.0))


def _set(**values: Any) -> Callable[[Graph], None]:
    def act(graph: Graph) -> None:
        for name, value in values.items():
            setattr(graph.rig, name, value)

    return act


def _signal(name: str, number: int) -> Callable[[Graph], None]:
    return lambda graph: os.kill(graph.bringup.pid(name), number)


def _restart(name: str) -> Callable[[Graph], None]:
    def act(graph: Graph) -> None:
        graph.rig.safety = SafetyStatus()
        graph.bringup.start(name)
        graph.rig.until(lambda: graph.rig.safety.joints_age > 0, 60.0)

    return act


def _stop(graph: Graph) -> None:
    graph.rig.call(Trigger, "/controller/stop")


def _teleop(seconds: float) -> Callable[[Graph], None]:
    def act(graph: Graph) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            graph.rig.say_twist(0.1)
            time.sleep(0.02)

    return act


def _in_persons_hand(rig: Rig) -> bool:
    return bool(rig.safety.state == SafetyStatus.TELEOP)


def _jump(graph: Graph) -> None:
    graph.rig.offset += 3.0 if graph.rig.offset <= 0 else -3.0


def policy_faults() -> list[Fault]:
    """With the real policy, and the rig between cameras, joints and the rest."""
    return [
        Fault("camera frozen", 1.2 + BRAKING, _set(freeze_images=True), _set(freeze_images=False)),
        Fault("camera gone", 1.1 + BRAKING, _set(relay_images=False), _set(relay_images=True)),
        Fault("joints stale", JOINTS_DEADLINE + BRAKING, _set(relay_joints=False), _set(relay_joints=True)),
        Fault("engine hung", 1.1 + BRAKING, _signal("policy", signal.SIGSTOP), _signal("policy", signal.SIGCONT)),
        Fault("engine killed", 1.1 + BRAKING, lambda graph: graph.bringup.kill("policy"), _restart("policy")),
        Fault(
            "controller killed", BRAKING, lambda graph: graph.bringup.kill("controller"), _restart("controller"),
            happened=Rig.standing,
        ),
        Fault("stop pressed", BRAKING, _stop),
        Fault("teleop mid-motion: takes over", 0.05, _teleop(0.03), happened=_in_persons_hand),
        Fault("teleop mid-motion: lets go", 0.2 + BRAKING, _teleop(0.4)),
    ]  # fmt: skip


def chunk_faults() -> list[Fault]:
    """With the rig in the policy's place."""
    sound = _set(spoil=lambda chunk: None)
    return [
        Fault("chunk NaN", 0.4 + BRAKING, _set(spoil=with_nan), sound),
        Fault("chunk from the past", 0.4 + 0.9 + 2.0 + BRAKING, _set(spoil=from_the_past), sound),
    ]


def clock_faults() -> list[Fault]:
    """With the rig in the policy's place, and its clock."""
    return [Fault("clock jump", BRAKING, _jump)]


def bench_faults(times: int, tell: Callable[[Fault], None], only: str = "", logs: Path | None = None) -> list[Fault]:
    """Inject each fault `times` times, or only those whose name holds `only`; `tell` hears of each when it is done."""
    use_environment()
    done: list[Fault] = []
    for faults, policy, clock in (
        (policy_faults(), True, False), (chunk_faults(), False, False), (clock_faults(), False, True),
    ):  # fmt: skip
        faults = [fault for fault in faults if only in fault.name]
        if faults:
            with graph(policy, clock, logs) as running:
                for fault in faults:
                    for _ in range(times):
                        _try(fault, running)
                    tell(fault)
            done += faults
    return done


@contextmanager
def graph(
    policy: bool, clock: bool, logs: Path | None = None, more: dict[str, dict[str, Any]] | None = None
) -> Iterator[Graph]:
    """The simulator and the controller with the rig between them, and the policy, or the rig in its place.

    more: parameters, and nodes, beside those.
    """
    nodes: dict[str, dict[str, Any]] = {
        "sim": SIM,
        "controller": {
            "joint_states": JOINT_STATES,
            "joints_deadline": JOINTS_DEADLINE,
            "use_sim_time": clock,
            "keep_stop": False,
        },  # fmt: skip
    }
    if policy:
        nodes["policy"] = {"cameras": list(CAMERAS), "period": 0.75}
    with (
        tempfile.TemporaryDirectory(prefix="molmoact-") as folder,
        Bringup(Profile(nodes=nodes).with_parameters(more or {}), logs or Path(folder)) as up,
    ):
        context = rclpy.Context()
        rclpy.init(context=context)
        rig = Rig(context)
        rig.relay_cameras()
        try:
            if not policy:
                rig.drive(clock)
            if not rig.until(lambda: rig.safety.joints_age > 0 and rig.joints_heard > 0, 60.0):
                up.check()
                raise RuntimeError("the controller hears no joints; see the nodes' logs")
            yield Graph(up, rig, ThreadsafeActionClient(rig, ExecuteInstruction, "/policy/execute") if policy else None)
        finally:
            rig.close()
            context.try_shutdown()


def _try(fault: Fault, graph: Graph) -> None:
    rig = graph.rig
    graph.begin()
    fault.times += 1
    began = time.monotonic()
    fault.inject(graph)
    if fault.name.startswith("teleop") and "lets go" in fault.name:
        began = time.monotonic()  # what counts begins with the last word
    seconds = time.monotonic() - began if fault.happened(rig) else None
    if seconds is None and rig.until(lambda: fault.happened(rig), fault.deadline + 3.0):
        seconds = time.monotonic() - began
    fault.seconds.append(float("inf") if seconds is None else seconds)
    fault.held += seconds is not None and seconds <= fault.deadline
    if seconds is None:
        fault.repair(graph)
        return
    rig.until(lambda: rig.standing(), 2.0)
    stayed = rig.stays(STAY)
    fault.repair(graph)
    fault.moved += not (stayed and rig.stays(STAY))
