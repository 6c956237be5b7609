"""The yardstick is the same model, and the bench measures what it says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from molmoact_ros.benchmarks.engine_chart import draw_engine
from molmoact_ros.benchmarks.engine_step import BASELINE, FLOOR, bench, floor
from molmoact_ros.benchmarks.hf_baseline import greedy, transformers_model
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.torch_engine import STAGES, TorchEngine
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.paths import default_checkpoint

from ..conftest import released_config


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine.load(default_checkpoint(), threads=1)


def look(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    front, wrist = (rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(2))
    return Observation((front, wrist), "put the red cube in the bowl", 0.0)


@torch.inference_mode()
def test_the_baseline_computes_what_we_compute(engine: TorchEngine) -> None:
    asked = engine.ask(look(0))
    embeddings = engine.embed(asked, engine.see(asked.pictures))
    twin = transformers_model(engine.model)
    engine.decoder.rewind(0)
    ours = engine.model.logits(torch.as_tensor(engine.decoder.append(embeddings, first=0)))
    torch.testing.assert_close(twin(inputs_embeds=embeddings[None]).logits[0], ours, atol=1e-4, rtol=0)
    said = [int(ours[-1].argmax())]
    for _ in range(11):
        hidden = engine.decoder.append(engine.model.embed(torch.tensor(said[-1:]), None))
        said.append(int(engine.model.logits(torch.as_tensor(hidden[-1])).argmax()))
    assert greedy(twin, embeddings, 12) == said


def test_a_decoder_of_another_kind_has_no_baseline() -> None:
    with torch.device("meta"):
        model = MolmoAct(released_config(olmo=True, tiny=True))
    with pytest.raises(ValueError, match="Qwen2's kind"):
        transformers_model(model)


def test_every_figure_is_there(engine: TorchEngine, tmp_path: Path) -> None:
    ticks = []
    figures = bench(engine, [look(1), look(1), look(2)], lambda: ticks.append(1))
    wanted = {"step", *STAGES, BASELINE, "passes", "tokens", "passes, depth", "guesses that held, action, %"}
    assert wanted <= set(figures) and len(ticks) == 3
    assert all(f["median"] <= f["p99"] for f in figures.values())
    parts = [figures[f"{FLOOR}, {part}"]["median"] for part in ("vision", "prefill", "passes")]
    assert 0 < max(parts) < figures[FLOOR]["median"]
    assert 0 < figures["passes"]["median"] < figures["tokens"]["median"]
    cost = floor(engine, repeats=5)
    assert cost["weights"] == pytest.approx(7.24, abs=0.01) and cost["pass"] > 0 and cost["share"] > 0
    draw_engine(figures, "three steps", tmp_path / "chart.png")
    picture = cv2.imread(str(tmp_path / "chart.png"))
    assert picture is not None and picture.std() > 10
