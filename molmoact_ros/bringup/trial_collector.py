"""Trials of policies as episodes that are collected: the same begin, end, recorder and checks, then a score."""

from __future__ import annotations

from collections.abc import Callable

from molmoact_ros.bringup.collector import CollectorConfig, CollectorNode
from molmoact_ros.bringup.episode_recorder import EpisodeRecorder
from molmoact_ros.bringup.policy_goal import PolicyGoal
from molmoact_ros.datasets.collection import CollectionEvent, CollectionState
from molmoact_ros.datasets.episode_record import EpisodeRecord, SessionFolder
from molmoact_ros.datasets.episode_review import why_not_written


class TrialCollector(CollectorNode):
    """A collector whose verdict is a score: what keeps an episode is `keep_scored`, and no button.

    veiled: gives a line for people without the names of policies.
    """

    def __init__(
        self, config: CollectorConfig, session: SessionFolder, recorder: EpisodeRecorder, tell: Callable[[str], None],
        veiled: Callable[[str], str],
    ) -> None:  # fmt: skip
        self._veiled, self._limit = veiled, float("inf")
        self._policies: dict[str, PolicyGoal] = {}
        super().__init__(config, session, recorder, tell)

    def prepare_trial(self, instruction: str, limit: float, node: str) -> str:
        """The next episode is a trial of the policy `node`, at most `limit` s long.

        Returns why that cannot be stored, in one line; empty: it is.
        """
        if node not in self._policies:
            self._policies[node] = PolicyGoal(self, node, self._say)
        self._policy, self._limit, self._session.task = self._policies[node], limit, instruction
        return why_not_written(self._session.write)

    @property
    def record(self) -> EpisodeRecord | None:
        """Of the episode that goes on, or was the last one; None: there was none."""
        return self._review.record

    @property
    def is_policy_ready(self) -> bool:
        """Whether the policy of the next trial answers."""
        return not self._policy.why_not_ready()

    def command(self, name: str, notes: str = "", task: str = "") -> str:
        """As for a collector, except what would change a trial, or keep it without a score."""
        if task and task != self._session.task:
            return "the sheet says what the task of each trial is"
        if name == "policy":
            return "a trial is one attempt of the policy; end it, and discard it if something disturbed it"
        if name in ("keep", "fail", "redo", "next") and self.collection.state is CollectionState.REVIEW:
            return "score the trial in its terminal, which keeps it; or discard it, and it is repeated"
        return self._veiled(super().command(name, notes, ""))

    def keep_scored(self) -> str:
        """Keep the episode, whose score is stored. Returns why that is impossible, in one line; empty: it is kept."""
        return super().command("keep")

    def _watch_recording(self) -> None:
        super()._watch_recording()
        if self.elapsed > self._limit and self.collection.state is CollectionState.RECORDING:
            self._say(f"the {self._limit:g} s of the trial are over")
            self._apply(CollectionEvent.END)

    def _say(self, line: str) -> None:
        super()._say(self._veiled(line))
