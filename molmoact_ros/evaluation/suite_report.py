"""The record of a suite's episodes: a file that a later run goes on with, and a table by task with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from molmoact_ros.evaluation.intervals import rate_interval
from molmoact_ros.utils.whole_file import write_whole


@dataclass
class PlanLog:
    """What an episode's plans left: the time of each, s; why steps were refused; video frames uint8 [H, W, 3] RGB."""

    seconds: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class SuiteEpisode:
    """The outcome of one episode. task: number in the suite. trial: number of its initial state.

    steps: until success, or until the limit; 0.05 s each in LIBERO. step_seconds: median time of a reasoning step, s;
    NaN without one. refused: chunks that the controller refused. limited: how often each of the limiter's limits was
    active.
    """

    task: int
    trial: int
    instruction: str
    success: bool
    steps: int
    plans: int
    step_seconds: float
    refusals: tuple[str, ...] = ()
    refused: int = 0
    limited: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class SuiteSettings:
    """What the episodes of a record have in common. mode: protocol, deployed, or gym. policy: who planned. latency: s
    from image to plan; 0 by protocol and in a Gymnasium environment."""

    suite: str
    mode: str
    policy: str
    latency: float


class SuiteRecord:
    """The episodes done so far, in a JSON file that is written anew after each.

    Args:
        file: an existing one is gone on with. Raises ValueError, in one line, if it is of other settings, or no record.
        settings: see SuiteSettings.
        machine: provenance, for new files.
    """

    def __init__(self, file: Path, settings: SuiteSettings, machine: dict[str, str]) -> None:
        self.file, self.settings, self._machine = file, settings, machine
        self.results: list[SuiteEpisode] = []
        if file.exists():
            self._read()

    def _read(self) -> None:
        try:
            contents = json.loads(self.file.read_text())
            found = SuiteSettings(**contents["settings"])
            self.results = [_result(episode) for episode in contents["episodes"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.file} is no record of a suite ({error}); choose another --out") from None
        if found != self.settings:
            differing = [name for name, value in asdict(found).items() if value != getattr(self.settings, name)]
            raise ValueError(
                f"{self.file} has episodes with another {' and '.join(differing)}; choose another --out, or remove it"
            )

    def has(self, task: int, trial: int) -> bool:
        """Whether an episode was done."""
        return any((result.task, result.trial) == (task, trial) for result in self.results)

    def append(self, result: SuiteEpisode) -> None:
        """Add an episode, and write the file."""
        self.results.append(result)
        episodes = [asdict(r) for r in sorted(self.results, key=lambda r: (r.task, r.trial))]
        contents = {"settings": asdict(self.settings), **self._machine, "summary": self.summary(), "episodes": episodes}
        write_whole(self.file, json.dumps(_without_nan(contents), indent=1))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Figures by task, by its instruction, and of all tasks together, under `all`."""
        tasks = {result.task: result.instruction for result in self.results}
        kinds = {tasks[task]: [r for r in self.results if r.task == task] for task in sorted(tasks)}
        return {name: _figures(some) for name, some in kinds.items()} | {"all": _figures(self.results)}


def _figures(results: Sequence[SuiteEpisode]) -> dict[str, Any]:
    done = [result for result in results if result.success]
    timed = [r.step_seconds for r in results if np.isfinite(r.step_seconds)]
    return {
        "episodes": len(results),
        "successes": len(done),
        "success": len(done) / len(results),
        "interval": list(rate_interval(len(done), len(results))),
        "steps": float(np.median([result.steps for result in done])) if done else float("nan"),
        "step_seconds": float(np.median(timed)) if timed else float("nan"),
        "refused_steps": sum(len(result.refusals) for result in results),
        "refused_chunks": sum(result.refused for result in results),
    }


def _result(episode: dict[str, Any]) -> SuiteEpisode:
    seconds = float("nan") if episode["step_seconds"] is None else episode["step_seconds"]
    limited = tuple((str(name), int(count)) for name, count in episode["limited"])
    return SuiteEpisode(
        **episode | {"refusals": tuple(episode["refusals"]), "limited": limited, "step_seconds": seconds}
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(of) for of in value]
    return None if isinstance(value, float) and np.isnan(value) else value
