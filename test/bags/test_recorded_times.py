"""Recordings whose stamps cannot be believed, and joints in several messages, read by what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.bags.recording import Recording

START = 100.0
ARM, HAND = ["fr3_joint1", "fr3_joint2"], ["fr3_finger_joint1"]
FRONT, WRIST = "/front/color/image_raw", "/wrist/color/image_raw"


def record(
    folder: Path, stamp: Callable[[float], float] = lambda t: t, joint_stamp: Callable[[float], float] | None = None,
    arm: Callable[[int], list[float]] = lambda k: [0.01 * k, -0.01 * k], count: int = 20,
    received: Callable[[float], float] = lambda t: t,
) -> Path:  # fmt: skip
    """Two cameras, and an arm and a hand on one topic, ten times a second; `received` gives times of receipt."""
    black = np.zeros((8, 8, 3), np.uint8)
    with BagWriter(folder) as bag:
        out = EpisodeWriter(bag, "raw")
        for k in range(count):
            now = START + k / 10
            for topic in (FRONT, WRIST):
                out.image(topic, black + k, "rgb8", stamp(now), received(now))
            at = (joint_stamp or stamp)(now)
            for names, positions in ((ARM, arm(k)), (HAND, [0.04])):
                head = out.header(at, "base")
                out.write("/joint_states", "sensor_msgs/msg/JointState", received(now), header=head, name=names,
                          position=np.array(positions))  # fmt: skip
    return folder


def test_good_stamps_need_no_note(tmp_path: Path) -> None:
    with Recording(record(tmp_path / "bag")) as recording:
        assert np.allclose(recording.stamps(FRONT), START + np.arange(20) / 10)
        samples = recording.joint_samples([*ARM, *HAND, "none"])
        assert sorted(samples) == sorted([*ARM, *HAND])
        assert all(len(times) == len(positions) == 20 for times, positions in samples.values())
        assert not recording.notes


def test_images_without_stamps_are_read_by_their_receipt(tmp_path: Path) -> None:
    with Recording(record(tmp_path / "bag", stamp=lambda t: 0.0)) as recording:
        assert np.allclose(recording.stamps(FRONT), START + np.arange(20) / 10)
        steps = recording.steps("put", period=0.5)
        observations = [observation for _, observation in recording.observations(steps)]
        assert [int(o.images[0][0, 0, 0]) for o in observations] == [0, 5, 10, 15]
        assert any(
            note == f"images on {FRONT} are stamped 0: their times of receipt are used" for note in recording.notes
        )
        assert sum("stamped 0" in note for note in recording.notes) == 4  # of the arm and of the hand, too


@pytest.mark.parametrize("recorder", ["machine's clock", "the loop's clock"])
def test_of_a_loop_one_pass_is_read_by_every_topic(tmp_path: Path, recorder: str) -> None:
    """Also where the recorder's clock went back with it: then two messages have each time of receipt."""

    def loop(t: float) -> float:
        return t if t < START + 1.15 else t - 1.2

    bag = record(tmp_path / "bag", stamp=loop, received=loop if "loop" in recorder else lambda t: t)
    with Recording(bag) as recording:
        assert [int(recording.picture(m)[1][0, 0, 0]) for m in recording.messages([FRONT])] == [*range(12)]
        assert np.allclose(recording.stamps(WRIST), START + np.arange(12) / 10)
        assert len(recording.decoded("/joint_states")) == 24
        (note,) = recording.notes
        assert "go back by 1.10 s after 12 of 20" in note and "12 of 20 images" in note


def test_joints_by_another_clock_are_read_by_that_of_the_images(tmp_path: Path) -> None:
    with Recording(record(tmp_path / "bag", joint_stamp=lambda t: t + 5000.0)) as recording:
        times, positions = recording.joint_samples(ARM)["fr3_joint1"]
        assert np.allclose(times, START + np.arange(20) / 10) and np.allclose(positions, np.arange(20) / 100)
        assert any("another clock" in note for note in recording.notes)


def test_positions_that_are_no_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", arm=lambda k: [float("nan") if k in (3, 4) else 0.01 * k, float("inf") * (k == 7)])
    with Recording(bag) as recording:
        samples = recording.joint_samples(ARM)
        assert len(samples["fr3_joint1"][0]) == 18 and not np.isin([0.03, 0.04], samples["fr3_joint1"][1]).any()
        assert (
            "2 positions of the joint fr3_joint1 on /joint_states are not finite numbers: left out" in recording.notes
        )


def test_messages_that_have_no_time_at_all_are_refused(tmp_path: Path) -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    with BagWriter(tmp_path / "bag") as bag:
        for _ in range(9):
            EpisodeWriter(bag, "raw").image(FRONT, black, "rgb8", 0.0, 5.0)
    with Recording(tmp_path / "bag") as recording, pytest.raises(ValueError, match="neither the stamps of images on"):
        recording.stamps(FRONT)
