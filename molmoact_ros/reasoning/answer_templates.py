"""Templates of the fixed text around an answer's values, and the formatter of training answers (MolmoAct's format)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import product

import numpy as np

from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, bins_from_values
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.depth_tokens import DEPTH_END, DEPTH_START, DEPTH_TOKENS, checked_depth_codes
from molmoact_ros.reasoning.trace import checked_trace

NEXT_VALUE = ", "
NEXT_GROUP = "], ["


class Wording(Enum):
    """The wording that a checkpoint was trained to reason in. The wording of steered answers is always the same."""

    ONE_CAMERA = "one_camera"  # the released checkpoints with one image
    SEVERAL_CAMERAS = "several_cameras"  # the released checkpoints with several images
    TWO_ARMS = "two_arms"  # the released fine-tuning script: one trace for the left and one for the right end effector


_BASED_ON_ONE = "Based on this information"
_BASED_ON_MANY = (
    "Based on these information, along with other images from different camera views as additional information"
)
_BASED_ON_TRACE = "Based on the image and the annotated trajectory of the end effector"
_OPENINGS = {
    Wording.ONE_CAMERA: ("image", "end effector", "", _BASED_ON_ONE),
    Wording.SEVERAL_CAMERAS: ("first image", "end effector", " in the first image", _BASED_ON_MANY),
    Wording.TWO_ARMS: ("image", "left end effector", "", _BASED_ON_ONE),
}


@dataclass(frozen=True)
class Phrasing:
    """The fixed text of one answer form with `steps` actions. A steered form starts at `to_actions`."""

    to_depth: str | None
    to_trace: str | None
    to_second_trace: str | None
    to_actions: str
    end: str
    steps: int

    @property
    def steered(self) -> bool:
        """Whether the answer follows a drawn trace and so holds actions only."""
        return self.to_depth is None

    @classmethod
    def steering(cls, steps: int) -> Phrasing:
        """The form of answers to a prompt with a drawn trace."""
        return cls(None, None, None, f" {_to_actions(_BASED_ON_TRACE, steps)}", _end(steps), steps)

    @classmethod
    def reasoning(cls, wording: Wording, steps: int) -> Phrasing:
        """The form with depth and trace before the actions."""
        image, hand, place, based = _OPENINGS[wording]
        second = "]]. The trajectory of the right end effector is [[" if wording is Wording.TWO_ARMS else None
        return cls(
            to_depth=f" The depth map of the {image} is {DEPTH_START}",
            to_trace=f"{DEPTH_END}. The trajectory of the {hand}{place} is [[",
            to_second_trace=second,
            to_actions=f"]]. {_to_actions(based, steps)}",
            end=_end(steps),
            steps=steps,
        )


def forms(steered: bool, steps: Iterable[int], wordings: Iterable[Wording]) -> tuple[Phrasing, ...]:
    """Every answer form with one of these action counts and, unless it is `steered`, one of these wordings."""
    if steered:
        return tuple(Phrasing.steering(n) for n in steps)
    return tuple(Phrasing.reasoning(wording, n) for wording, n in product(wordings, steps))


def _to_actions(based: str, steps: int) -> str:
    return f"{based}, the action that the robot should take is {'[[' if steps > 1 else '['}"


def _end(steps: int) -> str:
    return "]]." if steps > 1 else "]."


def answer_text(
    depth_codes: np.ndarray | None,
    trace: np.ndarray | None,
    normalised_actions: np.ndarray,
    wording: Wording = Wording.SEVERAL_CAMERAS,
    second_trace: np.ndarray | None = None,
) -> str:
    """Format the target answer for training (without the end token).

    depth_codes: integers [10, 10] in 0..127. trace, second_trace: integers [n, 2] in 0..255, n 1..5. Depth and trace
    are None for the steered form. Only TWO_ARMS uses second_trace; None repeats the trace, as the released script
    does. normalised_actions: float [N, D] in [-1, 1]. Raises RefusedStep for wrong shapes, ranges or NaN.
    """
    bins = bins_from_values(normalised_actions)
    if bins.ndim != 2 or not bins.size:
        raise RefusedStep(f"actions must be [N, D]; got shape {list(bins.shape)}")
    if (depth_codes is None) != (trace is None):
        raise RefusedStep("give both depth codes and trace, or neither for the steered form")
    actions = NEXT_GROUP.join(NEXT_VALUE.join(ACTION_SYMBOLS[k] for k in row) for row in bins)
    if depth_codes is None or trace is None:
        form = Phrasing.steering(len(bins))
        return form.to_actions + actions + form.end
    form = Phrasing.reasoning(wording, len(bins))
    depth = "".join(DEPTH_TOKENS[code] for code in checked_depth_codes(depth_codes).flat)
    text = f"{form.to_depth}{depth}{form.to_trace}{_points(trace)}"
    if form.to_second_trace is not None:
        text += form.to_second_trace + _points(trace if second_trace is None else second_trace)
    return text + form.to_actions + actions + form.end


def _points(trace: np.ndarray) -> str:
    return NEXT_GROUP.join(f"{x}{NEXT_VALUE}{y}" for x, y in checked_trace(trace))
