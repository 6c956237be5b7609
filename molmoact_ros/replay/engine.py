"""Replay into the engine: the recorded images, as fast as possible, without ROS and without a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from molmoact_ros.bags.plans import RecordedAnswer
from molmoact_ros.bags.recording import Recording, Step
from molmoact_ros.control.action_conversion import SPACES, convert_actions
from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation

STEERED = ReasoningMode.STEERED.value


def replay_engine(
    engine: Engine, recording: Recording, steps: Sequence[Step], mode: ReasoningMode | None = None,
    watch: Callable[[Observation, RecordedAnswer], None] = lambda observation, answer: None,
) -> Iterator[RecordedAnswer]:  # fmt: skip
    """The engine's answer to each step, in order.

    mode: overrides the recorded modes. watch: is called with the observation and the answer of each step.
    """
    for step, observation in recording.observations(steps):
        asked = step.answer
        wanted = mode or ReasoningMode(asked.mode if asked.mode != STEERED else ReasoningMode.FULL.value)
        began = time.perf_counter()
        try:
            *_, said = engine.reason(observation, wanted)
        except RefusedStep as refusal:
            answer = replace(_asked(asked, engine.digest), refused=str(refusal))
        else:
            answer = replace(
                _asked(asked, engine.digest), mode=engine.timings.mode.value, tokens=list(engine.tokens),
                depth=said.depth_codes, trace=said.trace,
                actions=None if said.actions is None else _published(said.actions, engine.convention),
                seconds=time.perf_counter() - began, seed=engine.seed, flow_steps=engine.flow_steps,
            )  # fmt: skip
        watch(observation, answer)
        yield answer


def _published(actions: np.ndarray, convention: ActionConvention) -> np.ndarray:
    """Actions [N, D] as the policy publishes them; as they are where that needs the pose of the hand."""
    values = SPACES[convention.space].dimensions
    if convention.frame == "hand" or actions.shape[1] % values:
        return np.asarray(actions, np.float64)
    return convert_actions(actions, convention, actions.shape[1] // values)


def _asked(answer: RecordedAnswer, digest: str) -> RecordedAnswer:
    """The same step without its recorded answer."""
    return RecordedAnswer(
        answer.plan_id, answer.stamp, answer.mode, answer.instruction, digest, answer.frames, answer.drawn,
        dt=answer.dt, state=answer.state,
    )  # fmt: skip
