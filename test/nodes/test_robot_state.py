"""MolmoAct 2 in the graph: the robot's state goes in, absolute joints come out, and an answer can be given again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.control.action_chunk import ActionSpace
from molmoact_ros.control.action_conversion import convert_actions, robot_state, state_joints
from molmoact_ros.engine.base import EngineTimings, ReasoningMode
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.msg import ActionChunk, AnswerTokens, Trace
from molmoact_ros.nodes.planning.config import PolicyConfig, load_engine
from molmoact_ros.nodes.planning.inference_thread import ReasonedPlan
from molmoact_ros.nodes.planning.observation_buffer import FrameBuffer
from molmoact_ros.nodes.planning.plan_publisher import PlanPublisher
from molmoact_ros.nodes.planning.robot_state import StateReader
from molmoact_ros.reasoning.action_convention import RELEASED
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import BASE_FRAME, HOME_Q, Arm
from molmoact_ros.ros import qos
from molmoact_ros.ros.conversions import camera_info, chunk_actions, chunk_message, header, rgb_pixels, seconds
from molmoact_ros.ros.transforms import transform_message
from molmoact_ros.sim.camera_renderer import D435_FRONT
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.utils.paths import robot_model

from .conftest import INSTRUCTION, Peer, Robot
from .test_policy import EVERY_PICTURE

DROID, TWO = RELEASED["franka_droid"], [Arm("left_"), Arm("right_")]


def test_a_state_waits_for_every_joint_near_the_image() -> None:
    frames, reader = FrameBuffer(["front"], 0.05, 0.5), StateReader(DROID, [Arm()], 0.1)
    arm, hand = state_joints([Arm()])[:7], state_joints([Arm()])[7:]
    assert "fr3_joint1 was not received within 0.1 s" in reader.missing(frames.joints_near(5.0, 0.1))
    frames.add_joints(JointState(header=header(5.0, ""), name=arm, position=list(HOME_Q)))
    frames.add_joints(JointState(header=header(4.8, ""), name=hand, position=[0.01, 0.01]))
    assert "fr3_finger_joint1" in reader.missing(frames.joints_near(5.0, 0.1))
    frames.add_joints(JointState(header=header(4.95, ""), name=hand, position=[0.01, 0.01]))
    near = frames.joints_near(5.0, 0.1)
    assert reader.missing(near) == ""
    state = reader.read(near)
    assert abs(state.stamp - 4.95) < 1e-9
    np.testing.assert_allclose(state.values, [*HOME_Q, 0.75])  # 20 of 80 mm open; DROID's 1 is closed


@pytest.mark.parametrize("order", ["arms", "kinds"])
def test_two_arms_values_stand_in_the_checkpoints_order(order: str) -> None:
    convention = DROID.model_copy(update={"order": order})
    joints = {name: float(k) for k, name in enumerate(state_joints(TWO))}
    joints |= {f"{arm}_fr3_finger_joint{k}": at for arm, at in (("left", 0.04), ("right", 0.0)) for k in (1, 2)}
    left, right = [float(k) for k in range(7)], [float(k) for k in range(9, 16)]
    wanted = [*left, 0, *right, 1] if order == "arms" else [*left, *right, 0, 1]
    state = robot_state(joints, convention, TWO)
    assert state.tolist() == wanted
    published = convert_actions(state[None], convention, 2)  # a state as an action: what our message has
    assert published[0].tolist() == [*left, *right, 1, 0]
    far = convert_actions(state[None] + np.where(np.arange(16) % 8 == 7, 0.7, 0), DROID, 2) if order == "arms" else None
    assert far is None or far[0, -2:].tolist() == [pytest.approx(0.3), 0.0], "beyond closed is closed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cameras": ["front"]}, "needs 2 cameras"),
        ({"cameras": ["wrist", "front"]}, "in the order front, wrist"),
        ({"arms": ["left_", "right_"]}, "this policy moves two arms"),
        ({"robot": "panda"}, "actions of the robot franka, not of a panda"),
        ({"unnorm_key": "libero"}, "choose one of: franka_droid"),
    ],
)
def test_a_folder_that_does_not_fit_the_robot_is_refused_in_one_line(
    droid_folder: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        load_engine(PolicyConfig(checkpoint=str(droid_folder), **change))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def droid(domain: int, droid_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    parameters = {
        "sim": {"front_size": [160, 120], "wrist_size": [106, 60], "instruction": INSTRUCTION},
        "controller": {"joints_deadline": 1.0, "camera_deadline": 3.0, "silence_deadline": 4.0},
        "policy": {"checkpoint": str(droid_folder), "max_age": 2.0, "period": 0.8},
        "view": {},
    }
    with Bringup(Profile(nodes=parameters), tmp_path_factory.mktemp("logs")) as bringup:
        robot = Robot(bringup)
        yield robot
        robot.close()


def test_chunks_of_joints_are_played_and_can_be_sampled_again(droid: Robot, droid_folder: Path) -> None:
    tokens = droid.listen(AnswerTokens, "/policy/answer_tokens", qos.RELIABLE)
    traces = droid.listen(Trace, "/policy/trace", qos.RELIABLE)
    cameras = [droid.listen(Image, f"/{name}/color/image_raw", EVERY_PICTURE) for name in ("front", "wrist")]
    before = droid.hand()
    result = droid.execute(INSTRUCTION, timeout=8.0)
    assert result.code == ExecuteInstruction.Result.TIMED_OUT and result.plans >= 2, result.message
    assert np.linalg.norm(droid.hand() - before) > 0.002
    by_stamp = [{seconds(image.header.stamp): image for image in images} for images in cameras]
    chunks = {chunk.plan_id: chunk for chunk in droid.chunks}
    whole = [
        said for said in tokens
        if said.plan_id in chunks and all(seconds(at) in of for of, at in zip(by_stamp, said.frames, strict=True))
    ]  # fmt: skip
    assert whole, "at least one answer of whose images none was lost"
    said, chunk = whole[0], chunks[whole[0].plan_id]
    assert said.seeded and said.unnorm_key == "franka_droid" and len(said.state) == 8 and said.flow_steps == 10
    assert chunk.action_space == ActionChunk.JOINT_POSITION and abs(chunk.dt - 1 / 15) < 1e-9 and chunk.stated
    images = tuple(rgb_pixels(of[seconds(at)]) for of, at in zip(by_stamp, said.frames, strict=True))
    engine = MolmoAct2Engine.load(droid_folder, threads=1)
    state = RobotState(np.array(said.state), 0.0)
    *_, again = engine.reason(Observation(images, said.instruction, 0.0, state=state, seed=said.seed))
    assert again.actions is not None
    np.testing.assert_allclose(convert_actions(again.actions, engine.convention), chunk_actions(chunk), atol=1e-6)
    ways = {trace.plan_id: trace for trace in traces}
    assert {trace.source for trace in traces} == {Trace.ACTIONS} and said.plan_id in ways
    _check_way(ways[said.plan_id], chunk)


def _check_way(trace: Trace, chunk: ActionChunk) -> None:
    """The trace begins and ends where the simulator's own camera sees the hand of these joints."""
    cell = Workcell(robot_model(), D435_FRONT.scaled(160, 120))
    cell.begin(7, None, INSTRUCTION)
    links, rows = Links(robot_model()), chunk_actions(chunk)
    for at, joints in ((0, chunk.joint_positions), (-1, rows[-1, :7])):
        names = chunk.joint_names if at == 0 else Arm().joints
        links.update(dict(zip(names, joints, strict=True)))
        pixel = cell.project(links.pose(Arm().tcp_frame)[None, :3, 3])[0]
        np.testing.assert_allclose([trace.x[at] * 159, trace.y[at] * 119], pixel, atol=0.5)


def test_before_an_approval_one_sees_where_the_hand_will_go(droid: Robot) -> None:
    traces = droid.listen(Trace, "/policy/trace", qos.RELIABLE)
    pending = droid.listen(ActionChunk, "/policy/pending_chunk", qos.RELIABLE)
    view = droid.listen(MarkerArray, "/view/markers", qos.RELIABLE)
    droid.spin(0.5)  # the arm comes to rest after the test before
    assert droid.set("approve", "required").successful
    try:
        goal = droid.begin(INSTRUCTION, 20.0)
        assert goal.accepted
        assert droid.until(lambda: pending and any(trace.plan_id == pending[-1].plan_id for trace in traces))
        _check_way(next(trace for trace in traces if trace.plan_id == pending[-1].plan_id), pending[-1])
        assert droid.engine[-1].message == ""
        balls = {"ns": "chunk", "type": Marker.SPHERE_LIST}
        assert droid.until(lambda: view and any(_is(marker, balls) for marker in view[-1].markers)), "joints are shown"
        assert droid.call(Trigger, "/policy/veto").success
        droid.result_of(goal)
    finally:
        droid.set("approve", "")


def _is(marker: Marker, fields: dict[str, object]) -> bool:
    return all(getattr(marker, name) == value for name, value in fields.items())


CHUNK = chunk_message(
    np.column_stack([HOME_Q + np.outer(np.arange(1, 16), [0.02, 0, 0, 0, 0, 0, 0]), np.ones(15)]), 1 / 15, "", 3,
    header(5.0, BASE_FRAME), "full", ActionSpace.JOINT,
)  # fmt: skip
CHUNK.joint_names, CHUNK.joint_positions = list(Arm().joints), list(HOME_Q)


def test_where_the_hand_will_go_is_published_or_why_not(peer: Peer) -> None:
    """With a camera of the test's own, beside the simulator's."""
    engine: Any = SimpleNamespace(
        modes={ReasoningMode.FULL}, depth_vq=None, codebook="", digest="", unnorm_key="", seed=1, flow_steps=10
    )
    seen = Observation((np.zeros((120, 160, 3), np.uint8),), INSTRUCTION, 5.0)
    plan = ReasonedPlan(3, seen, Reasoning(None, None, chunk_actions(CHUNK), True), 0.1, EngineTimings())
    publisher, traces = PlanPublisher(peer.node, engine, "side", [""]), peer.listen(Trace, "/peer/trace", qos.RELIABLE)

    def published() -> Trace:
        count = len(traces)
        publisher.complete(plan, CHUNK)
        assert peer.until(lambda: len(traces) > count)
        return traces[-1]

    first = published()
    assert first.source == Trace.ACTIONS and first.plan_id == 3 and not len(first.x)
    assert publisher.note == "the hand's path is not drawn: there is no calibration on side/color/camera_info"
    cell, frame = Workcell(robot_model(), D435_FRONT.scaled(160, 120)), "side_color_optical_frame"
    infos = peer.node.create_publisher(CameraInfo, "/side/color/camera_info", qos.SENSOR)
    places = peer.node.create_publisher(TFMessage, "/tf_static", qos.TF_STATIC)
    parent, pose = cell.camera_mount("front")
    places.publish(TFMessage(transforms=[transform_message(header(0.0, parent), frame, pose)]))

    def known() -> bool:
        infos.publish(camera_info(cell.cameras["front"], header(5.0, frame)))
        return len(published().x) > 1

    assert peer.until(known) and publisher.note == ""
    _check_way(traces[-1], CHUNK)
