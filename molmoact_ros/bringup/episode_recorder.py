"""The recorder's process of one episode: how it goes, and how it ends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from diagnostic_msgs.msg import DiagnosticArray

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Parameters, Profile

FLUSH: Final = 60.0
"""s for the recorder to write its queue."""
STATUS: Final = "recorder: bag"
"""Name of the recorder's status in /diagnostics."""


class EpisodeRecorder:
    """Records one bag at a time, each by a process of its own: one that dies takes nothing else with it.

    Args:
        parameters: of the recorder, beside the bag; `awaited` are the topics without which it does not record.
        logs: folder of its log.
    """

    def __init__(self, parameters: Parameters, logs: Path) -> None:
        self._parameters, self._logs = parameters, logs
        self._process: Bringup | None = None
        self._bag = Path()
        self.is_recording = False
        """Whether messages have reached the bag, and one of each awaited topic has come."""
        self.awaited = ""
        """Topics of which no message had come, as of the recorder's last status."""
        self.loss = ""
        """What it has lost and why, one line; empty: nothing."""

    def start(self, bag: Path) -> None:
        """Start to record into a new folder. Raises OSError where that is impossible, or the folder is there."""
        if bag.exists():
            raise FileExistsError(f"{bag} is there already; move it away")
        self._bag, self.is_recording, self.awaited, self.loss = bag, False, "", ""
        nodes = {"recorder": self._parameters | {"bag": str(bag.resolve())}}
        self._process = Bringup(Profile(nodes=nodes), self._logs.resolve())
        self._process.__enter__()

    def observe_diagnostics(self, message: DiagnosticArray) -> None:
        """Process a message of /diagnostics; those of other nodes are ignored."""
        for status in message.status if self._process is not None else ():
            if status.name == STATUS:
                values = {value.key: value.value for value in status.values}
                lost = int(values.get("pictures_lost", 0)), int(values.get("others_lost", 0))
                if any(lost):
                    self.loss = f"{status.message} ({lost[0]} images and {lost[1]} other messages are lost)"
                elif str(self._bag) in status.message:
                    self.awaited = values.get("awaited", "")
                    self.is_recording |= int(values.get("messages", 0)) > 0 and not self.awaited

    @property
    def has_ended(self) -> str:
        """The last line of a recorder that has ended by itself; empty: it runs."""
        return "" if self._process is None else self._process.ended().get("recorder", "")

    def stop(self) -> None:
        """Finish the bag; this takes as long as the disk does."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(FLUSH)

    def drop(self) -> None:
        """Finish and remove the bag of this recorder, which holds no episode."""
        if self._process is not None:
            self.stop()
            shutil.rmtree(self._bag, ignore_errors=True)
