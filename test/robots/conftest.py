"""A simulated robot behind the real protocol, one for each test."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from molmoact_ros.sim.franka_sim import FrankaSim
from molmoact_ros.utils.paths import robot_model

LOST = "communication_constraints_violation"
MISSED = re.compile(rf"{LOST}|[1-9][0-9]* of the last [0-9]+ missed")
"""What an error says where packets were lost: the robot may stop by a jump between those that came, too."""


def attempts(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test anew, up to `number` times: where a machine stands still for milliseconds, the robot rightly stops.

    A machine on which it stops each time, since packets were lost, can keep no loop of 1 kHz beside a controller.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: object, **kwargs: object) -> None:
            for _ in range(number - 1):
                try:
                    return test(*args, **kwargs)
                except (AssertionError, RuntimeError) as error:
                    print(f"once more, after: {error}")
            try:
                return test(*args, **kwargs)
            except RuntimeError as error:
                if MISSED.search(str(error)):
                    pytest.skip(f"{number} times: {error}")
                raise

        return run

    return decorate


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[FrankaSim]:
    with FrankaSim(robot_model(), tmp_path / "franka_sim.log") as robot:
        yield robot
