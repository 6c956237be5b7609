"""Labels the episodes of bags and datasets, and writes what fine-tuning reads, with a page that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import numpy as np

from molmoact_ros.datasets.arrow_writer import write_arrow
from molmoact_ros.datasets.episode import DamagedEpisode, Demonstration, state_names
from molmoact_ros.datasets.given_statistics import beyond
from molmoact_ros.datasets.labelled_episode import LabelledEpisode
from molmoact_ros.datasets.labelling.contact_sheet import LabelStatistics, RandomSample, ShownLabel, contact_sheet
from molmoact_ros.datasets.labelling.depth_labels import DepthLabeller
from molmoact_ros.datasets.labelling.episode_trim import moving_part, trimmed
from molmoact_ros.datasets.labelling.nonsense import ClockCheck, check_motion
from molmoact_ros.datasets.labelling.trace_labels import MakeLabeller
from molmoact_ros.datasets.labelling.tracking import short_name
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.utils.progress import Progress, ignore

SHEET: Final = "labels.html"
"""Name of the contact sheet in the folder that is written."""


@dataclass(frozen=True)
class LabelReport:
    """What was done. lines: for people, one each. problems: what looks wrong, with the episode's name, one line each.
    sheet: the page that shows it."""

    lines: list[str]
    problems: list[str]
    sheet: Path


@dataclass(frozen=True)
class Labellers:
    """How labels are made. vq: of the checkpoint, whose codes they are; it draws the contact sheet."""

    vq: DepthVq
    depth: DepthLabeller
    trace: MakeLabeller


@dataclass(frozen=True)
class Selection:
    """The episodes that can be labelled. parts: their frames, by name. arms: their prefixes. statistics: of all their
    actions. left_out: why, by name. cut: frames that were cut off. problems: what looks wrong in their motion, one line
    each."""

    parts: dict[str, slice]
    arms: tuple[str, ...]
    statistics: NormStats
    left_out: dict[str, str]
    cut: int
    problems: list[str]


def select_episodes(
    episodes: Iterable[Demonstration], trace: MakeLabeller, with_failures: bool, measured_depth: bool
) -> Selection:  # fmt: skip
    """Choose the episodes and their frames, without looking at images.

    with_failures: those too that ended in failure. measured_depth: whether they need it. Raises ValueError where none
    can be labelled, with the first reason.
    """
    parts, left_out, problems = dict[str, slice](), dict[str, str](), list[str]()
    arms, actions, cut = tuple[str, ...](), list[np.ndarray](), 0
    for found in episodes:
        part = moving_part(found)
        if reason := _unfit(found, part, trace, with_failures, measured_depth):
            left_out[found.name] = reason
            continue
        moving = trimmed(found, part)
        parts[found.name], arms, cut = part, found.arms, cut + len(found.actions) - len(moving.actions)
        problems += [f"{found.name}: {line}" for line in check_motion(moving)]
        if actions and actions[0].shape[1] != moving.actions.shape[1]:
            raise ValueError("some episodes have one arm and some two; label them apart")
        actions.append(moving.actions)
    if not actions:
        name, reason = next(iter(left_out.items()), ("", "there are no episodes"))
        raise ValueError(f"nothing can be labelled: {': '.join(filter(None, [name, reason]))}")
    return Selection(parts, arms, NormStats.from_actions(np.concatenate(actions)), left_out, cut, problems)


def _unfit(found: Demonstration, part: slice, trace: MakeLabeller, with_failures: bool, measured_depth: bool) -> str:
    """Why an episode cannot be labelled; empty if it can."""
    if found.outcome == "failure" and not with_failures:
        return "it failed; --with-failures labels it all the same"
    if part.stop - part.start < 2:
        return "nothing moves in it"
    if measured_depth and found.depth is None:
        return "it has no depth images; --depth depth-anything guesses depth from its images"
    try:
        trace(found, part)
    except ValueError as error:
        return str(error)
    return ""


class EpisodeLabelling:
    """Labels selected episodes one after the other, while `episodes` is iterated over.

    labellers: what makes the labels. sample: labels to show. statistics: of all of them. problems: what looks wrong in
    them, one line each. left_out: why an episode could not be labelled, by its name. lacking: frames in whose traces
    the gripper's own point is not, by the reason.
    """

    def __init__(
        self, source: Iterable[Demonstration], selection: Selection, labellers: Labellers, seed: int = 0,
        progress: Progress = ignore,
    ) -> None:  # fmt: skip
        """seed: of the labels that are shown. progress: in frames."""
        self._source, self._selection, self.labellers, self._progress = source, selection, labellers, progress
        self._done, self._total = 0, sum(part.stop - part.start for part in selection.parts.values())
        self.sample, self.statistics = RandomSample(self._total, seed), LabelStatistics()
        self.problems, self.left_out, self.lacking = list[str](), dict[str, str](), Counter[str]()

    @property
    def episodes(self) -> Iterator[LabelledEpisode]:
        """The labelled episodes; one at a time is in memory."""
        for found in self._source:
            if found.name in self._selection.parts:
                try:
                    labelled = self._label(found, self._selection.parts[found.name])
                except ValueError as error:
                    self.left_out[found.name] = str(error)
                    continue
                yield labelled

    def _label(self, whole: Demonstration, part: slice) -> LabelledEpisode:
        makes, clocks = self.labellers.trace(whole, part), ClockCheck()
        depth, drawn = list[np.ndarray | None](), dict[int, np.ndarray]()
        found, first = trimmed(whole, part), self._done
        for k, (images, measured) in enumerate(_frames(found)):
            codes = self.labellers.depth.label(images[0], measured)
            depth.append(None if isinstance(codes, str) else codes)
            makes.observe_frame(images, measured)
            clocks.observe_image(images[0])
            if self.sample.has(first + k):
                drawn[k] = images[0]
            self._done += 1
            self._progress(self._done, self._total)
        traces = makes.labels()
        labelled = LabelledEpisode(found, depth, traces.traces)
        self.problems += [f"{found.name}: {line}" for line in (*clocks.problems(found), *traces.problems)]
        self.lacking.update(reason for reason in traces.reasons if reason)
        self._count(labelled, drawn, first)
        return labelled

    def _count(self, labelled: LabelledEpisode, drawn: Mapping[int, np.ndarray], first: int) -> None:
        """Count an episode's labels, and keep those to show; `drawn`: the images of these, by frame."""
        found = labelled.demonstration
        self.statistics.count_episode(found.actions)
        for k, (codes, trace) in enumerate(zip(labelled.depth, labelled.traces, strict=True)):
            if codes is None or trace is None:
                continue
            self.statistics.count_frame(codes, trace)
            if k in drawn:
                caption = f"{short_name(found.name)}, frame {k}: {found.tasks[k]}"
                self.sample.put(first + k, ShownLabel(drawn[k], trace, self.labellers.vq.picture(codes), caption))


def _frames(found: Demonstration) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray | None]]:
    """The images of each frame and its measured depth, or None. Raises DamagedEpisode where images are missing."""
    depths: Iterator[Any] = repeat(None) if found.depth is None else iter(found.depth())
    count = 0
    for images in zip(*(read() for read in found.pictures.values()), strict=False):
        yield images, next(depths, None)
        count += 1
    if count != len(found.states):
        raise DamagedEpisode(f"it has {count} images for {len(found.states)} frames")


def write_labels(
    folder: Path, key: str, statistics: NormStats, selection: Selection, labelling: EpisodeLabelling
) -> LabelReport:  # fmt: skip
    """Label the episodes and write them into a new folder, with the contact sheet.

    key: un-normalisation key that fine-tunes of it get. statistics: by which the actions are normalised, the
    selection's own or others. Raises like `write_arrow`.
    """
    try:
        written = write_arrow(folder, key, statistics, labelling.episodes)
    except ValueError as error:
        first = next(iter(labelling.left_out.items()), None)
        raise ValueError(f"{error}; {': '.join(first)}" if first else str(error)) from None
    left_out = selection.left_out | labelling.left_out | written.left_out
    lines = [
        f"{written.episodes} episodes, {written.frames} frames",
        *([f"{selection.cut} frames in which nothing moves were cut at the ends"] if selection.cut else []),
        labelling.labellers.depth.summary(),
        *(f"{reason} in {count} frames: traces go on without it" for reason, count in labelling.lacking.most_common()),
        *(f"{count} frames are left out: {reason}" for reason, count in written.dropped.most_common()),
        *(f"{name} is left out: {reason}" for name, reason in left_out.items()),
    ]
    names = state_names(selection.arms, "delta_")
    problems = [
        *beyond(selection.statistics, statistics, names), *selection.problems, *labelling.problems
    ]  # fmt: skip
    page = contact_sheet(f"Labels of {key}", lines, problems, labelling.sample.labels, labelling.statistics, names)
    (folder / SHEET).write_text(page)
    return LabelReport(lines, problems, folder / SHEET)
