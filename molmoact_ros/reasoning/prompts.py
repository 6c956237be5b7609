"""Prompt templates, word for word as in MolmoAct's training."""

from __future__ import annotations

import re
import unicodedata

from molmoact_ros.reasoning.answer import RefusedStep

MAX_INSTRUCTION = 200
"""Maximum length of an instruction, characters; the robot data sets stay far below."""
MAX_TYPED = 500
"""Maximum length of the raw text, white space included, before clean-up, characters."""

_STEPS = (
    "The task is {T}. What is the action that the robot should take. To figure out the action that the robot should "
    "take to {T}, let's think through it step by step. "
)
_REASON_ONE = _STEPS + (
    "First, what is the depth map for this image? Second, what is the trajectory of the end effector? Based on the "
    "depth map of the image and the trajectory of the end effector, what is the action that the robot should take?"
)
_REASON_MANY = _STEPS + (
    "First, what is the depth map for the first image? Second, what is the trajectory of the end effector in the first "
    "image? Based on the depth map of the first image and the trajectory of the end effector in the first image, along "
    "with other images from different camera views as additional information, what is the action that the robot should "
    "take?"
)
_STEER_ONE = (
    "The task is {T}. Notice that the trajectory of the end effector is annotated on the image. Based on the "
    "trajectory annotated on the image, what is the action that the robot should take?"
)
_STEER_MANY = (
    "The task is {T}. Notice that the trajectory of the end effector is annotated on the first image. Based on the "
    "trajectory annotated on the image, along with other images from different camera views as additional information, "
    "what is the action that the robot should take?"
)


def prompt_template(cameras: int, steered: bool) -> str:
    """The whole prompt for `cameras` images, with `{T}` for the instruction. steered: the trace is drawn on the image.

    Raises RefusedStep for no camera.
    """
    if cameras < 1:
        raise RefusedStep("no camera image; start a camera or the simulator first")
    one, many = (_STEER_ONE, _STEER_MANY) if steered else (_REASON_ONE, _REASON_MANY)
    return f"User: {one if cameras == 1 else many} Assistant:"


def prompt(instruction: str, cameras: int, steered: bool = False) -> str:
    """The prompt for `instruction`. Raises RefusedStep for an invalid instruction."""
    return prompt_template(cameras, steered).replace("{T}", validate_instruction(instruction))


def validate_instruction(text: str) -> str:
    """`text` as the templates need it: single spaces, no final full stop, a lower-case start.

    Raises RefusedStep for text that is empty, too long, or holds control characters, brackets or bars.
    """
    if len(text) > MAX_TYPED:
        raise RefusedStep(f"the instruction has {len(text)} characters; say it in at most {MAX_INSTRUCTION}")
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") and not c.isspace() for c in text):
        raise RefusedStep("the instruction holds control characters; type it as plain words")
    instruction = " ".join(text.split()).rstrip(".")
    if not any(c.isalpha() for c in instruction):
        raise RefusedStep('the instruction is empty; say what to do, such as "put the red cube in the bowl"')
    if len(instruction) > MAX_INSTRUCTION:
        raise RefusedStep(f"the instruction has {len(instruction)} characters; say it in at most {MAX_INSTRUCTION}")
    if re.search(r"[<>\[\]{}|]", instruction):  # brackets could spell image, depth or action tokens
        raise RefusedStep("the instruction holds brackets or bars; type it as plain words")
    return re.sub(r"^([A-Z])(?=[a-z])", lambda first: first[0].lower(), instruction)
