"""Adapters, losses and gradients against plain torch; a merged adapter against an unmerged one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.merge import merge
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError, fill, read_headers
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method, ModelPart
from molmoact_ros.training.finetuning.examples import AnswerBatch, Mixture
from molmoact_ros.training.finetuning.losses import TrainingLoss
from molmoact_ros.training.finetuning.model import build_model, fill_model
from molmoact_ros.training.finetuning.processes import Processes
from molmoact_ros.training.finetuning.result import save_adapter
from molmoact_ros.training.finetuning.saved_run import SavedRun, trained_tensors
from molmoact_ros.training.finetuning.trainer import FinetuneTrainer

GOLDEN = Path(__file__).parents[2] / "golden" / "d_like"
CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
ANSWER = 30
LORA = FinetuneConfig(rank=4, alpha=6, dropout=0.0, clip=1e9, warm_up=1)
FULL = LORA.model_copy(update={"method": Method.FULL})


def load(config: FinetuneConfig, folder: Path = GOLDEN) -> TrainingLoss[Any]:
    files = CheckpointFolder(folder)
    loss = build_model(files, config)
    fill_model(loss, files, config, CPU)
    return loss


def plain(folder: Path = GOLDEN) -> MolmoAct:
    with torch.device("meta"):
        model = MolmoAct(CheckpointFolder(folder).config)
    fill(model, read_headers(folder), "cpu", torch.float32)
    return model


@pytest.fixture(scope="module")
def batch() -> AnswerBatch:
    """The golden sequence twice, once cut short; the last tokens of each are its answer."""
    data = np.load(GOLDEN / "golden.npz")
    ids = torch.from_numpy(data["input_ids"]).view(1, -1).repeat(2, 1)
    crops = torch.from_numpy(data["image"]).view(1, 1, 729, -1)
    pooled = torch.from_numpy(data["pooled_idx"]).view(1, -1, 4)
    pooled = torch.where(pooled >= 729, pooled - 729, pooled)  # both crops are the same image
    targets = torch.full_like(ids, -1)
    targets[0, -ANSWER:-1] = ids[0, -ANSWER + 1 :]
    targets[1, -ANSWER:-11] = ids[1, -ANSWER + 1 : -10]
    return AnswerBatch(ids, targets, crops.repeat(2, 1, 1, 1), pooled.repeat(2, 1, 1))


def plain_loss(model: MolmoAct, weights: Mapping[str, Tensor], batch: AnswerBatch, z_weight: float) -> Tensor:
    """The loss written down as it is meant: cross-entropy and z-loss, means over the answers' tokens."""

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self) -> Tensor:
            features = self.inner.image_features(batch.crops, batch.pooled)
            return self.inner.logits(self.inner(batch.ids, features))

    logits = functional_call(Logits(), {f"inner.{name}": tensor for name, tensor in weights.items()}, ()).flatten(0, 1)
    targets = batch.targets.flatten()
    entropy = F.cross_entropy(logits, targets, ignore_index=-1)
    log_partition = torch.log(torch.exp(logits[targets >= 0].double()).sum(-1))
    return entropy + z_weight * log_partition.square().mean().float()


def off(found: Tensor | None, wanted: Tensor) -> float:
    """The norm of a gradient's difference, relative to the gradient's; a key's bias has none but rounding."""
    assert found is not None
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-3))


def trainer(loss: TrainingLoss[Any], config: FinetuneConfig, folder: Path, micro_batch: int = 2) -> FinetuneTrainer:
    examples: Mixture = None  # type: ignore[assignment]
    return FinetuneTrainer(
        loss, examples, config, ALONE, micro_batch, SavedRun(folder, ALONE), None, lambda entry: None
    )


def test_adapters_with_zero_b_change_no_bit(batch: AnswerBatch) -> None:
    model, trained = plain(), load(LORA).model
    with torch.no_grad():
        features = [m.image_features(batch.crops, batch.pooled) for m in (model, trained)]
        assert torch.equal(*features)
        assert torch.equal(*(m.logits(m(batch.ids, features[0])) for m in (model, trained)))
    names = [name for name, parameter in trained.named_parameters() if parameter.requires_grad]
    assert names and all(".lora_" in name for name in names)
    a = next(parameter for name, parameter in trained.named_parameters() if name.endswith("lora_A.default.weight"))
    assert 0.7 < float(a.detach().std()) * LORA.rank < 1.3


@pytest.mark.parametrize("parts", [tuple(ModelPart), (ModelPart.DECODER,)], ids=["all", "decoder"])
def test_a_full_step_has_plain_torchs_loss_and_gradients(
    batch: AnswerBatch, tmp_path: Path, parts: tuple[ModelPart, ...]
) -> None:
    config = FULL.model_copy(update={"parts": parts})
    loss, model = load(config), plain()
    run = trainer(loss, config, tmp_path)
    entry = run.step([batch])
    weights = dict(model.named_parameters())
    wanted = plain_loss(model, weights, batch, config.z_weight)
    trained = [n for n in weights if parts == tuple(ModelPart) or n.startswith(("model.transformer", "lm_head"))]
    gradients = dict(zip(trained, torch.autograd.grad(wanted, [weights[n] for n in trained]), strict=True))
    assert entry["loss"] == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert entry["gradient_norm"] == pytest.approx(
        float(torch.cat([g.flatten() for g in gradients.values()]).norm()), rel=1e-4
    )
    found = {n: p.grad for n, p in loss.model.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    apart = {name: off(found[name], gradient) for name, gradient in gradients.items()}
    assert max(apart.values()) < 1e-3, apart


def test_a_step_of_adapters_has_plain_torchs_loss_and_gradients(batch: AnswerBatch, tmp_path: Path) -> None:
    loss, model = load(LORA), plain()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in loss.model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    pairs = {n: p.detach().clone().requires_grad_() for n, p in loss.model.named_parameters() if p.requires_grad}
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name in [n for n in pairs if ".lora_A." in n]:
        matrix = name.replace(".lora_A.default", "")
        weights[matrix] = weights[matrix] + 6 / 4 * pairs[name.replace("lora_A", "lora_B")] @ pairs[name]
    entry = trainer(loss, LORA, tmp_path).step([batch])
    wanted = plain_loss(model, weights, batch, LORA.z_weight)
    gradients = torch.autograd.grad(wanted, list(pairs.values()))
    assert entry["loss"] == pytest.approx(float(wanted.detach()), rel=1e-5)
    found = {n: p.grad for n, p in loss.model.named_parameters()}
    apart = {name: off(found[name], gradient) for name, gradient in zip(pairs, gradients, strict=True)}
    assert max(apart.values()) < 1e-3, apart


def test_accumulated_gradients_are_those_of_one_pass(batch: AnswerBatch, tmp_path: Path) -> None:
    """Sequences have answers of unlike lengths: each token weighs the same, whatever the pass that it is in."""
    single = [AnswerBatch(*(tensor[row : row + 1] for tensor in vars(batch).values())) for row in range(2)]
    entries = [trainer(load(FULL), FULL, tmp_path).step(batches) for batches in ([batch], single)]
    for name in ("loss", "cross_entropy", "gradient_norm"):
        assert entries[0][name] == pytest.approx(entries[1][name], rel=1e-5)


@torch.no_grad()
def test_merged_is_unmerged(batch: AnswerBatch, tmp_path: Path) -> None:
    loss = load(LORA)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in loss.model.named_parameters():
        if ".lora_B." in name:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    save_adapter(tmp_path / "adapter", loss, trained_tensors(loss), LORA, GOLDEN)
    merge(tmp_path / "adapter", GOLDEN, tmp_path / "merged")
    text, whole = [], []
    for model in (loss.model, plain(tmp_path / "merged"), plain()):
        model.double()  # what differs is the merged matrices' rounding, not that of the passes
        text.append(model.logits(model(batch.ids.clamp(max=100))))
        whole.append(model.logits(model(batch.ids, model.image_features(batch.crops.double(), batch.pooled))))
    assert float((text[0] - text[1]).abs().max()) < 1e-5
    # Through the tower's layers, too, the rounding of the merged matrices grows with the logits.
    assert float((whole[0] - whole[1]).abs().max() / whole[0].abs().max()) < 1e-5
    assert float((whole[0] - whole[2]).abs().max()) > 0.1, "the adapter changes something"


def test_dropout_leaves_answers_alone(batch: AnswerBatch) -> None:
    config = FULL.model_copy(update={"dropout": 0.5})
    loss = load(config)
    torch.manual_seed(0)
    kept = {}

    def note(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        kept["before"] = output

    block = loss.model.layers[-1]
    block.mlp.ff_out._forward_hooks.clear()
    block.mlp.ff_out.register_forward_hook(note)
    loss.train()
    loss(batch)
    first = kept["before"]
    torch.manual_seed(1)
    loss(batch)
    assert not torch.equal(first, kept["before"]), "what comes before is dropped at random"
    loss = load(config)
    seen: list[Tensor] = []
    loss.model.layers[0].mlp.ff_out.register_forward_hook(lambda *call: seen.append(call[2]))
    loss.train()
    loss(batch)
    learnt = batch.targets >= 0
    share = (seen[0] == 0).float().mean(-1)
    assert share[learnt].max() == 0 and 0.4 < share[~learnt].mean() < 0.6
    loss.eval()
    with torch.no_grad():
        torch.testing.assert_close(loss(batch)[0], load(FULL)(batch)[0])


def test_nf4_trains_as_the_dequantised_weights_would(batch: AnswerBatch, tmp_path: Path) -> None:
    config = LORA.model_copy(update={"quantize": "nf4", "dtype": "bfloat16"})
    loss, other = load(config), load(LORA.model_copy(update={"dtype": "bfloat16"}))
    quantised = {n: p for n, p in loss.model.named_parameters() if type(p.data).__name__ == "NF4Tensor"}
    assert len(quantised) == 4 * len(loss.model.layers)
    wide = {n: p.to(torch.bfloat16) for n, p in quantised.items()}
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            if name in wide:
                assert 0 < float((parameter - wide[name]).abs().max()) < 0.2 * float(parameter.abs().max())
                parameter.copy_(wide[name])
    entries = [trainer(each, config, tmp_path).step([batch]) for each in (loss, other)]
    assert entries[0]["loss"] == pytest.approx(entries[1]["loss"], rel=1e-3)
    assert entries[0]["gradient_norm"] == pytest.approx(entries[1]["gradient_norm"], rel=2e-2)
    assert entries[0]["loss"] != pytest.approx(float(load(LORA)(batch)[0]) / batch.terms, rel=1e-6)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((GOLDEN / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="model.safetensors is missing"):
        build_model(CheckpointFolder(tmp_path), LORA)
