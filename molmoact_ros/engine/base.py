"""What every back end does the same way: an observation is checked and put as a prompt, and parts may be given."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import torch
from tokenizers import Tokenizer

from molmoact_ros.engine.decoding.constrained import NOTHING, DecodeCounts
from molmoact_ros.engine.decoding.speculative import AnswerCache, cache_of_depth
from molmoact_ros.engine.model.checkpoint import text_codec
from molmoact_ros.engine.model.config import MolmoActConfig, ProcessorConfig, RunConfig
from molmoact_ros.engine.model.depth_vq import DepthVq, relative_depth
from molmoact_ros.engine.model.image_processor import ImageInputs, ImageProcessor, scale_frame
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.answer_templates import forms
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.reasoning.tokens import END_OF_TEXT, ImageTokens, refuse_unknown_words, sequence_ids
from molmoact_ros.reasoning.trace import draw_training_overlay

UNKNOWN = "<unk>"
REMEMBERED = 3  # answers to guess by


class ReasoningMode(Enum):
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
    mode: ReasoningMode = ReasoningMode.FULL

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class Prompt:
    """What the model is given: ids int64 [S] of the whole sequence, and the pictures behind its image tokens."""

    ids: np.ndarray
    pictures: ImageInputs


class BaseEngine:
    """A checkpoint without its weights: its prompts, its grammars, and what earlier answers said."""

    def __init__(
        self, config: MolmoActConfig, processor: ProcessorConfig, run: RunConfig, tokenizer: Tokenizer,
        depth_vq: DepthVq | None, unnorm_key: str | None,
    ) -> None:  # fmt: skip
        """Raises RefusedStep, listing the keys, when the normalisation key is unknown or needed and not given."""
        self.config, self.run, self.tokenizer, self.depth_vq = config, run, tokenizer, depth_vq
        self.codec, self.processor = text_codec(tokenizer), ImageProcessor(processor)
        self.unnorm_key = choose_key(list(config.norm_stats), unnorm_key)
        self.image_tokens = ImageTokens.after(config.llm_config.vocab_size)
        (self.end,) = self.codec.encode(END_OF_TEXT)
        self.grammars = {steered: self._grammar(steered) for steered in (False, True)}
        self.timings = EngineTimings()
        self.tokens: list[int] = []  # of the last whole answer
        self.forget()

    def _grammar(self, steered: bool) -> AnswerGrammar:
        stats = self.config.norm_stats[self.unnorm_key].action
        return AnswerGrammar(self.codec, self.end, stats, forms(steered, self.run.chunk_steps, self.run.wordings))

    def forget(self) -> None:
        """Guess nothing from earlier answers, and reuse none."""
        self._reused = 0
        self.lasts: dict[bool, deque[AnswerCache]] = {steered: deque(maxlen=REMEMBERED) for steered in (False, True)}

    def close(self) -> None:
        """Let go of what it holds outside this process: nothing."""

    def blank(self) -> Observation:
        """An observation of the usual shape with nothing on it."""
        width, height = self.run.frame_size or self.processor.base[::-1]
        picture = np.zeros((height, width, 3), np.uint8)
        return Observation((picture,) * (self.run.cameras or 2), "put", 0.0)

    def check(self, observation: Observation) -> None:
        """Raise RefusedStep, in one line that says what to do, for an observation that does not fit."""
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

    def given(
        self, observation: Observation, mode: ReasoningMode, guess: bool
    ) -> tuple[AnswerCache | None, AnswerCache]:
        """The codes of the measured depth, where they are wanted (in GROUNDED, or to `guess` by), and what of the
        answer is given. Notes the step's mode."""
        steered = observation.trace is not None
        self.timings = EngineTimings(mode=ReasoningMode.STEERED if steered else mode)
        measured, given = self._measured(observation, mode, guess), NOTHING
        if mode is ReasoningMode.GROUNDED and measured is not None:
            given = measured
        elif mode is ReasoningMode.REUSE and not steered and self.lasts[False] and self._reused < self.run.reuse_steps:
            return measured, self._reuse()
        self._reused = 0
        return measured, given

    def _reuse(self) -> AnswerCache:
        self._reused += 1
        return self.lasts[False][0].reasoning(self.grammars[False])

    def _measured(self, observation: Observation, mode: ReasoningMode, guess: bool) -> AnswerCache | None:
        if observation.trace is not None or not (mode is ReasoningMode.GROUNDED or guess):
            return None
        if observation.depth is None or self.depth_vq is None:
            if mode is not ReasoningMode.GROUNDED:
                return None
            lacking = "front camera with depth" if observation.depth is None else "depth decoder in the checkpoint"
            raise RefusedStep(f"the mode grounded needs a {lacking}; choose the mode full, or add it")
        picture = torch.from_numpy(relative_depth(observation.depth))[None, None]
        return cache_of_depth(self.depth_vq.encode(picture)[0].numpy())

    def ask(self, observation: Observation) -> Prompt:
        """The prompt of an observation, a person's trace drawn on its first picture; timed."""
        began = time.perf_counter()
        pictures = self.processor(self.frames(observation))
        ids = sequence_ids(self.text(observation), pictures.grids, self.codec.encode, self.image_tokens, self.end)
        self.timings.stages["preprocess"] = time.perf_counter() - began
        return Prompt(ids, pictures)

    def frames(self, observation: Observation) -> list[np.ndarray]:
        """The pictures that the model is shown, uint8 [H, W, 3], a person's trace drawn on the first."""
        images = [self.frame(image) for image in observation.images]
        if observation.trace is not None:
            images[0] = draw_training_overlay(images[0], observation.trace)
        return images

    def frame(self, image: np.ndarray) -> np.ndarray:
        """A camera's picture, uint8 [H, W, 3], at the size at which the model is shown it."""
        return scale_frame(image, self.run.frame_size)

    def text(self, observation: Observation) -> str:
        """The words of an observation's prompt."""
        return prompt(observation.instruction, len(observation.images), observation.trace is not None)


Wanted = Callable[[], bool]
"""Asked before every pass whether the step is still wanted."""


def choose_key(keys: Sequence[str], wanted: str | None) -> str:
    """The normalisation key: `wanted`, or the only one there is. Raises RefusedStep, listing the keys."""
    if wanted is None and len(keys) == 1:
        return keys[0]
    if wanted is None or wanted not in keys:
        known = ", ".join(keys) or "none: this checkpoint was not trained to act"
        raise RefusedStep(f"the un-normalisation key is {wanted!r}; choose one of: {known}")
    return wanted
