"""Which plans the operator has approved, as the controller itself sees it: by plan id, and by the actions shown."""

from __future__ import annotations

from typing import Final

import numpy as np

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, RefusedChunk

KEPT: Final = 8
"""Pending plans at most: a policy shows one at a time."""


class Consent:
    """Releases only plans that went through `show` and `approve`. An approved plan is played once."""

    def __init__(self) -> None:
        self._shown: dict[int, ActionChunk] = {}
        self._approved: int | None = None

    def show(self, chunk: ActionChunk) -> None:
        """Add a plan that waits for approval. The same plan id shown again counts as another plan."""
        if self._approved == chunk.plan_id:
            self._approved = None
        self._shown.pop(chunk.plan_id, None)
        self._shown[chunk.plan_id] = chunk
        for old in list(self._shown)[:-KEPT]:
            del self._shown[old]

    def approve(self, plan_id: int) -> str:
        """Approve the plan of this id. Returns why it cannot be approved, in one line; empty: it is."""
        if plan_id not in self._shown:
            return f"no plan {plan_id} has been shown for approval; look at the plan that waits, and approve that"
        if plan_id != list(self._shown)[-1]:
            return f"plan {plan_id} has been replaced by plan {list(self._shown)[-1]}; look at that one"
        self._approved = plan_id
        return ""

    def check(self, chunk: ActionChunk) -> None:
        """Raise RefusedChunk if the chunk is not approved. A chunk that moves no arm needs no approval."""
        if _is_standing_still(chunk):
            return
        if chunk.plan_id != self._approved:
            raise RefusedChunk(f"plan {chunk.plan_id} was not approved by anybody; call approve_plan first")
        shown = self._shown[chunk.plan_id]
        same = (shown.dt, shown.space) == (chunk.dt, chunk.space)
        if not same or not np.array_equal(np.asarray(shown.actions), np.asarray(chunk.actions)):
            raise RefusedChunk(f"plan {chunk.plan_id} is not what was shown and approved under that number")

    def used(self, chunk: ActionChunk) -> None:
        """The chunk is played: consume its approval."""
        if chunk.plan_id == self._approved:
            self._approved = None

    def forget(self) -> None:
        """Forget all plans and approvals."""
        self._shown.clear()
        self._approved = None


def _is_standing_still(chunk: ActionChunk) -> bool:
    """Whether its actions move no arm (grippers aside: they keep their last command)."""
    actions = np.asarray(chunk.actions, np.float64)
    if chunk.space is not ActionSpace.DELTA_EE or chunk.plan_id or actions.ndim != 2:
        return False
    arms = actions.shape[1] // chunk.space.dimensions
    return not actions[:, : 6 * arms].any()
