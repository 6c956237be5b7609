"""Who may move the arm: a small state machine. Silence means hold; going on is always somebody's explicit word."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """IDLE: not started. POLICY: chunks move the arm. HOLD: holding until started again. STOPPED: latched stop."""

    IDLE = "idle"
    POLICY = "policy"
    HOLD = "hold"
    STOPPED = "stopped"


class Event(Enum):
    """START: a person gives an instruction. RESUME: a person clears a hold or stop. HOLD: the task ended.

    The others: what went wrong.
    """

    START = "start"
    RESUME = "resume"
    STOP = "stopped by a person"
    HOLD = "told to hold"
    JOINTS_STALE = "joint states are stale"
    POLICY_SILENT = "the policy is silent"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.START): State.POLICY,
    (State.IDLE, Event.RESUME): State.POLICY,
    (State.HOLD, Event.START): State.POLICY,
    (State.HOLD, Event.RESUME): State.POLICY,
    (State.STOPPED, Event.RESUME): State.POLICY,  # a new instruction alone never lifts a stop
    (State.POLICY, Event.HOLD): State.HOLD,
    (State.POLICY, Event.JOINTS_STALE): State.HOLD,
    (State.POLICY, Event.POLICY_SILENT): State.HOLD,
    **{(state, Event.STOP): State.STOPPED for state in State},
}
"""Every pair that is not listed leaves the state as it is."""


class Supervisor:
    """Holds the state and the reason for it."""

    def __init__(self) -> None:
        self.state, self.reason = State.IDLE, "waiting for an instruction"

    def on(self, event: Event) -> bool:
        """Take an event; True when the state changed."""
        after = TRANSITIONS.get((self.state, event), self.state)
        changed = after is not self.state
        if changed:
            self.state, self.reason = after, event.value
        return changed
