"""Who may move the arm: a small state machine. Silence means hold; only an explicit command leaves it."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """IDLE: not started. POLICY: chunks move the arm. TELEOP: an operator does. HOLD: stands. STOPPED: latched stop."""

    IDLE = "idle"
    POLICY = "policy"
    TELEOP = "teleop"
    HOLD = "hold"
    STOPPED = "stopped"


class Event(Enum):
    """What changes the state.

    START: a new instruction. RESUME: the operator lifts a hold, resets a stop, or hands back. STOP, HOLD: commands.
    TELEOP: teleoperation starts. TELEOP_SILENT, HANDED_BACK: it ends, and the arm holds, or the policy that was
    interrupted continues. HOME: an operator asks for the way home;
    HOMED, HOME_BLOCKED: it ends. All others are faults.
    """

    START = "an instruction was given"
    RESUME = "resumed by an operator"
    STOP = "stopped"
    HOLD = "told to hold"
    TELEOP = "an operator moves the arm"
    TELEOP_SILENT = "the operator let go"
    HANDED_BACK = "the operator handed back to the policy"
    HOME = "an operator sends the arm to its home position"
    HOMED = "the arm is at its home position"
    HOME_BLOCKED = "a limit blocks the way home; move the hand up and away, and try again"
    JOINTS_STALE = "joint states are stale"
    NOT_FOLLOWING = "the arm does not follow its commands"
    CLOCK_JUMPED = "the clock jumped"
    ROBOT_STOPPED = "the robot has stopped by itself"
    SECOND_CONTROLLER = "another controller of this name is running"
    LATE = "the control loop was late"
    POLICY_SILENT = "the policy is silent"
    ENGINE_SILENT = "the engine's heartbeat is missing"
    ENGINE_FAULT = "the engine reports a fault"
    CAMERA_STALE = "a camera is silent or frozen"
    CHUNK_INSANE = "a chunk was malformed"
    OPERATOR_ABSENT = "no operator is present"


FAULTS = (
    Event.JOINTS_STALE, Event.NOT_FOLLOWING, Event.CLOCK_JUMPED, Event.LATE, Event.ROBOT_STOPPED,
    Event.SECOND_CONTROLLER,
)  # fmt: skip
"""Faults that hold the arm, under the policy and under teleoperation."""
POLICY_FAULTS = (
    Event.POLICY_SILENT, Event.ENGINE_SILENT, Event.ENGINE_FAULT, Event.CAMERA_STALE, Event.CHUNK_INSANE,
    Event.OPERATOR_ABSENT,
)  # fmt: skip
"""Faults that hold the arm while the policy moves it."""

TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.START): State.POLICY,
    (State.IDLE, Event.RESUME): State.POLICY,
    (State.HOLD, Event.START): State.POLICY,
    (State.HOLD, Event.RESUME): State.POLICY,
    (State.TELEOP, Event.RESUME): State.POLICY,
    (State.STOPPED, Event.RESUME): State.HOLD,  # a reset moves nothing, and an instruction does not clear a stop
    (State.IDLE, Event.TELEOP): State.TELEOP,
    (State.POLICY, Event.TELEOP): State.TELEOP,
    (State.HOLD, Event.TELEOP): State.TELEOP,
    (State.TELEOP, Event.TELEOP_SILENT): State.HOLD,
    (State.TELEOP, Event.HANDED_BACK): State.POLICY,
    (State.IDLE, Event.HOME): State.TELEOP,  # not from POLICY: whoever sends it home holds the policy first
    (State.HOLD, Event.HOME): State.TELEOP,
    (State.TELEOP, Event.HOMED): State.HOLD,
    (State.TELEOP, Event.HOME_BLOCKED): State.HOLD,
    (State.POLICY, Event.HOLD): State.HOLD,
    (State.TELEOP, Event.HOLD): State.HOLD,
    **{(State.POLICY, event): State.HOLD for event in (*FAULTS, *POLICY_FAULTS)},
    **{(State.TELEOP, event): State.HOLD for event in FAULTS},
    **{(state, Event.STOP): State.STOPPED for state in State},
}
"""A pair that is not listed leaves the state unchanged."""


class Supervisor:
    """Holds the state and the reason for it.

    >>> supervisor = Supervisor()
    >>> supervisor.on(Event.START)
    True
    >>> supervisor.on(Event.STOP, "emergency button")
    True
    >>> supervisor.state, supervisor.reason
    (<State.STOPPED: 'stopped'>, 'stopped: emergency button')
    """

    def __init__(self) -> None:
        self.state, self.reason = State.IDLE, "waiting for an instruction"

    def on(self, event: Event, detail: str = "") -> bool:
        """Process an event; True if the state changed. `detail` is appended to the reason."""
        after = TRANSITIONS.get((self.state, event), self.state)
        changed = after is not self.state
        if changed:
            self.state, self.reason = after, f"{event.value}: {detail}" if detail else event.value
        return changed
