"""ExecuteInstruction: one goal at a time, which can be cancelled at every moment and times out from its acceptance on.

Nothing here waits for anybody: a goal's stages are looked after ten times a second, by a clock that nobody sets.
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
"""s between two looks at a goal."""
DISCOVERY: Final = 2.0
"""s for a controller that has just started to be found, for the first images, and for a `hold` to be answered."""
ANSWER: Final = 5.0
"""s for the controller to answer `start`."""
SILENT: Final = 3.0
"""s without a SafetyStatus, which comes ten times a second, after which the controller is gone."""


class Planner(Protocol):
    """Who plans for a goal. All is called on the executor's thread."""

    sees: bool
    """What plans are made from is there, and the controller was told so; else a goal waits for it up to DISCOVERY."""

    def check_goal(self, request: Goal) -> str:
        """What is wrong with a goal, in one line, or nothing."""

    def begin_goal(self, request: Goal) -> str:
        """Plan from now on, the controller plays; why that cannot be, in one line, or nothing."""

    def halt(self) -> None:
        """Plan no more."""


@dataclass
class _Goal:
    """One goal in progress. Times are s of the steady clock."""

    handle: ServerGoalHandle
    accepted: float = field(default_factory=time.monotonic)
    inherited: bool = False  # the goal before it has left the controller playing
    asked: float | None = None  # when `start` was called
    answered: float = 0.0  # when it was
    statuses: int | None = None  # that had come by then: from then on the goal is played
    played: bool = False  # a SafetyStatus has said so
    plans: int = 0
    done: Future = field(default_factory=Future)  # of (code, message)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.accepted

    @property
    def may_move(self) -> bool:
        """The controller plays, or may yet play, because of it."""
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
        """End the goal, and take no more."""
        self.end(Result.CANCELED, "the node was ended")
        self._server.destroy()

    @property
    def instruction(self) -> str:
        """What the goal in progress says; empty without one."""
        return "" if self._goal is None else str(self._goal.handle.request.instruction)

    def count_plan(self) -> None:
        """The goal in progress has one more complete plan."""
        if self._goal is not None:
            self._goal.plans += 1

    def end(self, code: int, message: str, hold: bool = True) -> None:
        """End the goal, if there is one: no more plans, and the arm holds if it is the goal that moves it.

        hold: False where something else goes on with the arm.
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
        """Take up a goal in place of any other: the arm need not hold between two."""
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
        """Every PERIOD: whatever ends the goal, or its next stage."""
        goal = self._goal
        if goal is None:
            return
        timeout = goal.handle.request.timeout
        if goal.handle.is_cancel_requested:
            self.end(Result.CANCELED, "cancelled")
        elif self.trouble and goal.statuses is not None:
            self.end(Result.FAULT if goal.plans else Result.REFUSED, self.trouble)
        elif goal.elapsed > timeout:
            self.end(Result.TIMED_OUT, f"the time of {timeout:g} s is over{self._waited_for(goal)}")
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

    def _waited_for(self, goal: _Goal) -> str:
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
            # The goal has ended meanwhile: nobody wants the arm to play, unless a newer goal has asked for it.
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
        """Why the controller does not play, in one line, or nothing.

        The first status after `start` may have been on its way before; the second tells what `start` has done.
        """
        link, news = self._link, self._link.count - statuses
        goal.played |= news > 0 and link.is_playing
        if not link.is_playing and (news > 1 or (news and goal.played)):
            return f"the controller does not play: {link.safety.reason}"
        if link.count and time.monotonic() - max(link.heard_at, goal.answered) > SILENT:
            return f"the controller has been silent for {SILENT:g} s; look at its log"
        return ""
