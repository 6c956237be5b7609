"""What `bench depth` measures: known differences are found, on made and on rendered moments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from molmoact_ros.benchmarks.depth_agreement import STANDS, agreement, perplexity
from molmoact_ros.benchmarks.depth_moments import DepthMoment, sample_moments
from molmoact_ros.cli.main import main
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.training.demonstrations import TRAIN_SEED
from molmoact_ros.utils.paths import default_checkpoint, robot_model


@pytest.fixture
def made() -> DepthMoment:
    """A camera that looks straight down from 1 m: a block of 50 mm, a held one at 200 mm, and an arm over a third."""
    bare = np.ones((320, 320), np.float32)
    bare[:, 280:] = 0.6
    depth, held = bare.copy(), np.zeros((320, 320), bool)
    depth[100:130, 100:130] = 0.95
    held[200:220, 200:220] = True
    depth[held] = 0.8
    depth[50:60, 300:310] = 0.55
    heights = np.stack([np.ones_like(bare), -np.ones_like(bare)])
    return DepthMoment(Observation((), "", 0.0, depth=depth), depth, bare, held, heights)


def test_what_is_decoded_as_measured_agrees_and_an_empty_table_shows_nothing(made: DepthMoment) -> None:
    same, nothing = agreement(made, made.depth), agreement(made, made.bare)
    assert (same.iou, same.error_mm, same.held) == (1.0, 0.0, 1.0)
    assert same.contrast == pytest.approx(1.0) and same.correlation == pytest.approx(1.0)
    assert (nothing.iou, nothing.contrast, nothing.correlation, nothing.held) == (0.0, 0.0, 0.0, 0.0)
    pixels = np.array([900 * 50, 400 * 200])
    assert nothing.error_mm == pytest.approx(pixels.sum() / 1300, rel=1e-4)


def test_flatter_things_have_less_contrast_and_shifted_ones_less_in_common(made: DepthMoment) -> None:
    half = agreement(made, (made.bare + made.depth) / 2)
    assert half.contrast == pytest.approx(0.5, rel=1e-3) and half.correlation == pytest.approx(1.0) and half.iou == 1.0
    nearer = agreement(made, (made.bare + made.depth) / 2 - 0.005)
    assert nearer.contrast == pytest.approx(0.5, rel=1e-3), "an error of the whole table is none of the contrast"
    moved = made.depth.copy()
    moved[:, :280] = np.roll(made.depth[:, :280], 10, axis=1)  # 600 of 900 and 200 of 400 pixels are still there
    shifted = agreement(made, moved)
    assert shifted.iou == pytest.approx(800 / (1200 + 600)) and shifted.correlation < 0.7


def test_what_is_in_front_of_the_arm_does_not_count(made: DepthMoment) -> None:
    changed = made.depth.copy()
    changed[:, 280:] = 0.9
    assert agreement(made, changed) == agreement(made, made.depth)


def test_a_moment_without_things_has_no_figures(made: DepthMoment) -> None:
    empty = replace(made, depth=made.bare, held=np.zeros_like(made.held))
    assert np.isnan(list(vars(agreement(empty, made.bare)).values())).all()


def test_perplexity_counts_codes_by_their_use() -> None:
    assert perplexity(np.arange(128)) == pytest.approx(128)
    assert perplexity(np.zeros((3, 10), int)) == pytest.approx(1)
    assert 1 < perplexity(np.array([5] * 9 + [6])) < 1.5


def test_rendered_moments_know_what_stands_and_what_is_held() -> None:
    moments = list(sample_moments(robot_model(), 8, seed=40_000))
    for moment in moments:
        known = (moment.depth > 0) & (moment.bare > 0)
        assert (moment.bare >= moment.depth - 1e-4)[known].all(), "a thing is never behind what it hides"
        table = np.abs(moment.above_table(moment.bare)) < 0.003
        assert table.mean() > 0.3
        stands = (moment.above_table(moment.depth) >= STANDS) & table
        assert 0.002 < stands.mean() < 0.2 and moment.above_table(moment.depth)[stands & ~moment.held].max() < 0.08
    held = [moment.held.sum() for moment in moments]
    assert 0 < np.count_nonzero(held) < len(held)


def test_the_command_writes_figures_and_a_picture_for_both_kinds_of_codes(tmp_path: Path) -> None:
    figures, picture = tmp_path / "depth.json", tmp_path / "depth.png"
    assert main(["bench", "depth", "--scenes", "2", "--json", str(figures), "--picture", str(picture)]) == 0
    said = json.loads(figures.read_text())["figures"]
    for kind in ("measured codes", "the model's codes"):
        assert said[kind]["iou"]["moments"] == 2 and 0 <= said[kind]["iou"]["mean"] <= 1
    assert 0 <= said["equal"]["mean"] <= 1 and 0.5 < said["steady"]["mean"] <= 1
    assert Image.open(picture).size == (4 * 320, 2 * 320)


def test_another_decoder_is_judged_by_measured_codes_alone(tmp_path: Path) -> None:
    figures = tmp_path / "depth.json"
    decoder = default_checkpoint() / "depth_vq.safetensors"
    args = ["bench", "depth", "--scenes", "2", "--json", str(figures), "--depth-decoder", str(decoder)]
    assert main(args) == 0
    said = json.loads(figures.read_text())["figures"]
    assert "the model's codes" not in said and said["equal"]["mean"] is None


def test_scenes_of_the_training_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "depth", "--scenes", "2", "--seed", str(TRAIN_SEED - 1)]) != 0
    assert "training" in capsys.readouterr().err
