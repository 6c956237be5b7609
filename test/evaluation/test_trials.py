"""Trials on a real robot: sheets and their mistakes, the order, what the operator sees, resumption, and the figures."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.bringup.sealed_policies import SealedPolicies
from molmoact_ros.cli.main import main
from molmoact_ros.cli.trials import announcement
from molmoact_ros.evaluation.intervals import mean_interval, rate_interval
from molmoact_ros.evaluation.trial_figures import figures
from molmoact_ros.evaluation.trial_order import sealed_labels, trial_order
from molmoact_ros.evaluation.trial_report import first_and_last, write_report
from molmoact_ros.evaluation.trial_session import TRIALS, TrialSession
from molmoact_ros.evaluation.trial_sheet import SheetError, TrialSheet, read_sheet

ROOT = Path(__file__).parents[2]
NAMES = ("Zebra", "Yak", "Xerus")
RUBRIC = [{"text": "grasped"}, {"text": "lifted", "points": 3}]


def sheet(**changes: Any) -> TrialSheet:
    about: dict[str, Any] = {
        "seed": 5, "trials": 6, "policies": [{"name": name, "checkpoint": f"/checkpoints/{name}"} for name in NAMES],
        "tasks": [
            {"name": "bowl", "instruction": "lift the bowl", "rubric": RUBRIC,
             "conditions": [{"name": "plain"}, {"name": "words", "instruction": "raise the dish", "setup": "same"}]},
            {"name": "cup", "instruction": "lift the cup", "setup": "upright", "rubric": RUBRIC},
        ],
    }  # fmt: skip
    return TrialSheet.model_validate(about | changes)


def session(folder: Path, of: TrialSheet | None = None) -> TrialSession:
    folder.mkdir(exist_ok=True)
    return TrialSession(folder, of or sheet())


# Sheets


def mistakes(folder: Path, **changes: Any) -> list[str]:
    file = folder / "sheet.yaml"
    contents = sheet().model_dump(mode="json", exclude={"policies"}) | {"policies": [{"name": "x", "node": "mine"}]}
    file.write_text(yaml.safe_dump(contents | changes))
    with pytest.raises(SheetError) as caught:
        read_sheet(file, {}, {})
    assert all(line.startswith(str(file)) and "\n" not in line for line in caught.value.lines)
    return [line.removeprefix(f"{file}: ") for line in caught.value.lines]


def task(**changes: Any) -> dict[str, Any]:
    return {"name": "bowl", "instruction": "lift the bowl", "rubric": RUBRIC} | changes


def test_each_mistake_of_a_sheet_gets_its_own_line(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path, trials=0,
        tasks=[task(rubric=[]), task(name="cup", instruction="lift <it>"), task(limit=5000, goal=1)],
    )  # fmt: skip
    places = [line.split(": ")[0] for line in found]
    assert places == ["trials", "tasks 1, rubric", "tasks 2, instruction", "tasks 3, limit", "tasks 3, goal"], found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tasks": [task(), task()]}, "there are two of the task 'bowl'"),
        ({"tasks": [task(rubric=[{"text": "lifted"}, {"text": "lifted"}])]}, "two of the step of the rubric 'lifted'"),
        ({"tasks": [task(rubric=[{"text": "lifted", "points": 0}])]}, "tasks 1, rubric 1, points: "),
        ({"policies": [{"name": "x"}]}, "policy 'x' needs either a checkpoint"),
        ({"policies": [{"name": "x", "checkpoint": "nowhere"}]}, "there is no checkpoint at .*nowhere"),
        ({"policies": []}, "names no policies"),
        ({"policies": "mine"}, "policies: Input should be a valid list"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_to_do(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    (line,) = mistakes(tmp_path, **changes)
    assert re.search(expected, line), line


def test_the_command_prints_a_line_for_each_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sheet.yaml").write_text("trials: 0\ntasks: []\npolicies: [{name: x, node: y}]\n")
    assert main(["trials", str(tmp_path / "sheet.yaml")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_sheets_for_the_papers_tasks_are_read() -> None:
    files = sorted((ROOT / "config" / "trials").glob("*.yaml"))
    read = {file.stem: read_sheet(file, {"nano": ROOT / "models" / "nano"}, {}) for file in files}
    assert set(read) == {"bimanual", "instruction_following", "out_of_distribution", "single_arm"}
    assert len(trial_order(read["single_arm"])) == 75 and len(read["out_of_distribution"].tasks[0].conditions) == 5


# Order


def test_every_policy_meets_every_condition_as_often_and_at_every_place() -> None:
    order, of = trial_order(sheet()), sheet()
    assert Counter((t.task, t.condition, t.label) for t in order) == dict.fromkeys(
        [(a, b, label) for a, b in (("bowl", "plain"), ("bowl", "words"), ("cup", "as trained")) for label in "ABC"], 6
    )  # fmt: skip
    blocks = [order[k : k + 3] for k in range(0, len(order), 3)]
    assert all(len({(t.round, t.task, t.condition) for t in block}) == 1 for block in blocks), "one scene, all policies"
    places = Counter((t.task, t.condition, t.label, k) for block in blocks for k, t in enumerate(block))
    assert set(places.values()) == {of.trials // 3}
    for number in range(of.trials):
        assert len({(t.task, t.condition) for t in order if t.round == number}) == 3


def test_the_order_is_drawn_from_the_seed() -> None:
    assert trial_order(sheet()) == trial_order(sheet())
    assert len({tuple(trial_order(sheet(seed=k))) for k in range(20)}) == 20
    firsts = {sealed_labels(sheet(seed=k))["A"].name for k in range(20)}
    assert firsts == set(NAMES), "which policy a letter stands for is drawn, too"


# Blindness


def test_nothing_that_is_shown_before_the_end_names_a_policy(tmp_path: Path) -> None:
    of = session(tmp_path / "s", sheet(policies=[*sheet().policies, {"name": "Wolf", "node": "wolf_policy"}]))
    shown = "\n".join(announcement(trial, of.sheet, len(of.order)) for trial in of.order)
    assert not any(name.lower() in shown.lower() for name in (*NAMES, "Wolf"))
    assert "raise the dish" in shown and "same" in shown
    policies = SealedPolicies(sealed_labels(of.sheet), Profile(nodes={}), of.folder)
    for policy in of.sheet.policies:
        veiled = policies.veiled(f"no policy at {policy.checkpoint or policy.node}/execute")
        assert veiled == "no policy at [sealed]/execute"
    with pytest.raises(ValueError, match="sealed"):
        figures(of)


def test_a_checkpoint_runs_under_a_name_that_all_have_and_a_policy_that_ends_says_why(tmp_path: Path) -> None:
    """A real process of the policy, whose checkpoint is not there."""
    of = session(tmp_path / "s")
    policies = SealedPolicies(sealed_labels(of.sheet), Profile(nodes={}, environment={}), of.folder)
    try:
        assert policies.start(of.order[0]) == "policy"
        deadline = time.monotonic() + 60.0
        while not policies.trouble and time.monotonic() < deadline:
            time.sleep(0.1)
        link = of.folder / "sealed" / "policy"
        assert link.readlink() == sealed_labels(of.sheet)[of.order[0].label].checkpoint
        assert str(link) in policies.trouble, policies.trouble
        shown = policies.trouble + "".join(log.read_text() for log in (of.folder / "logs").rglob("*") if log.is_file())
        assert not any(name in shown for name in NAMES)
        policies.start(of.order[0])
        assert policies.is_changing or not policies.trouble, "the operator may try again"
    finally:
        policies.close()


# Scores


def test_a_session_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    of = session(tmp_path / "s")
    assert of.store_score([True, False], 0, 12.5, notes="slow").progress == 0.25
    again = TrialSession(of.folder, None)
    assert again.next == of.order[1] and again.order == of.order and again.scores[0].notes == "slow"
    assert again.sheet == sheet()
    of.store_repeat("camera front is silent", "")
    assert TrialSession(of.folder, None).next == of.order[1], "it is repeated"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(ValueError, match="other things"):
        TrialSession(tmp_path / "mine", sheet())
    with pytest.raises(ValueError, match="begun with another sheet"):
        TrialSession(of.folder, sheet(seed=6))
    with pytest.raises(ValueError, match="no trials yet"):
        TrialSession(tmp_path / "other", None)
    (of.folder / TRIALS).write_text("{}")
    with pytest.raises(ValueError, match=r"trials.json cannot be read"):
        TrialSession(of.folder, None)


def test_a_score_that_cannot_be_written_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "trials.json")

    of = session(tmp_path / "s")
    monkeypatch.setattr("molmoact_ros.evaluation.trial_session.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        of.store_score([True, True], 0, 1.0)
    assert not of.scores and of.next == of.order[0]


# Figures


def test_intervals_have_known_values() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, Wilson's score method.
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert rate_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    values = np.random.default_rng(0).normal(0.5, 0.1, 400).tolist()
    interval = mean_interval(values)
    assert interval is not None and interval == mean_interval(values)
    half = 1.96 * np.std(values) / 20  # of a normal mean
    assert interval == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.1 * half)
    assert mean_interval([1.0]) is None and mean_interval([1.0, 1.0]) == (1.0, 1.0)


def scored(folder: Path) -> TrialSession:
    """Zebra does everything, Yak grasps, Xerus does nothing."""
    of = session(folder)
    labels = sealed_labels(of.sheet)
    for number, trial in enumerate(of.order):
        name = labels[trial.label].name
        of.store_score([name != "Xerus", name == "Zebra"], number, 10.0, notes="<b>&")
    return of


def test_figures_name_the_policies_and_compare_them_in_pairs(tmp_path: Path) -> None:
    of = scored(tmp_path / "s")
    assert of.next is None
    of.reveal()
    found = figures(of)
    assert {n: (p["successes"], p["progress"]) for n, p in found["policies"].items()} == {
        "Zebra": (18, 1.0), "Yak": (0, 0.25), "Xerus": (0, 0.0)
    }  # fmt: skip
    by = {(d["policy"], d["against"]): d for d in found["differences"]}
    by |= {(b, a): d | {"progress": -d["progress"]} for (a, b), d in by.items()}
    assert by["Zebra", "Yak"]["progress"] == pytest.approx(0.75) and by["Zebra", "Yak"]["pairs"] == 18
    assert sum(c["trials"] for c in found["conditions"]) == found["planned"] == len(found["trials"])


def test_the_report_is_one_file_and_ends_the_session(tmp_path: Path) -> None:
    of = session(tmp_path / "s")
    of.store_repeat("camera front is silent", "")
    of.store_score([True, True], 0, 10.0, notes="<b>&", ended_by="the arm holds: no plan")
    page = write_report(of, "front").read_text()
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page and "ended early" in page
    assert all(name in page for name in NAMES) and "http" not in page.replace("http://www.w3.org", "")
    results = json.loads((of.folder / "results.json").read_text())
    assert results["scored"] == 1 and results["policies"]["Zebra"]["label"] in "ABC"
    first = results["policies"][sealed_labels(of.sheet)[of.order[0].label].name]
    last = results["policies"][sealed_labels(of.sheet)[of.order[1].label].name]
    assert (first["faults"], first["repeats"], last["faults"], last["repeats"]) == (1, 1, 0, 0), "never silently"
    assert "ended by a fault: the arm holds: no plan" in page
    assert TrialSession(of.folder, None).next is None, "a trial after that would not be blind"


def test_pictures_that_are_gone_leave_the_report_whole(tmp_path: Path) -> None:
    assert first_and_last(tmp_path / "episode_000", "front") == []
