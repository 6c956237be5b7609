"""A page, in one file, that shows random labels drawn on their images, and histograms of all of them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import cv2
import numpy as np

from molmoact_ros.reasoning.depth_tokens import N_DEPTH_CODES
from molmoact_ros.visualization.overlay import colour_depth, draw_for_people, jpeg

SHOWN: Final = 20
_WIDTH: Final = 320
_BINS: Final = 24
_STYLE: Final = """body{font:14px/1.4 system-ui,sans-serif;margin:2rem;color:#222;background:#fff}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:1rem}
figure{margin:0}img{max-width:100%}figcaption{color:#555;font-size:12px}svg{background:#f6f6f6}
.plots{display:flex;flex-wrap:wrap;gap:1rem}li{margin:.1rem 0}"""


@dataclass(frozen=True)
class ShownLabel:
    """A label to show.

    image: uint8 [H, W, 3] RGB, the first camera's. trace: int [k, 2] in 0..255. depth: the depth codes' picture, float
    [h, w] in 0..1. caption: which frame it is.
    """

    image: np.ndarray
    trace: np.ndarray
    depth: np.ndarray
    caption: str


class RandomSample:
    """Labels to show, drawn from `total` frames before they are labelled, since some may get no label."""

    def __init__(self, total: int, seed: int) -> None:
        drawn = np.random.default_rng(seed).permutation(total)[: 3 * SHOWN].tolist()
        self._rank = {frame: rank for rank, frame in enumerate(drawn)}
        self._labels: dict[int, ShownLabel] = {}

    def has(self, frame: int) -> bool:
        """Whether the label of a frame, counted over all episodes, is wanted."""
        return frame in self._rank

    def put(self, frame: int, label: ShownLabel) -> None:
        """Keep the label of a wanted frame."""
        self._labels[self._rank[frame]] = label

    @property
    def labels(self) -> list[ShownLabel]:
        """The first SHOWN of those that were put, in the order in which they were drawn."""
        return [label for _, label in sorted(self._labels.items())][:SHOWN]


class LabelStatistics:
    """Collects what the histograms show."""

    def __init__(self) -> None:
        self.codes = np.zeros(N_DEPTH_CODES, np.int64)
        self.points: Counter[int] = Counter()
        self.lengths: list[float] = []
        self.episodes: list[int] = []
        self.actions: list[np.ndarray] = []

    def count_frame(self, codes: np.ndarray, trace: np.ndarray) -> None:
        """Count a frame: codes uint8 [10, 10], trace int [k, 2] in 0..255."""
        self.codes += np.bincount(codes.ravel(), minlength=N_DEPTH_CODES)
        self.points[len(trace)] += 1
        self.lengths.append(float(np.linalg.norm(np.diff(trace, axis=0), axis=1).sum()))

    def count_episode(self, actions: np.ndarray) -> None:
        """Count an episode's actions [n, D]."""
        self.episodes.append(len(actions))
        self.actions.append(actions)


def contact_sheet(
    title: str, lines: Sequence[str], problems: Sequence[str], labels: Sequence[ShownLabel],
    statistics: LabelStatistics, names: Sequence[str],
) -> str:  # fmt: skip
    """The page as HTML. lines: what was done. problems: what looks wrong. names: of the action's values."""
    actions = np.concatenate(statistics.actions) if statistics.actions else np.zeros((0, len(names)))
    plots = [
        _bars("points of a trace", [str(k) for k in range(1, 6)], [statistics.points[k] for k in range(1, 6)]),
        _histogram("length of a trace, in 0..255 of the image", np.array(statistics.lengths)),
        _bars("depth codes", [str(k) for k in range(N_DEPTH_CODES)], statistics.codes.tolist()),
        _histogram("frames of an episode", np.array(statistics.episodes, float)),
        *(_histogram(f"action: {name}", actions[:, k]) for k, name in enumerate(names)),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{_list(lines)}"
        f"<h2>What looks wrong</h2>{_list(problems or ['nothing'])}"
        f'<h2>{len(labels)} random labels</h2><div class="sheet">{"".join(map(_figure, labels))}</div>'
        f'<h2>Histograms</h2><div class="plots">{"".join(plots)}</div></body></html>\n'
    )


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _figure(label: ShownLabel) -> str:
    drawn = draw_for_people(label.image, label.trace)
    height = round(_WIDTH * drawn.shape[0] / drawn.shape[1])
    shown = _image(cv2.resize(drawn, (_WIDTH, height), interpolation=cv2.INTER_AREA))
    depth = _image(cv2.resize(colour_depth(label.depth, _WIDTH // 2), (_WIDTH // 2, height // 2)))
    return f"<figure>{shown}{depth}<figcaption>{escape(label.caption)}</figcaption></figure>"


def _image(rgb: np.ndarray) -> str:
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg(rgb, 85)).decode()}">'


def _histogram(title: str, values: np.ndarray) -> str:
    if not len(values):
        return _bars(title, [], [])
    counts, edges = np.histogram(values, _BINS)
    return _bars(title, [f"{edge:.3g}" for edge in edges], counts.tolist())


def _bars(title: str, names: Sequence[str], counts: Sequence[int]) -> str:
    """Bars as SVG; the names of the first and the last are below them, and each bar's count is its tooltip."""
    most, width = max([*counts, 1]), 300 / max(len(counts), 1)
    bars = "".join(
        f'<rect x="{10 + k * width:.1f}" y="{100 - 90 * count / most:.1f}" width="{0.9 * width:.1f}" '
        f'height="{90 * count / most:.1f}" fill="#3572b0"><title>{escape(name)}: {count}</title></rect>'
        for k, (name, count) in enumerate(zip(names, counts, strict=False))
    )
    ends = f"{names[0]} .. {names[-1]}" if names else "none"
    return (
        f'<figure><svg width="320" height="125">{bars}<text x="10" y="118" font-size="11">{escape(ends)} '
        f"(most: {most})</text></svg><figcaption>{escape(title)}</figcaption></figure>"
    )
