"""`molmoact-ros calibrate` on views of before: a folder, or a bag; and what it says where it cannot."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.spatial.transform import Rotation

from molmoact_ros.bags.bag import BagMessage, BagWriter
from molmoact_ros.cameras.charuco import CharucoBoard
from molmoact_ros.cli.calibration_views import VIEWS, CameraShot, ViewFolder
from molmoact_ros.cli.main import main
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.ros.camera_pose import CameraPose

from ..cameras.board_scene import CAMERAS, BoardScene

BOARD = CharucoBoard(5, 7, 0.03, 0.022)
FLAGS = ("--square", "30", "--marker", "22")


class Views:
    """Fifteen views of the wrist camera in the simulator, and the camera's true pose."""

    def __init__(self, folder: Path) -> None:
        scene = BoardScene(BOARD, "wrist", folder)
        self.lens, self.true = CAMERAS["wrist"], scene.camera_pose()
        self.joints = [
            dict(zip(SINGLE.joints, q.tolist(), strict=True)) for q in scene.poses(np.random.default_rng(2), 15)
        ]
        self.images = [scene.render(np.array(list(joints.values()))) for joints in self.joints]
        scene.close()

    def write(self, folder: Path, count: int = 15) -> Path:
        made = ViewFolder(folder, self.lens, {"camera": "wrist"})
        for number in range(count):
            made.write_view(CameraShot(f"{number + 1:02d}", self.images[number], self.joints[number]))
        return folder

    def is_near(self, found: CameraPose) -> bool:
        away = 1e3 * np.linalg.norm(found.pose[:3, 3] - self.true[:3, 3])
        turn = Rotation.from_matrix(found.pose[:3, :3].T @ self.true[:3, :3]).magnitude()
        return bool(away < 2.0 and np.degrees(turn) < 0.3)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Views:
    return Views(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def written(views: Views, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The views as a folder, for tests that write nothing into it."""
    return views.write(tmp_path_factory.mktemp("views"))


def test_a_folder_of_views_gives_a_static_transform_and_a_picture(
    views: Views, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "views"
    shutil.copytree(written, folder)
    assert main(["calibrate", str(folder), *FLAGS]) == 0
    said = capsys.readouterr().out
    found = CameraPose.read(folder / "wrist.yaml")
    assert (found.parent, found.child) == ("fr3_hand", "wrist_color_optical_frame") and views.is_near(found)
    assert found.about["mount"] == "hand" and found.about["residual_px"] < 0.5 and found.about["residual_mm"] < 2.0
    with Image.open(folder / "wrist.jpg") as picture:
        assert picture.width == 1600
    for words in (
        "residual",
        " px and ",
        "mm",
        str(folder / "wrist.yaml"),
        "static_transform_publisher",
        "calibrations:",
    ):
        assert words in said
    command = next(line for line in said.splitlines() if "static_transform_publisher" in line).split()
    assert float(command[command.index("--x") + 1]) == pytest.approx(views.true[0, 3], abs=2e-3)


def test_a_bag_gives_the_same(views: Views, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(views, tmp_path / "bag")
    assert main(["calibrate", str(bag), "--camera", "wrist", *FLAGS, "--out", str(tmp_path / "out")]) == 0
    assert views.is_near(CameraPose.read(tmp_path / "out" / "wrist.yaml"))
    assert main(["calibrate", str(bag), "--camera", "left", *FLAGS, "--out", str(tmp_path / "out")]) == 1
    assert "--image-topic" in capsys.readouterr().err


def write_bag(views: Views, folder: Path) -> Path:
    """The arm goes from view to view and stands at each for 0.9 s; hand and arm are in two messages."""
    k, stamp = views.lens, 10_000_000_000
    with BagWriter(folder) as bag:

        def write(topic: str, kind: str, **fields: object) -> None:
            bag.write(BagMessage(topic, kind, bag.types.encode(bag.types.make(kind, **fields)), stamp))

        matrix = np.array([k.fx, 0, k.cx, 0, k.fy, k.cy, 0, 0, 1.0])
        info = {"width": k.width, "height": k.height, "distortion_model": k.model, "d": np.zeros(5), "k": matrix}
        write("/wrist/color/camera_info", "sensor_msgs/msg/CameraInfo", **info)
        before = np.array(list(views.joints[0].values()))
        for image, joints in zip(views.images, views.joints, strict=True):
            now = np.array(list(joints.values()))
            for step in range(40):
                stamp += 30_000_000
                q = before + (now - before) * min(1.0, step / 10)
                state = {"name": list(joints), "position": q}
                write("/joint_states", "sensor_msgs/msg/JointState", **state)
                write(
                    "/joint_states", "sensor_msgs/msg/JointState", name=["fr3_finger_joint1"], position=np.array([0.04])
                )
                if step % 8 == 7:
                    shown = image if step > 10 else np.zeros_like(image)
                    size = {"height": k.height, "width": k.width, "step": 3 * k.width}
                    data = {"encoding": "rgb8", "data": shown.ravel()}
                    write("/wrist/color/image_raw", "sensor_msgs/msg/Image", **size, **data)
            before = now
    return folder


WRONG = {
    "the size of the squares": (["--square", "25", "--marker", "18.3"], "the squares seem to be 30.0 mm, not 25"),
    "the dictionary": ([*FLAGS, "--dictionary", "5X5_100"], "not found in 15 of 15 views: .*--dictionary 4X4_50"),
    "columns and rows": ([*FLAGS, "--board", "7x5"], "not found in 15 of 15 views: .*--board 5x7 fits"),
    "how the camera is mounted": ([*FLAGS, "--mount", "fixed"], "--mount hand"),
    "a board that cannot be": (["--board", "five"], "form 5x7"),
    "a marker in metres": (["--square", "30", "--marker", "31"], "do not fit into squares"),
    "a dictionary that is none": ([*FLAGS, "--dictionary", "4x4"], "there are.*4X4_50"),
    "a frame that is none": ([*FLAGS, "--hand-frame", "panda_hand"], "panda_hand is no frame"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(written: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags, words = WRONG[name]
    assert main(["calibrate", str(written), *flags]) == 1
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(words, error), error
    assert not (written / "wrist.yaml").exists()


def test_malformed_views_are_refused_and_kept(views: Views, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = views.write(tmp_path / "views", 5)
    assert main(["calibrate", str(folder), *FLAGS]) == 1 and "too few" in capsys.readouterr().err
    said = yaml.safe_load((folder / VIEWS).read_text())
    with pytest.raises(FileExistsError, match="--out"):
        ViewFolder(folder, views.lens, {})
    for change, words in (
        ({"intrinsics": None}, "not of molmoact-ros calibrate"),
        ({"views": [{"image": "01.png", "joints": {"fr3_joint1": 0.0}}]}, "fr3_joint2"),
        ({"intrinsics": said["intrinsics"] | {"width": 640}}, "848x480.*640x480"),
    ):
        (folder / VIEWS).write_text(yaml.safe_dump(said | change))
        assert main(["calibrate", str(folder), *FLAGS]) == 1
        assert re.search(words, error := capsys.readouterr().err) and len(error.strip().splitlines()) == 1, error


def test_the_board_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--print-board", str(tmp_path / "board.pdf")]) == 0
    assert (tmp_path / "board.pdf").read_bytes().startswith(b"%PDF") and "measure a square" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"), ("parent: a", "child"), ("[]", "dictionary|valid"),
        ("{parent: a, child: b, translation: [0, 0, 0], rotation: [0, 0, 0, 0]}", "length 1"),
        ("{parent: a, child: b, translation: [0, .nan, 0], rotation: [0, 0, 0, 1]}", "finite"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_transform_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "front.yaml").write_text(text)
    with pytest.raises(ValueError, match=words) as said:
        CameraPose.read(tmp_path / "front.yaml")
    assert "\n" not in str(said.value)
    with pytest.raises(FileNotFoundError, match="whole path"):
        CameraPose.read(tmp_path / "other.yaml")
