"""What a plan's chunk says of itself is true: the frame of its actions, the key of their statistics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, JointState
from tf2_msgs.msg import TFMessage

from molmoact_ros.control.action_chunk import RefusedChunk
from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.msg import ActionChunk, Trace
from molmoact_ros.nodes.planning.chunk_messages import ChunkMessages
from molmoact_ros.nodes.planning.config import PolicyConfig, load_engine
from molmoact_ros.nodes.planning.gripper_projection import GripperProjection
from molmoact_ros.nodes.planning.inference_thread import ReasonedPlan
from molmoact_ros.nodes.planning.plan_publisher import PlanPublisher
from molmoact_ros.reasoning.action_convention import UNSTATED, ActionConvention, GripperPolarity
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.robots.franka import HOME_Q, SINGLE
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.transforms import transform_message
from molmoact_ros.utils.paths import default_checkpoint

from .conftest import Peer

ZED = "zed_left_camera_frame_optical"


OURS = ActionConvention(
    robot="franka", space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw",
    gripper=GripperPolarity(open=1, closed=0), dt=0.05,
)  # fmt: skip


def planned(actions: np.ndarray | None, joints: JointState | None = None) -> ReasonedPlan:
    """Plan 3, of an image at 12.5 s."""
    timings: Any = SimpleNamespace(mode=ReasoningMode.FULL)
    seen = Observation((np.zeros((4, 4, 3), np.uint8),), "wave", 12.5)
    return ReasonedPlan(3, seen, Reasoning(None, None, actions, actions is not None), 0.1, timings, joints)


@pytest.mark.parametrize(("arms", "frame"), [([""], "left_fr3_link0"), (["left_", "right_"], "")])
def test_h8_a_chunk_names_the_frame_of_its_actions(arms: list[str], frame: str) -> None:
    """A single arm's base, as it is configured; of two arms each has its own, and the frame is empty."""
    chunks, values = ChunkMessages("a_key", UNSTATED, arms, "left_fr3_link0"), 7 * len(arms)
    chunk = chunks.message(planned(np.full((8, values), 0.25)))
    assert chunk is not None and chunk.header.frame_id == frame and chunk.header.stamp.sec == 12
    assert (chunk.plan_id, chunk.unnorm_key, chunk.dt, chunk.mode) == (3, "a_key", 0.1, "full")
    assert (chunk.steps, chunk.dimensions, list(chunk.actions)) == (8, values, [0.25] * 8 * values)
    assert not chunk.stated and chunk.action_space == ActionChunk.DELTA_EE_POSE
    assert chunks.message(planned(None)) is None


def test_a_chunk_is_what_the_checkpoint_says_of_its_numbers() -> None:
    """Step time, action space, gripper; that somebody has said it; the parameter comes before the checkpoint."""
    stated = OURS.model_copy(update={"space": "joint_position", "gripper": GripperPolarity(open=0, closed=1)})
    chunk = ChunkMessages("a_key", stated).message(planned(np.full((2, 8), 0.25)))
    assert chunk is not None and chunk.stated and chunk.action_space == ActionChunk.JOINT_POSITION and chunk.dt == 0.05
    assert list(chunk.actions) == [*[0.25] * 7, 0.75] * 2
    slow = ChunkMessages("a_key", stated, dt=0.2).message(planned(np.full((2, 8), 0.25)))
    assert slow is not None and slow.dt == 0.2
    with pytest.raises(RefusedChunk, match="expected"):
        ChunkMessages("a_key", stated).message(planned(np.zeros((2, 14))))


def test_a_hands_own_frame_needs_the_joints_of_the_image() -> None:
    """The hand points down at home: its forward is down in the base frame."""
    chunks = ChunkMessages("a_key", OURS.model_copy(update={"frame": "hand"}))
    actions = np.array([[0, 0, 0.01, 0, 0, 0, 1.0]])
    with pytest.raises(RefusedStep, match="fr3_joint1 was not received"):
        chunks.message(planned(actions))
    chunk = chunks.message(planned(actions, JointState(name=list(SINGLE.joints), position=HOME_Q.tolist())))
    assert chunk is not None
    np.testing.assert_allclose(chunk.actions[:3], [0, 0, -0.01], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "config", "words"),
    [
        ({"robot": "libero"}, {}, "holds actions of the robot libero, not of a franka"),
        ({}, {"arms": ["left_", "right_"]}, "one arm in delta_ee_pose, but this policy moves two arms"),
        ({}, {"cameras": ["front"]}, "needs 2 cameras"),
    ],
)
def test_a_checkpoint_for_another_robot_is_refused_before_its_weights_are_read(
    tmp_path: Path, changes: dict[str, Any], config: dict[str, Any], words: str
) -> None:
    for name in ("config.json", "run.json"):
        shutil.copy(default_checkpoint() / name, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    run["conventions"]["nano_workcell"] |= changes
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match=words) as error:
        load_engine(PolicyConfig(checkpoint=str(tmp_path), **config))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("frame", "published"), [(ZED, ZED), ("", "front_color_optical_frame")])
def test_a_trace_is_in_the_frame_of_its_image(peer: Peer, frame: str, published: str) -> None:
    """As the driver names it, so that the transforms of the driver place it."""
    engine: Any = SimpleNamespace(codebook="", modes=frozenset(ReasoningMode))
    timings: Any = SimpleNamespace(mode=ReasoningMode.FULL)
    topics = PlanPublisher(peer.node, engine, "front", [""])
    traces = peer.listen(Trace, f"{peer.node.get_fully_qualified_name()}/trace", qos.RELIABLE)
    seen = Observation((np.zeros((4, 4, 3), np.uint8),), "wave", 12.5)
    said = Reasoning(None, np.array([[10, 20], [200, 100]]), None, False)
    assert peer.until(lambda: peer.node.count_publishers("~/trace") and peer.node.count_subscribers("~/trace"))
    peer.spin(0.5)
    topics.reasoning(ReasonedPlan(3, seen, said, 0.1, timings, camera_frame=frame))
    assert peer.until(lambda: traces)
    assert traces[-1].header.frame_id == published


@pytest.mark.parametrize("frame", [ZED, "front_color_optical_frame", ""])
def test_the_gripper_is_found_in_the_frame_that_camera_info_names(peer: Peer, frame: str) -> None:
    hand, looking = GripperProjection(peer.node, "front", "joint_states"), np.diag([1.0, -1.0, -1.0, 1.0])
    looking[:3, 3] = 0.4, 0.0, 1.5
    at = transform_message(conversions.header(0.0, SINGLE.base_frame), frame or "front_color_optical_frame", looking)
    hand._camera._frames.add_transforms(TFMessage(transforms=[at]))
    k = [20.0, 0.0, 8.0, 0.0, 20.0, 6.0, 0.0, 0.0, 1.0]
    hand._camera._info = CameraInfo(header=conversions.header(0.0, frame), width=16, height=12, k=k)
    hand._monitor.take_message(list(SINGLE.joints), [0.1] * 7, 0.0, 0.0)
    assert hand.place() is not None
