"""Builds MolmoAct 2's input from an observation: ids of the whole prompt, and its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from molmoact_ros.engine.model.checkpoint import text_codec
from molmoact_ros.engine.model.image_processor import ImageInputs
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config, RobotProcessorConfig
from molmoact_ros.engine.molmoact2.images import RobotImageProcessor
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.reasoning.robot_stats import TagScaling
from molmoact_ros.reasoning.state_prompt import normalise_task, robot_prompt, state_text, wrapped

ROOM = 128  # tokens of a cache behind the prompt: a depth map, and drafts


@dataclass(frozen=True)
class RobotPrompt:
    """The model's input: ids int64 [S] of the whole sequence, and the images of its image tokens."""

    ids: np.ndarray
    images: ImageInputs


class RobotPromptMaker:
    """Makes the prompts of one norm_tag.

    maker = RobotPromptMaker(config, processor, tokenizer, TagScaling(stats, "franka_droid"))
    asked = maker.ask(observation, think=False)
    """

    def __init__(
        self, config: MolmoAct2Config, processor: RobotProcessorConfig, tokenizer: Tokenizer, scaling: TagScaling
    ) -> None:  # fmt: skip
        self.config, self.scaling = config, scaling
        self.codec, self.images = text_codec(tokenizer), RobotImageProcessor(processor.image_processor)
        metadata = scaling.metadata
        self._setup = wrapped(metadata.setup_type, "setup", config.add_setup_tokens)
        self._control = wrapped(metadata.control_mode, "control", config.add_control_tokens)

    def ask(self, observation: Observation, think: bool) -> RobotPrompt:
        """The prompt of an observation with a state. think: ask for a depth map first.

        Raises RefusedStep for a state that does not fit, and a prompt that is too long.
        """
        return RobotPrompt(self.ids(observation, think), self.images(observation.images))

    def ids(self, observation: Observation, think: bool) -> np.ndarray:
        """The ids int64 [S] of `ask`."""
        assert observation.state is not None
        state = state_text(self.scaling.bins(np.asarray(observation.state.values, np.float32)))
        text = robot_prompt(normalise_task(observation.instruction), self._setup, state, self._control, think)
        c, encode = self.config, self.codec.encode
        picture = [c.image_start_token_id, *[c.image_patch_id] * self.images.tokens, c.image_end_token_id]
        ids = [c.bos_token_id]
        for number in range(1, len(observation.images) + 1):
            ids += (encode(f"Image {number}") if len(observation.images) > 1 else []) + picture
        ids += encode(text)
        if len(ids) + ROOM > c.llm_config.max_position_embeddings:
            raise RefusedStep(f"the step needs {len(ids)} tokens; give fewer images or a shorter instruction")
        return np.array(ids, np.int64)
