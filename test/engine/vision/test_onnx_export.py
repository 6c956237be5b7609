"""The exported vision tower against torch's."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from molmoact_ros.cli.main import main
from molmoact_ros.doctor.parity import PROCESSORS
from molmoact_ros.engine.model.config import RunConfig
from molmoact_ros.engine.model.image_processor import ImageProcessor
from molmoact_ros.engine.model.molmoact import VisionBackbone
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.engine.vision.onnx_export import ABOUT, GRAPH, Tower, export, weights_hash
from molmoact_ros.engine.vision.onnx_runtime import CPU, LIMITS, OnnxVision, providers, read_about
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.paths import default_checkpoint

from ...conftest import released_config

GOLDEN = Path(__file__).parents[2] / "golden"
FULL_SIZE = os.environ.get("MOLMOACT_FULL_SIZE") == "1"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def checkpoint(case: str, folder: Path) -> Path:
    """The nano, or a golden checkpoint with the processor of its family beside it."""
    if case == "nano":
        return default_checkpoint()
    shutil.copytree(GOLDEN / case, folder / case)
    processor = PROCESSORS[729 if case == "d_like" else 576]
    (folder / case / "preprocessor_config.json").write_text(processor.model_dump_json())
    return folder / case


@pytest.mark.parametrize(("case", "frames"), [("nano", 50), ("d_like", 10), ("o_like_two_cameras", 10)])
def test_pictures_come_out_as_in_torch(tmp_path: Path, case: str, frames: int) -> None:
    folder, figures = checkpoint(case, tmp_path), tmp_path / "figures.json"
    assert main(["export", "--checkpoint", str(folder), "--frames", str(frames), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["frames"] == frames and found["provider"] == CPU and 0 < found["worst"] < 1e-3


def test_half_the_bits_are_near(tmp_path: Path) -> None:
    assert main(["export", "--precision", "float16", "--frames", "3", "--json", str(tmp_path / "f.json")]) == 0
    assert 1e-5 < json.loads((tmp_path / "f.json").read_text())["worst"] < LIMITS["float16"]


@pytest.mark.parametrize("tiny", [True, pytest.param(False, marks=pytest.mark.skipif(not FULL_SIZE, reason="1 GB"))])
def test_the_released_tower_exports_whole(tmp_path: Path, tiny: bool) -> None:
    config = released_config(olmo=False, tiny=tiny)
    with torch.device("meta"):
        backbone = VisionBackbone(config.vit_config, config.adapter_config)
    backbone = backbone.to_empty(device="cpu").half()
    for parameter in backbone.parameters():
        parameter.data.uniform_(-0.1, 0.1)
    hidden = config.adapter_config.text_hidden_size
    tower = Tower(backbone, ImageProcessor(PROCESSORS[729]), RunConfig(), hidden, "made-up")
    folder = export(tower, "float16", tmp_path / "out")
    about = read_about(folder)
    # Two cameras of 320x240: each is encoded once, and shown twice as 14x14 tokens (a global view and its one tile).
    assert (about.crops, about.patches, about.patch_dim, about.tokens) == (2, 729, 588, 2 * 2 * 196)
    graph = onnx.load(folder / GRAPH, load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node)
    # 25 of 27 blocks exist; each has two norms and one softmax, and the pooling has a softmax.
    assert counts["LayerNormalization"] == 2 * 25 and counts["Softmax"] == 25 + 1
    (output,) = graph.output
    assert [d.dim_value for d in output.type.tensor_type.shape.dim] == [784, hidden]
    if not tiny:  # the weights lie beside the graph, all of them and no more
        size, weights = (folder / f"{GRAPH}.data").stat().st_size, 2 * sum(p.numel() for p in backbone.parameters())
        assert weights == pytest.approx(1.0067e9, rel=1e-3) and size == pytest.approx(weights, rel=1e-3)


def look(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    front, wrist = (rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(2))
    return Observation((front, wrist), "put the red cube in the bowl", 0.0)


def test_the_engine_says_the_same_by_either_tower() -> None:
    export(Tower.read(default_checkpoint()), "float32")
    plain = TorchEngine.load(default_checkpoint(), threads=1, vision="torch")
    exported = TorchEngine.load(default_checkpoint(), threads=1, vision="onnx")
    assert isinstance(exported.vision, OnnxVision) and exported.vision.provider == CPU
    for seed in range(3):
        for engine in (plain, exported):
            *_, said = engine.reason(look(seed))
            assert said.complete
        assert plain.tokens == exported.tokens


def test_without_an_export_it_says_how_to_make_one() -> None:
    with pytest.raises(CheckpointError, match="run `molmoact-ros export --checkpoint .*nano --precision float32`"):
        TorchEngine.load(default_checkpoint(), vision="onnx")
    with pytest.raises(CheckpointError, match="choose one of: auto, compiled, onnx, torch"):
        TorchEngine.load(default_checkpoint(), vision="tensorrt")
    with pytest.raises(CheckpointError, match="'int3'; choose one of"):
        TorchEngine.load(default_checkpoint(), vision="onnx", precision="int3")


def test_bfloat16_is_refused_without_tensorrt() -> None:
    assert main(["export", "--precision", "bfloat16"]) == 0
    with pytest.raises(CheckpointError, match="bfloat16 needs TensorRT"):
        TorchEngine.load(default_checkpoint(), vision="onnx", precision="bfloat16")


def test_an_export_that_is_off_is_refused() -> None:
    folder = export(Tower.read(default_checkpoint()), "float32")
    data = np.fromfile(folder / f"{GRAPH}.data", np.float32)
    (data * np.float32(1.02)).tofile(folder / f"{GRAPH}.data")
    with pytest.raises(CheckpointError, match=r"differs from torch's by .* more than 1e-03"):
        TorchEngine.load(default_checkpoint(), vision="onnx")
    (folder / ABOUT).write_text("{")
    with pytest.raises(CheckpointError, match="export again"):
        OnnxVision(folder, torch.empty(0))
    (folder / GRAPH).write_bytes(b"nonsense")
    (folder / ABOUT).unlink()
    with pytest.raises(CheckpointError, match="no exported vision tower"):
        OnnxVision(folder, torch.empty(0))


def test_pictures_of_another_shape_are_refused() -> None:
    tower = Tower.read(default_checkpoint())
    vision = OnnxVision(export(tower, "float32"), torch.empty(0))
    with pytest.raises(RefusedStep, match="exported for 2 crops and 96 image tokens"):
        vision(tower.processor([look(0).images[0]]))


def test_other_weights_have_another_name(tmp_path: Path) -> None:
    folder = checkpoint("d_like", tmp_path)
    before = weights_hash(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1  # not the tower's
    save_file(tensors, folder / "model.safetensors")
    assert weights_hash(folder) == before
    tensors["model.vision_backbone.image_vit.transformer.resblocks.0.ffn_norm.bias"][0] += 1e-3
    save_file(tensors, folder / "model.safetensors")
    assert weights_hash(folder) != before


def test_the_providers_here_are_named() -> None:
    found = {provider.name: provider for provider in providers()}
    assert list(found)[-1] == CPU and found[CPU].usable
    assert all(provider.about for provider in found.values())
