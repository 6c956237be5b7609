"""Clicks of a person, and the tracker that follows them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from molmoact_ros.datasets.labelling.tracking import (
    LOST,
    Click,
    clicks_of,
    clicks_within,
    read_clicks,
    tracked_path,
)

COUNT = 12
PATH = np.array([[60.0 + 6 * k, 50.0 + 4 * k] for k in range(COUNT)])
NOISE = np.random.default_rng(0)
GROUND = cv2.GaussianBlur(NOISE.integers(0, 256, (120, 160), np.uint8), (0, 0), 2)
HAND = cv2.GaussianBlur(NOISE.integers(0, 256, (40, 40), np.uint8), (0, 0), 2)


def frames(hidden: range = range(0)) -> list[np.ndarray]:
    """A textured hand before a textured ground; the ground alone where it is hidden."""
    out = []
    for k, (x, y) in enumerate(PATH.astype(int)):
        image = GROUND.copy()
        image[y - 20 : y + 20, x - 20 : x + 20] = HAND
        out.append(GROUND if k in hidden else image)
    return out


def test_a_click_is_followed_in_both_directions() -> None:
    found = tracked_path(frames(), [Click(frame=5, point=(90.0, 70.0))])
    np.testing.assert_allclose(found.points, PATH, atol=0.5)
    assert (found.width, found.height) == (160, 120) and found.reasons == [""] * COUNT


def test_between_two_clicks_the_nearer_one_counts_more() -> None:
    """Both clicks are off, by 3 pixels to either side: in the middle that makes nothing."""
    clicks = [Click(frame=0, point=(60, 47)), Click(frame=10, point=(120, 93))]
    off = tracked_path(frames(), clicks).points - PATH
    np.testing.assert_allclose(off[:11, 1], np.linspace(-3, 3, 11), atol=0.7)
    np.testing.assert_allclose(off[:, 0], 0, atol=0.7)


def test_a_tracker_that_is_lost_says_so() -> None:
    found = tracked_path(frames(hidden=range(6, 8)), [Click(frame=2, point=(72, 58))])
    assert found.reasons == [""] * 6 + [LOST] * 6 and np.isnan(found.points[6:]).all()
    again = tracked_path(frames(range(6, 8)), [Click(frame=2, point=(72, 58)), Click(frame=11, point=(126, 94))])
    assert [bool(reason) for reason in again.reasons] == [k in (6, 7) for k in range(COUNT)]
    np.testing.assert_allclose(again.points[8:], PATH[8:], atol=0.5)


def test_a_click_outside_of_the_image() -> None:
    with pytest.raises(ValueError, match="the click \\(160.0, 3.0\\) lies outside of its images of 160x120 pixels"):
        tracked_path(frames(), [Click(frame=0, point=(160, 3))])


def test_clicks_are_found_by_name_and_moved_into_the_part(tmp_path: Path) -> None:
    file = tmp_path / "clicks.json"
    file.write_text(json.dumps({"episode_000": [{"frame": 9, "point": [1, 2]}, {"frame": 0, "point": [3, 4]}]}))
    clicks = read_clicks(file)
    assert [click.frame for click in clicks["episode_000"]] == [0, 9]
    assert (
        clicks_of("runs/a/episode_000", clicks) == clicks["episode_000"] and clicks_of("episode 0 of x", clicks) == []
    )
    assert [click.frame for click in clicks_within(clicks["episode_000"], slice(2, 8), 10)] == [0, 5]
    with pytest.raises(ValueError, match="it has 9 frames, and a click in frame 9"):
        clicks_within(clicks["episode_000"], slice(2, 8), 9)


@pytest.mark.parametrize(("text", "words"), [
    ("{", "is no JSON"), ('{"a": [{"frame": -1, "point": [0, 0]}]}', "greater than or equal to 0"),
    ('{"a": [{"frame": 1}]}', "Field required"), ("[]", "valid dictionary"),
])  # fmt: skip
def test_a_file_that_holds_no_clicks(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "clicks.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_clicks(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
