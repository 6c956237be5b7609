"""Views of a calibration as a folder of images, and those that a bag holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from PIL import Image

from molmoact_ros.bags.bag import BagReader
from molmoact_ros.bringup.calibration_client import CalibrationTopics, intrinsics_of
from molmoact_ros.cameras.image_encodings import rgb_pixels
from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.robots.view_collector import ViewCollector
from molmoact_ros.utils.whole_file import write_whole

VIEWS: Final = "views.yaml"
"""File of a folder with the intrinsics, and of each view its image and joints."""


@dataclass(frozen=True)
class CameraShot:
    """An image, uint8 [H, W, 3] RGB, the joints' positions when it was taken, rad, and a name for people."""

    name: str
    image: np.ndarray
    joints: dict[str, float]


class ViewFolder:
    """Views on disk. Each is written as it comes, so that none is lost.

    Args of `__init__`:
        folder: it is created, and must not hold other views.
        intrinsics: of the camera.
        about: camera, frames and the like, which `read_views` gives back.
    """

    def __init__(self, folder: Path, intrinsics: CameraIntrinsics, about: dict[str, str]) -> None:
        if (folder / VIEWS).exists():
            raise FileExistsError(f"{folder} holds views already; give another --out")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._content: dict[str, Any] = {"about": about, "intrinsics": asdict(intrinsics), "views": []}
        self._content["intrinsics"]["distortion"] = list(intrinsics.distortion)

    def write_view(self, shot: CameraShot) -> None:
        """Write one view."""
        file = f"{shot.name}.png"
        Image.fromarray(shot.image).save(self._folder / file)
        self._content["views"].append({"image": file, "joints": shot.joints})
        write_whole(self._folder / VIEWS, yaml.safe_dump(self._content, sort_keys=False))


def read_views(folder: Path) -> tuple[CameraIntrinsics, dict[str, str], list[CameraShot]]:
    """Intrinsics, `about` and views of a folder. Raises ValueError, in one line, where it is none of a ViewFolder."""
    try:
        said = yaml.safe_load((folder / VIEWS).read_text())
        given = said["intrinsics"] | {"distortion": tuple(said["intrinsics"]["distortion"])}
        intrinsics = CameraIntrinsics(**given)
        shots = [
            CameraShot(
                Path(view["image"]).stem, np.asarray(Image.open(folder / view["image"]).convert("RGB")),
                {str(name): float(value) for name, value in view["joints"].items()},
            )
            for view in said["views"]
        ]  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / VIEWS} is not of molmoact-ros calibrate: {error!r}") from None
    return intrinsics, dict(said.get("about", {})), shots


def views_of_bag(
    bag: Path, topics: CalibrationTopics, joints: Sequence[str]
) -> tuple[CameraIntrinsics, list[CameraShot]]:
    """Intrinsics, and one view of each pose at which the arm stands still in a bag.

    Raises ValueError, in one line, for a bag without the topics or without such a pose.
    """
    with BagReader(bag) as reader:
        there = reader.topics()
        image = _first(there, topics.image, ("", "/compressed"), "--image-topic")
        info = _first(there, topics.camera_info, ("",), "--info-topic")
        states = _first(there, topics.joint_states, ("",), "--joint-states")
        intrinsics = next((intrinsics_of(reader.decode(message)) for message in reader.messages([info])), None)
        if intrinsics is None:
            raise ValueError(f"{bag} has no message on {info}; record camera_info, too")
        shots = list(_shots(reader, image, states, joints))
    if not shots:
        raise ValueError(f"the arm stands still nowhere in {bag} for half a second; let it stand at each view")
    return intrinsics, shots


def _shots(reader: BagReader, image: str, states: str, joints: Sequence[str]) -> Iterator[CameraShot]:
    collector, count = ViewCollector(joints), 0
    for message in reader.messages([image, states]):
        now = message.stamp_ns * 1e-9
        if message.topic == states:
            read = reader.decode(message)
            collector.add_joints(now, read.name, read.position)
        elif collector.is_due(now):
            try:
                pixels = rgb_pixels(reader.decode(message))
            except RefusedStep:
                continue
            count += 1
            collector.note_view(now, collector.positions)
            yield CameraShot(f"{count:02d}", pixels, collector.positions)


def _first(there: dict[str, str], topic: str, endings: Sequence[str], flag: str) -> str:
    for ending in endings:
        if (name := f"/{topic.lstrip('/')}{ending}") in there:
            return name
    raise ValueError(
        f"the bag has no /{topic.lstrip('/')}; name the topic by {flag}; it has {', '.join(sorted(there))}"
    )
