"""A merged checkpoint computes what the checkpoint and its adapter do together; a failed merge leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from molmoact_ros.cli.main import main
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.lora import LoraAdapter, released_name
from molmoact_ros.engine.model.merge import base_of, merge
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError, fill, read_headers

GOLDEN = Path(__file__).parents[2] / "golden" / "d_like"
RANK, ALPHA = 4, 6
TARGETS = ("att_proj", "attn_out", "ff_proj", "ff_out", "wq", "image_projector.w1", "lm_head")
CONFIG = {
    "peft_type": "LORA", "base_model_name_or_path": str(GOLDEN), "r": RANK, "lora_alpha": ALPHA, "bias": "none",
    "target_modules": list(TARGETS), "peft_version": "0.17.1", "use_dora": False, "init_lora_weights": True,
}  # fmt: skip


def load(folder: Path, dtype: torch.dtype = torch.float32) -> MolmoAct:
    with torch.device("meta"):
        model = MolmoAct(CheckpointFolder(folder).config)
    fill(model, read_headers(folder), "cpu", dtype)
    return model.eval()


def targets(model: MolmoAct) -> dict[str, nn.Linear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(TARGETS)}


def matrices(model: MolmoAct, rank: int = RANK) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every target."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: (
            torch.randn(rank, module.in_features, generator=generator) * 0.1,
            torch.randn(module.out_features, rank, generator=generator) * 0.1,
        )
        for name, module in targets(model).items()
    }


def trainer_name(name: str) -> str:
    """Ai2's trainer: no `model.`, and no module around attention and MLP."""
    if name.startswith("lm_head"):
        return name.replace("lm_head", "transformer.ff_out")
    return name.removeprefix("model.").replace(".self_attn.", ".").replace(".mlp.", ".")


def write_adapter(
    folder: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], more: Mapping[str, Tensor] | None = None,
    rename: Callable[[str], str] = str, **config: Any,
) -> Path:  # fmt: skip
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    tensors = dict(more or {})
    for name, both in pairs.items():
        for letter, tensor in zip("AB", both, strict=True):
            tensors[f"base_model.model.{rename(name)}.lora_{letter}.weight"] = tensor
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@torch.inference_mode()
def logits(model: MolmoAct) -> Tensor:
    ids = torch.from_numpy(np.load(GOLDEN / "golden.npz")["input_ids"]).view(1, -1)
    return model.logits(model.run(model.embed(ids.clamp(max=100), None)))


def unmerged(model: MolmoAct, pairs: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> Tensor:
    """Logits with each adapter computed beside its matrix."""
    for name, module in targets(model).items():
        a, b = (each.double() for each in pairs[name])
        module.register_forward_hook(lambda _, x, y, a=a, b=b: y + scale * (x[0] @ a.T @ b.T))
    return logits(model)


@pytest.mark.parametrize("rename", [str, trainer_name], ids=["released names", "trainer's names"])
@pytest.mark.parametrize("rslora", [False, True])
def test_merged_is_unmerged(tmp_path: Path, rename: Callable[[str], str], rslora: bool) -> None:
    model = load(GOLDEN, torch.float64)  # what differs is the merged matrices' rounding, not that of the passes
    pairs = matrices(model)
    adapter = write_adapter(tmp_path / "adapter", pairs, rename=rename, use_rslora=rslora)
    seen: list[tuple[int, int]] = []
    merge(adapter, GOLDEN, tmp_path / "merged", progress=lambda done, of: seen.append((done, of)))
    plain, beside = logits(model), unmerged(model, pairs, ALPHA / (RANK**0.5 if rslora else RANK))
    assert float((logits(load(tmp_path / "merged", torch.float64)) - beside).abs().max()) < 1e-5
    assert float((plain - beside).abs().max()) > 0.1, "the adapter changes something"
    count = len(read_headers(GOLDEN).shapes)
    assert seen == [(k + 1, count) for k in range(count)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]


def test_every_released_tensor_has_its_trainers_name() -> None:
    assert all(released_name(trainer_name(name)) == name for name in read_headers(GOLDEN).shapes)


def test_whole_tensors_replace_and_alphas_differ(tmp_path: Path) -> None:
    """modules_to_save and biases, in the spellings of PEFT's versions; alpha_pattern by the end of a name."""
    model = load(GOLDEN)
    name = "model.transformer.blocks.0.mlp.ff_out"
    pairs = {name: matrices(model)[name]}
    norm, bias = "model.transformer.ln_f.weight", "model.transformer.blocks.0.self_attn.att_proj.bias"
    state = model.state_dict()
    more = {
        f"base_model.model.{norm.replace('.weight', '.modules_to_save.default.weight')}": state[norm] + 1,
        f"base_model.model.{norm.replace('.weight', '.original_module.weight')}": state[norm],
        f"base_model.model.{bias.replace('.bias', '.base_layer.bias')}": state[bias] + 2,
    }
    adapter = write_adapter(tmp_path / "adapter", pairs, more, alpha_pattern={"blocks.0.mlp.ff_out": 16, "ff_out": 1})
    merge(adapter, GOLDEN, tmp_path / "merged")
    merged = load(tmp_path / "merged").state_dict()
    a, b = pairs[name]
    wanted = state | {norm: state[norm] + 1, bias: state[bias] + 2}
    wanted[f"{name}.weight"] = state[f"{name}.weight"] + 16 / RANK * (b @ a)
    assert all(torch.allclose(merged[key], wanted[key], atol=1e-6) for key in wanted)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)), rank=st.integers(1, 3), turned=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_change_is_plain_arithmetic_in_the_tensors_own_dtype(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int], rank: int, turned: bool, dtype: torch.dtype,
    seed: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, shape[1], generator=generator), torch.randn(shape[0], rank, generator=generator)
    stored = shape[::-1] if turned else shape
    old = torch.randn(stored, generator=generator).to(dtype)
    folder = tmp_path_factory.mktemp("adapter") / "a"
    write_adapter(folder, {"m": (a, b)}, fan_in_fan_out=turned)
    (name, change), *others = LoraAdapter.load(folder).changes({"m.weight": stored}).items()
    new, delta = change(old), ALPHA / rank * (b @ a)
    assert (name, others, new.dtype) == ("m.weight", [], dtype)
    assert torch.equal(new, (old.float() + (delta.T if turned else delta)).to(dtype))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", matrices(load(GOLDEN)))


def edit(adapter: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


HEAD = "base_model.model.lm_head.lora_A.weight"


@pytest.mark.parametrize(
    ("config", "change", "why"),
    [
        ({"peft_type": "IA3"}, None, "peft_type: .*; 'IA3' is not merged here"),
        ({"use_dora": True}, None, "use_dora: .*; True is not merged here"),
        ({"init_lora_weights": "pissa"}, None, "init_lora_weights.*'pissa' is not merged here"),
        ({"target_parameters": ["wte.embedding"]}, None, "target_parameters"),
        ({"alora_invocation_tokens": [3, 5]}, None, "alora_invocation_tokens"),
        ({}, lambda t: t.pop(HEAD), "lm_head lacks lora_A or lora_B; copy the adapter again"),
        ({}, lambda t: t.update({HEAD: t[HEAD][:, :-1].contiguous()}), r"lm_head: lora_A .* and lora_B .* do not fit"),
        ({}, lambda t: t.update({HEAD: t[HEAD] * float("nan")}), "lm_head.lora_A.weight holds NaN or infinity"),
        ({}, lambda t: t.update({"base_model.model.a.weight": t[HEAD] + 1}), "has no tensor a.weight; is the adapter"),
        ({}, lambda t: t.update({HEAD.replace("_A", "_magnitude"): t[HEAD] + 1}), "is not merged here; merge it"),
        ({}, lambda t: t.clear(), "the adapter holds no tensors"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_named_and_leaves_nothing(
    tmp_path: Path, adapter: Path, config: dict[str, Any], change: Any, why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    if change is not None:
        edit(adapter, change)
    with pytest.raises(CheckpointError, match=why) as error:
        merge(adapter, GOLDEN, tmp_path / "merged")
    assert "\n" not in str(error.value)
    assert main(["merge", str(adapter), "--out", str(tmp_path / "merged")]) == 1
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_interrupted_merge_leaves_nothing_and_a_second_one_works(tmp_path: Path, adapter: Path) -> None:
    def stop(done: int, of: int) -> None:
        if done == of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(adapter, GOLDEN, tmp_path / "merged", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    merge(adapter, GOLDEN, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="exists; give a folder that does not"):
        merge(adapter, GOLDEN, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="nowhere does not exist; make it first"):
        merge(adapter, GOLDEN, tmp_path / "nowhere" / "merged")


def test_the_base_is_the_one_that_the_adapter_names(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base_of(adapter, None) == GOLDEN and base_of(adapter, tmp_path) == tmp_path
    config = CONFIG | {"base_model_name_or_path": "allenai/MolmoAct-7B-D-0812"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is for allenai/MolmoAct-7B-D-0812; say where, with --base"):
        base_of(adapter, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MolmoAct-7B-D-0812").mkdir()
    assert base_of(adapter, None) == Path("MolmoAct-7B-D-0812")


def test_a_merged_folder_is_whole_with_shards_and_the_trainings_statistics(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the released layout: every file comes along; what the adapter's folder has itself counts."""
    model = load(released)
    name = "model.transformer.blocks.5.self_attn.att_proj"
    adapter = write_adapter(tmp_path / "adapter", {name: matrices(model)[name]})
    (adapter / "chat_template.jinja").write_text("Assistant:")
    stats = {"tidy_up": {"action": {"q01": [-0.1] * 7, "q99": [0.1] * 7, "mask": [True] * 6 + [False]}}}
    file = tmp_path / "dataset_statistics.json"
    file.write_text(json.dumps(stats))
    arguments = ["merge", str(adapter), "--base", str(released), "--out", str(tmp_path / "merged")]
    assert main([*arguments, "--norm-stats", str(file)]) == 0
    assert "molmoact-ros doctor --checkpoint" in capsys.readouterr().out
    merged = tmp_path / "merged"
    originals = {path.name for path in released.iterdir() if path.name != "depth_vq.safetensors"}
    assert originals | {"chat_template.jinja"} <= {path.name for path in merged.iterdir()}
    files = CheckpointFolder(merged)
    assert list(files.config.norm_stats) == ["tidy_up"] and files.processor == CheckpointFolder(released).processor
    state, changed = model.state_dict(), load(merged).state_dict()
    assert [key for key in state if not torch.equal(state[key], changed[key])] == [f"{name}.weight"]
    file.write_text(json.dumps({"tidy_up": {"action": {"q01": [1.0], "q99": [0.0]}}}))
    shutil.rmtree(merged)
    assert main([*arguments, "--norm-stats", str(file)]) == 1
    assert "dataset_statistics.json: norm_stats.tidy_up" in capsys.readouterr().err and not merged.exists()


def test_an_adapter_saved_unmerged_within_a_checkpoint_is_named(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "config.json", tmp_path)
    tensors = load_file(GOLDEN / "model.safetensors")
    tensors["model.transformer.blocks.0.mlp.ff_out.lora_A.default.weight"] = torch.zeros(4, 8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds an adapter that was not merged .*`molmoact-ros merge` it"):
        read_headers(tmp_path)
