"""The engine: an observation goes in, reasoning comes out part by part."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.checkpoint import CONFIG, Checkpoint, load_checkpoint, read_config, read_run_config
from molmoact_ros.engine.config import MolmoActConfig
from molmoact_ros.engine.decode import CachedDecoder, DecodeCounts, decode, draft_from
from molmoact_ros.engine.preprocess import ImageInputs, ImageProcessor, scale_frame
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep, Segment
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.reasoning.phrasing import forms
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.reasoning.tokens import END_OF_TEXT, ImageTokens, refuse_unknown_words, sequence_ids
from molmoact_ros.reasoning.trace import draw_training_overlay

UNKNOWN = "<unk>"
STAGES = ("preprocess", "vision", "prefill", "depth", "trace", "actions")


@dataclass
class EngineTimings:
    """Seconds of each stage of one step, and the decoder's passes, tokens, drafted and accepted tokens."""

    stages: dict[str, float] = field(default_factory=dict)
    counts: DecodeCounts = field(default_factory=DecodeCounts)

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(self.stages.values())


class Engine(Protocol):
    """What every back end does."""

    timings: EngineTimings
    digest: str

    def reason(self, observation: Observation) -> Iterator[Reasoning]:
        """Yield the reasoning as its parts complete; the last one is complete. Raises RefusedStep."""
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
        self.unnorm_key = choose_key(list(self.config.norm_stats), unnorm_key)
        self.decoder = CachedDecoder(self.model, self.config.llm_config.max_position_embeddings)
        self.image_tokens = ImageTokens.after(self.config.llm_config.vocab_size)
        (self.end,) = self.codec.encode(END_OF_TEXT)
        self.grammars = {steered: self._grammar(steered) for steered in (False, True)}
        # The last answer and the one before it, by `steered`.
        self.answers: dict[bool, tuple[list[int], list[int]]] = {False: ([], []), True: ([], [])}
        self.timings = EngineTimings()

    @staticmethod
    def load(
        folder: Path, device: str = "cpu", threads: int | None = None, dtype: torch.dtype | None = None,
        unnorm_key: str | None = None, frame_size: str = "",
    ) -> TorchEngine:  # fmt: skip
        """Load a checkpoint folder; threads: CPU threads of torch; frame_size: see `RunConfig.with_frame_size`.

        Raises CheckpointError, RefusedStep for the normalisation key, ValueError for the frame size.
        """
        if threads:
            torch.set_num_threads(threads)
        # What needs no weights is refused before they are read.
        run = read_run_config(folder).with_frame_size(frame_size)
        choose_key(list(read_config(folder, CONFIG, MolmoActConfig).norm_stats), unnorm_key)
        return TorchEngine(replace(load_checkpoint(folder, device, dtype), run=run), unnorm_key)

    def _grammar(self, steered: bool) -> AnswerGrammar:
        stats = self.config.norm_stats[self.unnorm_key].action
        return AnswerGrammar(self.codec, self.end, stats, forms(steered, self.run.chunk_steps, self.run.wordings))

    def warm_up(self) -> None:
        """Run one step on blank images."""
        width, height = self.run.frame_size or self.processor.base[::-1]
        blank = np.zeros((height, width, 3), np.uint8)
        for _ in self._steps(Observation((blank,) * (self.run.cameras or 2), "put", 0.0)):
            pass
        self.answers[False] = ([], [])

    @torch.inference_mode()
    def reason(self, observation: Observation) -> Iterator[Reasoning]:
        """Yield the reasoning as depth codes, trace and actions complete.

        Raises RefusedStep, in one line that says what to do, for images or an instruction that do not fit and for
        a result that is not finite.
        """
        self._check(observation)
        yield from self._steps(observation)

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
    def _steps(self, observation: Observation) -> Iterator[Reasoning]:
        steered = observation.trace is not None
        self.timings = EngineTimings()
        asked = self.ask(observation)
        features = self.see(asked.pictures)
        began = time.perf_counter()
        embeddings = self.embed(asked, features)
        self.decoder.rewind(0)
        self.decoder.feed(embeddings)
        self.timings.stages["prefill"] = time.perf_counter() - began
        yield from self._say(self.grammars[steered], steered)

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
        crops = torch.from_numpy(pictures.crops).to(self.device, self.dtype).unsqueeze(0)
        features = self.model.image_features(crops, torch.from_numpy(pictures.indices).to(self.device).unsqueeze(0))
        self.timings.stages["vision"] = time.perf_counter() - began
        return features

    def embed(self, asked: Prompt, features: Tensor) -> Tensor:
        """Embeddings [S, hidden] of a prompt whose pictures have `features` [1, T, hidden]."""
        return self.model.embed(torch.from_numpy(asked.ids).to(self.device).unsqueeze(0), features)[0]

    def _say(self, grammar: AnswerGrammar, steered: bool) -> Iterator[Reasoning]:
        counts, (last, before) = self.timings.counts, self.answers[steered]
        tokens: list[int] = []
        for segment, tokens in decode(self.decoder, grammar, draft_from(grammar, last, before), counts):
            if segment is not Segment.END:
                yield grammar.parse_partial(tokens)
        for name, part in (("depth", Segment.DEPTH), ("trace", Segment.TRACE), ("actions", Segment.ACTION)):
            self.timings.stages[name] = counts.seconds.get(part, 0.0)
        self.answers[steered] = (list(tokens), last)
        yield grammar.parse(tokens)


def choose_key(keys: Sequence[str], wanted: str | None) -> str:
    """The normalisation key: `wanted`, or the only one there is. Raises RefusedStep, listing the keys."""
    if wanted is None and len(keys) == 1:
        return keys[0]
    if wanted is None or wanted not in keys:
        known = ", ".join(keys) or "none: this checkpoint was not trained to act"
        raise RefusedStep(f"the un-normalisation key is {wanted!r}; choose one of: {known}")
    return wanted
