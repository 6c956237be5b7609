"""Hand-eye calibration: the pose comes back, and what is wrong with views or board is said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from molmoact_ros.cameras.calibration import (
    WRONG_SCALE,
    CalibrationError,
    CalibrationView,
    Mount,
    calibrate,
    rotation_spread,
)
from molmoact_ros.cameras.charuco import BoardSighting, CharucoBoard
from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.utils.paths import robot_model
from molmoact_ros.visualization.calibration_report import draw_calibration

from .board_scene import CAMERAS, BoardScene

D435 = CameraIntrinsics(640, 480, 615.0, 615.0, 320.0, 240.0, 0.1, 3.0)
BOARD = CharucoBoard()
POINTS = np.asarray(BOARD.pattern.getChessboardCorners(), np.float64)
MIDDLE = POINTS.mean(axis=0)
MOUNTS: tuple[Mount, ...] = ("hand", "fixed")


def pose(turn: Rotation, place: Sequence[float] | np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = turn.as_matrix(), place
    return out


def somewhere(rng: np.random.Generator) -> np.ndarray:
    """Any pose [4, 4] within half a metre."""
    return pose(Rotation.random(random_state=rng), rng.uniform(-0.5, 0.5, 3))


def looked_at(rng: np.random.Generator, tilt: float = 35.0, roll: float = 60.0) -> np.ndarray:
    """A pose [4, 4] of the board in the camera: tilted by so many degrees at most, near the image's middle."""
    turn = Rotation.from_euler("xyz", [*rng.uniform(-tilt, tilt, 2), rng.uniform(-roll, roll)], degrees=True)
    z = rng.uniform(0.3, 0.6)
    return pose(turn, np.array([rng.uniform(-0.2, 0.2) * z, rng.uniform(-0.15, 0.15) * z, z]) - turn.apply(MIDDLE))


def seen(
    rng: np.random.Generator, camera: np.ndarray, board: np.ndarray, mount: Mount, boards: Sequence[np.ndarray],
    noise: float = 0.3, size: float = 1.0, lens: CameraIntrinsics = D435,
) -> list[CalibrationView]:  # fmt: skip
    """Views of the board at `boards` [4, 4] in the camera; size: of the real board, of what is believed."""
    views = []
    for number, at in enumerate(boards):
        carrier = board @ np.linalg.inv(at) @ np.linalg.inv(camera)
        local = size * POINTS @ at[:3, :3].T + at[:3, 3]
        pixels = projected(local, lens) + rng.normal(0, noise, (len(POINTS), 2))
        inside = ((pixels > 0) & (pixels < [lens.width, lens.height])).all(axis=1)
        hand = carrier if mount == "hand" else np.linalg.inv(carrier)
        views.append(CalibrationView(f"{number + 1:02d}", BoardSighting(pixels[inside], POINTS[inside]), hand))
    return views


def projected(local: np.ndarray, lens: CameraIntrinsics) -> np.ndarray:
    k = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1.0]])
    project = cv2.fisheye.projectPoints if lens.model == "equidistant" else cv2.projectPoints
    pixels, _ = project(local.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), k, np.array(lens.distortion))
    return np.asarray(pixels).reshape(-1, 2)


def views_of(
    seed: int, mount: Mount, count: int = 15, noise: float = 0.3, size: float = 1.0
) -> tuple[list[CalibrationView], np.ndarray, np.ndarray]:
    """Varied views, and the true poses of camera and board."""
    rng = np.random.default_rng(seed)
    camera, board = somewhere(rng), somewhere(rng)
    return seen(rng, camera, board, mount, [looked_at(rng) for _ in range(count)], noise, size), camera, board


def apart(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Distance of two poses, mm and deg."""
    turn = Rotation.from_matrix(one[:3, :3].T @ other[:3, :3]).magnitude()
    return 1e3 * float(np.linalg.norm(one[:3, 3] - other[:3, 3])), float(np.degrees(turn))


@pytest.mark.parametrize("mount", MOUNTS)
def test_fifteen_views_with_noise_give_the_camera_to_two_millimetres(mount: Mount) -> None:
    errors = []
    for seed in range(12):
        views, camera, board = views_of(seed, mount)
        found = calibrate(views, D435, BOARD.square)
        assert found.mount == mount, "nobody has to say which"
        errors.append(apart(found.camera, camera))
        assert apart(found.board, board)[0] < 3.0 and not found.left_out and not found.warnings
        assert 0.3 < found.px < 0.55 and 0.05 < found.mm < 3.0 and abs(found.scale[0] - 1) < 5 * found.scale[1]
        assert errors[-1][0] < 8 * found.sigma_mm and errors[-1][1] < 8 * found.sigma_deg, "it knows how well it knows"
    assert np.max(errors, axis=0)[0] < 2.0 and np.max(errors, axis=0)[1] < 0.3, errors


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(MOUNTS), st.integers(8, 25), st.booleans())
def test_any_pose_comes_back_from_varied_views(seed: int, mount: Mount, count: int, given: bool) -> None:
    views, camera, board = views_of(seed, mount, count, noise=0.0)
    found = calibrate(views, D435, BOARD.square, mount if given else None)
    assert apart(found.camera, camera) < (0.01, 0.01) and apart(found.board, board) < (0.01, 0.01)
    assert found.px < 1e-3 and found.mm < 0.01


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize(("given", "true"), [(25.0, 30.0), (30.0, 25.0), (35.0, 33.95), (35.0, 35.9), (20.0, 40.0)])
def test_a_wrong_size_of_the_board_is_said_with_the_right_one(mount: Mount, given: float, true: float) -> None:
    views, _, _ = views_of(3, mount, size=true / given)
    with pytest.raises(CalibrationError, match="not " + f"{given:g}") as said:
        calibrate(views, D435, 1e-3 * given)
    assert abs(told_size(said.value) - true) < 0.01 * true and "\n" not in str(said.value)


def told_size(error: CalibrationError) -> float:
    """mm"""
    return float(str(error).partition("seem to be ")[2].partition(" mm")[0])


def test_a_printers_half_percent_is_no_wrong_size() -> None:
    views, camera, _ = views_of(4, "hand", size=1.005)
    found = calibrate(views, D435, BOARD.square)
    assert abs(found.scale[0] - 1.005) < 0.003 < WRONG_SCALE and apart(found.camera, camera)[0] < 4.0


@pytest.mark.parametrize("mount", MOUNTS)
def test_views_in_which_the_arm_still_moved_are_left_out_and_named(mount: Mount) -> None:
    views, camera, _ = views_of(5, mount)
    moved = pose(Rotation.from_euler("xyz", [3, -4, 2], degrees=True), [0.02, 0.0, -0.01])
    for number in (2, 9):
        views[number] = replace(views[number], hand=views[number].hand @ moved)
    found = calibrate(views, D435, BOARD.square)
    assert set(found.left_out) == {"03", "10"} and min(found.left_out.values()) > 3.0
    assert apart(found.camera, camera) < (2.0, 0.3) and "still move" in found.warnings[0]


def test_what_is_wrong_with_the_views_is_said() -> None:
    rng = np.random.default_rng(6)
    camera, board = somewhere(rng), somewhere(rng)
    varied = [looked_at(rng) for _ in range(15)]
    views = seen(rng, camera, board, "hand", varied)
    one_axis = [looked_at(rng, tilt=0.01) for _ in range(15)]
    alike = [varied[0] @ pose(Rotation.identity(), rng.uniform(-0.02, 0.02, 3)) for _ in range(15)]
    shuffled = [replace(view, hand=other.hand) for view, other in zip(views, views[1:] + views[:1], strict=True)]
    for wrong, words in (
        (views[:5], "too few"),
        ([], "0 views"),
        (seen(rng, camera, board, "hand", one_axis), "too alike.*about different axes"),
        (seen(rng, camera, board, "hand", alike), "too alike"),
        ([views[0]] * 15, "too alike"),
        (shuffled, "do not belong together"),
    ):
        with pytest.raises(CalibrationError, match=words) as said:
            calibrate(wrong, D435, BOARD.square)
        assert "\n" not in str(said.value)
    with pytest.raises(CalibrationError, match="--mount hand"):
        calibrate(views, D435, BOARD.square, "fixed")


def test_rotations_about_one_axis_have_no_spread() -> None:
    rng = np.random.default_rng(0)
    about_z = [pose(Rotation.from_euler("z", angle), [0, 0, 0]) for angle in rng.uniform(-1, 1, 20)]
    assert rotation_spread(about_z) < 1e-4
    assert rotation_spread([somewhere(rng) for _ in range(20)]) > 30


@pytest.mark.parametrize(
    "lens",
    [
        replace(D435, distortion=(0.12, -0.25, 0.001, -0.0005, 0.1)),
        replace(D435, model="rational_polynomial", distortion=(0.5, -2.6, 0.0006, -0.0002, 1.5, 0.38, -2.4, 1.4)),
        replace(D435, model="equidistant", distortion=(0.05, -0.02, 0.01, -0.002)),
        replace(D435, distortion=()),
    ],
)
def test_the_lens_distortion_of_camera_info_is_taken_out(lens: CameraIntrinsics) -> None:
    rng = np.random.default_rng(7)
    camera, board = somewhere(rng), somewhere(rng)
    views = seen(rng, camera, board, "hand", [looked_at(rng) for _ in range(12)], lens=lens)
    assert apart(calibrate(views, lens, BOARD.square).camera, camera) < (2.0, 0.3)


def test_an_unknown_lens_is_refused() -> None:
    with pytest.raises(CalibrationError, match="'mei'.*equidistant"):
        calibrate(views_of(0, "hand")[0], replace(D435, model="mei"), BOARD.square)


@pytest.mark.parametrize(("camera", "mount"), [("wrist", "hand"), ("front", "fixed")])
def test_in_the_simulator_the_rendered_board_gives_the_camera_that_is_there(
    camera: str, mount: Mount, tmp_path: Path
) -> None:
    scene, links = BoardScene(CharucoBoard(5, 7, 0.03, 0.022), camera, tmp_path), Links(robot_model())
    images, views = {}, []
    for number, q in enumerate(scene.poses(np.random.default_rng(1), 15), start=1):
        image = scene.render(q)
        sighting = scene.board.find(image)
        noise = np.random.default_rng(number).normal(0, 0.3, sighting.pixels.shape)
        links.update(dict(zip(SINGLE.joints, q, strict=True)))
        views.append(
            CalibrationView(f"{number:02d}", replace(sighting, pixels=sighting.pixels + noise), links.pose("fr3_hand"))
        )
        images[views[-1].name] = image
    found = calibrate(views, CAMERAS[camera], scene.board.square)
    assert found.mount == mount and apart(found.camera, scene.camera_pose()) < (2.0, 0.3)
    sheet = draw_calibration(views, images, found, ["a calibration"])
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 1600 and sheet.shape[2] == 3
    for size in (0.025, 0.0335):
        wrong = [replace(view, sighting=scaled(view.sighting, size / 0.03)) for view in views]
        with pytest.raises(CalibrationError, match="the squares seem to be") as said:
            calibrate(wrong, CAMERAS[camera], size)
        assert abs(told_size(said.value) - 30.0) < 0.2
    scene.close()


def scaled(sighting: BoardSighting, factor: float) -> BoardSighting:
    return BoardSighting(sighting.pixels, factor * sighting.points)
