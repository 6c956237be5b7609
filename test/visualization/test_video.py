"""The video shows camera, trace and depth where they belong, and plays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from molmoact_ros.visualization.overlay import colour_depth
from molmoact_ros.visualization.video import VideoWriter, compose_frame

FRONT = np.full((120, 160, 3), 100, dtype=np.uint8)
TRACE = np.array([[32, 128], [224, 128]])
DEPTH = np.tile(np.linspace(0, 1, 64), (64, 1))


def test_a_frame_holds_camera_trace_depth_and_caption() -> None:
    frame = compose_frame(FRONT, TRACE, DEPTH, "put the red cube in the bowl", "POLICY")
    assert frame.shape == (120 + 48, 160 + 120, 3) and frame.dtype == np.uint8
    assert (frame[60, 60:100] == (0, 255, 255)).all()  # the trace's middle, cyan on RGB
    assert (frame[:40, :160] == 100).all()
    far, near = frame[60, 170].astype(int), frame[60, 272].astype(int)
    assert far[2] > far[0] and near[0] > near[2]  # blue is far, red is near
    assert frame[120:, :160].max() > 200 and frame[120:, 160:].max() > 200  # both captions
    assert (FRONT == 100).all()


def test_what_the_model_has_not_said_is_not_shown() -> None:
    frame = compose_frame(FRONT, None, None, "", "")
    assert (frame[:120, :160] == 100).all()
    assert frame[:120, 160:].max() > 200  # the note in the depth's place
    assert frame[120:].max() < 50


def test_a_long_or_foreign_caption_stays_inside_its_part() -> None:
    frame = compose_frame(FRONT, None, DEPTH, "Größe " * 40, "")
    assert frame[120:, 160:].max() < 50


def test_depth_without_a_value_is_far() -> None:
    np.testing.assert_array_equal(colour_depth(np.full((4, 4), np.nan), 8), colour_depth(np.zeros((4, 4)), 8))


def test_an_odd_camera_gives_an_even_frame() -> None:
    assert compose_frame(FRONT[:119, :159], None, None, "", "").shape == (168, 278, 3)


def test_the_video_plays_with_every_frame(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "episode.mp4", fps=15) as video:
        for level in range(0, 250, 10):
            video.write(np.full((96, 128, 3), (level, 0, 0), dtype=np.uint8))
    capture = cv2.VideoCapture(str(tmp_path / "episode.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 15
    reds = []
    while True:
        more, frame = capture.read()
        if not more:
            break
        assert frame.shape == (96, 128, 3)
        reds.append(float(frame[..., 2].mean()))
    np.testing.assert_allclose(reds, range(0, 250, 10), atol=6)


def test_a_frame_of_another_form_is_refused_and_the_rest_is_kept(tmp_path: Path) -> None:
    good = np.zeros((96, 128, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="even"), VideoWriter(tmp_path / "odd.mp4", fps=15) as video:
        video.write(good[:95])
    with pytest.raises(ValueError, match="must all be"), VideoWriter(tmp_path / "cut.mp4", fps=15) as video:
        video.write(good)
        video.write(good[:48])
    assert cv2.VideoCapture(str(tmp_path / "cut.mp4")).read()[0]
