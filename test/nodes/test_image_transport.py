"""Cameras with compressed topics alone: the policy plans on them, also grounded, and the view draws on them."""

from __future__ import annotations

import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import ActionChunk, EngineStatus
from molmoact_ros.ros import qos
from molmoact_ros.ros.conversions import header, rgb_pixels
from molmoact_ros.ros.image_transport import colour_topic, depth_topic

from .conftest import INSTRUCTION, PATIENCE, Peer


def film(peer: Peer) -> Callable[[], None]:
    """Publishes JPEGs of two cameras and compressed depth of the front one, by its call: each frame is another."""
    kinds = {"front": colour_topic("/front", "compressed"), "wrist": colour_topic("/wrist", "compressed"),
             "depth": depth_topic("/front", "compressed")}  # fmt: skip
    publishers = {name: peer.node.create_publisher(kind, topic, qos.RELIABLE) for name, (kind, topic) in kinds.items()}
    rng = np.random.default_rng(0)

    def publish() -> None:
        head = header(peer.now(), "camera_color_optical_frame")
        for name, publisher in publishers.items():
            noise = rng.integers(300, 900, (120, 160)).astype(np.uint16)
            picture = noise if name == "depth" else np.repeat((noise % 256).astype(np.uint8)[:, :, None], 3, axis=2)
            _, data = cv2.imencode(".png" if name == "depth" else ".jpg", picture)
            form, before = ("16UC1; compressedDepth png", bytes(12)) if name == "depth" else ("jpeg", b"")
            publisher.publish(CompressedImage(header=head, format=form, data=array.array("B", before + data.tobytes())))

    return publish


def set_mode(peer: Peer, mode: str) -> None:
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=mode)
    done = peer.call(SetParameters, "/policy/set_parameters", parameters=[Parameter(name="mode", value=value)])
    assert done.results[0].successful


@pytest.fixture
def plans(peer: Peer, checkpoint: Path, tmp_path: Path) -> Any:
    parameters: dict[str, dict[str, Any]] = {
        "policy": {"checkpoint": str(checkpoint), "max_age": 5.0, "action_dt": 0.8, "image_transport": "compressed"},
        "view": {"image_transport": "compressed"},
    }
    with Bringup(Profile(nodes=parameters), tmp_path):
        yield peer.listen(ActionChunk, "/policy/action_chunk", qos.RELIABLE)


def test_a_plan_of_compressed_images_and_depth(peer: Peer, plans: list[ActionChunk]) -> None:
    status = peer.listen(EngineStatus, "/policy/engine_status", qos.STATE)
    overlay = peer.listen(Image, "/view/trace_overlay", qos.SENSOR)
    assert peer.until(lambda: status, 3 * PATIENCE)
    peer.node.create_timer(0.1, film(peer))
    say = peer.node.create_publisher(String, "/policy/instruction", qos.RELIABLE)
    assert peer.until(say.get_subscription_count)
    say.publish(String(data=INSTRUCTION))
    assert peer.until(lambda: plans, 3 * PATIENCE), status[-1].message
    set_mode(peer, "grounded")
    assert peer.until(lambda: plans[-1].mode == "grounded", 3 * PATIENCE), status[-1].message
    assert peer.until(lambda: overlay), "the view draws on what it decodes"
    assert rgb_pixels(overlay[-1]).shape == (120, 160, 3)
