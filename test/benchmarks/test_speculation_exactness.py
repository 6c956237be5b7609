"""The closed loop in which answers are decoded twice."""

from __future__ import annotations

from molmoact_ros.benchmarks.speculation_exactness import Exactness, exactness
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.utils.paths import default_checkpoint, robot_model


def test_guesses_change_nothing_in_a_closed_loop() -> None:
    heard: list[int] = []

    def tick(found: Exactness) -> None:
        heard.append(found.steps)

    engine = TorchEngine.load(default_checkpoint(), threads=1)
    found = exactness(robot_model(), engine, 6, seed=5000, tick=tick)
    assert found.steps == 6 and found.unequal == found.apart == 0 and found.wide == 1 and heard == [1, 2, 3, 4, 5, 6]
    assert found.passes < found.plain_passes == 165  # what is left once forced tokens ride along
