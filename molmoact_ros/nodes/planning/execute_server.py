"""ExecuteInstruction: one goal at a time, which can be cancelled at any moment and times out from its acceptance on.

Nothing here blocks: a timer advances a goal's stages ten times a second, by a clock that nobody can set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Final, Protocol, TypeAlias

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.nodes.planning.controller_client import ControllerClient

Goal: TypeAlias = ExecuteInstruction.Goal
Result: TypeAlias = ExecuteInstruction.Result

PERIOD: Final = 0.1
"""s between two checks of a goal."""
DISCOVERY: Final = 2.0
"""s to discover a controller that has just started, to receive the first images, and to wait for `hold`'s response."""
ANSWER: Final = 5.0
"""s for the controller to respond to `start`."""
SILENT: Final = 3.0
"""s without a SafetyStatus, which arrives ten times a second, after which the controller is gone."""


class Planner(Protocol):
    """The planner behind a goal. All methods are called on the executor's thread."""

    sees: bool
    """The planner's inputs are there, and the controller knows it; else a goal waits for them, up to DISCOVERY."""

    def check_goal(self, request: Goal) -> str:
        """Why a goal is invalid, in one line; empty when it is valid."""

    def begin_goal(self, request: Goal) -> str:
        """Start planning for the controller to play; why that is impossible, in one line; empty when it has started."""

    def halt(self) -> None:
        """Stop planning."""


@dataclass
class _Goal:
    """A goal in progress. Times are s of the steady clock."""

    handle: ServerGoalHandle
    accepted: float = field(default_factory=time.monotonic)
    inherited: bool = False  # the goal before it has left the controller playing
    asked: float | None = None  # when `start` was called
    answered: float = 0.0  # when its response arrived
    statuses: int | None = None  # SafetyStatus messages received by then: from then on the goal is played
    played: bool = False  # a SafetyStatus has confirmed it
    plans: int = 0
    done: Future = field(default_factory=Future)  # result: (code, message)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.accepted

    @property
    def may_move(self) -> bool:
        """Whether the controller plays, or may yet play, because of this goal."""
        return self.inherited or self.asked is not None


class ExecuteServer:
    """The action server. trouble: why the planner gives the goal up, one line; any thread may write it."""

    def __init__(self, node: Node, link: ControllerClient, planner: Planner) -> None:
        self._log, self._link, self._planner = node.get_logger(), link, planner
        self._goal: _Goal | None = None
        self.trouble = ""
        self._server = ActionServer(
            node, ExecuteInstruction, "~/execute", self._execute, cancel_callback=lambda _: CancelResponse.ACCEPT
        )

    def close(self) -> None:
        """End the goal, and accept no more."""
        self.end(Result.CANCELED, "the node was ended")
        self._server.destroy()

    @property
    def instruction(self) -> str:
        """The instruction of the goal in progress; empty without one."""
        return "" if self._goal is None else str(self._goal.handle.request.instruction)

    def count_plan(self) -> None:
        """Count one more complete plan of the goal in progress."""
        if self._goal is not None:
            self._goal.plans += 1

    def end(self, code: int, message: str, hold: bool = True) -> None:
        """End the goal in progress, if there is one: planning stops, and the arm holds if this goal moves it.

        hold: False where something else continues to move the arm.
        """
        goal = self._goal
        if goal is not None:
            self._finish(goal, code, message)
            if hold and goal.may_move:
                self._link.hold()

    def _finish(self, goal: _Goal, code: int, message: str) -> None:
        self._goal = None
        self._planner.halt()
        goal.done.set_result((code, message))

    async def _execute(self, handle: ServerGoalHandle) -> Result:
        goal = _Goal(handle)
        self._take(goal)
        code, message = await goal.done
        self._log.info(f"{handle.request.instruction[:80]!r} ended: {message}")
        if code == Result.TIMED_OUT:
            handle.succeed()
        elif code == Result.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return Result(code=code, message=message, plans=goal.plans, elapsed=goal.elapsed)

    def _take(self, goal: _Goal) -> None:
        """Start a goal in place of any other: the arm need not hold between the two."""
        if self._goal is not None:
            goal.inherited = self._goal.may_move
            self._finish(self._goal, Result.CANCELED, "replaced by a newer instruction")
        self._goal, self.trouble = goal, ""
        timeout = goal.handle.request.timeout
        if not (isfinite(timeout) and timeout > 0):
            self._refuse(f"the timeout is {timeout} s; give the goal some seconds")
        elif refusal := self._planner.check_goal(goal.handle.request):
            self._refuse(refusal)
        else:
            self.look_after()

    def _refuse(self, reason: str) -> None:
        self.end(Result.REFUSED, reason)

    def look_after(self) -> None:
        """Every PERIOD: end the goal where something ends it, or advance it to its next stage."""
        goal = self._goal
        if goal is None:
            return
        timeout = goal.handle.request.timeout
        if goal.handle.is_cancel_requested:
            self.end(Result.CANCELED, "cancelled")
        elif self.trouble and goal.statuses is not None:
            self.end(Result.FAULT if goal.plans else Result.REFUSED, self.trouble)
        elif goal.elapsed > timeout:
            self.end(Result.TIMED_OUT, f"the time of {timeout:g} s is over{self._missing_answer(goal)}")
        elif goal.asked is None:
            self._call_start(goal)
        elif goal.statuses is None:
            if time.monotonic() - goal.asked > ANSWER:
                self._refuse(f"the controller does not answer at {self._link.name}; look at its log")
        elif held := self._is_held(goal, goal.statuses):
            self.end(Result.HELD, held)
        else:
            safety = self._link.safety
            goal.handle.publish_feedback(
                ExecuteInstruction.Feedback(elapsed=goal.elapsed, plan_id=safety.plan_id, progress=safety.progress)
            )

    def _missing_answer(self, goal: _Goal) -> str:
        return "" if goal.statuses is not None else f"; {self._link.name} has not answered"

    def _call_start(self, goal: _Goal) -> None:
        late = goal.elapsed > DISCOVERY
        if self._link.is_there and (late or (self._planner.sees and not self._link.is_holding)):
            goal.asked = time.monotonic()
            self._link.start().add_done_callback(partial(self._on_start, goal))
        elif late:
            self._refuse(f"no controller answers at {self._link.name}; start it first")

    def _on_start(self, goal: _Goal, answer: Future) -> None:
        reply = answer.result()
        if goal is not self._goal:
            # The goal has ended meanwhile, so the arm must not play, unless a newer goal has called `start`.
            if reply is not None and reply.success and (self._goal is None or self._goal.asked is None):
                self._link.hold()
        elif reply is None or not reply.success:
            goal.asked = None  # nothing was started
            self._refuse("the controller did not answer" if reply is None else str(reply.message))
        elif refusal := self._planner.begin_goal(goal.handle.request):
            self._refuse(refusal)
        else:
            goal.answered, goal.statuses = time.monotonic(), self._link.count

    def _is_held(self, goal: _Goal, statuses: int) -> str:
        """Why the controller does not play, in one line; empty when it plays.

        The first status after `start` may have been in flight before; the second shows what `start` has done.
        """
        link, news = self._link, self._link.count - statuses
        goal.played |= news > 0 and link.is_playing
        if not link.is_playing and (news > 1 or (news and goal.played)):
            return f"the controller does not play: {link.safety.reason}"
        if link.count and time.monotonic() - max(link.heard_at, goal.answered) > SILENT:
            return f"the controller has been silent for {SILENT:g} s; look at its log"
        return ""
