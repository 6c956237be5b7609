"""A run in stages: saved, interrupted, resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.training.training_run import (
    DivergedTraining,
    Stage,
    StageConfig,
    StageTimes,
    TrainingRun,
    TrainingRunConfig,
    begin_run,
    check_run,
    made_ahead,
)


class PulledPlug(Exception):
    """What interrupts a run here."""


def batches(first: int) -> Iterator[Tensor]:
    for number in count(first):
        yield torch.from_numpy(np.random.default_rng(number).normal(size=(8, 4))).float()


class Lines:
    """Two small modules and two stages; the second trains both. The loss draws at random.

    breaks: stage and step at which the run is interrupted. saved: whether it was saved just before.
    """

    def __init__(
        self, folder: Path, ahead: bool = False, breaks: tuple[str, int] | None = None, saved: bool = True,
        every: float = 1e9,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        self.one, self.two, self.breaks, self.saved = nn.Linear(4, 4), nn.Linear(4, 1), breaks, saved
        self.prepared: list[str] = []
        both = nn.ModuleList([self.one, self.two])
        stages = {
            name: Stage(
                StageConfig(steps=steps, batch=8, rate=0.01, warm_up=2), trained, batches, partial(self.loss, name),
                partial(self.prepared.append, name),
            )
            for name, steps, trained in (("first", 5, self.one), ("second", 6, both))
        }  # fmt: skip
        config = TrainingRunConfig(save_every=every, ahead=ahead)
        self.run = TrainingRun(folder, config, {"one": self.one, "two": self.two}, stages)

    def loss(self, stage: str, batch: Tensor) -> Tensor:
        if self.breaks == (stage, self.run.step):
            if self.saved:
                self.run.save()
            raise PulledPlug
        noise = torch.rand(len(batch), 1)
        return (self.two(self.one(batch)) - batch.sum(1, keepdim=True) + noise).square().mean()

    @property
    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.run.modules.parameters()]


def uninterrupted(folder: Path) -> list[Tensor]:
    whole = Lines(folder)
    whole.run.run()
    return whole.weights


@pytest.mark.parametrize("ahead", [False, True], ids=["here", "ahead"])
@pytest.mark.parametrize("breaks", [("first", 3), ("second", 0), ("second", 4)], ids=str)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(breaks: tuple[str, int], ahead: bool, tmp_path: Path) -> None:
    first = Lines(tmp_path / "run", ahead, breaks)
    with pytest.raises(PulledPlug):
        first.run.run()
    second = Lines(tmp_path / "run", ahead)
    assert second.run.resume() and (second.run.stage, second.run.step) == breaks
    second.run.run()
    assert second.prepared[0] == breaks[0] and second.run.stage is None
    for ours, other in zip(second.weights, uninterrupted(tmp_path / "whole"), strict=True):
        assert torch.equal(ours, other)


def test_what_was_not_saved_yet_is_done_again(tmp_path: Path) -> None:
    first = Lines(tmp_path / "run", breaks=("second", 4), saved=False)
    with pytest.raises(PulledPlug):
        first.run.run()
    second = Lines(tmp_path / "run")
    assert second.run.resume() and (second.run.stage, second.run.step) == ("second", 0)
    second.run.run()
    assert all(map(torch.equal, second.weights, uninterrupted(tmp_path / "whole")))


def test_a_run_is_saved_every_so_often(tmp_path: Path) -> None:
    first = Lines(tmp_path, breaks=("first", 2), saved=False, every=0.0)
    with pytest.raises(PulledPlug):
        first.run.run()
    second = Lines(tmp_path)
    assert second.run.resume() and (second.run.stage, second.run.step) == ("first", 2)


def test_a_finished_run_has_nothing_left_but_stages_added_since(tmp_path: Path) -> None:
    Lines(tmp_path).run.run()
    again = Lines(tmp_path)
    assert again.run.resume() and again.run.stage is None
    before = again.weights
    again.run.run()
    assert all(map(torch.equal, before, again.weights)) and not again.prepared
    longer = Lines(tmp_path)
    more = {**longer.run.stages, "third": longer.run.stages["second"]}
    run = TrainingRun(tmp_path, longer.run.config, {"one": longer.one, "two": longer.two}, more)
    assert run.resume() and run.stage == "third"
    run.run()
    assert not all(map(torch.equal, before, longer.weights))


def test_losses_and_times_are_kept_over_interruptions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PulledPlug):
        Lines(tmp_path, breaks=("second", 2)).run.run()
    times = json.loads((tmp_path / "times.json").read_text())
    assert list(times) == ["first", "second"] and all(seconds >= 0 for seconds in times.values())
    (tmp_path / "times.json").write_text(json.dumps({**times, "second": 3600.0}))
    again = Lines(tmp_path)
    again.run.resume()
    again.run.run()
    assert 3600 <= again.run.times.seconds["second"] < 3660
    assert "second: 1:00:" in capsys.readouterr().out
    history = json.loads((tmp_path / "history.json").read_text())
    assert [(entry["stage"], entry["step"]) for entry in history] == [("first", 5), ("second", 6)]
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_an_interruption_while_saving_leaves_what_was_saved_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lines(tmp_path).run.run()
    again = Lines(tmp_path)
    again.run.resume()
    saved = torch.save

    def torn(state: object, file: Any) -> None:
        saved(state, file)
        raise PulledPlug

    monkeypatch.setattr(torch, "save", torn)
    nn.init.zeros_(again.one.weight)
    with pytest.raises(PulledPlug):
        again.run.save()
    monkeypatch.undo()
    third = Lines(tmp_path)
    assert third.run.resume() and third.one.weight.any()


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change(tmp_path: Path) -> None:
    lines = Lines(tmp_path)
    lines.run.stages["first"].loss = lambda batch: lines.one(batch).sum() * torch.nan
    before = lines.weights
    with pytest.raises(DivergedTraining, match="step 1 of first: the loss is nan"):
        lines.run.run()
    assert all(map(torch.equal, before, lines.weights))


def test_only_what_a_stage_trains_changes(tmp_path: Path) -> None:
    lines = Lines(tmp_path, breaks=("second", 0))
    before = lines.weights
    with pytest.raises(PulledPlug):
        lines.run.run()
    assert [torch.equal(a, b) for a, b in zip(before, lines.weights, strict=True)] == [False, False, True, True]


def test_batches_made_ahead_are_those_made_here() -> None:
    ahead, here = made_ahead(batches, 3), batches(3)
    for _ in range(4):
        assert torch.equal(next(ahead), next(here))


def test_a_stage_that_fails_has_its_time_counted(tmp_path: Path) -> None:
    times = StageTimes(tmp_path / "times.json")
    with pytest.raises(PulledPlug), times.measured("demonstrations"):
        raise PulledPlug
    assert list(StageTimes(tmp_path / "times.json").seconds) == ["demonstrations"]


def test_a_run_goes_on_only_with_its_own_settings(tmp_path: Path) -> None:
    settings = {"seed": 0, "stage": {"shape": (1, 2)}}
    begin_run(tmp_path / "run.json", settings)
    check_run(tmp_path / "run.json", settings, tmp_path)
    begin_run(tmp_path / "run.json", other := {"seed": 0, "stage": {"shape": (1, 3)}})
    with pytest.raises(CheckpointError, match=r"begun with stage.shape \[1, 2\], not \[1, 3\]"):
        check_run(tmp_path / "run.json", other, tmp_path)


def test_the_rate_warms_up_and_falls() -> None:
    stage = StageConfig(steps=100, batch=1, rate=1.0, warm_up=10)
    assert stage.rate_at(0) == pytest.approx(0.1)
    assert stage.rate_at(10) == pytest.approx(1.0)
    assert stage.rate_at(99) < 0.06
