"""Whether another back end says what torch says: the same observations of lock-step episodes, put to both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.engine.vllm_backend.engine import ServedEngine
from molmoact_ros.evaluation.rollout import closed_loop
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation

TIE = 1e-4
"""Two tokens whose scores differ by less than this share of the largest score are a tie of float32."""


@dataclass
class Difference:
    """Where two answers part: the step, the token's place in the answer, both tokens, and by how much torch's score of
    its own is above that of the other, as a share of the largest score."""

    step: int
    place: int
    said: int
    other: int
    gap: float


@dataclass
class Agreement:
    """steps: answers compared; seconds, events: of the other back end, all steps together (an event brings one token or
    more); tokens: of its answers."""

    steps: int = 0
    seconds: float = 0.0
    torch_seconds: float = 0.0
    events: int = 0
    tokens: int = 0
    differences: list[Difference] = field(default_factory=list)


def agreement(
    robot: Path, engine: TorchEngine, other: ServedEngine, steps: int, seed: int,
    tick: Callable[[Agreement], None] = lambda _: None,
) -> Agreement:  # fmt: skip
    """Compare the answers of `steps` steps of episodes from scene `seed` on, which torch drives."""
    found = Agreement()

    def watch(observation: Observation, _: Reasoning) -> None:
        found.torch_seconds += engine.timings.total
        for _ in other.reason(observation):
            pass
        found.seconds += other.timings.total
        found.events += sum(counts.passes for counts in other.timings.counts.segments.values())
        found.tokens += len(other.tokens)
        if other.tokens != engine.tokens:
            found.differences.append(_difference(engine, observation, found.steps, other.tokens))
        found.steps += 1
        tick(found)

    closed_loop(robot, engine, steps, seed, watch)
    return found


@torch.inference_mode()
def _difference(engine: TorchEngine, observation: Observation, step: int, tokens: list[int]) -> Difference:
    said = engine.tokens
    place = next(i for i, (a, b) in enumerate(zip(said, tokens, strict=False)) if a != b)
    asked = engine.ask(observation)
    embeddings = engine.embed(asked, engine.see(asked.pictures))
    answer = engine.model.embed(torch.tensor([said[:place]], device=engine.device), None)[0]
    hidden = engine.model.run(torch.cat([embeddings, answer])[None])[0, -1]
    scores = engine.model.logits(hidden).float()
    gap = float(scores[said[place]] - scores[tokens[place]]) / float(scores.abs().max())
    return Difference(step, place, said[place], tokens[place], gap)
