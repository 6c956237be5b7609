"""The record of a collected episode, in a file beside its bag, and the folder of a session of them."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from molmoact_ros.datasets.collection import Outcome
from molmoact_ros.utils.errors import unfit
from molmoact_ros.utils.whole_file import write_whole

RECORD: Final = "episode.json"
"""Name of the file in the bag's folder."""
SESSION: Final = "session.json"
EPISODE: Final = re.compile(r"episode_(\d+)")
LEAST_ROOM: Final = 64 << 20
"""Bytes of the disk that must be free to begin an episode, or one and a half times the largest one so far."""
DISCARDED: Final = "discarded"
"""Folder of a session to which discarded episodes are moved."""


class CameraCheck(BaseModel):
    """A camera's images in an episode: how many, their rate in Hz, and the longest time without one, s."""

    images: int
    rate: float
    longest_gap: float


class EpisodeRecord(BaseModel):
    """What a bag does not say of itself. Times are ROS time, s: the clock of stamps.

    begin, end: what of the bag is the episode; the bag begins before, with the countdown. interventions: when a person
    moved the arm after the policy had. actions: "measured" where nobody commanded the arm (hand-guiding). ended_by:
    the fault that ended it, one line; empty: the operator. problems: of the check afterwards, one line each.
    checkpoint: digest of the policy's. config: SHA-256 of the nodes' parameters. calibration: by camera, its intrinsics
    and the static transforms above its optical frame; calibration_hash: SHA-256 of that. moved: rad of the joint that
    moved most. messages, lost_images, lost_others: counts of the recorder.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    format: Literal[1] = 1
    session: str
    number: int = Field(ge=0)
    task: str
    outcome: Outcome = Outcome.UNREVIEWED
    notes: str = ""
    begin: float
    end: float
    interventions: list[tuple[float, float]] = []
    actions: Literal["commanded", "measured"] = "commanded"
    ended_by: str = ""
    problems: list[str] = []
    checkpoint: str = ""
    config: str = ""
    calibration_hash: str = ""
    calibration: dict[str, dict[str, Any]] = {}
    cameras: dict[str, CameraCheck] = {}
    moved: float = 0.0
    messages: int = 0
    lost_images: int = 0
    lost_others: int = 0

    @staticmethod
    def read(bag: Path) -> EpisodeRecord | None:
        """The record of a bag; None: it has none. Raises ValueError, in one line, for a file that is no record."""
        file = bag / RECORD
        try:
            return EpisodeRecord.model_validate_json(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError as error:
            raise ValueError(f"{file} is not the record of an episode: {unfit(error.errors()[0])}") from None

    def write(self, bag: Path) -> None:
        """Write the record beside the bag's files, whole or not at all. Raises OSError where that is impossible."""
        write_whole(bag / RECORD, self.model_dump_json(indent=1))


class SessionFolder:
    """The folder of a session: a bag for each episode, and what was discarded, in a folder of its own.

    It is resumed by opening it again: everything that a session knows is in its files.
    """

    def __init__(self, folder: Path, task: str, wanted: int) -> None:
        """Open or create a session. task, wanted: empty and 0 take those of the session that is there.

        Raises ValueError, in one line, where the folder is something else, or neither says what the task is.
        """
        self.folder = folder
        known = self._known()
        self.task, self.wanted = task or known.get("task", ""), wanted or int(known.get("episodes", 0))
        if not self.task.strip():
            raise ValueError(f"{folder} does not say what its episodes show; say it with --task, in words")
        if not self.wanted:
            raise ValueError(f"{folder} is a new session; say how many episodes are wanted with --episodes")
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def _known(self) -> dict[str, Any]:
        try:
            known = json.loads((self.folder / SESSION).read_text())
            return {"task": str(known["task"]), "episodes": int(known["episodes"])}
        except FileNotFoundError:
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError(f"{self.folder} holds other things than a session; give another --out") from None
            return {}
        except (ValueError, KeyError, TypeError, OSError):
            raise ValueError(f"{self.folder / SESSION} cannot be read; restore it, or give another --out") from None

    def write(self) -> None:
        """Write the session's own file. Raises OSError where that is impossible."""
        about = {"format": 1, "task": self.task, "episodes": self.wanted}
        write_whole(self.folder / SESSION, json.dumps(about, indent=1))

    def bag(self, number: int) -> Path:
        """The folder of an episode's bag."""
        return episode_folder(self.folder, number)

    def outcomes(self) -> dict[int, Outcome]:
        """The outcome of each episode that is there; UNREVIEWED, too, for one whose record was not written."""
        return {number: self._outcome(bag) for number, bag in self._bags().items()}

    @staticmethod
    def _outcome(bag: Path) -> Outcome:
        record = EpisodeRecord.read(bag)
        return Outcome.UNREVIEWED if record is None else record.outcome

    def _bags(self) -> dict[int, Path]:
        found = ((EPISODE.fullmatch(path.name), path) for path in sorted(self.folder.iterdir()))
        return {int(match[1]): path for match, path in found if match}

    @property
    def discarded(self) -> int:
        """Number of discarded episodes."""
        folder = self.folder / DISCARDED
        return len(list(folder.iterdir())) if folder.is_dir() else 0

    def why_no_room(self) -> str:
        """Why the disk has no room for another episode, in one line; empty: it has."""
        sizes = [sum(file.stat().st_size for file in bag.iterdir()) for bag in self._bags().values()]
        need, free = max(LEAST_ROOM, *(3 * size // 2 for size in sizes), 0), shutil.disk_usage(self.folder).free
        if free >= need:
            return ""
        return f"{free >> 20} MiB of the disk are free, and an episode needs {need >> 20}; free some, then begin again"

    def discard(self, number: int) -> Path:
        """Move an episode to the discarded ones, and return its new folder; its number is free again."""
        there = self.folder / DISCARDED / f"{self.bag(number).name}-{time.time_ns()}"
        there.parent.mkdir(exist_ok=True)
        return self.bag(number).rename(there)


def episode_folder(session: Path, number: int) -> Path:
    """The folder of an episode's bag in that of its session."""
    return session / f"episode_{number:03d}"


def session_bags(folder: Path) -> list[Path]:
    """The bags of a session's folder that have a record, sorted; the discarded ones are not among them."""
    return [path for path in sorted(folder.iterdir()) if EPISODE.fullmatch(path.name) and (path / RECORD).is_file()]
