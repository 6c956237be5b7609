"""The engine: an observation goes in, reasoning comes out part by part."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.checkpoint import (
    CONFIG,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    read_config,
    read_run_config,
)
from molmoact_ros.engine.config import MolmoActConfig
from molmoact_ros.engine.decode import NOTHING, DecodeCounts, decode
from molmoact_ros.engine.depth_vq import relative_depth
from molmoact_ros.engine.draft import NARROW, WIDE, Memory, depth_memory
from molmoact_ros.engine.gather import GatheredPasses
from molmoact_ros.engine.native import NativePasses, can_run
from molmoact_ros.engine.onnx_vision import open_vision
from molmoact_ros.engine.passes import CachedDecoder, TorchPasses
from molmoact_ros.engine.preprocess import ImageInputs, ImageProcessor, scale_frame
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep, Segment
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.reasoning.phrasing import forms
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.reasoning.tokens import END_OF_TEXT, ImageTokens, refuse_unknown_words, sequence_ids
from molmoact_ros.reasoning.trace import draw_training_overlay

UNKNOWN = "<unk>"
REMEMBERED = 3  # answers to guess by
VISIONS = ("torch", "onnx")
"""What runs the vision tower."""
STAGES = ("preprocess", "vision", "prefill", "depth", "trace", "actions")


class Mode(Enum):
    """How much of its reasoning the model is asked for. A drawn trace always means STEERED."""

    FULL = "full"  # depth, trace, actions
    GROUNDED = "grounded"  # the depth codes are those of the measured depth; trace and actions
    REUSE = "reuse"  # depth and trace of an earlier step, for a few steps; actions
    STEERED = "steered"  # a person's trace is drawn on the picture; actions


@dataclass
class EngineTimings:
    """Seconds of each stage of one step, the decoder's passes and tokens, and the mode."""

    stages: dict[str, float] = field(default_factory=dict)
    counts: DecodeCounts = field(default_factory=DecodeCounts)
    mode: Mode = Mode.FULL

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(self.stages.values())


class Engine(Protocol):
    """What every back end does."""

    timings: EngineTimings
    digest: str
    tokens: list[int]  # of the last whole answer

    def reason(
        self, observation: Observation, mode: Mode = Mode.FULL, wanted: Callable[[], bool] = lambda: True
    ) -> Iterator[Reasoning]:
        """Yield the reasoning as its parts complete; the last one is complete.

        wanted: asked before every pass. Raises RefusedStep, and CancelledStep once the step is not wanted any more.
        """
        ...

    def warm_up(self) -> None:
        """Run one step on a blank observation, so that the first real one is not slow."""
        ...


@dataclass(frozen=True)
class Prompt:
    """What the model is given: ids int64 [S] of the whole sequence, and the pictures behind its image tokens."""

    ids: np.ndarray
    pictures: ImageInputs


class TorchEngine:
    """Runs a checkpoint in torch, on CPU or GPU."""

    def __init__(self, checkpoint: Checkpoint, unnorm_key: str | None = None) -> None:
        """Raises RefusedStep, listing the keys, when the normalisation key is unknown or needed and not given."""
        self.config, self.run, self.model = checkpoint.config, checkpoint.run, checkpoint.model
        self.digest, self.depth_vq, self.codebook = checkpoint.digest, checkpoint.depth_vq, checkpoint.codebook
        self.device, self.dtype = self.model.lm_head.weight.device, self.model.lm_head.weight.dtype
        self.tokenizer, self.codec = checkpoint.tokenizer, checkpoint.codec
        self.processor = ImageProcessor(checkpoint.processor)
        self.vision: Callable[[ImageInputs], Tensor] = self.torch_features
        self.unnorm_key = choose_key(list(self.config.norm_stats), unnorm_key)
        passes = NativePasses if can_run(self.model) else TorchPasses
        self.decoder = CachedDecoder(passes(self.model, self.config.llm_config.max_position_embeddings))
        self.image_tokens = ImageTokens.after(self.config.llm_config.vocab_size)
        (self.end,) = self.codec.encode(END_OF_TEXT)
        self.grammars = {steered: self._grammar(steered) for steered in (False, True)}
        self.draft = WIDE if self.device.type == "cuda" else NARROW
        self.forget()
        self.tokens: list[int] = []  # of the last whole answer
        self.timings = EngineTimings()

    @staticmethod
    def load(
        folder: Path, device: str = "cpu", threads: int | None = None, dtype: torch.dtype | None = None,
        unnorm_key: str | None = None, frame_size: str = "", vision: str = "torch", precision: str = "",
    ) -> TorchEngine:  # fmt: skip
        """Load a checkpoint folder; threads: CPU threads of torch; frame_size: see `RunConfig.with_frame_size`;
        vision: torch, or onnx for the exported tower, in `precision` (see `open_vision`).

        Raises CheckpointError, RefusedStep for the normalisation key, ValueError for the frame size.
        """
        if vision not in VISIONS:
            raise CheckpointError(f"pictures cannot be read by {vision!r}; choose one of: {', '.join(VISIONS)}")
        if threads:
            torch.set_num_threads(threads)
        # What needs no weights is refused before they are read.
        run = read_run_config(folder).with_frame_size(frame_size)
        choose_key(list(read_config(folder, CONFIG, MolmoActConfig).norm_stats), unnorm_key)
        engine = TorchEngine(replace(load_checkpoint(folder, device, dtype), run=run), unnorm_key)
        if vision == "onnx":
            engine.vision = open_vision(
                folder, engine.torch_features, engine.model.lm_head.weight, precision, frame_size
            )
        return engine

    def together(self, count: int) -> list[TorchEngine]:
        """`count` engines over these weights, one for each robot and thread, whose passes are made together."""
        gathered, engines = GatheredPasses(self.decoder.passes), [copy(self) for _ in range(count)]
        for engine in engines:
            engine.decoder = CachedDecoder(gathered)
            engine.forget()
        return engines

    def _grammar(self, steered: bool) -> AnswerGrammar:
        stats = self.config.norm_stats[self.unnorm_key].action
        return AnswerGrammar(self.codec, self.end, stats, forms(steered, self.run.chunk_steps, self.run.wordings))

    def forget(self) -> None:
        """Guess nothing from earlier answers, and reuse none."""
        self._reused = 0
        self.lasts: dict[bool, deque[Memory]] = {steered: deque(maxlen=REMEMBERED) for steered in (False, True)}

    def warm_up(self) -> None:
        """Run one step on blank images."""
        width, height = self.run.frame_size or self.processor.base[::-1]
        blank = np.zeros((height, width, 3), np.uint8)
        for _ in self._steps(Observation((blank,) * (self.run.cameras or 2), "put", 0.0)):
            pass
        self.forget()

    def reason(
        self, observation: Observation, mode: Mode = Mode.FULL, wanted: Callable[[], bool] = lambda: True
    ) -> Iterator[Reasoning]:
        """Yield the reasoning as depth codes, trace and actions complete; `mode` says which of them the model decodes.

        wanted: asked before every pass. Raises CancelledStep once it says no, and RefusedStep, in one line that says
        what to do, for an observation that does not fit and for a result that is not finite.
        """
        self._check(observation)
        yield from self._steps(observation, mode, wanted)

    def _check(self, observation: Observation) -> None:
        count, wanted = len(observation.images), self.run.cameras
        if not count or (wanted is not None and count != wanted):
            raise RefusedStep(
                f"this model needs {wanted or 'some'} camera images, front first, not {count}; "
                "check the cameras and their topics"
            )
        for image in observation.images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise RefusedStep(f"images must be RGB uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}")
        unknown = self.tokenizer.token_to_id(UNKNOWN)
        if unknown is not None:  # a small vocabulary; the released one can spell anything
            refuse_unknown_words(observation.instruction, self.codec.encode, unknown)

    @torch.inference_mode()
    def _steps(
        self, observation: Observation, mode: Mode = Mode.FULL, wanted: Callable[[], bool] = lambda: True
    ) -> Iterator[Reasoning]:
        steered = observation.trace is not None
        self.timings = EngineTimings(mode=Mode.STEERED if steered else mode)
        measured, given = self._measured(observation, mode), NOTHING
        if mode is Mode.GROUNDED and measured is not None:
            given = measured
        elif mode is Mode.REUSE and not steered and self.lasts[False] and self._reused < self.run.reuse_steps:
            given, self._reused = self.lasts[False][0].reasoning(self.grammars[False]), self._reused + 1
        else:
            self._reused = 0
        asked = self.ask(observation)
        features = self.see(asked.pictures)
        began = time.perf_counter()
        embeddings = self.embed(asked, features)
        with self.decoder.passes.answering():
            self.decoder.rewind(0)
            self.decoder.append(embeddings)
            self.timings.stages["prefill"] = time.perf_counter() - began
            yield from self._say(steered, measured, given, wanted)

    def ask(self, observation: Observation) -> Prompt:
        """The prompt of an observation, a person's trace drawn on its first picture; timed."""
        began = time.perf_counter()
        images = [self.frame(image) for image in observation.images]
        steered = observation.trace is not None
        if observation.trace is not None:
            images[0] = draw_training_overlay(images[0], observation.trace)
        pictures = self.processor(images)
        text = prompt(observation.instruction, len(images), steered)
        ids = sequence_ids(text, pictures.grids, self.codec.encode, self.image_tokens, self.end)
        self.timings.stages["preprocess"] = time.perf_counter() - began
        return Prompt(ids, pictures)

    def frame(self, image: np.ndarray) -> np.ndarray:
        """A camera's picture, uint8 [H, W, 3], at the size at which the model is shown it."""
        return scale_frame(image, self.run.frame_size)

    def see(self, pictures: ImageInputs) -> Tensor:
        """Features [1, T, hidden] of pictures; timed."""
        began = time.perf_counter()
        features = self.vision(pictures)
        self.timings.stages["vision"] = time.perf_counter() - began
        return features

    @torch.inference_mode()
    def torch_features(self, pictures: ImageInputs) -> Tensor:
        """Features [1, T, hidden] of pictures, by torch."""
        crops = torch.from_numpy(pictures.crops).to(self.device, self.dtype).unsqueeze(0)
        return self.model.image_features(crops, torch.from_numpy(pictures.indices).to(self.device).unsqueeze(0))

    def embed(self, asked: Prompt, features: Tensor) -> Tensor:
        """Embeddings [S, hidden] of a prompt whose pictures have `features` [1, T, hidden]."""
        return self.model.embed(torch.from_numpy(asked.ids).to(self.device).unsqueeze(0), features)[0]

    def _measured(self, observation: Observation, mode: Mode) -> Memory | None:
        """The codes of the measured depth, where they are wanted: as what is said, or to guess by."""
        if observation.trace is not None or not (mode is Mode.GROUNDED or self.draft.measured):
            return None
        if observation.depth is None or self.depth_vq is None:
            if mode is not Mode.GROUNDED:
                return None
            lacking = "front camera with depth" if observation.depth is None else "depth decoder in the checkpoint"
            raise RefusedStep(f"the mode grounded needs a {lacking}; choose the mode full, or add it")
        picture = torch.from_numpy(relative_depth(observation.depth))[None, None]
        return depth_memory(self.depth_vq.encode(picture)[0].numpy())

    def _say(
        self, steered: bool, measured: Memory | None, given: Memory, wanted: Callable[[], bool]
    ) -> Iterator[Reasoning]:
        grammar, lasts, counts = self.grammars[steered], self.lasts[steered], self.timings.counts
        guides = [*lasts, *([] if measured is None else [measured])]
        for segment, tokens, said in decode(self.decoder, grammar, guides, counts, self.draft, given, wanted):
            if segment is not Segment.END:
                yield grammar.parse_partial(tokens)
                continue
            lasts.appendleft(said)
            self.tokens = tokens
        for name, part in (("depth", Segment.DEPTH), ("trace", Segment.TRACE), ("actions", Segment.ACTION)):
            self.timings.stages[name] = counts.segments[part].seconds
        yield grammar.parse(self.tokens)


def choose_key(keys: Sequence[str], wanted: str | None) -> str:
    """The normalisation key: `wanted`, or the only one there is. Raises RefusedStep, listing the keys."""
    if wanted is None and len(keys) == 1:
        return keys[0]
    if wanted is None or wanted not in keys:
        known = ", ".join(keys) or "none: this checkpoint was not trained to act"
        raise RefusedStep(f"the un-normalisation key is {wanted!r}; choose one of: {known}")
    return wanted
