"""Writes a synthetic episode into a bag, without ROS: the messages that a robot's nodes would have published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from molmoact_ros.bags.bag import BagMessage, BagWriter
from molmoact_ros.bags.image_codec import IMAGE, Form, pack
from molmoact_ros.cameras.image_encodings import PIXEL
from molmoact_ros.reasoning.trace import MAX_COORDINATE

NO_STAMP: Final = 0.0


class EpisodeWriter:
    """Writes the topics of an episode. Times are seconds; a message is received at its stamp unless given otherwise."""

    def __init__(self, bag: BagWriter, form: Form = "png", frame: str = "fr3_link0") -> None:
        """form: encoding of images. frame: frame of the arm's base."""
        self._bag, self._form, self._frame = bag, form, frame

    def write(self, topic: str, type_name: str, now: float, **fields: Any) -> None:
        """Write any message; fields that are not given are zero or empty.

        `header` may be a stamp in s; the header's frame is then the arm's base.
        """
        if isinstance(fields.get("header"), float):
            fields["header"] = self.header(fields["header"], self._frame)
        data = self._bag.types.encode(self.make(type_name, **fields))
        self._put(BagMessage(topic, type_name, data, round(now * 1e9)))

    def make(self, type_name: str, **fields: Any) -> Any:
        """Create a message object; fields that are not given are zero or empty."""
        return self._bag.types.make(type_name, **fields)

    def header(self, stamp: float, frame: str) -> Any:
        """Create a std_msgs/Header."""
        return self.make("std_msgs/msg/Header", stamp=self.time(stamp), frame_id=frame)

    def time(self, stamp: float) -> Any:
        """Convert seconds to a builtin_interfaces/Time."""
        whole, nanoseconds = divmod(round(stamp * 1e9), 10**9)
        return self.make("builtin_interfaces/msg/Time", sec=whole, nanosec=nanoseconds)

    def image(self, topic: str, pixels: np.ndarray, encoding: str, stamp: float, now: float | None = None) -> None:
        """Write an image [H, W] or [H, W, C] with the dtype of `encoding`, in the writer's form."""
        dtype, channels = PIXEL[encoding]
        rows = np.ascontiguousarray(pixels, dtype)
        height, width = rows.shape[:2]
        message = self.make(
            IMAGE, header=self.header(stamp, f"{topic.split('/')[1]}_color_optical_frame"), height=height, width=width,
            encoding=encoding, is_bigendian=0, step=width * channels * np.dtype(dtype).itemsize,
            data=rows.reshape(-1).view(np.uint8),
        )  # fmt: skip
        heard = round((stamp if now is None else now) * 1e9)
        whole = BagMessage(topic, IMAGE, self._bag.types.encode(message), heard)
        self._put(pack(whole, self._bag.types, self._form, 95))

    def joints(
        self, names: Sequence[str], position: np.ndarray, velocity: np.ndarray, now: float, topic: str = "/joint_states"
    ) -> None:
        """Write joint states: positions and velocities float64 [n], rad and m."""
        self.write(
            topic, "sensor_msgs/msg/JointState", now, header=now, name=list(names),
            position=np.asarray(position, np.float64), velocity=np.asarray(velocity, np.float64),
        )  # fmt: skip

    def command(
        self, topic: str, joints: Sequence[str], q: np.ndarray, dq: np.ndarray, period: float, now: float
    ) -> None:
        """Write a joint trajectory of one point: positions [n] rad and velocities [n] rad/s, due in `period` s."""
        point = self.make(
            "trajectory_msgs/msg/JointTrajectoryPoint", positions=np.asarray(q, np.float64),
            velocities=np.asarray(dq, np.float64),
            time_from_start=self.make("builtin_interfaces/msg/Duration", sec=0, nanosec=round(period * 1e9)),
        )  # fmt: skip
        self.write(
            topic, "trajectory_msgs/msg/JointTrajectory", now, header=NO_STAMP, joint_names=list(joints), points=[point]
        )  # fmt: skip

    def chunk(
        self, actions: np.ndarray, dt: float, stamp: float, plan_id: int, now: float, mode: str = "", space: int = 0,
        key: str = "",
    ) -> None:  # fmt: skip
        """Write an action chunk: actions [N, D] as in ActionChunk.msg."""
        steps, dimensions = actions.shape
        self.write(
            "/policy/action_chunk", "molmoact_ros/msg/ActionChunk", now, header=stamp, plan_id=plan_id, mode=mode,
            action_space=space, unnorm_key=key, dt=dt, steps=steps, dimensions=dimensions,
            actions=np.asarray(actions, np.float64).ravel(),
        )  # fmt: skip

    def depth_codes(self, codes: np.ndarray, codebook: str, stamp: float, plan_id: int, now: float) -> None:
        """Write depth codes uint8 [rows, columns]."""
        self.write(
            "/policy/depth_tokens", "molmoact_ros/msg/DepthTokens", now, header=stamp, plan_id=plan_id,
            rows=codes.shape[0], columns=codes.shape[1], codes=codes.astype(np.uint8).ravel(), codebook=codebook,
        )  # fmt: skip

    def trace(self, points: np.ndarray, stamp: float, plan_id: int, now: float) -> None:
        """Write a trace of the model: int [n, 2] in 0..255."""
        x, y = np.ascontiguousarray((points / MAX_COORDINATE).astype(np.float32).T)
        self.write(
            "/policy/trace", "molmoact_ros/msg/Trace", now, header=stamp, plan_id=plan_id, source=0, x=x, y=y
        )  # fmt: skip

    def tokens(
        self, tokens: Sequence[int], digest: str, mode: str, instruction: str, frames: Sequence[float], plan_id: int,
        now: float,
    ) -> None:  # fmt: skip
        """Write the tokens of an answer; frames: capture time of each image, front first."""
        self.write(
            "/policy/answer_tokens", "molmoact_ros/msg/AnswerTokens", now, header=frames[0], plan_id=plan_id,
            checkpoint=digest, mode=mode, instruction=instruction, frames=[self.time(frame) for frame in frames],
            tokens=np.array(tokens, np.uint32),
        )  # fmt: skip

    def engine_status(self, now: float, instruction: str, plan_id: int, seconds: float, mode: str = "full") -> None:
        """Write an engine status: it runs, and its last step took `seconds`."""
        self.write(
            "/policy/engine_status", "molmoact_ros/msg/EngineStatus", now, header=now, state=1,
            instruction=instruction, plan_id=plan_id, step_seconds=seconds, mode=mode,
        )  # fmt: skip

    def safety(self, now: float, state: int, reason: str, plan_id: int, limits: dict[str, int]) -> None:
        """Write the controller's state, as numbered in SafetyStatus.msg, and how often each limit was active."""
        self.write(
            "/controller/safety_status", "molmoact_ros/msg/SafetyStatus", now, header=now, state=state, reason=reason,
            plan_id=plan_id, chunk_age=-1.0, refused=limits.get("refused", 0), limits=list(limits),
            limit_counts=np.array(list(limits.values()), np.uint32),
        )  # fmt: skip

    def _put(self, message: BagMessage) -> None:
        self._bag.write(message)
