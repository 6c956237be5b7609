"""H7: whatever a message holds, the nodes that only show go on showing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import Twist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from molmoact_ros.msg import ActionChunk, EngineStatus, Episode, SafetyStatus, Trace
from molmoact_ros.nodes.foxglove import FoxgloveNode
from molmoact_ros.nodes.joystick import JoystickNode
from molmoact_ros.nodes.keyboard import KeyboardNode
from molmoact_ros.nodes.leader import LeaderNode
from molmoact_ros.nodes.panel import PanelNode, engine_state, safety_state
from molmoact_ros.nodes.planning.gripper_projection import GripperProjection
from molmoact_ros.nodes.spacemouse import SpaceMouseNode
from molmoact_ros.nodes.view import ViewNode
from molmoact_ros.nodes.visualization import panel_images
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.ros import conversions
from molmoact_ros.ros.contained import ContainedNode, contained, settle
from molmoact_ros.ros.transforms import transform_message

from .wild import corrupt, wild

RANDOMS = st.randoms(use_true_random=False)
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPTICAL = "front_color_optical_frame"


def sound(kind: Any) -> Any:
    """A message as our nodes publish it."""
    head = conversions.header(12.0, OPTICAL)
    rng = np.random.default_rng(0)
    made: dict[Any, Callable[[], Any]] = {
        SafetyStatus: lambda: SafetyStatus(
            header=head, state=SafetyStatus.POLICY, limits=["velocity"], limit_counts=[3]
        ),
        EngineStatus: lambda: EngineStatus(
            header=head, state=EngineStatus.PENDING, pending_plan_id=3, stages=["depth"], stage_seconds=[0.1]
        ),
        Trace: lambda: conversions.trace_message(np.array([[10, 20], [200, 100]]), Trace.MODEL, 3, head),
        ActionChunk: lambda: conversions.chunk_message(np.full((8, 7), 0.01), 0.1, "", 3, head),
        Image: lambda: conversions.image_message(rng.integers(0, 256, (12, 16, 3), np.uint8), "rgb8", head),
        CameraInfo: lambda: CameraInfo(header=head, width=16, height=12,
                                       k=[20.0, 0.0, 8.0, 0.0, 20.0, 6.0, 0.0, 0.0, 1.0]),
        JointState: lambda: JointState(header=head, name=list(SINGLE.joints), position=[0.1] * 7),
        Joy: lambda: Joy(axes=[0.5] * 8, buttons=[1] * 11),
    }  # fmt: skip
    return made[kind]()


def anything(kind: Any, rng: random.Random) -> Any:
    """Wild, or nearly sound, as it comes over the wire."""
    message = wild(kind, rng) if kind not in SOUND or rng.random() < 0.4 else corrupt(sound(kind), rng)
    return deserialize_message(serialize_message(message), kind)


SOUND = (SafetyStatus, EngineStatus, Trace, ActionChunk, Image, CameraInfo, JointState, Joy)


@pytest.fixture(scope="module")
def ros(domain: int) -> Iterator[None]:
    rclpy.init(args=["--ros-args", "-p", "port:=0"])
    yield
    rclpy.try_shutdown()


def held(make: Callable[[], Any]) -> Iterator[Any]:
    node = make()
    yield node
    node.destroy_node()


@pytest.fixture(scope="module")
def panel(ros: None) -> Iterator[PanelNode]:
    yield from held(PanelNode)


@pytest.fixture(scope="module")
def view(ros: None) -> Iterator[ViewNode]:
    yield from held(ViewNode)


@pytest.fixture(scope="module")
def keyboard(ros: None) -> Iterator[KeyboardNode]:
    yield from held(KeyboardNode)


@pytest.fixture(scope="module")
def joystick(ros: None) -> Iterator[JoystickNode]:
    yield from held(JoystickNode)


@MANY
@given(RANDOMS)
def test_h7_the_panel_shows_a_state_whatever_the_messages_hold(panel: PanelNode, rng: random.Random) -> None:
    panel._on_safety(anything(SafetyStatus, rng))
    panel._on_engine(anything(EngineStatus, rng))
    panel._on_trace(anything(Trace, rng))
    panel._on_chunk(anything(ActionChunk, rng))
    panel._collection._on_episode(anything(Episode, rng))
    state = panel._state() | {"engine": engine_state(panel._engine), "safety": safety_state(panel.safety)}
    text = json.dumps(state, allow_nan=False)
    assert len(text) < 200_000, "ten times a second to each browser"
    assert state["safety"]["state"] and isinstance(state["safety"]["progress"], float)


def test_h7_numbers_that_are_not_known_are_shown_as_such(
    panel: PanelNode, view: ViewNode, keyboard: KeyboardNode
) -> None:
    strange = SafetyStatus(state=99, reason="why")
    strange.header.stamp.sec = 1
    panel._on_safety(strange)
    panel._on_engine(EngineStatus(state=98))
    panel._on_trace(Trace(source=97, x=[0.5], y=[0.5]))
    panel._on_chunk(ActionChunk(action_space=96))
    state = panel._state()
    assert safety_state(panel.safety)["state"] == "unknown (99)"
    assert engine_state(panel._engine)["state"] == "unknown (98)"
    assert state["trace"]["source"] == "unknown (97)" and state["chunk"]["space"] == "unknown (96)"
    keyboard.safety = strange
    assert "unknown (99) why" in keyboard.line()
    view._on_safety(strange)
    view._on_engine(EngineStatus(trace_source=97))
    assert view._state_text().startswith("unknown (99) why")


@MANY
@given(RANDOMS)
def test_h7_the_view_draws_the_next_sound_message_whatever_came_before(view: ViewNode, rng: random.Random) -> None:
    frame = anything(Image, rng)
    view._on_engine(anything(EngineStatus, rng))
    view._on_safety(anything(SafetyStatus, rng))
    view._info = anything(CameraInfo, rng)
    view._depths.add(0.0, bytes(serialize_message(anything(Image, rng))))
    view._joints.add(0.0, bytes(serialize_message(anything(JointState, rng))))
    view._on_trace(anything(Trace, rng))
    view._on_chunk(rng.random() < 0.5, anything(ActionChunk, rng))
    view._on_decoded(anything(Image, rng))
    view._on_model_overlay(anything(Image, rng))
    with view._refusing("frame"):
        view._draw(conversions.rgb_pixels(conversions.of_usual_size(frame)), frame.header)
    answer = type("Done", (), {"result": lambda self: type("R", (), {"values": [rng.random()]})()})()
    contained(view, view._on_box)(answer)

    view._on_engine(EngineStatus(state=EngineStatus.RUNNING))
    view._on_trace(sound(Trace))
    good = sound(Image)
    drawn = view._draw(conversions.rgb_pixels(good), good.header)
    assert drawn.shape == (12, 16, 3)
    view._depths._messages.clear()
    view._joints._messages.clear()
    view._joints.add(12.0, bytes(serialize_message(sound(JointState))))
    view._on_chunk(False, sound(ActionChunk))
    assert next(len(marker.points) for marker in view._chunks[False]) == 8
    assert MarkerArray(markers=list(view._all_markers())).markers


@MANY
@given(RANDOMS, st.sampled_from(["color", "depth", "said"]))
def test_h7_a_picture_is_encoded_or_refused(rng: random.Random, kind: str) -> None:
    message = anything(Image, rng)
    if kind != "color" and rng.random() < 0.5:
        depth = np.array([[np.nan, np.inf], [-1.0, 0.5]], np.float32)
        message = conversions.image_message(depth, "32FC1", message.header)
    try:
        picture = panel_images.encode(kind, bytes(serialize_message(message)))
    except RefusedStep:
        return
    assert picture.jpeg[:2] == b"\xff\xd8"


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (1, 1)])
@pytest.mark.parametrize("kind", ["color", "said", "depth"])
def test_h7_pictures_of_absurd_shapes_are_encoded(kind: str, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 7, np.uint8) if kind == "color" else np.ones(shape, np.float32)
    message = conversions.image_message(pixels, "rgb8" if kind == "color" else "32FC1", conversions.header(1.0, "f"))
    assert panel_images.encode(kind, bytes(serialize_message(message))).jpeg[:2] == b"\xff\xd8"


@pytest.fixture(scope="module")
def devices(ros: None) -> Iterator[tuple[SpaceMouseNode, LeaderNode]]:
    spacemouse, leader = SpaceMouseNode(), LeaderNode()
    yield spacemouse, leader
    spacemouse.destroy_node()
    leader.destroy_node()


@MANY
@given(RANDOMS)
def test_h7_spacemouse_and_leader_take_anything(devices: tuple[SpaceMouseNode, LeaderNode], rng: random.Random) -> None:
    spacemouse, leader = devices
    spacemouse._on_twist(anything(Twist, rng), rng.choice([0.0, 1e9, 4e9]))
    spacemouse._on_joy(anything(Joy, rng))
    leader._on_safety(anything(SafetyStatus, rng))
    leader._on_state(anything(JointState, rng))
    leader._on_trajectory(anything(JointTrajectory, rng))


@MANY
@given(RANDOMS)
def test_h7_keyboard_and_joystick_take_anything(
    keyboard: KeyboardNode, joystick: JoystickNode, rng: random.Random
) -> None:
    keyboard._on_safety(anything(SafetyStatus, rng))
    line = keyboard.line()
    assert line.isprintable() and len(line) < 400, "a terminal obeys what is not"
    joystick._on_safety(anything(SafetyStatus, rng))
    deadman = [int(k == joystick.config.deadman) for k in range(11)]
    joystick._on_joy(Joy(axes=[0.5] * 8, buttons=deadman))
    assert joystick._held
    message = anything(Joy, rng)
    joystick._on_joy(message)
    assert not joystick._held or any(message.buttons), "what does not say that the switch is held lets go"


@MANY
@given(RANDOMS)
def test_h7_the_gripper_is_somewhere_in_the_picture_or_not_known(view: ViewNode, rng: random.Random) -> None:
    hand = GripperProjection(view, "front", "joint_states")
    for _ in range(3):
        hand._camera._frames.add_transforms(anything(TFMessage, rng))
    pose = conversions.header(0.0, SINGLE.base_frame)
    looking = np.diag([1.0, -1.0, -1.0, 1.0])
    looking[:3, 3] = 0.4, 0.0, 1.5
    hand._camera._frames.add_transforms(TFMessage(transforms=[transform_message(pose, OPTICAL, looking)]))
    take = hand._monitor.take_message
    hand._camera._info, joints = anything(CameraInfo, rng), anything(JointState, rng)
    take(joints.name, joints.position, 0.0, 0.0)
    place = hand.place()
    assert place is None or np.isfinite(place).all()
    hand._camera._info, joints = sound(CameraInfo), sound(JointState)
    take(joints.name, joints.position, 0.0, 0.0)
    assert hand.place() is not None, "the next sound messages count"


def test_h7_the_bridge_passes_over_types_that_it_does_not_know(ros: None) -> None:
    node = FoxgloveNode()
    try:
        for name in ("no_such/msg/Type", "a/b", "", "std_msgs/msg/NoSuch"):
            contained(node, lambda name=name: node._relay("/strange", name))()
    finally:
        node.destroy_node()


def test_h7_an_answer_that_nobody_waits_for_any_more_ends_nothing() -> None:
    answer: Future[int] = Future()
    answer.cancel()
    settle(answer, 1)
    settled: Future[int] = Future()
    settle(settled, 1)
    settle(settled, 2)
    assert settled.result() == 1


def test_h7_what_a_callback_raises_is_logged_and_goes_no_further(ros: None) -> None:
    node = ContainedNode("contained")
    called: list[int] = []

    def fail() -> None:
        called.append(1)
        raise RuntimeError("of a callback")

    try:
        node.create_timer(0.01, fail)
        while len(called) < 3:
            rclpy.spin_once(node, timeout_sec=1.0)
    finally:
        node.destroy_node()
