"""What a browser may say, checked as it comes in, and what it is answered."""

from __future__ import annotations

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
    """A drawn trace: points (right, down) in fractions of the picture, and that picture's stamp.

    Points outside are not refused here but by the policy, which says why.
    """

    model_config = ConfigDict(extra="forbid")
    points: list[tuple[Fraction, Fraction]] = Field(min_length=1, max_length=1000)
    sec: int = Field(ge=-(2**31), lt=2**31)
    nanosec: int = Field(ge=0, lt=10**9)


class Instruct(_Word):
    """Do it (move), or only plan it; along a drawn trace, if there is one."""

    do: Literal["instruct"]
    text: str = Field(max_length=500)
    move: bool
    stroke: DrawnStroke | None = None


class Draw(_Word):
    """Follow this trace; None: the model's own again."""

    do: Literal["draw"]
    stroke: DrawnStroke | None


class Press(_Word):
    """A button that is a service, or the end of the task. reset: of a stop, to a hold; resume: of a hold, to motion."""

    do: Literal["stop", "hold", "reset", "resume", "veto", "end"]


class ApproveRequest(_Word):
    """The plan that the operator has looked at may move the arm."""

    do: Literal["approve"]
    plan: int = Field(gt=0, lt=2**64)


class _Timed(_Word):
    """What is worth nothing later. number: greater than in all earlier ones of the connection; sent: the browser's
    monotonic time, s."""

    number: int = Field(ge=0, lt=2**53)
    sent: float = Field(ge=0, le=1e12, allow_inf_nan=False)


class Here(_Timed):
    """An operator has the page before them: it is visible, and its code runs."""

    do: Literal["here"]


class Jog(_Timed):
    """The hand moves while this is said again and again. twist: x, y, z, about x, y, z, in shares of full speed."""

    do: Literal["jog"]
    arm: int = Field(0, ge=0, le=1)
    twist: tuple[Share, Share, Share, Share, Share, Share]


class Grip(_Word):
    """Open or close the hand."""

    do: Literal["grip"]
    arm: int = Field(0, ge=0, le=1)
    open: bool


class LetGo(_Word):
    """No button of the jog is held any more."""

    do: Literal["let_go"]


Word = Annotated[Instruct | Draw | Press | ApproveRequest | Here | Jog | Grip | LetGo, Field(discriminator="do")]
WORD: TypeAdapter[Word] = TypeAdapter(Word)
"""Reads a word from JSON. Raises pydantic's ValidationError, a ValueError."""


class PanelReply(BaseModel):
    """Whether it was done; if not, one line that says why."""

    ok: bool
    message: str = ""


class Robot(Protocol):
    """Whom the panel speaks for. Called from the web server's thread; answers come from another one."""

    def press(self, name: str) -> Future[PanelReply]:
        """One of Press."""

    def approve(self, plan: int) -> Future[PanelReply]:
        """Let the plan of this number, and no other, move the arm."""

    def instruct(self, text: str, stroke: DrawnStroke | None, move: bool) -> Future[PanelReply]:
        """Take up a task."""

    def draw(self, stroke: DrawnStroke | None) -> Future[PanelReply]:
        """Steer the task, or let the model plan again."""

    def jog(self, arm: int, twist: np.ndarray) -> None:
        """Move a hand, `twist` [6] in -1..1 of full speed; the dead-man's switch is held."""

    def let_go(self, arm: int) -> None:
        """Stand, and release the dead-man's switch."""

    def grip(self, arm: int, wide: bool) -> PanelReply:
        """Open or close a hand."""
