"""How many answers a second one engine gives to several robots at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from molmoact_ros.engine.decoding.batching import GatheredPasses
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.reasoning.observation import Observation

Row = dict[str, float]


def bench_batch(
    engine: TorchEngine, films: Sequence[Sequence[Observation]], counts: Sequence[int],
    tick: Callable[[], None] = lambda: None,
) -> list[Row]:  # fmt: skip
    """One row for each count of robots, each with a film of its own and asking without a pause.

    robots; rate: answers/s of all together; median: ms of a step; together: sequences in a pass, on average; turns:
    answers/s when the same robots are answered one after another.
    """
    return [_row(engine, films[:count], tick) for count in counts]


def _row(engine: TorchEngine, films: Sequence[Sequence[Observation]], tick: Callable[[], None]) -> Row:
    engines = engine.together(len(films))
    began = time.perf_counter()
    for robot, film in zip(engines, films, strict=True):
        _answer(robot, film)
    turns = time.perf_counter() - began
    passes = engines[0].decoder.passes
    assert isinstance(passes, GatheredPasses)
    passes.passes = passes.shares = 0
    steps: list[list[float]] = [[] for _ in films]
    threads = [
        threading.Thread(target=lambda i=i: steps[i].extend(_answer(engines[i], films[i]))) for i in range(len(films))
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, answers = time.perf_counter() - began, sum(map(len, films))
    tick()
    return {
        "robots": len(films), "rate": answers / seconds, "median": 1e3 * float(np.median(np.concatenate(steps))),
        "together": passes.shares / passes.passes, "turns": answers / turns,
    }  # fmt: skip


def _answer(engine: TorchEngine, film: Sequence[Observation]) -> list[float]:
    engine.forget()
    seconds = []
    for observation in film:
        began = time.perf_counter()
        for _ in engine.reason(observation):
            pass
        seconds.append(time.perf_counter() - began)
    return seconds
