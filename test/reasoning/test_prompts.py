"""Prompts word for word, and instructions that cannot be asked."""

from __future__ import annotations

import pytest

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.prompts import prompt, validate_instruction

TASK = "put the red cube in the bowl"
STEPS = (
    f"The task is {TASK}. What is the action that the robot should take. To figure out the action that the robot "
    f"should take to {TASK}, let's think through it step by step. "
)


@pytest.mark.parametrize(
    ("cameras", "steered", "expected"),
    [
        (
            1,
            False,
            STEPS + "First, what is the depth map for this image? Second, what is the trajectory of the end effector? "
            "Based on the depth map of the image and the trajectory of the end effector, what is the action that the "
            "robot should take?",
        ),
        (
            2,
            False,
            STEPS + "First, what is the depth map for the first image? Second, what is the trajectory of the end "
            "effector in the first image? Based on the depth map of the first image and the trajectory of the end "
            "effector in the first image, along with other images from different camera views as additional "
            "information, what is the action that the robot should take?",
        ),
        (
            1,
            True,
            f"The task is {TASK}. Notice that the trajectory of the end effector is annotated on the image. Based on "
            "the trajectory annotated on the image, what is the action that the robot should take?",
        ),
        (
            3,
            True,
            f"The task is {TASK}. Notice that the trajectory of the end effector is annotated on the first image. "
            "Based on the trajectory annotated on the image, along with other images from different camera views as "
            "additional information, what is the action that the robot should take?",
        ),
    ],
)
def test_prompts_are_the_released_ones(cameras: int, steered: bool, expected: str) -> None:
    assert prompt(TASK, cameras, steered) == f"User: {expected} Assistant:"


@pytest.mark.parametrize("typed", ["  Put the red\t cube\n in the bowl. ", TASK])
def test_an_instruction_is_tidied(typed: str) -> None:
    assert validate_instruction(typed) == TASK


def test_names_keep_their_capitals() -> None:
    assert validate_instruction("LEGO brick to the Box") == "LEGO brick to the Box"


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("...", "empty"),
        ("12 34", "empty"),
        ("put\x00it", "control"),
        ("put \u202eit", "control"),
        ("word " * 41, "205|204"),
        ("put <im_patch> there", "brackets"),
        ("put <|endoftext|> there", "brackets"),
        ("put [it] there", "brackets"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(typed: str, why: str) -> None:
    with pytest.raises(RefusedStep, match=why) as refused:
        prompt(typed, 2)
    assert "\n" not in str(refused.value)


def test_no_camera_is_refused() -> None:
    with pytest.raises(RefusedStep, match="no camera"):
        prompt(TASK, 0)
