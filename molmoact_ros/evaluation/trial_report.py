"""The report of an evaluation's trials: results.json, and one self-contained HTML page with pictures of each trial."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.bags.recording import Recording, TopicNames
from molmoact_ros.datasets.episode_record import EpisodeRecord, episode_folder
from molmoact_ros.evaluation.trial_figures import figures
from molmoact_ros.evaluation.trial_session import TrialSession
from molmoact_ros.utils.whole_file import write_whole

WIDTH: Final = 240
"""px, of a picture in the page."""
STYLE: Final = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:80em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .6em;border-bottom:1px solid #ddd;text-align:left}
.trials{display:flex;flex-wrap:wrap;gap:1em}.trial{width:490px;border:1px solid #ddd;border-radius:6px;padding:.6em}
.trial img{width:240px;vertical-align:top}.yes{color:#177245}.no{color:#a33}small{color:#666}
td small{white-space:nowrap}"""


def write_report(session: TrialSession, camera: str) -> Path:
    """Reveal the labels, write results.json and report.html, and return the page. Raises OSError.

    camera: whose images are shown, from the bags that are still there.
    """
    session.reveal()
    found = figures(session)
    write_whole(session.folder / "results.json", json.dumps(found, indent=1))
    pictures = {
        trial["number"]: first_and_last(episode_folder(session.folder, trial["episode"]), camera)
        for trial in found["trials"]
    }
    page = session.folder / "report.html"
    write_whole(page, page_of(session, found, pictures))
    return page


def page_of(session: TrialSession, found: Mapping[str, Any], pictures: Mapping[int, Sequence[str]]) -> str:
    """The page. found: as by `figures`. pictures: data URIs at the begin and the end of each trial, by its number."""
    title, left = escape(found["about"] or "Trials"), found["planned"] - found["scored"]
    early = f" The session was ended early: {left} trials were not run." if left else ""
    rates = ("trials", "success", "", "progress", "")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1><p>{found['scored']} of {found['planned']} trials, in an order drawn from seed "
        f"{found['seed']}; the operator did not see which policy was at work.{early} "
        "Intervals are of 95 %: Wilson's of success, the bootstrap's of progress.</p>",
        "<h2>Policies</h2>", _table(_policy_rows(found), ("policy", "what it is", *rates, "faults", "repeated")),
        "<p>Faults: trials that one ended (a camera, the arm, the policy), and that count as they were scored. "
        "Repeated: attempts that the operator discarded.</p>",
        "<h2>Tasks and conditions</h2>", _table(_condition_rows(found), ("task", "condition", "policy", *rates)),
        "<h2>Differences of progress</h2><p>Over pairs of trials with the same scene in the same round.</p>",
        _table(_difference_rows(found), ("policy", "against", "pairs", "difference", "interval")),
        "<h2>Trials</h2><div class=trials>",
        *(_trial(session, trial, pictures.get(trial["number"], ())) for trial in found["trials"]), "</div></html>",
    ]  # fmt: skip
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _rates(of: Mapping[str, Any]) -> list[str]:
    if not of["trials"]:
        return ["0", "", "", "", ""]
    return [
        str(of["trials"]), f"{of['success']:.0%} {_range(of['success_interval'], '.0%')}",
        _bar(of["success"], of["success_interval"]), f"{of['progress']:.2f} {_range(of['progress_interval'], '.2f')}",
        _bar(of["progress"], of["progress_interval"]),
    ]  # fmt: skip


def _range(interval: Sequence[float] | None, form: str) -> str:
    return "" if interval is None else f"<small>{interval[0]:{form}} to {interval[1]:{form}}</small>"


def _bar(value: float, interval: Sequence[float] | None) -> str:
    """A value of 0..1 as a bar, with its interval as a line."""
    low, high = interval or (value, value)
    return (
        '<svg width=160 height=16 viewBox="0 0 160 16"><rect width="160" height="16" fill="#eee"/>'
        f'<rect width="{160 * value:.1f}" height="16" fill="#7aa6d8"/>'
        f'<line x1="{160 * low:.1f}" x2="{160 * high:.1f}" y1="8" y2="8" stroke="#123" stroke-width="2"/></svg>'
    )


def _policy_rows(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        [escape(name), escape(of["checkpoint"] or of["node"]), *_rates(of), str(of["faults"]), str(of["repeats"])]
        for name, of in found["policies"].items()
    ]


def _condition_rows(found: Mapping[str, Any]) -> list[list[str]]:
    return [[*(escape(of[key]) for key in ("task", "condition", "policy")), *_rates(of)] for of in found["conditions"]]


def _difference_rows(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        [escape(of["policy"]), escape(of["against"]), str(of["pairs"]),
         "" if of["progress"] is None else f"{of['progress']:+.2f}", _range(of["progress_interval"], "+.2f")]
        for of in found["differences"]
    ]  # fmt: skip


def _trial(session: TrialSession, trial: Mapping[str, Any], pictures: Sequence[str]) -> str:
    rubric = session.sheet.task(trial["task"]).rubric
    steps = "".join(
        f"<div class={'yes' if done else 'no'}>{'✓' if done else '✗'} {escape(step.text)}</div>"
        for step, done in zip(rubric, trial["done"], strict=True)
    )
    fault = f"<div class=no>ended by a fault: {escape(trial['ended_by'])}</div>" if trial["ended_by"] else ""
    remarks = [trial["notes"], f"corrected {trial['corrected']} times" if trial["corrected"] else ""]
    images = "".join(f'<img src="{uri}" alt="{when}">' for uri, when in zip(pictures, ("begin", "end"), strict=False))
    return (
        f"<div class=trial><b>{trial['number'] + 1}: {escape(trial['policy'])}</b>, {escape(trial['task'])}, "
        f"{escape(trial['condition'])}: {trial['progress']:.0%} in {trial['seconds']:.0f} s<br>{images}{steps}{fault}"
        f"<small>{escape('; '.join(filter(None, remarks)))}</small></div>"
    )


def first_and_last(bag: Path, camera: str) -> list[str]:
    """The first and the last image of an episode as data URIs; none where its bag cannot be read, or has none."""
    names = TopicNames(cameras=(camera,))
    try:
        record = EpisodeRecord.read(bag)
        if record is None:
            return []
        with Recording(bag, names, checked="nothing") as recording:
            topic = recording.find_picture(names.colour[0])
            within = (
                message
                for message in recording.messages([topic] if topic else [])
                if record.begin <= message.stamp_ns * 1e-9 <= record.end
            )
            found = [*islice(within, 1), *deque(within, maxlen=1)]
            return [_as_uri(recording.picture(message)[1]) for message in found]
    except (ValueError, OSError):
        return []


def _as_uri(image: np.ndarray) -> str:
    """An image uint8 [H, W, 3] RGB as a JPEG data URI, WIDTH px wide."""
    size = WIDTH, max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    _, data = cv2.imencode(".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA)[:, :, ::-1])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
