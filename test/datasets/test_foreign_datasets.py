"""Datasets that others wrote are read by their names and ranges, as far as they can be, and are never changed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from molmoact_ros.bags.recording import Recording
from molmoact_ros.cli.main import main
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.camera_names import match_cameras
from molmoact_ros.datasets.episode import DamagedEpisode, Demonstration
from molmoact_ros.datasets.lerobot_reader import Dataset
from molmoact_ros.datasets.mapping_options import MappingOptions
from molmoact_ros.datasets.video_reader import read_video
from molmoact_ros.robots.franka import HOME_Q
from molmoact_ros.utils.paths import robot_model

FRAMES = 6
SIZES = {"front": (48, 64), "wrist": (32, 48)}
AV1 = ("-c:v", "libsvtav1", "-g", "2", "-crf", "30", "-svtav1-params", "lp=1")
"""What LeRobot writes by default."""
FROM_BASE = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]


def image(episode: int, frame: int, size: tuple[int, int], which: int = 0) -> np.ndarray:
    """A plain colour that tells the episode, the frame and the camera, even after lossy compression."""
    return np.full((*size, 3), (20 + 40 * frame, 40 + 60 * episode, 60 + 120 * which), np.uint8)


STATED = {"gripper": {"open": 1.0, "closed": 0.0}}


def vector(values: np.ndarray, names: Any = None, about: Any = None) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [values.shape[-1]], "names": names} | ({"info": about} if about else {})


def write_foreign(
    folder: Path, version: str = "v2.1", *, episodes: Sequence[int] = (0,), cameras: Mapping[str, str] | None = None,
    states: np.ndarray | None = None, actions: np.ndarray | None = None, state_names: Any = None,
    action_names: Any = None, keys: tuple[str, str] = ("observation.state", "action"),
    tasks: Mapping[int, Sequence[int]] | None = None, fps: float = 10, codec: Sequence[str] = (), extra: Any = None,
    about: Any = STATED,
) -> Path:  # fmt: skip
    """Write a dataset and return its folder.

    episodes: their numbers. cameras: `front` or `wrist` by feature, which is what its images show. states, actions
    [n, D]: of every episode. tasks: the task's number at each frame, by episode. codec: ffmpeg's options of videos;
    without, images are in the tables. extra: further features, each with its values [n, D] and names. about: the
    `info` of state and actions, by default which value of the gripper is open.
    """
    cameras = cameras or {"observation.images.front": "front", "observation.images.wrist": "wrist"}
    states = np.tile(np.array([0.4, 0.0, 0.3, 3.1, 0.0, 0.1, 0.5]), (FRAMES, 1)) if states is None else states
    actions = np.zeros((FRAMES, 7), np.float32) if actions is None else actions
    columns = {keys[0]: states, keys[1]: actions} | {name: values for name, (values, _) in (extra or {}).items()}
    features: dict[str, Any] = {
        key: {"dtype": "video" if codec else "image", "shape": [*SIZES[of], 3], "names": ["height", "width", "channel"]}
        for key, of in cameras.items()
    }
    features |= {
        keys[0]: vector(columns[keys[0]], state_names, about),
        keys[1]: vector(columns[keys[1]], action_names, about),
    }
    features |= {name: vector(values, names) for name, (values, names) in (extra or {}).items()}
    (folder / "meta").mkdir(parents=True)
    tables = {}
    for episode in episodes:
        count = len(states)
        numbers = (tasks or {}).get(episode, [0] * count)
        rows: dict[str, Any] = {name: pyarrow.array(values.tolist()) for name, values in columns.items()}
        rows |= {"episode_index": [episode] * count, "frame_index": list(range(count)), "task_index": list(numbers)}
        for which, (key, of) in enumerate(cameras.items()):
            if not codec:
                shown = [image(episode, k, SIZES[of], of == "wrist") for k in range(count)]
                rows[key] = [{"bytes": png(pixels), "path": f"frame-{k}-{which}.png"} for k, pixels in enumerate(shown)]
        tables[episode] = pyarrow.table(rows)
    info = {
        "codebase_version": version, "robot_type": "panda", "total_episodes": len(episodes), "fps": fps,
        "total_frames": len(states) * len(episodes), "chunks_size": 1000, "features": features,
    }  # fmt: skip
    write = _write_3 if version == "v3.0" else _write_2
    (folder / "meta" / "info.json").write_text(json.dumps(info | write(folder, tables, cameras, codec, fps)))
    return folder


TASKS = ("put the red cube in the bowl", "open the drawer")


def _write_2(
    folder: Path, tables: Mapping[int, Any], cameras: Mapping[str, str], codec: Sequence[str], fps: float
) -> dict[str, Any]:  # fmt: skip
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    for episode, table in tables.items():
        write_table(folder / data.format(episode_chunk=0, episode_index=episode), table)
        for key, of in cameras.items() if codec else ():
            file = folder / video.format(episode_chunk=0, episode_index=episode, video_key=key)
            encode(file, [image(episode, k, SIZES[of], of == "wrist") for k in range(len(table))], codec, fps)
    rows = [{"episode_index": episode, "tasks": [], "length": len(table)} for episode, table in tables.items()]
    (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.dumps({"task_index": number, "task": task}) + "\n" for number, task in enumerate(TASKS)]
    (folder / "meta" / "tasks.jsonl").write_text("".join(lines))
    return {"data_path": data, "video_path": video if codec else None}


def _write_3(
    folder: Path, tables: Mapping[int, Any], cameras: Mapping[str, str], codec: Sequence[str], fps: float
) -> dict[str, Any]:  # fmt: skip
    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    write_table(folder / data.format(chunk_index=0, file_index=0), pyarrow.concat_tables(tables.values()))
    rows: dict[str, list[Any]] = {"episode_index": list(tables), "data/chunk_index": [], "data/file_index": []}
    begin = 0
    for table in tables.values():
        rows["data/chunk_index"].append(0)
        rows["data/file_index"].append(0)
        for key in cameras if codec else ():
            for name, value in (("chunk_index", 0), ("file_index", 0), ("from_timestamp", begin / fps)):
                rows.setdefault(f"videos/{key}/{name}", []).append(value)
        begin += len(table)
    for key, of in cameras.items() if codec else ():
        frames = [image(e, k, SIZES[of], of == "wrist") for e, table in tables.items() for k in range(len(table))]
        encode(folder / video.format(video_key=key, chunk_index=0, file_index=0), frames, codec, fps)
    write_table(folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet", pyarrow.table(rows))
    tasks = {"task_index": list(range(len(TASKS))), "__index_level_0__": list(TASKS)}
    write_table(folder / "meta" / "tasks.parquet", pyarrow.table(tasks))
    return {"data_path": data, "video_path": video}


def write_table(file: Path, table: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file)


def encode(file: Path, frames: Sequence[np.ndarray], codec: Sequence[str], fps: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", str(fps), "-i", "-", *codec, "-pix_fmt", "yuv420p", str(file),
    ]  # fmt: skip
    subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), check=True, capture_output=True)


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes())


LIBERO_NAMES = {"motors": ["x", "y", "z", "roll", "pitch", "yaw", "gripper", "gripper"]}


def read(folder: Path, number: int = 0, **options: Any) -> Demonstration:
    dataset = Dataset.open(folder)
    return dataset.episode(number, dataset.mapping(MappingOptions(**options)))


def check_images(episode: Demonstration, number: int, tolerance: int) -> None:
    for camera, size in SIZES.items():
        shown = list(episode.pictures[camera]())
        assert len(shown) == FRAMES and shown[0].shape == (*size, 3)
        for k, pixels in enumerate(shown):
            expected = image(number, k, size, camera == "wrist")
            assert np.abs(pixels.astype(int) - expected).max() <= tolerance, (camera, k, pixels[0, 0])


def libero(folder: Path, **more: Any) -> Path:
    """LIBERO's layout: fingers in m with opposite signs, gripper actions -1 open and 1 closed, unscaled actions."""
    states = np.tile(np.array([0.4, 0.0, 0.3, 3.1, 0.0, 0.0, 0.04, -0.04]), (FRAMES, 1))
    states[3:, 6:] = [0.0, 0.0]
    actions = np.zeros((FRAMES, 7), np.float32)
    actions[:, 0], actions[:, 5] = 0.9, 0.2
    actions[:, 6] = [-1, -1, 1, 1, 1, 1]
    names = {"state_names": LIBERO_NAMES, "action_names": {"motors": LIBERO_NAMES["motors"][:7]}}
    return write_foreign(folder, states=states, actions=actions, **(names | more))


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
@pytest.mark.parametrize("codec", [(), AV1], ids=["png", "av1"])
def test_every_version_with_images_and_with_lerobots_default_codec(
    tmp_path: Path, version: str, codec: tuple[str, ...]
) -> None:
    folder = write_foreign(tmp_path / "ds", version, episodes=(0, 1, 3), codec=codec, tasks={1: [0, 0, 0, 1, 1, 1]})
    dataset = Dataset.open(folder)
    assert dataset.episodes == [0, 1, 3] and dataset.numbers == "0 to 1, 3"
    for number in dataset.episodes:
        check_images(read(folder, number), number, 12 if codec else 0)
    assert read(folder, 1).tasks == [TASKS[0]] * 3 + [TASKS[1]] * 3 and read(folder, 3).tasks == [TASKS[0]] * FRAMES
    with pytest.raises(DamagedEpisode, match="there is no episode 2"):
        read(folder, 2)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mpeg4"])
def test_other_codecs_that_ffmpeg_knows(tmp_path: Path, codec: str) -> None:
    frames = [image(0, k, (48, 64)) for k in range(FRAMES)]
    encode(tmp_path / "film.mp4", frames, ("-c:v", codec), 29.97)
    for begin in (0, 1, 4):
        shown = list(read_video(tmp_path / "film.mp4", FRAMES - begin, begin / 29.97, 29.97))
        expected = [20 + 40 * k for k in range(begin, FRAMES)]
        assert [int(pixels[5, 5, 0]) for pixels in shown] == pytest.approx(expected, abs=8)
    with pytest.raises(DamagedEpisode, match="has 2 of the 3 frames"):
        list(read_video(tmp_path / "film.mp4", 3, 4 / 29.97, 29.97))


def test_a_video_that_is_none_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(DamagedEpisode, match=r"ffmpeg cannot decode .*film\.mp4: .*") as refusal:
        list(read_video(tmp_path / "film.mp4", 3))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("keys", [
    ["observation.images.wrist", "observation.images.front"], ["wrist_image", "image"],
    ["observation.images.cam_hand", "observation.images.exterior_1_left"], ["eye_in_hand_rgb", "agentview_rgb"],
    ["observation.images.image2", "observation.images.image"], ["observation.images.side", "observation.images.top"],
])  # fmt: skip
@pytest.mark.parametrize("wrist_first", [True, False])
def test_cameras_are_found_by_name_wherever_they_stand(tmp_path: Path, keys: list[str], wrist_first: bool) -> None:
    cameras = {keys[0]: "wrist", keys[1]: "front"}
    cameras = cameras if wrist_first else dict(reversed(cameras.items()))
    check_images(read(write_foreign(tmp_path / "ds", cameras=cameras)), 0, 0)


def test_cameras_whose_names_tell_nothing_are_in_their_order() -> None:
    for keys in (["cam_0", "cam_1"], ["left", "right"], ["observation.images.laptop", "observation.images.phone"]):
        assert list(match_cameras(keys, ["front", "wrist"]).values()) == keys


def test_a_depth_video_is_no_camera(tmp_path: Path) -> None:
    folder = write_foreign(tmp_path / "ds")
    file = folder / "meta" / "info.json"
    info = json.loads(file.read_text())
    info["features"] = {
        "observation.images.top": {"dtype": "video", "shape": [48, 64, 3], "info": {"video.is_depth_map": True}}
    } | info["features"]
    file.write_text(json.dumps(info))
    assert Dataset.open(folder).cameras == ["observation.images.front", "observation.images.wrist"]


def test_liberos_values_are_refused_until_they_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = libero(tmp_path / "ds"), tmp_path / "bags"
    command = ["from-lerobot", str(folder), "--out", str(out)]
    assert main(command) == 1
    assert "the gripper's actions lie in -1 .. 1" in capsys.readouterr().err and not out.exists()
    assert main([*command, "--gripper", "libero"]) == 1
    error = capsys.readouterr().err
    assert (
        "move the hand by 0.9 m in a frame of 0.1 s, which no displacement does" in error
        and "--action-scale" in error
        and not out.exists()
    )
    assert main([*command, "--gripper", "libero", "--action-scale", "0.05,0.5"]) == 0
    printed = capsys.readouterr().out
    with Recording(out / "episode_000000") as recording:
        opening = [m.position[-1] for _, m in recording.decoded("/ee_state")]
        first = [np.array(m.actions)[:7] for _, m in recording.decoded("/policy/action_chunk")]
    np.testing.assert_allclose(opening, [1, 1, 1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose([action[6] for action in first], [1, 1, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(first[0][[0, 5]], [0.045, 0.1], atol=1e-6)
    # What was printed gives the same mapping in full.
    options = shlex.split(next(line for line in printed.splitlines() if line.startswith("mapping: "))[9:])
    assert main(["from-lerobot", str(folder), "--out", str(tmp_path / "again"), *options]) == 0
    assert next(iter(capsys.readouterr().out.splitlines())) == printed.splitlines()[0]


def test_liberos_values_without_names(tmp_path: Path) -> None:
    """As openpi's copy of LIBERO has them: rotation vectors, eight values that nothing names."""
    folder = libero(tmp_path / "ds", state_names=["state"], action_names=["actions"], keys=("state", "actions"))
    with pytest.raises(ValueError, match="state has 8 values without names; say what each is, such as --state x,y,z"):
        read(folder)
    episode = read(folder, state="x,y,z,rx,ry,rz,finger,finger", gripper="libero", action_scale="0.05,0.5")
    np.testing.assert_allclose(episode.states[0], [0.4, 0, 0.3, 3.1, 0, 0, 1], atol=1e-6)


def test_joints_and_poses_become_the_same_states_and_actions(tmp_path: Path) -> None:
    """A dataset of joint positions, and the same motion as absolute poses."""
    q = HOME_Q + 0.02 * np.arange(FRAMES)[:, None] * np.ones(7)
    grip = np.linspace(1, 0, FRAMES)[:, None]
    names = [*(f"joint_{k}.pos" for k in range(7)), "gripper.pos"]
    row = np.hstack([q, grip])
    by_joint = read(write_foreign(tmp_path / "a", states=row, actions=row, state_names=names, action_names=names))
    kinematics = Kinematics(robot_model())
    hands = [kinematics.forward(joints) for joints in q]
    poses = np.array([[*hand.position, *hand.rotation.as_euler("xyz")] for hand in hands])
    np.testing.assert_allclose(by_joint.states, np.hstack([poses, grip]), atol=1e-5)
    assert by_joint.joints is not None
    np.testing.assert_allclose(by_joint.joints, np.hstack([q, 0.04 * grip, 0.04 * grip]), atol=1e-6)
    quaternions = np.array([hand.rotation.as_quat() for hand in hands])
    pose_names = ["ee.x", "ee.y", "ee.z", "ee.qx", "ee.qy", "ee.qz", "ee.qw", "gripper"]
    rows = np.hstack([poses[:, :3], quaternions, grip])
    folder = write_foreign(tmp_path / "b", states=rows, actions=rows, state_names=pose_names, action_names=pose_names)
    with pytest.raises(ValueError, match=r"\(ee.x, .*\) is not the pose or the joints of one arm .* with --actions"):
        read(folder)  # a displacement by quaternion is not a thing
    with pytest.raises(ValueError, match="which no displacement does"):  # poses, though slow enough for displacements
        slow = write_foreign(tmp_path / "slow", states=row, state_names=names, actions=np.hstack([poses, grip]), fps=1)
        read(slow)
    with pytest.raises(ValueError, match="the actions, as targets, are 0.* m away from the states"):  # velocities
        moving = np.hstack([0.1 * np.ones((FRAMES, 7)), grip])
        read(write_foreign(tmp_path / "fast", states=row, state_names=names, actions=moving, action_names=names))
    by_pose = read(folder, actions="x,y,z,qx,qy,qz,qw,gripper")
    np.testing.assert_allclose(by_pose.states, by_joint.states, atol=1e-5)
    np.testing.assert_allclose(by_pose.actions, by_joint.actions, atol=1e-5)
    np.testing.assert_allclose(by_pose.actions[1:, :3], np.diff(poses[:, :3], axis=0), atol=1e-5)


@pytest.mark.parametrize(("change", "words"), [
    ({"states": np.tile([400.0, 0, 300, 3, 0, 0, 1], (FRAMES, 1))}, "positions of up to 400: these are not m"),
    ({"states": np.tile([0.4, 0, 0.3, 180, 0, 0, 1.0], (FRAMES, 1))}, "angles of up to 180: these are not rad"),
    ({"about": {"gripper": {"open": 1}}}, "a gripper of {'open': 1} in meta/info.json; say it with --gripper"),
    ({"actions": np.tile([0, 0, 0, 0, 0, 0, 255.0], (FRAMES, 1))}, "actions lie in 255 .. 255, not in 0"),
    ({"state_names": [f"motor_{k}" for k in range(7)]}, "(motor_0, motor_1"),
    ({"state_names": ["left_x", "y", "z", "roll", "pitch", "yaw", "right_x"]}, "say what each value is with --state"),
    ({"keys": ("observation.robot", "action")}, "say which with --state FEATURE=...: observation.robot, action"),
])  # fmt: skip
def test_numbers_that_are_not_ours_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    states = change.get("states", np.tile([0.4, 0, 0.3, 3, 0, 0, 1.0], (FRAMES, 1)))
    folder = write_foreign(tmp_path / "ds", **(change | {"states": states}))
    assert main(["from-lerobot", str(folder), "--out", str(tmp_path / "bags")]) == 1
    error = capsys.readouterr().err
    assert words in error and error.strip().splitlines()[-1].startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ds"]


@pytest.mark.parametrize("stated", ["", "state=1:0"])
def test_a_gripper_that_nobody_explained_is_never_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stated: str
) -> None:
    """What learns from the dataset refuses it; a bag of it has what is known."""
    measured = {"observation.states.joint_state": (np.tile(HOME_Q, (FRAMES, 1)), [f"joint_{k}" for k in range(7)])}
    folder = write_foreign(tmp_path / "ds", about=None, extra=measured)
    with pytest.raises(ValueError, match=r"which value of the gripper's (state|actions) is open: say it"):
        read(folder, gripper=stated)
    assert main(["from-lerobot", str(folder), "--out", str(tmp_path / "bags"), "--gripper", stated]) == 0
    said = capsys.readouterr()
    assert "does not say which value of the gripper is open" in said.err and "say it with --gripper libero" in said.err
    assert (f"--gripper {stated} " if stated else "--action-scale") in said.out and "=None" not in said.out
    with Recording(tmp_path / "bags" / "episode_000000") as bag:
        hands = [message for _, message in bag.decoded("/ee_state")]
        joints = [message for _, message in bag.decoded("/joint_states")]
        assert ("gripper" in hands[0].name) == bool(stated) and len(hands) == FRAMES == len(joints)
        assert len(joints[0].name) == (9 if stated else 7) == len(joints[0].position)
        assert np.isfinite([*hands[0].position, *joints[0].position]).all()
        assert not list(bag.decoded("/policy/action_chunk")), "a plan without the gripper is none"


def test_measured_joints_are_found_beside_the_state(tmp_path: Path) -> None:
    names = {"motors": [f"joint_{k}" for k in range(7)]}
    measured = {"observation.states.joint_state": (np.tile(HOME_Q, (FRAMES, 1)), names)}
    episode = read(write_foreign(tmp_path / "ds", extra=measured))
    assert episode.joints is not None
    np.testing.assert_allclose(episode.joints[0], [*HOME_Q, 0.02, 0.02], atol=1e-6)  # the state's gripper is half open


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_what_cannot_be_read_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    """Tables, images and tasks that are missing, cut off or not numbers; the others are read."""
    folder = write_foreign(tmp_path / "ds", version, episodes=(0, 1, 2, 5), codec=AV1, tasks={2: [7] * FRAMES})
    if version == "v2.1":
        (folder / "data/chunk-000/episode_000001.parquet").unlink()
        video = folder / "videos/chunk-000/observation.images.front/episode_000005.mp4"
        video.write_bytes(video.read_bytes()[:300])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["from-lerobot", str(folder), "--out", str(tmp_path / "bags")]) == 0
    bags = sorted(path.name for path in (tmp_path / "bags").iterdir())
    note = capsys.readouterr().err.strip().splitlines()[-1]
    if version == "v2.1":
        assert bags == ["episode_000000"]
        assert note.startswith("3 of 4 episodes are left out; 1: ") and "episode_000001.parquet is missing" in note
    else:
        assert bags == [f"episode_{k:06d}" for k in (0, 1, 5)]
        assert note == "1 of 4 episodes are left out; 2: its task 7 is not among the tasks in meta/"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("width", [0, 6, 8])
def test_tables_and_their_description_agree(tmp_path: Path, width: int) -> None:
    """0: a number alone. A value too many may be any of them."""
    folder = write_foreign(tmp_path / "ds")
    (file,) = folder.glob("data/*/*.parquet")
    table = pyarrow.parquet.read_table(file)
    place = table.schema.get_field_index("action")
    values = [[0.0] * width if width else 0.0] * FRAMES
    write_table(file, table.set_column(place, "action", pyarrow.array(values)))
    with pytest.raises(DamagedEpisode, match=f"action has {width or 1} values a frame, but 7 in meta/info.json"):
        read(folder)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    actions = np.zeros((FRAMES, 7))
    actions[2, 3], actions[4, 6] = np.nan, np.inf
    folder = write_foreign(tmp_path / "ds", actions=actions)
    with pytest.raises(DamagedEpisode, match="action is not a finite number in 2 of 6 frames"):
        read(folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_clone_without_its_large_files_says_so(tmp_path: Path, version: str) -> None:
    folder = write_foreign(tmp_path / "ds", version)
    (table,) = folder.glob("data/*/*.parquet")
    table.write_text(POINTER)
    with pytest.raises(DamagedEpisode, match=r"parquet cannot be read: it is a pointer of Git LFS, .* `git lfs pull`"):
        read(folder)
    (tmp_path / "film.mp4").write_text(POINTER)
    with pytest.raises(DamagedEpisode, match="film.mp4: it is a pointer of Git LFS"):
        list(read_video(tmp_path / "film.mp4", 3))


@pytest.mark.parametrize("named", ["as it lies", "as it lay elsewhere", "alone", "not at all"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_images_that_are_files_are_found(tmp_path: Path, version: str, named: str) -> None:
    """As LeRobot writes them before they are encoded; tables name them, and some of their names are old ones."""
    folder = write_foreign(tmp_path / "ds", version)
    (file,) = folder.glob("data/*/*.parquet")
    table, dash = pyarrow.parquet.read_table(file), "-" if version == "v3.0" else "_"
    for key in ("observation.images.front", "observation.images.wrist"):
        rows = []
        for k, row in enumerate(table.column(key).to_pylist()):
            place = Path("images", key, f"episode{dash}000000", f"frame{dash}{k:06d}.png")
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(row["bytes"])
            name = {"as it lies": str(place), "as it lay elsewhere": f"/home/alice/ds/{place}", "alone": place.name}
            rows.append({"bytes": None, "path": name.get(named)})
        table = table.drop_columns([key])
        table = table if named == "not at all" else table.append_column(key, pyarrow.array(rows))
    write_table(file, table)
    check_images(read(folder), 0, 0)
    place = folder / "images" / "observation.images.front" / f"episode{dash}000000" / f"frame{dash}000003.png"
    place.unlink()
    with pytest.raises(DamagedEpisode, match=r"has 5 images for 6 frames|the image .*3\.png is missing"):
        list(read(folder).pictures["front"]())


def test_episodes_that_are_not_listed_are_those_that_are_there(tmp_path: Path) -> None:
    folder = write_foreign(tmp_path / "ds", episodes=(0, 4))
    (folder / "meta" / "episodes.jsonl").unlink()
    assert Dataset.open(folder).episodes == [0, 1, 4], "two are said to be there, and 4 is"
    check_images(read(folder, 4), 4, 0)


def test_an_episode_is_found_behind_the_file_that_lists_it(tmp_path: Path) -> None:
    """As LeRobot's converter from 2.1 writes it, whenever it begins another file."""
    folder = write_foreign(tmp_path / "ds", "v3.0", episodes=(0, 1))
    first = folder / "data/chunk-000/file-000.parquet"
    table = pyarrow.parquet.read_table(first)
    write_table(first, table.slice(0, FRAMES))
    write_table(first.with_name("file-001.parquet"), table.slice(FRAMES))
    check_images(read(folder, 1), 1, 0)
    first.write_bytes(b"no table")
    check_images(read(folder, 1), 1, 0)
    with pytest.raises(DamagedEpisode, match="file-000.parquet cannot be read"):
        read(folder, 0)


def test_a_rate_need_not_be_whole(tmp_path: Path) -> None:
    folder = write_foreign(tmp_path / "ds", fps=29.97, codec=AV1, state_names=FROM_BASE, action_names=FROM_BASE)
    assert main(["from-lerobot", str(folder), "--out", str(tmp_path / "bags")]) == 0
    with Recording(tmp_path / "bags" / "episode_000000") as recording:
        stamps = recording.stamps("/front/color/image_raw")
    np.testing.assert_allclose(np.diff(stamps), 1 / 29.97, atol=1e-8)
    bag, back = tmp_path / "bags" / "episode_000000", tmp_path / "back"
    assert main(["to-lerobot", str(bag), "--out", str(back), "--fps", "29.97"]) == 0
    assert json.loads((tmp_path / "back/meta/info.json").read_text())["fps"] == 29.97
    check_images(read(tmp_path / "back"), 0, 12)


def test_a_folder_that_is_no_dataset_names_the_one_within(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_foreign(tmp_path / "datasets--lab--cups" / "snapshots" / "abc")
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag_0.mcap").touch()
    expected = {
        "datasets--lab--cups": "but holds 1; give .*/datasets--lab--cups/snapshots/abc", "bag": "a bag, for to-lerobot",
        "nowhere": "there is no .*nowhere", "bag/bag_0.mcap": "it has no meta/info.json",
    }  # fmt: skip
    for name, words in expected.items():
        assert main(["from-lerobot", str(tmp_path / name), "--out", str(tmp_path / "bags")]) == 1
        assert re.search(words, capsys.readouterr().err), name


def test_nothing_is_written_into_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_foreign(tmp_path / "ds")
    for command, out in (("from-lerobot", folder), ("from-lerobot", folder / "bags"), ("to-lerobot", folder / "new")):
        assert main([command, str(folder), "--out", str(out)]) == 1
        assert f"{out} is in {folder}, which is only read" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["data", "meta"]


def test_single_episodes_join_those_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_foreign(tmp_path / "ds", episodes=(0, 1, 2))
    command = ["from-lerobot", str(folder), "--out", str(tmp_path / "bags"), "--episode"]
    assert main([*command, "2"]) == 0 and main([*command, "0"]) == 0
    assert main([*command, "1", "--episode", "0"]) == 1
    assert "episode_000000 exists already" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "bags").iterdir()) == ["episode_000000", "episode_000002"]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_whatever_is_missing_or_cut_off_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    """Every file of a dataset, deleted or cut in half, and every entry of its description: two episodes, one line."""
    folder = write_foreign(tmp_path / "ds", version, episodes=(0, 1))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    description = folder / "meta" / "info.json"
    info = json.loads(description.read_text())
    changes: list[tuple[Path, bytes | None]] = [(file, None) for file in files]
    changes += [(file, file.read_bytes()[: file.stat().st_size // 2]) for file in files]
    changes += [(description, json.dumps({k: v for k, v in info.items() if k != key}).encode()) for key in info]
    for number, (file, changed) in enumerate(changes):
        whole = file.read_bytes()
        file.unlink()
        if changed is not None:
            file.write_bytes(changed)
        out = tmp_path / f"bags{number}"
        status = main(["from-lerobot", str(folder), "--out", str(out)])
        lines = [line for line in capsys.readouterr().err.strip().splitlines() if "episode/s" not in line]
        if status == 0:
            expected = ("1 of 2 episodes are left out; ", "2 episodes do not say their task")
            assert out.is_dir() and all(line.startswith(expected) for line in lines), (file, lines)
            assert lines or "info.json" in file.name or "meta/episodes" in str(file), file
        else:
            assert lines[-1].startswith("error: ") and not out.exists(), (file, lines)
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "text",
    [
        '{"codebase_version": "v2.1", "fps": 9, "features": {"a": 1}}',
        "",
        "{",
        "[]",
        "{}",
        '{"codebase_version": "v2.1", "fps": 0, "features": {}}',
    ],
)
def test_a_damaged_description_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(text)
    assert main(["from-lerobot", str(tmp_path), "--out", str(tmp_path / "bags")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "info.json" in error and error.count("\n") == 1
