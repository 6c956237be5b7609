"""Conversion of messages to numpy arrays, for rclpy's messages and for those read from a bag."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace import MAX_COORDINATE, MAX_POINTS

SPACES: Final = (0, 1, 2)
"""DELTA_EE_POSE, EE_POSE and JOINT_POSITION of ActionChunk.msg."""


def seconds(stamp: Any) -> float:
    """Convert a builtin_interfaces/Time to seconds."""
    return float(stamp.sec + stamp.nanosec * 1e-9)


def depth_codes(message: Any) -> np.ndarray:
    """The codes of a DepthTokens message, uint8 [rows, columns]."""
    return np.frombuffer(message.codes, np.uint8).reshape(message.rows, message.columns)


def trace_points(message: Any) -> np.ndarray:
    """The trace in the model's coordinates, int64 [n, 2] in 0..255. Raises RefusedStep if it is malformed."""
    if len(message.x) != len(message.y) or not 1 <= len(message.x) <= MAX_POINTS:
        raise RefusedStep(
            f"a trace has 1..{MAX_POINTS} points, each with x and y; got {len(message.x)} and {len(message.y)}"
        )
    fractions = np.stack([message.x, message.y], axis=1).astype(np.float64)
    if not np.isfinite(fractions).all() or fractions.min() < 0.0 or fractions.max() > 1.0:
        raise RefusedStep("trace points are fractions of the image, 0..1; got one outside")
    return np.round(fractions * MAX_COORDINATE).astype(np.int64)


def chunk_actions(message: Any) -> np.ndarray:
    """The actions, float64 [N, D]. Raises RefusedStep if their count is not N * D or the action space is unknown."""
    if message.action_space not in SPACES:
        raise RefusedStep(f"action space {message.action_space} is unknown; send one that ActionChunk.msg names")
    if len(message.actions) != message.steps * message.dimensions or not len(message.actions):
        count, steps, dimensions = len(message.actions), message.steps, message.dimensions
        raise RefusedStep(f"an action chunk holds {count} values, not {steps} x {dimensions}; check who publishes it")
    return np.array(message.actions, dtype=np.float64).reshape(message.steps, message.dimensions)
