"""Image messages as drivers and image_transport build them."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np


def raw(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Any:
    """An Image: rows of `padding` more bytes, the values in either byte order."""
    height, width = pixels.shape[:2]
    order = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = np.ascontiguousarray(order).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
    return SimpleNamespace(
        width=width, height=height, encoding=encoding, step=rows.shape[1], is_bigendian=int(big_endian),
        data=rows.tobytes(),
    )  # fmt: skip


def compressed(data: bytes, form: str) -> Any:
    """A CompressedImage."""
    return SimpleNamespace(format=form, data=data)


def file(pixels: np.ndarray, ending: str) -> bytes:
    """A JPEG or PNG of what OpenCV takes as BGR or grey."""
    done, data = cv2.imencode(ending, pixels)
    assert done
    return data.tobytes()


def depth_head(a: float = 0.0, b: float = 0.0) -> bytes:
    """The header of compressedDepth, of 12 bytes."""
    return struct.pack("<iff", 0, a, b)


def rvl(pixels: np.ndarray) -> bytes:
    """RVL data of uint16 [H, W], number by number as the paper describes it."""
    nibbles: list[int] = []

    def number(value: int) -> None:
        while value >= 8:
            nibbles.append(value & 7 | 8)
            value >>= 3
        nibbles.append(value)

    values, before = pixels.ravel().astype(int).tolist(), 0
    while values:
        zeros = next((i for i, v in enumerate(values) if v), len(values))
        count = next((i for i, v in enumerate(values[zeros:]) if not v), len(values) - zeros)
        number(zeros)
        number(count)
        for value in values[zeros : zeros + count]:
            difference = value - before
            number(2 * difference if difference >= 0 else -2 * difference - 1)
            before = value
        values = values[zeros + count :]
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    height, width = pixels.shape
    return struct.pack(f"<II{len(words)}I", width, height, *words)
