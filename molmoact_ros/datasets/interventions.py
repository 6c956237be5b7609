"""Interventions: when a person took over from a policy."""

from __future__ import annotations

from typing import Final

POLICY: Final = 1
TELEOP: Final = 4
"""Numbers of these states in SafetyStatus.msg."""


class Interventions:
    """Collects the stretches of one episode in which a person moved the arm after the policy had moved it.

    What a person does before the policy has moved the arm, or without one, is a demonstration and no intervention.

        interventions = Interventions()
        interventions.observe_state(2.0, POLICY)
        interventions.observe_state(3.5, TELEOP)
        interventions.until(4.0)  # [(3.5, 4.0)]
    """

    def __init__(self) -> None:
        self._policy_moved = False
        self._since: float | None = None
        self._done: list[tuple[float, float]] = []

    def observe_state(self, stamp: float, state: int) -> None:
        """Process the controller's state at `stamp`, s; stamps increase."""
        self._policy_moved |= state == POLICY
        if state == TELEOP and self._policy_moved:
            self._since = stamp if self._since is None else self._since
        elif self._since is not None:
            self._done.append((self._since, stamp))
            self._since = None

    def until(self, end: float) -> list[tuple[float, float]]:
        """The intervals so far, s; one that goes on ends at `end`, s."""
        return [*self._done, *([] if self._since is None else [(self._since, max(end, self._since))])]
