"""The scripted expert in the place of a model, in lock-step: what the task allows, measured by the same command."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from molmoact_ros.engine.base import EngineTimings, ReasoningMode
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.reasoning.trace import trace_from_pixels
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.expert import Expert, see


class WorkcellExpert:
    """Plans from the ground truth of its workcell, whatever the observation shows."""

    def __init__(self, cell: Workcell) -> None:
        self._cell, self.timings = cell, EngineTimings()

    def reason(
        self, observation: Observation, mode: ReasoningMode = ReasoningMode.FULL,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[Reasoning]:  # fmt: skip
        """Yield the expert's trace and actions in the state that the workcell is in."""
        assert self._cell.scene is not None
        plan, k = Expert(self._cell.scene).plan(see(self._cell)), self._cell.cameras["front"]
        trace = trace_from_pixels(self._cell.project(plan.trace()), k.width, k.height)
        yield Reasoning(None, trace, plan.chunk(), complete=True)
