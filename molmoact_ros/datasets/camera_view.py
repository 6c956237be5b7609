"""Where the front camera of a recording is and how it projects: from its camera_info and /tf_static."""

from __future__ import annotations

from collections.abc import Sequence

from molmoact_ros.bags.recording import Recording
from molmoact_ros.cameras.camera_view import CameraView, camera_view
from molmoact_ros.cameras.static_frames import StaticFrames


def front_view(recording: Recording, bases: Sequence[str]) -> CameraView | str:
    """The front camera's view of a recording, or why there is none, in one line.

    bases: names of the arms' base frames.
    """
    topic, frames = f"/{recording.names.cameras[0]}/color/camera_info", StaticFrames()
    infos = recording.decoded(topic)
    for _, transforms in recording.decoded("/tf_static"):
        frames.add_transforms(transforms)
    return camera_view(infos[-1][1] if infos else None, frames, bases, topic)
