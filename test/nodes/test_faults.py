"""Faults in a running graph, once each; `molmoact-ros bench faults` injects every one of the list ten times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import Float64
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.benchmarks.fault_graph import Graph, graph
from molmoact_ros.benchmarks.fault_injection import try_fault
from molmoact_ros.benchmarks.fault_table import controller_suite
from molmoact_ros.ros import qos

SLOW = 3.0
"""How much longer than documented a machine that is busy with other tests may take; the bench allows nothing."""
DISCOVERY = 2.0
"""s that nodes may take besides to hear of one that a fault starts."""


@pytest.fixture(scope="module")
def running(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with graph(False, False, tmp_path_factory.mktemp("logs"), controller_suite().more) as running:
        yield running


@pytest.mark.parametrize(
    "name",
    [
        "joints stale (POLICY)",
        "joints stale (TELEOP)",
        "hold pressed (TELEOP)",
        "stop pressed (TELEOP)",
        "operator took over and lets go (POLICY)",
        "chunk NaN (POLICY)",
        "SIGHUP (POLICY)",
        "controller killed (TELEOP)",
        "second controller (POLICY)",
    ],
)
def test_the_arm_stands_in_time_and_stays(running: Graph, name: str) -> None:
    (fault,) = (fault for fault in controller_suite().faults if fault.name == name)
    fault.deadline = SLOW * fault.deadline + DISCOVERY
    try_fault(fault, running)
    assert (fault.held, fault.moved) == (1, 0), f"{name}: {fault.seconds} s, {running.rig.safety}"


def test_reasons_are_published(running: Graph) -> None:
    rig = running.rig
    heard: list[DiagnosticArray] = []
    rig.create_subscription(DiagnosticArray, "/diagnostics", heard.append, qos.RELIABLE)
    running.begin()
    rig.relay_joints = False
    assert rig.until(lambda: "stale" in rig.safety.reason, 10.0)
    limits = dict(zip(rig.safety.limits, rig.safety.limit_counts, strict=True))
    assert {"velocity", "jerk", "workspace", "table", "self_collision", "singularity"} <= set(limits)
    assert rig.safety.latency == pytest.approx(0.1, abs=0.1)

    def told(name: str) -> list:
        return [s for message in heard[-1:] for s in message.status if s.name == f"controller: {name}"]

    assert rig.until(lambda: told("state") and "stale" in told("state")[0].values[0].value, 10.0)
    assert told("joints")[0].level != b"\x00" and told("control loop")[0].values
    rig.relay_joints = True


def test_a_persons_gripper_goes_to_the_hand(running: Graph) -> None:
    rig = running.rig
    sent: list[JointTrajectory] = []
    rig.create_subscription(JointTrajectory, "/fr3_gripper_controller/joint_trajectory", sent.append, qos.RELIABLE)
    mine = rig.create_publisher(Float64, "/controller/teleop/gripper", qos.RELIABLE)
    rig.call(Trigger, "/controller/hold")
    rig.go()
    rig.until(lambda: False, 3.0)  # nobody is followed who has not been silent once since they were discovered

    def say() -> bool:
        mine.publish(Float64(data=0.02))
        return any(abs(t.points[0].positions[0] - 0.01) < 1e-9 for t in sent)

    assert rig.until(say, 10.0)
