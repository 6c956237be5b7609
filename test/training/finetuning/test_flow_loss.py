"""The flow loss and its gradients against plain torch, and what adapters change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from molmoact_ros.engine.model.merge import merge
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder, load_robot_checkpoint
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method, ModelPart
from molmoact_ros.training.finetuning.examples import Mixture
from molmoact_ros.training.finetuning.flow_examples import FlowBatch, FlowExampleMaker
from molmoact_ros.training.finetuning.joint_motion import JointRows
from molmoact_ros.training.finetuning.losses import FlowLoss
from molmoact_ros.training.finetuning.model import build_model, fill_model
from molmoact_ros.training.finetuning.processes import Processes
from molmoact_ros.training.finetuning.result import save_adapter
from molmoact_ros.training.finetuning.saved_run import SavedRun, trained_tensors
from molmoact_ros.training.finetuning.trainer import FinetuneTrainer

GOLDEN = Path(__file__).parents[2] / "golden" / "think_like"
CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
LORA = FinetuneConfig.of(
    "molmoact2", {"rank": 4, "alpha": 6, "dropout": 0.0, "clip": 1e9, "warm_up": 1, "flow_times": 2}
)
FULL = LORA.model_copy(update={"method": Method.FULL, "parts": tuple(ModelPart)})


def load(config: FinetuneConfig) -> FlowLoss:
    files = RobotCheckpointFolder(GOLDEN)
    loss = build_model(files, config)
    fill_model(loss, files, config, CPU)
    assert isinstance(loss, FlowLoss)
    return loss


def with_adapters(seed: int, config: FinetuneConfig = LORA) -> FlowLoss:
    """Adapters whose B is not zero."""
    loss, generator = load(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in loss.model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return loss


@pytest.fixture(scope="module")
def batch(joints: Path) -> FlowBatch:
    """Two prompts of unlike lengths, two flow times each."""
    data = JointRows(joints, 16)
    maker = FlowExampleMaker(RobotCheckpointFolder(GOLDEN), data)
    return maker.collate([maker.example(data.sample(row), 2, np.random.default_rng(row)) for row in (0, 1)])


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rope(x: Tensor, base: float) -> Tensor:
    """Half-split rotary embedding of [heads, S, d]."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * base ** (-torch.arange(half) / half)
    one, other = x[..., :half], x[..., half:]
    return torch.cat([one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin()], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def heads(x: Tensor, width: int) -> Tensor:
    return x.unflatten(-1, (-1, width)).transpose(0, 1)


Linears = Mapping[str, Tensor]


def linear(w: Linears, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))


def decode(w: Linears, c: MolmoAct2Config, ids: Tensor, features: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [S, width] of each layer for one prompt."""
    llm, wte = c.llm_config, "model.transformer.wte"
    x = torch.cat([w[f"{wte}.embedding"], w[f"{wte}.new_embedding"]])[ids]
    x = x.index_add(0, (ids == c.image_patch_id).nonzero().squeeze(1), features)
    image = torch.isin(ids, torch.tensor(c.image_ids))
    allowed = torch.ones(len(ids), len(ids), dtype=torch.bool).tril() | (image[:, None] & image[None])
    out, size = [], llm.head_dim
    for layer in range(llm.num_hidden_layers):
        at = f"model.transformer.blocks.{layer}"
        qkv = linear(w, f"{at}.self_attn.att_proj", rms(x) * w[f"{at}.attn_norm.weight"])
        q, k, v = qkv.split([llm.num_attention_heads * size] + [llm.num_key_value_heads * size] * 2, -1)
        q, k = (rms(heads(t, size)) * w[f"{at}.self_attn.{n}_norm.weight"] for t, n in ((q, "q"), (k, "k")))
        q, k, v = rope(q, llm.rope_theta), rope(k, llm.rope_theta), heads(v, size)
        out.append((k.transpose(0, 1).flatten(1), v.transpose(0, 1).flatten(1)))
        shared = llm.num_attention_heads // llm.num_key_value_heads
        read = attend(q, k.repeat_interleave(shared, 0), v.repeat_interleave(shared, 0), allowed)
        x = x + linear(w, f"{at}.self_attn.attn_out", read)
        up, gate = linear(w, f"{at}.mlp.ff_proj", rms(x) * w[f"{at}.ff_norm.weight"]).chunk(2, -1)
        x = x + linear(w, f"{at}.mlp.ff_out", torch.nn.functional.silu(gate) * up)
    return out


def velocity(w: Linears, c: MolmoAct2Config, x: Tensor, time: Tensor, read: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The expert for one chunk [H, A] at one time; read: keys and values [S, width] of each layer."""
    silu, e, expert = torch.nn.functional.silu, c.action_expert_config, "model.action_expert"
    half = e.timestep_embed_dim // 2
    angle = time * torch.exp(-np.log(10_000) * torch.arange(half) / (half - 1))
    wave = torch.cat([angle.sin(), angle.cos()])
    condition = linear(w, f"{expert}.time_embed.3", silu(linear(w, f"{expert}.time_embed.1", wave)))
    x = linear(w, f"{expert}.action_embed", x)
    for layer, (k, v) in enumerate(read):
        at = f"{expert}.blocks.{layer}"
        shift, scale, gate, shift2, scale2, gate2, shift3, scale3, gate3 = linear(
            w, f"{at}.modulation.linear", silu(condition)
        ).chunk(9)
        q, k1, v1 = (heads(t, e.head_dim) for t in
                     linear(w, f"{at}.self_attn.qkv", rms(x) * (1 + scale) + shift).chunk(3, -1))  # fmt: skip
        q, k1 = (rope(rms(t), 10_000.0) for t in (q, k1))
        x = x + gate * linear(w, f"{at}.self_attn.out_proj", attend(q, k1, v1))
        q = rms(heads(linear(w, f"{at}.cross_attn.q_proj", rms(x) * (1 + scale2) + shift2), e.head_dim))
        k2, v2 = (heads(rms(linear(w, f"{expert}.context_{n}_proj", t)), e.head_dim) for n, t in (("k", k), ("v", v)))
        x = x + gate2 * linear(w, f"{at}.cross_attn.out_proj", attend(q, rms(k2), v2))
        y = rms(x) * (1 + scale3) + shift3
        y = silu(linear(w, f"{at}.mlp.gate_proj", y)) * linear(w, f"{at}.mlp.up_proj", y)
        x = x + gate3 * linear(w, f"{at}.mlp.down_proj", y)
    shift, scale = linear(w, f"{expert}.final_layer.modulation.linear", silu(condition)).chunk(2)
    return linear(w, f"{expert}.final_layer.linear", rms(x) * (1 + scale) + shift)


def plain_loss(model: MolmoAct2, w: Linears, batch: FlowBatch) -> Tensor:
    """The loss written down as it is meant, prompt by prompt and time by time; the tower is the engine's."""
    c = model.config
    tower = {n.removeprefix("model.vision_backbone."): t for n, t in w.items() if "vision_backbone" in n}
    errors = []
    for row in range(len(batch.ids)):
        ids = batch.ids[row, : int(batch.there[row].sum())]
        seen = (batch.crops[row : row + 1], batch.pooled[row : row + 1])
        features = functional_call(model.model.vision_backbone, tower, seen)[0]
        hidden = ids != c.eos_token_id
        read = [(k[hidden], v[hidden]) for k, v in decode(w, c, ids, features)]
        for noise, time in zip(batch.noise[row], batch.times[row], strict=True):
            mixed = (1 - time) * noise + time * batch.actions[row]
            apart = velocity(w, c, mixed, time, read) - (batch.actions[row] - noise)
            errors.append(apart[:, :8].square())
    return torch.stack(errors).mean()


def trainer(loss: FlowLoss, config: FinetuneConfig, folder: Path, micro_batch: int = 2) -> FinetuneTrainer:
    examples: Mixture = None  # type: ignore[assignment]
    return FinetuneTrainer(
        loss, examples, config, ALONE, micro_batch, SavedRun(folder, ALONE), None, lambda entry: None
    )


def off(found: Tensor | None, wanted: Tensor) -> float:
    assert found is not None
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-4))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_full_step_has_plain_torchs_loss_and_gradients(batch: FlowBatch, tmp_path: Path, recompute: bool) -> None:
    config = FULL.model_copy(update={"recompute": recompute})
    loss, model = load(config), load_robot_checkpoint(GOLDEN).model
    entry = trainer(loss, config, tmp_path).step([batch])
    weights = dict(model.named_parameters())
    wanted = plain_loss(model, weights, batch)
    found = {name: p.grad for name, p in loss.model.named_parameters() if p.requires_grad}
    others = torch.autograd.grad(wanted, list(weights.values()), allow_unused=True)
    gradients = dict(zip(weights, others, strict=True))
    assert {name for name, gradient in gradients.items() if gradient is not None} == found.keys()
    assert entry["loss"] == entry["velocity_error"] == pytest.approx(float(wanted.detach()), rel=1e-5)
    norm = torch.cat([g.flatten() for g in gradients.values() if g is not None]).norm()
    assert entry["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    apart = {name: off(found[name], g) for name, g in gradients.items() if g is not None}
    assert max(apart.values()) < 1e-3, apart


def test_a_step_of_adapters_has_plain_torchs_loss_and_gradients(batch: FlowBatch, tmp_path: Path) -> None:
    loss, model = with_adapters(1), load_robot_checkpoint(GOLDEN).model
    trained = {n: p.detach().clone().requires_grad_() for n, p in loss.model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or name.startswith("model.action_expert.") for name in trained)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, tensor in trained.items():
        if ".lora_A." in name:
            matrix = name.replace(".lora_A.default", "")
            weights[matrix] = weights[matrix] + 6 / 4 * trained[name.replace("lora_A", "lora_B")] @ tensor
        elif ".lora_B." not in name:
            weights[name] = tensor
    entry = trainer(loss, LORA, tmp_path).step([batch])
    wanted = plain_loss(model, weights, batch)
    gradients = torch.autograd.grad(wanted, list(trained.values()))
    assert entry["loss"] == pytest.approx(float(wanted.detach()), rel=1e-5)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert entry["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    found = {n: p.grad for n, p in loss.model.named_parameters()}
    apart = {name: off(found[name], gradient) for name, gradient in zip(trained, gradients, strict=True)}
    assert max(apart.values()) < 1e-3, apart


def test_accumulated_gradients_are_those_of_one_pass(batch: FlowBatch, tmp_path: Path) -> None:
    parts = vars(batch)
    single = [FlowBatch(**{n: t if n == "moving" else t[row : row + 1] for n, t in parts.items()}) for row in range(2)]
    entries = [trainer(load(FULL), FULL, tmp_path).step(batches) for batches in ([batch], single)]
    for name in ("loss", "gradient_norm"):
        assert entries[0][name] == pytest.approx(entries[1][name], rel=1e-5)


@torch.no_grad()
def test_adapters_with_zero_b_change_no_bit(batch: FlowBatch) -> None:
    model, loss = load_robot_checkpoint(GOLDEN).model, load(LORA.model_copy(update={"recompute": False})).eval()
    plain = FlowLoss(model, LORA).eval()
    assert torch.equal(plain.errors(batch), loss.errors(batch))
    hidden = [
        each.model.prefill(each.embed(batch), model.readable(batch.ids), hidden=True).hidden for each in (plain, loss)
    ]
    assert torch.equal(*(model.logits(each) for each in hidden if each is not None))


@torch.no_grad()
def test_merged_is_unmerged(batch: FlowBatch, tmp_path: Path) -> None:
    """Decoder by its adapter, the expert whole, as `molmoact-ros merge` reads them."""
    loss = with_adapters(2).eval()
    for name, parameter in loss.model.named_parameters():
        if name.startswith("model.action_expert."):
            parameter.mul_(1.01)
    save_adapter(tmp_path / "adapter", loss, trained_tensors(loss), LORA, GOLDEN)
    merge(tmp_path / "adapter", GOLDEN, tmp_path / "merged")
    merged, before = (load_robot_checkpoint(folder).model for folder in (tmp_path / "merged", GOLDEN))
    found: list[Any] = [FlowLoss(model, LORA).eval().errors(batch).sqrt() for model in (loss.model, merged, before)]
    assert float((found[0] - found[1]).abs().max()) < 1e-5
    assert float((found[0] - found[2]).abs().max()) > 1e-3, "the adapter changes something"


def test_bfloat16_trains_as_float32_does(batch: FlowBatch, tmp_path: Path) -> None:
    half = LORA.model_copy(update={"dtype": "bfloat16"})
    entries = [trainer(with_adapters(3, config), config, tmp_path).step([batch]) for config in (LORA, half)]
    assert entries[0]["loss"] == pytest.approx(entries[1]["loss"], rel=3e-2)
    assert entries[0]["gradient_norm"] == pytest.approx(entries[1]["gradient_norm"], rel=0.1)
