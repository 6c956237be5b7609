"""The node on real topics, with cameras made of pyrealsense2's software_device, that come, go and come back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from realsense2_camera_msgs.msg import Metadata
from sensor_msgs.msg import CameraInfo, Image

from molmoact_ros.bringup.processes import write_parameters
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.cameras.presets import preset_of
from molmoact_ros.cameras.realsense import FoundCamera
from molmoact_ros.nodes.realsense import CameraConfig, RealSenseConfig, RealSenseNode
from molmoact_ros.ros import qos
from molmoact_ros.ros.conversions import image_pixels, seconds

from ..cameras.software_camera import (
    BOX,
    COLOR_K,
    CORNERS,
    DISTORTION,
    HEIGHT,
    RATE,
    WALL,
    WIDTH,
    SoftwareCamera,
    color_picture,
    project,
)
from .conftest import Peer
from .test_startup import ending

RECORDING = Path(__file__).parents[1] / "cameras" / "recording.bag"
SIZE = {"width": WIDTH, "height": HEIGHT, "rate": RATE}


class Bus:
    """Where cameras are plugged in: what the node finds in librealsense's place."""

    def __init__(self) -> None:
        self.plugged: dict[str, SoftwareCamera] = {}

    def devices(self) -> list[Any]:
        return [camera.device for camera in self.plugged.values()]

    def plug(self, camera: SoftwareCamera, serial: str) -> None:
        self.plugged[serial] = camera.__enter__()

    def unplug(self, serial: str) -> None:
        self.plugged.pop(serial).__exit__()


class Rig:
    """The node in a thread of this process, and what a peer hears of it."""

    def __init__(self, peer: Peer, parameters: dict[str, Any], folder: Path) -> None:
        self.bus, self.peer = Bus(), peer
        rclpy.init(args=["--ros-args", "--params-file", str(write_parameters(folder, "realsense", parameters))])
        self.node = RealSenseNode(self.bus.devices)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()
        self.said = peer.listen(DiagnosticArray, "/diagnostics", qos.RELIABLE)

    def close(self) -> None:
        for serial in list(self.bus.plugged):
            self.bus.unplug(serial)
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown()

    def status(self, name: str) -> DiagnosticStatus | None:
        """The last that was said of a camera."""
        (found,) = [s for s in self.said[-1].status if s.name == f"realsense: {name}"] if self.said else [None]
        return found

    def says(self, name: str, text: str) -> bool:
        """Whether it comes to be said of a camera."""
        return self.peer.until(lambda: text in getattr(self.status(name), "message", ""))


@pytest.fixture
def rig(peer: Peer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(peer, request.param, tmp_path)
    yield rig
    rig.close()


TWO = {"cameras": ["front", "wrist"], "front": {"serial": "031422250347", **SIZE}, "wrist": {"model": "D405", **SIZE}}


@pytest.mark.parametrize("rig", [TWO], indirect=True)
def test_pictures_depth_lens_and_stamps_reach_the_topics(rig: Rig, peer: Peer) -> None:
    front, wrist = SoftwareCamera("031422250347"), SoftwareCamera("2", "Intel RealSense D405", clock=None)
    heard: dict[str, list[Any]] = {
        topic: peer.listen(kind, topic, quality)
        for camera in ("front", "wrist")
        for topic, kind, quality in (
            (f"/{camera}/color/image_raw", Image, qos.SENSOR),
            (f"/{camera}/color/camera_info", CameraInfo, qos.RELIABLE),
            (f"/{camera}/aligned_depth_to_color/image_raw", Image, qos.SENSOR),
            (f"/{camera}/aligned_depth_to_color/camera_info", CameraInfo, qos.RELIABLE),
        )
    }
    metadata = peer.listen(Metadata, "/front/color/metadata", qos.RELIABLE)
    lead = time.time() - time.monotonic()
    rig.bus.plug(front, "031422250347")
    rig.bus.plug(wrist, "2")
    assert peer.until(lambda: all(len(messages) >= 40 for messages in heard.values()))
    for name, camera in (("front", front), ("wrist", wrist)):
        colors = heard[f"/{name}/color/image_raw"]
        stamps, errors = [], []
        for message in colors:
            assert message.encoding == "rgb8" and message.header.frame_id == f"{name}_color_optical_frame"
            pixels = image_pixels(message)
            number = int(pixels[0, 0, 2])
            np.testing.assert_array_equal(pixels, color_picture(number))
            stamps.append(seconds(message.header.stamp))
            errors.append(stamps[-1] - (camera.taken[number] + lead))
        assert (np.diff(stamps) > 0).all()
        # Never before it was taken; and though each came up to 20 ms late in its own way, stamps are even.
        assert min(errors) > -5e-4 and np.ptp(errors[-10:]) < 0.005
        if camera is wrist:
            assert np.median(np.abs(errors)) < 1e-3, "global time is exact"
        info = heard[f"/{name}/color/camera_info"][-1]
        assert (info.width, info.height, info.distortion_model) == (WIDTH, HEIGHT, "plumb_bob")
        np.testing.assert_allclose(np.array(info.k).reshape(3, 3), COLOR_K, atol=1e-4)
        np.testing.assert_allclose(info.d, DISTORTION, atol=1e-7)
        np.testing.assert_allclose(np.array(info.p).reshape(3, 4)[:, :3], COLOR_K, atol=1e-4)
        depths = heard[f"/{name}/aligned_depth_to_color/image_raw"]
        depth = image_pixels(depths[-1])
        assert depths[-1].encoding == "16UC1" and depths[-1].header.frame_id == info.header.frame_id
        # 0.1 mm in the camera, mm on the topic; the box where the colour camera sees it.
        assert set(np.unique(depth)) <= {0, round(BOX * 1e3), round(WALL * 1e3)}
        rows, columns = np.nonzero(depth == round(BOX * 1e3))
        (left, top), (right, bottom) = project(CORNERS)
        edges = [columns.min() - left, columns.max() - right, rows.min() - top, rows.max() - bottom]
        assert np.abs(edges).max() < 1.7
        times = {seconds(m.header.stamp) for m in heard[f"/{name}/color/camera_info"]}
        assert seconds(depths[-1].header.stamp) in times, "of the colour image that it lies on"
        aligned = heard[f"/{name}/aligned_depth_to_color/camera_info"][-1]
        assert list(aligned.k) == list(info.k)
    said = json.loads(metadata[-1].json_data)
    assert said["clock_domain"] == "hardware_clock" and 0 < said["frame_number"] <= front.number
    assert rig.says("front", "frames/s")
    told = rig.status("front")
    assert told is not None and told.level == DiagnosticStatus.OK and told.hardware_id == "031422250347"
    assert {v.key: v.value for v in told.values}["usb"] == "3.2"


@pytest.mark.parametrize("rig", [TWO], indirect=True)
def test_a_camera_that_is_missing_is_named_and_one_that_comes_back_goes_on(rig: Rig, peer: Peer) -> None:
    pictures = peer.listen(Image, "/front/color/image_raw", qos.SENSOR)
    rig.bus.plug(SoftwareCamera("9"), "9")
    assert rig.says("front", "no camera 031422250347 is plugged in; those that are: 9 (Intel RealSense D435, USB 3.2)")
    assert rig.says("wrist", "no D405 is plugged in; those that are: 9 ")
    assert not pictures
    rig.bus.plug(SoftwareCamera("031422250347"), "031422250347")
    assert peer.until(lambda: len(pictures) > 5)
    last = 0.0
    for _ in range(2):
        last = seconds(pictures[-1].header.stamp)
        rig.bus.unplug("031422250347")
        assert rig.says("front", "no camera 031422250347 is plugged in"), "the loss is noticed"
        pictures.clear()
        # The same camera again, as a new device whose clock has begun anew.
        rig.bus.plug(SoftwareCamera("031422250347", clock=1.0), "031422250347")
        assert peer.until(lambda: len(pictures) > 5), "and it goes on by itself"
        assert seconds(pictures[0].header.stamp) > last + 1.0
        assert abs(peer.now() - seconds(pictures[-1].header.stamp)) < 1.0
    assert rig.says("front", "frames/s")
    told = rig.status("front")
    assert told is not None and {v.key: v.value for v in told.values}["opened"] == "3"


@pytest.mark.parametrize(
    "rig", [{"cameras": ["front"], "front": {"file": str(RECORDING), "model": "D435"}}], indirect=True
)
def test_a_recording_is_played_again_and_again_with_stamps_of_now(rig: Rig, peer: Peer) -> None:
    pictures = peer.listen(Image, "/front/color/image_raw", qos.SENSOR)
    assert peer.until(lambda: len({bytes(p.data) for p in pictures}) < len(pictures)), "from the beginning"
    assert all(abs(peer.now() - seconds(picture.header.stamp)) < 60 for picture in pictures)
    assert image_pixels(pictures[0]).shape == (60, 80, 3)


def test_the_profiles_cameras_are_cameras() -> None:
    parameters = Profile.read("realsense").nodes["realsense"]
    for name in RealSenseConfig.model_validate({"cameras": parameters["cameras"]}).cameras:
        camera = CameraConfig.model_validate(parameters[name])
        assert preset_of(camera.model).visual_preset == camera.settings(FoundCamera("1", "", "", None)).visual_preset


def test_what_cannot_work_is_said_at_the_start(domain: int, tmp_path: Path) -> None:
    said = ending("realsense", {"cameras": ["front"], "front": {"serial": 31422250347}}, tmp_path)
    assert "parameter front.serial of realsense" in said and "in quotes" in said
    same = {"cameras": ["front", "wrist"], "front": {"serial": "1"}, "wrist": {"serial": "1"}}
    assert "same serial number" in ending("realsense", same, tmp_path)
    assert "front.rate" in ending("realsense", {"front": {"rate": 1000}}, tmp_path)
