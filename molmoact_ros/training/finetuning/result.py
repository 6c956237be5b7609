"""The result of a run: a checkpoint folder in the released layout, merged, with a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from molmoact_ros.engine.model.checkpoint import CONFIG, RUN, CheckpointFolder
from molmoact_ros.engine.model.folder_kind import ADAPTER_WEIGHTS
from molmoact_ros.engine.model.lora import Change, LoraAdapter, replaced
from molmoact_ros.engine.model.merge import copy_small_files, write_weights
from molmoact_ros.engine.model.weight_files import read_headers
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method
from molmoact_ros.training.finetuning.examples import ExampleMaker
from molmoact_ros.training.finetuning.model import ADAPTER, AnswerLoss, adapter_config
from molmoact_ros.training.finetuning.validation import UNITS

CARD = "README.md"


def save_adapter(
    folder: Path, loss: AnswerLoss, tensors: Mapping[str, Tensor], config: FinetuneConfig, base: Path
) -> None:
    """Save adapters [out, r] and [r, in] by their names in the model as PEFT does; `molmoact-ros merge` reads it."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = adapter_config(loss.model, config)
    settings.base_model_name_or_path = str(base.resolve())
    settings.save_pretrained(folder)
    named = {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": t.contiguous() for name, t in tensors.items()}
    save_file(named, folder / ADAPTER_WEIGHTS[0])


def write_result(
    out: Path, base: CheckpointFolder, makers: list[ExampleMaker], tensors: Mapping[str, Tensor], adapter: Path | None,
    card: str,
) -> None:  # fmt: skip
    """Write the checkpoint `base` with what was trained to the folder `out`, its config.json last.

    makers: of the training data and of rehearsed data; each gives what is stated under its key. tensors: all trained
    weights [...] by name, unless `adapter` is the folder of one.
    """
    weights = read_headers(base.path)
    changes: dict[str, Change]
    if adapter is None:
        changes = {name: partial(replaced, tensor) for name, tensor in tensors.items()}
    else:
        changes = LoraAdapter.load(adapter).changes(weights.shapes)
    beside = out / "training" / "result.partial"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    copy_small_files([base.path], beside)
    known = [*makers, makers[0]]  # the counts beside its statistics stay, where rehearsed data have the same key
    stats = {key: entry.model_dump(mode="json") for maker in known for key, entry in maker.config.norm_stats.items()}
    config = json.loads((beside / CONFIG).read_text()) | {"norm_stats": stats}
    (beside / CONFIG).write_text(json.dumps(config, indent=1))
    (beside / RUN).write_text(json.dumps(_run_fields(makers), indent=1))
    (beside / CARD).write_text(card)
    write_weights(weights, changes, beside)
    (out / CONFIG).unlink(missing_ok=True)  # the folder is no checkpoint while its files are replaced
    for path in sorted(beside.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(out / path.name)
    beside.rmdir()


def _run_fields(makers: list[ExampleMaker]) -> dict[str, Any]:
    """run.json: the first one's; what is stated by un-normalisation key, of all of them."""
    first, *others = (maker.run.model_dump(mode="json") for maker in makers)
    for other in others:
        first |= {name: value | first[name] for name, value in other.items() if isinstance(value, dict)}
    return first


def model_card(
    out: Path, base: Path, digest: str, sources: list[Mapping[str, Any]], config: FinetuneConfig, step: int,
    before: Mapping[str, float], after: Mapping[str, float], notes: list[str],
) -> str:  # fmt: skip
    """The model card: base, data, settings, seed, and the figures on held-out episodes before and after."""
    parts = ", ".join(part.value for part in config.parts)
    how = f"LoRA of rank {config.rank}, alpha {config.alpha:g}" if config.method is Method.LORA else "all weights"
    data = [
        f"- `{known['path']}`: {known['samples']} samples of {known['episodes']} episodes, labels `{known['digest']}`"
        for known in sources
    ]
    rows = [
        f"| {name.replace('_', ' ')} | {before.get(name, float('nan')):.3g} | {after[name]:.3g} | {unit} |"
        for name, unit in UNITS.items()
        if name in after
    ]
    table = ["| on held-out episodes | before | after | |", "|---|---|---|---|", *rows] if rows else ["No validation."]
    lines = [
        f"# {out.resolve().name}", "",
        f"A fine-tune of `{base.name}` (weights `{digest}`), made by molmoact-ros on {datetime.now(UTC):%Y-%m-%d}.", "",
        "## Data", "", *data, *(f"- {note}" for note in notes), "",
        "## Training", "",
        f"{how}, on {parts}; step {step} of {config.steps}, {config.batch} examples each; seed {config.seed}; "
        f"{config.dtype}{f', frozen weights in {config.quantize}' if config.quantize else ''}; "
        f"{config.steer_share:.0%} of the examples with the trace drawn, "
        f"images {'augmented' if config.augment else 'as recorded'}.", "",
        "Settings: `" + json.dumps(config.model_dump(mode="json", exclude_defaults=True)) + "`", "",
        "## Figures", "", *table, "",
        "Position and rotation: where the hand is after a chunk, against the demonstration. Answers are decoded under "
        "the grammar, as the service does.", "",
        "The licences of base and data apply. These figures do not say how it does on a robot: evaluate it there.", "",
    ]  # fmt: skip
    return "\n".join(lines)
