"""Training examples of MolmoAct 2: prompts with images and state, and chunks at moments between noise and actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder
from molmoact_ros.engine.molmoact2.prompt import RobotPromptMaker
from molmoact_ros.reasoning.action_convention import RELEASED, ActionConvention, GripperPolarity
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.reasoning.robot_stats import NormStatsFile, TagMetadata, TagScaling
from molmoact_ros.training.finetuning.augmentation import augment_robot_image
from molmoact_ros.training.finetuning.config import FinetuneConfig
from molmoact_ros.training.finetuning.examples import padded
from molmoact_ros.training.finetuning.samples import DataError, JointData, MotionSample
from molmoact_ros.training.flow_matching import FlowDraw, motion_statistics

CONTROL = "absolute joint pose"
"""How released tags say that actions are absolute joint targets."""


@dataclass(frozen=True)
class FlowExample:
    """A prompt with its images, and a chunk.

    ids: int64 [S]. crops: float32 [N, P, patch_dim]. pooled: int64 [I, 4], the patches of each image token among N * P,
    -1 missing. actions: float32 [H, A], normalised, zero in padding dimensions. draw: of the flow, [T, H, A] and [T].
    """

    ids: np.ndarray
    crops: np.ndarray
    pooled: np.ndarray
    actions: np.ndarray
    draw: FlowDraw
    answer_tokens = 0


@dataclass(frozen=True)
class FlowBatch:
    """Examples padded to the same sizes.

    ids: int64 [B, S]. there: bool [B, S], which of them are no padding. crops: float32 [B, N, P, patch_dim]. pooled:
    int64 [B, I, 4]; a row of -1 is padding. actions: float32 [B, H, A]. noise: float32 [B, T, H, A]. times: float32
    [B, T]. moving: bool [A], the dimensions that an action has.
    """

    ids: Tensor
    there: Tensor
    crops: Tensor
    pooled: Tensor
    actions: Tensor
    noise: Tensor
    times: Tensor
    moving: Tensor

    def to(self, device: torch.device) -> FlowBatch:
        """The batch on another device."""
        return FlowBatch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    @property
    def terms(self) -> int:
        """The number of velocities that are trained on."""
        return int(self.times.numel() * self.actions.shape[1] * self.moving.sum())

    @property
    def tokens(self) -> int:
        """The number of tokens without padding."""
        return int(self.there.sum())


class FlowExampleMaker:
    """Makes examples as the service will ask: prompt, images and state bins by the engine's own code.

    The data get a norm_tag of their own, by their name, with statistics of their own.

        maker = FlowExampleMaker(files, data)
        example = maker.example(data.sample(0), flow_times=8, rng=np.random.default_rng(0))
    """

    def __init__(self, files: RobotCheckpointFolder, data: JointData) -> None:
        """Raises DataError where the data do not fit."""
        states, actions = data.motion
        self.config, self.name, self.dimensions = files.config, data.name, actions.shape[1]
        self.chunk, self._cameras = data.chunk, len(data.sample(0).images)
        if self.dimensions > self.config.max_action_dim or data.chunk > self.config.max_action_horizon:
            raise DataError(
                f"{data.name} has chunks of {data.chunk} actions of {self.dimensions} values; the checkpoint has at "
                f"most {self.config.max_action_horizon} of {self.config.max_action_dim}"
            )
        self.convention = _convention(files, data, self._cameras, self.dimensions // 8)
        self.stats = files.stats.model_copy(
            update={"metadata_by_tag": {self.name: self._metadata(files.stats, states, actions)}}
        )
        self.scaling = TagScaling(self.stats, self.name)
        self.prompts = RobotPromptMaker(self.config, files.processor, files.tokenizer, self.scaling)

    def _metadata(self, stats: NormStatsFile, states: np.ndarray, actions: np.ndarray) -> TagMetadata:
        arms = self.dimensions // 8
        robot = "single franka robotic arm" if arms == 1 else "bimanual franka robotic arms"
        return TagMetadata(
            camera_keys=self.convention.cameras, action_horizon=self.chunk, n_action_steps=self.chunk,
            setup_type=f"{robot} in {self.name.lower()}", control_mode=CONTROL,
            action_stats=motion_statistics(self.values(actions)), state_stats=motion_statistics(self.values(states)),
        )  # fmt: skip

    @property
    def cameras(self) -> int:
        """Images of an example."""
        return self._cameras

    @property
    def scale(self) -> TagMetadata:
        """The statistics by which states and actions are normalised, and what they mean."""
        return self.stats.metadata_by_tag[self.name]

    @property
    def note(self) -> str:
        """What the run says of its examples before it starts."""
        metadata = self.scaling.metadata
        return f"norm_tag: {self.name}, {metadata.action_horizon} actions; setup: {metadata.setup_type}"

    @cached_property
    def collate(self) -> Callable[[Sequence[FlowExample]], FlowBatch]:
        """From a sequence of examples to their batch."""
        moving = torch.arange(self.config.max_action_dim) < self.dimensions
        return lambda examples: collate_flows(examples, moving)

    def values(self, opened: np.ndarray) -> np.ndarray:
        """Joints and grippers float [..., 8 a], 1 open .. 0 closed, in the polarity of the tag."""
        out = np.array(opened, np.float64)
        grippers = slice(7, None, 8)
        out[..., grippers] = self.convention.gripper.values(out[..., grippers])
        return out

    def training_example(self, sample: MotionSample, rng: np.random.Generator, config: FinetuneConfig) -> FlowExample:
        """The example of a sample; augmented where `config` has it. Raises as `example`."""
        return self.example(sample, config.flow_times, rng, config.augment)

    def example(
        self, sample: MotionSample, flow_times: int, rng: np.random.Generator, augment: bool = False
    ) -> FlowExample:  # fmt: skip
        """The example of a sample. Raises RefusedStep for one that the engine would refuse, too."""
        images = sample.images
        if augment:
            images = tuple(augment_robot_image(image, rng) for image in images)
        state = RobotState(self.values(sample.state), 0.0)
        asked = self.prompts.ask(Observation(images, sample.instruction, 0.0, state=state), think=False)
        actions = np.zeros((len(sample.actions), self.config.max_action_dim), np.float32)
        actions[:, : self.dimensions] = self.scaling.normalised_actions(self.values(sample.actions))
        draw = FlowDraw.draw(rng, self.config, (flow_times, len(actions)), self.dimensions)
        return FlowExample(asked.ids, asked.images.crops, asked.images.indices, actions, draw)


def collate_flows(examples: Sequence[FlowExample], moving: Tensor) -> FlowBatch:
    """The batch of some examples: prompts padded at their end. moving: bool [A], see `FlowBatch`."""
    there = padded([np.ones(len(example.ids), bool) for example in examples], 0)
    return FlowBatch(
        padded([example.ids for example in examples], 0), there, padded([example.crops for example in examples], 0),
        padded([example.pooled for example in examples], -1), padded([example.actions for example in examples], 0),
        padded([example.draw.noise for example in examples], 0),
        padded([example.draw.times for example in examples], 0), moving,
    )  # fmt: skip


def similar_tag(files: RobotCheckpointFolder) -> str | None:
    """The tag of a Franka's absolute joints that a checkpoint knows, which a new one should be like; None: none."""
    wanted = "franka", "joint_position"
    known = ((tag, files.run.convention(tag)) for tag in files.stats.metadata_by_tag)
    return next((tag for tag, meaning in known if (meaning.robot, meaning.space) == wanted), None)


def chunk_length(files: RobotCheckpointFolder) -> int:
    """Actions of the chunks to learn: as many as those of the similar tag, else as many as the checkpoint can make."""
    like = similar_tag(files)
    return files.config.max_action_horizon if like is None else files.stats.metadata_by_tag[like].action_horizon


def _convention(files: RobotCheckpointFolder, data: JointData, cameras: int, arms: int) -> ActionConvention:
    """What the numbers mean: the polarity of a Franka's tag that the checkpoint knows, else 1 open; rate and cameras of
    the data."""
    like = similar_tag(files)
    polarity = GripperPolarity(open=1, closed=0) if like is None else files.run.convention(like).gripper
    stated = data.run.get("conventions", {}).get(data.name, {})
    names = tuple(stated.get("cameras", ()))
    return RELEASED["franka_droid"].model_copy(
        update={"gripper": polarity, "dt": stated.get("dt"), "cameras": names if len(names) == cameras else ()}
    )
