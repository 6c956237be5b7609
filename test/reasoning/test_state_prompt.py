"""MolmoAct 2's prompt and scaling against the reference's rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.robot_stats import RobotStats, state_bins
from molmoact_ros.reasoning.state_prompt import check_task, normalise_task, robot_prompt, state_text, wrapped

RULES = json.loads((Path(__file__).parents[1] / "golden" / "think_like" / "rules.json").read_text())
SETUP, CONTROL = "single franka robotic arm in droid", "absolute joint pose"


@pytest.mark.parametrize(("typed", "wanted"), RULES["task_text"])
def test_a_task_is_written_as_in_training(typed: str, wanted: str) -> None:
    assert normalise_task(typed) == wanted
    assert normalise_task(wanted) == wanted or "'" in wanted  # a quote that stood at the end is not at the end any more


@pytest.mark.parametrize("text", ["", "  ...", "put <state_3>", "a | b", "x" * 501])
def test_a_task_that_could_do_harm_is_refused(text: str) -> None:
    with pytest.raises(RefusedStep):
        check_task(text)


@pytest.mark.parametrize("name", RULES["prompts"])
def test_prompts_are_word_for_word(name: str) -> None:
    count = int(name[-1])
    images = "<|image|>" if count == 1 else "".join(f"Image {k}<|image|>" for k in range(1, count + 1))
    text = robot_prompt(
        "pick up the cup", wrapped(SETUP, "setup"), state_text([0, 255]), wrapped(CONTROL, "control"), "depth" in name
    )
    assert images + text == RULES["prompts"][name]


def test_words_are_wrapped_once() -> None:
    assert wrapped("arm", "setup", wrap=False) == "arm"
    assert wrapped("<setup_start>arm<setup_end>", "setup") == "<setup_start>arm<setup_end>"


def test_states_become_bins_half_to_even() -> None:
    rules = RULES["state_bins"]
    assert state_bins(np.array(rules["values"])).tolist() == rules["bins"]
    assert state_bins(np.array([np.nan, np.inf, -np.inf])).tolist() == rules["nan_inf_minus_inf"]


@pytest.mark.parametrize("mode", RULES["normalising"]["by_mode"])
def test_values_are_scaled_as_in_training(mode: str) -> None:
    rules = RULES["normalising"]
    stats, wanted = RobotStats.model_validate(rules["stats"]), rules["by_mode"][mode]
    stats.needs(mode)  # type: ignore[arg-type]
    np.testing.assert_array_equal(stats.normalise(np.array(rules["raw"]), mode), wanted["normalised"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(stats.unnormalise(np.array(rules["model_output"]), mode), wanted["unnormalised"])  # type: ignore[arg-type]
