"""The depth VQ-VAE is trained in stages to a file that the engine loads."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.training.demonstrations import Demonstrations, collect
from molmoact_ros.training.stage_depth_vq import DepthVqConfig, depth_codes, depth_vq, train_depth_vq
from molmoact_ros.training.training_run import StageConfig, TrainingRun
from molmoact_ros.utils.paths import robot_model


def config(encoder: int, coarse: int, fine: int) -> DepthVqConfig:
    def stage(steps: int) -> StageConfig:
        return StageConfig(steps=steps, batch=4, rate=3e-3, warm_up=5)

    return DepthVqConfig(encoder=stage(encoder), coarse=stage(coarse), fine=stage(fine), ahead=False, frames=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    part = tmp_path_factory.mktemp("demonstrations") / "part000.npz"
    collect(robot_model(), 2_000_000, 10, part)
    return Demonstrations.load([part])


def test_a_few_steps_lower_the_losses_and_give_a_decoder(data: Demonstrations, tmp_path: Path) -> None:
    model = depth_vq(data, tmp_path, config(40, 40, 2))
    history = json.loads((tmp_path / "depth" / "history.json").read_text())
    for stage in ("depth encoder", "depth decoder, coarse"):
        first, last = (entry["loss"] for entry in history if entry["stage"] == stage)
        assert last < 0.9 * first, stage
    assert model.span is not None and 0.3 < model.span[0] < model.span[1] < 3.0
    codes = depth_codes(model, data, np.arange(8))
    assert codes.shape == (8, 10, 10) and len(np.unique(codes)) > 5
    assert (model.encode_depth(data.depth[3]) == codes[3]).mean() > 0.96
    picture = model.picture(codes[3])
    assert picture.shape == (320, 320) and 0.0 <= picture.min() <= picture.max() <= 1.0


class _Interrupted(Exception):
    pass


def test_an_interrupted_run_gives_the_weights_of_a_whole_one(
    data: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_depth_vq(data, tmp_path / "whole", config(2, 2, 2))
    save, saves = TrainingRun.save, count()

    def save_once(run: TrainingRun) -> None:
        if next(saves):
            raise _Interrupted
        save(run)

    monkeypatch.setattr(TrainingRun, "save", save_once)
    with pytest.raises(_Interrupted):
        train_depth_vq(data, tmp_path / "parts", config(2, 2, 2))
    monkeypatch.setattr(TrainingRun, "save", save)
    resumed = train_depth_vq(data, tmp_path / "parts", config(2, 2, 2))
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_decoder_that_is_there_is_kept(data: Demonstrations, tmp_path: Path) -> None:
    depth_vq(data, tmp_path, config(1, 1, 1))
    before = (tmp_path / "depth_vq.safetensors").read_bytes()
    depth_vq(data, tmp_path, config(2, 1, 1))
    assert (tmp_path / "depth_vq.safetensors").read_bytes() == before
