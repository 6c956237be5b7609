"""What CameraInfo says of a lens gives the pixels that librealsense itself computes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyrealsense2 as rs
import pytest

from molmoact_ros.cameras.realsense import distortion_model

# The first are those of a real D405, from librealsense issue 13721.
COEFFICIENTS = ([-0.05176, 0.05644, -0.00081, 0.00137, -0.01871], [0.15, -0.5, 0.001, -0.0005, 0.45])


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize(
    "model", ["none", "brown_conrady", "inverse_brown_conrady", "modified_brown_conrady", "kannala_brandt4"]
)
def test_the_named_distortion_is_the_cameras(model: str, coefficients: list[float]) -> None:
    k = rs.intrinsics()
    k.width, k.height, k.fx, k.fy, k.ppx, k.ppy = 640, 480, 433.0, 432.0, 322.0, 238.0
    k.model, k.coeffs = getattr(rs.distortion, model), [0.0] * 5 if model == "none" else coefficients
    points = np.array([[x, y, 1.0] for x in np.linspace(-0.7, 0.7, 15) for y in np.linspace(-0.5, 0.5, 11)])
    theirs = np.array([rs.rs2_project_point_to_pixel(k, point.tolist()) for point in points])
    name, d = distortion_model(k)
    matrix = np.array([[k.fx, 0, k.ppx], [0, k.fy, k.ppy], [0, 0, 1]])
    project: Any = {"plumb_bob": cv2.projectPoints, "equidistant": cv2.fisheye.projectPoints}[name]
    ours = project(points[:, None], np.zeros(3), np.zeros(3), matrix, np.array(d))[0].reshape(-1, 2)
    assert np.abs(ours - theirs).max() < 0.03


def test_a_lens_that_camera_info_cannot_name_is_refused() -> None:
    k = rs.intrinsics()
    k.model = rs.distortion.ftheta
    with pytest.raises(ValueError, match="ftheta"):
        distortion_model(k)
