"""The engine: an observation goes in, reasoning comes out part by part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.checkpoint import Checkpoint, load_checkpoint
from molmoact_ros.engine.decode import CachedDecoder, DecodeCounts, decode, draft_from
from molmoact_ros.engine.preprocess import pooled_grid, resize, view_inputs
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep, Segment
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.observation import Observation
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


class TorchEngine:
    """Runs a checkpoint in torch, on CPU or GPU."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", unnorm_key: str | None = None) -> None:
        """Raises RefusedStep, listing the keys, when the normalisation key is unknown or needed and not given."""
        self.config, self.device = checkpoint.config, device
        self.digest, self.depth_vq = checkpoint.digest, checkpoint.depth_vq
        self.model = checkpoint.model.to(device)
        self.tokenizer = checkpoint.tokenizer
        keys = list(self.config.norm_stats)
        if (unnorm_key is None and len(keys) != 1) or (unnorm_key is not None and unnorm_key not in keys):
            raise RefusedStep(f"choose the un-normalisation key from {', '.join(keys) or 'none in this checkpoint'}")
        self.unnorm_key = unnorm_key or keys[0]
        self.decoder = CachedDecoder(self.model, self.config.llm_config.max_position_embeddings)
        self.image_tokens = ImageTokens.after(self.config.llm_config.vocab_size)
        (self.end,) = self.encode(END_OF_TEXT)
        self.grammars = {steered: self._grammar(steered) for steered in (False, True)}
        # The last answer and the one before it, by `steered`.
        self.answers: dict[bool, tuple[list[int], list[int]]] = {False: ([], []), True: ([], [])}
        self.timings = EngineTimings()

    @staticmethod
    def load(folder: Path, device: str = "cpu", threads: int | None = None) -> TorchEngine:
        """Load a checkpoint folder; `threads`: CPU threads of torch. Raises CheckpointError."""
        if threads:
            torch.set_num_threads(threads)
        return TorchEngine(load_checkpoint(folder), device)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _grammar(self, steered: bool) -> AnswerGrammar:
        stats = self.config.norm_stats[self.unnorm_key]["action"]
        cameras, steps = self.config.cameras, self.config.chunk_steps
        return AnswerGrammar(self.encode, self.end, stats, cameras=cameras, steered=steered, steps=steps)

    def warm_up(self) -> None:
        """Run one step on blank images."""
        rows, columns = self.config.vit_config.image_default_input_size
        blank = np.zeros((rows, columns, 3), np.uint8)
        for _ in self._steps(Observation((blank,) * self.config.cameras, "warm up", 0.0), self.prompt_ids("put")):
            pass
        self.answers[False] = ([], [])

    @torch.inference_mode()
    def reason(self, observation: Observation) -> Iterator[Reasoning]:
        """Yield the reasoning as depth codes, trace and actions complete.

        Raises RefusedStep, in one line that says what to do, for images or an instruction that do not fit and for
        a result that is not finite.
        """
        self._check(observation)
        yield from self._steps(observation, self.prompt_ids(observation.instruction, observation.trace is not None))

    def prompt_ids(self, instruction: str, steered: bool = False) -> np.ndarray:
        """Begin, images and prompt as token ids, int64 [S]."""
        grid = pooled_grid(self.config.vit_config.grid)
        text = prompt(instruction, self.config.cameras, steered)
        return sequence_ids(text, [[grid]] * self.config.cameras, self.encode, self.image_tokens, self.end)

    def _check(self, observation: Observation) -> None:
        if len(observation.images) != self.config.cameras:
            raise RefusedStep(
                f"this model needs {self.config.cameras} camera images, front first, not {len(observation.images)}; "
                "check the cameras and their topics"
            )
        for image in observation.images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise RefusedStep(f"images must be RGB uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}")
        unknown = self.tokenizer.token_to_id(UNKNOWN)
        if unknown is not None:  # a small vocabulary; the released one can spell anything
            refuse_unknown_words(observation.instruction, self.encode, unknown)

    @torch.inference_mode()
    def _steps(self, observation: Observation, ids: np.ndarray) -> Iterator[Reasoning]:
        steered = observation.trace is not None
        self.timings = EngineTimings()
        features = self.see(observation)
        began = time.perf_counter()
        embeddings = self.model.embed(torch.from_numpy(ids).to(self.device).unsqueeze(0), features)[0]
        self.decoder.rewind(0)
        self.decoder.feed(embeddings)
        self.timings.stages["prefill"] = time.perf_counter() - began
        yield from self._say(self.grammars[steered], steered)

    def see(self, observation: Observation) -> Tensor:
        """Features [1, T, hidden] of an observation's images, a person's trace drawn on the first; timed."""
        began = time.perf_counter()
        images = list(observation.images)
        if observation.trace is not None:
            images[0] = draw_training_overlay(images[0], observation.trace)
        size = self.config.vit_config.image_default_input_size
        crops, pooled = view_inputs(np.stack([resize(image, size) for image in images]), self.config.vit_config)
        seen = time.perf_counter()
        features = self.model.image_features(
            torch.from_numpy(crops).to(self.device).unsqueeze(0), torch.from_numpy(pooled).to(self.device).unsqueeze(0)
        )
        self.timings.stages |= {"preprocess": seen - began, "vision": time.perf_counter() - seen}
        return features

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
