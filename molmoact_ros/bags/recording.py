"""A bag as a robot's recording: the observations with their times, the plans made from them, and the arm's motion."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from molmoact_ros.bags.bag import BagMessage, BagReader
from molmoact_ros.bags.image_codec import COMPRESSED, IMAGE
from molmoact_ros.bags.message_arrays import chunk_actions, depth_codes, seconds, trace_points
from molmoact_ros.bags.plans import RecordedAnswer
from molmoact_ros.cameras.image_encodings import metres, rgb_pixels
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation

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


class Recording:
    """An open bag with the robot's topics; use it in a `with` block. `notes`: caveats of the results, one line each."""

    def __init__(self, bag: Path, names: TopicNames | None = None) -> None:
        """Raises FileNotFoundError and ValueError like BagReader, and ValueError for an unknown topic in `remap`."""
        self.names, self.bag = names or TopicNames(), bag
        self.reader = BagReader(bag)
        self.notes = ["its recorder was killed: the bag was repaired"] if self.reader.repaired else []
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

    # Topics

    @property
    def topics(self) -> dict[str, str]:
        """The type of each topic, by remapped name."""
        return {self.names.remap.get(topic, topic): kind for topic, kind in self.reader.topics().items()}

    def _original(self, topic: str) -> str:
        return next((old for old, new in self.names.remap.items() if new == topic), topic)

    def messages(self, topics: Sequence[str]) -> Iterator[BagMessage]:
        """Messages of those of `topics` that exist, in time order, under their remapped names."""
        there = [self._original(topic) for topic in topics if topic in self.topics]
        for message in self.reader.messages(there):
            yield replace(message, topic=self.names.remap.get(message.topic, message.topic))

    def decode(self, message: BagMessage) -> Any:
        """Deserialize a message to an object. Raises ValueError if it is damaged."""
        return self.reader.decode(replace(message, topic=self._original(message.topic)))

    def decoded(self, topic: str) -> list[tuple[float, Any]]:
        """All messages of a topic, each with its time of reception, s; empty if there is no such topic."""
        return [(_seconds(message.stamp_ns), self.decode(message)) for message in self.messages([topic])]

    # Images

    def picture_topic(self, topic: str) -> str:
        """`topic`, or its compressed variant, whichever exists. Raises ValueError, naming others, for neither."""
        found = self.find_picture(topic)
        if found is None:
            there = sorted(name for name, kind in self.topics.items() if kind in (IMAGE, COMPRESSED))
            if not there:
                raise ValueError(f"the bag has no pictures at all; {topic} is needed")
            like = min(there, key=lambda name: ("depth" in name) != ("depth" in topic))
            raise ValueError(
                f"the bag has no pictures on {topic}; say which they are with --remap {like}:={topic}; "
                f"there are {', '.join(there)}"
            )
        return found

    def find_picture(self, topic: str) -> str | None:
        """`topic`, or its compressed variant, whichever exists; None for neither."""
        for name in (topic, f"{topic}/compressed", f"{topic}/compressedDepth"):
            if self.topics.get(name) in (IMAGE, COMPRESSED):
                return name
        return None

    def picture(self, message: BagMessage, depth: bool = False) -> tuple[float, np.ndarray]:
        """Stamp of an image, s, and its pixels uint8 [H, W, 3] RGB, or depth float32 [H, W] m.

        Raises ValueError if it is damaged.
        """
        picture = self.decode(message)
        return seconds(picture.header.stamp), self._pixels(picture, depth)

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
        """Stamps of the images of a topic, float64 [n] s, sorted."""
        taken = [seconds(self.decode(message).header.stamp) for message in self.messages([topic])]
        return np.array(sorted(taken))

    # Plans

    def answers(self) -> list[RecordedAnswer]:
        """All recorded plans with a chunk, by the stamps of their images; those of a policy without tokens, too."""
        base = self.names.policy
        chunks = {m.plan_id: m for _, m in self.decoded(f"{base}/action_chunk")}
        depths = {m.plan_id: m for _, m in self.decoded(f"{base}/depth_tokens")}
        traces = {m.plan_id: m for _, m in self.decoded(f"{base}/trace") if m.source == 0}
        tokens = {m.plan_id: m for _, m in self.decoded(f"{base}/answer_tokens")}
        status = self.decoded(f"{base}/engine_status")
        took = {m.plan_id: m.step_seconds for _, m in reversed(status)}
        asked = self._asked()
        out = []
        for number, chunk in sorted(chunks.items(), key=lambda item: seconds(item[1].header.stamp)):
            said, stamp = tokens.get(number), seconds(chunk.header.stamp)
            depth, trace = depths.get(number), traces.get(number)
            out.append(
                RecordedAnswer(
                    plan_id=number, stamp=stamp, mode=chunk.mode or "full",
                    instruction=said.instruction if said else _last(asked, stamp),
                    checkpoint=said.checkpoint if said else "",
                    frames=[seconds(frame) for frame in said.frames] if said else [],
                    drawn=trace_points(said) if said and len(said.x) else None,
                    tokens=said.tokens.tolist() if said else None,
                    depth=None if depth is None else depth_codes(depth),
                    trace=None if trace is None else trace_points(trace),
                    actions=chunk_actions(chunk), dt=chunk.dt, seconds=took.get(number),
                )
            )  # fmt: skip
        return out

    def _asked(self) -> list[tuple[float, str]]:
        """The instructions that the policy was executing, in time order."""
        return [(at, m.instruction) for at, m in self.decoded(f"{self.names.policy}/engine_status")]

    def steps(self, instruction: str = "", period: float = 0.75) -> list[Step]:
        """The steps to infer again: those recorded, or, if there are none, one every `period` s.

        instruction: for plans whose instruction was not recorded. Raises ValueError if there are no such images, no
        synchronized ones, or no instruction.
        """
        stamps = [self.stamps(self.picture_topic(topic)) for topic in self.names.colour]
        if empty := [topic for topic, of in zip(self.names.colour, stamps, strict=True) if not len(of)]:
            raise ValueError(f"the bag has no pictures on {empty[0]}: the topic is empty")
        answers, recorded = self.answers(), True
        if not answers:
            self.notes.append("no plans were recorded: there is nothing to compare with")
            recorded = False
            times, asked = _every(stamps[0], period), self._asked()
            answers = [
                RecordedAnswer(k + 1, t, instruction=instruction or _last(asked, t)) for k, t in enumerate(times)
            ]
        steps = [self._step(answer, stamps, instruction) for answer in answers]
        seen = [step for step in steps if step is not None]
        if not seen:
            raise ValueError(self._why_nothing(stamps))
        if lost := len(steps) - len(seen):
            what = "plans have" if recorded else "moments have"
            self.notes.append(
                f"{lost} of {len(steps)} {what} no pictures of all cameras within {self.names.slop:g} s: left out"
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
            f"no pictures of all cameras within {self.names.slop:g} s of each other ({spans}); "
            "were their clocks synchronised? a larger --slop pairs them anyway"
        )

    def observations(self, steps: Sequence[Step]) -> Iterator[tuple[Step, Observation]]:
        """The observation of each step, in the order of the images; only a few are in memory at a time."""
        topics = [self.picture_topic(topic) for topic in self.names.colour]
        depth = self.find_picture(self.names.depth)
        of = {topic: k for k, topic in enumerate(topics)} | ({depth: len(topics)} if depth else {})
        grounded = depth is not None and any(step.answer.mode == "grounded" for step in steps)
        depths = self.stamps(depth) if depth and grounded else np.zeros(0)
        waiting: deque[tuple[Step, int, dict[int, np.ndarray]]] = deque()
        wanted: dict[tuple[int, float], list[dict[int, np.ndarray]]] = {}
        for step in steps:
            stamps = [*step.frames]
            if step.answer.mode == "grounded" and len(depths):
                stamps.append(float(depths[_nearest(depths, step.frames[0])]))
            found: dict[int, np.ndarray] = {}
            waiting.append((step, len(stamps), found))
            for camera, stamp in enumerate(stamps):
                wanted.setdefault((camera, stamp), []).append(found)
        for message in self.messages([*topics, *([depth] if depth and grounded else [])]):
            camera, picture = of[message.topic], self.decode(message)
            takers = wanted.pop((camera, seconds(picture.header.stamp)), [])
            if takers:
                pixels = self._pixels(picture, camera == len(topics))
                for taker in takers:
                    taker[camera] = pixels
            while waiting and len(waiting[0][2]) == waiting[0][1]:
                step, _, found = waiting.popleft()
                yield step, _observation(step, found, len(topics))
            if not waiting:
                return

    def _pixels(self, picture: Any, is_depth: bool) -> np.ndarray:
        """Pixels of an image, uint8 [H, W, 3] RGB, or depth float32 [H, W] m. Raises ValueError if it is damaged."""
        try:
            return metres(picture) if is_depth else rgb_pixels(picture)
        except RefusedStep as refusal:
            raise ValueError(f"a recorded picture cannot be read: {refusal}") from None


def _seconds(stamp_ns: int) -> float:
    """Convert ns to the same float64 as `message_arrays.seconds`: the two are compared."""
    return float(stamp_ns // 10**9 + stamp_ns % 10**9 * 1e-9)


def _observation(step: Step, found: dict[int, np.ndarray], cameras: int) -> Observation:
    images = tuple(found[k] for k in range(cameras))
    answer = step.answer
    return Observation(images, answer.instruction, step.frames[0], answer.drawn, found.get(cameras))


def _nearest(stamps: np.ndarray, at: float) -> int:
    right = bisect_left(stamps, at)
    return min((k for k in (right - 1, right) if 0 <= k < len(stamps)), key=lambda k: abs(stamps[k] - at))


def _every(stamps: np.ndarray, period: float) -> list[float]:
    out: list[float] = []
    for stamp in stamps.tolist():
        if not out or stamp - out[-1] >= period - SAME:
            out.append(stamp)
    return out


def _last(said: list[tuple[float, str]], at: float) -> str:
    """The last text at or before the time `at`, or the first one after it."""
    before = [text for when, text in said if when <= at and text]
    after = [text for when, text in said if when > at and text]
    return before[-1] if before else (after[0] if after else "")
