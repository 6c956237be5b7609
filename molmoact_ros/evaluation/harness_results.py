"""vla-eval's result file beside our own record, episode by episode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from molmoact_ros.evaluation.suite_report import SuiteEpisode


@dataclass(frozen=True)
class EpisodePair:
    """One episode in both. theirs: success, or None where the harness has no result; steps: of each until it ended."""

    instruction: str
    trial: int
    ours: bool
    theirs: bool | None
    steps: tuple[int, int]

    @property
    def agree(self) -> bool:
        """Whether both say the same of it."""
        return self.ours == self.theirs


def read_harness_results(folder: Path) -> dict[tuple[str, int], tuple[bool, int]]:
    """Success and steps by the task's words and the episode's number, of the newest result file in `folder`.

    Raises ValueError, in one line, where there is none or it cannot be read.
    """
    files = sorted(folder.glob("**/*_aggregate.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise ValueError(f"{folder} has no result file of vla-eval's; look at its output")
    try:
        tasks = json.loads(files[-1].read_text())["tasks"]
        return {
            (task["task"], int(episode["episode_id"])): (
                bool(episode["metrics"].get("success", False)), int(episode.get("steps") or 0)
            )
            for task in tasks for episode in task["episodes"]
        }  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{files[-1]} is no result file of vla-eval's: {error!r}") from None


def pair_episodes(ours: Sequence[SuiteEpisode], theirs: dict[tuple[str, int], tuple[bool, int]]) -> list[EpisodePair]:
    """Our episodes with the harness' results of the same ones."""
    pairs = []
    for episode in ours:
        success, steps = theirs.get((episode.instruction, episode.trial), (None, 0))
        pairs.append(EpisodePair(episode.instruction, episode.trial, episode.success, success, (episode.steps, steps)))
    return pairs
