"""Frames of a video file in any codec that imageio-ffmpeg's ffmpeg knows: AV1, as LeRobot writes, H.264, HEVC, VP9."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from molmoact_ros.datasets.episode import DamagedEpisode
from molmoact_ros.utils.git_lfs import unread_reason


def read_video(file: Path, count: int, begin: float = 0.0, fps: float = 30.0) -> Iterator[np.ndarray]:
    """The `count` frames from the time `begin` (s) on, uint8 [H, W, 3] RGB.

    fps: frames per second, to tell the frame at `begin` from the one before. Raises DamagedEpisode, in one line, if
    the file is missing, cannot be decoded or has fewer frames.
    """
    if not file.is_file():
        raise DamagedEpisode(f"the video {file} is missing; is the dataset whole?")
    # Half a frame early: seeking drops every frame before that time, and times in the file are rounded.
    seek = ["-ss", f"{begin - 0.5 / fps:.6f}"] if begin > 0 else []
    frames = imageio_ffmpeg.read_frames(
        file, input_params=["-threads", "2", *seek],
        output_params=["-fps_mode", "passthrough", "-frames:v", str(count)],
    )  # fmt: skip
    number = 0
    try:
        width, height = next(frames)["size"]
        for data in frames:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            number += 1
    except (OSError, RuntimeError, StopIteration, KeyError) as error:
        logging.getLogger(__name__).debug("%s", error)
        raise DamagedEpisode(f"ffmpeg cannot decode {file}: {unread_reason(file, _reason(str(error)))}") from None
    finally:
        frames.close()
    if number < count:
        raise DamagedEpisode(f"{file} has {number} of the {count} frames that belong to the episode; is it cut off?")


def _reason(log: str) -> str:
    """The line of ffmpeg's log that names an error, else its last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line or "Invalid" in line or "not found" in line]
    return (named or lines or ["no frames in it"])[-1][-160:]
