"""The released folder layout: every tensor accounted for, what does not fit is named, no code and no pickle is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from molmoact_ros.engine.model.checkpoint import find_depth_vq, load_checkpoint, load_depth_decoder
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError, digest, misfits, read_headers
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation

from ...conftest import released_config, save_shards


def published(olmo: bool) -> dict[str, list[int]]:
    """Names and shapes of the released tensors, as the description of the checkpoints lists them."""
    width, hidden, mlp = (1024, 4096, 11008) if olmo else (1152, 3584, 18944)
    vocabulary, qkv, vit_mlp = (100_864, 3 * 4096, 4096) if olmo else (152_064, 4608, 4304)
    shapes: dict[str, list[int]] = {
        "model.transformer.wte.embedding": [vocabulary, hidden],
        "model.transformer.wte.new_embedding": [128, hidden],
        "model.transformer.ln_f.weight": [hidden],
        "lm_head.weight": [vocabulary, hidden],
    }
    for i in range(32 if olmo else 28):
        block = f"model.transformer.blocks.{i}"
        shapes |= {f"{block}.{norm}.weight": [hidden] for norm in ("attn_norm", "ff_norm")}
        shapes[f"{block}.self_attn.att_proj.weight"] = [qkv, hidden]
        if olmo:
            shapes |= {f"{block}.self_attn.{norm}.weight": [4096] for norm in ("q_norm", "k_norm")}
        else:
            shapes[f"{block}.self_attn.att_proj.bias"] = [qkv]
        shapes[f"{block}.self_attn.attn_out.weight"] = [hidden, hidden]
        shapes |= {f"{block}.mlp.ff_proj.weight": [2 * mlp, hidden], f"{block}.mlp.ff_out.weight": [hidden, mlp]}
    vit = "model.vision_backbone.image_vit"
    shapes |= {
        f"{vit}.patch_embedding.weight": [width, 588],
        f"{vit}.positional_embedding": [577 if olmo else 729, width],
    }
    if olmo:
        shapes |= {f"{vit}.class_embedding": [width], "model.vision_backbone.pad_embed": [2, 2 * width]}
        shapes |= {f"{vit}.pre_ln.weight": [width], f"{vit}.pre_ln.bias": [width]}
    else:
        shapes[f"{vit}.patch_embedding.bias"] = [width]
    for j in range(22 if olmo else 25):
        block = f"{vit}.transformer.resblocks.{j}"
        for name in ("attention.wq", "attention.wk", "attention.wv", "attention.wo"):
            shapes |= {f"{block}.{name}.weight": [width, width], f"{block}.{name}.bias": [width]}
        for name in ("attention_norm", "ffn_norm"):
            shapes |= {f"{block}.{name}.weight": [width], f"{block}.{name}.bias": [width]}
        shapes |= {f"{block}.feed_forward.w1.weight": [vit_mlp, width], f"{block}.feed_forward.w1.bias": [vit_mlp]}
        shapes |= {f"{block}.feed_forward.w2.weight": [width, vit_mlp], f"{block}.feed_forward.w2.bias": [width]}
    pooling, projector = "model.vision_backbone.image_pooling_2d", "model.vision_backbone.image_projector"
    for name in ("wq", "wk", "wv"):
        shapes |= {f"{pooling}.{name}.weight": [width, 2 * width], f"{pooling}.{name}.bias": [width]}
    shapes |= {f"{pooling}.wo.weight": [width, width], f"{pooling}.wo.bias": [width]}
    shapes |= {f"{projector}.{name}.weight": [mlp, width] for name in ("w1", "w3")}
    return shapes | {f"{projector}.w2.weight": [hidden, mlp]}


@pytest.mark.parametrize(("olmo", "billions"), [(False, 8.12), (True, 7.65)])
def test_the_model_has_exactly_the_released_tensors(olmo: bool, billions: float) -> None:
    with torch.device("meta"):
        tensors = MolmoAct(released_config(olmo, tiny=False)).state_dict()
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == published(olmo)
    assert sum(t.numel() for t in tensors.values()) / 1e9 == pytest.approx(billions, abs=0.02)


@pytest.mark.parametrize("olmo", [False, True])
def test_shards_load_with_every_tensor_in_its_place(released: Path, tmp_path: Path, olmo: bool) -> None:
    for name in ("preprocessor_config.json", "tokenizer.json"):
        shutil.copy(released / name, tmp_path)
    config = released_config(olmo, tiny=True)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        wanted = MolmoAct(config).state_dict()
    tensors = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in wanted.items()}
    save_shards(tmp_path, tensors)
    loaded = load_checkpoint(tmp_path, dtype=torch.bfloat16)
    state = loaded.model.state_dict()
    assert loaded.depth_vq is None and loaded.codebook == ""
    assert all(torch.equal(state[name], tensor.to(torch.bfloat16)) for name, tensor in tensors.items())
    assert state.keys() == tensors.keys()


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(released, folder, ignore=shutil.ignore_patterns("depth_vq.safetensors"))
    return folder


NAME = "model.transformer.blocks.13.mlp.ff_out.weight"


@pytest.mark.parametrize("change", ["renamed", "missing", "reshaped", "nan"])
def test_a_tensor_that_does_not_fit_is_named(copy: Path, change: str) -> None:
    path = read_headers(copy).file_of[NAME]
    tensors, index = load_file(path), json.loads((copy / "model.safetensors.index.json").read_text())
    tensor = tensors.pop(NAME)
    place = index["weight_map"].pop(NAME)
    if change == "renamed":
        tensors["surprise"], index["weight_map"]["surprise"] = tensor, place
    elif change != "missing":
        tensors[NAME] = tensor.T.contiguous() if change == "reshaped" else tensor * float("nan")
        index["weight_map"][NAME] = place
    save_file(tensors, path)
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=NAME.replace(".", r"\.")) as error:
        load_checkpoint(copy)
    assert "\n" not in str(error.value)
    if change == "renamed":
        with torch.device("meta"):
            lines = misfits(MolmoAct(released_config(False, tiny=True)), read_headers(copy))
        assert len(lines) == 2 and "unknown tensor surprise" in lines[1]


def break_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_an_index_and_files_that_disagree_are_named(copy: Path) -> None:
    break_index(copy, lambda places: places.update({NAME: places["lm_head.weight"]}))
    with pytest.raises(CheckpointError, match=NAME.replace(".", r"\.")):
        load_checkpoint(copy)
    break_index(copy, lambda places: places.update({NAME: "../elsewhere.safetensors"}))
    with pytest.raises(CheckpointError, match=r"not a file of the folder"):
        load_checkpoint(copy)
    (copy / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index\.json is corrupt"):
        load_checkpoint(copy)


@pytest.mark.parametrize("how", ["missing", "cut off", "a pointer of Git LFS"])
def test_a_download_that_stopped_is_named(copy: Path, how: str) -> None:
    path = copy / "model-00002-of-00003.safetensors"
    whole = path.read_bytes()
    path.unlink()
    if how == "cut off":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "a pointer of Git LFS":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n")
    with pytest.raises(CheckpointError, match=f"00002-of-00003.*{how if 'LFS' in how else ''}"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("llm_config", "norm_after", None),
        ("vit_config", "hidden_act", "relu"),
        ("llm_config", "rope_scaling", {"factor": 2}),
        ("llm_config", "num_hidden_layers", "many"),
        ("vit_config", "image_num_pos", 577),
        ("adapter_config", "vit_layers", [-3, -40]),
        ("llm_config", "qk_norm_type", "qwen3"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(copy: Path, section: str, field: str, value: object) -> None:
    config = json.loads((copy / "config.json").read_text())
    config[section][field] = value
    if value is None:
        del config[section][field]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{field}"):
        load_checkpoint(copy)


def test_the_released_depth_decoder_becomes_safetensors_once(copy: Path) -> None:
    assert load_checkpoint(copy).depth_vq is not None
    kept = copy / "depth_vq.safetensors"
    (copy / "vae-final.pt").unlink()
    again = load_depth_decoder(copy)
    assert again is not None and find_depth_vq(copy) == kept
    codes = again.encode(torch.rand(1, 1, 320, 320, generator=torch.Generator().manual_seed(0)))
    assert codes.shape == (1, 10, 10) and again.picture(codes[0].numpy()).shape == (320, 320)


def test_a_depth_decoder_goes_to_the_cache_where_the_folder_is_not_ours(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    path = find_depth_vq(copy)
    assert path is not None and path.is_relative_to(tmp_path / "cache") and path.is_file()
    assert not (copy / "depth_vq.safetensors").exists()


class Trap:
    """What an ordinary unpickler would run."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("trapped",)


def test_no_pickle_runs_anything(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (pickle.dumps({"weights": Trap()}), b"nonsense"):
        (copy / "vae-final.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"vae-final\.pt is not a file of plain tensors"):
            load_checkpoint(copy)
    torch.save({"weights": {"encoder.0.weight": torch.zeros(1)}}, copy / "vae-final.pt")
    with pytest.raises(CheckpointError, match=r"vae-final\.pt"):
        load_checkpoint(copy)
    wrong = DepthVq(4, 16).state_dict()
    del wrong["decoder.14.bias"]
    torch.save(wrong, copy / "vae-final.pt")
    with pytest.raises(CheckpointError, match=r"decoder\.14\.bias"):
        load_checkpoint(copy)
    assert not (tmp_path / "trapped").exists() and not (copy / "depth_vq.safetensors").exists()


def test_code_beside_the_weights_is_never_run(copy: Path) -> None:
    (copy / "modeling_molmoact.py").write_text("raise SystemExit('remote code ran')")
    assert load_checkpoint(copy).config.model_type == "molmoact"
    assert "modeling_molmoact" not in sys.modules


@pytest.mark.parametrize("long", [2**28, 2**21])
def test_digests_tell_checkpoints_apart(copy: Path, long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("molmoact_ros.engine.model.weight_files.LONG", long)
    before = digest(copy)
    assert before == digest(copy)
    path = read_headers(copy).file_of[NAME]
    tensors = load_file(path)
    for tensor in tensors.values():
        tensor += 1
    save_file(tensors, path)
    assert digest(copy) != before


def test_loading_holds_no_more_than_one_file_beside_the_result(released: Path, tmp_path: Path) -> None:
    """Measured in a process of its own; some tens of MB go to libraries that loading imports."""
    for name in ("preprocessor_config.json", "tokenizer.json"):
        shutil.copy(released / name, tmp_path)
    config = released_config(olmo=False, tiny=True)
    config.llm_config.intermediate_size = 12_000
    (tmp_path / "config.json").write_text(config.model_dump_json())
    with torch.device("meta"):
        wanted = MolmoAct(config).state_dict()
    save_shards(tmp_path, {name: torch.ones(tensor.shape) for name, tensor in wanted.items()})
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom molmoact_ros.benchmarks.checkpoint_load import bench_load\n"
        "print(json.dumps(bench_load(Path(sys.argv[1]), 'bfloat16')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, cwd="/"
    )
    figures = json.loads(ran.stdout)
    assert figures["largest"] > 0.05 and figures["result"] > 0.08
    assert figures["above"] < figures["largest"] + 0.16  # the tokenizer alone is half of that


@pytest.fixture(scope="module")
def engine(released: Path) -> TorchEngine:
    return TorchEngine.load(released, threads=1, unnorm_key="molmoact")


def look(cameras: int, trace: np.ndarray | None = None) -> Observation:
    rng = np.random.default_rng(4)
    images = tuple(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(cameras))
    return Observation(images, "close the laptop", 0.0, trace)


@pytest.mark.parametrize("cameras", [1, 3])
def test_a_released_folder_takes_a_whole_step(engine: TorchEngine, cameras: int) -> None:
    *_, said = engine.reason(look(cameras))
    assert said.complete and said.actions is not None and said.actions.shape in ((1, 7), (8, 7))
    assert said.depth_codes is not None and said.trace is not None
    assert engine.timings.counts.passes < engine.timings.counts.tokens
    asked = engine.ask(look(cameras))
    assert len(asked.pictures.crops) == cameras  # 320x240: global view and tile are the same


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_memory_takes_a_whole_step_too(released: Path, dtype: torch.dtype) -> None:
    engine = TorchEngine.load(released, unnorm_key="molmoact", dtype=dtype)
    *_, said = engine.reason(look(2))
    assert said.complete and engine.dtype == dtype


def test_a_drawn_trace_is_followed(engine: TorchEngine) -> None:
    *_, said = engine.reason(look(2, np.array([[10, 20], [200, 100]])))
    assert said.actions is not None and said.trace is None and said.depth_codes is None


def test_the_model_says_the_same_with_and_without_drafts(engine: TorchEngine) -> None:
    *_, first = engine.reason(look(2))
    *_, drafted = engine.reason(look(2))
    engine.forget()
    *_, plain = engine.reason(look(2))
    for said in (drafted, plain):
        np.testing.assert_array_equal(said.actions, first.actions)
        np.testing.assert_array_equal(said.depth_codes, first.depth_codes)


@pytest.mark.parametrize("key", [None, "bridge_orig"])
def test_keys_are_listed(released: Path, key: str | None) -> None:
    with pytest.raises(RefusedStep, match="choose one of: molmoact, two_arms"):
        TorchEngine.load(released, unnorm_key=key)


def test_two_arms_have_fourteen_values(released: Path) -> None:
    engine = TorchEngine.load(released, unnorm_key="two_arms", frame_size="camera")
    *_, said = engine.reason(look(1))
    assert said.actions is not None and said.actions.shape[1] == 14
    assert len(engine.ask(look(1)).pictures.crops) == 5


@pytest.mark.parametrize("text", ["320", "0x240", "320x", "9999x9", "big"])
def test_a_frame_size_that_is_none_is_refused(released: Path, text: str) -> None:
    with pytest.raises(ValueError, match="320x240"):
        TorchEngine.load(released, unnorm_key="molmoact", frame_size=text)
