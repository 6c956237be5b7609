"""Keyboard and joystick teleoperation: keys and axes in, twists of the hand out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field, model_validator

from molmoact_ros.robots.franka import OPENING_MAX

MOVES = {
    "w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1),
    "u": (3, 1), "o": (3, -1), "i": (4, 1), "k": (4, -1), "j": (5, 1), "l": (5, -1),
}  # fmt: skip
"""Component of a twist (x, y, z, about x, y, z) and its sign, by key."""
HELP = """\
  w s  ahead, back      u o  turn about x     g  close the hand    +  faster
  a d  left, right      i k  turn about y     h  open it           -  slower
  r f  up, down         j l  turn about z     Tab  the other arm
  Space  stand    x  stop (latched)    q  quit
  c  after a stop: reset, the arm holds; a second later, c again: resume, the policy goes on
  p  present: hold it where the policy moves only while an operator is there
The arm moves while a key is held; let go, and it stands."""
TAP = 0.25  # s for which one press moves the arm; a held key repeats faster
THERE = 1.0  # s after the last press for which the operator counts as present, so that teleoperation stays active
FASTER, SPEEDS = 1.25, (0.2, 2.0)  # speed factor per press, and the range of the product
BITE = 0.02  # m by which one press opens or closes the hand
AGAIN = 1.0  # s between two deliberate presses, at least; a held key repeats after 0.7 s at most


class Debounce:
    """Distinguishes a deliberate second press from key repeat, bounce and double click."""

    def __init__(self) -> None:
        self._last = -np.inf

    def press(self, now: float) -> bool:
        """Whether a press at `now`, s, counts: it does if there was no other in the AGAIN s before it."""
        since, self._last = now - self._last, now
        return bool(since >= AGAIN)

    def forget(self) -> None:
        """Another key was pressed: the next press counts."""
        self._last = -np.inf


class Speeds(BaseModel):
    """Speeds at which a device moves the hand."""

    linear: float = Field(0.10, gt=0, le=0.25, description="m/s of the hand at full deflection, or while a key is held")
    angular: float = Field(0.5, gt=0, le=1.0, description="rad/s of the same")


class Keyboard:
    """Turns key presses into twists. `arm`: number of the arm that moves."""

    def __init__(self, speeds: Speeds, arms: int = 1) -> None:
        self.arm, self.factor, self._arms, self._speeds = 0, 1.0, arms, speeds
        self._twist, self._pressed_at, self._touched_at = np.zeros(6), -np.inf, -np.inf
        self._opening = [OPENING_MAX] * arms

    def press(self, key: str, now: float) -> float | None:
        """Process a key press at `now`, s; returns the commanded opening in m, if any. Unknown keys move nothing."""
        self._touched_at = now
        if key in MOVES:
            part, sign = MOVES[key]
            self._twist = np.zeros(6)
            self._twist[part] = sign * self.factor * (self._speeds.linear if part < 3 else self._speeds.angular)
        elif key in ("+", "-"):
            self.factor = float(np.clip(self.factor * (FASTER if key == "+" else 1 / FASTER), *SPEEDS))
            return None
        elif key == "\t":
            self.arm, self._twist, self._pressed_at = (self.arm + 1) % self._arms, np.zeros(6), -np.inf
            return None
        elif key in (" ", "g", "h"):
            self._twist = np.zeros(6)
        else:
            return None
        self._pressed_at = now
        if key not in ("g", "h"):
            return None
        wanted = self._opening[self.arm] + (BITE if key == "h" else -BITE)
        self._opening[self.arm] = float(np.clip(wanted, 0.0, OPENING_MAX))
        return self._opening[self.arm]

    def twist(self, now: float) -> np.ndarray | None:
        """The twist of the hand, [6] m/s and rad/s; None: no operator is present."""
        since = now - self._pressed_at
        if since > THERE:
            return None
        return self._twist if since <= TAP else np.zeros(6)

    def is_present(self, now: float) -> bool:
        """Whether any key was pressed within the last THERE s."""
        return now - self._touched_at <= THERE


class JoystickLayout(Speeds):
    """Indices of axes and buttons in sensor_msgs/Joy. The defaults are those of an Xbox pad with the ROS joy_node."""

    axes: list[int] = Field([1, 0, 4, 6, 7, 3], description="axis for x, y, z, about x, about y, about z; -1: none")
    signs: list[float] = Field([1.0] * 6, description="1, or -1 to turn a direction round, for each of them")
    dead_zone: float = Field(0.1, ge=0, lt=1, description="deflection that still counts as none")
    deadman: int = Field(4, ge=0, description="button that must be held for anything to move")
    close: int = Field(0, ge=0, description="button that closes the hand")
    open: int = Field(1, ge=0, description="button that opens the hand")
    stop: int = Field(2, ge=0, description="button of the latched stop; needs no dead-man's button")
    resume: int = Field(7, ge=0, description="button that resets a stop; pressed again, the policy goes on")
    present: int = Field(5, ge=0, description="held: an operator is there, and the arm is the policy's")
    other_arm: int = Field(3, ge=0, description="button that goes on with the other arm")

    @model_validator(mode="after")
    def _six(self) -> JoystickLayout:
        if len(self.axes) != 6 or len(self.signs) != 6:
            raise ValueError("axes and signs have six values each: x, y, z, about x, about y, about z")
        return self


@dataclass(frozen=True)
class Hand:
    """State of a joystick.

    twist: [6] m/s and rad/s; None: the operator does not move the arm. pressed: names of the buttons just pressed.
    present: the dead-man's button or the presence button is held.
    """

    twist: np.ndarray | None
    pressed: tuple[str, ...]
    present: bool


class Joystick:
    """Decodes consecutive sensor_msgs/Joy messages."""

    def __init__(self, layout: JoystickLayout) -> None:
        self._layout = layout
        self._before: Sequence[int] = []

    def read(self, axes: Sequence[float], buttons: Sequence[int]) -> Hand:
        """Decode one message. Raises ValueError if the pad has fewer axes or buttons than the layout needs."""
        layout = self._layout
        names = ("close", "open", "stop", "resume", "other_arm")
        highest = max(layout.deadman, layout.present, *(getattr(layout, name) for name in names))
        if max(layout.axes) >= len(axes) or highest >= len(buttons):
            raise ValueError(
                f"this joystick has {len(axes)} axes and {len(buttons)} buttons; set axes and buttons that it has"
            )
        held = bool(buttons[layout.deadman])
        new = [n for n in names if buttons[getattr(layout, n)] and not self._was(getattr(layout, n))]
        self._before = list(buttons)
        present = held or bool(buttons[layout.present])
        return Hand(self._twist(axes) if held else None, tuple(n for n in new if held or n == "stop"), present)

    def _was(self, button: int) -> bool:
        return button < len(self._before) and bool(self._before[button])

    def _twist(self, axes: Sequence[float]) -> np.ndarray:
        layout = self._layout
        at = np.array([axes[k] if k >= 0 else 0.0 for k in layout.axes]) * layout.signs
        at = np.where(np.isfinite(at), np.clip(at, -1.0, 1.0), 0.0)
        at = np.sign(at) * np.clip((np.abs(at) - layout.dead_zone) / (1.0 - layout.dead_zone), 0.0, 1.0)
        result: np.ndarray = at * np.repeat([layout.linear, layout.angular], 3)
        return result


class SpaceMouseLayout(Speeds):
    """How a SpaceMouse moves the hand."""

    signs: list[float] = Field([1.0] * 6, description="1, or -1 to turn a direction round, for each of them")
    full: float = Field(0.68, gt=0, description="value of the driver's twist at full deflection: 350 of 512")
    dead_zone: float = Field(0.1, ge=0, lt=1, description="part of the full deflection that still counts as none")
    grip: int = Field(0, ge=0, description="button that closes the hand, and opens it when it is pressed again")

    @model_validator(mode="after")
    def _six_signs(self) -> SpaceMouseLayout:
        if len(self.signs) != 6:
            raise ValueError("signs has six values: x, y, z, about x, y, z")
        return self


class SpaceMouse:
    """Decodes the twist and the buttons of the ROS driver `spacenav`. The cap is its dead-man's switch."""

    def __init__(self, layout: SpaceMouseLayout) -> None:
        self._layout, self._open, self._before = layout, True, True  # as if held: the first press is seen from there

    def twist(self, deflection: Sequence[float] | np.ndarray) -> np.ndarray | None:
        """The twist [6] m/s and rad/s for a deflection [6] as spacenav gives it; None: nobody holds the cap."""
        layout = self._layout
        part = np.asarray(deflection, np.float64) / layout.full
        part = np.where(np.isfinite(part), np.clip(part, -1.0, 1.0), 0.0)
        part = np.sign(part) * np.clip((np.abs(part) - layout.dead_zone) / (1.0 - layout.dead_zone), 0.0, 1.0)
        result: np.ndarray = part * layout.signs * np.repeat([layout.linear, layout.angular], 3)
        return result if result.any() else None

    def opening(self, buttons: Sequence[int]) -> float | None:
        """The opening in m that the grip button commands when it is pressed anew; None: it is not."""
        pressed = self._layout.grip < len(buttons) and bool(buttons[self._layout.grip])
        was, self._before = self._before, pressed
        if not pressed or was:
            return None
        self._open = not self._open
        return OPENING_MAX if self._open else 0.0
