"""Messages between browser and panel: requests, validated on arrival, and replies."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Fraction = Annotated[float, Field(ge=-1e3, le=1e3, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)]


class _Word(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: int = 0


class DrawnStroke(BaseModel):
    """A drawn trace: points (right, down) in fractions of the image, and that image's stamp.

    Points outside of the image are refused by the policy, with a reason, not here.
    """

    model_config = ConfigDict(extra="forbid")
    points: list[tuple[Fraction, Fraction]] = Field(min_length=1, max_length=1000)
    sec: int = Field(ge=-(2**31), lt=2**31)
    nanosec: int = Field(ge=0, lt=10**9)


class Instruct(_Word):
    """Execute an instruction (move), or only plan it; along a drawn trace, if there is one."""

    do: Literal["instruct"]
    text: str = Field(max_length=500)
    move: bool
    stroke: DrawnStroke | None = None


class Draw(_Word):
    """Follow this trace; None: return to the model's own."""

    do: Literal["draw"]
    stroke: DrawnStroke | None


class Press(_Word):
    """A button that calls a service, or ends the task. reset: from a stop to a hold; resume: from a hold to motion."""

    do: Literal["stop", "hold", "reset", "resume", "veto", "end"]


class ApproveRequest(_Word):
    """Approve the plan that the operator has reviewed: it may move the arm."""

    do: Literal["approve"]
    plan: int = Field(gt=0, lt=2**64)


class CollectRequest(_Word):
    """A command for the node that collects demonstrations or runs trials, with what the page holds.

    See srv/CollectCommand.srv.
    """

    do: Literal["collect"]
    command: Literal["begin", "end", "cancel", "keep", "fail", "discard", "redo", "home", "policy", "score", ""]
    notes: str = Field("", max_length=500)
    task: str = Field("", max_length=500)
    done: list[bool] = Field([], max_length=20)


class _Timed(_Word):
    """A request that expires.

    number: greater than in all earlier ones of the connection. sent: the browser's monotonic time, s.
    """

    number: int = Field(ge=0, lt=2**53)
    sent: float = Field(ge=0, le=1e12, allow_inf_nan=False)


class Here(_Timed):
    """Presence of an operator: the page is visible, and its code runs."""

    do: Literal["here"]


class Jog(_Timed):
    """Jog: the hand moves while this is repeated. twist: x, y, z, about x, y, z, in fractions of full speed."""

    do: Literal["jog"]
    arm: int = Field(0, ge=0, le=1)
    twist: tuple[Share, Share, Share, Share, Share, Share]


class GoHome(_Timed):
    """The arm moves to its home position while this is repeated."""

    do: Literal["home"]
    arm: int = Field(0, ge=0, le=1)


class Grip(_Word):
    """Open or close the hand."""

    do: Literal["grip"]
    arm: int = Field(0, ge=0, le=1)
    open: bool


class LetGo(_Word):
    """All jog buttons are released."""

    do: Literal["let_go"]


Word = Annotated[
    Instruct | Draw | Press | ApproveRequest | CollectRequest | Here | Jog | GoHome | Grip | LetGo,
    Field(discriminator="do"),
]
WORD: TypeAdapter[Word] = TypeAdapter(Word)
"""Parses a request from JSON. Raises pydantic's ValidationError, a ValueError."""


class PanelReply(BaseModel):
    """Whether a request succeeded; if not, the reason in one line."""

    ok: bool
    message: str = ""


class Robot(Protocol):
    """The robot's side of the panel. Called from the web server's thread; futures complete in another one."""

    def press(self, name: str) -> Future[PanelReply]:
        """Perform a button of `Press`."""

    def approve(self, plan: int) -> Future[PanelReply]:
        """Approve the plan with this id, and no other."""

    def instruct(self, text: str, stroke: DrawnStroke | None, move: bool) -> Future[PanelReply]:
        """Start a task."""

    def draw(self, stroke: DrawnStroke | None) -> Future[PanelReply]:
        """Steer the task along a trace; None: let the model plan its own again."""

    def collect(self, command: str, notes: str, task: str, done: Sequence[bool]) -> Future[PanelReply]:
        """Begin, end or judge an episode; done: which steps of a trial's rubric are done, in order."""

    def jog(self, arm: int, twist: np.ndarray) -> None:
        """Move a hand with `twist` [6] in -1..1 of full speed; the dead-man's switch is held."""

    def home(self, arm: int) -> None:
        """Move an arm to its home position, slowly; the dead-man's switch is held."""

    def let_go(self, arm: int) -> None:
        """Stop the motion, and release the dead-man's switch."""

    def grip(self, arm: int, wide: bool) -> PanelReply:
        """Open or close a hand."""
