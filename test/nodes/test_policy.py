"""The policy with a real engine, the controller and the simulator: three processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.engine.engine import TorchEngine
from molmoact_ros.msg import ActionChunk, AnswerTokens, DepthTokens, EngineStatus, SafetyStatus, Trace
from molmoact_ros.nodes import qos
from molmoact_ros.nodes.bringup import Bringup, Profile
from molmoact_ros.nodes.conversions import chunk_actions, depth_codes, image_pixels, rgb_pixels, seconds, trace_points
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.srv import EditTrace, ResetScene, SceneTruth

from .conftest import Peer

INSTRUCTION = "put the red cube in the bowl"
PERIOD = 1.5
EVERY_PICTURE = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)


class Robot(Peer):
    """Asks for instructions and hears what becomes of them."""

    def __init__(self, bringup: Bringup) -> None:
        super().__init__()
        self.bringup = bringup
        self.client = ActionClient(self.node, ExecuteInstruction, "/policy/execute")
        self.safety = self.listen(SafetyStatus, "/controller/safety_status", qos.STATE)
        self.engine = self.listen(EngineStatus, "/policy/engine_status", qos.STATE)
        self.chunks = self.listen(ActionChunk, "/policy/action_chunk", qos.RELIABLE)
        self.speak = self.node.create_publisher(String, "/policy/instruction", qos.RELIABLE)
        assert self.until(self.client.server_is_ready)
        assert self.until(lambda: self.engine and self.safety and self.safety[-1].joints_age >= 0)

    def execute(self, instruction: str, timeout: float = 60.0) -> ExecuteInstruction.Result:
        return self.result_of(self.begin(instruction, timeout))

    def begin(self, instruction: str, timeout: float = 60.0) -> Any:
        sent = self.client.send_goal_async(ExecuteInstruction.Goal(instruction=instruction, timeout=timeout))
        assert self.until(sent.done)
        return sent.result()

    def result_of(self, goal: Any) -> ExecuteInstruction.Result:
        result = goal.get_result_async()
        assert self.until(result.done), "the goal never ended"
        return result.result().result

    def say(self, instruction: str) -> None:
        assert self.until(self.speak.get_subscription_count)
        self.speak.publish(String(data=instruction))

    def state(self) -> int:
        return int(self.safety[-1].state)

    def hand(self) -> np.ndarray:
        p = self.call(SceneTruth, "/sim/scene_truth").grippers[0].position
        return np.array([p.x, p.y, p.z])


@pytest.fixture(scope="module")
def graph(domain: int, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    # Small pictures, slow actions and long deadlines: an untrained model says its whole answer token by token.
    parameters: dict[str, dict[str, Any]] = {
        "sim": {"front_size": [160, 120], "wrist_size": [106, 60], "instruction": INSTRUCTION},
        "controller": {"joints_deadline": 1.0, "camera_deadline": 3.0},
        "policy": {"checkpoint": str(checkpoint), "max_age": 2.0, "action_dt": 0.8, "period": PERIOD},
    }
    with Bringup(Profile(nodes=parameters), tmp_path_factory.mktemp("logs")) as bringup:
        robot = Robot(bringup)
        yield robot
        robot.close()


@pytest.fixture
def robot(graph: Robot) -> Robot:
    """The graph with nothing to do and the arm at home."""
    graph.say("")
    assert graph.until(lambda: graph.engine[-1].instruction == "")
    graph.call(Trigger, "/controller/hold")
    assert graph.call(ResetScene, "/sim/reset_scene", seed=7, instruction=INSTRUCTION, distractors=-1).success
    graph.spin(0.5)
    graph.chunks.clear()
    return graph


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
    overlay = robot.listen(Image, "/policy/trace_overlay", qos.RELIABLE)
    before = robot.hand()
    result = robot.execute(INSTRUCTION, timeout=12.0)
    assert result.code == ExecuteInstruction.Result.TIMED_OUT, result.message
    assert result.plans >= 2
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
    assert image_pixels(overlay[-1]).shape == (120, 160, 3)
    assert np.linalg.norm(robot.hand() - before) > 0.002
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert robot.engine[-1].step_seconds > 0 and "vision" in robot.engine[-1].stages


def test_an_answer_can_be_said_again_from_what_was_published(robot: Robot, checkpoint: Path) -> None:
    """Its pictures by the stamps that come with its tokens, into an engine of one's own: the same tokens."""
    tokens = robot.listen(AnswerTokens, "/policy/answer_tokens", qos.RELIABLE)
    cameras = [robot.listen(Image, f"/{name}/color/image_raw", EVERY_PICTURE) for name in ("front", "wrist")]
    robot.say(INSTRUCTION)
    assert robot.until(lambda: len(tokens) >= 2)
    robot.say("")
    said = tokens[1]
    by_stamp = [{seconds(image.header.stamp): image for image in images} for images in cameras]
    pictures = tuple(rgb_pixels(of[seconds(at)]) for of, at in zip(by_stamp, said.frames, strict=True))
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


def test_a_persons_trace_steers_until_it_is_cleared(robot: Robot) -> None:
    traces = robot.listen(Trace, "/policy/trace", qos.RELIABLE)
    mine = Trace(x=[0.5, 0.25], y=[0.5, 0.75])
    early = robot.call(EditTrace, "/policy/edit_trace", trace=mine)
    assert not early.success and "instruction" in early.message
    robot.begin(INSTRUCTION)
    assert robot.until(lambda: robot.engine[-1].instruction == INSTRUCTION)  # the controller has to say yes first
    assert robot.call(EditTrace, "/policy/edit_trace", trace=mine).success
    assert robot.until(lambda: traces and traces[-1].source == Trace.HUMAN)
    assert np.abs(trace_points(traces[-1]) - trace_points(mine)).max() <= 1
    outside = robot.call(EditTrace, "/policy/edit_trace", trace=Trace(x=[2.0], y=[0.0]))
    assert not outside.success and "0..1" in outside.message
    assert robot.call(EditTrace, "/policy/edit_trace", clear=True).success
    traces.clear()
    assert robot.until(lambda: traces and traces[-1].source == Trace.MODEL)


def test_the_mode_is_switched_while_it_runs_and_told_with_every_plan(robot: Robot) -> None:
    def ask_for(mode: str) -> Any:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=mode)
        wanted = [Parameter(name="mode", value=value)]
        return robot.call(SetParameters, "/policy/set_parameters", parameters=wanted).results[0]

    goal = robot.begin(INSTRUCTION)
    for mode in ("grounded", "reuse", "full"):
        assert ask_for(mode).successful
        robot.chunks.clear()
        assert robot.until(lambda: any(chunk.mode == mode for chunk in robot.chunks)), mode  # noqa: B023
        assert robot.until(lambda: robot.engine[-1].mode == mode)  # noqa: B023
        assert 0 < robot.engine[-1].passes < robot.engine[-1].tokens
    refused = ask_for("guess")
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
