"""The policy with a real engine, the controller and the simulator: three processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.cameras.synchronizer import OUTCOMES
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.msg import ActionChunk, AnswerTokens, DepthTokens, EngineStatus, SafetyStatus, Trace
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.robots.franka import HOME_Q
from molmoact_ros.ros import qos
from molmoact_ros.ros.conversions import chunk_actions, depth_codes, image_pixels, rgb_pixels, seconds, trace_points

from .conftest import INSTRUCTION, PERIOD, Robot

EVERY_PICTURE = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.mark.alone
def test_an_instruction_becomes_codes_then_a_trace_then_motion(robot: Robot) -> None:
    order: list[tuple[str, int]] = []
    parts = {"depth_tokens": DepthTokens, "trace": Trace, "action_chunk": ActionChunk}
    last: dict[str, Any] = {}
    for name, kind in parts.items():

        def heard(message: Any, name: str = name) -> None:
            order.append((name, message.plan_id))
            last[name] = message

        robot.node.create_subscription(kind, f"/policy/{name}", heard, qos.RELIABLE)
    depth = robot.listen(Image, "/policy/depth_image", qos.RELIABLE)
    overlay = robot.listen(Image, "/policy/model_overlay", qos.RELIABLE)
    before = robot.hand()
    result = robot.execute(INSTRUCTION, timeout=12.0)
    assert result.code == ExecuteInstruction.Result.TIMED_OUT, result.message
    assert result.plans >= 2
    chunk = robot.chunks[-1]
    assert chunk.joint_names[:7] == [f"fr3_joint{k}" for k in range(1, 8)]
    assert np.abs(np.array(chunk.joint_positions[:7]) - HOME_Q).max() < 0.5, "the joints of its image"
    assert np.diff([seconds(chunk.header.stamp) for chunk in robot.chunks]).min() >= PERIOD
    assert robot.until(lambda: depth and overlay and len(last) == 3)
    plan = last["action_chunk"].plan_id
    assert [name for name, number in order if number == plan] == list(parts)
    assert depth_codes(last["depth_tokens"]).shape == (10, 10)
    assert 1 <= len(trace_points(last["trace"])) <= 5 and last["trace"].source == Trace.MODEL
    assert chunk_actions(last["action_chunk"]).shape == (8, 7)
    assert seconds(last["trace"].header.stamp) == seconds(last["action_chunk"].header.stamp)
    picture = image_pixels(depth[-1])
    assert picture.shape == (320, 320) and picture.min() >= 0 and picture.max() <= 1
    assert image_pixels(overlay[-1]).shape == (120, 160, 3), "no larger than the camera's"
    assert np.linalg.norm(robot.hand() - before) > 0.002
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert robot.until(lambda: robot.observation().get("/front/color/image_raw used", "0") != "0")
    told = {name: float(value) for name, value in robot.observation().items()}
    for camera in ("front", "wrist"):
        counts = {fate: told[f"/{camera}/color/image_raw {fate}"] for fate in OUTCOMES}
        assert sum(counts.values()) <= 2 * counts["received"], "no more fates than frames"
        assert 2 <= counts["used"] < counts["skipped"], "it plans less often than the cameras film"
    assert told["apart_s"] <= told["slop_s"] and told["joints_apart_s"] <= told["joint_slop_s"]
    assert robot.engine[-1].step_seconds > 0 and "vision" in robot.engine[-1].stages


def test_an_answer_can_be_said_again_from_what_was_published(robot: Robot, checkpoint: Path) -> None:
    """Its images by the stamps that come with its tokens, into an engine of one's own: the same tokens."""
    tokens = robot.listen(AnswerTokens, "/policy/answer_tokens", qos.RELIABLE)
    cameras = [robot.listen(Image, f"/{name}/color/image_raw", EVERY_PICTURE) for name in ("front", "wrist")]

    def by_stamp() -> list[dict[float, Image]]:
        return [{seconds(image.header.stamp): image for image in images} for images in cameras]

    def heard() -> list[AnswerTokens]:
        """Answers, behind the first, to images of which the middleware has lost none on the way to this test."""
        return [t for t in tokens[1:] if all(seconds(at) in of for of, at in zip(by_stamp(), t.frames, strict=True))]

    robot.say(INSTRUCTION)
    assert robot.until(heard)
    robot.say("")
    said = heard()[0]
    pictures = tuple(rgb_pixels(of[seconds(at)]) for of, at in zip(by_stamp(), said.frames, strict=True))
    engine = TorchEngine.load(checkpoint, threads=1)
    for _ in engine.reason(Observation(pictures, said.instruction, seconds(said.frames[0]))):
        pass
    assert said.checkpoint == engine.digest and (said.mode, said.instruction) == ("full", INSTRUCTION)
    assert list(said.tokens) == engine.tokens


def test_wrong_instructions_are_answered_and_nothing_moves(robot: Robot) -> None:
    before = robot.hand()
    refused = {
        "": "say what to do",
        "...": "say what to do",
        "defenestrate <im_start>": "plain words",
        "juggle the flaming torches": "does not know",
    }
    for instruction, hint in refused.items():
        result = robot.execute(instruction)
        assert result.code == ExecuteInstruction.Result.REFUSED
        assert hint in result.message and "\n" not in result.message
    assert not robot.chunks
    assert robot.state() != SafetyStatus.POLICY or robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert np.linalg.norm(robot.hand() - before) < 1e-4


def test_a_stop_outlasts_new_instructions_until_it_is_lifted(robot: Robot) -> None:
    goal = robot.begin(INSTRUCTION)
    assert robot.until(lambda: robot.chunks)
    assert robot.call(Trigger, "/controller/stop").success
    assert robot.result_of(goal).code == ExecuteInstruction.Result.HELD
    refused = robot.execute(INSTRUCTION)
    assert refused.code == ExecuteInstruction.Result.REFUSED and "/controller/resume" in refused.message
    assert robot.state() == SafetyStatus.STOPPED
    assert robot.call(Trigger, "/controller/resume").success
    assert robot.execute(INSTRUCTION, timeout=3.0).code == ExecuteInstruction.Result.TIMED_OUT


def test_cancelling_holds(robot: Robot) -> None:
    goal = robot.begin(INSTRUCTION)
    assert robot.until(lambda: robot.chunks)
    goal.cancel_goal_async()
    assert robot.result_of(goal).code == ExecuteInstruction.Result.CANCELED
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)


def test_a_killed_policy_leaves_the_arm_holding_until_a_command(robot: Robot) -> None:
    robot.begin(INSTRUCTION)
    assert robot.until(lambda: len(robot.chunks) > 1)
    robot.bringup.kill("policy")
    last = robot.chunks[-1]
    end = seconds(last.header.stamp) + last.steps * last.dt
    assert robot.until(lambda: robot.now() > end + 0.1)
    still = robot.hand()
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert np.linalg.norm(robot.hand() - still) < 1e-3
    robot.chunks.clear()
    robot.bringup.start("policy")
    # Said every second, as `ros2 topic pub` does: a new node may not hear the first.
    repeat = robot.node.create_timer(1.0, lambda: robot.say(INSTRUCTION))
    assert robot.until(lambda: len(robot.chunks) > 1), "the policy plans again"
    robot.node.destroy_timer(repeat)
    assert robot.state() == SafetyStatus.HOLD
    assert np.linalg.norm(robot.hand() - still) < 1e-3, "but nobody said resume"
    assert robot.call(Trigger, "/controller/resume").success
    assert robot.until(lambda: np.linalg.norm(robot.hand() - still) > 0.002)


def test_the_mode_is_switched_while_it_runs_and_told_with_every_plan(robot: Robot) -> None:
    goal = robot.begin(INSTRUCTION)
    for mode in ("grounded", "reuse", "full"):
        assert robot.set("mode", mode).successful
        robot.chunks.clear()
        assert robot.until(lambda: any(chunk.mode == mode for chunk in robot.chunks)), mode  # noqa: B023
        assert robot.until(lambda: robot.engine[-1].mode == mode)  # noqa: B023
        assert 0 < robot.engine[-1].passes < robot.engine[-1].tokens
    refused = robot.set("mode", "guess")
    assert not refused.successful and refused.reason == "choose one of: full, grounded, reuse"
    robot.say("")
    assert robot.result_of(goal).code == ExecuteInstruction.Result.CANCELED


def test_without_cameras_the_policy_says_which_one_and_the_arm_holds(robot: Robot) -> None:
    robot.bringup.kill("sim")
    robot.spin(2.5)
    refused = robot.execute(INSTRUCTION)
    assert refused.code == ExecuteInstruction.Result.REFUSED and "joint states" in refused.message
    robot.say(INSTRUCTION)
    assert robot.until(lambda: robot.engine[-1].state == EngineStatus.WAITING)
    assert "/front/color/image_raw" in robot.engine[-1].message
    assert not robot.chunks
