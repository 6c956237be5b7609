"""The folder of an evaluation's trials: the sheet as it was when it began, and the scores so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from molmoact_ros.evaluation.trial_order import Trial, trial_order
from molmoact_ros.evaluation.trial_sheet import TrialSheet
from molmoact_ros.utils.errors import unfit
from molmoact_ros.utils.whole_file import write_whole

TRIALS: Final = "trials.json"


class TrialScore(BaseModel):
    """What a person says of a trial.

    done: of each step of the rubric. progress: 0..1. success: all steps are done. episode: number of its bag. seconds:
    its duration, s. ended_by: the fault that ended it, one line; empty: the operator, or the time was over. corrected:
    how often a person moved the arm meanwhile.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trial: int = Field(ge=0)
    done: list[bool]
    progress: float = Field(ge=0, le=1)
    episode: int = Field(ge=0)
    seconds: float
    notes: str = ""
    ended_by: str = ""
    corrected: int = 0

    @property
    def success(self) -> bool:
        """Whether all of the task is done."""
        return all(self.done)


class TrialRepeat(BaseModel):
    """An attempt that was discarded, and repeated. ended_by, notes: as of TrialScore."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trial: int = Field(ge=0)
    ended_by: str = ""
    notes: str = ""


class _Contents(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    sheet: TrialSheet
    revealed: bool = False
    scores: list[TrialScore] = []
    repeats: list[TrialRepeat] = []


class TrialSession:
    """The trials of a sheet and their scores, one after the other; every score is on the disk before the next trial.

    session = TrialSession(folder, sheet)
    session.next  # the Trial that is due; None: all are scored, or the labels were revealed
    session.store_score([True, False], episode=0, seconds=21.0)
    """

    def __init__(self, folder: Path, sheet: TrialSheet | None) -> None:
        """Open or begin a session. sheet: None takes that of the session which is there.

        Raises ValueError, in one line, for a folder without a session and without a sheet, for another sheet than the
        session began with, and for a file that cannot be read.
        """
        self.folder = folder
        known = self._known()
        if known is None and sheet is None:
            raise ValueError(f"{folder} holds no trials yet; name a sheet")
        if known is None and folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds other things than trials; give another --out")
        if known is not None and sheet is not None and known.sheet != sheet:
            raise ValueError(f"{folder} was begun with another sheet; go on without one, or give another --out")
        self._contents = known or _Contents(sheet=sheet)
        self.order = trial_order(self.sheet)

    def _known(self) -> _Contents | None:
        file = self.folder / TRIALS
        try:
            return _Contents.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            why = unfit(error.errors()[0]) if isinstance(error, ValidationError) else error.strerror
            raise ValueError(f"{file} cannot be read: {why}; restore it, or give another --out") from None

    @property
    def sheet(self) -> TrialSheet:
        """The sheet that the session began with."""
        return self._contents.sheet

    @property
    def scores(self) -> Sequence[TrialScore]:
        """The scores so far, in the order of the trials."""
        return self._contents.scores

    @property
    def repeats(self) -> Sequence[TrialRepeat]:
        """The attempts that were discarded so far."""
        return self._contents.repeats

    @property
    def is_revealed(self) -> bool:
        """Whether somebody has seen what the labels stand for: no trial is blind any more."""
        return self._contents.revealed

    @property
    def next(self) -> Trial | None:
        """The trial that is due; None: none is."""
        done = len(self.scores)
        return None if self.is_revealed or done >= len(self.order) else self.order[done]

    def write(self) -> None:
        """Write the session's file. Raises OSError where that is impossible."""
        self._write(self._contents)

    def _write(self, contents: _Contents) -> None:
        write_whole(self.folder / TRIALS, contents.model_dump_json(indent=1))
        self._contents = contents

    def store_score(
        self, done: Sequence[bool], episode: int, seconds: float, notes: str = "", ended_by: str = "",
        corrected: int = 0,
    ) -> TrialScore:  # fmt: skip
        """Store the score of the trial that is due; the next one is due then. Raises OSError, and nothing is stored."""
        trial = self.next
        assert trial is not None
        score = TrialScore(
            trial=trial.number, done=list(done), progress=self.sheet.task(trial.task).progress(done), episode=episode,
            seconds=seconds, notes=notes, ended_by=ended_by, corrected=corrected,
        )  # fmt: skip
        self._write(self._contents.model_copy(update={"scores": [*self.scores, score]}))
        return score

    def store_repeat(self, ended_by: str, notes: str) -> None:
        """Store that an attempt of the trial that is due was discarded. Raises OSError, and nothing is stored."""
        trial = self.next
        assert trial is not None
        repeat = TrialRepeat(trial=trial.number, ended_by=ended_by, notes=notes)
        self._write(self._contents.model_copy(update={"repeats": [*self.repeats, repeat]}))

    def reveal(self) -> None:
        """End the session: the labels may be shown now."""
        self._write(self._contents.model_copy(update={"revealed": True}))
