"""The part common to all back ends: they validate an observation, build its prompt and reuse parts of answers."""

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
REMEMBERED = 3  # previous answers to draft from


class ReasoningMode(Enum):
    """The parts of the answer that the model generates. A drawn trace always implies STEERED."""

    FULL = "full"  # generates depth, trace and actions
    GROUNDED = "grounded"  # prefills the depth codes of the measured depth; generates trace and actions
    REUSE = "reuse"  # prefills depth and trace of an earlier step, for a few steps; generates actions
    STEERED = "steered"  # the operator's trace is drawn on the image; generates actions
    DIRECT = "direct"  # generates actions without reasoning about depth first (MolmoAct 2)


@dataclass
class EngineTimings:
    """Duration of each stage of one step, s, the decoder's forward passes and tokens, and the mode."""

    stages: dict[str, float] = field(default_factory=dict)
    counts: DecodeCounts = field(default_factory=DecodeCounts)
    mode: ReasoningMode = ReasoningMode.FULL

    @property
    def total(self) -> float:
        """Duration of the whole step, s."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class Prompt:
    """The model's input: ids int64 [S] of the whole sequence, and the images of its image tokens."""

    ids: np.ndarray
    pictures: ImageInputs


class BaseEngine:
    """A checkpoint without its weights: prompts, grammars, and a cache of previous answers.

    A back end derives from it and implements `reason`, `warm_up` and the other members of `Engine`.

    Args:
        config, processor, run: the checkpoint's configuration files.
        tokenizer: the checkpoint's tokenizer.
        depth_vq: its depth VQ-VAE; None without one, which excludes the mode GROUNDED.
        unnorm_key: key of the action statistics in config.json; None: the only one.

    Public state: `timings` of the last step, `tokens` of the last whole answer, and `lasts`, the previous answers under
    each grammar (steered or not), newest first. A step of a back end begins:

        self.check(observation)
        measured, given = self.given(observation, mode, guess=True)
        asked = self.ask(observation)  # ids int64 [S] and images
    """

    def __init__(
        self, config: MolmoActConfig, processor: ProcessorConfig, run: RunConfig, tokenizer: Tokenizer,
        depth_vq: DepthVq | None, unnorm_key: str | None,
    ) -> None:  # fmt: skip
        """Raises RefusedStep, listing the keys, when the normalisation key is unknown, or None is ambiguous."""
        self.config, self.run, self.tokenizer, self.depth_vq = config, run, tokenizer, depth_vq
        self.codec, self.processor = text_codec(tokenizer), ImageProcessor(processor)
        self.unnorm_key = choose_key(list(config.norm_stats), unnorm_key)
        self.convention = run.convention(self.unnorm_key)
        self.image_tokens = ImageTokens.after(config.llm_config.vocab_size)
        (self.end,) = self.codec.encode(END_OF_TEXT)
        self.grammars = {steered: self._grammar(steered) for steered in (False, True)}
        self.timings = EngineTimings()
        self.tokens: list[int] = []  # of the last whole answer
        self.seed: int | None = None  # no noise is in it
        self.flow_steps = self.state_dimensions = 0
        self.forget()

    def _grammar(self, steered: bool) -> AnswerGrammar:
        stats = self.config.norm_stats[self.unnorm_key].action
        return AnswerGrammar(self.codec, self.end, stats, forms(steered, self.run.chunk_steps, self.run.wordings))

    def forget(self) -> None:
        """Clear the cache of previous answers: draft from none and reuse none."""
        self._reused = 0
        self.lasts: dict[bool, deque[AnswerCache]] = {steered: deque(maxlen=REMEMBERED) for steered in (False, True)}

    def close(self) -> None:
        """Release resources outside this process; here there are none."""

    def blank(self) -> Observation:
        """An observation of the usual shape with black images."""
        width, height = self.run.frame_size or self.processor.base[::-1]
        picture = np.zeros((height, width, 3), np.uint8)
        return Observation((picture,) * (self.run.cameras or 2), "put", 0.0)

    @property
    def modes(self) -> frozenset[ReasoningMode]:
        """The modes that `reason` answers in."""
        return frozenset(ReasoningMode) - {ReasoningMode.DIRECT}

    def check(self, observation: Observation, mode: ReasoningMode = ReasoningMode.FULL) -> None:
        """Raise RefusedStep, in one line that says what to do, for what does not fit the model."""
        if mode not in self.modes:
            raise RefusedStep(f"MolmoAct 1 has no mode {mode.value}; choose full, grounded or reuse")
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
        if unknown is not None:  # only a small vocabulary has it; the released one encodes any text
            refuse_unknown_words(observation.instruction, self.codec.encode, unknown)

    def given(
        self, observation: Observation, mode: ReasoningMode, guess: bool
    ) -> tuple[AnswerCache | None, AnswerCache]:
        """Start a step in `mode`: return the codes of the measured depth and the prefilled part of the answer.

        The codes are None unless the mode is GROUNDED or `guess` is set, that is, they are wanted for drafting. Resets
        `timings`. Raises RefusedStep for GROUNDED without measured depth or depth decoder.
        """
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
        """Build the prompt of an observation, with the operator's trace drawn on its first image; timed."""
        began = time.perf_counter()
        pictures = self.processor(self.frames(observation))
        ids = sequence_ids(self.text(observation), pictures.grids, self.codec.encode, self.image_tokens, self.end)
        self.timings.stages["preprocess"] = time.perf_counter() - began
        return Prompt(ids, pictures)

    def frames(self, observation: Observation) -> list[np.ndarray]:
        """The model's input images, uint8 [H, W, 3] RGB, with the operator's trace drawn on the first."""
        images = [self.frame(image) for image in observation.images]
        if observation.trace is not None:
            images[0] = draw_training_overlay(images[0], observation.trace)
        return images

    def frame(self, image: np.ndarray) -> np.ndarray:
        """Scale a camera image, uint8 [H, W, 3] RGB, to the model's input frame size."""
        return scale_frame(image, self.run.frame_size)

    def text(self, observation: Observation) -> str:
        """The prompt text of an observation."""
        return prompt(observation.instruction, len(observation.images), observation.trace is not None)


Wanted = Callable[[], bool]
"""Callback before every forward pass: whether the step is still wanted. False cancels it."""


def choose_key(keys: Sequence[str], wanted: str | None) -> str:
    """The normalisation key: `wanted`, or the only one. Raises RefusedStep that lists the keys."""
    if wanted is None and len(keys) == 1:
        return keys[0]
    if wanted is None or wanted not in keys:
        known = ", ".join(keys) or "none: this checkpoint was not trained to act"
        raise RefusedStep(f"the un-normalisation key is {wanted!r}; choose one of: {known}")
    return wanted
