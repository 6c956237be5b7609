"""The policies of an evaluation under letters: started one at a time, and never named before the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.evaluation.trial_sheet import TrialPolicy

SEALED: Final = "sealed"
"""Folder of a session with a link to each checkpoint: what the policy, its log and the panel say of it is the link."""
POLICY: Final = "policy"
"""Name of the node that is started with a checkpoint."""


class SealedPolicies:
    """Runs the policy of one letter at a time.

    Args:
        labels: the policies by letter.
        profile: its parameters of the node `policy` and its environment are used.
        folder: of the session; links and logs go there.
    """

    def __init__(self, labels: Mapping[str, TrialPolicy], profile: Profile, folder: Path) -> None:
        self._labels, self._profile, self._folder = dict(labels), profile, folder
        self._process: Bringup | None = None
        self._running = ""

    def start(self, label: str) -> str:
        """Let the policy of this letter run, and no other one that was started here; returns its node's name.

        Raises OSError where that is impossible.
        """
        policy = self._labels[label]
        if label != self._running or self.ended:
            self.stop()
            if policy.checkpoint is not None:
                nodes = {POLICY: self._profile.nodes.get(POLICY, {}) | {"checkpoint": str(self._link(label))}}
                logs = self._folder.absolute() / "logs" / f"policy-{label}"
                self._process = Bringup(Profile(nodes=nodes, environment=self._profile.environment), logs)
                self._process.__enter__()
            self._running = label
        return policy.node or POLICY

    def _link(self, label: str) -> Path:
        link, checkpoint = self._folder.absolute() / SEALED / label, self._labels[label].checkpoint
        assert checkpoint is not None
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint.resolve())
        return link

    def stop(self) -> None:
        """End the policy that was started here."""
        process, self._process, self._running = self._process, None, ""
        if process is not None:
            process.stop()

    @property
    def ended(self) -> str:
        """The last line, without names, of a policy that has ended by itself; empty: it runs."""
        return self.veiled("" if self._process is None else self._process.ended().get(POLICY, ""))

    def veiled(self, line: str) -> str:
        """A line for the operator: the letter stands where it names a checkpoint's folder or a policy's node."""
        for label, policy in self._labels.items():
            folder = policy.checkpoint
            paths = {str(folder), str(folder.resolve())} if folder is not None else set()
            for path in sorted(paths, key=len, reverse=True):
                line = re.sub(rf"{re.escape(path)}(?![\w.-])", f"[policy {label}]", line)
            if policy.node and policy.node != POLICY:
                line = re.sub(rf"(?<![\w.-]){re.escape(policy.node)}(?![\w.-])", f"[policy {label}]", line)
        return line
