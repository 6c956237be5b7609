"""The small MolmoAct 2's tokenizer: the released prompt with one token for each phrase, word and state."""

from __future__ import annotations

import re

from tokenizers import Tokenizer

from molmoact_ros.reasoning.robot_stats import STATE_BINS
from molmoact_ros.reasoning.state_prompt import END_OF_TURN, robot_prompt, state_text, wrapped
from molmoact_ros.sim.scene import LONG_SHAPES, SHAPES
from molmoact_ros.training.tokenizer import COLOURS, WORDS, tokenizer_of

SETUP, CONTROL = "single franka robotic arm in simulated workcell", "absolute joint pose"
IMAGE_FAMILY = (
    "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>", "<frame_start>",
    "<frame_end>",
)  # fmt: skip
"""The tokens behind the vocabulary, in the released order."""
STATES = tuple(f"<state_{number}>" for number in range(STATE_BINS))
_ROBOT = ("<action_start>", "<action_end>")  # no prompt holds them, but the released configuration names them


def build_robot_tokenizer() -> Tokenizer:
    """Build the tokenizer: a base vocabulary, followed by `IMAGE_FAMILY`. Each stretch of unknown text is `<unk>`."""
    return tokenizer_of(_pieces(), END_OF_TURN, "<extra_{}>", IMAGE_FAMILY)


def _pieces() -> list[str]:
    """Every text that is one token, in id order, without duplicates."""
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    words = [f" {word}" for word in (*(word for word in WORDS if word not in LONG_SHAPES), *names)]
    return list(dict.fromkeys(["Image 1", "Image 2", *_phrases(), *words, *STATES, *_ROBOT]))


def _phrases() -> list[str]:
    """The fixed texts of a prompt. A word of the task includes its leading space."""
    text = robot_prompt("{T}", wrapped(SETUP, "setup"), state_text([]), wrapped(CONTROL, "control"), think=False)
    parts = re.split(r"(<[^>]*>)| \{T\}", text)
    return [part for part in parts if part and part != END_OF_TURN]
