"""Whether speculative decoding changes anything: a closed loop that decodes every answer again without drafts."""

from __future__ import annotations

import argparse
import json
import resource
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from molmoact_ros.engine.decoding.decoder import CachedDecoder, TorchModelRunner
from molmoact_ros.engine.decoding.speculative import WIDE, AnswerCache, DraftConfig
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.evaluation.rollout import closed_loop
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.arguments import (
    add_checkpoint,
    add_json,
    add_seed,
    add_steps,
)
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

NO_GUESSES = DraftConfig(nodes=0, around=False, patient=False, measured=False)
WIDE_EVERY = 10  # steps; wide passes are slow on a processor
WARM = 100  # steps after which a process has allocated what it needs


@dataclass
class Exactness:
    """steps: answers compared; unequal: how many differed in a token; wide: how many were compared with wide drafts
    too; apart: for how many torch's own passes, one token at a time, differ (two scores equal to the last digits);
    passes, plain_passes: mean forward passes of an answer with drafts and without; grown: MB by which this process'
    peak memory grew after the first WARM steps."""

    steps: int = 0
    unequal: int = 0
    wide: int = 0
    apart: int = 0
    passes: float = 0.0
    plain_passes: float = 0.0
    grown: float = 0.0


def exactness(
    robot: Path, engine: TorchEngine, steps: int, seed: int, tick: Callable[[Exactness], None] = lambda _: None
) -> Exactness:
    """Compare the answers of `steps` steps of lock-step episodes from scene `seed` on; `tick` receives each result."""
    found, guessing = Exactness(), engine.draft
    ours, torchs = engine.decoder, CachedDecoder(TorchModelRunner(engine.model, engine.decoder.passes.capacity))
    passes: list[tuple[int, int]] = []
    before = 0.0

    def watch(observation: Observation, _: Reasoning) -> None:
        nonlocal before
        said, spent, kept = engine.tokens, engine.timings.counts.passes, engine.lasts
        widths = [NO_GUESSES, *([WIDE] if found.steps % WIDE_EVERY == 0 else [])]
        answers = [_again(engine, observation, width, kept) for width in widths]
        engine.decoder = torchs
        found.apart += _again(engine, observation, NO_GUESSES, kept)[0] != said
        engine.decoder, engine.draft, engine.lasts = ours, guessing, kept
        found.steps, found.wide = found.steps + 1, found.wide + len(answers) - 1
        found.unequal += any(tokens != said for tokens, _ in answers)
        passes.append((spent, answers[0][1]))
        found.passes, found.plain_passes = (float(x) for x in np.mean(passes, axis=0))
        before = _peak() if found.steps <= WARM else before
        found.grown = _peak() - before
        tick(found)

    closed_loop(robot, engine, steps, seed, watch)
    return found


def _again(
    engine: TorchEngine, observation: Observation, width: DraftConfig, lasts: dict[bool, deque[AnswerCache]]
) -> tuple[list[int], int]:
    """The answer's tokens with other drafts, and its passes; the newest of `lasts` is the answer itself."""
    engine.draft = width
    engine.lasts = {steered: deque(list(memories)[1:], memories.maxlen) for steered, memories in lasts.items()}
    for _ in engine.reason(observation):
        pass
    return engine.tokens, engine.timings.counts.passes


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    add_steps(parser)
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""

    engine = TorchEngine.load(checkpoint_of(args), threads=1)
    with tqdm(total=args.steps, unit="step", mininterval=5) as bar:

        def tick(found: Exactness) -> None:
            bar.update()
            bar.set_postfix(unequal=found.unequal)

        found = exactness(robot_model(), engine, args.steps, args.seed, tick)
    print(
        f"{found.steps} answers in closed loop, {found.unequal} unequal with and without guesses ({found.wide} with "
        f"wide ones too), {found.apart} unequal to torch's own passes; {found.passes:.1f} passes an answer instead of "
        f"{found.plain_passes:.1f}; memory grew by {found.grown:.1f} MB"
    )
    if args.json:
        write_whole(args.json, json.dumps({"seed": args.seed, **machine(engine.digest), **asdict(found)}, indent=1))
    return 1 if found.unequal else 0
