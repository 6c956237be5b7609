"""Decodes sensor_msgs/CompressedImage in the formats of image_transport: JPEG and PNG, and compressedDepth.

A compressedDepth message has a header of 12 bytes before its PNG or RVL data: an int32, which says nothing, and two
float32 a and b. 32FC1 is stored as integers q of 16 bits, with depth = a / (q - b) in m, and 0 where it is not known.
RVL is described in A. D. Wilson, "Fast lossless depth image compression", ISS 2017.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep

DEPTH_HEAD: Final = 12
"""Bytes before the PNG or RVL data of compressedDepth."""
_RVL_HEAD: Final = 8
"""Bytes before the words of RVL data: width and height as uint32."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_COLOUR: Final = ("rgb8", "bgr8", "rgba8", "bgra8")
MOST_PIXELS: Final = 100_000_000
"""Pixels of an image that is decoded at most: a small file may claim gigabytes."""


def decoded(message: Any) -> tuple[np.ndarray, str]:
    """Pixels and encoding of a CompressedImage: uint8 [H, W, 3] rgb8, uint8 [H, W] mono8, uint16 [H, W] 16UC1 (mm),
    or float32 [H, W] 32FC1 (m, NaN where unknown).

    Raises RefusedStep for data that cannot be decoded, and for colour of 16 bits a channel.
    """
    wide, high = declared_size(message)
    data = _payload(message)
    pixels = _rvl(data, wide, high) if _is_rvl(message) else _imdecode(data)
    if pixels is None:
        raise RefusedStep(f"an image of the format {message.format[:80]!r} is damaged; check who publishes it")
    if pixels.ndim == 3:
        return _rgb(pixels, message.format), "rgb8"
    if "compressedDepth" in message.format and "32FC1" in message.format:
        return _dequantised(pixels, message), "32FC1"
    return pixels, "mono8" if pixels.dtype == np.uint8 else "16UC1"


def declared_size(message: Any) -> tuple[int, int]:
    """Width and height, pixels, that a CompressedImage claims; its pixels are not decoded.

    Raises RefusedStep where it is neither JPEG, PNG nor RVL, and for no pixels or more than MOST_PIXELS.
    """
    data = _payload(message)[:_MOST_HEADER].tobytes()
    if _is_rvl(message):
        wide, high = _word(data, 0, "little"), _word(data, 4, "little")
    elif data.startswith(_PNG):
        wide, high = _word(data, 16, "big"), _word(data, 20, "big")
    elif data.startswith(_JPEG):
        wide, high = _jpeg_size(data)
    else:
        raise RefusedStep(f"an image of the format {message.format[:80]!r} is not read; publish JPEG or PNG")
    if not 0 < wide * high <= MOST_PIXELS:
        raise RefusedStep(f"a compressed image claims {wide}x{high} pixels; at most {MOST_PIXELS // 10**6} MP are read")
    return wide, high


_MOST_HEADER: Final = 1 << 20
"""Bytes at the beginning in which a JPEG names its size: up to a few segments of at most 64 KiB precede it."""


def _imdecode(data: np.ndarray) -> np.ndarray | None:
    with contextlib.suppress(cv2.error):
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return None


def _payload(message: Any) -> np.ndarray:
    data = np.frombuffer(message.data, np.uint8)
    return data[DEPTH_HEAD:] if "compressedDepth" in message.format else data


def _is_rvl(message: Any) -> bool:
    return "compressedDepth rvl" in message.format


def _word(data: bytes, at: int, order: Any) -> int:
    return int.from_bytes(data[at : at + 4], order)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of the frame header (markers SOF0 to SOF15 but DHT, JPG and DAC); (0, 0) without one."""
    at = len(_JPEG)
    while at + 9 <= len(data):
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0


def _rgb(pixels: np.ndarray, form: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB of what OpenCV decoded; image_transport's format says in which order it was compressed."""
    if pixels.dtype != np.uint8:
        raise RefusedStep(f"16 bits a channel ({form[:80]!r}) are not read as colour; publish 8, such as rgb8")
    encoding, separator, compressed = form.partition(";")
    as_rgb = separator and encoding.strip() in _COLOUR and "compressed bgr" not in compressed
    return np.ascontiguousarray(pixels[:, :, :3] if as_rgb else pixels[:, :, 2::-1])


def _dequantised(stored: np.ndarray, message: Any) -> np.ndarray:
    if stored.dtype != np.uint16:
        raise RefusedStep(f"an image of the format {message.format[:80]!r} holds no 16 bits; check who publishes it")
    a, b = np.frombuffer(message.data, "<f4", 2, 4)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(stored > 0, a / (stored.astype(np.float32) - b), np.float32(np.nan)).astype(np.float32)


def _rvl(data: np.ndarray, wide: int, high: int) -> np.ndarray:
    """uint16 [H, W] from RVL data: runs of zeros and of values, and each value as the difference to the one before.

    A number is a sequence of nibbles, the lowest first; each has 3 bits, and a fourth while more follow.
    """
    words = data[_RVL_HEAD : len(data) - (len(data) - _RVL_HEAD) % 4].view("<u4")
    nibbles = (words[:, None] >> np.arange(28, -4, -4, dtype=np.uint32) & 15).ravel().astype(np.int64)
    ends = np.flatnonzero(nibbles < 8)
    starts = np.concatenate([[0], ends + 1])[:-1]
    nibbles = nibbles[: ends[-1] + 1] if len(ends) else nibbles[:0]
    places = np.arange(len(nibbles)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((nibbles & 7) << 3 * np.minimum(places, _MOST_NIBBLES), starts) if len(ends) else nibbles
    return _runs(numbers, wide * high).reshape(high, wide)


_MOST_NIBBLES: Final = 19
"""Nibbles of a number that an int64 holds; a sound number has at most 11."""


def _runs(numbers: np.ndarray, count: int) -> np.ndarray:
    """uint16 [count] from the numbers of RVL: zeros, values, and as many differences (zigzag), again and again."""
    pixels, place, at = np.zeros(count, np.uint16), 0, 0
    differences, places = [numbers[:0]], [numbers[:0]]
    while place < count and at + 1 < len(numbers):
        zeros, values = numbers[at : at + 2].tolist()
        place, at = place + zeros, at + 2
        differences.append(numbers[at : at + values])
        places.append(np.arange(place, min(place + values, count)))
        place, at = place + values, at + values
    zigzag, where = np.concatenate(differences), np.concatenate(places)
    if place != count or at > len(numbers) or len(zigzag) != len(where):
        raise RefusedStep(f"an RVL image of {count} pixels holds {place}; it is cut off or damaged")
    pixels[where] = np.cumsum((zigzag >> 1) ^ -(zigzag & 1)).astype(np.uint16)
    return pixels
