"""Topics and message types of camera images, by image_transport's naming."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

from pydantic import Field
from sensor_msgs.msg import CompressedImage, Image

CameraImage: TypeAlias = Image | CompressedImage
"""A frame of a camera, as the transport has it."""
ImageTransport = Literal["raw", "compressed"]
IMAGE_TRANSPORT: Final[Any] = Field(
    "raw", description="of the cameras' topics: raw (Image) or compressed (CompressedImage: JPEG, PNG, compressedDepth)"
)
"""The parameter of every node that subscribes to cameras."""


def colour_topic(camera: str, transport: ImageTransport) -> tuple[type, str]:
    """Message type and topic of a camera's colour images."""
    return transported(f"{camera}/color/image_raw", transport)


def depth_topic(camera: str, transport: ImageTransport) -> tuple[type, str]:
    """Message type and topic of the depth that is aligned to a camera's colour images."""
    return transported(f"{camera}/aligned_depth_to_color/image_raw", transport, "compressedDepth")


def wrong_transport(cameras: Sequence[str], transport: ImageTransport, publishers: Callable[[str], int]) -> str:
    """What to set where a camera publishes by the other transport alone, in one line; empty where none does.

    publishers: number of publishers of a topic.
    """
    other = other_transport(transport)
    for camera in cameras:
        (_, topic), (_, there) = colour_topic(camera, transport), colour_topic(camera, other)
        if not publishers(topic) and publishers(there):
            return f"{there} is published and {topic} is not; set image_transport to {other}"
    return ""


def other_transport(transport: ImageTransport) -> ImageTransport:
    """The transport that is not `transport`."""
    return "compressed" if transport == "raw" else "raw"


def transported(topic: str, transport: ImageTransport, suffix: str = "compressed") -> tuple[type, str]:
    """Message type and topic of the images that image_transport publishes under the base topic `topic`."""
    return (Image, topic) if transport == "raw" else (CompressedImage, f"{topic}/{suffix}")
