"""Checks a MolmoAct 2 folder without loading its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer

from molmoact_ros.doctor.folder_checks import failed_tensors, ok, parameters, read_files
from molmoact_ros.engine.model.checkpoint import default_dtype
from molmoact_ros.engine.model.weight_files import Weights
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder, model_weights
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config, RobotProcessorConfig, TagRunConfig
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.reasoning.robot_stats import NormStatsFile
from molmoact_ros.utils.checks import Check, Verdict

PROMPT_TOKENS: Final = ("<setup_start>", "<setup_end>", "<control_start>", "<control_end>", "<action_output>")


@dataclass(frozen=True)
class _RobotFolder:
    """The parsed files of a folder."""

    config: MolmoAct2Config
    processor: RobotProcessorConfig
    stats: NormStatsFile
    run: TagRunConfig
    tokenizer: Tokenizer
    weights: Weights


def inspect_robot(folder: Path) -> list[Check]:
    """Run all checks; a file that cannot be read becomes a failed check, never an exception."""
    files = RobotCheckpointFolder(folder)
    looks: dict[str, Callable[[], Any]] = {
        "config": lambda: files.config,
        "processor": lambda: files.processor,
        "stats": lambda: files.stats,
        "run": lambda: files.run,
        "tokenizer": lambda: files.tokenizer,
        "weights": lambda: model_weights(folder),
    }
    read, failed = read_files(looks)
    if failed:
        return failed
    whole = _RobotFolder(**read)
    return [finding for part in (_architecture, _tensors, _memory, _images, _tokens, _tags) for finding in part(whole)]


def _architecture(folder: _RobotFolder) -> Iterator[Check]:
    vit, llm, expert = folder.config.vit_config, folder.config.llm_config, folder.config.action_expert_config
    depth = ", predicts depth first" if folder.config.thinks else ""
    yield ok(
        "architecture",
        f"MolmoAct 2: tower of {vit.num_hidden_layers} layers, width {vit.hidden_size}; decoder of "
        f"{llm.num_hidden_layers}, width {llm.hidden_size}; action expert of {expert.num_layers}, width "
        f"{expert.hidden_size}, {folder.config.flow_matching_num_steps} steps{depth}",
    )


def _tensors(folder: _RobotFolder) -> Iterator[Check]:
    with torch.device("meta"):
        model = MolmoAct2(folder.config)
    failed, count = failed_tensors(model, folder.weights), parameters(folder.weights)
    kinds = ", ".join(Counter(folder.weights.dtypes.values()))
    yield from failed
    if not failed:
        yield ok(
            "tensors", f"{len(folder.weights.shapes)} tensors, {count / 1e6:,.1f} million parameters in {kinds}, all "
            "accounted for",
        )  # fmt: skip


def _memory(folder: _RobotFolder) -> Iterator[Check]:
    count = parameters(folder.weights)
    sizes = ((device, torch.empty(0, dtype=default_dtype(device)).element_size()) for device in ("cpu", "cuda"))
    needs = ", ".join(f"{count * size / 1e9:.2f} GB on {device}" for device, size in sizes)
    largest = max(path.stat().st_size for path in folder.weights.files)
    yield ok("memory", f"weights: {needs}; while loading, at most {largest / 1e9:.2f} GB beside them")


def _images(folder: _RobotFolder) -> Iterator[Check]:
    size, vit = folder.processor.image_processor, folder.config.vit_config
    found = (size.size.height, size.size.width), size.patch_size
    wanted = vit.image_default_input_size, vit.image_patch_size
    text = f"one crop of {found[0]} in patches of {found[1]}; config.json: {wanted[0]}, {wanted[1]}"
    yield Check.check("images", found == wanted, text)


def _tokens(folder: _RobotFolder) -> Iterator[Check]:
    """Whether config.json and tokenizer.json agree on the tokens that the model reads and writes."""
    c, known = folder.config, folder.tokenizer.get_vocab(with_added_tokens=True)
    wanted = {
        "<im_start>": c.image_start_token_id, "<im_end>": c.image_end_token_id, "<im_patch>": c.image_patch_id,
        "<|im_end|>": c.eos_token_id, "<action_start>": c.action_start_token_id, "<action_end>": c.action_end_token_id,
    } | {f"<state_{k}>": c.state_token_start_id + k for k in (0, c.num_state_tokens - 1)}  # fmt: skip
    if c.thinks:
        start, end, first = c.depth_ids
        wanted |= {"<depth_start>": start, "<depth_end>": end,
                   "<depth_0>": first, f"<depth_{c.num_depth_tokens - 1}>": first + c.num_depth_tokens - 1}  # fmt: skip
    wrong = [name for name, number in wanted.items() if known.get(name) != number]
    for name in wrong:
        yield Check.check("tokens", False, f"{name} is {known.get(name)} in tokenizer.json, not {wanted[name]}")
    lacking = [name for name in PROMPT_TOKENS if name not in known]
    for name in lacking:
        yield Check.check("tokens", False, f"tokenizer.json has no {name}, which the prompt is made with")
    if not wrong and not lacking:
        yield ok("tokens", f"{len(wanted) + len(PROMPT_TOKENS)} looked at, all where config.json has them")


def _tags(folder: _RobotFolder) -> Iterator[Check]:
    tags = folder.stats.metadata_by_tag
    if not tags:
        yield Check.check("norm_tags", False, "none: this checkpoint was not trained to act, or is cut short")
    for tag, metadata in tags.items():
        cameras = ", ".join(metadata.camera_keys) or "not stated"
        yield ok(
            f"norm_tag {tag}",
            f"{metadata.state_stats.dimensions} values in a state, {metadata.action_stats.dimensions} in an action, "
            f"{metadata.n_action_steps} actions; cameras: {cameras}; {folder.stats.norm_mode}",
        )
        convention = folder.run.convention(tag)
        text = str(convention)
        if convention.stated:
            yield ok(f"meaning of {tag}", text)
        else:
            assumed = ", ".join(convention.assumed)
            yield Check(f"meaning of {tag}", Verdict.NOTE, f"{text}; assumed: {assumed}. State them in run.json")
