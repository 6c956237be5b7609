"""Checks a checkpoint folder without loading its weights.

Some checks compare the folder with expectations, which were collected about the released checkpoints before one could
be opened here. A deviation from an expectation is a note, not a failure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from molmoact_ros.doctor.folder_checks import failed_tensors, ok, parameters, read_files
from molmoact_ros.doctor.robot_checkpoint import inspect_robot
from molmoact_ros.engine.model.checkpoint import (
    CONFIG,
    DEPTH,
    RELEASED_DEPTH,
    CheckpointFolder,
    text_codec,
)
from molmoact_ros.engine.model.config import MolmoActConfig, ProcessorConfig, RunConfig
from molmoact_ros.engine.model.folder_kind import family, other_kind
from molmoact_ros.engine.model.image_processor import ImageProcessor
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import Weights, read_headers
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, NormStats
from molmoact_ros.reasoning.answer_templates import forms
from molmoact_ros.reasoning.depth_tokens import DEPTH_END, DEPTH_START, DEPTH_TOKENS
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.tokens import END_OF_TEXT, IMAGE_TOKENS, ImageTokens
from molmoact_ros.utils.checks import Check, Verdict

QWEN_WORDS, QWEN_VOCABULARY = 151_643, 152_064  # byte-pair tokens and padded size of the Qwen2.5-7B vocabulary
QWEN_DEPTH_START, QWEN_IMAGE_1 = 151_665, [1906, 220, 16]
OLMO_VOCABULARY = 100_864  # expected for 7B-O: 100 278 tokens, padded to the next multiple of 512
REPORTED_STANDSTILL = (-8.64e-06, -6.35e-05, -1.43e-04, -3.95e-04, 1.29e-04, 8.05e-05)
"""The action that several users got from 7B-D-0812's own example (allenai/molmoact, issues 29, 37, 40)."""
KNOWN_STATS = {
    "fractal20220817_data": (
        (-0.224535, -0.148200, -0.231590, -0.351799, -0.419301, -0.436435),
        (0.178247, 0.149384, 0.218424, 0.589267, 0.352727, 0.447967),
    ),
    "libero_spatial_no_noops_modified": (
        (-0.745473, -0.661607, -0.9375, -0.107143, -0.206786, -0.184286),
        (0.9375, 0.875893, 0.932143, 0.103929, 0.176786, 0.145714),
    ),
}
"""Published 1 % and 99 % quantiles: allenai/SimplerEnv's dataset_statistics.json, and a third party's."""


@dataclass(frozen=True)
class _Folder:
    """The parsed files of a folder."""

    path: Path
    config: MolmoActConfig
    processor: ProcessorConfig
    tokenizer: Tokenizer
    weights: Weights
    run: RunConfig


def inspect(folder: Path) -> list[Check]:
    """Run all checks; a check that raises becomes a failed check, never an exception."""
    if not (folder / CONFIG).is_file() and (reason := other_kind(folder)):
        return [Check.check("folder", False, reason)]
    if family(folder) == "molmoact2":
        return inspect_robot(folder)
    files = CheckpointFolder(folder)
    looks: dict[str, Callable[[], Any]] = {
        "config": lambda: files.config,
        "processor": lambda: files.processor,
        "tokenizer": lambda: files.tokenizer,
        "weights": lambda: read_headers(folder),
        "run": lambda: files.run,
    }
    read, failed = read_files(looks)
    if failed:
        return failed
    whole = _Folder(path=folder, **read)
    parts = (_architecture, _tensors, _memory, _images, _tokens, _answers, _norm_keys, _depth, _chat, _open_questions)
    return [finding for part in parts for finding in part(whole)]


def _expect(name: str, text: str, found: object, expected: object) -> Check:
    """A note if a folder deviates from an expectation, else OK."""
    if found == expected:
        return ok(name, f"{text}, as expected")
    return Check(name, Verdict.NOTE, f"{text}; {expected} was expected")


def _is_qwen(folder: _Folder) -> bool:
    return folder.config.llm_config.vocab_size == QWEN_VOCABULARY


def _architecture(folder: _Folder) -> Iterator[Check]:
    vit, llm = folder.config.vit_config, folder.config.llm_config
    tower = "CLIP-like" if vit.use_cls_token else "SigLIP-like"
    decoder = "OLMo2-like" if llm.norm_after else "Qwen2-like"
    yield ok(
        "architecture",
        f"{tower} tower of {vit.num_hidden_layers} layers, width {vit.hidden_size}; {decoder} decoder of "
        f"{llm.num_hidden_layers} layers, width {llm.hidden_size}, {llm.vocab_size} tokens",
    )
    if llm.norm_after and llm.num_hidden_layers == 32:
        yield _expect("7B-O vocabulary", f"padded to {llm.vocab_size}", llm.vocab_size, OLMO_VOCABULARY)


def _tensors(folder: _Folder) -> Iterator[Check]:
    with torch.device("meta"):
        model = MolmoAct(folder.config)
    failed, count = failed_tensors(model, folder.weights), parameters(folder.weights)
    yield from failed
    if not failed:
        yield ok(
            "tensors", f"{len(folder.weights.shapes)} tensors, {count / 1e6:,.1f} million parameters, all accounted for"
        )
    kinds = Counter(folder.weights.dtypes.values())
    most = kinds.most_common(1)[0][0]
    yield _expect("dtype", f"{', '.join(kinds)} in {len(folder.weights.files)} file(s)", most, "F32")


def _memory(folder: _Folder) -> Iterator[Check]:
    count, llm = parameters(folder.weights), folder.config.llm_config
    cache = 2 * llm.num_hidden_layers * llm.num_key_value_heads * llm.head_dim * llm.max_position_embeddings
    largest = max(path.stat().st_size for path in folder.weights.files)
    needs = [f"{dtype} {(count + cache) * size / 1e9:.2f} GB" for dtype, size in (("float32", 4), ("bfloat16", 2))]
    yield ok("memory", f"weights and cache of {llm.max_position_embeddings} tokens: {', '.join(needs)}")
    yield ok("memory while loading", f"that, and at most {largest / 1e9:.2f} GB beside it, the largest file")


def _images(folder: _Folder) -> Iterator[Check]:
    processor, vit = folder.processor, folder.config.vit_config
    try:
        ImageProcessor(processor)
    except ValueError as error:
        yield Check.check("images", False, f"the image processor: {error}")
        return
    size, patch = processor.base_image_input_size, processor.image_patch_size
    wanted = (vit.image_default_input_size, vit.image_patch_size)
    text = f"crops of {size} in patches of {patch}, {processor.normalize_mode}"
    yield Check.check("images", (size, patch) == wanted, f"{text}; config.json: {wanted[0]}, {wanted[1]}")
    if processor.crop_mode != "resize":
        most = processor.max_multi_image_crops
        yield _expect("tiles of several images", f"at most {most} each", most, 8)


def _tokens(folder: _Folder) -> Iterator[Check]:
    tokenizer, vocabulary = folder.tokenizer, folder.config.llm_config.vocab_size
    known = tokenizer.get_vocab(with_added_tokens=True)
    for name in (END_OF_TEXT, DEPTH_START, DEPTH_END, *DEPTH_TOKENS):
        if not 0 <= known.get(name, -1) < vocabulary:
            yield Check.check(
                "tokens", False, f"the tokenizer has no {name} among the {vocabulary} that the model can say"
            )
            return
    images = ImageTokens.after(vocabulary)
    wanted = {name: vocabulary + i for i, name in enumerate(IMAGE_TOKENS)}
    wrong = next((name for name, number in wanted.items() if known.get(name) != number), None)
    if wrong is not None or folder.config.image_patch_id != images.patch:
        found = f"{wrong} is {known.get(wrong)}" if wrong else f"image_patch_id is {folder.config.image_patch_id}"
        yield Check.check("image tokens", False, f"{found}; the model expects them from {vocabulary} on, in order")
    else:
        yield ok("image tokens", f"from {vocabulary} on, image_patch_id {images.patch}")
    depth = [known[token] for token in (DEPTH_START, DEPTH_END, *DEPTH_TOKENS)]
    in_order = depth == list(range(depth[0], depth[0] + len(depth)))
    yield ok("depth tokens", f"from {depth[0]} on{'' if in_order else ', not in order; they are found by name'}")
    if _is_qwen(folder):
        yield _expect("depth tokens of Qwen2.5", f"<DEPTH_START> is {depth[0]}", depth[0], QWEN_DEPTH_START)
        words = tokenizer.get_vocab_size(with_added_tokens=False)
        yield _expect("tokenizer's base", f"{words} byte-pair tokens", words, QWEN_WORDS)
        ids = tokenizer.encode("Image 1", add_special_tokens=False).ids
        yield _expect("tokenizer's spelling", f"'Image 1' is {ids}", ids, QWEN_IMAGE_1)


def _answers(folder: _Folder) -> Iterator[Check]:
    """Whether the tokenizer can spell the answer forms that run.json allows."""
    codec, run = text_codec(folder.tokenizer), folder.run
    end = folder.tokenizer.token_to_id(END_OF_TEXT)
    stats = [dataset.action for dataset in folder.config.norm_stats.values()]
    if not stats or end is None:
        return
    try:
        for steered in (False, True):
            AnswerGrammar(codec, end, stats[0], forms(steered, run.chunk_steps, run.wordings))
    except ValueError as error:
        yield Check.check("answers", False, str(error))
        return
    lengths = [len(codec.encode(symbol)) for symbol in ACTION_SYMBOLS]
    steps = " or ".join(map(str, run.chunk_steps))
    yield ok("answers", f"{steps} actions; an action symbol is {min(lengths)} to {max(lengths)} tokens")


def _norm_keys(folder: _Folder) -> Iterator[Check]:
    stats = {key: dataset.action for key, dataset in folder.config.norm_stats.items()}
    if not stats:
        yield Check.check("normalisation keys", False, "none: this checkpoint was not trained to act, or is cut short")
    for key, action in stats.items():
        still = sum(low == high for low, high in zip(action.q01, action.q99, strict=True))
        text = f"{action.dimensions} dimensions{f', {still} of them constant' if still else ''}"
        yield ok(f"normalisation key {key}", text)
        if key in KNOWN_STATS:
            yield _published(key, action)
        yield _gripper(key, action)
        yield _meaning(key, folder.run.convention(key))
        if key == "molmoact":
            yield _standstill(action)


def _published(key: str, action: NormStats) -> Check:
    low, high = KNOWN_STATS[key]
    same = np.allclose([action.q01[:6], action.q99[:6]], [low, high], atol=1e-5)
    return _expect(f"published statistics of {key}", "the same" if same else "different", bool(same), True)


def _gripper(key: str, action: NormStats) -> Check:
    span = (action.q01[-1], action.q99[-1])
    text = f"{span[0]:g} to {span[1]:g} in the data; written as it is, 1 open, 0 closed"
    return _expect(f"gripper of {key}", text, span, (0.0, 1.0))


def _meaning(key: str, convention: ActionConvention) -> Check:
    """What the numbers of a key mean, and which of that nobody has stated."""
    name, text = f"meaning of {key}", str(convention)
    if convention.stated:
        return ok(name, text)
    assumed = ", ".join(convention.assumed)
    return Check(name, Verdict.NOTE, f"{text}; assumed: {assumed}. Check them, and state them in run.json")


def _standstill(action: NormStats) -> Check:
    """Whether the reported near-zero action is the decoded middle bin of every dimension."""
    middle = (np.array(action.q01[:6]) + np.array(action.q99[:6])) / 2
    same = bool(np.allclose(middle, REPORTED_STANDSTILL, rtol=0.02))
    text = f"no motion is written as {', '.join(f'{value:.2e}' for value in middle)}"
    return _expect("near-zero actions of 7B-D-0812", text, same, True)


def _depth(folder: _Folder) -> Iterator[Check]:
    if (folder.path / DEPTH).is_file():
        yield ok("depth decoder", DEPTH)
    elif (folder.path / RELEASED_DEPTH).is_file():
        yield ok("depth decoder", f"{RELEASED_DEPTH}; its tensors are kept as {DEPTH} when it is first used")
    else:
        text = f"none: depth codes come without images; copy {RELEASED_DEPTH} here from MolmoAct-7B-D-0812"
        yield Check("depth decoder", Verdict.NOTE, text)


def _chat(folder: _Folder) -> Iterator[Check]:
    """Whether the folder's chat template names the roles; prompts here use "User: ... Assistant:"."""
    texts = []
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "processor_config.json"):
        if (folder.path / name).is_file():
            text = (folder.path / name).read_text(errors="replace")
            texts.append(text if name.endswith("jinja") else str(json.loads(text).get("chat_template") or ""))
    template = next(filter(None, texts), "")
    if template:
        roles = "Assistant:" in template
        yield _expect("chat template", "names the roles" if roles else "does not name the roles", roles, True)
    else:
        yield Check("chat template", Verdict.NOTE, 'none in the folder; "User: ... Assistant:" is asked')


def _open_questions(folder: _Folder) -> Iterator[Check]:
    """Facts that no file of a checkpoint determines."""
    if _is_qwen(folder):
        yield Check(
            "not in any file",
            Verdict.NOTE,
            "the exact wording of answers (every known one is allowed, the model chooses), and the hardware behind the "
            "published 6.7 s a step",
        )
