"""A leader arm: its joints by name, and when an operator has it in hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from molmoact_ros.control.leader_arm import MOVED, REST, STILL, UNANSWERED, LeaderClutch, LeaderLayout
from molmoact_ros.robots.franka import HOME_Q, OPENING_MAX

DT = 0.02
NAMES = [f"leader_joint{n}" for n in range(1, 8)]


class Hand:
    """An operator at a leader; `followed`: the controller follows whatever is commanded."""

    def __init__(self) -> None:
        self.clutch, self.now, self.q, self.robot = LeaderClutch(), 0.0, HOME_Q.copy(), HOME_Q.copy()
        self.followed = True

    def run(self, seconds: float, speed: float = 0.0) -> list[bool]:
        """Move joint 1 with `speed`, rad/s; whether the robot is to follow, every DT."""
        out: list[bool] = []
        for _ in range(round(seconds / DT)):
            self.now += DT
            self.q = self.q + [speed * DT, 0, 0, 0, 0, 0, 0]
            commanded = bool(out) and out[-1]
            out.append(self.clutch.is_engaged(self.q, self.robot, self.now, self.followed and commanded))
        return out


def test_a_leader_that_rests_commands_nothing_and_one_that_is_moved_does() -> None:
    hand = Hand()
    assert not any(hand.run(2.0)), "however far away from the robot it rests"
    engaged = hand.run(1.0, 0.3)
    assert engaged[-1] and engaged.index(True) * DT * 0.3 == pytest.approx(MOVED, abs=0.3 * DT)
    assert all(hand.run(3.0)), "it rests, and the robot is still on its way"
    hand.robot = hand.q.copy()
    assert not hand.run(0.1)[-1], "it rests, and the robot has arrived"


def test_one_that_is_moved_from_the_start_has_to_rest_first() -> None:
    hand = Hand()
    assert not any(hand.run(3.0, 0.5))
    hand.run(REST + DT)
    assert any(hand.run(1.0, 0.5))


def test_after_a_fault_it_is_let_go_once() -> None:
    hand = Hand()
    hand.run(1.0)
    assert hand.run(1.0, 0.3)[-1]
    hand.followed = False
    assert not hand.run(UNANSWERED + 0.1, 0.3)[-1], "the controller holds"
    hand.followed = True
    assert not any(hand.run(2.0, 0.3)), "it is still in hand"
    assert not any(hand.run(REST + DT))
    assert hand.run(0.5, 0.3)[-1]


@settings(max_examples=100, deadline=None)
@given(
    moves=st.lists(
        st.tuples(st.floats(0.1, 1.5), st.sampled_from([0.0, 0.0, 0.05, 0.4, -1.0]), st.booleans()), max_size=12
    )
)
def test_nothing_is_commanded_but_after_a_rest_and_a_motion(moves: list[tuple[float, float, bool]]) -> None:
    hand, held, since = Hand(), False, list[float]()  # where joint 1 was since it was engaged
    for seconds, speed, followed in moves:
        hand.followed = followed
        for _ in range(round(seconds / DT)):
            engaged = hand.run(DT, speed)[-1]
            since.append(float(hand.q[0]))
            if engaged and not held:
                count = round(REST / DT) - 1
                windows = [since[k : k + count] for k in range(len(since) - count)]
                assert any(np.ptp(of) <= STILL + 1e-9 and abs(since[-1] - of[-1]) >= MOVED / 2 for of in windows)
                since = []
            held = engaged


def test_joints_are_found_by_name_and_turned() -> None:
    layout = LeaderLayout()
    q = [0.1 * n for n in range(7)]
    np.testing.assert_allclose(layout.read([*NAMES[::-1], "grip"], [*q[::-1], 0.5]), q)
    turned = LeaderLayout(joints=NAMES, signs=[-1.0, *[1.0] * 6], offsets=[0.5, *[0.0] * 6])
    np.testing.assert_allclose(turned.read(NAMES, q), [0.5, *q[1:]])
    for names, positions in ((NAMES[:6], q[:6]), (NAMES, [np.nan, *q[1:]]), (["x"], [1.0])):
        with pytest.raises(ValueError, match="has no position of") as error:
            layout.read(names, list(positions))
        assert len(str(error.value).splitlines()) == 1


def test_the_leaders_gripper_is_scaled_to_the_robots() -> None:
    layout = LeaderLayout(gripper="grip", gripper_open=0.2, gripper_closed=1.2)
    for position, opening in ((0.2, OPENING_MAX), (1.2, 0.0), (0.7, OPENING_MAX / 2), (5.0, 0.0)):
        assert layout.opening(["grip"], [position]) == pytest.approx(opening)
    assert layout.opening([], []) is None and layout.opening(["grip"], [np.nan]) is None
    assert LeaderLayout().opening(["grip"], [0.3]) is None


@pytest.mark.parametrize(
    "wrong",
    [{"joints": NAMES[:6]}, {"signs": [2.0] * 7}, {"offsets": [0.0]}, {"gripper": "g", "gripper_closed": 0.0}],
)
def test_a_layout_that_fits_no_leader_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LeaderLayout.model_validate(wrong)
