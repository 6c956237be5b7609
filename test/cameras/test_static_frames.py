"""Frames that never move against each other."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import TransformStamped
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from molmoact_ros.cameras.static_frames import StaticFrames
from molmoact_ros.ros.transforms import transform_message


def pose(seed: int) -> np.ndarray:
    rng, out = np.random.default_rng(seed), np.eye(4)
    out[:3, :3], out[:3, 3] = Rotation.random(rng=rng).as_matrix(), rng.normal(size=3)
    return out


def same(found: np.ndarray | None, wanted: np.ndarray) -> bool:
    return found is not None and bool(np.allclose(found, wanted, atol=1e-9))


def told(*frames: tuple[str, str, np.ndarray]) -> StaticFrames:
    out = StaticFrames()
    for parent, child, at in frames:
        out.add_transforms(TFMessage(transforms=[transform_message(Header(frame_id=parent), child, at)]))
    return out


def test_a_camera_is_found_through_its_mount_whoever_says_what() -> None:
    a, b, c = pose(1), pose(2), pose(3)
    frames = told(("camera_link", "optical", c), ("base", "pillar", a), ("pillar", "camera_link", b))
    assert same(frames.pose("optical", "base"), a @ b @ c)
    assert same(frames.pose("base", "optical"), np.linalg.inv(a @ b @ c))
    assert same(frames.pose("pillar", "camera_link"), np.linalg.inv(b))


def test_what_nothing_joins_has_no_pose() -> None:
    frames = told(("base", "pillar", pose(1)), ("hand", "wrist_optical", pose(2)))
    assert frames.pose("wrist_optical", "base") is None
    assert frames.pose("optical", "base") is None
    assert same(frames.pose("base", "base"), np.eye(4))


def test_rings_and_empty_rotations_harm_nobody() -> None:
    frames = told(("a", "b", pose(1)), ("b", "a", pose(2)))
    frames.pose("a", "base")
    frames.add_transforms(TFMessage(transforms=[TransformStamped(child_frame_id="c")]))
    assert frames.pose("c", "base") is None
