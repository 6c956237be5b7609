"""A demonstration with what the model has to reason about each frame, and its training texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, NormStats, bins_from_values
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.depth_tokens import DEPTH_END, DEPTH_START, DEPTH_TOKENS, checked_depth_codes
from molmoact_ros.reasoning.prompts import validate_instruction
from molmoact_ros.reasoning.trace import checked_trace

ARM: Final = 7
"""Joints of an arm."""
CHUNK: Final = 8
"""Actions in a chunk (the released fine-tuning script)."""


@dataclass(frozen=True)
class LabelledEpisode:
    """An episode and the labels of its n frames; None where a frame could not be labelled.

    depth: codes uint8 [10, 10], each 0..127. traces: int [k, 2], k 1..5, points (x, y) in 0..255 of the first image.
    """

    demonstration: Demonstration
    depth: Sequence[np.ndarray | None]
    traces: Sequence[np.ndarray | None]


@dataclass(frozen=True)
class FrameTexts:
    """The texts of a frame, as the released fine-tuning code reads them.

    depth: depth tokens without separators. trace: a list of lists. processed_action: JSON with the normalised action
    and the action symbols of it and of its chunk. language_instruction: as prompts have it. joint_motion: for MolmoAct
    2, JSON with the joints as `state` and where they go as `action`, see the function; empty where none were recorded.
    """

    frame: int
    depth: str
    trace: str
    processed_action: str
    language_instruction: str
    joint_motion: str


def frame_texts(episode: LabelledEpisode, statistics: NormStats) -> Iterator[FrameTexts | str]:
    """The texts of each frame, or why it has none, in one line.

    statistics: of the actions, which normalise all but the grippers. A chunk is the frame's action and the seven after
    it; the last one is repeated at the end.
    """
    normalised = statistics.normalise(episode.demonstration.actions)
    rows, motion = [_symbols(row) for row in normalised], joint_motion(episode.demonstration)
    for k, task in enumerate(episode.demonstration.tasks):
        chunk = [rows[min(k + step, len(rows) - 1)] for step in range(CHUNK)]
        action = {
            "normalized_action": normalised[k].tolist(),
            "tokenized_action": _listed(rows[k]),
            "chunked_action": _listed([_listed(row) for row in chunk]),
        }
        try:
            depth, trace = _depth_text(episode.depth[k]), _trace_text(episode.traces[k])
            moved = (
                "" if motion is None else json.dumps({"state": motion[0][k].tolist(), "action": motion[1][k].tolist()})
            )
            yield FrameTexts(k, depth, trace, json.dumps(action), validate_instruction(task), moved)
        except RefusedStep as refusal:
            yield str(refusal)


def joint_motion(demonstration: Demonstration) -> tuple[np.ndarray, np.ndarray] | None:
    """States and actions of n frames as MolmoAct 2 reads and writes them, float64 [n, 8 a] each; None without joints.

    Of each arm seven joints in rad and the gripper, 1 open to 0 closed, one arm after the other. An action's joints are
    those that were measured at the next frame, and its gripper is the action's.
    """
    if demonstration.joints is None:
        return None
    arms, count = len(demonstration.arms), len(demonstration.joints)
    joints = np.asarray(demonstration.joints, np.float64).reshape(count, arms, -1)[..., :ARM]
    after = joints[np.minimum(np.arange(count) + 1, count - 1)]
    grippers = (demonstration.states[:, -arms:, None], demonstration.actions[:, -arms:, None])
    state, action = (
        np.concatenate([angles, gripper], axis=-1).reshape(count, -1)
        for angles, gripper in zip((joints, after), grippers, strict=True)
    )
    return state.round(5), action.round(5)


def _symbols(normalised: np.ndarray) -> list[str]:
    return [ACTION_SYMBOLS[bin_number] for bin_number in bins_from_values(normalised)]


def _listed(texts: Sequence[str]) -> str:
    return f"[{', '.join(texts)}]"


def _depth_text(codes: np.ndarray | None) -> str:
    if codes is None:
        raise RefusedStep("it has no depth tokens")
    return DEPTH_START + "".join(DEPTH_TOKENS[code] for code in checked_depth_codes(codes).flat) + DEPTH_END


def _trace_text(trace: np.ndarray | None) -> str:
    if trace is None:
        raise RefusedStep("it has no trace")
    return str(checked_trace(trace).tolist())
