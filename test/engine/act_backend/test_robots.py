"""What is known of a server's robot before it is asked: the released ones, and those of a folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.cli.main import main
from molmoact_ros.control.action_conversion import check_fit
from molmoact_ros.engine.act_backend.client import ActEngine
from molmoact_ros.engine.act_backend.robots import served_robot
from molmoact_ros.engine.factory import EngineOptions, open_engine, read_meaning
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.utils.paths import default_checkpoint

THINK = Path(__file__).parents[2] / "golden" / "think_like"


def test_units_and_polarity_of_the_released_servers() -> None:
    droid, yam = served_robot("franka_droid"), served_robot("yam_dual_molmoact2")
    assert (droid.cameras, droid.state_dimensions, droid.action_shape) == (2, 8, (15, 8))
    assert (yam.cameras, yam.state_dimensions, yam.action_shape) == (3, 14, (30, 14))
    for robot, opening_of_1, dt in ((droid, 0.0, 1 / 15), (yam, 1.0, 1 / 30)):
        meant = robot.convention
        assert meant.stated and meant.space == meant.state == "joint_position" and meant.rotation_scale == 1
        assert meant.gripper.opening(np.array([1.0, 0.0])).tolist() == [opening_of_1, 1 - opening_of_1]
        assert meant.dt == dt


def test_a_server_of_released_weights_needs_no_folder_and_its_robot_is_checked() -> None:
    options = EngineOptions(backend="act", unnorm_key="franka_droid", flow_steps=5)
    meant = read_meaning(options, default_checkpoint())
    check_fit(meant.key, meant.convention, meant.dimensions, "franka", 1, ["front", "wrist"])
    with pytest.raises(ValueError, match="needs 2 cameras"):
        check_fit(meant.key, meant.convention, meant.dimensions, "franka", 1, ["front"])
    engine = open_engine(options, default_checkpoint())
    assert isinstance(engine, ActEngine) and engine.flow_steps == 5 and engine.digest.startswith("franka_droid at")
    yam = read_meaning(EngineOptions(backend="act", unnorm_key="yam_dual_molmoact2"), default_checkpoint())
    with pytest.raises(ValueError, match="holds actions of the robot yam, not of a franka"):
        check_fit(yam.key, yam.convention, yam.dimensions, "franka", 2, ["top", "left", "right"])


@pytest.mark.parametrize("tag", ["", "molmoact"])
def test_a_tag_that_is_not_said_or_not_known_is_one_line(tag: str) -> None:
    with pytest.raises(RefusedStep, match="choose one of: franka_droid, yam_dual_molmoact2, or set checkpoint"):
        open_engine(EngineOptions(backend="act", unnorm_key=tag), default_checkpoint())


def test_a_folder_without_weights_says_what_its_server_reads(tmp_path: Path) -> None:
    for name in ("config.json", "norm_stats.json"):
        (tmp_path / name).write_bytes((THINK / name).read_bytes())
    robot = served_robot("", tmp_path)
    options = EngineOptions(backend="act", checkpoint=str(tmp_path))
    assert (robot.cameras, robot.state_dimensions, robot.action_shape) == (2, 8, (8, 7))
    assert read_meaning(options, tmp_path).key == robot.tag
    with pytest.raises(RefusedStep, match=f"choose one of: {robot.tag}"):
        served_robot("franka_droid", tmp_path)
    with pytest.raises(CheckpointError):
        open_engine(options.model_copy(update={"checkpoint": str(tmp_path / "none")}), tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint", str(THINK), "--tensor-parallel", "2"], "MolmoAct 2, .* --tensor-parallel has no meaning"),
        (["--checkpoint", str(THINK), "--", "--data-parallel-size", "4"], "an argument after -- has no meaning"),
        (["--checkpoint", str(THINK), "--host", "0.0.0.0"], "anybody in the network .* --api-key-file"),
        (["--checkpoint", str(THINK), "--unnorm-key", "other"], "choose one of: "),
        (["--checkpoint", str(default_checkpoint()), "--device", "cuda"], "vLLM serves, so --device has no meaning"),
    ],
)
def test_serve_refuses_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOLMOACT_API_KEY", raising=False)
    assert main(["serve", *arguments]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(words, line), line
