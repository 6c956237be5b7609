"""A bag as a robot's recording: the observations with their times, the plans made from them, and the arm's motion."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np

from molmoact_ros.bags.bag import BagMessage, BagReader
from molmoact_ros.bags.image_codec import COMPRESSED, IMAGE
from molmoact_ros.bags.message_arrays import seconds
from molmoact_ros.bags.plans import RecordedAnswer, instruction_at, read_answers, read_instructions
from molmoact_ros.bags.recorded_times import JOINT_STATE, RecordedTimes, Samples, joint_samples, read_times, seconds_of
from molmoact_ros.cameras.image_encodings import layout_fault, metres, rgb_pixels
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation, RobotState

SAME: Final = 1e-6
"""s within which two stamps are equal: they have been converted to float64."""


@dataclass(frozen=True)
class TopicNames:
    """Topic names in a bag.

    cameras: names, front first; their images are on `/<name>/color/image_raw` and the front one's depth on
    `/<name>/aligned_depth_to_color/image_raw`, with or without the suffixes of image_transport. remap: new names by the
    topics of the bag. namespace: of the recorded nodes, such as `/left`. policy, controller: nodes that published plans
    and states. slop: greatest difference between the stamps of synchronized images, s.
    """

    cameras: tuple[str, ...] = ("front", "wrist")
    remap: dict[str, str] = field(default_factory=dict)
    namespace: str = ""
    policy: str = "/policy"
    controller: str = "/controller"
    joint_states: str = "/joint_states"
    slop: float = 0.05

    @property
    def colour(self) -> tuple[str, ...]:
        """Topics of the cameras' colour images."""
        return tuple(f"/{camera}/color/image_raw" for camera in self.cameras)

    @property
    def depth(self) -> str:
        """Topic of the front camera's depth images."""
        return f"/{self.cameras[0]}/aligned_depth_to_color/image_raw"


def parse_remap(rules: Sequence[str]) -> dict[str, str]:
    """Parse rules of the form `from:=to`. Raises ValueError for another form."""
    for rule in rules:
        if not re.fullmatch(r"/[^:=]+:=/[^:=]+", rule):
            raise ValueError(f"the remapping {rule!r} is not of the form /topic/of/the/bag:=/topic/wanted")
    return dict(rule.split(":=") for rule in rules)


def namespace_rules(bag: Path, namespace: str) -> list[str]:
    """Rules for `parse_remap` that remove a namespace from topics. Raises ValueError if no topic is in it."""
    with BagReader(bag) as reader:
        topics = sorted(reader.topics())
    rules = [f"{topic}:={topic.removeprefix(namespace)}" for topic in topics if topic.startswith(f"{namespace}/")]
    if not namespace.startswith("/") or not rules:
        raise ValueError(f"no topic of the bag is in the namespace {namespace!r}; it has {', '.join(topics)}")
    return rules


@dataclass(frozen=True)
class Step:
    """One inference step: the stamps of its images, s, front first, and the recorded answer, if there is one."""

    frames: tuple[float, ...]
    answer: RecordedAnswer


Checked = Literal["images", "joints", "nothing"]
"""Whose stamps are checked: those of cameras and joint states, of joint states alone, or of no topic."""


class Recording:
    """An open bag with the robot's topics; use it in a `with` block.

    The stamps of images and joint states are checked together at the first use (`check_times`). What is read after that
    is the part of the bag without a jump of its clock, with times by the clock of the images.
    """

    def __init__(self, bag: Path, names: TopicNames | None = None, checked: Checked = "images") -> None:
        """Open a bag.

        checked: whose stamps are checked; the others' are believed. Raises FileNotFoundError and ValueError like
        BagReader, and ValueError for an unknown topic in `remap`.
        """
        self.names, self.bag, self._checked = names or TopicNames(), bag, checked
        self.reader = BagReader(bag)
        self._notes = ["its recorder was killed: the bag was repaired"] if self.reader.repaired else []
        self._unreadable: dict[str, tuple[int, str]] = {}  # how many messages of each topic, and why
        there = sorted(self.reader.topics())
        if unknown := sorted(set(self.names.remap) - set(there)):
            self.reader.close()
            raise ValueError(f"the bag has no {unknown[0]} to remap; it has {', '.join(there)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.close()

    @property
    def notes(self) -> list[str]:
        """Caveats of what was read so far, one line each: what the bag lacks, and which times are not by stamp."""
        lost = [f"{count} messages on {topic} are left out: {why}" for topic, (count, why) in self._unreadable.items()]
        return [*self.reader.notes, *lost, *self._notes]

    def add_note(self, line: str) -> None:
        """Add a caveat of a result, one line."""
        self._notes.append(line)

    # Topics

    @property
    def topics(self) -> dict[str, str]:
        """The type of each topic, by remapped name."""
        return {self.names.remap.get(topic, topic): kind for topic, kind in self.reader.topics().items()}

    def _original(self, topic: str) -> str:
        return next((old for old, new in self.names.remap.items() if new == topic), topic)

    def messages(self, topics: Sequence[str]) -> Iterator[BagMessage]:
        """Messages of those of `topics` that exist, in time order, under their remapped names."""
        return (message for message in self._all(topics) if self._times.checked.covers(message.place))

    def _all(self, topics: Sequence[str]) -> Iterator[BagMessage]:
        there = [self._original(topic) for topic in topics if topic in self.topics]
        for message in self.reader.messages(there):
            yield replace(message, topic=self.names.remap.get(message.topic, message.topic))

    def decode(self, message: BagMessage) -> Any:
        """Deserialize a message to an object. Raises ValueError if it is damaged."""
        return self.reader.decode(replace(message, topic=self._original(message.topic)))

    def decoded(self, topic: str) -> list[tuple[float, Any]]:
        """All messages of a topic, each with its time of receipt by the clock of stamps, s; empty without the topic."""
        return [(self.received(message), decoded) for message, decoded in self.readable(self.messages([topic]))]

    def readable(self, messages: Iterable[BagMessage]) -> Iterator[tuple[BagMessage, Any]]:
        """Messages with their decoded forms; one that is damaged is left out, and `notes` counts it."""
        lost: dict[str, tuple[int, str]] = {}
        for message in messages:
            try:
                decoded = self.decode(message)
            except ValueError as error:
                lost[message.topic] = lost.get(message.topic, (0, ""))[0] + 1, str(error)
                self._unreadable |= lost
                continue
            yield message, decoded

    def _sound(self, messages: Iterable[tuple[BagMessage, Any]]) -> Iterator[tuple[BagMessage, Any]]:
        """The messages but for images that have no pixels, which are counted as damaged ones are."""
        lost: Counter[str] = Counter()
        for message, decoded in messages:
            if message.type_name in (IMAGE, COMPRESSED) and (why := layout_fault(decoded)):
                lost[message.topic] += 1
                self._unreadable[message.topic] = lost[message.topic], f"a recorded image cannot be read: {why}"
            else:
                yield message, decoded

    def why_lost(self, topic: str) -> str:
        """Why messages of a topic were left out so far, to be appended to a line; empty: none were."""
        return f": {self._unreadable[topic][1]}" if topic in self._unreadable else ""

    # Times

    @cached_property
    def _times(self) -> RecordedTimes:
        cameras = [self.find_picture(topic) for topic in (*self.names.colour, self.names.depth)]
        joints = self.names.joint_states
        watched = [topic for topic in cameras if topic and self._checked == "images"]
        watched += [joints] if self._checked != "nothing" and self.topics.get(joints) == JOINT_STATE else []
        times = read_times(self._sound(self.readable(self._all(watched))))
        self._notes += times.checked.notes
        return times

    def time_of(self, message: BagMessage) -> float | None:
        """Time of an image or joint states, s, by stamp where that can be believed; None: the message is left out."""
        if message.topic in self._times.topics:
            return self._times.time_of(message)
        return seconds(self.decode(message).header.stamp)

    def received(self, message: BagMessage) -> float:
        """Time of receipt of any message, s, by the clock of stamps."""
        return float(self._times.checked.time_of(seconds_of(message.stamp_ns)))

    def joint_samples(self, joints: Sequence[str]) -> Samples:
        """Positions of joints over time; adds to the notes what was left out (see `recorded_times.joint_samples`)."""
        messages = self.readable(self.messages([self.names.joint_states]))
        samples, notes = joint_samples(messages, self._times, joints)
        self._notes += [note for note in notes if note not in self._notes]
        return samples

    # Images

    def picture_topic(self, topic: str) -> str:
        """`topic`, or its compressed variant, whichever exists. Raises ValueError, naming others, for neither."""
        found = self.find_picture(topic)
        if found is None:
            there = sorted(name for name, kind in self.topics.items() if kind in (IMAGE, COMPRESSED))
            if not there:
                raise ValueError(f"the bag has no images at all; {topic} is needed")
            used = [
                camera
                for camera, of in zip(self.names.cameras, self.names.colour, strict=True)
                if self.find_picture(of)
            ]
            free = [name for name in there if name not in map(self.find_picture, self.names.colour)]
            if used and not free:
                raise ValueError(f"the bag has no images on {topic}; give --cameras {','.join(used)}, which it has")
            like = min(free, key=lambda name: ("depth" in name) != ("depth" in topic))
            raise ValueError(
                f"the bag has no images on {topic}; say which they are with --remap {like}:={topic}; "
                f"there are {', '.join(there)}"
            )
        return found

    def find_picture(self, topic: str) -> str | None:
        """`topic`, or its compressed variant, whichever exists; None for neither."""
        for name in (topic, f"{topic}/compressed", f"{topic}/compressedDepth"):
            if self.topics.get(name) in (IMAGE, COMPRESSED):
                return name
        return None

    def picture(self, message: BagMessage, depth: bool = False) -> tuple[float | None, np.ndarray]:
        """Time of an image as by `time_of`, and its pixels uint8 [H, W, 3] RGB, or depth float32 [H, W] m.

        Raises ValueError if it is damaged.
        """
        return self.time_of(message), self._pixels(self.decode(message), depth)

    def count(self, topic: str) -> int:
        """Number of messages of a topic."""
        return self.reader.count(self._original(topic))

    @property
    def lossless(self) -> bool:
        """Whether the front images are what the policy received, not JPEG."""
        topic = self.picture_topic(self.names.colour[0])
        if self.topics[topic] == IMAGE:
            return True
        first = next(self.messages([topic]), None)
        return first is None or "jpeg" not in self.decode(first).format

    def stamps(self, topic: str) -> np.ndarray:
        """Times of the images of a topic that are not left out, float64 [n] s, increasing."""
        return self._times.of_topic(topic)

    # Plans

    def answers(self) -> list[RecordedAnswer]:
        """All recorded plans with a chunk, by the stamps of their images; those of a policy without tokens, too."""
        return read_answers(self.decoded, self.names.policy)

    def steps(self, instruction: str = "", period: float = 0.75) -> list[Step]:
        """The steps to infer again: those recorded, or, if there are none, one every `period` s.

        instruction: for plans whose instruction was not recorded. Raises ValueError if there are no such images, no
        synchronized ones, or no instruction.
        """
        stamps = [self.stamps(self.picture_topic(topic)) for topic in self.names.colour]
        topics = map(self.picture_topic, self.names.colour)
        if empty := [topic for topic, of in zip(topics, stamps, strict=True) if not len(of)]:
            raise ValueError(f"the bag has no images on {empty[0]}{self.why_lost(empty[0]) or ': the topic is empty'}")
        answers, recorded = self.answers(), True
        if not answers:
            self._notes.append("no plans were recorded: there is nothing to compare with")
            recorded = False
            times, asked = _every(stamps[0], period), read_instructions(self.decoded, self.names.policy)
            answers = [
                RecordedAnswer(k + 1, t, instruction=instruction or instruction_at(asked, t))
                for k, t in enumerate(times)
            ]
        steps = [self._step(answer, stamps, instruction) for answer in answers]
        seen = [step for step in steps if step is not None]
        if not seen:
            raise ValueError(self._why_nothing(stamps))
        if lost := len(steps) - len(seen):
            what = "plans have" if recorded else "moments have"
            self._notes.append(
                f"{lost} of {len(steps)} {what} no images of all cameras within {self.names.slop:g} s: left out"
            )
        if any(not step.answer.instruction for step in seen):
            raise ValueError("the bag does not say what was asked for; give --instruction")
        return seen

    def _step(self, answer: RecordedAnswer, stamps: list[np.ndarray], instruction: str) -> Step | None:
        wanted = answer.frames or [answer.stamp] * len(stamps)
        near = [float(of[_nearest(of, at)]) for of, at in zip(stamps, wanted, strict=True)]
        slops = [SAME if answer.frames or k == 0 else self.names.slop for k in range(len(stamps))]
        if any(abs(found - at) > slop for found, at, slop in zip(near, wanted, slops, strict=True)):
            return None
        return Step(tuple(near), replace(answer, instruction=answer.instruction or instruction))

    def _why_nothing(self, stamps: list[np.ndarray]) -> str:
        spans = ", ".join(
            f"{name} {of[0]:.2f} to {of[-1]:.2f} s" for name, of in zip(self.names.cameras, stamps, strict=True)
        )
        return (
            f"no images of all cameras within {self.names.slop:g} s of each other ({spans}); "
            "were their clocks synchronised? a larger --slop pairs them anyway"
        )

    def observations(self, steps: Sequence[Step]) -> Iterator[tuple[Step, Observation]]:
        """The observation of each step, in the order of the images; only a few are in memory at a time.

        A step with an image that cannot be read is left out and counted in the notes. Raises ValueError where all are.
        """
        topics = [self.picture_topic(topic) for topic in self.names.colour]
        depth = self.find_picture(self.names.depth)
        of = {topic: k for k, topic in enumerate(topics)} | ({depth: len(topics)} if depth else {})
        grounded = depth is not None and any(step.answer.mode == "grounded" for step in steps)
        depths = self.stamps(depth) if depth and grounded else np.zeros(0)
        waiting: deque[tuple[Step, int, dict[int, Any]]] = deque()
        wanted: dict[tuple[int, float], list[dict[int, Any]]] = {}
        lost, why = 0, ""
        for step in steps:
            stamps = [*step.frames]
            if step.answer.mode == "grounded" and len(depths):
                stamps.append(float(depths[_nearest(depths, step.frames[0])]))
            found: dict[int, Any] = {}
            waiting.append((step, len(stamps), found))
            for camera, stamp in enumerate(stamps):
                wanted.setdefault((camera, stamp), []).append(found)
        for message in self.messages([*topics, *([depth] if depth and grounded else [])]):
            camera, at = of[message.topic], self.time_of(message)
            takers = [] if at is None else wanted.pop((camera, at), [])
            if takers:
                try:
                    pixels = self._pixels(self.decode(message), camera == len(topics))
                except ValueError as error:
                    why, pixels = str(error), None
                for taker in takers:
                    taker[camera] = pixels
            while waiting and len(waiting[0][2]) == waiting[0][1]:
                step, _, found = waiting.popleft()
                if all(pixels is not None for pixels in found.values()):
                    yield step, _observation(step, found, len(topics))
                else:
                    lost += 1
            if not waiting:
                break
        if lost == len(steps) and steps:
            raise ValueError(why)
        if lost:
            self._notes.append(f"{lost} of {len(steps)} steps are left out: {why}")

    def _pixels(self, picture: Any, is_depth: bool) -> np.ndarray:
        """Pixels of an image, uint8 [H, W, 3] RGB, or depth float32 [H, W] m. Raises ValueError if it is damaged."""
        try:
            return metres(picture) if is_depth else rgb_pixels(picture)
        except RefusedStep as refusal:
            raise ValueError(f"a recorded image cannot be read: {refusal}") from None


def _observation(step: Step, found: dict[int, np.ndarray], cameras: int) -> Observation:
    images = tuple(found[k] for k in range(cameras))
    answer = step.answer
    state = None if answer.state is None else RobotState(answer.state, answer.stamp)
    return Observation(
        images, answer.instruction, step.frames[0], answer.drawn, found.get(cameras), state, answer.seed
    )  # fmt: skip


def _nearest(stamps: np.ndarray, at: float) -> int:
    right = bisect_left(stamps, at)
    return min((k for k in (right - 1, right) if 0 <= k < len(stamps)), key=lambda k: abs(stamps[k] - at))


def _every(stamps: np.ndarray, period: float) -> list[float]:
    out: list[float] = []
    for stamp in stamps.tolist():
        if not out or stamp - out[-1] >= period - SAME:
            out.append(stamp)
    return out
