"""The checked times of a bag's images and joint states, and the positions of its joints over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from molmoact_ros.bags.bag import BagMessage
from molmoact_ros.bags.message_arrays import seconds
from molmoact_ros.bags.message_times import CheckedTimes, Place, StampedTopic, check_times

JOINT_STATE: Final = "sensor_msgs/msg/JointState"
Samples = dict[str, tuple[np.ndarray, np.ndarray]]
"""For each joint its times, float64 [n] s, increasing, and its positions, float64 [n] rad or m."""


@dataclass(frozen=True)
class RecordedTimes:
    """Times of the messages of checked topics.

    checked: how they came about, with the notes and the part that is read. known: times in s by topic and place.
    topics: those that were checked.
    """

    checked: CheckedTimes
    known: dict[tuple[str, Place], float]
    topics: set[str]

    def time_of(self, message: BagMessage) -> float | None:
        """Time of a message of a checked topic, s; None: it is left out."""
        return self.known.get((message.topic, message.place))

    def of_topic(self, topic: str) -> np.ndarray:
        """All times of a checked topic, float64 [n] s, sorted."""
        return np.array(sorted(at for (name, _), at in self.known.items() if name == topic))


def read_times(messages: Iterable[tuple[BagMessage, Any]]) -> RecordedTimes:
    """Check the stamps of messages with a header: of images, and of joint states by who publishes which joints.

    messages: each with its decoded form. Raises ValueError where a topic has no times at all.
    """
    rows: dict[tuple[str, str], list[tuple[Place, float, float]]] = {}
    for message, decoded in messages:
        names = "images"
        if message.type_name == JOINT_STATE:
            names = f"joint states of {', '.join(decoded.name[:1])}{' ...' if len(decoded.name) > 1 else ''}"
        row = message.place, seconds(decoded.header.stamp), seconds_of(message.stamp_ns)
        rows.setdefault((message.topic, names), []).append(row)
    # The clock is that of the first topic, so images come first, whichever message came first.
    sources = sorted(rows, key=lambda source: source[1] != "images")
    topics = []
    for topic, names in sources:
        of = sorted(rows[topic, names])
        alone = sum(name == topic for name, _ in sources) == 1
        label = f"{'joint states' if alone and names != 'images' else names} on {topic}"
        stamps, received = (np.array([row[k] for row in of], np.float64) for k in (1, 2))
        topics.append(StampedTopic(label, stamps, received, [place for place, *_ in of]))
    checked = check_times(topics)
    known = {
        (topic, place): at
        for (topic, _), of, times in zip(sources, topics, checked.times, strict=True)
        for place, at in zip(of.places, times.tolist(), strict=True)
        if np.isfinite(at)
    }
    return RecordedTimes(checked, known, {topic for topic, _ in sources})


def joint_samples(
    messages: Iterable[tuple[BagMessage, Any]], times: RecordedTimes, joints: Sequence[str]
) -> tuple[Samples, list[str]]:
    """Positions of joints over time, whichever messages hold them, and notes on what was left out, one line each.

    messages: joint states, each with its decoded form. A joint that no message holds is not in the result. A position
    that is not finite is left out and counted.
    """
    found: dict[str, dict[float, float]] = {name: {} for name in joints}
    lost: dict[str, int] = {}
    topic = ""
    for message, decoded in messages:
        topic, at = message.topic, times.time_of(message)
        if at is None:
            continue
        for name, position in zip(decoded.name, decoded.position, strict=False):
            if name in found and np.isfinite(position):
                found[name][at] = float(position)
            elif name in found:
                lost[name] = lost.get(name, 0) + 1
    notes = [
        f"{count} positions of the joint {name} on {topic} are not finite numbers: left out"
        for name, count in lost.items()
    ]
    samples = {
        name: (np.array(sorted(of)), np.array([of[at] for at in sorted(of)])) for name, of in found.items() if of
    }
    return samples, notes


def seconds_of(stamp_ns: int) -> float:
    """Convert ns to the same float64 as `message_arrays.seconds`: the two are compared."""
    return float(stamp_ns // 10**9 + stamp_ns % 10**9 * 1e-9)
