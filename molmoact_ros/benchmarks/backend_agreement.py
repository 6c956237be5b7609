"""Token agreement of another back end with torch: both answer the same observations of lock-step episodes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.engine.vllm_backend.engine import VllmEngine
from molmoact_ros.evaluation.rollout import closed_loop
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.arguments import add_checkpoint, add_json, add_seed, add_steps
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

TIE = 1e-4
"""Two tokens whose scores differ by less than this share of the largest score are a tie of float32."""


@dataclass
class BackendDifference:
    """The first difference of two answers: the step, the token's position in the answer, both tokens, and by how much
    torch's score of its own token exceeds that of the other, as a share of the largest score."""

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
    differences: list[BackendDifference] = field(default_factory=list)


def agreement(
    robot: Path, engine: TorchEngine, other: VllmEngine, steps: int, seed: int,
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
def _difference(engine: TorchEngine, observation: Observation, step: int, tokens: list[int]) -> BackendDifference:
    said = engine.tokens
    place = next(i for i, (a, b) in enumerate(zip(said, tokens, strict=False)) if a != b)
    asked = engine.ask(observation)
    embeddings = engine.embed(asked, engine.see(asked.pictures))
    answer = engine.model.embed(torch.tensor([said[:place]], device=engine.device), None)[0]
    hidden = engine.model.run(torch.cat([embeddings, answer])[None])[0, -1]
    scores = engine.model.logits(hidden).float()
    gap = float(scores[said[place]] - scores[tokens[place]]) / float(scores.abs().max())
    return BackendDifference(step, place, said[place], tokens[place], gap)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    add_steps(parser)
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""

    engine = TorchEngine.load(checkpoint_of(args), threads=1)
    other = open_engine(EngineOptions(backend="vllm", answer_timeout=120.0), checkpoint_of(args))
    assert isinstance(other, VllmEngine)
    try:
        other.warm_up()
        with tqdm(total=args.steps, unit="step", mininterval=5) as bar:

            def tick(found: Agreement) -> None:
                bar.update()
                bar.set_postfix(unequal=len(found.differences))

            found = agreement(robot_model(), engine, other, args.steps, args.seed, tick)
    finally:
        other.close()
    real = [difference for difference in found.differences if not 0 <= difference.gap <= TIE]
    print(
        f"{found.steps} answers by vLLM and by torch: {found.steps - len(found.differences)} equal, "
        f"{len(found.differences) - len(real)} part at a tie, {len(real)} unequal; {found.seconds / found.steps:.2f} s "
        f"an answer by vLLM ({found.events / found.steps:.0f} passes), {found.torch_seconds / found.steps:.2f} s by "
        "torch"
    )
    for difference in found.differences:
        print(asdict(difference))
    if args.json:
        write_whole(args.json, json.dumps({"seed": args.seed, **machine(engine.digest), **asdict(found)}, indent=1))
    return 1 if real else 0
