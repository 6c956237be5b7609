"""The compiled vision tower against torch's, and which tower an engine chooses."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.config import AdapterConfig, VitConfig
from molmoact_ros.engine.model.image_processor import ImageInputs
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.engine.vision import selection
from molmoact_ros.engine.vision.cpu_tower import CpuTower, can_encode
from molmoact_ros.engine.vision.onnx_export import Tower, export, relative_error
from molmoact_ros.engine.vision.selection import fastest, open_compiled
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.training.nano_model import nano_config
from molmoact_ros.training.tokenizer import build_tokenizer
from molmoact_ros.utils.paths import default_checkpoint

from ..decoding.test_decoder import STATS
from .test_onnx_export import cache, checkpoint, look  # noqa: F401  # the fixture `cache` runs by itself


def model(vit: dict[str, object] | None = None, adapter: dict[str, object] | None = None) -> MolmoAct:
    """A small random model whose patches fill neither vectors nor strips evenly, and whose heads share keys."""
    config = nano_config(build_tokenizer(), STATS)
    small = {
        "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 80,
        "image_default_input_size": (24, 216), "image_patch_size": 8, "image_num_pos": 81,
    }  # fmt: skip
    pooling = {
        "vit_layers": (-1, 1), "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 96,
    }  # fmt: skip
    torch.manual_seed(0)
    made = MolmoAct(
        config.model_copy(
            update={
                "vit_config": VitConfig(**(config.vit_config.model_dump() | small | (vit or {}))),
                "adapter_config": AdapterConfig(**(config.adapter_config.model_dump() | pooling | (adapter or {}))),
            }
        )
    )
    with torch.no_grad():
        for parameter in made.model.vision_backbone.parameters():
            parameter.normal_(std=0.15)
    return made.eval()


def pictures(crops: int, seed: int) -> ImageInputs:
    """Random crops, some of whose patches are shown twice and some of whose windows lack patches."""
    rng = np.random.default_rng(seed)
    index = rng.integers(-1, crops * 81, (29, 4))
    index[0] = -1
    patches = rng.normal(size=(crops, 81, 192)).astype(np.float32)
    return ImageInputs(patches, np.arange(crops), index, ())


def by_torch(made: MolmoAct, inputs: ImageInputs) -> np.ndarray:
    with torch.inference_mode():
        return made.image_features(torch.from_numpy(inputs.crops)[None], torch.from_numpy(inputs.indices)[None]).numpy()


@pytest.mark.parametrize("crops", [1, 3])
def test_the_compiled_tower_gives_what_torch_gives(crops: int) -> None:
    made = model()
    tower = CpuTower(made)
    for seed in range(3):
        inputs = pictures(crops, seed)
        found = tower(inputs)
        assert found.shape == (1, 29, made.config.adapter_config.text_hidden_size)
        assert relative_error(found.numpy(), by_torch(made, inputs)) < 1e-5


def test_images_of_another_shape_are_refused() -> None:
    made, inputs = model(), pictures(1, 0)
    for crops, index in ((inputs.crops[:, 1:], inputs.pooled_idx), (inputs.crops, inputs.pooled_idx + 60)):
        with pytest.raises(RefusedStep, match="does not fit config.json"):
            CpuTower(made)(ImageInputs(crops, np.arange(2), index, ()))


def test_robots_encode_at_the_same_time() -> None:
    made = model()
    tower, inputs = CpuTower(made), [pictures(2, seed) for seed in range(2)]
    alone = [tower(x).numpy() for x in inputs]
    wrong: list[int] = []

    def encode(i: int) -> None:
        wrong.extend(seed for seed in range(40) if not np.array_equal(tower(inputs[i]).numpy(), alone[i]))

    threads = [threading.Thread(target=encode, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_engine_says_the_same_by_the_compiled_tower() -> None:
    usual, plain = (TorchEngine.load(default_checkpoint(), threads=1, vision=by) for by in ("auto", "torch"))
    assert usual.vision_by == "compiled" and plain.vision_by == "torch"
    for seed in range(3):
        for engine in (usual, plain):
            *_, said = engine.reason(look(seed))
            assert said.complete
        assert usual.tokens == plain.tokens


def test_only_what_was_compiled_for_is_encoded_compiled() -> None:
    assert can_encode(model())
    assert not can_encode(model({"hidden_act": "quick_gelu"})) and not can_encode(model({"pre_layernorm": True}))
    assert not can_encode(model({"use_cls_token": True, "image_num_pos": 82}))
    assert not can_encode(model({"head_dim": 15})) and not can_encode(model().to(torch.bfloat16))
    with pytest.raises(CheckpointError, match="see with torch"):
        open_compiled(model({"hidden_act": "gelu"}), lambda _: torch.empty(0), None, None)  # type: ignore[arg-type]


def test_a_compiled_tower_that_is_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Off(CpuTower):
        def __call__(self, pictures: ImageInputs) -> Tensor:
            return super().__call__(pictures) * 1.02

    monkeypatch.setattr(selection, "CpuTower", Off)
    with pytest.raises(CheckpointError, match=r"differs from torch's by .* more than 1e-03"):
        TorchEngine.load(default_checkpoint(), threads=1)


def test_an_exported_tower_comes_before_torch(tmp_path: Path) -> None:
    folder = checkpoint("o_like_two_cameras", tmp_path)
    made = MolmoAct(CheckpointFolder(folder).config)
    assert fastest(folder, made) == "torch"
    export(Tower.read(folder), "float32")
    assert fastest(folder, made) == "onnx"
    assert fastest(folder, made.to(torch.bfloat16)) == "torch"  # it would change tokens
