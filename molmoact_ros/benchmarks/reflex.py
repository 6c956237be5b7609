"""A reflex of the robot while the controller's own process plays a policy's chunks: how the supervisor handles it."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import rclpy
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from molmoact_ros.benchmarks.fault_rig import FaultInjector
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.robots.franka import OPENING_MAX, SINGLE
from molmoact_ros.ros import qos
from molmoact_ros.sim.franka_sim import FrankaSim

STATUS_PERIOD: Final = 0.1
"""Deadline for the supervisor to report that the arm is held, s."""
WATCHED: Final = 1.0
"""s after `recover` in which nothing may move."""
GRIPPER_PERIOD: Final = 1 / 15
"""s; franka_gripper publishes its fingers at 15 Hz, and the controller moves no arm without them."""
ATTEMPTS: Final = 5
"""Largest number of starts: a machine that keeps the robot waiting provokes a reflex before the benchmark does."""


@dataclass(frozen=True)
class Reflex:
    """held_seconds: from when the software could detect the stop until SafetyStatus reports HOLD or STOPPED; inf:
    never.

    state: which of them. recover_way: rad by which the furthest joint was commanded to move after `recover` alone.
    """

    held_seconds: float
    state: str
    recover_way: float

    @property
    def failures(self) -> list[str]:
        """Violated requirements, one line each."""
        late = not self.held_seconds <= STATUS_PERIOD
        return [
            text
            for failed, text in (
                (late, f"the supervisor says {self.state} {self.held_seconds:.2f} s after a reflex"),
                (self.recover_way > 0, f"`recover` alone moved the arm by {self.recover_way:.4f} rad"),
            )
            if failed
        ]


def bench_reflex(model: Path, tell: Callable[[str], None]) -> Reflex:
    """Provoke a reflex in mid-motion, then recover. `model`: the robot's MJCF file.

    The process that answers the robot is suspended until the robot misses its packets. Everything runs in a ROS domain
    of its own. Raises RuntimeError where the arm cannot be brought to move.
    """
    use_environment()
    for attempt in range(ATTEMPTS):
        with tempfile.TemporaryDirectory() as folder, FrankaSim(model, Path(folder) / "franka_sim.log") as robot:
            try:
                return _provoked(robot, Path(folder))
            except RuntimeError as error:
                if attempt == ATTEMPTS - 1:
                    raise
                tell(f"once more: {error}")
    raise AssertionError


def _provoked(robot: FrankaSim, folder: Path) -> Reflex:
    domain, record = random.randrange(1, 100), folder / "record.npz"
    parameters: dict[str, Any] = {"sink": "libfranka", "robot_address": robot.address, "gripper": "null",
                                  "record": str(record)}  # fmt: skip
    alone = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    with Bringup(Profile(nodes={"controller": parameters}, environment=alone), folder / "logs") as graph:
        rig = FaultInjector(context)
        try:
            fingers = rig.create_publisher(JointState, "/franka_gripper/joint_states", qos.RELIABLE)
            hand = JointState(name=SINGLE.fingers, position=[OPENING_MAX / 2] * 2)
            rig.create_timer(GRIPPER_PERIOD, lambda: fingers.publish(hand))
            rig.drive()
            if not rig.until(lambda: rig.joints_heard > 0 and rig.safety.joints_age >= 0, 60.0):
                graph.check()
                raise RuntimeError("the controller hears no joints")
            rig.go()
            if not rig.until(rig.moving, 10.0) or rig.until(lambda: bool(robot.refusals()), 1.0):
                raise RuntimeError(f"the arm does not move: {rig.safety.reason} {robot.refusals()}")
            held, state = _halt(rig, robot, _process(graph.pid("controller")))
            recovered = _recover(rig)
        finally:
            rig.close()
            context.try_shutdown()
    cycles = np.load(record)
    after = cycles["sent"][cycles["time"] > recovered]
    way = float(np.abs(after - cycles["q_d"][cycles["time"] <= recovered][-1]).max()) if len(after) else 0.0
    return Reflex(held, state, way)


def _halt(rig: FaultInjector, robot: FrankaSim, pid: int) -> tuple[float, str]:
    """Make the robot stop by itself; the time until the supervisor reports it, and the supervisor's state."""
    os.kill(pid, signal.SIGSTOP)
    try:
        stopped = rig.until(lambda: bool(robot.refusals()), 5.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    if not stopped:
        raise RuntimeError("the robot does not miss its packets")
    began = time.monotonic()
    held = rig.until(lambda: rig.safety.state in (SafetyStatus.HOLD, SafetyStatus.STOPPED), 2.0)
    seconds = time.monotonic() - began if held else float("inf")
    names = {SafetyStatus.HOLD: "HOLD", SafetyStatus.STOPPED: "STOPPED", SafetyStatus.POLICY: "POLICY"}
    return seconds, names.get(rig.safety.state, str(rig.safety.state))


def _recover(rig: FaultInjector) -> float:
    """Clear the robot's error, and wait while the policy keeps planning; returns when, s of the monotonic clock."""
    rig.until(rig.standing, 2.0)
    recovered = time.monotonic()
    rig.call(Trigger, "/controller/recover")
    rig.until(lambda: False, WATCHED)
    return recovered


def _process(controller: int) -> int:
    """The id of the 1 kHz process that the controller has started. Raises RuntimeError where there is none."""
    for task in Path(f"/proc/{controller}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"libfranka.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise RuntimeError("the controller has no 1 kHz process")
