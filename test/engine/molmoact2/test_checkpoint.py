"""MolmoAct 2 folders: the true shapes, every tensor named, and one clear line for whatever does not fit."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from molmoact_ros.doctor.checkpoint import inspect
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.checkpoint import read_config
from molmoact_ros.engine.model.weight_files import CheckpointError, misfits
from molmoact_ros.engine.molmoact2.checkpoint import load_robot_checkpoint, model_weights
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.model import COMPUTED, MolmoAct2
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.utils.checks import Verdict
from molmoact_ros.utils.paths import shape

THINK = Path(__file__).parents[2] / "golden" / "think_like"
TENSORS, PARAMETERS = 1295, 5_442_196_208  # of the released files, and of the tensors that are computed with
SOME = {
    "lm_head.weight": (154_624, 2560),
    "model.transformer.wte.new_embedding": (128, 2560),
    "model.transformer.blocks.35.self_attn.att_proj.weight": (6144, 2560),
    "model.transformer.blocks.0.self_attn.q_norm.weight": (128,),
    "model.transformer.blocks.0.mlp.ff_proj.weight": (19_456, 2560),
    "model.vision_backbone.image_vit.transformer.resblocks.24.feed_forward.w1.weight": (4304, 1152),
    "model.vision_backbone.image_pooling_2d.wq.weight": (1152, 2304),
    "model.action_expert.context_k_proj.weight": (768, 1024),
    "model.action_expert.blocks.35.mlp.gate_proj.weight": (3072, 768),
    "model.action_expert.blocks.0.modulation.linear.weight": (6912, 768),
    "model.action_expert.time_embed.1.weight": (768, 256),
    "model.action_expert.final_layer.modulation.linear.weight": (1536, 768),
}


def full_shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = MolmoAct2(read_config(shape("molmoact2"), "config.json", MolmoAct2Config))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: shapes[name] for name in SOME} == SOME
    assert sum(map(prod, shapes.values())) == PARAMETERS
    return shapes | {COMPUTED: (64,)}


def sparse_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of float32 tensors whose bytes were never written: it takes no room on the disk."""
    header, end = {}, 0
    for name, size in shapes.items():
        header[name] = {"dtype": "F32", "shape": list(size), "data_offsets": [end, end + 4 * prod(size)]}
        end += 4 * prod(size)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_every_tensor_of_a_full_size_folder_is_named(tmp_path: Path) -> None:
    shapes = full_shapes()
    assert len(shapes) == TENSORS
    extra = {"model.action_expert.state_encoder.weight": (768, 768), "model.x.cross_attn.kv_proj.bias": (3,)}
    wrong = dict(shapes)
    del wrong["model.action_expert.blocks.7.mlp.up_proj.bias"]
    wrong["model.transformer.blocks.9.attn_norm.wait"] = wrong.pop("model.transformer.blocks.9.attn_norm.weight")
    wrong["model.action_expert.action_embed.weight"] = (768, 31)
    with torch.device("meta"):
        model = MolmoAct2(read_config(shape("molmoact2"), "config.json", MolmoAct2Config))
    lines = {}
    for name, tensors in (("right", shapes | extra), ("wrong", wrong)):
        (tmp_path / name).mkdir()
        sparse_file(tmp_path / name / "model.safetensors", tensors)
        lines[name] = misfits(model, model_weights(tmp_path / name))
    assert lines["right"] == []
    assert lines["wrong"] == [
        "the tensor model.transformer.blocks.9.attn_norm.weight [2560] is missing",
        "model.action_expert.action_embed.weight has shape [768, 31], not [768, 32]",
        "the tensor model.action_expert.blocks.7.mlp.up_proj.bias [3072] is missing",
        "model.safetensors holds the unknown tensor model.transformer.blocks.9.attn_norm.wait",
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(THINK, tmp_path / "think")
    return tmp_path / "think"


def edit(file: Path, *path: str, value: Any = None) -> None:
    """Set a field of a JSON file; None removes it."""
    whole = part = json.loads(file.read_text())
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    file.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("file", "path", "value", "said"),
    [
        ("norm_stats.json", ("metadata_by_tag", "libero", "action_horizon"), None,
         "norm_stats.json: metadata_by_tag.libero.action_horizon: Field required"),
        ("norm_stats.json", ("metadata_by_tag", "libero", "setup_type"), None, "libero.setup_type: Field required"),
        ("norm_stats.json", ("metadata_by_tag", "libero", "state_stats", "q99"), None,
         "metadata_by_tag.libero.state_stats: q99 must have 8 finite numbers for norm_mode q01_q99"),
        ("norm_stats.json", ("metadata_by_tag", "libero", "action_stats", "mask"), [True],
         "mask has 1 values for 7 dimensions"),
        ("norm_stats.json", ("metadata_by_tag", "libero", "action_horizon"), 99, "max_action_horizon 16"),
        ("norm_stats.json", ("metadata_by_tag",), None, "metadata_by_tag: Field required"),
        ("config.json", ("action_mode",), "discrete", "discrete action tokens, which are not read"),
        ("config.json", ("norm_stats_filename",), "../norm_stats.json", "not a file of the folder"),
        ("config.json", ("action_expert_config", "num_layers"), 3, "a block reads one layer each"),
        ("config.json", ("text_config", "qk_norm_type"), "other", "text_config.qk_norm_type: "),
        ("config.json", ("depth_start_token_id",), None, "depth_start_token_id: Field required"),
        ("processor_config.json", ("image_processor", "crop_mode"), "overlap-and-resize-c2", "crop_mode: "),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_named(
    folder: Path, file: str, path: tuple[str, ...], value: Any, said: str
) -> None:
    edit(folder / file, *path, value=value)
    with pytest.raises(CheckpointError) as error:
        open_engine(EngineOptions(), folder)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_weight_that_is_not_a_number_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.action_expert.action_embed.bias"][3] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="action_embed.bias holds NaN or infinity; copy or download it again"):
        load_robot_checkpoint(folder)


def test_code_in_the_folder_is_never_run(folder: Path) -> None:
    (folder / "modeling_molmoact2.py").write_text("raise SystemExit('it ran')")
    assert load_robot_checkpoint(folder).config.thinks


@pytest.mark.parametrize("tag", ["", "franka_droid"])
def test_a_tag_is_said_or_the_only_one(folder: Path, tag: str) -> None:
    stats = json.loads((folder / "norm_stats.json").read_text())
    stats["metadata_by_tag"]["second"] = stats["metadata_by_tag"]["libero"]
    (folder / "norm_stats.json").write_text(json.dumps(stats))
    with pytest.raises(RefusedStep, match="choose one of: libero, second"):
        open_engine(EngineOptions(unnorm_key=tag), folder)
    assert open_engine(EngineOptions(unnorm_key="second"), folder).unnorm_key == "second"


def test_vllm_does_not_run_it() -> None:
    with pytest.raises(CheckpointError, match="choose the back end torch"):
        open_engine(EngineOptions(backend="vllm"), THINK)


def test_doctor_looks_at_the_folder(folder: Path) -> None:
    checks = inspect(folder)
    text = "\n".join(f"{check.name}: {check.text}" for check in checks)
    assert all(check.verdict is not Verdict.FAIL for check in checks), text
    for said in ("depth", "278 tensors", "norm_tag libero: 8 values in a state, 7 in an action", "meaning of libero"):
        assert said in text
    edit(folder / "config.json", "state_token_start_id", value=3)
    assert any("<state_0>" in c.text for c in inspect(folder) if c.verdict is Verdict.FAIL)
