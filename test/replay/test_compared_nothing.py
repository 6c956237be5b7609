"""A replay that compared nothing is no success, and says what became of its steps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.bags.plans import RecordedAnswer
from molmoact_ros.cli.main import main
from molmoact_ros.replay.compare import Thresholds, compare_answers

from .conftest import Change

TASK = ["--instruction", "put the red cube in the bowl"]


@given(st.lists(st.sampled_from(["", "it needs depth", "it is too long"]), max_size=12), st.booleans())
def test_how_many_were_refused_and_why_is_said(reasons: list[str], saved: bool) -> None:
    replayed = [RecordedAnswer(k, float(k), refused=why) for k, why in enumerate(reasons)]
    comparison = compare_answers([], False, Thresholds(), "", replayed, saved)
    refused = [why for why in reasons if why]
    (finding,) = comparison.findings
    good = saved and bool(replayed) and not refused
    assert (comparison.good, comparison.compared) == (good, good)
    if not good:
        assert f"{len(refused)} of {len(reasons)} steps were refused" in finding.text
        assert not refused or max(refused, key=refused.count) in finding.text or len(set(refused)) > 1
    assert "\n" not in finding.text


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Three moments of two cameras and nothing else."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    with BagWriter(tmp_path / "bag") as bag:
        out = EpisodeWriter(bag, "raw")
        for k in range(3):
            for camera in ("front", "wrist"):
                out.image(f"/{camera}/color/image_raw", pixels, "rgb8", 10.0 + k)
    return tmp_path / "bag"


def test_a_bag_without_plans_is_no_success_unless_its_answers_are_saved(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(bag), "--engine", *TASK]) == 1
    assert (
        "nothing was compared: 0 of 3 steps were refused; the others have no recorded plan" in capsys.readouterr().out
    )
    answers = str(tmp_path / "answers.json")
    assert main(["replay", str(bag), "--engine", *TASK, "--save", answers]) == 0
    assert "3 are saved" in capsys.readouterr().out
    assert main(["replay", str(bag), "--engine", *TASK, "--against", answers]) == 0
    assert main(["replay", str(bag), "--engine", *TASK, "--mode", "grounded", "--save", answers]) == 1
    said = capsys.readouterr().out
    assert "nothing was compared: 3 of 3 steps were refused; refused most often because the mode grounded needs" in said


def test_a_controller_that_never_moved_is_no_success(
    changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def without(topic: str, message: Any) -> Any:
        return None if topic.endswith(("safety_status", "joint_trajectory")) else message

    assert main(["replay", str(changed(without)), "--control"]) == 1
    assert "nothing was compared: the bag has neither commands nor states of a controller" in capsys.readouterr().out


def test_joints_that_are_no_numbers_are_left_out_and_counted(
    changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    count = 0

    def spoil(topic: str, message: Any) -> Any:
        nonlocal count
        if topic == "/joint_states":
            count += 1
            if count % 50 == 0:
                message.position = np.where(np.arange(len(message.position)) == 2, np.nan, message.position)
        return message

    assert main(["replay", str(changed(spoil)), "--control"]) == 0
    assert f"{count // 50} joint states have positions that are not finite numbers" in capsys.readouterr().out


def test_one_damaged_image_costs_one_step(
    changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    count = 0

    def damage(topic: str, message: Any) -> Any:
        nonlocal count
        if topic.startswith("/front/color"):
            count += 1
            if count == 1:
                message.data = message.data[:10]
        return message

    main(["replay", str(changed(damage)), "--engine"])
    said = capsys.readouterr()
    assert re.search(r"1 messages on /front/color/\S+ are left out: a recorded image cannot be read", said.out)
    assert re.search(r"1 of \d+ plans have no images of all cameras", said.out) and not said.err
