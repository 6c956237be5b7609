"""The model's answers to the steps of a recording, in memory and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from molmoact_ros.bags.message_arrays import chunk_actions, depth_codes, seconds, trace_points
from molmoact_ros.utils.whole_file import write_whole


@dataclass(frozen=True)
class RecordedAnswer:
    """One plan; a part is None if it was not generated or not recorded.

    stamp: of its front image, s. frames: stamps of all images, s, where known. drawn: the operator's trace, int [n, 2]
    in 0..255. depth: depth codes, uint8 [10, 10]. trace: int [n, 2] in 0..255. actions: float64 [N, D], dt s each; rows
    as in ActionChunk.msg. seconds: inference time. refused: why there is no answer. state: of the robot, float64 [D],
    as the model was given it. seed: of the noise that became actions, where there was one, in so many `flow_steps`.
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
    state: np.ndarray | None = None
    seed: int | None = None
    flow_steps: int = 0


@dataclass(frozen=True)
class RecordedAnswers:
    """Answers in the order of their stamps. about: what generated them, such as the output of `provenance.machine`."""

    about: dict[str, str]
    answers: list[RecordedAnswer]

    def save(self, file: Path) -> None:
        """Write JSON; all numbers round-trip exactly."""
        rows = [{name: _plain(value) for name, value in vars(answer).items()} for answer in self.answers]
        write_whole(file, json.dumps({"about": self.about, "answers": rows}))

    @staticmethod
    def load(file: Path) -> RecordedAnswers:
        """Read the output of `save`. Raises ValueError, in one line, for another format."""
        try:
            read = json.loads(file.read_text())
            return RecordedAnswers(read["about"], [_answer(row) for row in read["answers"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} does not hold answers ({error}); `replay --engine --save` writes them") from None


Decoded = Callable[[str], list[tuple[float, Any]]]
"""Of a topic: its messages, each with its time of receipt in s; empty for a topic that a bag lacks."""


def read_answers(decoded: Decoded, policy: str) -> list[RecordedAnswer]:
    """All plans with a chunk, by the stamps of their images. policy: name of the node that published them."""
    chunks = {m.plan_id: m for _, m in decoded(f"{policy}/action_chunk")}
    depths = {m.plan_id: m for _, m in decoded(f"{policy}/depth_tokens")}
    traces = {m.plan_id: m for _, m in decoded(f"{policy}/trace") if m.source == 0}
    tokens = {m.plan_id: m for _, m in decoded(f"{policy}/answer_tokens")}
    took = {m.plan_id: m.step_seconds for _, m in reversed(decoded(f"{policy}/engine_status"))}
    asked = read_instructions(decoded, policy)
    out = []
    for number, chunk in sorted(chunks.items(), key=lambda item: seconds(item[1].header.stamp)):
        said, stamp = tokens.get(number), seconds(chunk.header.stamp)
        depth, trace = depths.get(number), traces.get(number)
        out.append(
            RecordedAnswer(
                plan_id=number, stamp=stamp, mode=chunk.mode or "full",
                instruction=said.instruction if said else instruction_at(asked, stamp),
                checkpoint=said.checkpoint if said else "",
                frames=[seconds(frame) for frame in said.frames] if said else [],
                drawn=trace_points(said) if said and len(said.x) else None,
                tokens=said.tokens.tolist() if said else None,
                depth=None if depth is None else depth_codes(depth),
                trace=None if trace is None else trace_points(trace),
                actions=chunk_actions(chunk), dt=chunk.dt, seconds=took.get(number),
                **_sampled(said),
            )
        )  # fmt: skip
    return out


def _sampled(said: Any) -> dict[str, Any]:
    """State and seed of an answer's tokens; bags from before MolmoAct 2 have none."""
    state, seeded = getattr(said, "state", ()), getattr(said, "seeded", False)
    return {
        "state": np.array(state) if len(state) else None, "seed": int(said.seed) if seeded else None,
        "flow_steps": int(said.flow_steps) if seeded else 0,
    }  # fmt: skip


def read_instructions(decoded: Decoded, policy: str) -> list[tuple[float, str]]:
    """The instructions that the policy was executing, each with its time in s, in time order."""
    return [(at, m.instruction) for at, m in decoded(f"{policy}/engine_status")]


def instruction_at(instructions: list[tuple[float, str]], at: float) -> str:
    """The last instruction at or before a time, s, or the first one after it; empty: there is none."""
    before = [text for when, text in instructions if when <= at and text]
    after = [text for when, text in instructions if when > at and text]
    return before[-1] if before else (after[0] if after else "")


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
    kinds = {"drawn": np.int64, "depth": np.uint8, "trace": np.int64, "actions": np.float64, "state": np.float64}
    for name, kind in kinds.items():
        if row.get(name) is not None:
            row[name] = np.array(row[name], kind)
    return RecordedAnswer(**row)
