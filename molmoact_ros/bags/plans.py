"""The model's answers to the steps of a recording, in memory and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RecordedAnswer:
    """One plan; a part is None if it was not generated or not recorded.

    stamp: of its front image, s. frames: stamps of all images, s, where known. drawn: the operator's trace, int [n, 2]
    in 0..255. depth: depth codes, uint8 [10, 10]. trace: int [n, 2] in 0..255. actions: float64 [N, D], dt s each; rows
    as in ActionChunk.msg. seconds: inference time. refused: why there is no answer.
    """

    plan_id: int
    stamp: float
    mode: str = "full"
    instruction: str = ""
    checkpoint: str = ""
    frames: list[float] = field(default_factory=list)
    drawn: np.ndarray | None = None
    tokens: list[int] | None = None
    depth: np.ndarray | None = None
    trace: np.ndarray | None = None
    actions: np.ndarray | None = None
    dt: float = 0.1
    seconds: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class RecordedAnswers:
    """Answers in the order of their stamps. about: what generated them, such as the output of `provenance.machine`."""

    about: dict[str, str]
    answers: list[RecordedAnswer]

    def save(self, file: Path) -> None:
        """Write JSON; all numbers round-trip exactly."""
        rows = [{name: _plain(value) for name, value in vars(answer).items()} for answer in self.answers]
        file.write_text(json.dumps({"about": self.about, "answers": rows}))

    @staticmethod
    def load(file: Path) -> RecordedAnswers:
        """Read the output of `save`. Raises ValueError, in one line, for another format."""
        try:
            read = json.loads(file.read_text())
            return RecordedAnswers(read["about"], [_answer(row) for row in read["answers"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} does not hold answers ({error}); `replay --engine --save` writes them") from None


def pairs(
    recorded: Iterable[RecordedAnswer], again: Iterable[RecordedAnswer], within: float
) -> list[tuple[RecordedAnswer, RecordedAnswer]]:
    """Pair each answer of `again` with the recorded one whose image is nearest, if that is `within` so many seconds."""
    out, known = [], list(recorded)
    for answer in again:
        near = min(known, key=lambda other: abs(other.stamp - answer.stamp), default=None)
        if near is not None and abs(near.stamp - answer.stamp) <= within:
            out.append((near, answer))
    return out


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _answer(row: dict[str, Any]) -> RecordedAnswer:
    kinds = {"drawn": np.int64, "depth": np.uint8, "trace": np.int64, "actions": np.float64}
    for name, kind in kinds.items():
        if row[name] is not None:
            row[name] = np.array(row[name], kind)
    return RecordedAnswer(**row)
