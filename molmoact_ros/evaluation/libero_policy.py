"""Who plans LIBERO's episodes: a checkpoint through an engine, or the scripted expert. Both plan inputs of OSC_POSE."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from molmoact_ros.control.osc_pose import NO_OP, osc_inputs
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.evaluation.libero_images import released_image
from molmoact_ros.evaluation.suite_report import PlanLog
from molmoact_ros.reasoning.action_convention import RELEASED
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.libero_cell import LiberoCell
from molmoact_ros.training.libero_demonstrations import cell_images
from molmoact_ros.training.libero_expert import CHUNK_STEPS, LiberoExpert
from molmoact_ros.visualization.overlay import draw_for_people
from molmoact_ros.visualization.video import compose_cameras


class LiberoPolicy(Protocol):
    """Plans the episodes of one LiberoCell after the other."""

    needs_cameras: bool
    name: str
    """Of its checkpoint's digest, or what else planned."""

    def begin(self, cell: LiberoCell) -> None:
        """A new episode: `cell` was reset."""

    def plan(self, cell: LiberoCell, now: float, log: PlanLog) -> np.ndarray:
        """The next inputs float64 [N, 7] of OSC_POSE, from what there is to see at `now`, s."""
        ...


class ExpertPolicy:
    """The scripted expert."""

    needs_cameras = False
    name = "scripted expert"

    def begin(self, cell: LiberoCell) -> None:
        """See LiberoPolicy."""
        self._expert = LiberoExpert(cell)

    def plan(self, cell: LiberoCell, now: float, log: PlanLog) -> np.ndarray:
        """See LiberoPolicy: float64 [N, 7]."""
        return self._expert.plan(self._expert.observe(), CHUNK_STEPS).chunk()


class EnginePolicy:
    """A checkpoint through the engine that is deployed.

    Images are those of the released evaluation where the checkpoint has one of its un-normalisation keys, else as the
    cameras see them. A refused step is one input that moves nothing, as in the released evaluation.
    """

    needs_cameras = True

    def __init__(self, engine: Engine) -> None:
        """Raises ValueError, in one line that says what to do, for a checkpoint that was not made for LIBERO."""
        osc_inputs(np.zeros((1, 7)), engine.convention)
        self._engine, self.name = engine, f"{engine.digest} {engine.unnorm_key}"
        self._released, self._last = engine.unnorm_key in RELEASED, np.array(NO_OP)

    def begin(self, cell: LiberoCell) -> None:
        """See LiberoPolicy."""
        self._last = np.array(NO_OP)
        self._engine.forget()

    def camera_images(self, cell: LiberoCell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The front and the wrist image, uint8 [H, W, 3], and the front depth, float32 [H, W] m; see `cell_images`."""
        return cell_images(cell)

    def plan(self, cell: LiberoCell, now: float, log: PlanLog) -> np.ndarray:
        """See LiberoPolicy: float64 [N, 7]."""
        front, wrist, depth = self.camera_images(cell)
        if self._released:
            front, wrist = released_image(front), released_image(wrist)
        measured = None if self._released else depth  # which is not cropped
        seen = Observation((front, wrist), cell.task.instruction, now, depth=measured)
        try:
            *_, reasoning = self._engine.reason(seen)
            if reasoning.actions is None:
                raise RefusedStep("the answer has no actions")
        except RefusedStep as refusal:
            log.refusals.append(str(refusal))
            return np.array([[0.0] * 6 + [self._last[6]]])
        log.seconds.append(self._engine.timings.total)
        shown = front if reasoning.trace is None else draw_for_people(front, reasoning.trace)
        log.frames.append(compose_cameras(shown, [wrist], cell.task.instruction, f"plan {len(log.seconds)}"))
        inputs = osc_inputs(reasoning.actions, self._engine.convention)
        self._last = inputs[-1]
        return inputs
