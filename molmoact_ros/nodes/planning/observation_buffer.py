"""The robot's observation at one moment, assembled from the cameras' and joints' topics."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from sensor_msgs.msg import CompressedImage, JointState

from molmoact_ros.cameras.compressed_images import MOST_PIXELS
from molmoact_ros.cameras.image_encodings import image_size
from molmoact_ros.cameras.synchronizer import MOST, Stamped, Synchronizer, nearest
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.robots.joint_state import JointGroups, nearest_positions
from molmoact_ros.ros.conversions import seconds
from molmoact_ros.ros.image_transport import CameraImage

MOST_JOINTS = 512  # joint states in the buffer: at 1 kHz half a second
LARGEST_JOINTS: Final = 1 << 16  # bytes of a message: a thousand joints
MOST_LETTERS: Final = 40  # of an encoding's name
LONGEST_FRAME: Final = 200  # characters of a frame's name
WIDEST_PIXEL: Final = 16  # bytes: four channels of 32 bits


def wrong_size(image: CameraImage) -> str:
    """Why an image's size is invalid, in one line; empty when it is valid. Reads its fields only, never its pixels."""
    if len(image.header.frame_id) > LONGEST_FRAME:
        return f"its frame's name has {len(image.header.frame_id)} characters"
    if isinstance(image, CompressedImage):
        return _wrong_compressed(image)
    wide, high, step, held = image.width, image.height, image.step, len(image.data)
    if wide * high > MOST_PIXELS or step * high > MOST_PIXELS * WIDEST_PIXEL:
        return f"it claims {wide}x{high} pixels in rows of {step} bytes; at most {MOST_PIXELS // 10**6} MP are read"
    if len(image.encoding) > MOST_LETTERS:
        return f"its encoding's name has {len(image.encoding)} characters"
    if not step * high <= held <= max(step, wide * WIDEST_PIXEL) * high:
        return f"it holds {held} bytes, and claims {wide}x{high} pixels in rows of {step}"
    return ""


def _wrong_compressed(image: CompressedImage) -> str:
    try:
        wide, high = image_size(image)
    except RefusedStep as refusal:
        return str(refusal)
    return "" if len(image.data) <= MOST_PIXELS else f"it has {len(image.data)} bytes for {wide}x{high} pixels"


@dataclass(frozen=True)
class FrameSet:
    """One image of each camera, front first; `stamp`: stamp of the front image, s.

    depth: the front camera's; joints: each joint nearest to the front image, from whichever message has it, once the
    set is used; both within the tolerance. apart: greatest difference of an image's stamp to the front one's,
    joints_apart: of a joint's, s.
    """

    images: tuple[CameraImage, ...]
    stamp: float
    depth: CameraImage | None = None
    joints: JointState | None = None
    apart: float = 0.0
    joints_apart: float = inf
    kept: tuple[Stamped[CameraImage], ...] = ()


class FrameBuffer:
    """Buffers the last frames of each camera and picks those taken together. Not thread-safe."""

    def __init__(
        self, topics: Sequence[str], slop: float, max_age: float, noisy: bool = True, joint_slop: float = 0.02
    ) -> None:
        """`topics`: front camera first. slop: greatest difference of stamps, s; max_age: of any frame, s.

        noisy: no two frames are equal, unless the camera is frozen. joint_slop: greatest difference of the joints'
        stamps, s.
        """
        self._noisy, self._max_age, self._slop = noisy, max_age, slop
        self._frames: Synchronizer[CameraImage] = Synchronizer(topics, slop, max_age)
        self._depth: deque[Stamped[CameraImage]] = deque(maxlen=MOST)
        self._joints: deque[Stamped[JointState]] = deque(maxlen=MOST_JOINTS)
        self._joint_slop = joint_slop
        self._previous: dict[str, CameraImage] = {}
        self._wrong: dict[str, str] = {}  # why a camera's last image was refused
        self._news = dict.fromkeys(topics, -inf)  # stamp of the last frame that differs from the one before
        self._last: FrameSet | None = None
        self._without_joints = 0
        self._unstamped = False  # the last joint states were stamped 0

    def add_depth(self, image: CameraImage) -> None:
        """Add a depth image of the front camera; one whose size is invalid is dropped."""
        if not wrong_size(image):
            self._depth.append(Stamped(seconds(image.header.stamp), image))

    def add_joints(self, joints: JointState) -> None:
        """Add joint states; without a stamp they are of no image and are dropped."""
        stamp = seconds(joints.header.stamp)
        self._unstamped = stamp <= 0.0
        if not self._unstamped:
            self._joints.append(Stamped(stamp, joints))

    def add_image(self, topic: str, image: CameraImage, now: float) -> None:
        """Add a frame at `now`, s.

        A frame that equals the one before to the last bit is no news: no sensor is that free of noise. One whose size
        is invalid is refused (`missing` gives the reason).
        """
        self._wrong[topic] = wrong_size(image)
        if self._wrong[topic]:
            return
        stamp, previous = seconds(image.header.stamp), self._previous.get(topic)
        if not self._noisy or previous is None or previous.data != image.data:
            self._news[topic] = stamp
        self._previous[topic] = image
        self._frames.add_frame(topic, stamp, image, now)

    def clear(self) -> None:
        """Empty the buffer: the clock of the stamps was set."""
        self._frames.clear()
        self._depth.clear()
        self._joints.clear()
        self._previous.clear()
        self._news = dict.fromkeys(self._news, -inf)
        self._last = None

    def age(self, now: float) -> float:
        """Age of the newest frame with news, of the camera where it is oldest, s; inf before all have one."""
        return now - min(self._news.values())

    def newest(self, now: float) -> FrameSet | None:
        """The newest set whose frames are all current at `now`, s; None without one (`missing` gives the reason)."""
        kept = self._frames.newest(now)
        if kept is None:
            return None
        stamp = kept[0].stamp
        depth, apart = nearest(self._depth, stamp, self._slop), max(abs(k.stamp - stamp) for k in kept)
        return FrameSet(tuple(k.item for k in kept), stamp, depth.item if depth else None, apart=apart, kept=kept)

    def mark_used(self, frames: FrameSet) -> FrameSet:
        """Count a set that a step uses; returns it with the joints of its moment."""
        for kept in frames.kept:
            kept.used = True
        found = self.joints_near(frames.stamp, self._joint_slop)
        self._without_joints += not found
        self._last = frames
        if found:
            joints = JointState(name=list(found), position=[position for position, _ in found.values()])
            apart = max(abs(stamp - frames.stamp) for _, stamp in found.values())
            self._last = replace(frames, joints=joints, joints_apart=apart)
        return self._last

    def joints_near(self, stamp: float, within: float) -> dict[str, tuple[float, float]]:
        """Position and stamp of each joint, where they were received nearest to `stamp`, s, and within `within` s."""
        messages = ((kept.stamp, kept.item.name, kept.item.position) for kept in self._joints)
        return nearest_positions(messages, stamp, within)

    def joint_groups(self) -> int:
        """How many publishers of different joints there may be; 0: joint states come, but they are stamped 0."""
        groups = JointGroups()
        for kept in self._joints:
            groups.take_names(kept.item.name, 0.0)
        return 0 if self._unstamped else max(groups.count(0.0), 1)

    def report(self) -> dict[str, float]:
        """What became of each camera's frames (OUTCOMES), and how far apart the last set's stamps were, s."""
        counts = {f"{topic} {fate}": n for topic, c in self._frames.counts.items() for fate, n in c.items()}
        last = self._last or FrameSet((), 0.0, apart=inf)
        return counts | {
            "apart_s": last.apart, "slop_s": self._slop, "joints_apart_s": last.joints_apart,
            "joint_slop_s": self._joint_slop, "steps_without_joints": self._without_joints, "max_age_s": self._max_age,
        }  # fmt: skip

    def missing(self, now: float) -> str:
        """One line that names the silent camera, or reports that the cameras' clocks differ."""
        for topic, last in self._frames.last.items():
            if self._wrong.get(topic):
                return f"an image on {topic} is refused: {self._wrong[topic]}; check the camera"
            if last == -inf:
                return f"no image on {topic} yet; start the camera, or check the topic's name"
            if now - last > self._max_age:
                return f"the newest image on {topic} is {now - last:.1f} s old; check the camera and the clocks"
            if last - now > self._slop:
                return f"the newest image on {topic} is {last - now:.1f} s in the future; check the clocks"
        return f"no images taken within {self._slop:.2f} s of each other; synchronise the cameras"
