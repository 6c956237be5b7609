"""What a plan's chunk says of itself is true: the frame of its actions, the key of their statistics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo
from tf2_msgs.msg import TFMessage

from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.msg import Trace
from molmoact_ros.nodes.planning.gripper_projection import GripperProjection
from molmoact_ros.nodes.planning.inference_thread import ReasonedPlan
from molmoact_ros.nodes.planning.plan_publisher import PlanPublisher
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.transforms import transform_message

from .conftest import Peer

ZED = "zed_left_camera_frame_optical"


@pytest.mark.parametrize(("values", "frame"), [(7, "left_fr3_link0"), (14, "")])
def test_h8_a_chunk_names_the_frame_of_its_actions(peer: Peer, values: int, frame: str) -> None:
    """A single arm's base, as it is configured; of two arms each has its own, and the frame is empty."""
    engine: Any = SimpleNamespace(unnorm_key="a_key")
    timings: Any = SimpleNamespace(mode=ReasoningMode.FULL)
    topics = PlanPublisher(peer.node, engine, "front", "left_fr3_link0", 0.1)
    seen = Observation((np.zeros((4, 4, 3), np.uint8),), "wave", 12.5)
    said = Reasoning(None, None, np.full((8, values), 0.25), True)
    chunk = topics.chunk(ReasonedPlan(3, seen, said, 0.1, timings))
    assert chunk is not None and chunk.header.frame_id == frame and chunk.header.stamp.sec == 12
    assert (chunk.plan_id, chunk.unnorm_key, chunk.dt, chunk.mode) == (3, "a_key", 0.1, "full")
    assert (chunk.steps, chunk.dimensions, len(chunk.actions)) == (8, values, 8 * values)
    assert topics.chunk(ReasonedPlan(3, seen, Reasoning(None, None, None, False), 0.1, timings)) is None


@pytest.mark.parametrize(("frame", "published"), [(ZED, ZED), ("", "front_color_optical_frame")])
def test_a_trace_is_in_the_frame_of_its_image(peer: Peer, frame: str, published: str) -> None:
    """As the driver names it, so that the transforms of the driver place it."""
    engine: Any = SimpleNamespace(unnorm_key="a_key", codebook="")
    timings: Any = SimpleNamespace(mode=ReasoningMode.FULL)
    topics = PlanPublisher(peer.node, engine, "front", "base", 0.1)
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
    hand._frames.add_transforms(TFMessage(transforms=[at]))
    k = [20.0, 0.0, 8.0, 0.0, 20.0, 6.0, 0.0, 0.0, 1.0]
    hand._info = CameraInfo(header=conversions.header(0.0, frame), width=16, height=12, k=k)
    hand._monitor.take_message(list(SINGLE.joints), [0.1] * 7, 0.0, 0.0)
    assert hand.place() is not None
