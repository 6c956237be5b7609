"""Training examples: samples as token sequences with images, in the released mixture, and batches of them.

An example of a run is a pure function of the seed and its number, so that a run can be resumed anywhere, and so that
the number of devices and the size of a forward pass do not change what is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from molmoact_ros.engine.base import BaseEngine
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.config import RunConfig
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.reasoning.answer_templates import Wording, answer_text
from molmoact_ros.reasoning.depth_tokens import DEPTH_END, DEPTH_START, DEPTH_TOKENS
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.reasoning.tokens import END_OF_TEXT, sequence_ids
from molmoact_ros.training.finetuning.augmentation import Crop, jitter_colours
from molmoact_ros.training.finetuning.config import FinetuneConfig
from molmoact_ros.training.finetuning.samples import AnswerData, DataError, TrainingData, TrainingSample

NO_LOSS = -1
"""The target of a token that is not trained on."""
LONGEST = 2304
"""Maximum length of a training sequence in the released code, tokens."""


@dataclass(frozen=True)
class Example:
    """A sequence with its images.

    ids: int64 [S]. targets: int64 [S], the next token where it belongs to the answer, else `NO_LOSS`. crops: float32
    [N, P, patch_dim]. pooled: int64 [T, 4], the patches of each image token among N * P, -1 missing.
    """

    ids: np.ndarray
    targets: np.ndarray
    crops: np.ndarray
    pooled: np.ndarray

    @property
    def answer_tokens(self) -> int:
        """The number of tokens that are trained on."""
        return int((self.targets != NO_LOSS).sum())


@dataclass(frozen=True)
class AnswerBatch:
    """Examples padded to the same sizes.

    ids, targets: int64 [B, S]. crops: float32 [B, N, P, patch_dim]. pooled: int64 [B, T, 4]; a row of -1 is padding.
    """

    ids: Tensor
    targets: Tensor
    crops: Tensor
    pooled: Tensor

    def to(self, device: torch.device) -> AnswerBatch:
        """The batch on another device."""
        return AnswerBatch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    @property
    def terms(self) -> int:
        """The number of tokens that are trained on."""
        return int((self.targets != NO_LOSS).sum())

    @property
    def tokens(self) -> int:
        """The number of tokens without padding: a sequence ends behind its last target."""
        places = torch.arange(self.targets.shape[1]) * (self.targets != NO_LOSS)
        return int((places.max(dim=1).values + 2).sum())


def collate(examples: Sequence[Example]) -> AnswerBatch:
    """The batch of some examples: sequences padded at their end, where causal attention keeps padding unseen."""
    ids = padded([example.ids for example in examples], 0)
    targets = padded([example.targets for example in examples], NO_LOSS)
    pooled = padded([example.pooled for example in examples], -1)
    return AnswerBatch(ids, targets, padded([example.crops for example in examples], 0), pooled)


def padded(arrays: Sequence[np.ndarray], value: int) -> Tensor:
    """Arrays [n, ...] of unlike n as one tensor [B, largest n, ...], with `value` behind the shorter ones."""
    out = np.full((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), value, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(out)


class ExampleMaker:
    """Makes examples as the service will ask: prompts, images and answers by the engine's own code.

    maker = ExampleMaker(files, data, Wording.SEVERAL_CAMERAS)
    example = maker.example(data.sample(0), steered=False)
    """

    collate = staticmethod(collate)

    def __init__(self, files: CheckpointFolder, data: AnswerData, wording: Wording | None = None) -> None:
        """wording: of answers with reasoning; None: the checkpoint's, see `choose_wording`.

        Raises CheckpointError where tokenizer and weights do not belong together, DataError where the data do not fit.
        """
        check_tokenizer(files)
        sample = data.sample(0)
        cameras, steps = len(sample.images), len(sample.actions)
        self.wording = wording or choose_wording(files.run, cameras)
        self.config = files.config.model_copy(update={"norm_stats": {data.name: data.statistics}})
        fields = files.run.model_dump() | dict(data.run)
        fields |= {"cameras": cameras, "chunk_steps": (steps,), "wordings": (self.wording,)}
        self.run = RunConfig.model_validate(fields)
        self.engine = BaseEngine(self.config, files.processor, self.run, files.tokenizer, None, data.name)
        self.limit = min(LONGEST, files.config.llm_config.max_position_embeddings)

    @property
    def cameras(self) -> int:
        """Images of an example."""
        return self.run.cameras or 1

    @property
    def scale(self) -> NormStats:
        """The statistics by which actions are normalised."""
        return next(iter(self.config.norm_stats.values())).action

    @property
    def note(self) -> str:
        """What the run says of its examples before it starts."""
        return f"wording: {self.wording.value}"

    def training_example(self, sample: TrainingSample, rng: np.random.Generator, config: FinetuneConfig) -> Example:
        """The example of a sample in the released mixture; augmented where `config` has it. Raises as `example`."""
        steered = rng.random() < config.steer_share
        return self.example(sample, is_steered(sample, steered), rng if config.augment else None)

    def example(self, sample: TrainingSample, steered: bool, rng: np.random.Generator | None = None) -> Example:
        """The example of a sample. steered: with its trace drawn on the image. rng: augments the images.

        Raises DataError for a sequence that the model cannot take, and RefusedStep for a malformed sample.
        """
        engine = self.engine
        observation = Observation(sample.images, sample.instruction, 0.0, sample.trace if steered else None)
        engine.check(observation)
        frames, trace = engine.frames(observation), sample.trace
        if rng is not None:
            crops = [Crop.draw(rng) for _ in frames]
            frames = [jitter_colours(crop.image(frame), rng) for crop, frame in zip(crops, frames, strict=True)]
            trace = None if trace is None else crops[0].trace(trace)
        pictures = engine.processor(frames)
        prompt = sequence_ids(
            engine.text(observation), pictures.grids, engine.codec.encode, engine.image_tokens, engine.end
        )
        answer = self.answer(replace(sample, trace=trace), steered)
        ids = np.concatenate([prompt, answer])
        if len(ids) > self.limit:
            raise DataError(f"an example has {len(ids)} tokens, and at most {self.limit} fit; use smaller images")
        targets = np.full(len(ids), NO_LOSS)
        targets[len(prompt) - 1 : -1] = answer
        return Example(ids, targets, pictures.crops, pictures.indices)

    def answer(self, sample: TrainingSample, steered: bool) -> np.ndarray:
        """The answer's ids, int64 [A], with the end token. The border to the prompt is never inside a token."""
        depth, trace = (None, None) if steered else (sample.depth_codes, sample.trace)
        text = answer_text(depth, trace, sample.actions, self.wording)
        return np.array([*self.engine.codec.encode(text), self.engine.end])


def choose_wording(run: RunConfig, cameras: int) -> Wording:
    """The wording of answers that a checkpoint was trained in.

    Where run.json does not say it, that of the released checkpoints for this number of cameras.
    """
    if len(run.wordings) == 1:
        return run.wordings[0]
    return Wording.ONE_CAMERA if cameras == 1 else Wording.SEVERAL_CAMERAS


def check_tokenizer(files: CheckpointFolder) -> None:
    """Raise CheckpointError where the tokenizer is not the one that the checkpoint was trained with."""
    tokenizer, rows = files.tokenizer, files.config.llm_config.vocab_size
    ids = {token: tokenizer.token_to_id(token) for token in (END_OF_TEXT, DEPTH_START, DEPTH_END, *DEPTH_TOKENS)}
    advice = "it is another model's; copy the tokenizer that the checkpoint was saved with"
    if missing := [token for token, at in ids.items() if at is None]:
        raise CheckpointError(f"the tokenizer of {files.path} has no token {missing[0]}: {advice}")
    words = tokenizer.get_vocab_size(with_added_tokens=False)
    if beyond := [token for token, at in ids.items() if at is not None and at >= rows]:
        raise CheckpointError(
            f"the tokenizer of {files.path} ({words} words) puts {beyond[0]} at {ids[beyond[0]]}, and the model has "
            f"{rows} rows: {advice}"
        )


class Maker(Protocol):
    """Makes a family's examples of one data set's samples, and batches of them."""

    @property
    def cameras(self) -> int:
        """Images of an example."""

    @property
    def scale(self) -> Any:
        """What the values under the data's name are normalised by, to be compared."""

    @property
    def note(self) -> str:
        """What the run says of its examples before it starts."""

    @property
    def collate(self) -> Callable[[Any], Any]:
        """From a sequence of examples to their batch."""

    def training_example(self, sample: Any, rng: np.random.Generator, config: FinetuneConfig) -> Any:
        """An example of a sample, a pure function of it and `rng`."""


class Mixture(Dataset[Any]):
    """The examples of a run by number.

    Every epoch shows each row once, in an order of its own. With rehearsal data, `rehearse_share` of the numbers show
    one of those instead.
    """

    def __init__(self, sources: Sequence[tuple[TrainingData[Any], Maker, np.ndarray]], config: FinetuneConfig) -> None:
        """sources: data, their examples' maker and the rows int64 [n] to train on; the second one is rehearsed."""
        self.sources, self.config = sources, config
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def _shuffled(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.config.seed, source, epoch)).permutation(self.sources[source][2])

    @property
    def collate(self) -> Callable[[Any], Any]:
        """From a sequence of examples to their batch."""
        return self.sources[0][1].collate

    def __getitem__(self, number: int) -> Any:
        """Example `number`, from 0 on without an end."""
        rng = np.random.default_rng((self.config.seed, number))
        source = int(len(self.sources) > 1 and rng.random() < self.config.rehearse_share)
        data, maker, rows = self.sources[source]
        epoch, place = divmod(number, len(rows))
        return maker.training_example(data.sample(int(self._order(source, epoch)[place])), rng, self.config)


def is_steered(sample: TrainingSample, wanted: bool) -> bool:
    """Whether a sample's trace is drawn: as `wanted` where it has the labels for both forms, else the form it can."""
    return wanted if sample.can_reason and sample.can_steer else sample.can_steer
