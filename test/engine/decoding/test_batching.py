"""Several robots, one engine: each is told what it would be told alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from molmoact_ros.benchmarks.throughput import bench_batch
from molmoact_ros.engine.decoding.batching import BatchingRunner
from molmoact_ros.engine.decoding.decoder import CachedDecoder, SequenceSlice, TorchModelRunner
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.paths import default_checkpoint

ROBOTS = 3


@pytest.fixture(scope="module", params=["native", "torch"])
def engine(request: pytest.FixtureRequest) -> TorchEngine:
    engine = TorchEngine.load(default_checkpoint(), threads=1)
    if request.param == "torch":
        engine.decoder = CachedDecoder(TorchModelRunner(engine.model, 512))
    return engine


def look(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    front, wrist = (rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(2))
    return Observation((front, wrist), "put the red cube in the bowl", 0.0)


def at_once(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def answers(engine: TorchEngine, robot: int) -> list[list[int]]:
    said = []
    for step in range(3):
        for _ in engine.reason(look(10 * robot + step)):
            pass
        said.append(engine.tokens)
    return said


def test_robots_together_hear_what_each_would_hear_alone(engine: TorchEngine) -> None:
    together = engine.together(ROBOTS)
    said: dict[int, list[list[int]]] = {}
    at_once([lambda i=i: said.update({i: answers(together[i], i)}) for i in range(ROBOTS)])  # type: ignore[misc]
    for robot in range(ROBOTS):
        engine.forget()
        assert said[robot] == answers(engine, robot)
    gathered = together[0].decoder.passes
    assert isinstance(gathered, BatchingRunner) and gathered.shares > gathered.passes > 0


def test_who_is_busy_elsewhere_holds_nobody_up(engine: TorchEngine) -> None:
    slow, quick = engine.together(2)
    started = slow.reason(look(0))
    next(started)  # in the midst of an answer, and not asked for more
    assert answers(quick, 1)


def test_a_pass_that_fails_is_told_to_all_and_the_next_one_is_made() -> None:
    class Fails(TorchModelRunner):
        broken = True

        def run(self, parts: Sequence[SequenceSlice]) -> list[torch.Tensor]:
            if self.broken:
                raise MemoryError("out of memory")
            return super().run(parts)

    engine = TorchEngine.load(default_checkpoint(), threads=1)
    passes = Fails(engine.model, 512)
    engine.decoder = CachedDecoder(passes)
    together, told = engine.together(2), []

    def ask(i: int) -> None:
        with pytest.raises(RuntimeError, match="out of memory") as failure:
            answers(together[i], i)
        told.append(failure)

    at_once([lambda i=i: ask(i) for i in range(2)])  # type: ignore[misc]
    assert len(told) == 2
    passes.broken = False
    assert answers(together[0], 0)


def test_every_figure_of_the_bench_is_there(engine: TorchEngine) -> None:
    rows = bench_batch(engine, [[look(i)] * 2 for i in range(2)], [1, 2])
    assert [row["robots"] for row in rows] == [1, 2]
    assert all(row["rate"] > 0 and row["turns"] > 0 and row["median"] > 0 for row in rows)
    assert rows[0]["together"] == 1 and 1 <= rows[1]["together"] <= 2
