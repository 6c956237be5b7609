"""An operator's drawing and the gate before motion, through the running graph: three processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.msg import ActionChunk, DepthTokens, EngineStatus, SafetyStatus, Trace
from molmoact_ros.robots.franka import BASE_FRAME
from molmoact_ros.ros import qos
from molmoact_ros.ros.conversions import header, seconds, trace_points
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.srv import ApprovePlan, EditTrace
from molmoact_ros.utils.paths import robot_model

from .conftest import INSTRUCTION, Robot

OPTICAL = "front_color_optical_frame"
TO_THE_RIGHT = ([0.5, 0.7], [0.5, 0.5])


def drawing(robot: Robot, x: list[float], y: list[float], age: float = 0.0, frame: str = OPTICAL) -> Trace:
    return Trace(header=header(robot.now() - age, frame), x=x, y=y)


def draw(robot: Robot, *args: Any, **named: Any) -> EditTrace.Response:
    return robot.call(EditTrace, "/policy/edit_trace", trace=drawing(robot, *args, **named))


@pytest.fixture
def follower(robot: Robot) -> Robot:
    """A robot that follows the instruction by its own plan."""
    robot.begin(INSTRUCTION)
    assert robot.until(lambda: robot.engine[-1].instruction == INSTRUCTION)
    return robot


@pytest.fixture
def gated(robot: Robot) -> Iterator[Robot]:
    """A robot whose plans wait for approval."""
    assert robot.set("approve", "required").successful
    yield robot
    assert robot.set("approve", "").successful


def test_a_drawing_steers_until_it_is_cleared(robot: Robot) -> None:
    traces = robot.listen(Trace, "/policy/trace", qos.RELIABLE)
    early = draw(robot, *TO_THE_RIGHT)
    assert not early.success and "instruction" in early.message
    robot.begin(INSTRUCTION)
    assert robot.until(lambda: robot.engine[-1].instruction == INSTRUCTION)
    assert robot.engine[-1].trace_source == Trace.MODEL and robot.engine[-1].trace_points_left == 0
    mine = drawing(robot, *TO_THE_RIGHT)
    assert robot.call(EditTrace, "/policy/edit_trace", trace=mine).success
    assert robot.until(lambda: traces and traces[-1].source == Trace.HUMAN)
    assert np.abs(trace_points(traces[-1])[-1] - trace_points(mine)[-1]).max() <= 1
    assert robot.until(lambda: robot.engine[-1].trace_source == Trace.HUMAN)
    status = robot.engine[-1]
    assert status.trace_points_left == 2 and 0 < status.trace_age < 30
    assert robot.until(lambda: any(chunk.mode == "steered" for chunk in robot.chunks))
    assert robot.call(EditTrace, "/policy/edit_trace", clear=True).success
    traces.clear()
    assert robot.until(lambda: traces and traces[-1].source == Trace.MODEL)
    assert robot.engine[-1].trace_source == Trace.MODEL
    assert robot.engine[-1].trace_message.startswith("cleared after ")


def test_every_wrong_drawing_is_refused_in_one_line_and_changes_nothing(follower: Robot) -> None:
    zigzag = [0.4 + 0.2 * (i % 2) for i in range(20)], [i / 20 for i in range(20)]
    refused: list[tuple[EditTrace.Response, str]] = [
        (draw(follower, [0.5], [0.5]), "draw a line"),
        (draw(follower, [], []), "draw a line"),
        (draw(follower, [0.5, 0.6], [0.5]), "has x and y"),
        (draw(follower, [0.5, 2.0], [0.5, 0.5]), "outside the image"),
        (draw(follower, [0.5, 0.5], [0.5, 0.5]), "only a point"),
        (draw(follower, *zigzag), "bends too often"),
        (draw(follower, *TO_THE_RIGHT, age=60.0), "old; draw on the image of now"),
        (draw(follower, *TO_THE_RIGHT, age=-60.0), "from the future"),
        (draw(follower, *TO_THE_RIGHT, frame="wrist_color_optical_frame"), "draw on the image of front"),
        (follower.call(EditTrace, "/policy/edit_trace", trace=Trace(x=[0.5, 0.7], y=[0.5, 0.5])), "on which image"),
    ]
    for answer, reason in refused:
        assert not answer.success and reason in answer.message and "\n" not in answer.message
    assert follower.until(lambda: follower.chunks)
    assert follower.engine[-1].trace_source == Trace.MODEL
    assert all(chunk.mode == "full" for chunk in follower.chunks)


def test_who_draws_on_a_topic_hears_of_a_refusal_in_the_status(follower: Robot) -> None:
    topic = follower.node.create_publisher(Trace, "/policy/edit_trace", qos.RELIABLE)
    assert follower.until(topic.get_subscription_count)
    topic.publish(drawing(follower, [0.5], [0.5]))
    assert follower.until(lambda: "refused" in follower.engine[-1].trace_message)
    assert "draw a line" in follower.engine[-1].trace_message
    topic.publish(drawing(follower, *TO_THE_RIGHT))
    assert follower.until(lambda: follower.engine[-1].trace_source == Trace.HUMAN)
    assert follower.engine[-1].trace_message == ""


def test_of_two_people_the_one_with_the_newer_picture_counts_and_the_other_is_told(follower: Robot) -> None:
    assert draw(follower, *TO_THE_RIGHT, age=1.0).success
    late = draw(follower, [0.5, 0.2], [0.5, 0.5], age=5.0)
    assert not late.success and "newer image" in late.message
    assert draw(follower, [0.5, 0.8, 0.8], [0.5, 0.5, 0.9], age=0.0).success
    assert follower.until(lambda: follower.engine[-1].trace_message.startswith("replaced by a newer drawing"))
    assert follower.engine[-1].trace_source == Trace.HUMAN and follower.engine[-1].trace_points_left == 3


def test_a_goal_may_bring_a_drawing(robot: Robot) -> None:
    goal = robot.begin(INSTRUCTION, trace=drawing(robot, *TO_THE_RIGHT))
    assert robot.until(lambda: robot.chunks) and robot.chunks[0].mode == "steered"
    robot.say("")
    assert robot.result_of(goal).code == ExecuteInstruction.Result.CANCELED
    assert robot.until(lambda: robot.engine[-1].trace_message.startswith("the task ended after "))
    refused = robot.result_of(robot.begin(INSTRUCTION, trace=drawing(robot, *TO_THE_RIGHT, age=60.0)))
    assert refused.code == ExecuteInstruction.Result.REFUSED and "old" in refused.message
    assert robot.state() != SafetyStatus.POLICY


def test_points_are_dropped_as_the_gripper_goes_along_and_at_the_end_it_is_done(follower: Robot) -> None:
    cell = Workcell(robot_model())
    cell.begin(7, None, INSTRUCTION)
    hand = follower.hand()
    corners = np.array([hand, hand + [0, 0.05, 0], hand + [0, 0.05, 0.08]])
    x, y = (cell.project(corners) / (cell.cameras["front"].width - 1, cell.cameras["front"].height - 1)).T.tolist()
    assert draw(follower, x, y).success
    assert follower.until(lambda: follower.engine[-1].trace_points_left == 3)
    twist = follower.node.create_publisher(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
    message, lefts = TwistStamped(), []
    message.header.frame_id = BASE_FRAME
    assert follower.until(twist.get_subscription_count)
    follower.spin(3.0)  # a stream that is there when its sender is discovered has to pause once
    repeat = follower.node.create_timer(0.05, lambda: twist.publish(message))  # silence is letting go

    def guide() -> bool:
        """An operator's hand, along what was drawn, whatever the model wants."""
        lefts.append(follower.engine[-1].trace_points_left)
        away = corners[1 if lefts[-1] == 3 else 2] - follower.hand()
        message.twist.linear.y, message.twist.linear.z = np.clip(4 * away[1:], -0.1, 0.1).tolist()
        return bool(follower.engine[-1].trace_source == Trace.MODEL)

    assert follower.until(guide)
    follower.node.destroy_timer(repeat)
    assert lefts[0] == 3 and 2 in lefts and follower.engine[-1].trace_message.startswith("done after ")
    (rest,) = (chunk for chunk in follower.chunks if chunk.plan_id == 0)
    assert not any(value for i, value in enumerate(rest.actions) if i % 7 < 6), "the arm rests at the stroke's end"
    assert follower.until(lambda: follower.chunks[-1].mode == "full"), "and goes on by its own plan"
    assert seconds(follower.chunks[-1].header.stamp) > seconds(rest.header.stamp)


def pending(robot: Robot) -> EngineStatus:
    """The status, once a plan waits."""
    assert robot.until(lambda: robot.engine[-1].state == EngineStatus.PENDING)
    return robot.engine[-1]


def test_nothing_moves_before_it_is_approved(gated: Robot) -> None:
    codes = gated.listen(DepthTokens, "/policy/depth_tokens", qos.RELIABLE)
    traces = gated.listen(Trace, "/policy/trace", qos.RELIABLE)
    shown = gated.listen(ActionChunk, "/policy/pending_chunk", qos.RELIABLE)
    nothing = gated.call(Trigger, "/policy/approve")
    assert not nothing.success and "no plan waits" in nothing.message
    goal = gated.begin(INSTRUCTION)
    status, before = pending(gated), gated.hand()
    assert status.pending_plan_id > 0 and status.pending_seconds < 0
    gated.spin(5.0)  # longer than the silence after which the controller would hold
    assert gated.state() == SafetyStatus.POLICY and not gated.chunks
    assert np.linalg.norm(gated.hand() - before) < 1e-3
    plan = status.pending_plan_id
    assert plan == shown[-1].plan_id == codes[-1].plan_id == traces[-1].plan_id
    assert gated.call(Trigger, "/policy/approve").success
    assert gated.until(lambda: gated.chunks)
    chunk = gated.chunks[0]
    assert chunk.plan_id == plan and chunk.actions == shown[-1].actions
    assert seconds(chunk.header.stamp) > seconds(shown[-1].header.stamp) + 5.0
    assert gated.until(lambda: np.linalg.norm(gated.hand() - before) > 0.002)
    assert gated.engine[-1].pending_plan_id == 0
    assert gated.until(lambda: gated.engine[-1].pending_plan_id > plan and shown[-1].plan_id > plan)
    end = seconds(chunk.header.stamp) + chunk.steps * chunk.dt
    assert seconds(shown[-1].header.stamp) > end, "the next plan is made of an arm that stands"
    assert gated.call(Trigger, "/policy/veto").success
    result = gated.result_of(goal)
    assert result.code == ExecuteInstruction.Result.HELD and "vetoed" in result.message
    assert gated.until(lambda: gated.state() == SafetyStatus.HOLD)
    assert gated.until(lambda: gated.engine[-1].pending_plan_id == 0) and len(gated.chunks) == 1


def test_in_time_a_plan_is_released_and_a_redrawn_one_waits_anew(gated: Robot) -> None:
    assert gated.set("approve", "timed").successful and gated.set("approve_seconds", 4.0).successful
    assert "no time" in gated.set("approve_seconds", 0.0).reason
    assert "choose" in gated.set("approve", "perhaps").reason
    gated.begin(INSTRUCTION)
    first = pending(gated)
    assert 0 < first.pending_seconds <= 4.0
    assert draw(gated, *TO_THE_RIGHT).success
    assert gated.until(lambda: gated.engine[-1].pending_plan_id > first.pending_plan_id)
    assert not gated.chunks
    assert gated.until(lambda: gated.chunks) and gated.chunks[0].plan_id > first.pending_plan_id
    assert gated.chunks[0].mode == "steered"


def test_a_person_who_moves_the_arm_takes_away_what_the_plan_was_made_of(gated: Robot) -> None:
    gated.begin(INSTRUCTION)
    first = pending(gated)
    twist = gated.node.create_publisher(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
    assert gated.until(twist.get_subscription_count)
    gated.spin(3.0)  # a stream that is there when its sender is discovered has to pause once
    message = TwistStamped()
    message.header.frame_id = BASE_FRAME
    message.twist.linear.y = 0.05

    def dropped() -> bool:
        twist.publish(message)
        return bool(gated.engine[-1].pending_plan_id != first.pending_plan_id)

    assert gated.until(dropped)
    assert not gated.chunks


def test_a_gate_that_is_closed_in_mid_motion_shows_a_plan_of_the_arm_at_rest(robot: Robot) -> None:
    shown = robot.listen(ActionChunk, "/policy/pending_chunk", qos.RELIABLE)
    robot.begin(INSTRUCTION)
    assert robot.until(lambda: robot.chunks)
    assert robot.set("approve", "required").successful
    try:
        pending(robot)
        assert robot.until(lambda: shown)
        last = robot.chunks[-1]
        assert seconds(shown[-1].header.stamp) > seconds(last.header.stamp) + last.steps * last.dt
        assert shown[-1].plan_id not in [chunk.plan_id for chunk in robot.chunks]
    finally:
        assert robot.set("approve", "").successful


def approve(robot: Robot, plan_id: int) -> ApprovePlan.Response:
    return robot.call(ApprovePlan, "/policy/approve_plan", plan_id=plan_id)


def test_m4_only_the_plan_that_was_looked_at_is_released_and_as_it_was_shown(gated: Robot) -> None:
    shown = gated.listen(ActionChunk, "/policy/pending_chunk", qos.RELIABLE)
    nothing = approve(gated, 1)
    assert not nothing.success and "no plan waits" in nothing.message
    gated.begin(INSTRUCTION)
    plan = pending(gated).pending_plan_id
    assert gated.until(lambda: shown and shown[-1].plan_id == plan)
    for other in (0, plan - 1, plan + 1, 2**64 - 1):
        refused = approve(gated, other)
        assert not refused.success and f"plan {plan} does" in refused.message and "\n" not in refused.message
    assert not gated.chunks
    assert draw(gated, *TO_THE_RIGHT).success, "the plan is replaced"
    late = approve(gated, plan)
    assert not late.success and not gated.chunks
    assert gated.until(lambda: gated.engine[-1].pending_plan_id > plan)
    plan = gated.engine[-1].pending_plan_id
    assert gated.until(lambda: shown[-1].plan_id == plan)
    first, second = approve(gated, plan), approve(gated, plan)
    assert first.success and not second.success, "once"
    assert gated.until(lambda: gated.chunks)
    gated.spin(0.5)
    (chunk,) = gated.chunks
    seen = shown[-1]
    assert seconds(chunk.header.stamp) > seconds(seen.header.stamp)
    chunk.header.stamp = seen.header.stamp
    assert chunk == seen, "nothing but its stamp has changed"
    assert chunk.header.frame_id == BASE_FRAME and chunk.unnorm_key


def test_m4_approvals_that_race_with_drawings_release_what_they_name_or_nothing(gated: Robot) -> None:
    """Each round approves the plan of the status it saw while a drawing is on its way to replace that plan."""
    shown = gated.listen(ActionChunk, "/policy/pending_chunk", qos.RELIABLE)
    approving = gated.node.create_client(ApprovePlan, "/policy/approve_plan")
    drawn = gated.node.create_publisher(Trace, "/policy/edit_trace", qos.RELIABLE)
    assert gated.until(lambda: approving.service_is_ready() and drawn.get_subscription_count())
    gated.begin(INSTRUCTION)
    named: dict[int, bool] = {}
    for number in range(8):
        plan = pending(gated).pending_plan_id
        line = drawing(gated, [0.5, 0.7 + 0.02 * number], [0.5, 0.5])
        if number % 2:
            drawn.publish(line)
        answer = approving.call_async(ApprovePlan.Request(plan_id=plan))
        if not number % 2:
            drawn.publish(line)
        assert gated.until(answer.done)
        named[plan] = named.get(plan, False) or answer.result().success
        gated.spin(0.2)
    released = [chunk for chunk in gated.chunks if chunk.plan_id]
    assert {chunk.plan_id for chunk in released} == {plan for plan, yes in named.items() if yes}
    assert len({chunk.plan_id for chunk in released}) == len(released), "none twice"
    by_id = {chunk.plan_id: chunk for chunk in shown}
    assert all(chunk.actions == by_id[chunk.plan_id].actions for chunk in released)


def test_m6_what_is_too_large_is_refused_in_one_line_and_nothing_stops(follower: Robot) -> None:
    many = np.linspace(0.2, 0.8, 300_000).tolist()
    refused = draw(follower, many, many)
    assert not refused.success and "300000 points; send at most 1000" in refused.message
    topic = follower.node.create_publisher(Trace, "/policy/edit_trace", qos.RELIABLE)
    assert follower.until(topic.get_subscription_count)
    topic.publish(drawing(follower, many, many))
    assert follower.until(lambda: "300000 points" in follower.engine[-1].trace_message)
    nowhere = draw(follower, *TO_THE_RIGHT, frame="f" * 1_000_000)
    assert not nowhere.success and len(nowhere.message) < 200
    follower.say("move " * 200_000)
    assert follower.until(lambda: "1000000 characters" in follower.engine[-1].message)
    goal = follower.execute("move " * 200_000)
    assert goal.code == ExecuteInstruction.Result.REFUSED and len(goal.message) < 200
    lined = follower.result_of(follower.begin(INSTRUCTION, trace=drawing(follower, many, many)))
    assert lined.code == ExecuteInstruction.Result.REFUSED and "300000 points" in lined.message
    assert follower.execute(INSTRUCTION, timeout=5.0).code == ExecuteInstruction.Result.TIMED_OUT


def test_a_second_publisher_and_joints_without_end_are_noticed(robot: Robot) -> None:
    stranger = robot.node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
    camera = robot.node.create_publisher(Image, "/front/color/image_raw", qos.SENSOR)
    try:
        assert robot.until(lambda: "/joint_states has 2 publishers (/peer, /sim)" in robot.engine[-1].message)
        assert "/front/color/image_raw has 2 publishers" in robot.engine[-1].message
        names = [f"joint_{number}" for number in range(20_000)]
        assert robot.until(stranger.get_subscription_count)
        stranger.publish(JointState(name=names, position=[0.0] * len(names)))
        assert robot.until(lambda: "bytes on /joint_states are refused" in robot.engine[-1].message)
        huge = Image(height=2**31, width=2**31, step=2**31, encoding="rgb8")
        robot.say(INSTRUCTION)
        for _ in range(5):
            camera.publish(huge)
            robot.spin(0.1)
        assert robot.until(lambda: robot.chunks), "the camera's own images are planned on"
    finally:
        robot.node.destroy_publisher(stranger)
        robot.node.destroy_publisher(camera)
        robot.say("")
    assert robot.until(lambda: "publishers" not in robot.engine[-1].message)
