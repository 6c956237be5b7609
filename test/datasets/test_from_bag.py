"""Bags of ordinary robots become datasets: joints by name, each frame its instruction, and nothing is lost unsaid."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.cli.main import main
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.from_bag import pauses, without_pauses
from molmoact_ros.datasets.joint_tracks import JointTracks
from molmoact_ros.datasets.lerobot_reader import Dataset
from molmoact_ros.datasets.mapping_options import MappingOptions
from molmoact_ros.robots.franka import HOME_Q, SINGLE
from molmoact_ros.utils.paths import robot_model

FPS, SECONDS, START = 10, 2, 50.0
KINEMATICS = Kinematics(robot_model())
TASKS = ("put the red cube in the bowl", "open the drawer")
ARM, FINGERS = list(SINGLE.joints), list(SINGLE.fingers)
Robot = Callable[[EpisodeWriter, int, float], None]


def arm_at(time: float) -> np.ndarray:
    return HOME_Q + 0.1 * np.sin(time)


def publish(out: EpisodeWriter, names: Sequence[str], position: Any, now: float, topic: str = "/joint_states") -> None:
    out.joints(names, np.asarray(position, np.float64), np.zeros(0), now, topic)


def whole(out: EpisodeWriter, k: int, now: float) -> None:
    publish(out, [*ARM, *FINGERS], [*arm_at(now), 0.03, 0.03], now)


def write(
    folder: Path, robot: Robot = whole, size: Callable[[int], tuple[int, int]] = lambda k: (24, 32),
    task: Callable[[int], str] = lambda k: TASKS[0],
) -> Path:  # fmt: skip
    """SECONDS of a robot at 100 Hz, with two cameras at FPS and a status at each of their frames."""
    with BagWriter(folder) as bag:
        out = EpisodeWriter(bag)
        for k in range(100 * SECONDS):
            now = START + k / 100
            robot(out, k, now)
            if k % (100 // FPS) == 0:
                out.engine_status(now, task(k), 1, 0.1)
                for camera in ("front", "wrist"):
                    out.image(f"/{camera}/color/image_raw", np.full((*size(k), 3), k, np.uint8), "rgb8", now)
    return folder


def export(tmp_path: Path, robot: Robot = whole, *options: str) -> Demonstration:
    bag = write(tmp_path / "bag", robot)
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "ds"), *options]) == 0
    return read(tmp_path / "ds")


def read(folder: Path) -> Demonstration:
    dataset = Dataset.open(folder)
    return dataset.episode(0, dataset.mapping(MappingOptions()))


def test_arm_and_hand_in_two_messages(tmp_path: Path) -> None:
    def apart(out: EpisodeWriter, k: int, now: float) -> None:
        publish(out, ARM, arm_at(now), now)
        if k % 7 == 0:
            publish(out, FINGERS, [0.03, 0.03], now)

    expected = export(tmp_path / "whole")
    found = export(tmp_path / "apart", apart)
    for name in ("states", "joints", "actions"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-7, err_msg=name)
    np.testing.assert_allclose(found.states[:, 6], 0.75, atol=1e-6)


def test_fingers_on_their_drivers_own_topic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def apart(out: EpisodeWriter, k: int, now: float) -> None:
        publish(out, ARM, arm_at(now), now)
        publish(out, FINGERS, [0.01, 0.01], now, "/fr3_gripper/joint_states")

    found = export(tmp_path, apart)
    np.testing.assert_allclose(found.states[:, 6], 0.25, atol=1e-6)
    assert "fr3_finger_joint1 and fr3_finger_joint2 are those of /fr3_gripper/joint_states" in capsys.readouterr().err


def test_another_hand_and_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def robotiq(out: EpisodeWriter, k: int, now: float) -> None:
        publish(out, [*ARM, "knuckle"], [*arm_at(now), 0.2], now)

    bag = write(tmp_path / "other", robotiq)
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "ds")]) == 1
    error = capsys.readouterr().err
    assert "no position of fr3_finger_joint1, fr3_finger_joint2" in error and "JOINT=OPEN:CLOSED, or 1" in error
    for option, opening in (("knuckle=0:0.8", 0.75), ("1", 1.0), ("0", 0.0)):
        folder = tmp_path / f"ds-{opening}"
        assert main(["to-lerobot", str(bag), "--out", str(folder), "--gripper", option]) == 0
        episode = read(folder)
        np.testing.assert_allclose(episode.states[:, 6], opening, atol=1e-6)
        assert episode.joints is not None
        np.testing.assert_allclose(episode.joints[:, 7:], 0.04 * opening, atol=1e-6)
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "no"), "--gripper", "knuckle=0:0.1"]) == 1
    assert "the gripper's states lie in 0.2 .. 0.2, not in 0.1 (closed) .. 0 (open)" in capsys.readouterr().err


def test_each_frame_has_the_instruction_of_its_time(tmp_path: Path) -> None:
    first = write(tmp_path / "a", task=lambda k: "" if k < 30 else TASKS[0] if k < 100 else TASKS[1])
    second = write(tmp_path / "b", task=lambda k: TASKS[1])
    silent = write(tmp_path / "c", task=lambda k: "")
    out = tmp_path / "ds"
    assert main(["to-lerobot", *map(str, (first, second, silent)), "--out", str(out), "--instruction", "tidy up"]) == 0
    dataset = Dataset.open(out)
    mapping = dataset.mapping(MappingOptions())
    tasks = [dataset.episode(number, mapping).tasks for number in dataset.episodes]
    assert tasks == [[TASKS[0]] * 10 + [TASKS[1]] * 10, [TASKS[1]] * 20, ["tidy up"] * 20]
    rows = pyarrow.parquet.read_table(out / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [row["tasks"] for row in rows] == [list(TASKS), [TASKS[1]], ["tidy up"]]
    # And back into bags, frame by frame.
    assert main(["from-lerobot", str(out), "--out", str(tmp_path / "bags"), "--episode", "0"]) == 0
    assert main(["to-lerobot", str(tmp_path / "bags/episode_000000"), "--out", str(tmp_path / "again")]) == 0
    assert read(tmp_path / "again").tasks == tasks[0]


def test_joints_that_are_not_numbers_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(out: EpisodeWriter, k: int, now: float) -> None:
        position = [*arm_at(now), 0.03, 0.03]
        position[3 if k < 110 else 7] = [np.nan, np.inf][k % 2] if 100 <= k < 115 else position[3 if k < 110 else 7]
        publish(out, [*ARM, *FINGERS], position, now)

    expected = export(tmp_path / "whole")
    found = export(tmp_path / "broken", broken)
    error = capsys.readouterr().err
    assert "10 positions of the joint fr3_joint4 on /joint_states" in error
    assert "5 positions of the joint fr3_finger_joint1 on /joint_states" in error
    np.testing.assert_allclose(found.states, expected.states, atol=1e-3)  # interpolated over a tenth of a second

    def never(out: EpisodeWriter, k: int, now: float) -> None:
        publish(out, [*ARM, *FINGERS], [*arm_at(now)[:6], np.nan, 0.03, 0.03], now)

    bag = write(tmp_path / "never", never)
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "no")]) == 1
    assert "no message on /joint_states has a position of fr3_joint7 that is a finite number" in capsys.readouterr().err


def test_frames_without_joint_states_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def late(out: EpisodeWriter, k: int, now: float) -> None:
        if k >= 55 and not 90 <= k < 160:
            whole(out, k, now)

    found = export(tmp_path, late)
    error = capsys.readouterr().err
    assert "5 of 20 frames are left out: /joint_states has no joint states at their times" in error
    assert "0.71 s without the arm's joints" in error
    expected = export(tmp_path / "whole")
    assert len(found.states) == 15
    np.testing.assert_allclose(found.states[0], expected.states[5], atol=0.02)  # 0.05 s before its first message


def test_a_pause_cuts_an_episode() -> None:
    """A recorder that was paused, and a camera that was plugged in again: no frame shows what was long before it."""
    images = np.r_[0:10:0.1, 60:100:0.1]
    joints = np.r_[0:10.3:0.05, 59.9:80:0.05, 95:100:0.05]
    ticks = np.arange(1000) / 10
    kept, (note,) = without_pauses(ticks, [*pauses("/image", images), *pauses("/joints", joints)])
    np.testing.assert_allclose(kept, np.arange(600, 800) / 10)
    assert note == ("/image has nothing for 50.1 s: the longest part without such a pause is read, 200 of 1000 frames")
    assert without_pauses(ticks, pauses("/slow", np.arange(0, 100, 1.9))) == (ticks, [])


def test_joints_in_degrees_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def degrees(out: EpisodeWriter, k: int, now: float) -> None:
        publish(out, [*ARM, *FINGERS], [*np.degrees(arm_at(now)), 0.03, 0.03], now)

    bag = write(tmp_path / "bag", degrees)
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "new" / "ds")]) == 1
    assert "the joint states on /joint_states have positions of 14" in (error := capsys.readouterr().err)
    assert "these are not rad" in error and sorted(path.name for path in tmp_path.iterdir()) == ["bag"]


@pytest.mark.parametrize("name", ["panda", "fer", "left_fr3"])
def test_a_frankas_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A Panda's links are as long as the FR3's."""
    arm, fingers = [f"{name}_joint{j}" for j in range(1, 8)], [f"{name}_finger_joint{j}" for j in (1, 2)]

    def named(out: EpisodeWriter, k: int, now: float) -> None:
        publish(out, [*fingers, *reversed(arm)], [0.03, 0.03, *arm_at(now)[::-1]], now)
        out.command(f"/{name}_arm_controller/joint_trajectory", arm, arm_at(now + 0.1), np.zeros(7), 0.01, now)

    found = export(tmp_path, named)
    assert f"joints of {name} are written under the FR3's names" in capsys.readouterr().err
    expected = export(tmp_path / "fr3")
    np.testing.assert_allclose(found.states, expected.states, atol=1e-6)
    # What was commanded was due a frame later.
    np.testing.assert_allclose(found.actions[:-2, :6], expected.actions[1:-1, :6], atol=1e-5)


def test_two_arms_become_one_dataset_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The right arm stands where the left one is half a second later; its hand closes, and the left one's opens."""

    def both(out: EpisodeWriter, k: int, now: float) -> None:
        for side, at, finger in (("left_", now, 0.04), ("right_", now + 0.5, 0.01)):
            publish(out, [f"{side}{name}" for name in (*ARM, *FINGERS)], [*arm_at(at), finger, finger], now)
            arm = [f"{side}{joint}" for joint in ARM]
            out.command(f"/{side}fr3_arm_controller/joint_trajectory", arm, arm_at(at + 0.1), np.zeros(7), 0.01, now)
            goal = np.array([0.04 if side == "right_" else 0.0])
            out.command(
                f"/{side}fr3_gripper_controller/joint_trajectory", [f"{side}{FINGERS[0]}"], goal, np.zeros(1), 0.1, now
            )

    found = export(tmp_path, both)
    alone = export(tmp_path / "alone")
    assert found.arms == ("left_", "right_") and found.action_source == "commanded"
    assert alone.action_source == "measured", "nobody commanded it"
    left, right = [0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]
    np.testing.assert_allclose(found.states[:, left], alone.states[:, :6], atol=1e-5)
    np.testing.assert_allclose(found.states[:-5, right], alone.states[5:, :6], atol=1e-5)
    np.testing.assert_allclose(found.states[:, 12:], [[1.0, 0.25]] * 20, atol=1e-6)
    np.testing.assert_array_equal(found.actions[:, 12:], [[0.0, 1.0]] * 20)
    # What was commanded was due a frame later.
    np.testing.assert_allclose(found.actions[:-2][:, left], alone.actions[1:-1, :6], atol=1e-5)
    assert found.joints is not None and found.joints.shape == (20, 18)
    capsys.readouterr()
    assert main(["from-lerobot", str(tmp_path / "ds"), "--out", str(tmp_path / "bags")]) == 0
    mapping = capsys.readouterr().out.splitlines()[0].removeprefix("mapping: ")
    back = tmp_path / "bags" / "episode_000000"
    assert main(["to-lerobot", str(back), "--out", str(tmp_path / "again")]) == 0
    given = shlex.split(mapping)
    assert main(["from-lerobot", str(tmp_path / "again"), "--out", str(tmp_path / "more"), *given]) == 0, mapping
    again = read(tmp_path / "again")
    for name in ("states", "actions", "joints"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name), name)


@pytest.mark.parametrize("prefixes", [("a_", "b_"), ("left_", "middle_", "right_")])
def test_arms_that_have_no_sides_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prefixes: tuple[str, ...]
) -> None:
    def several(out: EpisodeWriter, k: int, now: float) -> None:
        for prefix in prefixes:
            publish(out, [f"{prefix}{joint}" for joint in ARM], arm_at(now), now)

    assert main(["to-lerobot", str(write(tmp_path / "bag", several)), "--out", str(tmp_path / "ds")]) == 1
    error = capsys.readouterr().err
    assert f"of several arms ({prefixes[0]}fr3" in error and "begin with left_ and right_" in error


def target_joint(out: EpisodeWriter, now: float) -> None:
    out.joints(ARM, arm_at(now + 0.1), np.zeros(0), now, "/target_joint")


def forward_position(out: EpisodeWriter, now: float) -> None:
    topic = "/forward_position_controller/commands"
    out.write(topic, "std_msgs/msg/Float64MultiArray", now, data=arm_at(now + 0.1))


def target_pose(out: EpisodeWriter, now: float) -> None:
    hand = KINEMATICS.forward(arm_at(now + 0.1))
    position = out.make("geometry_msgs/msg/Point", **dict(zip("xyz", hand.position.tolist(), strict=True)))
    turn = out.make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", hand.rotation.as_quat().tolist(), strict=True)))
    pose = out.make("geometry_msgs/msg/Pose", position=position, orientation=turn)
    out.write("/target_pose", "geometry_msgs/msg/PoseStamped", now, header=now, pose=pose)


@pytest.mark.parametrize("sink", [target_joint, forward_position, target_pose])
def test_commands_are_those_of_whichever_sink_was_used(tmp_path: Path, sink: Callable[..., None]) -> None:
    def robot(out: EpisodeWriter, k: int, now: float) -> None:
        whole(out, k, now)
        sink(out, now)
        out.write("/fr3_gripper_controller/commands", "std_msgs/msg/Float64MultiArray", now, data=np.array([0.01] * 2))

    found = export(tmp_path, robot)
    expected = export(tmp_path / "measured")
    assert (found.action_source, expected.action_source) == ("commanded", "measured")
    np.testing.assert_allclose(found.actions[:-2, :6], expected.actions[1:-1, :6], atol=1e-5)
    np.testing.assert_allclose(found.actions[:, 6], 0.25, atol=1e-6)


def test_one_broken_episode_is_named_and_the_rest_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bag without images, one whose file is cut off, and a dataset with a damaged table."""
    good = write(tmp_path / "good")
    with BagWriter(tmp_path / "blind") as bag:
        whole(EpisodeWriter(bag), 0, START)
    cut = write(tmp_path / "cut")
    file = next(cut.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:40])
    out = tmp_path / "ds"
    bags = [str(tmp_path / name) for name in ("blind", "good", "cut")]
    assert main(["to-lerobot", *bags, str(good), "--out", str(out), "--version", "2.1"]) == 0
    said = capsys.readouterr()
    assert "2 episodes, 40 frames" in said.out and "blind is left out: the bag has no images at all" in said.err
    assert "cut is left out: " in said.err
    table = out / "data" / "chunk-000" / "episode_000000.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    assert main(["to-lerobot", str(out), str(good), "--out", str(tmp_path / "again")]) == 0
    said = capsys.readouterr()
    assert "2 episodes, 40 frames" in said.out and f"episode 0 of {out} is left out: {table} cannot be read" in said.err
    assert read(tmp_path / "again").tasks == [TASKS[0]] * 20
    assert main(["to-lerobot", bags[0], bags[2], "--out", str(tmp_path / "none")]) == 1
    assert "blind: the bag has no images at all" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_joints_of_another_robot_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def other(out: EpisodeWriter, k: int, now: float) -> None:
        publish(out, [f"ur_joint{j}" for j in range(7)], arm_at(now), now)

    bag = write(tmp_path / "bag", other)
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "ds")]) == 1
    assert "lack fr3_joint1" in (error := capsys.readouterr().err) and "they have ur_joint0" in error

    def elsewhere(out: EpisodeWriter, k: int, now: float) -> None:
        publish(out, [*ARM, *FINGERS], [*arm_at(now), 0.03, 0.03], now, "/franka/joint_states")

    bag = write(tmp_path / "elsewhere", elsewhere)
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "ds")]) == 1
    assert "--remap /franka/joint_states:=/joint_states" in capsys.readouterr().err
    assert not (tmp_path / "ds").exists()


def test_a_camera_that_is_not_there_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is offered for it is no image of another camera."""
    with BagWriter(tmp_path / "bag") as bag:
        EpisodeWriter(bag).image("/front/color/image_raw", np.zeros((24, 32, 3), np.uint8), "rgb8", START)
    command = ["to-lerobot", str(tmp_path / "bag"), "--out", str(tmp_path / "ds"), "--instruction", TASKS[0]]
    assert main(command) == 1
    assert "no images on /wrist/color/image_raw; give --cameras front, which it has" in capsys.readouterr().err
    assert main([*command, "--cameras", "front"]) == 1
    assert "no joint states on /joint_states" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [1, 20])
def test_images_without_pixels_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: int) -> None:
    """One that is cut off costs no episode; where all are, they are what is wrong."""
    count = 0
    with BagReader(write(tmp_path / "good")) as reader, BagWriter(tmp_path / "bag") as writer:
        for message in reader.messages():
            data = message.data
            if message.topic.startswith("/wrist/") and (count := count + 1) <= broken:
                image = reader.decode(message)
                image.data = image.data[:10]
                data = writer.types.encode(image)
            writer.write(BagMessage(message.topic, message.type_name, data, message.stamp_ns))
    status = main(["to-lerobot", str(tmp_path / "bag"), "--out", str(tmp_path / "ds")])
    error = capsys.readouterr().err
    assert "a recorded image cannot be read: a compressed image claims 0x0 pixels" in error
    if broken == 20:
        assert status == 1 and "the bag has no images on /wrist/color/image_raw/compressed: a recorded" in error
        return
    assert (
        "1 messages on /wrist/color/image_raw/compressed are left out" in error
        and len(read(tmp_path / "ds").states) == 19
    )


@pytest.mark.parametrize("video", [False, True])
def test_a_failed_export_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], video: bool) -> None:
    """A camera changes its size in the middle: refused, and nothing stays; scaled, it is a dataset."""
    bag = write(tmp_path / "bag", size=lambda k: (24, 32) if k < 100 else (48, 64))
    command = ["to-lerobot", str(bag), "--out", str(tmp_path / "ds"), *(["--video"] if video else [])]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"the images of front are 64x48 from frame 10 of {bag} on, and 32x24 before" in error
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    assert main([*command, "--size", "40x30"]) == 0
    assert [image.shape for image in read(tmp_path / "ds").pictures["front"]()] == [(30, 40, 3)] * 20


def test_odd_sizes_are_padded_for_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write(tmp_path / "bag", size=lambda k: (25, 33))
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "ds"), "--video"]) == 0
    assert "the images of front are 33x25: padded to 34x26 for H.264" in capsys.readouterr().err
    info = json.loads((tmp_path / "ds" / "meta" / "info.json").read_text())
    assert info["features"]["image"]["shape"] == [26, 34, 3]
    images = list(read(tmp_path / "ds").pictures["front"]())
    assert [image.shape for image in images] == [(26, 34, 3)] * 20
    assert abs(int(images[5][25, 33, 0]) - int(images[5][12, 12, 0])) < 6
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "png")]) == 0
    assert [image.shape for image in read(tmp_path / "png").pictures["front"]()] == [(25, 33, 3)] * 20


@pytest.mark.parametrize(("option", "words"), [
    (["--fps", "0"], "--fps 0 is not possible"), (["--fps", "nan"], "--fps nan is not possible"),
    (["--size", "320"], "--size 320 is not understood"), (["--size", "0x10"], "--size 0x10 is not understood"),
    (["--gripper", "open"], "--gripper open is not understood"), (["--gripper", "2"], "--gripper 2 is not understood"),
])  # fmt: skip
def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], words: str) -> None:
    assert main(["to-lerobot", str(tmp_path / "bag"), "--out", str(tmp_path / "ds"), *option]) == 1
    assert words in capsys.readouterr().err


@given(st.data())
def test_whoever_publishes_a_joint_it_moves_the_same(data: st.DataObject) -> None:
    """However joints are spread over messages, each is interpolated between its own two nearest samples."""
    names = ["a", "b", "c"]
    samples = {
        name: data.draw(st.dictionaries(st.floats(0, 10), st.floats(-3, 3), min_size=1, max_size=8)) for name in names
    }
    by_time: dict[float, list[str]] = {}
    for name, of in samples.items():
        for at in of:
            by_time.setdefault(at, []).append(name)
    messages = []
    for at, there in by_time.items():
        if data.draw(st.booleans()):
            messages.append((at, [*there, "other"], [*(samples[name][at] for name in there), 9.0]))
        else:
            messages += [(at, [name], [samples[name][at]]) for name in there]
        messages.append((at, names, [float("nan")] * 3))
    tracks = JointTracks.of(data.draw(st.permutations(messages)))
    ticks = np.array(data.draw(st.lists(st.floats(-1, 11), min_size=1, max_size=9)))
    found = tracks.at(names, ticks)
    for column, name in enumerate(names):
        times = sorted(samples[name])
        np.testing.assert_array_equal(found[:, column], np.interp(ticks, times, [samples[name][at] for at in times]))
    assert not tracks.lacking(names) and tracks.lacking(["d"]) == ["d"]
