"""`molmoact-ros finetune`: a checkpoint on a lab's own demonstrations."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from molmoact_ros.doctor.checkpoint import inspect
from molmoact_ros.engine.model.folder_kind import family
from molmoact_ros.reasoning.answer_templates import Wording
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method, ModelPart
from molmoact_ros.training.finetuning.finetune import FinetuneFolders, finetune
from molmoact_ros.utils.arguments import above_zero, add_seed, not_negative
from molmoact_ros.utils.checks import Verdict
from molmoact_ros.utils.paths import checkpoint_of

_DEFAULTS = FinetuneConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add = parser.add_argument
    add("--checkpoint", type=Path, help="checkpoint folder to start from; default: the nano model")
    add("--data", type=Path, required=True, help="labelled data set, as `molmoact-ros label` writes it")
    add("--out", type=Path, required=True, help="new folder of the result, or of a run to resume")
    add("--rehearse", type=Path, help="labelled data of what the checkpoint knows already, mixed in")
    add("--rehearse-share", type=float, default=_DEFAULTS.rehearse_share, help="fraction of examples from it")
    add("--method", choices=[m.value for m in Method], default=_DEFAULTS.method.value, help="adapters or all weights")
    add("--parts", nargs="+", choices=[p.value for p in ModelPart],
        help="parts of the model to train; default: all, of MolmoAct 2 decoder and expert")  # fmt: skip
    add("--rank", type=above_zero(int), help="of the adapters; default 32, of MolmoAct 2 64")
    add("--alpha", type=above_zero(float), default=_DEFAULTS.alpha, help="of the adapters; default 16")
    add("--quantize", choices=["", "nf4"], default="", help="frozen weights of the decoder's layers in nf4")
    add("--steps", type=above_zero(int), default=_DEFAULTS.steps, help="default 10000")
    add("--batch", type=above_zero(int), default=_DEFAULTS.batch, help="examples of a step, all devices; default 16")
    add("--micro-batch", type=not_negative(int), default=0, help="examples of a pass; default: as many as fit")
    add("--rate", type=not_negative(float), default=0.0, help="learning rate; default: the released command's")
    add("--warm-up", type=not_negative(int), default=0, help="steps; default: 200, at most a tenth of --steps")
    add("--dropout", type=not_negative(float), default=_DEFAULTS.dropout, help="of the decoder's residuals")
    add("--no-augment", action="store_true", help="images as recorded, neither cropped nor recoloured")
    add("--no-recompute", action="store_true", help="no gradient checkpointing: faster, and needs more memory")
    add("--steer-share", type=float, default=_DEFAULTS.steer_share, help="fraction of examples with the trace drawn")
    add("--targets", choices=["hard", "soft"], default=_DEFAULTS.targets,
        help="soft: near misses of actions and points count as nearly right, as in the training of the small models; "
        "default: hard, as released")  # fmt: skip
    add("--flow-times", type=above_zero(int), default=_DEFAULTS.flow_times, help="of MolmoAct 2, in each example")
    add("--wording", choices=[w.value for w in Wording], help="of the answers; default: the checkpoint's")
    add("--dtype", choices=["float32", "bfloat16"], help="of the computation; default: bfloat16 on a GPU")
    add("--device", default="", help="cpu or cuda; default: a GPU where there is one")
    add("--validation", type=float, default=_DEFAULTS.validation, help="fraction of the episodes to hold out")
    add("--validation-samples", type=above_zero(int), default=_DEFAULTS.validation_samples, help="default 32")
    add("--validate-every", type=above_zero(int), default=_DEFAULTS.validate_every, help="steps; default 500")
    add("--save-every", type=above_zero(int), default=_DEFAULTS.save_every, help="steps; default 500")
    add("--workers", type=not_negative(int), help="processes that prepare images; default: 4 on a GPU, else none")
    add("--tensorboard", action="store_true", help="also write events for TensorBoard")
    add("--no-memory-check", action="store_true", help="start even where the run is not estimated to fit")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Fine-tune, or resume; returns 1 where the result does not pass the doctor's checks."""
    folders = FinetuneFolders(checkpoint_of(args), args.data, args.out, args.rehearse)
    finetune(folders, _config(args), args.device, args.tensorboard, not args.no_memory_check)
    if int(os.environ.get("RANK", "0")):
        return 0
    failed = [check for check in inspect(args.out) if check.verdict is Verdict.FAIL]
    for check in failed:
        print(f"{check.verdict.value:4} {check.name}: {check.text}")
    print(f"checkpoint in {args.out}; its figures are in {args.out / 'README.md'}")
    return 1 if failed else 0


def _config(args: argparse.Namespace) -> FinetuneConfig:
    import torch

    cuda = args.device.startswith("cuda") or (not args.device and torch.cuda.is_available())
    given = {n: value for n, value in vars(args).items() if n in FinetuneConfig.model_fields and value is not None}
    chosen = {
        "augment": not args.no_augment,
        "recompute": not args.no_recompute,
        "dtype": args.dtype or ("bfloat16" if cuda else "float32"),
        "workers": (4 if cuda else 0) if args.workers is None else args.workers,
    }
    return FinetuneConfig.of(family(checkpoint_of(args)), given | chosen)
