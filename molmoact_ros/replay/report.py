"""The report of a replay: one self-contained HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.bags.plans import RecordedAnswer
from molmoact_ros.bags.recording import Recording
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.replay.answer_difference import DIMENSIONS
from molmoact_ros.replay.compare import Comparison, Thresholds
from molmoact_ros.replay.control import ControlReplay
from molmoact_ros.utils.whole_file import write_whole

WIDTH: Final = 480  # px, width of the front image; half of it for the other one
MOST: Final = 150  # steps with images at most, evenly over the recording
POINTS: Final = 1500  # samples of a curve


@dataclass
class Report:
    """The contents of a report. about: one line on what is compared."""

    title: str
    about: str
    notes: Sequence[str] = ()
    moments: list[dict[str, Any]] = field(default_factory=list)
    plots: list[dict[str, Any]] = field(default_factory=list)
    step: str = "step"
    over_title: str = "Over the recording"

    def save(self, file: Path, comparison: Comparison) -> None:
        """Write the HTML file."""
        first = next((k for k, moment in enumerate(self.moments) if moment.get("differs")), 0)
        data = {
            "title": self.title, "about": self.about, "notes": list(self.notes), "good": comparison.good,
            "first": comparison.first, "first_moment": first, "moments": self.moments, "plots": self.plots,
            "step": self.step, "over_title": self.over_title,
            "findings": [
                {"verdict": f.verdict.value, "name": f.name, "text": f.text} for f in comparison.findings
            ],
        }  # fmt: skip
        template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
        write_whole(file, template.replace("__DATA__", _script_data(data)))


class Pictures:
    """Collects the images of the steps that a report shows, during a replay."""

    def __init__(self, count: int) -> None:
        self._every = max(1, -(-count // MOST))
        self._seen, self.kept = 0, dict[float, dict[str, str]]()

    def __call__(self, observation: Observation, _: RecordedAnswer) -> None:
        """Store the images of a step, if the report shows it."""
        if self._seen % self._every == 0:
            front, *others = observation.images
            shown = {"front": as_uri(front, WIDTH)}
            if others:
                shown["wrist"] = as_uri(others[0], WIDTH // 2)
            self.kept[observation.stamp] = shown
        self._seen += 1


def as_uri(image: np.ndarray, width: int) -> str:
    """Encode an image uint8 [H, W, 3] RGB as a JPEG data URI, at most `width` px wide."""
    if image.shape[1] > width:
        image = cv2.resize(
            image, (width, round(image.shape[0] * width / image.shape[1])), interpolation=cv2.INTER_AREA
        )  # fmt: skip
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 78])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def answers_report(
    recording: Recording,
    pairs: Sequence[tuple[RecordedAnswer, RecordedAnswer]],
    pictures: Pictures,
    comparison: Comparison,
    thresholds: Thresholds,
    title: str,
    about: str,
) -> Report:
    """Report on answers: images, traces, depth codes and chunk of each step, and the distances over the recording."""
    report = Report(title, about, recording.notes, over_title="Distances over the recording")
    if not pairs:
        return report
    begin, rows = pairs[0][1].stamp, comparison.figures["rows"]
    for (then, now), row in zip(pairs, rows, strict=True):
        shown = pictures.kept.get(now.stamp)
        if shown is None:
            continue
        words = f"“{now.instruction}”, {now.mode}. " + (f"Differs: {row['first']}" if row["first"] else "Equal.")
        report.moments.append(
            shown | {
                "time": now.stamp - begin, "words": words, "differs": bool(row["first"]),
                "trace": {"then": _list(then.trace), "now": _list(now.trace)},
                "depth": {"then": _list(then.depth, flat=True), "now": _list(now.depth, flat=True)},
                "chunk": _chunk(then, now),
            }
        )  # fmt: skip
    x = [row["stamp"] - begin for row in rows]
    for name, key, limit in (
        ("unequal tokens", "tokens", None), ("share of equal depth codes", "depth", thresholds.depth_agreement),
        ("distance of the traces, px of 640x480", "trace", thresholds.trace_px),
    ):  # fmt: skip
        report.plots.append(_plot(name, x, {"now": [row[key] for row in rows]}, limit, zero=True))
    for k in range(len(rows[0]["actions"])):
        limit = thresholds.translation_m if k < 3 else thresholds.rotation_rad if k < 6 else thresholds.gripper
        dimension = DIMENSIONS[k] if len(rows[0]["actions"]) == len(DIMENSIONS) else f"value {k + 1}"
        values = [row["actions"][k] for row in rows]
        report.plots.append(_plot(f"{dimension}: mean difference in a chunk", x, {"now": values}, limit, zero=True))
    times = {"then": [row["recorded_seconds"] for row in rows], "now": [row["seconds"] for row in rows]}
    report.plots.append(_plot("time of a step, s", x, times, None, zero=True))
    return report


def control_report(
    recording: Recording, replay: ControlReplay, thresholds: Thresholds, title: str, about: str
) -> Report:  # fmt: skip
    """Report on commands: recorded, new and measured joints, and their differences, with the front camera's images."""
    report = Report(title, about, recording.notes, step="picture", over_title="Joints, rad")
    begin = float(replay.again[0].times[0]) if len(replay.again[0].times) else 0.0
    report.moments = _film(recording, begin)
    for arm, then, now, (times, joints) in zip(
        replay.arms, replay.recorded, replay.again, replay.measured, strict=True
    ):  # fmt: skip
        at = now.times[:: max(1, len(now.times) // POINTS)]
        for k in range(now.joints.shape[1]):
            lines = {"now": np.interp(at, now.times, now.joints[:, k]), "measured": np.interp(at, times, joints[:, k])}
            if len(then.times):
                lines["then"] = np.interp(at, then.times, then.joints[:, k])
            report.plots.append(_plot(f"{arm.joints[k]}", at - begin, lines, None))
        if len(then.times):
            gap = [np.interp(at, then.times, then.joints[:, k]) - np.interp(at, now.times, now.joints[:, k])
                   for k in range(now.joints.shape[1])]  # fmt: skip
            worst = np.abs(np.array(gap)).max(axis=0)
            name = f"{arm.prefix}greatest difference from the recorded commands, rad"
            report.plots.insert(0, _plot(name, at - begin, {"now": worst}, thresholds.command_rad, zero=True))
    return report


def _film(recording: Recording, begin: float) -> list[dict[str, Any]]:
    """About 40 of the front camera's images, evenly over the recording."""
    if recording.find_picture(recording.names.colour[0]) is None:
        return []
    topic = recording.picture_topic(recording.names.colour[0])
    every = max(1, recording.count(topic) // 40)
    out = []
    for k, message in enumerate(recording.messages([topic])):
        if k % every == 0:
            stamp, pixels = recording.picture(message)
            if stamp is not None:
                out.append({"time": stamp - begin, "front": as_uri(pixels, WIDTH)})
    return out


def _chunk(then: RecordedAnswer, now: RecordedAnswer) -> list[dict[str, Any]]:
    actions = {"then": then.actions, "now": now.actions}
    known = {name: of for name, of in actions.items() if of is not None}
    if not known:
        return []
    steps, width = (max(of.shape[k] for of in known.values()) for k in (0, 1))
    x = (np.arange(steps) * now.dt).tolist()
    units = ("m", "m", "m", "rad", "rad", "rad", "1 open")
    out = []
    for k in range(width):
        lines = {name: of[:, k].tolist() if k < of.shape[1] else [] for name, of in known.items()}
        title = f"{DIMENSIONS[k]} of each action, {units[k]}" if width == len(DIMENSIONS) else f"value {k + 1}"
        out.append({"title": title, "x": x, "lines": lines})
    return out


def _plot(title: str, x: Any, lines: dict[str, Any], limit: float | None, zero: bool = False) -> dict[str, Any]:
    return {
        "title": title,
        "x": _list(x),
        "lines": {n: _list(v) for n, v in lines.items()},
        "limit": limit,
        "zero": zero,
    }


def _list(values: Any, flat: bool = False) -> Any:
    if not isinstance(values, np.ndarray):
        return values
    return (values.ravel() if flat else values).tolist()


def _script_data(data: Any) -> str:
    """ASCII JSON that is safe inside a <script>: HTML finds no tag and no comment in it."""
    text = json.dumps(_finite(data))
    for character in "<>&":  # in JSON they occur in strings only
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    """The same with None for nan and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
