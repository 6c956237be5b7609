"""The policies of an evaluation, started one at a time, of which nobody sees before the end which one is at work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.evaluation.trial_order import Trial
from molmoact_ros.evaluation.trial_sheet import TrialPolicy
from molmoact_ros.utils.errors import one_line

SEALED: Final = Path("sealed") / "policy"
"""Link in a session's folder to the checkpoint at work: one name for all of them, which is what the policy, its log and
the panel show."""
POLICY: Final = "policy"
"""Name of the node that is started with a checkpoint."""
VEIL: Final = "[sealed]"
INFO: Final = "[INFO]"
"""Begin of a log's line that is no reason, and may have the digest of a checkpoint."""


class SealedPolicies:
    """Runs the policy of one trial at a time, each in a process of its own, so that two alike cannot be told from two
    that differ by what is loaded again.

    Processes are ended and started in another thread, where loading and ending may take their time.

    Args:
        labels: the policies by letter.
        profile: its parameters of the node `policy` and its environment are used.
        folder: of the session; the link and the logs go there.
    """

    def __init__(self, labels: Mapping[str, TrialPolicy], profile: Profile, folder: Path) -> None:
        self._labels, self._profile, self._folder = dict(labels), profile, folder.absolute()
        self._pool = ThreadPoolExecutor(1, "policies")  # children end with the thread that started them
        self._process: Bringup | None = None
        self._switch: Future[None] | None = None
        self._number = -1  # of the trial that has its policy

    def start(self, trial: Trial) -> str:
        """Let the policy of this trial run, and no other one that was started here; returns its node's name."""
        if trial.number != self._number or self.trouble:
            self._number = trial.number
            self._switch = self._pool.submit(self._change, trial)
        return self._labels[trial.label].node or POLICY

    def _change(self, trial: Trial) -> None:
        self._end()
        checkpoint = self._labels[trial.label].checkpoint
        if checkpoint is None:
            return
        link = self._folder / SEALED
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint.resolve())
        nodes = {POLICY: self._profile.nodes.get(POLICY, {}) | {"checkpoint": str(link)}}
        profile = Profile(nodes=nodes, environment=self._profile.environment)
        self._process = Bringup(profile, self._folder / "logs" / f"trial_{trial.number:03d}")
        self._process.__enter__()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def close(self) -> None:
        """End the policy that was started here."""
        self._pool.submit(self._end)
        self._pool.shutdown()

    @property
    def is_changing(self) -> bool:
        """Whether one process is being ended, and the next one started."""
        return self._switch is not None and not self._switch.done()

    @property
    def runs_process(self) -> bool:
        """Whether the trial's policy is a process that was started here."""
        return self._process is not None

    @property
    def trouble(self) -> str:
        """Why the trial's policy does not run, in one line without names; empty: it does, or is being started."""
        if self._switch is None or not self._switch.done():
            return ""
        if error := self._switch.exception():
            return self.veiled(one_line(error))
        line = "" if self._process is None else self._process.ended().get(POLICY, "")
        return "its process was killed" if line.startswith(INFO) else self.veiled(line)

    def veiled(self, line: str) -> str:
        """A line for the operator, without a checkpoint's folder and a policy's node."""
        folders = {of.checkpoint for of in self._labels.values() if of.checkpoint is not None}
        patterns = {re.escape(str(path)) for folder in folders for path in (folder, folder.resolve())}
        patterns |= {rf"(?<![\w.-]){re.escape(of.node)}" for of in self._labels.values() if of.node not in ("", POLICY)}
        for pattern in sorted(patterns, key=len, reverse=True):
            line = re.sub(rf"{pattern}(?![\w.-])", VEIL, line)
        return line
