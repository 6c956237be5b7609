"""Round trips with LeRobot's own code, in an environment of its own: `make test-lerobot`.

LeRobot of today reads version 3.0, which is our default. What we write in 2.1 goes through LeRobot's converter first.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.cli.main import main
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.lerobot_reader import Dataset
from molmoact_ros.datasets.lerobot_writer import write_dataset
from molmoact_ros.datasets.mapping_options import MappingOptions
from molmoact_ros.robots.franka import HOME_Q, SINGLE

LEROBOT = os.environ.get("MOLMOACT_LEROBOT")
pytestmark = pytest.mark.skipif(LEROBOT is None, reason="make test-lerobot names an environment with LeRobot")

FRAMES = 12
TASKS = ("put the red cube in the bowl", "open the drawer")
CONVERT = """
import sys
from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset
convert_dataset("ds", root=sys.argv[1], push_to_hub=False)
"""
LOAD = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset("local/ds", root=sys.argv[1], video_backend="pyav")
items = [dataset[k] for k in range(len(dataset))]
arrays = {key: np.stack([np.asarray(item[key]) for item in items]) for key in sys.argv[3:]}
stats = dataset.meta.stats
arrays |= {f"stats {key}": np.stack([stats[key][name] for name in ("min", "mean")]) for key in arrays if key in stats}
np.savez(sys.argv[2], task=[item["task"] for item in items], **arrays)
"""
CREATE = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
given = np.load(sys.argv[2])
names = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
images = {f"observation.images.{c}": given[c] for c in ("wrist", "front")}
axes = ["height", "width", "channels"]
features = {k: {"dtype": sys.argv[3], "shape": v.shape[1:], "names": axes} for k, v in images.items()}
features |= {k: {"dtype": "float32", "shape": (7,), "names": names} for k in ("observation.state", "action")}
dataset = LeRobotDataset.create("local/ds", 10, features, root=sys.argv[1], use_videos=sys.argv[3] == "video")
count = len(given["state"])
for episode in range(2):
    for k in range(count):
        frame = {key: shown[k] for key, shown in images.items()}
        frame |= {"observation.state": given["state"][k], "action": given["action"][k]}
        dataset.add_frame(frame | {"task": str(given["tasks"][episode])})
    dataset.save_episode()
dataset.finalize()
"""


def lerobot(script: str, *arguments: Any) -> None:
    """Run a script with LeRobot, without network."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [f"{LEROBOT}/bin/python", "-c", script, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def read(folder: Path, number: int, gripper: str = "") -> Demonstration:
    dataset = Dataset.open(folder)
    cameras = ["front", "left_wrist", "right_wrist"][: len(dataset.cameras)] if len(dataset.cameras) > 2 else []
    options = MappingOptions(cameras or ["front", "wrist"], gripper=gripper)
    return dataset.episode(number, dataset.mapping(options))


def picture(episode: int, frame: int, which: int) -> np.ndarray:
    return np.full((64, 96, 3), (20 + 18 * frame, 40 + 60 * episode, 60 + 120 * which), np.uint8)


def pictures(which: int) -> Iterator[np.ndarray]:
    return (picture(0, k, which) for k in range(FRAMES))


def write_bag(folder: Path, task: str) -> Path:
    with BagWriter(folder) as bag:
        out = EpisodeWriter(bag)
        for k in range(FRAMES):
            now = 50.0 + k / 10
            out.engine_status(now, task, 1, 0.1)
            position = np.append(HOME_Q + 0.01 * k, [0.03, 0.03])
            out.joints([*SINGLE.joints, *SINGLE.fingers], position, np.zeros(9), now)
            for which, camera in enumerate(("front", "wrist")):
                out.image(f"/{camera}/color/image_raw", picture(TASKS.index(task), k, which), "rgb8", now)
    return folder


@pytest.mark.parametrize("version", ["3.0", "2.1"])
@pytest.mark.parametrize("options", [[], ["--video"]], ids=["png", "video"])
def test_lerobot_loads_what_we_write(tmp_path: Path, options: list[str], version: str) -> None:
    """In version 3.0 as it is, with its statistics; and it survives the way into bags and back."""
    bags = [str(write_bag(tmp_path / f"bag{k}", task)) for k, task in enumerate(TASKS)]
    folder = tmp_path / "ds"
    assert main(["to-lerobot", *bags, "--out", str(folder), "--version", version, *options]) == 0
    ours = [read(folder, number) for number in (0, 1)]
    if version == "2.1":
        lerobot(CONVERT, tmp_path)
    assert json.loads((folder / "meta" / "info.json").read_text())["codebase_version"] == "v3.0"
    check_loaded(folder, tmp_path, ours, 12 if options else 1)
    assert main(["from-lerobot", str(folder), "--out", str(tmp_path / "bags")]) == 0
    back = [str(tmp_path / "bags" / f"episode_{number:06d}") for number in (0, 1)]
    assert main(["to-lerobot", *back, "--out", str(tmp_path / "again")]) == 0
    check_loaded(tmp_path / "again", tmp_path, ours, 12 if options else 1)


def check_loaded(folder: Path, tmp_path: Path, ours: list[Demonstration], tolerance: int) -> None:
    """LeRobot's own loader gives the values of our episodes, and so does our reader of what it reads."""
    keys = ("image", "wrist_image", "state", "actions", "joint_positions", "timestamp")
    lerobot(LOAD, folder, tmp_path / "loaded.npz", *keys)
    loaded = np.load(tmp_path / "loaded.npz")
    for key, name in (("state", "states"), ("actions", "actions"), ("joint_positions", "joints")):
        whole = np.concatenate([getattr(episode, name) for episode in ours])
        np.testing.assert_array_equal(loaded[key], whole)
        np.testing.assert_allclose(loaded[f"stats {key}"], np.stack([whole.min(axis=0), whole.mean(axis=0)]), atol=1e-6)
    assert loaded["task"].tolist() == [TASKS[0]] * FRAMES + [TASKS[1]] * FRAMES
    for which, key in enumerate(("image", "wrist_image")):
        expected = [picture(episode, k, which) for episode in (0, 1) for k in range(FRAMES)]
        shown = np.moveaxis(loaded[key], 1, -1) * 255
        assert np.abs(shown - expected).max() < tolerance
    for number in (0, 1):
        again = read(folder, number)
        np.testing.assert_array_equal(again.states, ours[number].states)
        assert again.tasks == ours[number].tasks
        for which, camera in enumerate(("front", "wrist")):
            frames = np.array(list(again.pictures[camera]())).astype(int)
            expected = [picture(number, k, which) for k in range(FRAMES)]
            assert np.abs(frames - expected).max() < tolerance


def test_lerobot_loads_two_arms_with_what_was_noted_of_them(tmp_path: Path) -> None:
    """Interventions and outcome are columns; each episode by itself, too, from a second table."""
    random = np.random.default_rng(3)
    cameras = ("front", "left_wrist", "right_wrist")
    shown: dict[str, Callable[[], Iterator[np.ndarray]]] = {
        camera: partial(pictures, which) for which, camera in enumerate(cameras)
    }
    episodes = [
        Demonstration(
            [TASKS[0]] * FRAMES, 10.0, shown, random.uniform(0, 0.5, (FRAMES, 14)).astype(np.float32),
            random.uniform(0, 0.02, (FRAMES, 14)).astype(np.float32), None, arms=("left_", "right_"),
            interventions=np.arange(FRAMES) > 4, outcome=outcome,
        )
        for outcome in ("success", "failure")
    ]  # fmt: skip
    write_dataset(tmp_path / "ds", episodes)
    lerobot(
        LOAD, tmp_path / "ds", tmp_path / "loaded.npz", "state", "actions", "intervention", "outcome", "wrist_image_2"
    )
    loaded = np.load(tmp_path / "loaded.npz")
    np.testing.assert_array_equal(loaded["actions"], np.concatenate([episode.actions for episode in episodes]))
    assert loaded["intervention"].ravel().tolist() == 2 * (np.arange(FRAMES) > 4).tolist()
    assert loaded["outcome"].tolist() == ["success"] * FRAMES + ["failure"] * FRAMES
    found = read(tmp_path / "ds", 1)
    np.testing.assert_array_equal(found.actions, episodes[1].actions)
    assert (found.arms, found.outcome) == (("left_", "right_"), "failure")


@pytest.mark.parametrize("kind", ["video", "image"])
def test_we_read_what_lerobot_writes(tmp_path: Path, kind: str) -> None:
    """With its defaults: version 3.0, AV1; the wrist camera comes first."""
    random = np.random.default_rng(7)
    state = np.column_stack([random.uniform(-0.5, 0.5, (FRAMES, 6)), np.linspace(0, 1, FRAMES)]).astype(np.float32)
    action = np.column_stack([random.uniform(-0.01, 0.01, (FRAMES, 6)), np.linspace(1, 0, FRAMES)]).astype(np.float32)
    front, wrist = (np.stack([picture(0, k, which) for k in range(FRAMES)]) for which in (0, 1))
    np.savez(tmp_path / "given.npz", state=state, action=action, tasks=np.array(TASKS), front=front, wrist=wrist)
    folder = tmp_path / "ds"
    lerobot(CREATE, folder, tmp_path / "given.npz", kind)
    gripper = "state=1:0,actions=1:0"
    assert main(["from-lerobot", str(folder), "--out", str(tmp_path / "bags"), "--gripper", gripper]) == 0
    for number in (0, 1):
        episode = read(folder, number, gripper)
        np.testing.assert_array_equal(episode.states, state)
        np.testing.assert_allclose(episode.actions, action, atol=1e-7)
        assert episode.tasks == [TASKS[number]] * FRAMES
        for camera, expected in (("front", front), ("wrist", wrist)):
            frames = list(episode.pictures[camera]())
            assert np.abs(np.array(frames).astype(int) - expected).max() < (12 if kind == "video" else 1)
