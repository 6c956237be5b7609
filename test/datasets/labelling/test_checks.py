"""What is cut, what is left out and what looks wrong: jumps, grippers that never move, two tasks, clocks apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from molmoact_ros.cameras.image_path import ImagePath
from molmoact_ros.datasets.episode import TWO_ARMS, Demonstration
from molmoact_ros.datasets.labelling.contact_sheet import (
    SHOWN,
    LabelStatistics,
    RandomSample,
    ShownLabel,
    contact_sheet,
)
from molmoact_ros.datasets.labelling.episode_trim import moving_part, trimmed
from molmoact_ros.datasets.labelling.image_path import projected_path
from molmoact_ros.datasets.labelling.labelling import select_episodes
from molmoact_ros.datasets.labelling.nonsense import ClockCheck, check_motion, check_path, check_traces
from molmoact_ros.datasets.labelling.trace_labels import TraceLabeller, TraceLabels

FPS = 10.0


def episode(actions: np.ndarray, tasks: list[str] | None = None, **more: Any) -> Demonstration:
    """An episode of one arm, or of two with 14 values; the states follow the actions."""
    states = np.cumsum(np.vstack([np.zeros_like(actions[:1]), actions[:-1]]), axis=0)
    images: dict[str, Callable[[], Iterator[Any]]] = {"front": partial(iter, range(len(actions)))}
    return Demonstration(tasks or ["put it there"] * len(actions), FPS, images, states, actions, None, **more)


def motion(frames: int = 20, begin: int = 5, end: int = 15) -> np.ndarray:
    """Actions [frames, 7]: 1 cm a step along x in the frames begin..end - 1, and the gripper closes at the last one."""
    out = np.zeros((frames, 7))
    out[begin:end, 0], out[: end - 1, 6] = 0.01, 1.0
    return out


def test_what_stands_still_is_cut_at_both_ends() -> None:
    noisy = motion()
    noisy[:, 1] = 1e-4 * (-1.0) ** np.arange(20)  # 1 mm/s
    assert moving_part(episode(noisy)) == slice(5, 16)
    part = trimmed(
        episode(motion(), interventions=np.arange(20) % 2 == 0, depth=partial(iter, range(20))), slice(5, 16)
    )
    assert part.interventions is not None and part.depth is not None
    assert list(part.pictures["front"]()) == list(part.depth()) == list(range(5, 16))
    assert len(part.states) == len(part.actions) == len(part.tasks) == len(part.interventions) == 11
    late = motion()
    late[18:, 6] = 1.0  # the hand opens again
    assert moving_part(episode(late)) == slice(5, 20), "and the gripper's motion counts"
    turn = np.zeros((9, 7))
    turn[4, 5] = 0.01
    assert moving_part(episode(turn)) == slice(4, 6), "and turning"
    assert moving_part(episode(np.zeros((9, 7)))) == slice(0, 0)


def test_two_tasks_and_a_gripper_that_never_moves() -> None:
    assert list(check_motion(episode(motion()))) == []
    still = motion()
    still[:, 6] = 1.0
    lines = list(check_motion(episode(still, ["a"] * 10 + ["b"] * 10)))
    assert lines == ["2 tasks in one episode: a; b", "the gripper never moves"]
    columns = [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 6]
    both = np.hstack([motion()[:, columns]])
    both[:, 13] = 0.0
    assert list(check_motion(episode(both, arms=TWO_ARMS))) == ["the right gripper never moves"]


def test_a_path_that_jumps() -> None:
    points = np.linspace((10, 10), (200, 100), 20)
    path = ImagePath(points, [""] * 20, 640, 480)
    assert list(check_path(path)) == []
    points[8:] += (0, 130)
    points[14] = np.nan
    assert list(check_path(path)) == ["the trace jumps by 17% of the image's diagonal after frame 7"]
    traces = [np.array([[k, 10], [200, 10]]) for k in range(9)]
    assert list(check_traces([*traces, None])) == []
    traces[4] = np.array([[200, 200]])
    assert next(check_traces([*traces, None])).endswith("after frame 3, and in 1 other places")


@pytest.mark.parametrize("lag", [-7, 0, 2, 7])
def test_clocks_that_are_apart(lag: int) -> None:
    """A spot moves in the images as the hand moves, some frames later or earlier."""
    count, rng = 120, np.random.default_rng(1)
    speed = np.abs(np.convolve(rng.normal(size=count + 40), np.ones(6) / 6, "same"))
    actions = np.zeros((count, 7))
    actions[:, 0] = 0.02 * speed[20 : 20 + count]
    clocks, place = ClockCheck(), 0.0
    for k in range(count):
        image = np.zeros((120, 320, 3), np.uint8)
        image[40:80] = (127 + 120 * np.sin((np.arange(320) + place) / 9))[:, None]
        clocks.observe_image(image)
        place += 12 * speed[20 + k - lag]
    lines = list(clocks.problems(episode(actions)))
    if abs(lag) < 3:
        assert lines == []
    else:
        assert lines == [f"clocks apart: images show the motion 0.7 s {'after' if lag > 0 else 'before'} the joints do"]


class Nothing:
    """Labels nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def observe_frame(self, *_: Any) -> None:
        raise NotImplementedError

    def labels(self) -> TraceLabels:
        raise NotImplementedError


def test_episodes_are_selected_before_their_images_are_read() -> None:
    def traces(found: Demonstration, part: slice) -> TraceLabeller:
        if found.name == "blind":
            raise ValueError("no calibration")
        return Nothing()

    def read() -> Iterator[None]:
        raise AssertionError("images are not read")

    def made(name: str, actions: np.ndarray, **more: Any) -> Demonstration:
        return episode(actions, name=name, depth=read, **more) if "depth" not in more else episode(actions, name=name)

    still = np.zeros((9, 7))
    fast = 3 * motion()
    episodes = [
        made("good", motion()), made("failed", fast, outcome="failure"), made("still", still), made("blind", fast),
        made("flat", fast, depth=None),
    ]  # fmt: skip
    found = select_episodes(episodes, traces, with_failures=False, measured_depth=True)
    assert found.parts == {"good": slice(5, 16)} and found.cut == 9 and found.problems == []
    assert {name: reason.split(";")[0] for name, reason in found.left_out.items()} == {
        "failed": "it failed", "still": "nothing moves in it", "blind": "no calibration",
        "flat": "it has no depth images",
    }  # fmt: skip
    assert found.statistics.q99[0] == pytest.approx(0.01), "what is left out is not in the statistics"
    found = select_episodes(episodes, traces, with_failures=True, measured_depth=False)
    assert list(found.parts) == ["good", "failed", "flat"]
    with pytest.raises(ValueError, match="nothing can be labelled: blind: no calibration"):
        select_episodes(episodes[3:4], traces, with_failures=False, measured_depth=True)
    with pytest.raises(ValueError, match="one arm and some two"):
        both = episode(motion()[:, [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 6]], arms=TWO_ARMS)
        select_episodes([episode(motion()), both], traces, with_failures=False, measured_depth=False)


def test_a_trace_has_the_known_points_to_the_end() -> None:
    points = np.column_stack([np.arange(12.0) * 50, np.arange(12.0) * 40])
    points[3], points[11] = np.nan, np.nan
    path = ImagePath(points, [""] * 12, 641, 481)
    first, late, last = path.trace(0), path.trace(9), path.trace(11)
    assert first is not None and late is not None and last is None
    np.testing.assert_array_equal(first, np.round(points[[0, 2, 5, 7, 10]] / (640, 480) * 255))
    np.testing.assert_array_equal(late, np.round(points[[9, 10]] / (640, 480) * 255))


def test_without_calibration_there_is_no_path() -> None:
    with pytest.raises(ValueError, match="a dataset has no calibration; click the gripper"):
        projected_path(episode(motion()))


def test_the_sheet_shows_random_labels_and_what_they_are_like() -> None:
    drawn = RandomSample(1000, 0)
    label = ShownLabel(np.zeros((24, 32, 3), np.uint8), np.array([[0, 0], [255, 255]]), np.zeros((8, 8)), "<frame>")
    wanted = [frame for frame in range(1000) if drawn.has(frame)]
    assert len(wanted) == 3 * SHOWN and wanted != [*range(3 * SHOWN)]
    assert wanted == [frame for frame in range(1000) if RandomSample(1000, 0).has(frame)]
    assert wanted != [frame for frame in range(1000) if RandomSample(1000, 1).has(frame)]
    for frame in wanted[: SHOWN + 5]:
        drawn.put(frame, label)
    assert len(drawn.labels) == SHOWN
    statistics = LabelStatistics()
    statistics.count_frame(np.full((10, 10), 7, np.uint8), label.trace)
    statistics.count_episode(motion())
    page = contact_sheet("a & b", ["<done>"], ["it <jumps>"], drawn.labels, statistics, [f"v{k}" for k in range(7)])
    for words in (
        "a &amp; b",
        "&lt;done&gt;",
        "it &lt;jumps&gt;",
        "&lt;frame&gt;",
        "<title>7: 100</title>",
        "action: v6",
    ):
        assert words in page
    assert page.count("<img") == 2 * SHOWN and "<title>2: 1</title>" in page
