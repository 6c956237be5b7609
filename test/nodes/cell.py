"""A controller's own process with a robot of the test's before it, which stands anywhere and may not follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus
from molmoact_ros.robots.franka import BASE_FRAME, HOME_Q, SINGLE
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.background_node import BackgroundNode

from .conftest import Peer

SWAY = 2.0
"""rad/s of an operator's hand from side to side."""


class TestRobot(BackgroundNode):
    """Joint states, and an arm that is at once where it is told to be; beside it an operator, an engine and a clock.

    q: [7] rad; follows: it goes where it is told to; twist: of an operator all the while, [x, y, z] m/s, there and back
    again.
    """

    __test__ = False

    def __init__(self, context: rclpy.Context, space: str = "", clock: bool = False, name: str = "robot") -> None:
        super().__init__(name, context)
        self.q, self.follows, self.present = HOME_Q.copy(), True, False
        self.twist: list[float] | None = None
        self.commands: list[tuple[float, np.ndarray]] = []  # when it came, and where the arm is to be next
        self.still: float | None = None  # ROS time at which the clock stands
        self.stamped = True  # the joint states are
        self.hand_states: Any = None  # a publisher of the hand's own; None: arm and hand are in one message
        self._joints = self.create_publisher(JointState, f"{space}/joint_states", qos.RELIABLE)
        self._twists = self.create_publisher(TwistStamped, f"{space}/controller/teleop/twist", qos.RELIABLE)
        self._engine = self.create_publisher(EngineStatus, f"{space}/policy/engine_status", qos.RELIABLE)
        self._presence = self.create_publisher(Header, f"{space}/controller/presence", qos.RELIABLE)
        self._told_time = self.create_publisher(Clock, "/clock", qos.RELIABLE) if clock else None
        topic = f"{space}/fr3_arm_controller/joint_trajectory"
        self.create_subscription(JointTrajectory, topic, self._on_command, qos.KEPT)
        self.create_timer(0.01, self._tell)
        self.create_timer(0.1, self._live)
        self._turns = 0
        self.begin()

    def now(self) -> float:
        """ROS time, s."""
        return time.time() if self.still is None else self.still

    def say_twist(self, twist: Any, ago: float = 0.0, frame: str = BASE_FRAME) -> None:
        """One word of an operator, said so many s ago."""
        message = TwistStamped(header=conversions.header(self.now() - ago, frame))
        message.twist.linear.x, message.twist.linear.y, message.twist.linear.z = map(float, twist)
        self._twists.publish(message)

    def _on_command(self, message: JointTrajectory) -> None:
        q = np.array(message.points[0].positions)
        self.commands.append((time.monotonic(), q))
        if self.follows:
            self.q = q

    def _tell(self) -> None:
        if self._told_time is not None:
            self._told_time.publish(Clock(clock=conversions.time_message(self.now())))
        arm, hand = (SINGLE.joints, self.q.tolist()), (SINGLE.fingers, [0.04, 0.04])
        both = (arm[0] + hand[0], arm[1] + hand[1])
        publishers, parts = (self._joints, self.hand_states), (arm, hand) if self.hand_states else (both,)
        for publisher, (names, positions) in zip(publishers, parts, strict=False):
            head = conversions.header(self.now() if self.stamped else 0.0, "")
            publisher.publish(JointState(header=head, name=names, position=positions))
        self._turns += 1
        if self.twist is not None and self._turns % 2:
            self.say_twist(np.cos(SWAY * time.monotonic()) * np.array(self.twist))

    def _live(self) -> None:
        status = EngineStatus(state=EngineStatus.RUNNING, header=conversions.header(self.now(), ""))
        self._engine.publish(status)
        if self.present:
            self._presence.publish(conversions.header(self.now(), ""))


class Cell(Peer):
    """What a test says to the controller, and hears of it."""

    def __init__(self, bringup: Bringup, space: str = "", clock: bool = False) -> None:
        super().__init__()
        self.bringup, self.space = bringup, space
        self.robot = TestRobot(self.context, space, clock)
        self.said: list[SafetyStatus] = self.listen(SafetyStatus, f"{space}/controller/safety_status", qos.STATE)
        node = self.node
        self.chunks = node.create_publisher(ActionChunk, f"{space}/policy/action_chunk", qos.RELIABLE)
        self.pending = node.create_publisher(ActionChunk, f"{space}/policy/pending_chunk", qos.RELIABLE)
        self._plan = 0
        assert self.until(self.knows_joints, 90.0), "the controller does not start"
        self.spin(1.2)  # it follows no person who spoke before it was there

    def close(self) -> None:
        self.robot.close()
        super().close()

    @property
    def status(self) -> SafetyStatus:
        return self.said[-1] if self.said else SafetyStatus()

    def knows_joints(self) -> bool:
        return bool(self.said and self.status.joints_age > 0)

    def ask(self, service: str) -> Trigger.Response:
        """The answer of one of the controller's services."""
        answer: Trigger.Response = self.call(Trigger, f"{self.space}/controller/{service}")
        return answer

    def is_in(self, state: str, patience: float = 10.0) -> bool:
        return self.until(lambda: self.status.state == getattr(SafetyStatus, state), patience)

    def moved(self, seconds: float) -> float:
        """Watch for a while: rad that the furthest joint was told to go from where the arm is now."""
        began, self.robot.commands = self.robot.q.copy(), []
        self.spin(seconds)
        return max((float(np.abs(q - began).max()) for _, q in self.robot.commands), default=0.0)

    def stand(self, q: np.ndarray = HOME_Q) -> None:
        """The arm stands there, in HOLD, and everybody has let go."""
        self.robot.twist, self.robot.follows = None, True
        if self.status.state == SafetyStatus.TELEOP:
            self.spin(0.3)
        if self.status.state in (SafetyStatus.IDLE, SafetyStatus.STOPPED):
            self.ask("resume")
        self.ask("hold")
        self.robot.commands = []
        assert self.until(self._is_quiet), "the arm does not come to rest"
        self.robot.q = np.array(q, float)
        self.spin(0.3)
        self.robot.commands = []

    def _is_quiet(self) -> bool:
        """Whether nothing was commanded for a while; asked again and again, each time about another one."""
        before = len(self.robot.commands)
        self.spin(0.3)
        return len(self.robot.commands) == before

    def in_hand(self) -> None:
        """An operator moves the arm, and goes on to."""
        for _ in range(5):
            self.robot.twist = [0.0, 0.1, 0.0]
            if self.is_in("TELEOP", 3.0) and self.moved(0.3) > 1e-3:
                return
            self.robot.twist = None
            self.spin(0.5)
        raise AssertionError(f"nobody can move the arm: {self.status}")

    def chunk(self, frame: str = "", key: str = "", dy: float = 0.003, plan: int | None = None) -> ActionChunk:
        """A plan of 0.8 s; a new one unless `plan` gives its number."""
        self._plan = self._plan + 1 if plan is None else plan
        actions = np.zeros((8, 7))
        actions[:, 1], actions[:, 6] = dy, 1.0
        head = conversions.header(self.robot.now() - 0.05, frame)
        return conversions.chunk_message(actions, 0.1, key, self._plan, head)

    def plays(self, message: ActionChunk) -> bool:
        """Resume, and hand the chunk over: whether the arm moves by it."""
        answer = self.ask("resume")
        assert answer.success, answer.message
        assert self.until(self.chunks.get_subscription_count)
        message.header.stamp = conversions.time_message(self.robot.now() - 0.05)
        self.chunks.publish(message)
        return self.moved(0.6) > 1e-3

    def heard_reason(self, words: str) -> Callable[[], bool]:
        return lambda: any(words in status.reason for status in self.said)


@contextmanager
def cell(logs: Path, space: str = "", clock: bool = False, **parameters: Any) -> Iterator[Cell]:
    """A controller with these parameters, and its robot, in a namespace such as /left."""
    given = {"joints_deadline": 0.3, "keep_stop": False, "use_sim_time": clock} | parameters
    with Bringup(Profile(nodes={"controller": given}), logs, space) as bringup:
        made = Cell(bringup, space, clock)
        try:
            yield made
        finally:
            made.close()
