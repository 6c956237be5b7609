"""The check of an episode by its bag: cameras, joints, arm, recorder, and what the record takes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.bags.recording import TopicNames
from molmoact_ros.datasets.episode_check import examine_bag
from molmoact_ros.datasets.episode_record import EpisodeRecord
from molmoact_ros.datasets.interventions import POLICY, TELEOP
from molmoact_ros.robots.franka import HOME_Q, SINGLE

BEGIN, END = 102.0, 108.0
HOLD = 2


def write(
    bag: Path, cameras: tuple[str, ...] = ("front", "wrist"), ends: dict[str, float] | None = None,
    moves: float = 0.1, joints_end: float = 109.0, states: tuple[tuple[float, int], ...] = ((100.0, TELEOP),),
    lost: dict[str, str] | None = None, limit: float = 0.5,
) -> Path:  # fmt: skip
    """Nine seconds from 100 s on of an arm whose joint 1 moves `moves` rad; ends: when a camera is unplugged, s."""
    with BagWriter(bag, about=lost) as writer:
        episode = EpisodeWriter(writer, form="raw")
        episode.write(
            "/recorder/parameters", "rcl_interfaces/msg/ParameterEvent", 100.0, node="/controller",
            new_parameters=[parameter(episode, "speed", limit)],
        )  # fmt: skip
        transform = episode.make(
            "geometry_msgs/msg/TransformStamped", header=episode.header(100.0, "fr3_link0"),
            child_frame_id="front_color_optical_frame",
        )  # fmt: skip
        transform.transform.translation.x, transform.transform.rotation.w = 1.13, 1.0
        episode.write("/tf_static", "tf2_msgs/msg/TFMessage", 100.0, transforms=[transform])
        for k in range(900):
            now = 100.0 + k / 100
            for camera in cameras if k % 10 == 0 else ():
                if now < (ends or {}).get(camera, np.inf):
                    image = np.full((4, 6, 3), k % 255, np.uint8)
                    episode.image(f"/{camera}/color/image_raw", image, "rgb8", now)
            if k % 50 == 0 and "front" in cameras:
                info = {"header": episode.header(now, "front_color_optical_frame"), "width": 6, "height": 4}
                k_matrix = np.array([5.0, 0, 3, 0, 5, 2, 0, 0, 1])
                episode.write("/front/color/camera_info", "sensor_msgs/msg/CameraInfo", now, k=k_matrix, **info)
            if now < joints_end:
                q = HOME_Q + [moves * k / 900, 0, 0, 0, 0, 0, 0]
                episode.joints([*SINGLE.joints, *SINGLE.fingers], np.append(q, [0.04, 0.04]), np.zeros(9), now)
        for stamp, state in states:
            episode.safety(stamp, state, "", 0, {})
    return bag


def parameter(episode: EpisodeWriter, name: str, value: float) -> Any:
    held = episode.make("rcl_interfaces/msg/ParameterValue", type=3, double_value=value)
    return episode.make("rcl_interfaces/msg/Parameter", name=name, value=held)


def examined(bag: Path, begin: float = BEGIN, end: float = END) -> EpisodeRecord:
    draft = EpisodeRecord(session="s", number=0, task="move", begin=begin, end=end)
    return examine_bag(bag, TopicNames(), draft)


def test_a_sound_episode_has_no_problems(tmp_path: Path) -> None:
    found = examined(write(tmp_path / "bag"))
    assert found.problems == []
    assert found.cameras["front"].images == 61 and found.cameras["wrist"].rate == pytest.approx(10.0)
    assert found.moved == pytest.approx(0.1 * 600 / 900, abs=1e-3), "within the episode alone"
    assert found.actions == "commanded" and found.interventions == [] and found.checkpoint == ""
    assert found.calibration["front"]["k"][0] == 5.0 and "wrist" not in found.calibration
    (above,) = found.calibration["front"]["transforms"]
    assert (above["parent"], above["translation"]) == ("fr3_link0", [1.13, 0.0, 0.0])


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"cameras": ("front",)}, "camera wrist: 0 images"),
        ({"ends": {"wrist": 105.0}}, "camera wrist: 3.10 s without an image"),
        ({"moves": 0.01}, "the arm did not move"),
        ({"joints_end": 107.0}, "joint states: 1.01 s without any"),
        ({"lost": {"recorder.pictures": "7", "recorder.problem": "disk full"}}, "7 images and 0 other messages"),
    ],
)
def test_each_fault_is_a_line_of_its_own(tmp_path: Path, how: dict[str, Any], line: str) -> None:
    (problem,) = examined(write(tmp_path / "bag", **how)).problems
    assert problem.startswith(line), problem


def test_what_happens_outside_of_the_episode_is_no_fault(tmp_path: Path) -> None:
    assert examined(write(tmp_path / "bag", ends={"front": 108.3}, joints_end=108.1)).problems == []


def test_hand_guiding_is_told_from_commands(tmp_path: Path) -> None:
    found = examined(write(tmp_path / "bag", states=((100.0, TELEOP), (101.0, HOLD))))
    assert found.actions == "measured", "the way home before the episode does not count"
    assert examined(write(tmp_path / "none", states=())).actions == "measured"


def test_interventions_are_those_of_the_episode(tmp_path: Path) -> None:
    states = ((100.0, POLICY), (103.0, TELEOP), (104.5, POLICY), (107.0, TELEOP), (108.5, HOLD))
    assert examined(write(tmp_path / "bag", states=states)).interventions == [(103.0, 104.5), (107.0, END)]


def test_the_hash_of_the_configuration_follows_the_parameters(tmp_path: Path) -> None:
    first, same, other = (
        examined(write(tmp_path / name, limit=limit)) for name, limit in (("a", 0.5), ("b", 0.5), ("c", 0.6))
    )
    assert first.config == same.config != other.config and len(first.config) == 64
    assert first.calibration_hash == other.calibration_hash != ""


def test_an_episode_that_was_left_behind_says_itself_when_it_began(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag")
    assert examined(bag, 0.0, 0.0).problems == ["the episode had not begun when its recorder ended"]


def test_a_bag_that_cannot_be_read_is_a_problem_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag.mcap").write_bytes(b"nonsense")
    for bag in (tmp_path / "bag", tmp_path / "nowhere"):
        (problem,) = examined(bag).problems
        assert problem.startswith("its bag cannot be read: "), problem
