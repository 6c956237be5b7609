"""Validation on held-out episodes, in units that people understand: mm, degrees, pixels, percent of depth codes.

Answers are decoded as the service decodes them, under the grammar, with the weights in training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from molmoact_ros.control.action_chunk import ActionChunk, split
from molmoact_ros.control.action_conversion import SPACES, convert_actions
from molmoact_ros.engine.decoding.decoder import TorchModelRunner
from molmoact_ros.engine.model.checkpoint import Checkpoint, CheckpointFolder
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder
from molmoact_ros.engine.molmoact2.sampler import FlowSampler
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.reasoning.trace import pixels_from_trace
from molmoact_ros.reasoning.trace_progress import lengths_of, point_at
from molmoact_ros.training.finetuning.config import FinetuneConfig
from molmoact_ros.training.finetuning.examples import ExampleMaker, collate
from molmoact_ros.training.finetuning.flow_examples import FlowBatch, FlowExampleMaker
from molmoact_ros.training.finetuning.losses import AnswerLoss, FlowLoss, TrainingLoss
from molmoact_ros.training.finetuning.processes import Processes, whole_parameters
from molmoact_ros.training.finetuning.samples import AnswerData, JointData, MotionSample, TrainingSample

OPEN = 0.5  # a gripper value above it means open
UNITS = {
    "loss": "", "depth_equal": "% of depth codes", "trace_error": "px", "position_error": "mm", "rotation_error": "deg",
    "gripper_equal": "% of steps", "action_error": "% of the range", "steered_position_error": "mm",
    "steered_rotation_error": "deg", "steered_gripper_equal": "% of steps", "steered_action_error": "% of the range",
    "joint_error": "deg", "last_joint_error": "deg",
}  # fmt: skip
"""The figures of a validation. Position and rotation: of the hand at the end of a chunk. Joints: the mean over a chunk,
and at its end."""


class Validator(ABC):
    """Validates a model on held-out samples.

    figures = AnswerValidator(files, maker, data, rows, config, processes).figures(loss)
    figures["position_error"]  # mm
    """

    def __init__(
        self, files: Any, maker: Any, data: Any, rows: np.ndarray, config: FinetuneConfig, processes: Processes
    ) -> None:
        """rows: int64 [n] of `data`, held out; of them `validation_samples` are used, evenly spread."""
        count = min(len(rows), config.validation_samples)
        chosen = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
        # All processes run the same number of passes together: the last ones may see a sample again.
        each = -(-count // processes.count)
        self.rows = np.resize(chosen, each * processes.count)[processes.rank :: processes.count]
        self.files, self.maker, self.data, self.config, self.processes = files, maker, data, config, processes

    @torch.no_grad()
    def figures(self, loss: TrainingLoss[Any]) -> dict[str, float]:
        """The mean of each figure in UNITS over all samples and processes that have it."""
        loss.eval()
        sums: dict[str, list[float]] = defaultdict(list)
        bfloat16 = self.config.dtype == "bfloat16"
        with torch.autocast(self.processes.device.type, torch.bfloat16, enabled=bfloat16):
            samples = [self.data.sample(int(row)) for row in self.rows]
            for sample in samples:
                self._add_loss(loss, sample, sums)
            with whole_parameters(loss):
                self._add_errors(loss, samples, sums)
        loss.train()
        return self._means(sums)

    @abstractmethod
    def _add_loss(self, loss: Any, sample: Any, sums: dict[str, list[float]]) -> None:
        """Passes of the loss, as many for every sample, so that all processes run the same number of them."""

    @abstractmethod
    def _add_errors(self, loss: Any, samples: Sequence[Any], sums: dict[str, list[float]]) -> None:
        """Decode, and compare with the samples; every process holds all parameters."""

    def _means(self, sums: dict[str, list[float]]) -> dict[str, float]:
        """Means over all processes; a figure that no sample has is left out."""
        table = torch.zeros(len(UNITS), 2, dtype=torch.float64)
        for row, name in zip(table, UNITS, strict=True):
            row[0], row[1] = sum(sums[name]), len(sums[name])
        table = self.processes.total(table.to(self.processes.device)).cpu()
        return {n: float(row[0] / row[1]) for n, row in zip(UNITS, table, strict=True) if row[1]}


class _TrainingRunner(TorchModelRunner):
    """Runs passes of a model whose head may have an adapter, which its weights alone do not show."""

    def best(self, hidden: Tensor, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], after a token; -1 if their scores are not finite."""
        scores = self.model.logits(hidden)[torch.from_numpy(allowed).to(hidden.device)]
        best = int(scores.argmax())
        return int(allowed[best]) if isfinite(scores[best]) else -1


class _TrainingEngine(TorchEngine):
    """Decodes with a model in training: plain passes, which see what is beside its weights."""

    def _passes(self) -> TorchModelRunner:
        return _TrainingRunner(self.model, self.config.llm_config.max_position_embeddings)


class AnswerValidator(Validator):
    """Decodes a MolmoAct's answers."""

    files: CheckpointFolder
    maker: ExampleMaker
    data: AnswerData

    def _add_loss(self, loss: AnswerLoss, sample: TrainingSample, sums: dict[str, list[float]]) -> None:
        for steered in (not sample.can_reason, sample.can_steer):
            batch = collate([self.maker.example(sample, steered)]).to(self.processes.device)
            _, entropy = loss(batch)
            sums["loss"].append(float(entropy) / batch.terms)

    def _engine(self, loss: AnswerLoss) -> TorchEngine:
        maker, files = self.maker, self.files
        checkpoint = Checkpoint(
            maker.config, files.processor, maker.run, loss.model, files.tokenizer, None, "", digest=""
        )
        return _TrainingEngine(checkpoint)

    def _add_errors(self, loss: AnswerLoss, samples: Sequence[TrainingSample], sums: dict[str, list[float]]) -> None:
        engine = self._engine(loss)
        for sample in samples:
            self._add_errors_of(engine, sample, sums)

    def _add_errors_of(self, engine: TorchEngine, sample: TrainingSample, sums: dict[str, list[float]]) -> None:
        for steered in (False, True):
            if not (sample.can_steer if steered else sample.can_reason):
                continue
            engine.forget()
            trace = sample.trace if steered else None
            *_, answer = engine.reason(Observation(sample.images, sample.instruction, 0.0, trace))
            for name, value in self.errors(sample, answer).items():
                sums[f"steered_{name}" if steered else name].append(value)

    def errors(self, sample: TrainingSample, answer: Reasoning) -> dict[str, float]:
        """The figures of one answer, in their units."""
        assert answer.actions is not None
        wanted = self.data.statistics.action.unnormalise(sample.actions)
        found = action_errors(answer.actions, wanted, self.maker.run.convention(self.data.name))
        if not found:
            apart = self.data.statistics.action.normalise(answer.actions) - sample.actions
            found = {"action_error": float(np.abs(apart).mean() * 50)}
        if answer.trace is not None and sample.trace is not None:
            height, width = sample.images[0].shape[:2]
            found["trace_error"] = trace_error(answer.trace, sample.trace, width, height)
        if answer.depth_codes is not None and sample.depth_codes is not None:
            found["depth_equal"] = float((answer.depth_codes == sample.depth_codes).mean() * 100)
        return found


class FlowValidator(Validator):
    """Samples a MolmoAct 2's chunks, each from noise of its own that stays the same in every validation."""

    files: RobotCheckpointFolder
    maker: FlowExampleMaker
    data: JointData

    def _add_loss(self, loss: FlowLoss, sample: MotionSample, sums: dict[str, list[float]]) -> None:
        batch = self._batch(sample, len(sums["loss"]))
        sums["loss"].append(float(loss(batch)[0]) / batch.terms)

    def _batch(self, sample: MotionSample, number: int) -> FlowBatch:
        rng = np.random.default_rng((self.config.seed, number))
        return self.maker.collate([self.maker.example(sample, self.config.flow_times, rng)]).to(self.processes.device)

    def _add_errors(self, loss: FlowLoss, samples: Sequence[MotionSample], sums: dict[str, list[float]]) -> None:
        sampler = FlowSampler(loss.model.action_expert, self.maker.dimensions)
        for number, sample in enumerate(samples):
            context, mask = loss.context(batch := self._batch(sample, number))
            chunk = sampler.sample(batch.noise[:, 0], context, self.maker.config.flow_matching_num_steps, mask)
            found = self.maker.scaling.actions(chunk[0].float().cpu().numpy())
            for name, value in joint_errors(found, self.maker.values(sample.actions), self.maker.convention).items():
                sums[name].append(value)


def action_errors(found: np.ndarray, wanted: np.ndarray, convention: ActionConvention) -> dict[str, float]:
    """Errors of a chunk [N, D] in the meaning of `convention`: of the hand after it in mm and degrees, of the gripper.

    The mean over both arms; empty for joint positions, and where D is that of neither one nor two arms.
    """
    space = SPACES[convention.space]
    arms, rest = divmod(wanted.shape[1], space.dimensions)
    if rest or arms not in (1, 2) or convention.space == "joint_position":
        return {}
    starts = [Rotation.identity()] * arms  # displacements in the hand's frame: the errors are those from any start
    converted = (convert_actions(actions, convention, arms, starts) for actions in (found, wanted))
    one, other = (split(ActionChunk(actions, 0.1, 0.0, space=space), arms) for actions in converted)
    parts = [(a.actions, b.actions) for a, b in zip(one, other, strict=True)]
    ends = [(_hand_after(a, convention), _hand_after(b, convention)) for a, b in parts]
    moved = [np.linalg.norm(a[0] - b[0]) for a, b in ends]
    turned = [(a[1].inv() * b[1]).magnitude() for a, b in ends]
    gripper = [((a[:, -1] > OPEN) == (b[:, -1] > OPEN)).mean() for a, b in parts]
    return {
        "position_error": float(np.mean(moved) * 1000),
        "rotation_error": float(np.degrees(np.mean(turned))),
        "gripper_equal": float(np.mean(gripper) * 100),
    }


def joint_errors(found: np.ndarray, wanted: np.ndarray, convention: ActionConvention) -> dict[str, float]:
    """Errors of a chunk [N, 8 a] of absolute joints, one arm after the other: of joints in degrees, of the gripper."""
    apart = np.abs(found - wanted).reshape(len(wanted), -1, 8)
    opened = (convention.gripper.opening(actions[:, 7::8]) > OPEN for actions in (found, wanted))
    return {
        "joint_error": float(np.degrees(apart[..., :7].mean())),
        "last_joint_error": float(np.degrees(apart[-1, :, :7].mean())),
        "gripper_equal": float(np.equal(*opened).mean() * 100),
    }


def _hand_after(actions: np.ndarray, convention: ActionConvention) -> tuple[np.ndarray, Rotation]:
    """Position [3] m and orientation of a hand after actions [N, 7] of msg/ActionChunk.msg, from the origin."""
    if convention.space == "ee_pose":
        return actions[-1, :3], Rotation.from_euler("xyz", actions[-1, 3:6])
    return actions[:, :3].sum(axis=0), _turn(actions)


def _turn(actions: np.ndarray) -> Rotation:
    """The rotation that the steps' roll, pitch and yaw make together, each about the axes of the base."""
    whole = Rotation.identity()
    for step in Rotation.from_euler("xyz", actions[:, 3:6]):
        whole = step * whole
    return whole


def trace_error(found: np.ndarray, wanted: np.ndarray, width: int, height: int, points: int = 5) -> float:
    """Mean distance of two traces, int [n, 2] and [m, 2] in 0..255, in pixels of an image of this size.

    Both are compared at `points` places, evenly along their lengths.
    """

    def along(trace: np.ndarray) -> np.ndarray:
        pixels = pixels_from_trace(trace, width, height).astype(float)
        return np.stack([point_at(pixels, where) for where in np.linspace(0, lengths_of(pixels)[-1], points)])

    return float(np.linalg.norm(along(found) - along(wanted), axis=1).mean())


def summary(figures: dict[str, float], names: Sequence[str] = tuple(UNITS)) -> str:
    """Figures in one line, such as "loss 0.412, trace error 5.1 px"."""
    parts = [f"{name.replace('_', ' ')} {figures[name]:.3g} {UNITS[name]}".strip() for name in names if name in figures]
    return ", ".join(parts)
