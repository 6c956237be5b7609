"""Training batches of the small MolmoAct 2: states with several instructions each, whose images are encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.prompt import RobotPromptMaker
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.reasoning.robot_stats import NormStatsFile, TagScaling
from molmoact_ros.training.demonstrations import THINGS
from molmoact_ros.training.finetuning.examples import padded
from molmoact_ros.training.flow_matching import FlowDraw
from molmoact_ros.training.molmoact2.joint_demonstrations import JointDemonstrations
from molmoact_ros.training.molmoact2.small_model import PROCESSOR, TAG
from molmoact_ros.training.nano_model import view_patches


@dataclass
class JointBatch:
    """A training batch of B states with K instructions each.

    crops: float32 [B, 2, P, patch_dim]. pooled: int64 [I, 4], the patches of each image token. prefix: int64 [F], the
    begin token and the images, the same in all. ids: int64 [B * K, S], the prompts behind it; there: bool [B * K, S],
    which of them are no padding. last: int64 [B * K], place of each prompt's last token. offsets: float32
    [B * K, S, 3] m, from the gripper to the thing that a token names, along the base frame's axes (NaN: it names none).
    hand: float32 [B * K, 3] m, gripper position. state: float32 [B * K, 8], normalised. actions: float32 [B * K, H, A],
    normalised, zero in padding dimensions. noise: float32 [B * K, T, H, A]. times: float32 [B * K, T].
    """

    crops: Tensor
    pooled: Tensor
    prefix: Tensor
    ids: Tensor
    there: Tensor
    last: Tensor
    offsets: Tensor
    hand: Tensor
    state: Tensor
    actions: Tensor
    noise: Tensor
    times: Tensor

    def to(self, device: torch.device) -> JointBatch:
        """The batch on another device."""
        return JointBatch(*(tensor.to(device) for tensor in vars(self).values()))


class JointBatchMaker:
    """Makes batches from demonstrations in a seeded random order, epoch after epoch; prompts by the engine's own code.

    Example:
        maker = JointBatchMaker(data, config, tokenizer, stats)
        batch = next(maker.batches(size=16, asked=3, flow_times=4, seed=0))
    """

    def __init__(
        self, data: JointDemonstrations, config: MolmoAct2Config, tokenizer: Tokenizer, stats: NormStatsFile
    ) -> None:  # fmt: skip
        self.data, self.config, self.scaling = data, config, TagScaling(stats, TAG)
        self.dimensions = self.scaling.action_dimensions
        self.prompts = RobotPromptMaker(config, PROCESSOR, tokenizer, self.scaling)
        blank = (np.zeros((*self.prompts.images.size, 3), np.uint8),) * data.images.shape[1]
        self.pooled = torch.from_numpy(self.prompts.images(blank).indices)
        self._blank = blank
        first = self._whole(0, 0)
        self.prefix = first[: int(np.flatnonzero(first == config.image_end_token_id)[-1]) + 1]
        names = tokenizer.get_vocab()
        self.things = np.array([names.get(f" {thing}", -1) for thing in THINGS])  # -1: of a shape without a name

    def _whole(self, row: int, asked: int) -> np.ndarray:
        """The ids int64 [S] of a sample's prompt."""
        text = self.data.texts[self.data.instructions[row, asked]]
        state = RobotState(self.data.state[row], 0.0)
        return self.prompts.ids(Observation(self._blank, text, 0.0, state=state), think=False)

    def batch(self, rows: np.ndarray, asked: int, flow_times: int, rng: np.random.Generator) -> JointBatch:
        """The batch of samples `rows`, int [B], with `asked` of their instructions each, drawn; images augmented."""
        data, horizon = self.data, self.data.chunks.shape[2]
        drawn = np.stack([rng.permutation(data.instructions.shape[1])[:asked] for _ in rows])
        parts = [
            self._whole(int(row), int(k))[len(self.prefix) :] for row, of in zip(rows, drawn, strict=True) for k in of
        ]
        ids = padded(parts, self.config.eos_token_id)
        there = padded([np.ones(len(part), bool) for part in parts], 0)
        moment = rows.repeat(asked)
        offsets = np.full((*ids.shape, 3), np.nan, np.float32)
        row, column, thing = (ids.numpy()[..., None] == self.things).nonzero()
        offsets[row, column] = data.things[moment[row], thing] - data.hand[moment[row]]
        actions = np.zeros((len(moment), horizon, self.config.max_action_dim), np.float32)
        chunks = data.chunks[moment, drawn.ravel()].reshape(len(moment), horizon, -1)
        actions[..., : self.dimensions] = self.scaling.normalised_actions(chunks)
        draw = FlowDraw.draw(rng, self.config, (len(moment), flow_times, horizon), self.dimensions)
        state = self.scaling.metadata.state_stats.normalise(data.state[moment], self.scaling.mode)
        return JointBatch(
            self._crops(rows, rng), self.pooled, torch.from_numpy(self.prefix), ids, there, there.sum(1) - 1,
            torch.from_numpy(offsets), torch.from_numpy(data.hand[moment]), torch.from_numpy(state),
            torch.from_numpy(actions), torch.from_numpy(draw.noise), torch.from_numpy(draw.times),
        )  # fmt: skip

    def _crops(self, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Patches of the samples' images, each brighter or darker and of more or less contrast."""
        images = self.data.images[rows]
        crops = view_patches(images.reshape(-1, *images.shape[2:])).reshape(*images.shape[:2], -1, self._patch)
        shape = (*images.shape[:2], 1, 1)
        changed = crops * rng.uniform(0.85, 1.15, shape) + rng.uniform(-0.1, 0.1, shape)
        return torch.from_numpy(changed.astype(np.float32))

    @property
    def _patch(self) -> int:
        return self.config.vit_config.patch_dim

    def batches(self, size: int, asked: int, flow_times: int, seed: int, first: int = 0) -> Iterator[JointBatch]:
        """Yield batches of `size` samples with `asked` instructions each, endlessly, every sample once per epoch.

        first: number of the first batch; a seed and a number always give the same batch.
        """
        in_epoch = max(1, len(self.data.images) // size)
        for number in count(first):
            epoch, place = divmod(number, in_epoch)
            order = np.random.default_rng((seed, epoch)).permutation(len(self.data.images))
            yield self.batch(
                order[place * size : (place + 1) * size], asked, flow_times, np.random.default_rng((seed, epoch, place))
            )
