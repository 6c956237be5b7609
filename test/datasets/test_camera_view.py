"""Where a front camera is and how it projects, from what a recording holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.bags.recording import Recording
from molmoact_ros.cameras.camera_view import CameraView
from molmoact_ros.cameras.image_path import OUTSIDE
from molmoact_ros.datasets.camera_view import front_view
from molmoact_ros.datasets.labelling.image_path import HAND_SIZE, is_hidden, projected_path

from .labelling.conftest import OPTICAL, transforms
from .labelling.test_checks import episode, motion

MATRIX = np.array([[300.0, 0, 160], [0, 310, 120], [0, 0, 1]])
AT = np.eye(4)
AT[:3, :3], AT[:3, 3] = Rotation.from_euler("xyz", [0.2, -0.3, 0.5]).as_matrix(), (0.1, -0.2, -1.0)
POINTS = np.random.default_rng(0).uniform(-0.3, 0.3, (50, 3))


def view(model: str = "plumb_bob", lens: tuple[float, ...] = (0.1, -0.05, 0.01, 0.01, 0.02)) -> CameraView:
    return CameraView(320, 240, MATRIX, lens, model, (AT, np.eye(4)))


@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_points_are_projected_as_opencv_does(model: str) -> None:
    camera = view(model, (0.1, -0.05, 0.01, 0.01))
    turn = AT[:3, :3].T
    given = (POINTS.reshape(-1, 1, 3), cv2.Rodrigues(turn)[0], -turn @ AT[:3, 3], MATRIX, np.array(camera.distortion))
    wanted = (cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints)(*given)[0].reshape(-1, 2)
    pixels, depth = camera.project(POINTS)
    there = np.isfinite(pixels).all(axis=1)
    assert there.sum() > 20
    np.testing.assert_allclose(pixels[there], wanted[there], atol=1e-6)
    np.testing.assert_allclose(depth, (POINTS - AT[:3, 3]) @ AT[:3, 2])


def test_what_is_behind_the_camera_or_far_outside_has_no_pixel() -> None:
    points = np.array([[0.0, 0, 1], [0, 0, -1], [9, 0, 1], [0.0, 0, 0]])
    pixels, depth = view(lens=()).project(points, arm=1)
    np.testing.assert_allclose(pixels[0], (160, 120))
    assert np.isnan(pixels[1:]).all() and depth.tolist() == [1, -1, 1, 0]


def test_the_path_is_that_of_the_arm_that_moves_farther() -> None:
    columns = [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 6]
    actions = motion(40, 0, 40)[:, columns]
    actions[:, :3] *= 0.2
    camera = CameraView(320, 240, MATRIX, (), "", (np.diag([1.0, 1, 1, 1]), np.diag([1.0, 1, 1, 1])))
    found = episode(actions, arms=("left_", "right_"), view=camera)
    found.states[:, [2, 5]] = 1.0
    path, distances = projected_path(found)
    np.testing.assert_allclose(path.points[:10, 0], 160 + 300 * 0.01 * np.arange(10), atol=1e-3)
    assert path.reasons[-1] == "" and distances[0] == 1
    found.states[:, 3] += 0.2
    assert projected_path(found)[0].reasons[-1] == OUTSIDE


def test_a_hand_behind_something_is_hidden() -> None:
    depth = np.full((24, 32), 1.0, np.float32)
    place = np.array([0.5, 0.5])
    assert not is_hidden(depth, place, 1.0 + HAND_SIZE - 0.01) and is_hidden(depth, place, 1.0 + HAND_SIZE + 0.01)
    depth[12, 16] = 0
    assert not is_hidden(depth, place, 3.0), "nothing is known there"
    assert not is_hidden(depth, np.array([1.0, 1.0]), 1.0)


def made(folder: Path, frames: list[tuple[str, str, np.ndarray]], **info: Any) -> Recording:
    with BagWriter(folder) as bag:
        writer = EpisodeWriter(bag)
        writer.image("/front/color/image_raw", np.zeros((24, 32, 3), np.uint8), "rgb8", 50.0)
        fields = {"width": 320, "height": 240, "k": MATRIX.ravel(), "d": np.zeros(5), "distortion_model": "plumb_bob"}
        if info:
            writer.write(
                "/front/color/camera_info", "sensor_msgs/msg/CameraInfo", 50.0, header=writer.header(50.0, OPTICAL),
                **(fields | info),
            )  # fmt: skip
        transforms(writer, frames)
    return Recording(folder)


def test_a_recording_says_where_the_camera_is_from_each_arm(tmp_path: Path) -> None:
    other = np.eye(4)
    other[:3, 3] = (0, 0.6, 0)
    frames = [("world", "left_fr3_link0", np.eye(4)), ("world", "right_fr3_link0", other), ("world", OPTICAL, AT)]
    with made(tmp_path / "bag", frames, width=320) as recording:
        found = front_view(recording, ["left_fr3_link0", "right_fr3_link0"])
        assert isinstance(found, CameraView) and (found.width, found.height) == (320, 240)
        np.testing.assert_allclose(found.poses, [AT, np.linalg.inv(other) @ AT], atol=1e-9)
        assert front_view(recording, ["fr3_link0"]) == (
            "/tf_static does not say where front_color_optical_frame is from fr3_link0"
        )


@pytest.mark.parametrize(("info", "words"), [
    ({}, "there is no calibration on /front/color/camera_info"),
    ({"k": np.zeros(9)}, "there is no calibration on /front/color/camera_info"),
    ({"distortion_model": "inverse_brown_conrady"}, "the distortion model 'inverse_brown_conrady' on /front/color"),
    ({"d": np.zeros(3)}, "the calibration on /front/color/camera_info is damaged: 3 coefficients"),
    ({"k": np.full(9, np.nan)}, "the calibration on /front/color/camera_info is damaged"),
    ({"distortion_model": "equidistant", "d": np.zeros(0)}, "the calibration on /front/color/camera_info is damaged"),
    ({"width": 0}, "there is no calibration on /front/color/camera_info"),
])  # fmt: skip
def test_why_there_is_no_view(tmp_path: Path, info: dict[str, Any], words: str) -> None:
    with made(tmp_path / "bag", [("fr3_link0", OPTICAL, AT)], **info) as recording:
        found = front_view(recording, ["fr3_link0"])
    assert isinstance(found, str) and found.startswith(words)
