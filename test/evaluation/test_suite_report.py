"""The record of a suite's episodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from molmoact_ros.evaluation.suite_report import SuiteEpisode, SuiteRecord, SuiteSettings

SETTINGS = SuiteSettings("libero_object", "protocol", "abc libero_object_no_noops_modified", 0.0)


def result(task: int, trial: int, success: bool, refusals: tuple[str, ...] = ()) -> SuiteEpisode:
    return SuiteEpisode(task, trial, f"task {task}", success, 90 + trial, 12, float("nan"), refusals, 1, (("jerk", 2),))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    record = SuiteRecord(tmp_path / "results.json", SETTINGS, {"python": "3"})
    for task, trial in ((1, 0), (0, 0), (0, 1)):
        record.append(result(task, trial, task == 0, ("no",) * task))
    again = SuiteRecord(tmp_path / "results.json", SETTINGS, {})
    assert again.has(0, 1) and again.has(1, 0) and not again.has(1, 1)
    assert [(r.task, r.trial) for r in again.results] == [(0, 0), (0, 1), (1, 0)]
    assert again.results[0].limited == (("jerk", 2),) and again.results[2].refusals == ("no",)


def test_the_summary_has_wilsons_interval_by_task_and_of_all(tmp_path: Path) -> None:
    record = SuiteRecord(tmp_path / "results.json", SETTINGS, {})
    for trial in range(10):
        record.append(result(0, trial, trial < 8))
        record.append(result(1, trial, True))
    summary = json.loads((tmp_path / "results.json").read_text())["summary"]
    assert list(summary) == ["task 0", "task 1", "all"]
    assert summary["task 0"]["interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert summary["all"]["success"] == 0.9 and summary["all"]["episodes"] == 20
    assert summary["task 0"]["steps"] == 93.5, "of the successes"
    assert summary["all"]["step_seconds"] is None and summary["all"]["refused_chunks"] == 20


def test_episodes_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    SuiteRecord(tmp_path / "results.json", SETTINGS, {}).append(result(0, 0, True))
    other = SuiteSettings("libero_object", "deployed", SETTINGS.policy, 0.2)
    with pytest.raises(ValueError, match="another mode and latency; choose another --out"):
        SuiteRecord(tmp_path / "results.json", other, {})
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="is no record of a suite"):
        SuiteRecord(tmp_path / "results.json", SETTINGS, {})
