"""Training answers are the released text, to the letter."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.answer_templates import Wording, answer_text

DEPTH = np.arange(100).reshape(10, 10)
DEPTH_TEXT = "<DEPTH_START>" + "".join(f"<DEPTH_{k}>" for k in range(100)) + "<DEPTH_END>"
TRACE = np.array([[177, 102], [179, 97]])
ZERO, ONE = ACTION_SYMBOLS[127], ACTION_SYMBOLS[255]
STEP = f"[{', '.join([ZERO] * 6)}, {ONE}]"
ACTION = np.array([[0.0] * 6 + [1.0]])


def test_two_cameras() -> None:
    assert answer_text(DEPTH, TRACE, ACTION.repeat(8, axis=0), Wording.SEVERAL_CAMERAS) == (
        f" The depth map of the first image is {DEPTH_TEXT}. The trajectory of the end effector in the first image is "
        "[[177, 102], [179, 97]]. Based on these information, along with other images from different camera views as "
        f"additional information, the action that the robot should take is [{', '.join([STEP] * 8)}]."
    )


def test_one_camera_one_action() -> None:
    assert answer_text(DEPTH, TRACE, ACTION, Wording.ONE_CAMERA) == (
        f" The depth map of the image is {DEPTH_TEXT}. The trajectory of the end effector is [[177, 102], [179, 97]]. "
        f"Based on this information, the action that the robot should take is {STEP}."
    )


def test_the_fine_tuning_script_says_the_trace_of_each_arm() -> None:
    second = np.array([[3, 4]])
    assert answer_text(DEPTH, TRACE, ACTION, Wording.TWO_ARMS, second) == (
        f" The depth map of the image is {DEPTH_TEXT}. The trajectory of the left end effector is "
        "[[177, 102], [179, 97]]. The trajectory of the right end effector is [[3, 4]]. "
        f"Based on this information, the action that the robot should take is {STEP}."
    )
    assert "right end effector is [[177, 102], [179, 97]]" in answer_text(DEPTH, TRACE, ACTION, Wording.TWO_ARMS)


@pytest.mark.parametrize("wording", list(Wording))
def test_steered(wording: Wording) -> None:
    assert answer_text(None, None, ACTION, wording) == (
        " Based on the image and the annotated trajectory of the end effector, the action that the robot should take "
        f"is {STEP}."
    )


@pytest.mark.parametrize(
    ("depth", "trace", "actions"),
    [
        (DEPTH[:9], TRACE, ACTION),
        (DEPTH + 100, TRACE, ACTION),
        (DEPTH - 1, TRACE, ACTION),
        (DEPTH * 1.0, TRACE, ACTION),
        (DEPTH, TRACE[:0], ACTION),
        (DEPTH, TRACE.repeat(3, axis=0), ACTION),
        (DEPTH, TRACE + 100, ACTION),
        (DEPTH, TRACE - 110, ACTION),
        (DEPTH, TRACE * 1.0, ACTION),
        (DEPTH, None, ACTION),
        (DEPTH, TRACE, ACTION[0]),
        (DEPTH, TRACE, ACTION * np.nan),
    ],
)
def test_what_is_not_an_answer_is_not_written(depth: np.ndarray, trace: np.ndarray | None, actions: np.ndarray) -> None:
    with pytest.raises(RefusedStep):
        answer_text(depth, trace, actions)
