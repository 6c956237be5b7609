"""ROS time may be set, and may stand still: tasks end by the steady clock, and older stamps mean nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import EngineStatus, SafetyStatus
from molmoact_ros.nodes.planning.execute_server import Result
from molmoact_ros.ros import qos
from molmoact_ros.ros.clocks import BACK, FORWARD, ClockJumps
from molmoact_ros.ros.conversions import time_message

from .conftest import INSTRUCTION, Robot


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 2.0)), min_size=1, max_size=50), st.floats(1.0, 1e9))
def test_a_clock_that_runs_at_any_pace_is_not_one_that_was_set(steps: list[tuple[float, float]], start: float) -> None:
    """Also one that stands still; pace: of its seconds by those of the steady clock, up to where it gains FORWARD."""
    watch, ros, steady = ClockJumps(), start, 50.0
    assert watch.moved(0.0, steady) == 0.0 and watch.moved(ros, steady) == 0.0, "its beginning is no jump"
    for seconds, pace in steps:
        ros, steady = ros + min(seconds * pace, seconds + 0.9 * FORWARD), steady + seconds
        assert watch.moved(ros, steady) == 0.0


@given(st.floats(2 * BACK, 1e5), st.booleans(), st.integers(1, 20))
def test_a_clock_that_was_set_is_noticed_once_and_small_steps_add_up(by: float, back: bool, steps: int) -> None:
    watch, steady = ClockJumps(), 50.0
    ros = 2e5
    watch.moved(ros, steady)
    if back:
        moves = []
        for _ in range(steps):
            ros, steady = ros - by / steps, steady + 0.1
            moves.append(watch.moved(ros, steady))
        assert any(moves) and all(move <= 0 for move in moves)
    else:
        assume(abs(by - FORWARD) > 1e-6)
        assert (watch.moved(ros + by + 0.1, steady + 0.1) > 0) == (by > FORWARD)
        ros += by + 0.1
    assert watch.moved(ros + 0.1, steady + 0.2) == 0.0


class Time(threading.Thread):
    """Publishes /clock. pace: of its seconds by real ones; 0: it stands still."""

    def __init__(self, robot: Robot) -> None:
        super().__init__(daemon=True)
        self._clock = robot.node.create_publisher(Clock, "/clock", qos.RELIABLE)
        self.now, self.pace, self._ended = 1000.0, 1.0, threading.Event()

    def run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(0.01):
            last, passed = time.monotonic(), time.monotonic() - last
            self.now += passed * self.pace
            self._clock.publish(Clock(clock=time_message(self.now)))

    def close(self) -> None:
        self._ended.set()
        self.join()


@pytest.fixture(scope="module")
def timed(domain: int, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Robot, Time]]:
    parameters: dict[str, dict[str, Any]] = {
        "sim": {"front_size": [160, 120], "wrist_size": [106, 60], "instruction": INSTRUCTION},
        "controller": {"joints_deadline": 1.0, "camera_deadline": 3.0, "silence_deadline": 4.0},
        "policy": {"checkpoint": str(checkpoint), "max_age": 2.0, "action_dt": 0.8, "period": 1.5},
    }
    simulated = {name: {**given, "use_sim_time": True} for name, given in parameters.items()}
    with Bringup(Profile(nodes=simulated), tmp_path_factory.mktemp("logs")) as bringup:
        clockless = Robot.__new__(Robot)
        super(Robot, clockless).__init__()
        clock = Time(clockless)
        clock.start()
        robot = Robot(bringup)
        yield robot, clock
        clock.close()
        robot.close()
        clockless.close()


def until_true(robot: Robot, act: Callable[[], bool]) -> bool:
    """Try a few times: a machine that is busy holds the arm for joints, or a clock, that come late."""
    for _ in range(4):
        if act():
            return True
        robot.say("")
        robot.spin(2.0)
    return False


@pytest.mark.parametrize("by", [-100.0, -0.5, 100.0])
def test_case_12_a_clock_that_is_set_in_a_task_ends_it_at_once_and_the_next_one_goes(
    timed: tuple[Robot, Time], by: float
) -> None:
    robot, clock = timed
    results: list[Any] = []

    def goes() -> bool:
        robot.chunks.clear()
        results.append(robot.begin(INSTRUCTION, timeout=60.0).get_result_async())
        robot.until(lambda: results[-1].done() or (robot.state() == SafetyStatus.POLICY and robot.chunks))
        robot.spin(0.5)
        return not results[-1].done()

    assert until_true(robot, goes), results[-1].result().result.message
    result = results[-1]
    clock.now += by
    assert robot.until(result.done, 5.0), "the goal goes on"
    told = result.result().result
    assert told.code == Result.HELD and "clock" in told.message and told.elapsed < 60.0
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert robot.until(lambda: robot.engine[-1].state == EngineStatus.FAULT and "clock" in robot.engine[-1].message)
    robot.spin(2.0)
    again: list[Any] = []

    def ends_by_its_time() -> bool:
        robot.chunks.clear()
        began = time.monotonic()
        again.append(robot.execute(INSTRUCTION, timeout=6.0))
        by_time = again[-1].code == Result.TIMED_OUT and abs(time.monotonic() - began - 6.0) < 4.0
        return by_time and bool(again[-1].plans and robot.chunks)

    assert until_true(robot, ends_by_its_time), again[-1].message


def test_case_12_a_clock_that_stands_still_keeps_no_goal_and_no_arm_moving(timed: tuple[Robot, Time]) -> None:
    robot, clock = timed
    goal = robot.begin(INSTRUCTION, timeout=8.0)
    assert robot.until(lambda: robot.state() == SafetyStatus.POLICY)
    result = goal.get_result_async()
    clock.pace = 0.0
    try:
        assert robot.until(result.done, 20.0), "the goal waits for a clock that stands still"
        assert result.result().result.code in (Result.TIMED_OUT, Result.HELD)
        assert result.result().result.elapsed < 15.0
        heard = len(robot.engine)
        robot.spin(1.0)
        assert len(robot.engine) - heard > 3, "the heartbeat goes on"
    finally:
        clock.pace = 1.0


def test_a_drawing_and_a_plan_that_waits_do_not_outlive_the_clock_they_were_stamped_by(
    timed: tuple[Robot, Time],
) -> None:
    robot, clock = timed
    assert robot.set("approve", "required").successful
    try:

        def waits() -> bool:
            robot.begin(INSTRUCTION)
            return robot.until(lambda: robot.engine[-1].pending_plan_id > 0, 10.0)

        assert until_true(robot, waits)
        clock.now -= 50.0
        assert robot.until(lambda: robot.engine[-1].pending_plan_id == 0)
        refused = robot.call(Trigger, "/policy/approve")
        assert not refused.success and "no plan waits" in refused.message
        robot.spin(2.0)
        assert until_true(robot, waits), "the gate opens by the new time"
        before = robot.hand()
        robot.spin(1.0)
        assert np.abs(robot.hand() - before).max() < 1e-3
    finally:
        assert robot.set("approve", "").successful
        robot.say("")
