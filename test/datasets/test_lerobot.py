"""A bag becomes a LeRobot dataset and comes back without loss beyond float32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet
import pytest

from molmoact_ros.bags.bag import BagReader, BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.bags.recording import Recording
from molmoact_ros.cli.main import main
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.collection import Outcome
from molmoact_ros.datasets.episode import DamagedEpisode, Demonstration
from molmoact_ros.datasets.episode_record import EpisodeRecord, SessionFolder
from molmoact_ros.datasets.from_bag import of_bag
from molmoact_ros.datasets.lerobot_files import EncodedEpisode, FilesVersion30
from molmoact_ros.datasets.lerobot_format import VERSIONS, Version
from molmoact_ros.datasets.lerobot_reader import Dataset
from molmoact_ros.datasets.lerobot_writer import WriteOptions, write_dataset
from molmoact_ros.datasets.mapping_options import MappingOptions
from molmoact_ros.robots.franka import HOME_Q, SINGLE
from molmoact_ros.utils.paths import robot_model

NAMES = [*SINGLE.joints, *SINGLE.fingers]
FPS, FRAMES = 10, 12


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)


def joints(time: float) -> np.ndarray:
    return HOME_Q + 0.2 * np.sin(time + np.arange(7))


def read(folder: Path, number: int = 0) -> Demonstration:
    dataset = Dataset.open(folder)
    return dataset.episode(number, dataset.mapping(MappingOptions()))


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Joints and commands at 100 Hz, images at 10 Hz; the hand closes in the middle."""
    with BagWriter(tmp_path / "bag") as writer:
        out = EpisodeWriter(writer)
        for k in range(10 * FRAMES - 9):
            time, now = k / 100, 50.0 + k / 100
            out.joints(NAMES, np.append(joints(time), [0.04, 0.04]), np.zeros(9), now)
            out.command("/fr3_arm_controller/joint_trajectory", SINGLE.joints, joints(time), np.zeros(7), 0.01, now)
            if k == 0 or k == 55:
                width = 0.04 if k == 0 else 0.0
                topic = "/fr3_gripper_controller/joint_trajectory"
                out.command(topic, SINGLE.fingers[:1], np.array([width]), np.zeros(1), 0.1, now)
            if k % 10 == 0:
                out.engine_status(now, "put the red cube in the bowl", 1, 0.1)
                out.image("/front/color/image_raw", picture(k, (64, 48)), "rgb8", now)
                out.image("/wrist/color/image_raw", picture(k + 1, (32, 24)), "rgb8", now)
    return tmp_path / "bag"


def test_a_bag_goes_there_and_back(tmp_path: Path, bag: Path) -> None:
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "set"), "--fps", str(FPS)]) == 0
    assert main(["from-lerobot", str(tmp_path / "set"), "--out", str(tmp_path / "bags")]) == 0
    back = tmp_path / "bags" / "episode_000000"
    assert main(["to-lerobot", str(back), "--out", str(tmp_path / "again"), "--fps", str(FPS)]) == 0
    first, second = (read(tmp_path / name) for name in ("set", "again"))
    for name in ("states", "actions", "joints"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)
    assert first.tasks == second.tasks == ["put the red cube in the bowl"] * FRAMES
    for key, size, more in (("front", (64, 48), 0), ("wrist", (32, 24), 1)):
        for k, (a, b) in enumerate(zip(first.pictures[key](), second.pictures[key](), strict=True)):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, picture(10 * k + more, size))
    with Recording(back) as recording:
        moved = np.array([m.position for _, m in recording.decoded("/joint_states")])
    expected = np.array([np.append(joints(k / FPS), [0.04, 0.04]) for k in range(FRAMES)])
    np.testing.assert_allclose(moved, expected, atol=3e-7)  # float32 of up to 3 rad


def test_actions_lead_from_state_to_state(bag: Path) -> None:
    with Recording(bag) as recording:
        episode = of_bag(recording, robot_model(), FPS)
    kinematics = Kinematics(robot_model())
    hands = [kinematics.forward(joints(k / FPS)) for k in range(FRAMES)]
    np.testing.assert_allclose(episode.states[:, :3], [hand.position for hand in hands], atol=1e-6)
    for k in range(FRAMES - 1):
        np.testing.assert_allclose(hands[k].position + episode.actions[k, :3], hands[k + 1].position, atol=1e-6)
    assert (episode.actions[:, 6] == [1.0] * 6 + [0.0] * 6).all() and (episode.states[:, 6] == 1.0).all()


def test_the_dataset_is_of_the_form_that_lerobot_reads(tmp_path: Path, bag: Path) -> None:
    assert main(["to-lerobot", str(bag), str(bag), "--out", str(tmp_path / "set"), "--version", "2.1"]) == 0
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v2.1" and info["total_episodes"] == 2 and info["total_frames"] == 2 * FRAMES
    assert info["features"]["image"] == {
        "dtype": "image",
        "shape": [48, 64, 3],
        "names": ["height", "width", "channels"],
    }
    second = tmp_path / "set" / info["data_path"].format(episode_chunk=0, episode_index=1)
    table = pyarrow.parquet.read_table(second)
    assert set(table.column_names) == set(info["features"])
    assert table["index"].to_pylist() == list(range(FRAMES, 2 * FRAMES)) and set(
        table["episode_index"].to_pylist()
    ) == {1}
    assert table.schema.field("state").type == pyarrow.list_(pyarrow.float32(), 7)
    np.testing.assert_allclose(table["timestamp"].to_pylist(), np.arange(FRAMES) / FPS, atol=1e-6)
    hints = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert hints["image"] == {"_type": "Image"} and hints["index"] == {"dtype": "int64", "_type": "Value"}
    lines = (tmp_path / "set" / "meta" / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["length"] for line in lines] == [FRAMES, FRAMES]
    stats = json.loads((tmp_path / "set" / "meta" / "episodes_stats.jsonl").read_text().splitlines()[0])["stats"]
    assert np.shape(stats["image"]["mean"]) == (3, 1, 1) and np.shape(stats["actions"]["std"]) == (7,)


def test_video_is_near(tmp_path: Path, bag: Path) -> None:
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "set"), "--video"]) == 0
    episode = read(tmp_path / "set")
    frames = list(episode.pictures["front"]())
    assert len(frames) == FRAMES
    assert max(np.abs(f.astype(int) - picture(10 * k, (64, 48))).mean() for k, f in enumerate(frames)) < 12


def test_version_3_says_where_everything_is(tmp_path: Path, bag: Path) -> None:
    """The default: episodes share a table, lists are tables, and a second file begins where one would be too large."""
    assert main(["to-lerobot", str(bag), str(bag), "--out", str(tmp_path / "set"), "--video"]) == 0
    folder = tmp_path / "set"
    info = json.loads((folder / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["total_frames"] == 2 * FRAMES and info["fps"] == FPS
    assert info["features"]["actions"]["info"] == {"gripper": {"open": 1.0, "closed": 0.0}, "source": "commanded"}
    table = pyarrow.parquet.read_table(folder / "data" / "chunk-000" / "file-000.parquet")
    assert table["episode_index"].to_pylist() == [0] * FRAMES + [1] * FRAMES
    assert table["index"].to_pylist() == list(range(2 * FRAMES))
    rows = pyarrow.parquet.read_table(folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, FRAMES), (FRAMES, 2 * FRAMES)]
    for row in rows:
        assert (row["data/chunk_index"], row["data/file_index"], row["meta/episodes/file_index"]) == (0, 0, 0)
        place = {name: row[f"videos/image/{name}"] for name in ("chunk_index", "file_index")}
        assert (folder / info["video_path"].format(video_key="image", **place)).is_file()
        assert (row["videos/image/from_timestamp"], row["videos/image/to_timestamp"]) == (0.0, FRAMES / FPS)
        assert np.shape(row["stats/image/q99"]) == (3, 1, 1) and len(row["stats/actions/q01"]) == 7
    stats, actions = json.loads((folder / "meta" / "stats.json").read_text()), np.array(table["actions"].to_pylist())
    assert stats["actions"]["count"] == [2 * FRAMES]
    np.testing.assert_allclose(stats["actions"]["q01"], np.quantile(actions, 0.01, axis=0))
    np.testing.assert_allclose(stats["actions"]["std"], actions.std(axis=0), atol=1e-12)
    np.testing.assert_allclose(stats["timestamp"]["std"], np.std(table["timestamp"].to_pylist()), rtol=1e-6)
    tasks = pyarrow.parquet.read_table(folder / "meta" / "tasks.parquet").to_pandas()
    assert tasks.index.tolist() == ["put the red cube in the bowl"] and tasks["task_index"].tolist() == [0]
    as_text = (folder / "meta" / "tasks.jsonl").read_text()
    assert [json.loads(line) for line in as_text.splitlines()] == [{"task_index": 0, "task": tasks.index[0]}]
    for a, b in ((read(folder, 0), read(folder, 1)),):
        np.testing.assert_array_equal(a.actions, b.actions)
        assert len(list(b.pictures["front"]())) == FRAMES


def test_a_table_that_would_be_too_large_begins_another_file(tmp_path: Path) -> None:
    files = FilesVersion30(tmp_path / "set", data_mb=0.0)
    for number in range(2):
        values = np.arange(3 * number, 3 * number + 3)
        columns = {"index": values, "episode_index": np.full(3, number)}
        of = {name: {"dtype": "int64", "shape": [1]} for name in columns}
        files.add_episode(EncodedEpisode(number, ["wave"], columns, {}, {}, 0.3), of)
    files.finish({"features": of}, ["wave"], {})
    for number in range(2):
        table = pyarrow.parquet.read_table(tmp_path / "set" / "data" / "chunk-000" / f"file-{number:03d}.parquet")
        assert table["index"].to_pylist() == list(range(3 * number, 3 * number + 3))
    rows = pyarrow.parquet.read_table(tmp_path / "set" / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["data/file_index"] for row in rows] == [0, 1]


@pytest.mark.parametrize("gripper", ["1:0", "0:1", "-1:1"])
@pytest.mark.parametrize("version", ["3.0", "2.1"])
def test_an_open_hand_stays_open_whatever_its_column_says(
    tmp_path: Path, bag: Path, version: str, gripper: str
) -> None:
    """And a closed one closed: the polarity is a field of the dataset, which the reader follows."""
    opened, closed = (float(part) for part in gripper.split(":"))
    command = ["to-lerobot", str(bag), "--version", version, f"--gripper-out={gripper}", "--out"]
    assert main([*command, str(tmp_path / "set")]) == 0
    column = np.concatenate(
        [
            pyarrow.parquet.read_table(file)["actions"].to_pylist()
            for file in (tmp_path / "set" / "data").rglob("*.parquet")
        ]
    )[:, 6]
    assert column.tolist() == [opened] * 6 + [closed] * 6
    episode = read(tmp_path / "set")
    assert episode.actions[:, 6].tolist() == [1.0] * 6 + [0.0] * 6 and (episode.states[:, 6] == 1.0).all()
    file = tmp_path / "set" / "meta" / "info.json"
    info = json.loads(file.read_text())
    info["features"]["actions"]["info"]["gripper"] = {"open": closed, "closed": opened}
    file.write_text(json.dumps(info))
    assert read(tmp_path / "set").actions[:, 6].tolist() == [0.0] * 6 + [1.0] * 6, "a flipped sign is seen"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_becomes_a_dataset_with_what_was_noted_of_its_episodes(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str], version: Version
) -> None:
    """Cut to the episode; interventions and outcome are columns; what was not reviewed is left out by name."""
    session = SessionFolder(tmp_path / "session", "wave", 3)
    for number, (outcome, actions) in enumerate(
        [(Outcome.FAILED, "measured"), (Outcome.UNREVIEWED, "commanded"), (Outcome.KEPT, "commanded")]
    ):
        shutil.copytree(bag, session.bag(number))
        EpisodeRecord.model_validate(
            {"session": "session", "number": number, "task": "wave", "outcome": outcome, "begin": 50.2, "end": 50.9,
             "interventions": [(50.35, 50.55)] if number else [], "actions": actions}
        ).write(session.bag(number))  # fmt: skip
    command = ["to-lerobot", str(session.folder), "--out", str(tmp_path / "set"), "--version", version]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "2 episodes, 16 frames" in said.out
    assert "episode_001 is left out: it is unreviewed" in said.err and "the actions are the measured motion" in said.err
    failed, kept = (read(tmp_path / "set", number) for number in (0, 1))
    assert (failed.outcome, kept.outcome, kept.tasks) == ("failure", "success", ["wave"] * 8)
    assert failed.interventions is not None and not failed.interventions.any()
    assert kept.interventions is not None
    assert kept.interventions.tolist() == [False, False, True, True, False, False, False, False]
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert info["features"]["actions"]["info"]["source"] == "mixed" and kept.action_source == "measured"


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_episode_whose_images_break_off_is_left_out(
    tmp_path: Path, bag: Path, version: Version, video: bool
) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield picture(0, (64, 48))
        raise DamagedEpisode("the image cannot be decoded")

    with Recording(bag) as recording:
        good = of_bag(recording, robot_model(), FPS)
        bad = replace(good, name="the bad one", pictures=good.pictures | {"wrist": broken})
        short = replace(good, name="the short one", pictures=good.pictures | {"wrist": lambda: iter(())})
        written = write_dataset(tmp_path / "set", [bad, good, short, good], WriteOptions(version, video))
    assert (written.episodes, written.frames) == (2, 2 * FRAMES)
    assert written.left_out == {
        "the bad one": "the image cannot be decoded", "the short one": f"wrist has 0 images for {FRAMES} frames"
    }  # fmt: skip
    assert Dataset.open(tmp_path / "set").episodes == [0, 1]
    for number in range(2):
        assert len(list(read(tmp_path / "set", number).pictures["wrist"]())) == FRAMES
    assert len(list((tmp_path / "set").rglob("*.mp4"))) == (4 if video else 0)


def test_what_does_not_fit_says_so(tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-lerobot", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
    assert "no meta/info.json" in capsys.readouterr().err
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "set")]) == 0
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "set")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["from-lerobot", str(tmp_path / "set"), "--out", str(tmp_path / "x"), "--episode", "3"]) == 1
    assert "there is no episode 3; the dataset has 0" in capsys.readouterr().err
    assert main(["from-lerobot", str(tmp_path / "set"), "--out", str(tmp_path / "x"), "--cameras", "a,b,c"]) == 1
    assert "2 cameras (image, wrist_image), not 3" in capsys.readouterr().err
    assert not (tmp_path / "x" / "episode_000000").exists()
    file = tmp_path / "set" / "meta" / "info.json"
    file.write_text(file.read_text().replace("v3.0", "v9.9"))
    assert main(["from-lerobot", str(tmp_path / "set"), "--out", str(tmp_path / "y")]) == 1
    assert "version v9.9; v2.0, v2.1 and v3.0 are read" in capsys.readouterr().err


def test_an_imported_demonstration_replays(tmp_path: Path, bag: Path) -> None:
    assert main(["to-lerobot", str(bag), "--out", str(tmp_path / "set")]) == 0
    assert main(["from-lerobot", str(tmp_path / "set"), "--out", str(tmp_path / "bags"), "--episode", "0"]) == 0
    with Recording(tmp_path / "bags" / "episode_000000") as recording:
        steps = recording.steps()
        assert len(steps) == FRAMES and steps[0].answer.instruction == "put the red cube in the bowl"
        assert steps[0].answer.actions is not None and steps[0].answer.actions.shape == (8, 7)
    with BagReader(tmp_path / "bags" / "episode_000000") as reader:
        assert "/ee_state" in reader.topics()
