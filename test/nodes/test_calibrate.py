"""`molmoact-ros calibrate` beside a camera and an arm that are published, and `view` with its result."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from tf2_msgs.msg import TFMessage

from molmoact_ros.bringup.calibration_client import CalibrationClient, CalibrationTopics
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.cameras.charuco import CharucoBoard
from molmoact_ros.cli import calibrate
from molmoact_ros.cli.main import main
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.camera_pose import CameraPose
from molmoact_ros.ros.image_transport import ImageTransport
from molmoact_ros.ros.transforms import StaticFrames, transform_message

from ..cameras.board_scene import CAMERAS, BoardScene
from .conftest import Peer

FLAGS = ("--camera", "wrist", "--square", "30", "--marker", "22", "--views", "8")
OPTICAL = "wrist_color_optical_frame"
MOUNT = np.eye(4)
MOUNT[:3, :3], MOUNT[:3, 3] = Rotation.from_euler("xyz", [-90, 0, -90], degrees=True).as_matrix(), [0.01, 0.015, 0.0]
"""Of the optical frame in wrist_link, as a camera's driver publishes it."""


class Studio(Peer):
    """An arm that stands at one pose after the other, and the camera on its hand, as realsense-ros publishes it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        scene = BoardScene(CharucoBoard(5, 7, 0.03, 0.022), "wrist", folder)
        self.true = scene.camera_pose()
        self.shots = [(q, scene.render(q)) for q in scene.poses(np.random.default_rng(3), 12)]
        scene.close()
        self.at = 0
        create = self.node.create_publisher
        self._images = create(Image, "/wrist/color/image_raw", qos.RELIABLE)
        self._compressed = create(CompressedImage, "/wrist/color/image_raw/compressed", qos.RELIABLE)
        self._joints = create(JointState, "/joint_states", qos.RELIABLE)
        self._info = create(CameraInfo, "/wrist/color/camera_info", qos.RELIABLE)
        self._frames = create(TFMessage, "/tf_static", qos.TF_STATIC)
        driver = transform_message(conversions.header(0.0, "wrist_link"), OPTICAL, MOUNT)
        self._frames.publish(TFMessage(transforms=[driver]))
        self.node.create_timer(0.02, self._publish_joints)
        self.node.create_timer(0.15, self._film)

    def _publish_joints(self) -> None:
        self._joints.publish(JointState(name=list(SINGLE.joints), position=self.shots[self.at][0].tolist()))

    def _film(self) -> None:
        head = conversions.header(0.0, OPTICAL)  # a camera that stamps nothing
        self._images.publish(conversions.image_message(self.shots[self.at][1], "rgb8", head))
        self._info.publish(conversions.camera_info(CAMERAS["wrist"], head))
        if self._compressed.get_subscription_count():
            packed = cv2.imencode(".png", self.shots[self.at][1][:, :, ::-1])[1].tobytes()
            self._compressed.publish(CompressedImage(header=head, format="rgb8; png compressed bgr8", data=packed))


@pytest.fixture(scope="module")
def studio(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    made = Studio(tmp_path_factory.mktemp("board"))
    yield made
    made.close()


def calibrating(*more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "molmoact_ros.cli.main", "calibrate", *FLAGS, *more]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def is_taken(running: subprocess.Popen[str], view: Path) -> bool:
    return view.exists() or running.poll() is not None


def test_a_camera_is_placed_by_an_arm_that_stands_here_and_there_and_view_publishes_it(
    studio: Studio, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    running = calibrating("--out", str(out))
    for number in range(len(studio.shots)):
        studio.at = number
        studio.until(partial(is_taken, running, out / f"{number + 1:02d}.png"))  # then the arm goes on
    assert studio.until(lambda: running.poll() is not None, 30.0)
    said, wrong = running.communicate()
    assert running.returncode == 0, said + wrong
    found = CameraPose.read(out / "wrist.yaml")
    assert (found.parent, found.child) == ("fr3_hand", "wrist_link"), "the driver's own frames hang below it"
    camera = found.pose @ MOUNT
    assert 1e3 * np.linalg.norm(camera[:3, 3] - studio.true[:3, 3]) < 2.0
    with Bringup(Profile(nodes={"view": {"calibrations": [str(out / "wrist.yaml")]}}), tmp_path / "logs"):
        frames = StaticFrames()
        studio.node.create_subscription(TFMessage, "/tf_static", frames.add_transforms, qos.TF_STATIC)
        assert studio.until(lambda: frames.pose(OPTICAL, "fr3_hand") is not None)
        placed = frames.pose(OPTICAL, "fr3_hand")
        assert placed is not None and np.allclose(placed, camera, atol=1e-6)


def test_images_may_be_compressed(studio: Studio) -> None:
    rclpy.init()
    names = "wrist/color/image_raw", "wrist/color/camera_info", "joint_states"
    client = CalibrationClient(CalibrationTopics(*names, "compressed"), SINGLE)
    try:
        with ThreadPoolExecutor() as pool:
            found = pool.submit(client.wait, 20.0)
            assert studio.until(found.done) and found.result().width == CAMERAS["wrist"].width
        q, image = studio.shots[studio.at]
        shot, joints = client.shot()
        np.testing.assert_array_equal(shot, image)
        assert joints == pytest.approx(dict(zip(SINGLE.joints, q.tolist(), strict=True)))
    finally:
        client.close()
        rclpy.shutdown()


WRONG = {
    ("camera/image_raw", "raw"): (
        "no image comes on camera/image_raw; there is /wrist/color/image_raw: name one by --image-topic"
    ),
    ("lone/image_raw", "raw"): (
        "no image comes on lone/image_raw; give --image-transport compressed, which is published"
    ),
    ("camera/image_raw", "compressed"): (
        "no image comes on camera/image_raw/compressed; there is /lone/image_raw/compressed, "
        "/wrist/color/image_raw/compressed: name one by --image-topic"
    ),
}


@pytest.mark.parametrize(("image", "transport"), WRONG)
def test_what_is_not_published_is_named_with_what_is(studio: Studio, image: str, transport: ImageTransport) -> None:
    published = "/lone/image_raw/compressed", "/wrist/color/image_raw", "/wrist/color/image_raw/compressed"
    lone = studio.node.create_publisher(CompressedImage, published[0], qos.RELIABLE)
    rclpy.init()
    client = CalibrationClient(CalibrationTopics(image, "wrist/color/camera_info", "joint_states", transport), SINGLE)
    try:
        assert studio.until(lambda: all(client.count_publishers(topic) for topic in published))
        with pytest.raises(RuntimeError) as refused:
            client.wait(0.0)
        assert str(refused.value) == WRONG[image, transport]
    finally:
        client.close()
        rclpy.shutdown()
        studio.node.destroy_publisher(lone)


def test_a_calibration_that_finds_no_camera_ends_with_one_line(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "FOUND", 0.5)
    assert main(["calibrate", *FLAGS, "--image-topic", "no/image", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no image comes on no/image; ") and error.count("\n") == 1
