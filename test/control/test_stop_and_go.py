"""A plan of the standing arm is played however old it is, and no plan of an arm that has moved since its image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.standstill import SETTLED, STOOD_RAD
from molmoact_ros.control.supervisor import State
from molmoact_ros.robots.franka import HOME_Q

from .helpers import ROBOT, chunk

DT = 0.02
SLOW = ControllerConfig(stop_and_go=True, silence_deadline=60.0, rate=1 / DT)


class Cell:
    """An arm that follows at once, and a record of where it was commanded and measured in each cycle."""

    def __init__(self, config: ControllerConfig = SLOW) -> None:
        self.controller, self.now, self.off = Controller(ROBOT, config), 0.0, np.zeros(7)
        self.when: list[float] = []
        self.where: list[np.ndarray] = []  # commanded and measured joints and openings [16]
        self.controller.update_joints(HOME_Q, 0.08, 0.0)
        self.run(0.2)
        self.start()

    def start(self) -> None:
        assert self.controller.start(self.now), self.controller.refusal
        self.started = self.now

    def run(self, seconds: float, twist: list[float] | None = None) -> None:
        arm = self.controller.arms[0]
        for _ in range(round(seconds / DT)):
            self.now += DT
            self.controller.on_engine(self.now)
            if twist is not None:
                arm.teleop.twist(twist, self.now)
            (command,) = self.controller.step(self.now) or ()
            measured = command.position + self.off
            self.controller.update_joints(measured, command.opening, self.now)
            self.when.append(self.now)
            self.where.append(np.hstack([command.position, command.opening, measured, command.opening]))

    def spread(self, since: float) -> float:
        """Greatest change of a command or a measurement from `since` on, rad or m."""
        path = np.array([where for when, where in zip(self.when, self.where, strict=True) if when >= since])
        return float(np.ptp(path, axis=0).max(initial=0.0)) if len(path) else 0.0

    def happens(self, event: str, size: float) -> None:
        """Something, and a short while after it."""
        controller = self.controller
        if event == "stands":
            self.run(3 * abs(size))
        elif event == "chunk":
            controller.on_chunk(chunk(0.02 * size, self.now), self.now)
            self.run(0.3)
        elif event == "gripper":
            controller.on_chunk(chunk(0.0, self.now, gripper=float(size > 0)), self.now)
            self.run(0.3)
        elif event == "twist":
            self.run(0.3, [0.05 * size, 0.0, 0.0, 0.0, 0.0, 0.0])
            self.run(0.3)
        elif event == "pushed":
            self.off = self.off + [0.1 * size, 0, 0, 0, 0, 0, 0]
            self.run(0.1)
        elif event == "pushed and back":
            self.off = self.off + [0.1 * size, 0, 0, 0, 0, 0, 0]
            self.run(0.1)
            self.off = np.zeros(7)
        elif event == "held":
            controller.hold()
        if controller.supervisor.state is not State.POLICY:
            self.run(1.0)
            if controller.start(self.now):
                self.started = self.now


EVENTS = st.tuples(
    st.sampled_from(["stands", "chunk", "gripper", "twist", "pushed", "pushed and back", "held"]), st.floats(-1.0, 1.0)
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    events=st.lists(EVENTS, max_size=3), rest=st.floats(0.0, 2.0), age=st.floats(0.7, 5.0), dx=st.floats(-0.02, 0.02)
)
@example(events=[("stands", 0.8), ("pushed and back", 0.5)], rest=0.5, age=1.2, dx=0.01)
@example(events=[("stands", 0.8), ("pushed", 0.5)], rest=0.5, age=1.2, dx=0.01)
@example(events=[("chunk", 0.5)], rest=1.0, age=1.0, dx=0.01)
@example(events=[("gripper", -1.0)], rest=0.0, age=5.0, dx=0.01)
def test_an_arm_that_moved_since_the_image_never_plays_an_old_plan(
    events: list[tuple[str, float]], rest: float, age: float, dx: float
) -> None:
    cell = Cell()
    for event, size in events:
        cell.happens(event, size)
    cell.run(rest)
    stamp = cell.now - age
    late = ActionChunk(chunk(dx).actions, 0.1, stamp, 9)
    old = late.end <= cell.now
    if cell.controller.on_chunk(late, cell.now) and old:
        assert cell.spread(stamp) <= 2 * STOOD_RAD, "it moved since"
        assert stamp >= cell.started - late.dt, "it was planned for another task"
    elif old and cell.controller.supervisor.state is State.POLICY:
        before = max(cell.started, stamp - SETTLED - 2 * DT)
        assert cell.spread(before) or stamp < cell.started + SETTLED, cell.controller.last_refusal


def test_a_plan_of_any_age_is_played_to_its_end_from_where_the_arm_stands() -> None:
    cell = Cell()
    for _ in range(3):
        cell.run(0.3)
        seen = cell.now
        cell.run(8.0)  # the engine computes
        begin = cell.where[-1]
        assert cell.controller.on_chunk(chunk(0.01, seen), cell.now), cell.controller.last_refusal
        cell.run(2.0)
        forward = cell.controller.arms[0].kinematics.forward
        moved = forward(cell.where[-1][:7]).position - forward(begin[:7]).position
        assert moved == pytest.approx([0.08, 0.0, 0.0], abs=2e-3), "all of it, and nothing else"
        assert cell.controller.supervisor.state is State.POLICY


def test_a_plan_made_while_an_earlier_one_moved_the_arm_is_refused() -> None:
    cell = Cell()
    cell.run(0.3)
    assert cell.controller.on_chunk(chunk(0.01, cell.now), cell.now)
    cell.run(0.2)
    seen = cell.now
    cell.run(5.0)
    assert not cell.controller.on_chunk(chunk(0.01, seen), cell.now)
    assert "the engine is too slow" in cell.controller.last_refusal


def test_a_plan_is_played_once() -> None:
    cell = Cell()
    cell.run(0.3)
    seen = cell.now
    cell.run(5.0)
    nothing = ActionChunk(np.zeros((8, 7)) + [0, 0, 0, 0, 0, 0, 1], 0.1, seen)
    assert cell.controller.on_chunk(nothing, cell.now)
    cell.run(2.0)
    assert not cell.controller.on_chunk(nothing, cell.now), "not again, even where it moved nothing"


def test_it_is_off_unless_it_is_asked_for() -> None:
    cell = Cell(ControllerConfig(silence_deadline=60.0))
    cell.run(0.3)
    seen = cell.now
    cell.run(5.0)
    assert not cell.controller.on_chunk(chunk(0.01, seen), cell.now)
