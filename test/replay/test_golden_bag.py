"""Today's code does on the golden bag what it did when the bag was made; and where it does not, replay says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from safetensors.torch import load_file, save_file

from molmoact_ros.bags.plans import RecordedAnswers, pairs
from molmoact_ros.bags.recording import SAME, Recording
from molmoact_ros.cli.main import main
from molmoact_ros.cli.replay import inexact
from molmoact_ros.control.controller import Controller
from molmoact_ros.control.limiter import Limiter, Motion
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.replay.answer_difference import frechet
from molmoact_ros.replay.compare import Thresholds, compare_answers, compare_control
from molmoact_ros.replay.control import cycle_times, replay_control
from molmoact_ros.replay.engine import replay_engine
from molmoact_ros.utils.paths import default_checkpoint, robot_model
from molmoact_ros.utils.provenance import machine

from .conftest import GOLDEN, Change

THRESHOLDS = Thresholds(command_rad=0.01, following_rad=0.15)
"""Stricter than for live bags: in lock-step every cycle is known."""


def answers(engine: TorchEngine, bag: Path) -> RecordedAnswers:
    engine.forget()
    with Recording(bag) as recording:
        return RecordedAnswers(machine(engine.digest), list(replay_engine(engine, recording, recording.steps())))


@pytest.fixture(scope="module")
def then(nano: TorchEngine) -> RecordedAnswers:
    known = RecordedAnswers.load(GOLDEN / "pick.answers.json")
    assert known.about["checkpoint"] == nano.digest, (
        "the nano model was trained again: look at what `molmoact-ros replay test/golden/bags/pick --engine --against "
        "test/golden/bags/pick.answers.json --report report.html` shows, then run scripts/golden-bags --answers"
    )
    return known


@pytest.fixture(scope="module")
def now(nano: TorchEngine, golden: Path) -> RecordedAnswers:
    return answers(nano, golden)


def test_the_model_says_what_it_said(then: RecordedAnswers, now: RecordedAnswers, golden: Path) -> None:
    both = pairs(then.answers, now.answers, SAME)
    assert len(both) == len(then.answers) >= 6
    with Recording(golden) as recording:
        why_not = inexact(then, now, recording)
    comparison = compare_answers(both, not why_not, THRESHOLDS, why_not)
    assert comparison.good, comparison.findings


def test_twice_the_same_is_the_same_to_the_last_token(nano: TorchEngine, golden: Path, now: RecordedAnswers) -> None:
    again = answers(nano, golden)
    assert [a.tokens for a in again.answers] == [a.tokens for a in now.answers]
    comparison = compare_answers(pairs(now.answers, again.answers, SAME), True, THRESHOLDS)
    assert comparison.good and comparison.first == "" and comparison.figures["unequal_tokens"] == 0


def test_a_changed_checkpoint_is_found_and_its_first_divergence_named(
    tmp_path: Path, golden: Path, now: RecordedAnswers, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in default_checkpoint().iterdir():
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    weights = load_file(other / "model.safetensors")
    torch.manual_seed(0)
    name = max((n for n in weights if "blocks" in n), key=lambda n: weights[n].numel())
    weights[name] = weights[name] * (1 + 0.5 * torch.randn_like(weights[name]))
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    now.save(tmp_path / "then.json")
    report, figures = tmp_path / "report.html", tmp_path / "figures.json"
    status = main(
        ["replay", str(golden), "--engine", "--checkpoint", str(other), "--against", str(tmp_path / "then.json"),
         "--report", str(report), "--json", str(figures)]
    )  # fmt: skip
    said = json.loads(figures.read_text())
    assert status == 2 and not said["good"]
    shared = RecordedAnswers.load(tmp_path / "then.json")
    step = next(row for row in said["rows"] if row["first"])
    assert said["first"].startswith(f"step {step['plan_id']} of {len(shared.answers)} (plan {step['plan_id']}, ")
    assert said["first"] in capsys.readouterr().out.replace("\n", " ")
    assert json.dumps(said["first"])[1:-1] in report.read_text() and "data:image/jpeg" in report.read_text()
    assert "http" not in report.read_text().replace("http://www.w3.org/2000/svg", ""), "the report is self-contained"


def test_a_shifted_camera_is_caught(nano: TorchEngine, changed: Callable[[Change], Path], now: RecordedAnswers) -> None:
    def shift(topic: str, message: Any) -> Any:
        if topic.startswith("/front/color"):
            pixels = cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED)
            assert pixels is not None
            moved = np.roll(pixels, 40, axis=1)  # 40 of 320 px: as if the camera had been turned by 7 degrees
            message.data = cv2.imencode(".png", moved)[1].ravel()
        return message

    shifted = answers(nano, changed(shift))
    comparison = compare_answers(pairs(now.answers, shifted.answers, SAME), False, THRESHOLDS, "on purpose")
    failed = {finding.name for finding in comparison.findings if finding.verdict.name == "FAIL"}
    assert failed & {"trace", "depth codes", "actions: translation"} and comparison.first.startswith("step 1 ")


def test_every_message_is_understood_by_its_schema_in_the_bag(golden: Path) -> None:
    """By a decoder that shares nothing with the writer's: mcap's own."""
    with (golden / "pick.mcap").open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True, decoder_factories=[DecoderFactory()])
        decoded = [(schema.name, message) for schema, _, _, message in reader.iter_decoded_messages() if schema]
        summary = reader.get_summary()
    assert summary is not None and summary.statistics is not None
    assert len(decoded) == summary.statistics.message_count
    tokens = [message for name, message in decoded if name == "molmoact_ros/msg/AnswerTokens"]
    assert len(tokens) >= 5 and tokens[0].mode == "full" and len(tokens[0].tokens) > 100


def control(bag: Path) -> Any:
    with Recording(bag) as recording:
        return compare_control(replay_control(recording, robot_model()), THRESHOLDS)


def failures(comparison: Any) -> set[str]:
    return {finding.name for finding in comparison.findings if finding.verdict.name == "FAIL"}


def test_the_controller_commands_what_it_commanded(golden: Path) -> None:
    comparison = control(golden)
    assert comparison.good, comparison.findings
    assert comparison.figures["commands_rad"] < 1e-3


def test_a_broken_limiter_is_caught(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def let_through(self: Limiter, wanted: Motion | None, *_: object) -> Motion:
        if wanted is not None:
            self.motion = wanted
        return self.motion

    monkeypatch.setattr(Limiter, "step", let_through)
    comparison = control(golden)
    assert "limits broken" in failures(comparison)
    assert comparison.figures["broken"]["jerk"] >= 3


def test_a_limiter_that_lets_too_little_through_is_caught(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Limiter.__init__

    def weak(self: Limiter, limits: Any, fractions: Any, guard: Any, dt: float) -> None:
        whole(self, limits, fractions.model_copy(update={"speed": 0.05}), guard, dt)

    monkeypatch.setattr(Limiter, "__init__", weak)
    assert "commands" in failures(control(golden))


def test_a_swapped_joint_order_is_caught(changed: Callable[[Change], Path]) -> None:
    def swap(topic: str, message: Any) -> Any:
        if topic == "/joint_states":
            message.name[3], message.name[5] = message.name[5], message.name[3]
        return message

    comparison = control(changed(swap))
    assert failures(comparison) and comparison.first


def test_swapped_commands_are_caught(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's names in another order, taken for ours: what a wrong index does."""
    whole = Controller.update_joint_state

    def by_place(self: Controller, names: Any, positions: Any, *times: float) -> None:
        whole(self, names, np.array(positions)[[0, 1, 2, 5, 4, 3, 6, 7, 8]].tolist(), *times)

    monkeypatch.setattr(Controller, "update_joint_state", by_place)
    assert failures(control(golden)) & {"commands", "states", "commands: following"}


def test_a_fault_that_is_not_found_again_is_caught(changed: Callable[[Change], Path]) -> None:
    """The camera fell silent then, and the bag says that the arm held; a controller that plays on has lost a check."""

    def pretend(topic: str, message: Any) -> Any:
        if topic == "/controller/safety_status" and message.header.stamp.sec >= 1003:
            message.state, message.reason = 2, "a camera is silent or frozen"
        return message

    comparison = control(changed(pretend))
    assert failures(comparison) == {"states"} and "recorded: hold" in comparison.first


def test_cycles_are_found_again_though_their_commands_were_heard_late() -> None:
    cycles = 5.0 + np.concatenate([np.arange(300), np.arange(300) + 400]) / 100  # a second of rest in between
    rng = np.random.default_rng(0)
    late = np.where(rng.random(600) < 0.2, 0.0005, rng.uniform(0, 0.03, 600))
    heard = np.maximum.accumulate(cycles + late)
    found = cycle_times(heard, 0.01)
    assert np.abs(found - cycles).max() < 0.006 < np.abs(heard - cycles).max()
    assert (np.diff(found) >= 0).all()
    np.testing.assert_array_equal(cycle_times(cycles, 0.01), cycles)


def test_the_distance_between_traces_is_frechets() -> None:
    line = np.array([[0, 0], [100, 0]])
    assert frechet(line, line) == 0
    assert frechet(line, line + [0, 7]) == pytest.approx(7)
    assert frechet(line, line[::-1]) == pytest.approx(100), "the way back is another way"
    corner = np.array([[0, 0], [50, 50], [100, 0]])
    assert frechet(line, corner) == pytest.approx(50, abs=3)


def test_answers_come_back_from_json(tmp_path: Path, now: RecordedAnswers) -> None:
    now.save(tmp_path / "answers.json")
    back = RecordedAnswers.load(tmp_path / "answers.json")
    for a, b in zip(now.answers, back.answers, strict=True):
        assert replace(a, depth=None, trace=None, actions=None) == replace(b, depth=None, trace=None, actions=None)
        np.testing.assert_array_equal(a.actions, b.actions)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold answers"):
        RecordedAnswers.load(tmp_path / "other.json")


def test_thresholds_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("trace_px: 12\n")
    assert Thresholds.read(file).trace_px == 12
    file.write_text("trace_pixels: 12\n")
    with pytest.raises(ValueError, match="trace_pixels"):
        Thresholds.read(file)
    shipped = Path(__file__).parents[2] / "config" / "replay.yaml"
    assert Thresholds.read(shipped) == Thresholds(), "the file says what the defaults are"
