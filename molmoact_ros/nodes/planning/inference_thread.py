"""Runs the engine in a thread of its own, always on the newest frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState

from molmoact_ros.engine.base import EngineTimings, ReasoningMode
from molmoact_ros.engine.decoding.constrained import CancelledStep
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.nodes.planning.observation_buffer import FrameBuffer, FrameSet
from molmoact_ros.nodes.planning.robot_state import StateReader
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.ros.conversions import metres, rgb_pixels
from molmoact_ros.ros.image_transport import CameraImage

LOOK_AGAIN = 0.1
"""Seconds after which a silent camera is checked again."""


@dataclass(frozen=True)
class PlanningTask:
    """The instruction to plan for."""

    instruction: str


@dataclass(frozen=True)
class ReasonedPlan:
    """One reasoning step: its number, its observation, and its progress. seconds: since the step began.

    joints: the joint states nearest to the front image; None when there were none within the tolerance.
    frames: stamps of its images, front first. tokens: of the answer, once that is complete. camera_frame: the front
    image's frame, as its driver names it.
    """

    plan_id: int
    observation: Observation
    reasoning: Reasoning
    seconds: float
    timings: EngineTimings
    joints: JointState | None = None
    frames: tuple[Time, ...] = ()
    tokens: tuple[int, ...] = ()
    camera_frame: str = ""


class PlanListener(Protocol):
    """Callbacks of InferenceThread, in its thread and under its lock.

    Once a task was replaced, none of them is called for it any more.
    """

    def may_plan_on(self, stamp: float) -> bool:
        """Whether a step may begin on images of that stamp, s."""

    def drawn(self) -> np.ndarray | None:
        """An operator's trace that the next step follows, int [n, 2] in 0..255; None lets the model plan its own."""

    def on_plan(self, plan: ReasonedPlan) -> None:
        """A part of a step is complete, or all of it (`plan.reasoning.complete`)."""

    def on_waiting(self, reason: str) -> None:
        """No step can begin; `reason` says what is missing and what to do."""

    def on_refused(self, reason: str, fatal: bool) -> None:
        """A step was refused. fatal: the task is given up, because no step of it could work."""


class InferenceThread(threading.Thread):
    """Runs reasoning steps while there is a task; `close` ends the thread.

    Args of `__init__`:
        engine: runs the steps.
        frames: buffer of the cameras' images; the `add_...` methods fill it.
        clock: returns ROS time, s.
        listener: receives plans, and decides when a step may begin.
        period: least time between the front images of two complete steps of a task, s.
        states: makes the robot's state, for models that read it; a step waits for it.

    Raises nothing: a refused step and an engine's exception go to `listener.on_refused`.

    Example:
        inference = InferenceThread(engine, frames, clock, listener)
        inference.start()
        inference.follow("put the red cube into the bowl")
    """

    def __init__(
        self,
        engine: Engine,
        frames: FrameBuffer,
        clock: Callable[[], float],
        listener: PlanListener,
        period: float = 0.0,
        states: StateReader | None = None,
    ) -> None:
        """clock: ROS time, s. period: least time between the front images of two complete steps of a task, s. states:
        of models that read the robot's state.
        """
        super().__init__(name="reasoner", daemon=True)
        self._engine, self._frames, self._clock, self._listener = engine, frames, clock, listener
        # Guards the task and the frames. Listeners are called under it, so a halted task calls them no more.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._task: PlanningTask | None = None
        self._open, self._has_planned = True, False
        self._plan_id, self._last_frame = 0, 0.0
        self.mode = ReasoningMode.FULL
        self._period, self._planned = period, -inf  # stamp of the last plan's image
        self._states = states

    @property
    def task(self) -> PlanningTask | None:
        """The current task."""
        return self._task

    def follow(self, instruction: str) -> None:
        """Start an instruction in place of any other."""
        self._set(PlanningTask(instruction))
        self._has_planned = False

    def again(self) -> None:
        """Drop the step in progress and begin a new one at once: its inputs have changed."""
        with self._changed:
            if self._task is not None:
                self._set(PlanningTask(self._task.instruction))

    def halt(self) -> None:
        """Drop the task; the listener is not called for it after this returns."""
        self._set(None)

    def close(self) -> None:
        """End the thread; waits for the step in progress."""
        with self._changed:
            self._open = False
            self._set(None)
        self.join()

    def add_image(self, topic: str, image: CameraImage) -> None:
        """Add a frame."""
        with self._changed:
            self._frames.add_image(topic, image, self._clock())
            self._changed.notify_all()

    def add_depth(self, image: CameraImage) -> None:
        """Add a depth image of the front camera."""
        with self._changed:
            self._frames.add_depth(image)

    def add_joints(self, joints: JointState) -> None:
        """Add joint states."""
        with self._changed:
            self._frames.add_joints(joints)

    def joint_groups(self) -> int:
        """See FrameBuffer.joint_groups."""
        with self._changed:
            return self._frames.joint_groups()

    def clock_set(self) -> None:
        """ROS time was set: stamps from before are invalid. Ends no task."""
        with self._changed:
            self._frames.clear()
            self._planned, self._last_frame = -inf, 0.0

    def frames_report(self) -> dict[str, float]:
        """What became of the frames (FrameBuffer.report)."""
        with self._changed:
            return self._frames.report()

    def camera_age(self) -> float:
        """Age of the newest frame that is not a repetition, of the camera where it is oldest, s."""
        with self._changed:
            return self._frames.age(self._clock())

    def _set(self, task: PlanningTask | None) -> None:
        with self._changed:
            self._task, self._planned = task, -inf
            self._changed.notify_all()

    def run(self) -> None:
        """Run steps until `close`."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._task is not None or not self._open)
                if not self._open:
                    return
                task, frames = self._task, self._next_frames()
                trace, state = self._listener.drawn(), None if frames is None else self._state(frames)
            if task is not None and frames is not None:
                self._step(task, frames, trace, state)

    def _next_frames(self) -> FrameSet | None:
        """Frames that no step has used, as soon as they are due; None after LOOK_AGAIN or when the task changes."""
        task = self._task
        waited = time.monotonic()
        while self._open and self._task is task and time.monotonic() - waited < LOOK_AGAIN:
            frames = self._frames.newest(self._clock())
            if frames is not None and self._is_due(frames.stamp) and not self._lacks(frames):
                self._last_frame = frames.stamp
                return self._frames.mark_used(frames)
            self._changed.wait(LOOK_AGAIN)
        newest = self._frames.newest(self._clock())
        if self._task is task and newest is None:
            self._listener.on_waiting(self._frames.missing(self._clock()))
        elif self._task is task and newest is not None and (reason := self._lacks(newest)):
            self._listener.on_waiting(reason)
        return None

    def _lacks(self, frames: FrameSet) -> str:
        """What a step on these frames lacks, in one line; empty: nothing."""
        if self.mode is ReasoningMode.GROUNDED and frames.depth is None:
            return "the mode grounded lacks the front camera's depth; start it, or say full"
        states = self._states
        return "" if states is None else states.missing(self._frames.joints_near(frames.stamp, states.max_age))

    def _state(self, frames: FrameSet) -> RobotState | None:
        states = self._states
        return None if states is None else states.read(self._frames.joints_near(frames.stamp, states.max_age))

    def _is_due(self, stamp: float) -> bool:
        # `clock_set` handles a clock that went back; a step back too small for that must not block planning either.
        paced = not 0 <= stamp - self._planned < self._period
        return stamp != self._last_frame and paced and self._listener.may_plan_on(stamp)

    def _step(
        self, task: PlanningTask, frames: FrameSet, trace: np.ndarray | None, state: RobotState | None
    ) -> None:  # fmt: skip
        began = time.monotonic()
        self._plan_id += 1
        try:
            images = tuple(rgb_pixels(image) for image in frames.images)
            depth = None if frames.depth is None else metres(frames.depth)
            stamps = tuple(image.header.stamp for image in frames.images)
            camera_frame = frames.images[0].header.frame_id
            observation = Observation(images, task.instruction, frames.stamp, trace, depth, state)
            for reasoning in self._engine.reason(observation, self.mode, wanted=lambda: self._task is task):
                seconds, timings = time.monotonic() - began, self._engine.timings
                tokens = tuple(self._engine.tokens) if reasoning.complete else ()
                plan = ReasonedPlan(
                    self._plan_id, observation, reasoning, seconds, timings, frames.joints, stamps, tokens, camera_frame
                )
                if not self._deliver_plan(task, plan):
                    return
        except CancelledStep:
            return
        except RefusedStep as refusal:
            # The first step of a task shows whether the task is possible at all; later ones may meet a bad moment.
            self._refuse(task, str(refusal), fatal=not self._has_planned)
        except Exception as error:  # whatever an engine raises, the arm gets no chunk and operators see why
            self._refuse(task, f"the engine failed ({type(error).__name__}: {error}); restart the policy", fatal=True)

    def _deliver_plan(self, task: PlanningTask, plan: ReasonedPlan) -> bool:
        with self._changed:
            if self._task is not task:
                return False
            if plan.reasoning.complete:
                self._has_planned, self._planned = True, plan.observation.stamp
            self._listener.on_plan(plan)
            return True

    def _refuse(self, task: PlanningTask, reason: str, fatal: bool) -> None:
        with self._changed:
            if self._task is task:
                if fatal:
                    self._task = None
                self._listener.on_refused(reason, fatal)
