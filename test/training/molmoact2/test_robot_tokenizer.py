"""The small MolmoAct 2's tokenizer knows every instruction of the workcell, and every token that a prompt holds."""

from __future__ import annotations

import numpy as np

from molmoact_ros.reasoning.state_prompt import robot_prompt, state_text, wrapped
from molmoact_ros.sim.scene import OBJECTS, tasks_for
from molmoact_ros.training.molmoact2.robot_tokenizer import CONTROL, IMAGE_FAMILY, SETUP, build_robot_tokenizer
from molmoact_ros.training.tokenizer import UNKNOWN

TOKENIZER = build_robot_tokenizer()


def prompt(task: str) -> str:
    state = state_text(np.arange(8) * 36)
    return robot_prompt(task, wrapped(SETUP, "setup"), state, wrapped(CONTROL, "control"), think=False)


def test_every_task_is_read_in_known_words() -> None:
    for name in OBJECTS:
        for task in tasks_for(name):
            text = prompt(task.instruction)
            encoded = TOKENIZER.encode(text, add_special_tokens=False)
            assert UNKNOWN not in encoded.tokens and len(encoded.ids) < 40
            assert f" {name}" in encoded.tokens, "a thing's name is one token"
            assert TOKENIZER.decode(encoded.ids, skip_special_tokens=False) == text
    for strange in ("put the kettle in the bowl", "put the red bar in the bowl"):
        assert UNKNOWN in TOKENIZER.encode(prompt(strange), add_special_tokens=False).tokens


def test_image_tokens_are_behind_the_vocabulary() -> None:
    base = TOKENIZER.get_vocab_size(with_added_tokens=False)
    assert base % 64 == 0
    assert [TOKENIZER.token_to_id(token) for token in IMAGE_FAMILY] == list(range(base, base + len(IMAGE_FAMILY)))
