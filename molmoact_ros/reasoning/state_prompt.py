"""MolmoAct 2's prompt, word for word as in its training: the task, the robot's setup, its state, and a question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.prompts import MAX_TYPED

START_OF_TURN: Final = "<|im_start|>"
END_OF_TURN: Final = "<|im_end|>"
_ACT: Final = "Given these, what action should the robot take to complete the task?"
_THINK: Final = (
    "Given these, first predict the depth map of the main image and then predict the action the robot should take to "
    "complete the task?"
)
_AROUND: Final = "\"'`“”‘’()[]{}<>"  # quotes, back-ticks and brackets, which may surround a task
_CLOSING: Final = "\"'`”’)]}>"
_PUNCTUATION: Final = ".,!?;:…"
_PREFIX: Final = re.compile(
    r"^(?:(?:task|instruction|language_instruction|goal)\s*[:\-]\s*|(?:the|your) task is to\s+)", re.IGNORECASE
)


def normalise_task(text: str) -> str:
    """An instruction as the training wrote it: without quotes, prefixes and final stops, in lower case.

    >>> normalise_task('task: Open the drawer. Then take out the "cup".')
    'open the drawer; then take out the "cup'
    """
    text = " ".join(text.split())
    while True:
        shorter = _PREFIX.sub("", text.strip(_AROUND).strip())
        shorter = shorter.rstrip(_PUNCTUATION + " ").rstrip(_CLOSING + " ").rstrip(_PUNCTUATION + " ")
        if shorter == text:
            break
        text = shorter
    parts = (part.strip() for part in re.split(r"[.!?]+", text))
    return "; ".join(part for part in parts if part).lower()


def check_task(text: str) -> None:
    """Raise RefusedStep for an instruction that is empty, too long, or could spell tokens of the model."""
    if len(text) > MAX_TYPED:
        raise RefusedStep(f"the instruction has {len(text)} characters; say it in at most {MAX_TYPED}")
    if re.search(r"[<>|]", text):
        raise RefusedStep("the instruction holds brackets or bars; type it as plain words")
    if not normalise_task(text):
        raise RefusedStep('the instruction is empty; say what to do, such as "put the red cube in the bowl"')


def state_text(bins: Sequence[int] | np.ndarray) -> str:
    """A state's bins, integers [D] in 0..255, as the model reads them."""
    return f"<state_start>{''.join(f'<state_{int(number)}>' for number in bins)}<state_end>"


def wrapped(words: str, name: str, wrap: bool = True) -> str:
    """Words between a pair of tokens, unless they have them already, or `wrap` is false."""
    first, last = f"<{name}_start>", f"<{name}_end>"
    return words if not wrap or first in words or last in words else f"{first}{words}{last}"


def robot_prompt(task: str, setup: str, state: str, control: str, think: bool) -> str:
    """What follows the images. task: as `normalise_task` gives it. setup, control: of the tag, `wrapped`. state: see
    `state_text`. think: predict a depth map before the actions.
    """
    question, trigger = (_THINK, "<depth_output><action_output>") if think else (_ACT, "<action_output>")
    words = (
        f"The task is to {task}. The setup is {setup}. The current state of the robot is {state}. The expected control "
        f"mode is {control}. {question}"
    )
    return f"{START_OF_TURN}user\n{words}{END_OF_TURN}\n{START_OF_TURN}assistant\n{trigger}"
