"""Trials of policies as episodes that are collected: the same begin, end, recorder and checks, then a score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from std_srvs.srv import Trigger

from molmoact_ros.bringup.collector import CollectorConfig, CollectorNode
from molmoact_ros.bringup.episode_recorder import EpisodeRecorder
from molmoact_ros.bringup.policy_goal import PolicyGoal
from molmoact_ros.bringup.sealed_policies import POLICY, SealedPolicies
from molmoact_ros.control.teleop_devices import AGAIN
from molmoact_ros.datasets.collection import CollectionEvent, CollectionState
from molmoact_ros.datasets.episode_record import SessionFolder
from molmoact_ros.datasets.episode_review import why_not_written
from molmoact_ros.evaluation.trial_order import Trial
from molmoact_ros.evaluation.trial_session import TrialSession
from molmoact_ros.msg import EngineStatus, Episode, SafetyStatus
from molmoact_ros.ros import qos

STARTS: Final = 15.0
"""s within which a policy moves the arm, or has failed to begin."""
S, E = CollectionState, CollectionEvent
DUE: Final = {
    S.WAITING: "set the scene, then begin", S.RECORDING: "end the trial when it is done",
    S.CHECKING: "the trial is being checked; wait a moment",
    S.REVIEW: "mark what was done, then score; discard repeats the trial",
}  # fmt: skip
"""What is due in a trial, where that differs from a demonstration, one line."""
SCORED_BY: Final = ("keep", "fail", "redo", "next")
"""Commands that would keep or drop a demonstration."""


class TrialCollector(CollectorNode):
    """A collector whose verdict is a score, and whose policy is another one in each trial.

    Whatever ends a trial, the arm is told to hold; the next policy is started after the score, and moves nothing before
    the operator begins. A fault is no score: the trial is to be repeated, or scored twice, and then it is marked.

    Args:
        trials: a session with a trial that is due.
        policies: what is evaluated.
        tell: receives lines for people, without the names of policies.
    """

    def __init__(
        self, config: CollectorConfig, trials: TrialSession, policies: SealedPolicies, recorder: EpisodeRecorder,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.trials, self._policies = trials, policies
        self.done: list[bool] = []
        """Of each step of the rubric of the trial that is due: whether it is marked as done."""
        self._goals: dict[str, PolicyGoal] = {}
        self._is_alive = False  # a process of the policy has a heartbeat
        self._has_played = self._is_doubted = False  # the policy has moved the arm; a fault was shown to who scores
        folder = SessionFolder(trials.folder, trials.sheet.tasks[0].instruction, len(trials.order))
        trials.write()
        super().__init__(config, folder, recorder, tell)
        self.create_subscription(EngineStatus, f"{POLICY}/engine_status", self._on_engine, qos.SENSOR)
        self._hold = self.create_client(Trigger, f"{config.teleop.controller}/hold")
        self._prepare()

    def close(self) -> None:
        """As for a collector; and the policy ends."""
        if self.collection.state is S.RECORDING:
            self._hold_arm()
        super().close()
        self._policies.close()

    # Between trials

    def _prepare(self) -> None:
        """Start the policy of the trial that is due; its instruction is the next episode's task."""
        trial = self.trials.next
        if trial is None:
            return
        self.done, self._is_doubted = [False] * len(self.trials.sheet.task(trial.task).rubric), False
        self._start_policy(trial)
        self._session.task = self.trials.sheet.task(trial.task).words(trial.condition)
        if refusal := why_not_written(self._session.write):
            self._say(refusal)

    def _start_policy(self, trial: Trial) -> None:
        self._is_alive, node = False, self._policies.start(trial)
        if node not in self._goals:
            self._goals[node] = PolicyGoal(self, node, lambda line: None)
        self._policy = self._goals[node]

    def _on_engine(self, _: EngineStatus) -> None:
        self._is_alive = not self._policies.is_changing

    def _why_not_ready(self) -> str:
        trial, trouble = self.trials.next, self._policies.trouble
        if trial is not None and trouble:
            self._start_policy(trial)
            return f"the policy has ended: {trouble}; it is started again, begin when it is ready"
        return self._why_no_policy() or super()._why_not_ready()

    def _why_no_policy(self) -> str:
        if why := self._policies.trouble:
            return f"the policy has ended: {why}; begin starts it again"
        # Of a process that was killed the action server seems to be there for a while, but it has no heartbeat.
        silent = self._policies.runs_process and not self._is_alive
        if self._policies.is_changing or silent or self._policy.why_not_ready():
            return "the policy is not ready yet"
        name = self._policy.name
        there = [name for name, space in self.get_node_names_and_namespaces() if space == self.get_namespace()]
        return f"two nodes are called {name}; end the one that was started elsewhere" if there.count(name) > 1 else ""

    # The operator

    def command(self, name: str, notes: str = "", task: str = "", done: Sequence[bool] = ()) -> str:
        """As for a collector, except what would change a trial, or keep it without a score."""
        if task and task != self._session.task:
            return "the sheet says what the task of each trial is"
        if refusal := self._mark(done):
            return refusal
        if name == "policy":
            return "a trial is one attempt of the policy; end it, and discard it if something disturbed it"
        if name in SCORED_BY and self.collection.state is S.REVIEW:
            return "mark what was done, and score the trial; or discard it, and it is repeated"
        refusal = super().command("" if name == "score" else name, notes)
        if name == "score" and not refusal:
            refusal = self._score()
        return self._policies.veiled(refusal)

    def _mark(self, done: Sequence[bool]) -> str:
        if done and self.collection.state not in (S.RECORDING, S.CHECKING, S.REVIEW):
            return "there is nothing to score yet; begin the trial"
        if done and len(done) != len(self.done):
            return f"the rubric has {len(self.done)} steps, not {len(done)}; say of each whether it is done"
        self.done = list(done) or self.done
        return ""

    def _score(self) -> str:
        """Store the score of the trial, then keep its episode."""
        record = self._review.record
        if self.collection.state is not S.REVIEW or record is None:
            return f"'score' does nothing now: {self.line}"
        if not self._presses.press(time.monotonic()):
            return f"pressed again within {AGAIN:g} s; wait a moment, and press once"
        if record.ended_by and not self._is_doubted:
            self._is_doubted = True
            return f"{record.ended_by}: discard repeats the trial; to count it all the same, score once more"
        refusal = "" if self._is_scored else why_not_written(
            lambda: self.trials.store_score(
                self.done, record.number, record.end - record.begin, record.notes, record.ended_by,
                len(record.interventions),
            )
        )  # fmt: skip
        return refusal or self._on_operator(E.KEEP)

    @property
    def _is_scored(self) -> bool:
        """Whether the score of the episode at hand is stored, and it is only to be kept."""
        return self.collection.number in {score.episode for score in self.trials.scores}

    def _apply(self, event: CollectionEvent) -> None:
        before, record = self.collection.state, self._review.record
        if before is S.REVIEW and event is E.DISCARD and record is not None:
            refusal = why_not_written(lambda: self.trials.store_repeat(record.ended_by, record.notes))
            if refusal:
                self._say(refusal)
        super()._apply(event)
        after = self.collection.state
        if before is S.RECORDING and after is not before:
            self._hold_arm()
        elif before is S.REVIEW and after is S.WAITING:
            self._prepare()
        elif after is S.REVIEW and self._is_scored:
            self._on_operator(E.KEEP)  # the process was killed between a score and what keeps its episode

    def _hold_arm(self) -> None:
        if self._hold.service_is_ready():
            self._hold.call_async(Trigger.Request())

    # While it goes on

    def _enter_recording(self) -> None:
        self._has_played = False
        super()._enter_recording()

    def _watch_recording(self) -> None:
        super()._watch_recording()
        trial = self.trials.next
        if self.collection.state is not S.RECORDING or trial is None:
            return
        limit = self.trials.sheet.task(trial.task).limit
        if why := self._why_over():
            self._break(why)
        elif self.elapsed > limit:
            self._say(f"the {limit:g} s of the trial are over")
            self._apply(E.END)

    def _why_over(self) -> str:
        """The fault that ends the trial, one line; empty: none."""
        state = self.safety.state
        self._has_played |= state == SafetyStatus.POLICY
        if trouble := self._policies.trouble:
            return f"the policy has ended: {trouble}"
        if self._policy.ended:
            return self._policy.ended
        if self._has_played and state == SafetyStatus.HOLD:
            return f"the arm holds: {self.safety.reason}"
        begun = self._has_played or self.elapsed < STARTS
        return "" if begun else f"the policy has not moved the arm within {STARTS:g} s"

    # What is said

    def _say(self, line: str) -> None:
        super()._say(self._policies.veiled(line))

    @property
    def line(self) -> str:
        """What is due, or what went wrong, for people."""
        state = self.collection.state
        if state is S.REVIEW:  # what the check found is in `problems`
            return DUE[state]
        waits = self._why_no_policy() if state is S.WAITING and self.trials.next is not None else ""
        return self._line or self._policies.veiled(waits) or DUE.get(state, "") or super().line

    def _status(self) -> Episode:
        message, trial = super()._status(), self.trials.next
        if trial is not None:
            task = self.trials.sheet.task(trial.task)
            message.scene = task.scene(trial.condition)
            message.rubric = [f"{step.text} ({step.points:g})" for step in task.rubric]
            message.done = self.done
        return message
