"""Labels of an episode whose truth is known: from a bag to what fine-tuning reads."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from molmoact_ros.cli.main import main
from molmoact_ros.datasets.arrow_writer import STATISTICS
from molmoact_ros.engine.model.checkpoint import DEPTH, CheckpointFolder, load_depth_vq
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.finetuning.arrow_data import ArrowData
from molmoact_ros.utils.paths import default_checkpoint

from .conftest import FRAMES, FRONT, MOVING, STILL, TASK, Truth, record

BEGIN = STILL
"""The first frame that is labelled: the first one whose action moves the arm."""


@pytest.fixture(scope="module")
def labelled(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> ArrowData:
    before = digest(truth.bag)
    folder = tmp_path_factory.mktemp("labels") / "cube"
    assert main(["label", str(truth.bag), "--out", str(folder)]) == 0
    assert digest(truth.bag) == before, "what is labelled is only read"
    return ArrowData(folder)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        total.update(f"{file} {file.stat().st_mtime_ns}".encode() + file.read_bytes())
    return total.hexdigest()


def test_traces_are_where_the_simulator_has_the_gripper(labelled: ArrowData, truth: Truth) -> None:
    size = np.array([FRONT.width - 1, FRONT.height - 1])
    for row in range(len(labelled)):
        trace = labelled.sample(row).trace
        assert trace is not None
        path = np.array(truth.pixels[BEGIN + row : BEGIN + len(labelled)])
        chosen = np.linspace(0, len(path) - 1, 5).astype(int) if len(path) > 5 else np.arange(len(path))
        off = np.linalg.norm(trace / 255 * size - path[chosen], axis=1)
        assert off.max() < 2.0, row


def test_depth_tokens_are_those_of_the_true_depth(labelled: ArrowData, truth: Truth) -> None:
    """Of the true depth as a camera reports it, in whole millimetres: the filled holes change no token."""
    vq = load_depth_vq(default_checkpoint() / DEPTH)
    same = []
    for row in range(len(labelled)):
        codes, true = labelled.sample(row).depth_codes, truth.depth[BEGIN + row]
        np.testing.assert_array_equal(codes, vq.encode_depth(np.round(1000 * true) / 1000), str(row))
        same.append(np.mean(codes == vq.encode_depth(true)))
    assert np.mean(same) > 0.97, "a millimetre changes a token in a hundred"


def test_the_folder_says_what_was_done(labelled: ArrowData, truth: Truth) -> None:
    assert labelled.name == "cube" and labelled.run["conventions"]["cube"]["space"] == "delta_ee_pose"
    assert len(labelled) == MOVING + 1, "what stands still is cut, but for the last frame"
    moves = labelled.sample(MOVING).actions
    np.testing.assert_allclose(moves, np.tile(moves[-1], (8, 1)), atol=1e-9, err_msg="padded with the last action")
    assert [labelled.sample(row).actions[0, 6] > 0.9 for row in (0, MOVING)] == [True, False]
    page = (labelled.folder / "labels.html").read_text()
    assert page.count("<img") == 2 * min(20, MOVING + 1) and "http" not in page
    assert f"{FRAMES - MOVING - 1} frames in which nothing moves were cut" in page and "nothing</li>" in page


def test_clicked_points_that_are_tracked_and_what_else_an_episode_may_lack(
    cell: Workcell, truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tasks, no calibration, holes: a person clicks in three frames, and the same labels come of it."""
    blind = record(cell, tmp_path / "blind", False, speckled, lambda k: TASK if k < 12 else "open the drawer")
    label = ["label", str(blind.bag), "--out", str(tmp_path / "out")]
    assert main(label) == 1
    assert "there is no calibration on /front/color/camera_info; click the gripper" in capsys.readouterr().err
    page = tmp_path / "clicks.html"
    assert main(["label", str(blind.bag), "--click-page", str(page), "--click-frames", "3"]) == 0
    asked = [int(frame) for frame in re.findall(r'data-episode="blind" data-frame="(\d+)"', page.read_text())]
    assert asked == [BEGIN, BEGIN + MOVING // 2, BEGIN + MOVING]
    clicks = tmp_path / "clicks.json"
    clicks.write_text(json.dumps({"blind": [{"frame": k, "point": blind.pixels[k].tolist()} for k in asked]}))
    capsys.readouterr()
    assert main([*label, "--clicks", str(clicks)]) == 0
    printed = capsys.readouterr().out
    assert "2 tasks in one episode: pick up the red cube; open the drawer" in printed
    assert f"holes were filled in {MOVING + 1} of them" in printed
    found, vq = ArrowData(tmp_path / "out"), load_depth_vq(default_checkpoint() / DEPTH)
    size, off, same = np.array([FRONT.width - 1, FRONT.height - 1]), [], []
    for row in range(len(found)):
        sample = found.sample(row)
        assert sample.trace is not None
        off.append(np.linalg.norm(sample.trace[0] / 255 * size - truth.pixels[BEGIN + row]))
        same.append(np.mean(sample.depth_codes == vq.encode_depth(truth.depth[BEGIN + row])))
    assert np.median(off) < 6 and max(off) < 15
    assert np.mean(same) > 0.9


def speckled(depth: np.ndarray) -> np.ndarray:
    """What a stereo camera makes of depth [H, W] m: blots without any."""
    rng, out = np.random.default_rng(0), depth.copy()
    for row, column in zip(rng.integers(0, FRONT.height, 60), rng.integers(0, FRONT.width, 60), strict=True):
        cv2.circle(out, (int(column), int(row)), 5, 0.0, -1)
    return out


def test_the_checkpoints_own_traces(truth: Truth, tmp_path: Path) -> None:
    assert main(["label", str(truth.bag), "--out", str(tmp_path / "out"), "--trace", "model", "--fps", "2"]) == 0
    found = ArrowData(tmp_path / "out")
    assert len(found) > 3 and all(found.sample(row).can_steer for row in range(len(found)))


@pytest.mark.parametrize(("options", "words"), [
    (["--trace", "clicks"], "--click-page writes the page"), (["--fps", "0"], "--fps 0 is not possible"),
    (["--clicks", "{tmp}/none.json"], "none.json"), (["--out", "{bag}/labels"], "which is only read"),
    (["--out", "{tmp}"], "exists already"), (["--checkpoint", "{tmp}"], "has no depth decoder"),
    (["--depth", "depth-anything", "--depth-model", "{tmp}"], "{tmp}"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(
    truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    given = [option.format(tmp=tmp_path, bag=truth.bag) for option in options]
    assert main(["label", str(truth.bag), "--out", str(tmp_path / "out"), *given]) == 1
    error = capsys.readouterr().err
    assert words.format(tmp=tmp_path) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_actions_are_normalised_by_the_statistics_of_a_checkpoint_or_a_data_set(
    truth: Truth, labelled: ArrowData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same motion is other tokens then, and the key is kept: the tokens go on meaning what they meant."""
    nano = CheckpointFolder(default_checkpoint())
    label = ["label", str(truth.bag), "--statistics"]
    assert main([*label, str(default_checkpoint()), "--out", str(tmp_path / "cup")]) == 0
    given = ArrowData(tmp_path / "cup")
    assert given.name == "nano_workcell" and given.statistics.action == nano.config.norm_stats[given.name].action
    assert given.run["conventions"].keys() == {given.name}
    for row in (0, MOVING // 2):
        ours, theirs = labelled.sample(row).actions, given.sample(row).actions
        assert not np.allclose(ours, theirs)
        moves = labelled.statistics.action.unnormalise(ours)[:, :3]
        low, high = np.array(given.statistics.action.q01)[:3], np.array(given.statistics.action.q99)[:3]
        back = given.statistics.action.unnormalise(theirs)[:, :3]
        np.testing.assert_allclose(back, np.clip(moves, low, high), atol=1e-3, err_msg="but for what is clipped")
    assert "is clipped: 98 % of it lie in" in capsys.readouterr().out, (
        "this arm is faster than those of the nano's data"
    )

    assert main([*label, str(tmp_path / "cup" / STATISTICS), "--out", str(tmp_path / "again"), "--key", "mine"]) == 0
    again = ArrowData(tmp_path / "again")
    assert again.name == "mine" and again.statistics.action == given.statistics.action
    np.testing.assert_array_equal(again.sample(0).actions, given.sample(0).actions)


def test_statistics_of_other_actions_are_refused(
    truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = json.loads((default_checkpoint() / "config.json").read_text())["norm_stats"]["nano_workcell"]
    for known, words in (
        ({"libero_object_no_noops_modified": stats}, "have another rotation than demonstrations: rotation_vector, not"),
        ({"franka_droid": stats}, "have another space than demonstrations: joint_position"),
        ({"a": stats, "b": stats}, "choose one of: a, b"), ({"a": {}}, "holds no statistics"),
    ):  # fmt: skip
        (tmp_path / STATISTICS).write_text(json.dumps(known))
        command = ["label", str(truth.bag), "--statistics", str(tmp_path / STATISTICS), "--out", str(tmp_path / "out")]
        assert main(command) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()
