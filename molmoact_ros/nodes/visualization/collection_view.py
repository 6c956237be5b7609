"""What browsers see of a collection of demonstrations, and of trials."""

from __future__ import annotations

import math
import time
from typing import Any, Final

from rclpy.node import Node

from molmoact_ros.msg import Episode
from molmoact_ros.nodes.teleop.client import name_of
from molmoact_ros.ros import qos

STATES: Final = {
    getattr(Episode, name): name.lower()
    for name in ("WAITING", "HOMING", "COUNTDOWN", "RECORDING", "CHECKING", "REVIEW", "DONE")
}
"""Names of the states of a collection."""
SILENT: Final = 2.0
"""s without a message after which nothing is collected any more; there are five a second."""
LONGEST: Final = 500
"""Characters of a text that browsers receive."""
MOST: Final = 20
"""Problems of an episode, and steps of a rubric, that browsers receive."""


class CollectionView:
    """The newest message of a node that collects demonstrations."""

    def __init__(self, node: Node, collector: str) -> None:
        """collector: the node's name."""
        self._newest, self._heard = Episode(), -math.inf
        node.create_subscription(Episode, f"{collector}/episode", self._on_episode, qos.STATE)

    def _on_episode(self, message: Episode) -> None:
        self._newest, self._heard = message, time.monotonic()

    @property
    def state(self) -> dict[str, Any] | None:
        """The collection for browsers; None: nothing is collected."""
        of = self._newest
        if time.monotonic() - self._heard > SILENT:
            return None
        return {
            "state": name_of(STATES, of.state), "message": of.message[:LONGEST], "task": of.task[:LONGEST],
            "number": of.number, "left": _known(of.left), "elapsed": _known(of.elapsed), "kept": of.kept,
            "failed": of.failed, "discarded": of.discarded, "wanted": of.wanted,
            "interventions": len(of.intervention_begins), "problems": [line[:LONGEST] for line in of.problems[:MOST]],
            "scene": of.scene[:LONGEST], "rubric": [line[:LONGEST] for line in of.rubric[:MOST]],
            "done": list(of.done[:MOST]),
        }  # fmt: skip


def _known(value: float) -> float:
    return round(value, 2) if math.isfinite(value) else 0.0
