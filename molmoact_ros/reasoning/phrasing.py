"""The words around an answer's values, and the writer of training answers (MolmoAct's text format)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmoact_ros.reasoning.actions import ACTION_SYMBOLS, bins_from_values
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.depth_codes import DEPTH_END, DEPTH_START, DEPTH_TOKENS, checked_depth_codes
from molmoact_ros.reasoning.trace import checked_trace

NEXT_VALUE = ", "
NEXT_GROUP = "], ["


@dataclass(frozen=True)
class Phrasing:
    """The fixed text of one form of answer. A reasoning answer has all parts; a steered one starts at `to_actions`."""

    to_depth: str | None
    to_trace: str | None
    to_actions: str
    end: str

    @classmethod
    def of(cls, cameras: int, steered: bool, steps: int) -> Phrasing:
        """The form that answers a prompt about `cameras` images with `steps` actions."""
        opening, end = ("[[", "]].") if steps > 1 else ("[", "].")
        action = f"the action that the robot should take is {opening}"
        if steered:
            based = "Based on the image and the annotated trajectory of the end effector"
            return cls(None, None, f" {based}, {action}", end)
        if cameras == 1:
            image, place, based = "image", "", "Based on this information"
        else:
            image, place = "first image", " in the first image"
            based = (
                "Based on these information, along with other images from different camera views as additional "
                "information"
            )
        return cls(
            to_depth=f" The depth map of the {image} is {DEPTH_START}",
            to_trace=f"{DEPTH_END}. The trajectory of the end effector{place} is [[",
            to_actions=f"]]. {based}, {action}",
            end=end,
        )


def answer_text(
    depth_codes: np.ndarray | None, trace: np.ndarray | None, normalised_actions: np.ndarray, cameras: int
) -> str:
    """The answer, as the model should write it (without the end token).

    depth_codes: integers [10, 10] in 0..127; trace: integers [n, 2] in 0..255, n 1..5; both None for the steered form.
    normalised_actions: float [N, D] in [-1, 1]. Raises RefusedStep for wrong shapes, ranges or NaN.
    """
    bins = bins_from_values(normalised_actions)
    if bins.ndim != 2 or not bins.size:
        raise RefusedStep(f"actions must be [N, D]; got shape {list(bins.shape)}")
    if (depth_codes is None) != (trace is None):
        raise RefusedStep("give both depth codes and trace, or neither for the steered form")
    phrasing = Phrasing.of(cameras, steered=depth_codes is None, steps=len(bins))
    actions = NEXT_GROUP.join(NEXT_VALUE.join(ACTION_SYMBOLS[k] for k in row) for row in bins)
    text = phrasing.to_actions + actions + phrasing.end
    if depth_codes is None or trace is None:
        return text
    depth = "".join(DEPTH_TOKENS[code] for code in checked_depth_codes(depth_codes).flat)
    points = NEXT_GROUP.join(f"{x}{NEXT_VALUE}{y}" for x, y in checked_trace(trace))
    return f"{phrasing.to_depth}{depth}{phrasing.to_trace}{points}{text}"
