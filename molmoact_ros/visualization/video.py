"""Video of an episode: the front image with the trace, the decoded depth beside it, instruction and state below."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import imageio_ffmpeg
import numpy as np

from molmoact_ros.visualization.overlay import colour_depth, draw_for_people

_CAPTION_HEIGHT = 48
_TEXT_COLOUR = (235, 235, 235)
_BACKGROUND = 24


def compose_frame(
    front: np.ndarray, trace: np.ndarray | None, depth: np.ndarray | None, instruction: str, state: str
) -> np.ndarray:
    """One video frame, uint8 [H + 48, W + H, 3] RGB (each size rounded up to even).

    front: uint8 [H, W, 3] RGB. trace: int [n, 2] in 0..255 of it. depth: float [h, w] in 0..1, nearer is larger, shown
    from blue (far) to red (near). Both are None until the model has generated them. instruction, state: the caption.
    """
    height, width = front.shape[:2]
    size = (height + _CAPTION_HEIGHT + height % 2, width + height + (width + height) % 2, 3)
    frame = np.full(size, _BACKGROUND, dtype=np.uint8)
    frame[:height, :width] = front if trace is None else draw_for_people(front, trace)
    if depth is None:
        _write(frame, "no depth yet", (width + 12, height // 2), height)
    else:
        frame[:height, width : width + height] = colour_depth(depth, height)
    baseline = height + 32
    _write(frame, instruction, (12, baseline), width - 24)
    _write(frame, state, (width + 12, baseline), height - 24)
    return frame


def compose_cameras(front: np.ndarray, others: Sequence[np.ndarray], instruction: str, state: str) -> np.ndarray:
    """One video frame of camera images and a caption, uint8 [H + 48, W + w, 3] RGB (rounded up to even).

    front: uint8 [H, W, 3] RGB. others: uint8 [h, w, 3] RGB each, stacked to its right in equal heights, each scaled to
    its aspect ratio.
    """
    height, width = front.shape[:2]
    side = max((round(picture.shape[1] * height / len(others) / picture.shape[0]) for picture in others), default=0)
    size = (height + _CAPTION_HEIGHT + height % 2, width + side + (width + side) % 2, 3)
    frame = np.full(size, _BACKGROUND, dtype=np.uint8)
    frame[:height, :width] = front
    for k, picture in enumerate(others):
        rows = height // len(others)
        columns = round(picture.shape[1] * rows / picture.shape[0])
        frame[k * rows : (k + 1) * rows, width : width + columns] = cv2.resize(picture, (columns, rows))
    _write(frame, instruction, (12, height + 32), width - 24)
    _write(frame, state, (width + 12, height + 32), max(side - 24, 1))
    return frame


def _write(frame: np.ndarray, text: str, at: tuple[int, int], width: int) -> None:
    """Write `text` with its baseline's left end `at` (column, row), as large as fits into `width` pixels."""
    plain = text.encode("ascii", "replace").decode()  # OpenCV 4's font is ASCII only
    (full, _), _ = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    scale = min(0.7, width / max(full, 1))
    cv2.putText(frame, plain, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT_COLOUR, 1, cv2.LINE_AA)


class VideoWriter:
    """Writes an H.264 mp4 file. A `with` block leaves a playable file on errors too.

    fps: frame rate of playback, frames/s. A single thread encodes, so that simulator and engine keep their cores.

        with VideoWriter(Path("episode.mp4"), fps=10.0) as video:
            video.write(frame)  # uint8 [H, W, 3] RGB
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._shape: tuple[int, ...] | None = None
        self._encoder: Generator[None, np.ndarray | None, None] | None = None

    def write(self, frame: np.ndarray) -> None:
        """Append `frame`, uint8 [H, W, 3] RGB with even H and W. Raises ValueError for another dtype or shape, or for
        one that differs from the first frame's.
        """
        if self._encoder is None:
            self._encoder = self._open(frame)
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(
                f"video frames must all be uint8 {list(self._shape or ())}; got {frame.dtype} {list(frame.shape)}"
            )
        self._encoder.send(np.ascontiguousarray(frame))

    def close(self) -> None:
        """Finish the file. Without frames, no file is left."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, frame: np.ndarray) -> Generator[None, np.ndarray | None, None]:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape[0] % 2 or frame.shape[1] % 2:
            raise ValueError(f"a video frame is [H, W, 3] with even H and W; got {list(frame.shape)}")
        self._shape = frame.shape
        encoder: Generator[None, np.ndarray | None, None] = imageio_ffmpeg.write_frames(
            str(self._path),
            (frame.shape[1], frame.shape[0]),
            fps=self._fps,
            quality=None,
            codec="libx264",
            macro_block_size=2,
            output_params=["-preset", "veryfast", "-crf", "22", "-threads", "1", "-movflags", "+faststart"],
        )
        encoder.send(None)
        return encoder
