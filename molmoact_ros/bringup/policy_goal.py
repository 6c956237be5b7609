"""The goal of a policy that an operator corrects: begun and ended with the episode, and once more when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rclpy.action import ActionClient
from rclpy.task import Future

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.ros.contained import ContainedNode

TIMEOUT: Final = 600.0
"""s for the task: the operator ends an episode long before."""


class PolicyGoal:
    """One goal at a time.

    Args:
        node: owns the action client.
        policy: the policy's node name; empty: there is none, and no goal begins.
        tell: receives a line for people.
    """

    def __init__(self, node: ContainedNode, policy: str, tell: Callable[[str], None]) -> None:
        self._node, self.name, self._tell = node, policy, tell
        self._client = ActionClient(node, ExecuteInstruction, f"{policy}/execute") if policy else None
        self._goal: Any = None
        self._wanted = False
        self.ended = ""
        """Why the last goal ended or did not begin, though nobody ended it, in one line; empty: it goes on."""

    def why_not_ready(self) -> str:
        """Why no goal can begin, in one line; empty: one can."""
        if self._client is None:
            return "there is no policy in this session; name it with --policy"
        there = self._client.server_is_ready()
        return "" if there else f"no policy answers at {self.name}/execute; start it first"

    def begin_goal(self, instruction: str) -> str:
        """Let the policy do `instruction`; why that is impossible, in one line; empty: it begins."""
        self.ended = self.why_not_ready()
        if self.ended or self._client is None:
            return self.ended
        self._wanted = True
        goal = ExecuteInstruction.Goal(instruction=instruction, timeout=TIMEOUT)
        self._node.when_done(self._client.send_goal_async(goal), self._on_goal)
        return ""

    def end_goal(self) -> None:
        """Cancel the goal: the arm holds, if the policy moves it."""
        goal, self._goal, self._wanted = self._goal, None, False
        if goal is not None:
            goal.cancel_goal_async()

    def _on_goal(self, sent: Future) -> None:
        goal = sent.result()
        if not goal.accepted:
            self.ended = "the policy did not accept the task; see its log"
            self._tell(self.ended)
            return
        self._goal = goal
        if not self._wanted:  # it was ended before it was accepted
            self.end_goal()
        self._node.when_done(goal.get_result_async(), lambda done: self._on_end(goal, done))

    def _on_end(self, goal: Any, done: Future) -> None:
        if goal is self._goal:
            self._goal, self.ended = None, f"the policy has ended: {done.result().result.message}"
            self._tell(f"{self.ended}; `policy` lets it go on")
