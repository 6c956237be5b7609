"""The way home: by request alone, slowly, inside every limit, and standing still at its end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.benchmarks.motion_judge import MotionJudge
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.homing import LAG, RAMP, HomeConfig, Homing
from molmoact_ros.control.supervisor import FAULTS, Event, State
from molmoact_ros.nodes.control.config import ControllerNodeConfig
from molmoact_ros.robots.franka import FR3, HOME_Q, JOINTS, SINGLE

from .helpers import DT, ROBOT

OPEN = Surroundings(workspace=Workspace(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, 2.0)), table=None)
NEAR = st.lists(st.floats(-0.25, 0.25), min_size=JOINTS, max_size=JOINTS).map(lambda away: HOME_Q + away)
ANYWHERE = st.tuples(
    *(st.floats(low + 0.03, high - 0.03) for low, high in zip(FR3.position_min, FR3.position_max, strict=True))
).map(np.array)


class Asking:
    """A controller of an arm that follows at once, an operator who asks it home or does not, and a judge of it all."""

    def __init__(self, q: np.ndarray = HOME_Q, config: ControllerConfig | None = None) -> None:
        self.controller, self.now, self.asked_at = Controller(ROBOT, config), 100.0, -np.inf
        self.judge = MotionJudge(ROBOT, self.controller, [SINGLE])
        self.stand(q)

    def stand(self, q: np.ndarray) -> None:
        """Somebody brings the arm there while nobody commands it."""
        self.controller.update_joints(q, 0.08, self.now)
        self.judge.rest([q])

    @property
    def state(self) -> State:
        return self.controller.supervisor.state

    def run(self, seconds: float, home: bool, alive: bool = True) -> np.ndarray:
        """Commanded joints [n, 7] rad of the next `seconds`; alive: joint states come."""
        out = []
        timeout = self.controller.config.teleop.timeout
        for _ in range(round(seconds / DT)):
            self.now += DT
            if home:
                self.ask()
                self.asked_at = self.now
            braking = [arm.limiter.planned(False)[1:] for arm in self.controller.arms]
            commands = self.controller.step(self.now)
            assert commands is not None
            self.judge.judge_commands(commands, 0, braking, self.now, [self.now - self.asked_at <= timeout + 1e-9])
            sent = self.state in (State.POLICY, State.TELEOP) or commands[0].velocity.any() or self.judge.moving
            q = commands[0].position if sent else np.asarray(self.controller.arms[0].measured)  # unasked, it stands
            if alive:
                self.controller.update_joints(q, 0.08, self.now)
            out.append(q)
        return np.array(out)

    def ask(self) -> None:
        """What the operator sends in each cycle."""
        self.controller.arms[0].teleop.home(self.now)

    def until_held(self, seconds: float) -> np.ndarray:
        """Ask until the arm holds, or for `seconds`."""
        parts = [self.run(0.1, home=True)]
        while self.state is State.TELEOP and len(parts) < seconds / 0.1:
            parts.append(self.run(0.1, home=True))
        return np.concatenate(parts)

    def is_clean(self) -> bool:
        return not any(self.judge.broken.values())


@given(start=ANYWHERE, home=ANYWHERE, speed=st.floats(0.01, 0.5))
@settings(max_examples=60, deadline=None)
def test_the_way_is_straight_slow_and_ends_at_home(start: np.ndarray, home: np.ndarray, speed: float) -> None:
    homing, limit = Homing(home, speed * FR3.velocity_max, DT), speed * FR3.velocity_max
    path, velocity = [start], [np.zeros(JOINTS)]
    while not homing.reached:
        motion = homing.step(path[-1], start)
        path.append(motion.q)
        velocity.append(motion.dq)
        assert len(path) * DT < 2 * RAMP + 1.0 + float((np.abs(home - start) / limit).max())
    steps = np.diff(path, axis=0)
    assert (np.abs(steps) <= limit * DT + 1e-9).all() and (np.abs(velocity) <= limit + 1e-9).all()
    jolt = np.abs(np.diff(velocity, axis=0)).max(axis=0)
    assert (jolt <= limit * DT / RAMP * 2.5 + 1e-9).all(), "it begins and ends gently"
    along, way = np.array(path) - start, home - start
    assert np.abs(along - np.outer(along @ way, way) / max(way @ way, 1e-12)).max() < 1e-6
    assert not homing.blocked


@settings(max_examples=10, deadline=None)
@given(q=NEAR)
def test_an_arm_that_is_asked_gets_home_inside_all_limits_and_holds_there(q: np.ndarray) -> None:
    asking = Asking(q, ControllerConfig(surroundings=OPEN))
    path = asking.until_held(30.0)
    assert asking.state is State.HOLD and asking.controller.supervisor.reason == Event.HOMED.value
    assert np.abs(path[-1] - HOME_Q).max() < 2e-3
    assert (np.abs(np.diff(path, axis=0)) <= 0.15 * FR3.velocity_max * DT + 1e-5).all(), "slowly"
    still = asking.run(1.0, home=True)
    assert np.ptp(still[20:], axis=0).max() == 0.0 and asking.state is State.HOLD, "and stays, though they go on asking"
    assert asking.is_clean(), asking.judge.broken


def away() -> Asking:
    """On its way home, with some way to go."""
    asking = Asking(HOME_Q + [0.5, 0.1, 0.0, 0.3, 0.0, 0.2, 0.3])
    asking.run(1.0, home=True)
    assert asking.state is State.TELEOP
    return asking


def test_letting_go_stops_it() -> None:
    asking = away()
    before = asking.run(DT, home=True)[-1]
    path = asking.run(1.5, home=False)
    assert asking.state is State.HOLD and np.ptp(path[60:], axis=0).max() == 0.0
    assert np.abs(path[-1] - before).max() < 0.1 and np.abs(path[-1] - HOME_Q).max() > 0.1
    again = asking.until_held(30.0)
    assert np.abs(again[-1] - HOME_Q).max() < 2e-3 and asking.is_clean(), "and who asks again gets there"


def test_each_way_begins_where_the_arm_stands_then() -> None:
    asking = away()
    asking.run(1.0, home=False)
    elsewhere = HOME_Q - [0.3, 0.1, 0.0, 0.0, 0.0, 0.0, 0.2]
    asking.stand(elsewhere)
    asking.run(0.1, home=False)
    path = np.vstack([elsewhere, asking.run(1.0, home=True)])
    assert asking.state is State.TELEOP and asking.is_clean()
    assert (np.abs(np.diff(path, axis=0)) <= 0.15 * FR3.velocity_max * DT + 1e-5).all(), "slowly, as the first one"
    gone, way = path - elsewhere, HOME_Q - elsewhere
    assert np.abs(gone - np.outer(gone @ way, way) / (way @ way)).max() < 5e-3, "straight from there"


def test_the_way_waits_for_an_arm_that_is_kept_from_following() -> None:
    start, homing = HOME_Q + 0.5, Homing(HOME_Q, 0.1 * FR3.velocity_max, DT)
    for _ in range(round(1.5 / DT)):
        assert np.abs(homing.step(start, start).q - start).max() < LAG + 0.1 * FR3.velocity_max.max() * DT
    assert not homing.blocked
    for _ in range(round(1.0 / DT)):
        homing.step(start, start)
    assert homing.blocked and not homing.reached


@pytest.mark.parametrize("event", [*FAULTS, Event.STOP, Event.HOLD])
def test_stop_hold_and_every_fault_end_it_though_the_request_goes_on(event: Event) -> None:
    asking = away()
    if event is Event.STOP:
        asking.controller.stop()
    elif event is Event.HOLD:
        asking.controller.hold()
    else:
        asking.controller.fault(event)
    path = asking.run(1.5, home=True)
    assert asking.state is (State.STOPPED if event is Event.STOP else State.HOLD)
    assert np.ptp(path[60:], axis=0).max() == 0.0 and asking.is_clean()


def test_a_stop_and_a_policy_are_not_overridden() -> None:
    asking = Asking(HOME_Q + 0.1)
    asking.controller.stop()
    assert np.ptp(asking.run(1.0, home=True), axis=0).max() == 0.0 and asking.state is State.STOPPED
    playing = Asking(HOME_Q + 0.1)
    assert playing.controller.start(playing.now), playing.controller.refusal
    assert np.ptp(playing.run(1.0, home=True), axis=0).max() == 0.0 and playing.state is State.POLICY
    playing.controller.hold()
    assert np.ptp(playing.run(1.0, home=True), axis=0).max() == 0.0, "nor does it begin by the way: let go once"


def test_a_way_that_a_limit_blocks_is_given_up_in_one_line() -> None:
    box = Surroundings(workspace=Workspace(low=(0.25, -0.45, 0.012), high=(0.75, -0.05, 0.7)))  # home is outside
    asking = Asking(HOME_Q + [-0.4, 0, 0, 0, 0, 0, 0], ControllerConfig(surroundings=box))
    path = asking.until_held(30.0)
    assert asking.state is State.HOLD and Event.HOME_BLOCKED.value in asking.controller.supervisor.reason
    assert np.ptp(asking.run(0.5, home=True)[40:], axis=0).max() == 0.0 and asking.is_clean()
    assert box.workspace.outside(asking.controller.arms[0].kinematics.forward(path[-1]).position) <= 1e-6


THINGS = st.sampled_from(
    ["home", "home", "home", "let go", "a touch", "stop", "hold", "resume", "start", "fault", "blind", "twist", "moved"]
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(THINGS, st.floats(0.02, 0.8)), min_size=1, max_size=12), NEAR, NEAR)
def test_whatever_happens_it_moves_only_by_a_fresh_request_and_ends_standing(
    things: list[tuple[str, float]], q: np.ndarray, elsewhere: np.ndarray
) -> None:
    asking = Asking(q)
    controller = asking.controller
    for thing, seconds in things:
        if thing == "stop":
            controller.stop()
        elif thing == "hold":
            controller.hold()
        elif thing == "fault":
            controller.fault(FAULTS[int(seconds * 100) % len(FAULTS)])
        elif thing in ("resume", "start"):
            getattr(controller, thing)(asking.now)
        elif thing == "a touch":
            asking.run(DT, home=True)
        elif thing == "twist":
            controller.arms[0].teleop.twist([0.0] * 6, asking.now)  # zeros: the release of a stick
            asking.asked_at = -np.inf
        elif thing == "moved" and asking.state not in (State.POLICY, State.TELEOP) and not asking.judge.moving:
            asking.stand(elsewhere)
        asking.run(seconds, home=thing == "home", alive=thing != "blind")
    assert asking.is_clean(), asking.judge.broken
    path = asking.run(1.5, home=False)
    assert np.ptp(path[80:], axis=0).max() == 0.0 and asking.state is not State.TELEOP


@pytest.mark.parametrize(
    "wrong", [[0.0] * 7, [0.0, -0.2], [float("nan")] * 7, [3.0, *HOME_Q[1:].tolist()], [1e9, *HOME_Q[1:].tolist()]]
)
def test_a_home_that_the_arm_cannot_reach_is_refused_in_one_line(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="home position|finite"):
        HomeConfig(position=tuple(wrong))
    with pytest.raises(ValueError, match="home position|finite"):
        ControllerNodeConfig(home_position=wrong)
