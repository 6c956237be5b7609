"""The faults that are injected into a running graph, each with its deadline of docs/safety.md, plus braking."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from std_msgs.msg import Empty
from std_srvs.srv import Trigger

from molmoact_ros.benchmarks.fault_graph import JOINTS_DEADLINE, ArmMode, Graph, controller_parameters
from molmoact_ros.benchmarks.fault_rig import FaultInjector, from_the_past, with_nan
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.ros import qos
from molmoact_ros.ros.message_types import message_class

BRAKING: Final = 0.4  # s: braking, and the latency of the measurement
DISCOVERY: Final = 3.0  # s in which two nodes discover each other while one of them starts on the same machine
STATUS: Final = 0.1  # s between two statuses of a controller
FOLLOWING: Final = 0.1  # rad, as the graph is configured here: the injector sways the arm by 0.2 to either side
PRESENCE: Final = 0.5  # s, as the graph is configured here
HALT: Final = 0.8  # s for which a controller is kept from running
HOUR: Final = 3600.0
ROBOT_STATE: Final = "franka_robot_state_broadcaster/robot_state"
MOVING: Final[tuple[ArmMode, ...]] = ("POLICY", "TELEOP")
Act = Callable[[Graph], None]


def _nothing(graph: Graph) -> None:
    pass


@dataclass
class Fault:
    """A fault: when the arm must stand (s), and how often it did. worst: s; moved: times it moved again by itself.

    mode: the arm's state before. stands: the arm must stop because of it, and stay at rest, with the fault and after
    it; an operator streams all the while. needs: a message type without which it cannot be injected.
    """

    fault: str
    mode: ArmMode
    deadline: float
    inject: Act
    repair: Act = _nothing
    happened: Callable[[FaultInjector], bool] = FaultInjector.halted
    stands: bool = True
    needs: str = ""
    times: int = 0
    held: int = 0
    moved: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The fault, and the arm's state before."""
        return f"{self.fault} ({self.mode})"

    @property
    def missed(self) -> int:
        """Times that the arm did not hold in time, or moved again."""
        return self.times - self.held + self.moved


@dataclass
class Suite:
    """Faults of one graph; the other fields are as in `fault_graph.graph`."""

    name: str
    faults: list[Fault]
    policy: bool = False
    clock: bool = False
    unread: bool = False
    more: dict[str, dict[str, Any]] = field(default_factory=dict)


def _both(fault: str, deadline: float, inject: Act, repair: Act = _nothing, **more: Any) -> list[Fault]:
    """The fault while the policy moves the arm, and during teleoperation."""
    return [Fault(fault, mode, deadline, inject, repair, **more) for mode in MOVING]


# Actions


def _set(**values: Any) -> Act:
    def act(graph: Graph) -> None:
        for name, value in values.items():
            setattr(graph.rig, name, value)

    return act


def _signal(name: str, number: int) -> Act:
    return lambda graph: os.kill(graph.bringup.pid(name), number)


def _kill(name: str) -> Act:
    return lambda graph: graph.bringup.kill(name)


def _restart(name: str) -> Act:
    return lambda graph: graph.restart(name)


def _call(service: str) -> Act:
    def act(graph: Graph) -> None:
        graph.rig.call(Trigger, f"/controller/{service}", patience=3.0)

    return act


def _block(graph: Graph) -> None:
    """Freeze the joint states; the deadline counts from when the arm is as far from its commands as allowed."""
    rig = graph.rig
    rig.freeze_joints = True
    if not rig.until(lambda: np.abs(rig.commanded - rig.relayed).max() > FOLLOWING, 5.0):
        raise RuntimeError("the arm is not told to go as far from where it is blocked")
    graph.began = time.monotonic()


def _halt(graph: Graph) -> None:
    """Suspend the controller for a while, as a busy machine would."""
    pid = graph.bringup.pid("controller")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(HALT)
    os.kill(pid, signal.SIGCONT)
    graph.began = time.monotonic()


def _take_over(seconds: float) -> Act:
    def act(graph: Graph) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            graph.rig.say_twist(0.1)
            time.sleep(0.02)

    return act


def _take_over_and_let_go(graph: Graph) -> None:
    _take_over(0.4)(graph)
    graph.began = time.monotonic()  # the deadline counts from the last message


def _replay(graph: Graph) -> None:
    """Publish twists of an hour ago, as a bag's player would."""
    rig = graph.rig
    rig.hands = 0
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        rig.say_twist(0.1, ago=HOUR)
        time.sleep(0.02)
    graph.began = time.monotonic()


def _start_second(graph: Graph) -> None:
    """Start another controller of the same name; the deadline counts from its first status."""
    rig, asked = graph.rig, time.monotonic()
    nodes = {"controller": controller_parameters(clock=False)}
    graph.beside.enter_context(Bringup(Profile(nodes=nodes), graph.logs / "second"))
    if not rig.until(lambda: rig.heard_idle > asked, 30.0):
        raise RuntimeError("the second controller does not start")
    graph.began = rig.heard_idle


def _end_second(graph: Graph) -> None:
    graph.beside.close()


def _block_log(graph: Graph) -> None:
    """Block the controller's log pipe and make the controller log much; then an operator calls stop."""
    assert graph.unread is not None
    graph.unread.fill()
    for number in range(30):
        graph.rig.say_twist(0.1, ago=HOUR + number)
        time.sleep(0.01)
    graph.began = time.monotonic()
    _call("stop")(graph)


def _read_log(graph: Graph) -> None:
    assert graph.unread is not None
    graph.unread.drain()


def _kill_display_node(name: str, stop: Act) -> Act:
    """End a display node; then an operator calls stop, by another way."""

    def act(graph: Graph) -> None:
        graph.bringup.kill(name)
        time.sleep(0.3)
        graph.bringup.check(but=[name])
        graph.began = time.monotonic()
        stop(graph)

    return act


def _start_display_node(name: str) -> Act:
    def act(graph: Graph) -> None:
        log, rig = graph.bringup.log(name), graph.rig
        before = log.read_text().count("ready")
        graph.bringup.start(name)
        if not rig.until(lambda: log.read_text().count("ready") > before, 60.0):
            raise RuntimeError(f"{name} does not start again; see {log}")

    return act


def _stop_by_topic(graph: Graph) -> None:
    graph.rig.say_stop.publish(Empty())


def _robot(mode: str) -> Act:
    """Publish franka_ros2's robot state with that mode, ten times a second from now on."""

    def act(graph: Graph) -> None:
        kind: Any = message_class("franka_msgs/msg/FrankaRobotState")
        message = kind(robot_mode=getattr(kind, f"ROBOT_MODE_{mode}"))
        graph.beside.close()
        rig = graph.rig
        publisher = rig.create_publisher(kind, ROBOT_STATE, qos.RELIABLE)
        timer = rig.create_timer(0.05, lambda: publisher.publish(message))
        graph.beside.callback(rig.between_callbacks, lambda: rig.destroy_publisher(publisher))
        graph.beside.callback(rig.between_callbacks, lambda: rig.destroy_timer(timer))

    return act


# Expected outcomes


def _is_teleoperated(rig: FaultInjector) -> bool:
    return bool(rig.safety.state == SafetyStatus.TELEOP)


def _no_teleoperation(rig: FaultInjector) -> bool:
    return rig.hands == 0


# The table


def policy_suite() -> Suite:
    """With the real policy, and the injector between cameras, joints and the rest."""
    return Suite(
        "policy",
        [
            Fault("camera frozen", "POLICY", 1.2 + BRAKING, _set(freeze_images=True), _set(freeze_images=False)),
            Fault("camera gone", "POLICY", 1.1 + BRAKING, _set(relay_images=False), _set(relay_images=True)),
            Fault("engine hung", "POLICY", 1.1 + BRAKING, _signal("policy", signal.SIGSTOP),
                  _signal("policy", signal.SIGCONT)),
            Fault("engine killed", "POLICY", 1.1 + BRAKING, _kill("policy"), _restart("policy")),
        ],
        policy=True,
    )  # fmt: skip


def controller_suite() -> Suite:
    """With the injector in the policy's place: what the controller itself must detect."""
    sound = _set(spoil=lambda chunk: None)
    faults = [
        *_both("joints stale", JOINTS_DEADLINE + BRAKING, _set(relay_joints=False), _set(relay_joints=True)),
        *_both("not following", BRAKING, _block, _set(freeze_joints=False)),
        *_both("stop pressed", BRAKING, _call("stop")),
        *_both("stop on the topic", BRAKING, _stop_by_topic),
        *_both("hold pressed", BRAKING, _call("hold")),
        *_both("controller late", BRAKING, _halt),
        *_both("controller killed", BRAKING, _kill("controller"), _restart("controller"),
               happened=FaultInjector.standing),
        *_both("SIGHUP", BRAKING, _signal("controller", signal.SIGHUP), _restart("controller"),
               happened=FaultInjector.standing),
        *_both("second controller", DISCOVERY + 2 * STATUS + BRAKING, _start_second, _end_second),
        *_both("robot reflex", STATUS + BRAKING, _robot("REFLEX"), _robot("MOVE"),
               needs="franka_msgs/msg/FrankaRobotState"),
        Fault("operator's heartbeat lost", "POLICY", PRESENCE + BRAKING, _set(present=False), _set(present=True)),
        Fault("chunk NaN", "POLICY", 0.4 + BRAKING, _set(spoil=with_nan), sound),
        Fault("chunk from the past", "POLICY", 0.4 + 0.9 + 2.0 + BRAKING, _set(spoil=from_the_past), sound),
        Fault("operator takes over", "POLICY", 0.05, _take_over(0.03), happened=_is_teleoperated),
        Fault("operator took over and lets go", "POLICY", 0.2 + BRAKING, _take_over_and_let_go),
        Fault("operator lets go", "TELEOP", 0.2 + BRAKING, _set(streaming=False)),
        Fault("stale twist replayed", "IDLE", STATUS, _replay, happened=_no_teleoperation),
        Fault("stale twist replayed", "HOLD", STATUS, _replay, happened=_no_teleoperation),
        Fault("stale twist replayed", "POLICY", STATUS, _replay, happened=_no_teleoperation, stands=False),
    ]  # fmt: skip
    watched = {"robot_state": ROBOT_STATE, "following": FOLLOWING, "presence_timeout": PRESENCE}
    return Suite("controller", faults, more={"controller": watched})


def clock_suite() -> Suite:
    """With the injector in the policy's place, and its clock."""
    on: Act = lambda graph: graph.rig.time.go_on()  # noqa: E731
    return Suite(
        "clock",
        [
            *_both("clock jumps ahead", BRAKING, lambda graph: graph.rig.time.jump(3.0)),
            *_both("clock jumps back", BRAKING, lambda graph: graph.rig.time.jump(-3.0)),
            *_both("clock stands still", 0.3 + BRAKING, lambda graph: graph.rig.time.stand_still(), on),
            *_both("clock repeats", BRAKING, lambda graph: graph.rig.time.repeat(), on),
        ],
        clock=True,
    )


def unread_suite() -> Suite:
    """With a controller whose stdout and stderr are a pipe that nobody reads."""
    return Suite("unread", [*_both("logging blocked: stop pressed", BRAKING, _block_log, _read_log)], unread=True)


def showing_suite() -> Suite:
    """With the display nodes: motion continues without them, and stops by other ways."""
    view = _kill_display_node("view", _call("stop"))
    return Suite(
        "showing",
        [
            *_both("panel killed: stop on the topic", BRAKING, _kill_display_node("panel", _stop_by_topic),
                   _start_display_node("panel")),
            *_both("view killed: stop pressed", BRAKING, view, _start_display_node("view")),
        ],
        more={"panel": {"port": 0}, "view": {}},
    )  # fmt: skip


def suites() -> list[Suite]:
    """All suites."""
    return [policy_suite(), controller_suite(), clock_suite(), unread_suite(), showing_suite()]
