"""Numerical parity of this code with the released model's reference implementation.

A golden folder holds, at any depth, checkpoints with a `golden.npz` (input ids, image, logits, greedy continuation; of
MolmoAct 2 see robot_parity.py) and images `WxH.png` with a `WxH.npz` (the image processor's crops and indices).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.doctor.robot_parity import compare_robot, is_robot_golden
from molmoact_ros.engine.decoding.cuda_graphs import CudaGraphRunner
from molmoact_ros.engine.decoding.decoder import CachedDecoder, ModelRunner, TorchModelRunner
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.config import ProcessorConfig
from molmoact_ros.engine.model.image_processor import ImageProcessor, denormalise, read_picture
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError, fill, read_headers
from molmoact_ros.utils.checks import Check

LOGITS_LIMIT = 1e-4
"""Tolerance for float32 logits, and for pixels stored as floats."""
NPZ = "golden.npz"


def released_processor(base: int, resize: str, normalize: str) -> ProcessorConfig:
    """The released image processor's configuration for square crops of `base` pixels (from allenai/molmoact)."""
    size = [base, base]
    return ProcessorConfig.model_validate(
        {
            "crop_mode": "overlap-and-resize-c2", "resize_mode": resize, "normalize_mode": normalize, "max_crops": 8,
            "max_multi_image_crops": 8, "overlap_margins": [4, 4], "base_image_input_size": size, "pad_value": 0.0,
            "image_patch_size": 14, "image_pooling_w": 2, "image_pooling_h": 2,
        }
    )  # fmt: skip


PROCESSORS = {729: released_processor(378, "siglip", "siglip"), 576: released_processor(336, "default", "openai")}
"""The released processors (7B-D, 7B-O) by patches per crop, for images without a processor's file next to them."""


def compare(folder: Path) -> list[Check]:
    """Compare everything in a golden folder. Raises CheckpointError if there is nothing to compare."""
    checkpoints = sorted(folder.rglob(NPZ))
    pictures = sorted(path for path in folder.rglob("*.npz") if path.name != NPZ)
    if not checkpoints and not pictures:
        raise CheckpointError(f"{folder} holds neither a {NPZ} nor an image WxH.png with WxH.npz")
    findings: list[Check] = []
    for path in checkpoints:
        look = _compare_robot if is_robot_golden(path.parent) else _compare_checkpoint
        findings += _guarded(look, path, folder)
    for path in pictures:
        findings += _guarded(_compare_picture, path, folder)
    return findings


def _guarded(look: Callable[[Path, str], Iterator[Check]], path: Path, folder: Path) -> Iterator[Check]:
    name = str(path.relative_to(folder))
    try:
        yield from look(path, name)
    except (CheckpointError, ValueError, KeyError, OSError, RuntimeError) as error:
        yield Check.check(name, False, f"cannot be compared: {str(error) or type(error).__name__}")


def _compare_robot(path: Path, name: str) -> Iterator[Check]:
    yield from compare_robot(path.parent, name)


@torch.inference_mode()
def _compare_checkpoint(path: Path, name: str) -> Iterator[Check]:
    config = CheckpointFolder(path.parent).config
    with torch.device("meta"):
        model = MolmoAct(config)
    fill(model, read_headers(path.parent), "cpu", torch.float32)
    data = dict(np.load(path))
    ids = torch.from_numpy(data["input_ids"]).view(1, -1)
    embeddings = model.embed(ids, _features(model, data["image"], data["pooled_idx"]))
    logits, greedy = data["logits_text"].reshape(-1, config.llm_config.vocab_size), data["greedy"].ravel().tolist()
    for how, compute in (("whole", _whole), ("cached", _cached), ("static", _static)):
        found, said = compute(model, embeddings, len(greedy))
        difference = float(np.abs(found[-len(logits) :].numpy() - logits).max())
        text = f"largest difference {difference:.1e} at {len(logits)} positions, limit {LOGITS_LIMIT:.0e}"
        yield Check.check(f"{name} logits, {how}", difference <= LOGITS_LIMIT, text)
        equal = sum(a == b for a, b in zip(said, greedy, strict=True))
        yield Check.check(f"{name} greedy, {how}", said == greedy, f"{equal} of {len(greedy)} tokens equal")


def _features(model: MolmoAct, image: np.ndarray, pooled_idx: np.ndarray) -> Tensor:
    """Features [1, T, hidden]. A golden image is stored once, although it is both the global view and its own tile."""
    crops, pooled = torch.from_numpy(image), torch.from_numpy(pooled_idx)
    crops = crops.view(1, -1, *crops.shape[-2:])
    pooled = pooled.view(1, -1, pooled.shape[-1])
    pooled = pooled[:, (pooled >= 0).any(-1)[0]]  # drop the padding of the batch
    wanted = int(pooled.max()) // crops.shape[2] + 1
    if wanted % crops.shape[1]:
        raise ValueError(f"pooled_idx asks for {wanted} crops, image holds {crops.shape[1]}")
    return model.image_features(crops.repeat_interleave(wanted // crops.shape[1], dim=1), pooled)


def _whole(model: MolmoAct, embeddings: Tensor, tokens: int) -> tuple[Tensor, list[int]]:
    """Logits [S, vocab] and the greedy continuation, without a cache: every token recomputes the whole sequence."""
    first, said = model.logits(model.run(embeddings))[0], []
    for _ in range(tokens):
        said.append(int(model.logits(model.run(embeddings)[:, -1]).argmax()))
        embeddings = torch.cat([embeddings, model.embed(torch.tensor([said[-1:]]), None)], dim=1)
    return first, said


def _cached(model: MolmoAct, embeddings: Tensor, tokens: int) -> tuple[Tensor, list[int]]:
    """The same with the key-value cache in torch."""
    return _grown(TorchModelRunner(model, embeddings.shape[1] + tokens), model.logits, embeddings, tokens)


def _static(model: MolmoAct, embeddings: Tensor, tokens: int) -> tuple[Tensor, list[int]]:
    """The same with the fixed-shape passes used on a GPU."""
    everything = np.arange(model.config.llm_config.vocab_size)
    passes = CudaGraphRunner(model, embeddings.shape[1] + tokens, everything)
    return _grown(passes, torch.from_numpy, embeddings, tokens)


def _grown(
    passes: ModelRunner, logits: Callable[[Any], Tensor], embeddings: Tensor, tokens: int
) -> tuple[Tensor, list[int]]:
    """Logits [S, vocab] and the greedy continuation. logits: converts a runner's result to logits."""
    decoder, said = CachedDecoder(passes), []
    after = decoder.append(embeddings[0], first=0)
    first = logits(after)
    for _ in range(tokens):
        said.append(int(logits(after)[-1].argmax()))
        after = decoder.append(decoder.passes.embed(said[-1:]))
    return first, said


def _compare_picture(path: Path, name: str) -> Iterator[Check]:
    data = dict(np.load(path))
    wanted = data["crops_u8"] if "crops_u8" in data else data["crops"]
    files = CheckpointFolder(path.parent)
    config = files.processor if files.processor_file.is_file() else PROCESSORS[wanted.shape[1]]
    made = ImageProcessor(config)([read_picture(path.with_suffix(".png"))])
    crops = made.crops[made.crop_of]
    if "crops_u8" in data:
        crops = np.round(denormalise(crops, config.normalize_mode) * 255).astype(np.uint8)
    yield _same(f"{name} pixels", crops, wanted, LOGITS_LIMIT if wanted.dtype.kind == "f" else 0)
    yield _same(f"{name} indices", made.pooled_idx, data["pooled_idx"].reshape(-1, data["pooled_idx"].shape[-1]), 0)
    yield _same(f"{name} grids", np.array(made.grids[0]), data["grids"].reshape(-1, 2), 0)


def _same(name: str, found: np.ndarray, wanted: np.ndarray, limit: float) -> Check:
    if found.shape != wanted.shape:
        return Check.check(name, False, f"shape {list(found.shape)}, not {list(wanted.shape)}")
    apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    text = f"largest difference {apart.max():g}, {int((apart > limit).sum())} of {apart.size} unequal"
    return Check.check(name, bool((apart <= limit).all()), text)
