"""vla-eval's result file beside ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from molmoact_ros.evaluation.harness_results import pair_episodes, read_harness_results
from molmoact_ros.evaluation.suite_report import SuiteEpisode

THEIRS = {
    "benchmark": "LIBEROBenchmark",
    "tasks": [
        {"task": "pick it", "episodes": [
            {"episode_id": 0, "metrics": {"success": True}, "steps": 92},
            {"episode_id": 1, "metrics": {"success": 0.0}, "steps": 280},
            {"episode_id": 2, "metrics": {}, "failure_reason": "the server", "steps": None},
        ]},
    ],
}  # fmt: skip
"""The shape of what vla-eval 0.8.0 writes."""


def ours(trial: int, success: bool, instruction: str = "pick it") -> SuiteEpisode:
    return SuiteEpisode(0, trial, instruction, success, 92, 12, float("nan"))


def test_episodes_are_compared_by_task_and_number(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "LIBEROBenchmark_aggregate.json").write_text(json.dumps(THEIRS))
    found = read_harness_results(tmp_path)
    pairs = pair_episodes(
        [ours(0, True), ours(1, True), ours(2, False), ours(3, False), ours(0, True, "put it")], found
    )
    assert [pair.theirs for pair in pairs] == [True, False, False, None, None]
    assert [pair.agree for pair in pairs] == [True, False, True, False, False], "no result agrees with nothing"
    assert pairs[0].steps == (92, 92)


def test_what_is_no_result_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no result file"):
        read_harness_results(tmp_path)
    (tmp_path / "x_aggregate.json").write_text('{"tasks": [{"task": "a", "episodes": [[]]}]}')
    with pytest.raises(ValueError, match="is no result file of vla-eval's"):
        read_harness_results(tmp_path)
