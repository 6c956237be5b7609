"""The trace: the gripper's planned path in the front image, its conversion to pixels, and the training overlay."""

from __future__ import annotations

import cv2
import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep

MAX_POINTS = 5
MAX_COORDINATE = 255
TRAINING_COLOUR = (0, 255, 255)
"""Cyan in RGB: the colour of the overlay in MolmoAct's training data."""
TRAINING_THICKNESS = 2


def checked_trace(trace: np.ndarray) -> np.ndarray:
    """`trace`, integers [n, 2] in 0..255 with n 1..5, as int64. Raises RefusedStep for anything else."""
    array = np.asarray(trace)
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] != 2 or not 1 <= len(array) <= MAX_POINTS:
        raise RefusedStep(f"a trace is 1..{MAX_POINTS} integer points (x, y); got {array.dtype} {list(array.shape)}")
    if array.min() < 0 or array.max() > MAX_COORDINATE:
        raise RefusedStep(f"trace points lie in 0..{MAX_COORDINATE}; got {array.min()}..{array.max()}")
    return array.astype(np.int64)


def trace_from_text(text: str) -> np.ndarray:
    """Parse a trace, int64 [n, 2] in 0..255, from "x,y;x,y". Raises RefusedStep for anything else."""
    try:
        points = [[int(n) for n in point.split(",")] for point in text.split(";")]
        return checked_trace(np.array(points))
    except (ValueError, OverflowError) as error:
        reason = error if isinstance(error, RefusedStep) else "it is not numbers"
        raise RefusedStep(f'the trace {text!r} is not of the form "x,y;x,y": {reason}') from None


def pixels_from_trace(trace: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels (column, row), int64 [n, 2], of trace points [n, 2] in 0..255 on an image of `width` x `height` pixels."""
    return np.round(np.asarray(trace) / MAX_COORDINATE * (width - 1, height - 1)).astype(np.int64)


def trace_from_pixels(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Trace points, int64 [n, 2] in 0..255, of `pixels` [n, 2] (column, row), clipped to the image.

    Raises RefusedStep for NaN or infinity.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    if not np.isfinite(pixels).all():
        raise RefusedStep("trace pixels hold NaN or infinity; give finite numbers")
    return np.clip(np.round(pixels / (width - 1, height - 1) * MAX_COORDINATE), 0, MAX_COORDINATE).astype(np.int64)


def draw_training_overlay(image: np.ndarray, trace: np.ndarray) -> np.ndarray:
    """A copy of `image`, uint8 [H, W, 3] RGB, with `trace`, int [n, 2] in 0..255, as the steered model expects it.

    The overlay is MolmoAct's: plain cyan segments, 2 pixels wide, no markers; a single point draws nothing.
    """
    canvas = np.ascontiguousarray(image).copy()
    trace = checked_trace(trace)
    if len(trace) > 1:
        points = pixels_from_trace(trace, canvas.shape[1], canvas.shape[0]).astype(np.int32)
        cv2.polylines(canvas, [points], False, TRAINING_COLOUR, TRAINING_THICKNESS, cv2.LINE_AA)
    return canvas
