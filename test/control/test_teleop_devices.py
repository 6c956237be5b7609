"""Keys and axes as an operator's words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from molmoact_ros.control.teleop_devices import (
    BITE,
    HELP,
    MOVES,
    TAP,
    THERE,
    Joystick,
    JoystickLayout,
    Keyboard,
    SpaceMouse,
    SpaceMouseLayout,
    Speeds,
)
from molmoact_ros.robots.franka import OPENING_MAX

PAD = [0.0] * 8, [0] * 11


def pad(axes: dict[int, float] | None = None, *pressed: int) -> tuple[list[float], list[int]]:
    """What an Xbox pad says: 8 axes, 11 buttons."""
    out = list(PAD[0]), list(PAD[1])
    for number, value in (axes or {}).items():
        out[0][number] = value
    for button in pressed:
        out[1][button] = 1
    return out


def told(twist: np.ndarray | None) -> np.ndarray:
    """The twist, which there must be."""
    assert twist is not None
    return twist


def test_a_key_moves_while_it_is_held_and_then_the_hand_stands_and_then_nobody_is_there() -> None:
    keys = Keyboard(Speeds(linear=0.1, angular=0.5))
    assert keys.twist(0.0) is None
    assert keys.press("w", 1.0) is None
    np.testing.assert_allclose(told(keys.twist(1.0 + TAP / 2)), [0.1, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(told(keys.twist(1.0 + 2 * TAP)), np.zeros(6))
    assert keys.twist(1.01 + THERE) is None


def test_each_direction_has_two_keys_and_is_on_the_screen() -> None:
    seen = set()
    for key in MOVES:
        keys = Keyboard(Speeds())
        keys.press(key, 0.0)
        twist = keys.twist(0.0)
        assert twist is not None and np.count_nonzero(twist) == 1
        seen.add((int(np.flatnonzero(twist)[0]), float(np.sign(twist.sum()))))
        assert f" {key} " in HELP
    assert len(seen) == 12


def test_space_stands_faster_is_faster_and_tab_takes_the_other_arm() -> None:
    keys = Keyboard(Speeds(linear=0.1), arms=2)
    keys.press("+", 0.0)
    keys.press("a", 0.0)
    assert told(keys.twist(0.0))[1] == pytest.approx(0.125)
    keys.press(" ", 0.1)
    assert not told(keys.twist(0.1)).any()
    keys.press("a", 0.2)
    keys.press("\t", 0.2)
    assert keys.arm == 1 and keys.twist(0.2) is None, "a motion is never passed on to the other arm"
    for _ in range(50):
        keys.press("+", 0.3)
    assert keys.factor == 2.0


def test_the_hand_is_closed_bite_by_bite_and_never_beyond_its_ends() -> None:
    keys = Keyboard(Speeds(), arms=2)
    assert keys.press("g", 0.0) == pytest.approx(OPENING_MAX - BITE)
    keys.press("\t", 0.0)
    assert keys.press("h", 0.0) == OPENING_MAX, "each hand has its own"
    assert [keys.press("g", 0.0) for _ in range(9)][-1] == 0.0


@given(st.text(max_size=5))
def test_other_keys_move_nothing(text: str) -> None:
    keys = Keyboard(Speeds())
    for key in text:
        if key not in {*MOVES, *" ghxcq+-\t"}:
            assert keys.press(key, 0.0) is None
    assert keys.twist(0.0) is None or set(text) & {*MOVES, *" gh"}


def test_nothing_moves_without_the_dead_mans_button() -> None:
    stick = Joystick(JoystickLayout())
    assert stick.read(*pad({1: 1.0})).twist is None
    np.testing.assert_allclose(told(stick.read(*pad({1: 1.0}, 4)).twist), [0.1, 0, 0, 0, 0, 0])
    assert stick.read(*pad({1: 1.0})).twist is None


def test_buttons_count_once_and_only_stop_needs_no_dead_mans_button() -> None:
    stick = Joystick(JoystickLayout())
    assert stick.read(*pad(None, 0, 7, 2)).pressed == ("stop",)
    assert stick.read(*pad(None, 2)).pressed == ()
    assert stick.read(*pad(None)).pressed == ()
    assert stick.read(*pad(None, 4, 0)).pressed == ("close",)
    assert stick.read(*pad(None, 4, 0, 1)).pressed == ("open",)


@given(st.lists(st.floats(), min_size=8, max_size=8))
def test_whatever_the_axes_say_the_twist_is_finite_and_no_faster_than_set(axes: list[float]) -> None:
    twist = Joystick(JoystickLayout()).read(*(axes, pad(None, 4)[1])).twist
    assert twist is not None and np.isfinite(twist).all()
    assert (np.abs(twist) <= np.repeat([0.1, 0.5], 3) + 1e-12).all()


def test_the_dead_zone_is_still_and_speed_begins_at_nothing_behind_it() -> None:
    stick = Joystick(JoystickLayout(signs=[-1.0] * 6))
    assert not told(stick.read(*pad({0: 0.09}, 4)).twist).any()
    assert told(stick.read(*pad({0: 0.11}, 4)).twist)[1] == pytest.approx(-0.1 * 0.01 / 0.9)


def test_a_joystick_that_is_too_small_is_said() -> None:
    with pytest.raises(ValueError, match="2 axes and 1 buttons"):
        Joystick(JoystickLayout()).read([0.0, 0.0], [0])
    with pytest.raises(ValidationError, match="six"):
        JoystickLayout(axes=[1])


# SpaceMouse


def test_a_spacemouse_moves_the_hand_in_proportion_and_is_let_go_at_its_centre() -> None:
    mouse = SpaceMouse(SpaceMouseLayout(linear=0.1, angular=0.5, full=0.5, dead_zone=0.2))
    assert mouse.twist([0.0] * 6) is None and mouse.twist([0.09, 0, 0, 0, 0, -0.09]) is None, "within the dead zone"
    np.testing.assert_allclose(np.asarray(mouse.twist([0.5, 0, 0, 0, 0, -0.3])), [0.1, 0, 0, 0, 0, -0.25])
    np.testing.assert_allclose(np.asarray(mouse.twist([9.0, 0, 0, 0, 0, 0])), [0.1, 0, 0, 0, 0, 0], err_msg="clipped")
    assert mouse.twist([np.nan, np.inf, 0, 0, 0, 0]) is None, "no numbers move nothing"
    turned = SpaceMouse(SpaceMouseLayout(signs=[-1.0, *[1.0] * 5]))
    twist = turned.twist([1.0, 0, 0, 0, 0, 0])
    assert twist is not None and twist[0] < 0
    with pytest.raises(ValueError, match="six"):
        SpaceMouseLayout(signs=[1.0])


def test_a_spacemouses_button_closes_and_opens_the_hand_when_it_is_pressed_anew() -> None:
    mouse = SpaceMouse(SpaceMouseLayout(grip=1))
    pressed = [[0, 1], [0, 0], [0, 1], [0, 1], [1, 0], [0, 1], []]
    assert [mouse.opening(buttons) for buttons in pressed] == [None, None, 0.0, None, None, OPENING_MAX, None]
