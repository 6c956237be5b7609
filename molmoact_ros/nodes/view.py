"""The plan for viewers: drawn into images and as markers in space, with the robot and its frames.

Inputs are subscribed only while somebody subscribes to what is made of them. Images are made of the newest frame alone,
and late ones are dropped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, Field
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from molmoact_ros.control.action_chunk import ActionChunk as Chunk
from molmoact_ros.control.action_chunk import ActionSpace
from molmoact_ros.control.hand_path import hand_targets
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus, Trace
from molmoact_ros.nodes.teleop.client import STATES, name_of
from molmoact_ros.nodes.visualization import markers
from molmoact_ros.nodes.visualization.robot_state import RobotFrames
from molmoact_ros.robots.forward_kinematics import WORLD, Links
from molmoact_ros.robots.franka import arms_at
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.camera_pose import CameraPose
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.contained import ContainedNode
from molmoact_ros.ros.image_transport import IMAGE_TRANSPORT, ImageTransport, colour_topic, depth_topic
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.polling import LazyPollingSubscription
from molmoact_ros.ros.spin import run
from molmoact_ros.utils.paths import robot_model
from molmoact_ros.visualization.deproject import lift
from molmoact_ros.visualization.overlay import beside, colour_depth, draw_plan, jpeg, write

LOOK: Final = 0.5
"""s between checks for subscribers."""
TAKE: Final = 0.1
"""s between polls of depth and joints, while plans are shown in space."""
KEPT: Final = 3.0
"""s for which depth and joints are buffered, for plans whose image was taken a while ago."""
MOST_PARTS: Final = 20
"""Joint states that are searched for all joints: arms and hands may be published separately."""
LONGEST: Final = 200
"""Characters of a line of text."""
ABOVE: Final = (0.0, 0.0, 0.9)
"""Position of the status text, m in the base frame."""


class ViewConfig(BaseModel):
    """Parameters of the view node."""

    camera: str = Field("front", description="name of the front camera")
    image_transport: ImageTransport = IMAGE_TRANSPORT
    policy: str = Field("policy", description="node name of the policy")
    controller: str = Field("controller", description="node name of the controller")
    joint_states: str = Field("joint_states", description="topic of the joint states")
    arms: list[str] = Field([""], min_length=1, max_length=2, description="prefix of each arm's names, left first")
    bases: list[float] = Field([0.0] * 4, description="each arm's base in the workcell, as the controller has them")
    rate: float = Field(5.0, gt=0, le=30, description="images/s of each topic at most")
    quality: int = Field(80, ge=1, le=100, description="of compressed images")
    calibrations: list[str] = Field(
        [""], description="files of molmoact-ros calibrate, whole paths: the cameras' poses, published on /tf_static"
    )
    frames_rate: float = Field(10.0, gt=0, le=100, description="of the robot's frames on /tf, 1/s")


class ViewNode(ContainedNode):
    """Runs in one thread, and drops what it cannot keep up with."""

    def __init__(self) -> None:
        super().__init__("view")
        self.config = declare(self, ViewConfig)
        config, camera = self.config, self.config.camera
        self._arms = arms_at(config.arms, config.bases)
        self._links = Links(robot_model(), self._arms)
        self._robot = RobotFrames(self, self._arms, config.joint_states, config.frames_rate)
        if files := [Path(file).expanduser() for file in config.calibrations if file]:
            self._cameras = self.create_publisher(TFMessage, "/tf_static", qos.TF_STATIC)
            self._cameras.publish(TFMessage(transforms=[CameraPose.read(file).message() for file in files]))
        self._head = self._arms[0].base_frame if len(self._arms) == 1 else WORLD
        self._engine, self._safety = EngineStatus(), SafetyStatus()
        self._trace: Trace | None = None
        self._points = np.zeros((0, 2), np.int64)  # of the trace
        self._chunks: dict[bool, list[Marker]] = {}  # by whether the chunk waits for approval
        self._decoded: np.ndarray | None = None
        self._info = CameraInfo()
        self._depths, self._joints = _Recent(), _Recent()
        self._box: tuple[list[float], list[float]] | None = None

        self._overlay = _Picture(self, "~/trace_overlay", config.quality)
        self._depth_picture = _Picture(self, "~/depth_picture", config.quality)
        self._both = _Picture(self, "~/side_by_side", config.quality)
        self._markers = self.create_publisher(MarkerArray, "~/markers", qos.RELIABLE)
        model_overlay = f"{config.policy}/model_overlay"
        self._model = self.create_publisher(CompressedImage, f"{model_overlay}/compressed", qos.RELIABLE)
        lazy = partial(LazyPollingSubscription, self)
        self._plans: list[tuple[LazyPollingSubscription, Callable[[Any], None]]] = [
            (lazy(EngineStatus, f"{config.policy}/engine_status", qos.RELIABLE), self._on_engine),
            (lazy(SafetyStatus, f"{config.controller}/safety_status", qos.RELIABLE), self._on_safety),
            (lazy(Trace, f"{config.policy}/trace", qos.RELIABLE), self._on_trace),
            (lazy(ActionChunk, f"{config.policy}/action_chunk", qos.RELIABLE), partial(self._on_chunk, False)),
            (lazy(ActionChunk, f"{config.policy}/pending_chunk", qos.RELIABLE), partial(self._on_chunk, True)),
        ]
        self._frames = lazy(*colour_topic(camera, config.image_transport), qos.SENSOR)
        self._models = lazy(Image, model_overlay, qos.SENSOR)
        self._decodes = lazy(Image, f"{config.policy}/depth_image", qos.SENSOR)
        self._depth_kind, depth = depth_topic(camera, config.image_transport)
        self._in_space: list[tuple[LazyPollingSubscription, _Recent]] = [
            (lazy(self._depth_kind, depth, qos.sensor(10)), self._depths),
            (lazy(JointState, config.joint_states, qos.sensor(100)), self._joints),
        ]
        self._infos = lazy(CameraInfo, f"{camera}/color/camera_info", qos.SENSOR)
        self._parameters_client = self.create_client(GetParameters, f"{config.controller}/get_parameters")
        self._image_timer = self.create_timer(1.0 / config.rate, self._publish_images, clock=STEADY, autostart=False)
        self._taking = self.create_timer(TAKE, self._take, clock=STEADY, autostart=False)
        self.create_timer(LOOK, self._check_viewers, clock=STEADY)
        self.get_logger().info("ready: images and markers are made for those who listen")

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Drop malformed input and log it; everything else goes on."""
        try:
            yield
        except Exception as refusal:  # numpy, OpenCV and rclpy each raise their own for malformed data
            self.get_logger().warning(f"the {what} is not shown: {refusal}", throttle_duration_sec=5.0)

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    # Inputs

    def _check_viewers(self) -> None:
        drawn, space = self._overlay.wanted or self._both.wanted, self._markers.get_subscription_count() > 0
        self._frames.want(drawn)
        self._decodes.want(self._both.wanted or self._depth_picture.wanted)
        self._models.want(self._model.get_subscription_count() > 0)
        for polled in (self._infos, *(polled for polled, _ in self._in_space)):
            polled.want(space)
        for polled, _ in self._plans:
            polled.want(drawn or space)
        taking = drawn or space or self._decodes.wanted or self._models.wanted
        for timer, wanted in ((self._image_timer, drawn), (self._taking, taking)):
            if timer.is_canceled() is wanted:
                (timer.reset if wanted else timer.cancel)()
        self._show_markers()
        if space and self._box is None and self._parameters_client.service_is_ready():
            names = ["workspace_low", "workspace_high"]
            self.when_done(self._parameters_client.call_async(GetParameters.Request(names=names)), self._on_box)

    def _take(self) -> None:
        """Poll the inputs, and show them."""
        shift = self.get_clock().now().nanoseconds - time.time_ns()  # of a simulated clock; else next to nothing
        for polled, recent in self._in_space:
            for data, heard, _ in polled.take_serialized():
                recent.add((heard + shift) * 1e-9, data)
        self._info = self._infos.newest() or self._info
        pictures = (self._decodes, self._on_decoded), (self._models, self._on_model_overlay)
        for source, show in (*self._plans, *pictures):
            with self._refusing("message"):
                for message in source.messages():
                    show(message)

    def _on_box(self, future: Any) -> None:
        corners = [list(value.double_array_value) for value in future.result().values]
        if [len(corner) for corner in corners] == [3, 3] and np.isfinite(corners).all():
            self._box = corners[0], corners[1]

    def _on_engine(self, message: EngineStatus) -> None:
        self._engine = message
        if not message.pending_plan_id:
            self._chunks.pop(True, None)
        if message.state == EngineStatus.IDLE:
            self._trace = None
            self._chunks.clear()

    def _on_safety(self, message: SafetyStatus) -> None:
        self._safety = message

    def _on_trace(self, message: Trace) -> None:
        with self._refusing("trace"):
            known = bool(len(message.x)) or message.source != Trace.ACTIONS  # of actions the way may not be known
            self._points = conversions.trace_points(message) if known else self._points[:0]
            self._trace = message if known else None
            self._show_markers()

    def _on_chunk(self, pending: bool, message: ActionChunk) -> None:
        with self._refusing("chunk"):
            self._chunks = {pending: list(self._chunk_in_space(message, pending))}
            self._show_markers()

    # Images

    def _publish_images(self) -> None:
        """Publish the newest frame with the current plan; nothing where there is no newer frame."""
        self._take()
        with self._refusing("front camera"):
            if (frame := self._frames.newest()) is None:
                return
            picture = self._draw(conversions.rgb_pixels(conversions.of_usual_size(frame)), frame.header)
            self._overlay.publish(lambda: picture, frame.header)
            self._both.publish(lambda: beside(picture, self._decoded), frame.header)

    def _draw(self, pixels: np.ndarray, head: conversions.Header) -> np.ndarray:
        engine, trace, lines = self._engine, self._trace, []
        if engine.pending_plan_id:
            left = engine.pending_seconds
            lines.append("waits for approval" if left < 0 else f"moves in {left:.1f} s")
            lines += [engine.message[:LONGEST]] * bool(engine.message)
        if engine.trace_source not in (Trace.MODEL, Trace.HUMAN):
            lines.append(f"whose trace: {name_of({}, engine.trace_source)}")
        if engine.trace_source == Trace.HUMAN:
            lines.append(f"{engine.trace_points_left} points left, drawn {engine.trace_age:.1f} s ago")
        if trace is None:
            picture, missing = pixels.copy(), "no trace" if self._chunks else "no plan"
            write(picture, tuple(lines) if engine.pending_plan_id else (missing, *lines))
            return picture
        age = conversions.seconds(head.stamp) - conversions.seconds(trace.header.stamp)
        source = conversions.TRACE_SOURCES.get(trace.source, "model")
        return draw_plan(pixels, self._points, source, age, tuple(lines))

    def _on_decoded(self, message: Image) -> None:
        with self._refusing("decoded depth"):
            depth = self._decoded = conversions.metres(conversions.of_usual_size(message))  # unscaled: 32FC1
            self._depth_picture.publish(lambda: colour_depth(depth, depth.shape[0]), message.header)

    def _on_model_overlay(self, message: Image) -> None:
        with self._refusing("model's image"):
            data = jpeg(conversions.rgb_pixels(conversions.of_usual_size(message)), self.config.quality)
            self._model.publish(CompressedImage(header=message.header, format="jpeg", data=data))

    # Markers in space

    def _show_markers(self) -> None:
        if self._markers.get_subscription_count():
            with self._refusing("plan in space"):
                self._markers.publish(markers.fresh(list(self._all_markers())))

    def _all_markers(self) -> Iterator[Marker]:
        with self._refusing("trace in space"):  # a malformed depth image; the rest is shown all the same
            yield from self._trace_in_space()
        for chunk in self._chunks.values():
            yield from chunk
        if self._box is not None:
            for number, arm in enumerate(self._arms):
                yield markers.box_marker(number, *self._box, conversions.header(0.0, arm.base_frame))
        yield markers.text_marker(self._state_text(), ABOVE, conversions.header(0.0, self._head))

    def _trace_in_space(self) -> list[Marker]:
        trace = self._trace
        if trace is not None and trace.source == Trace.ACTIONS:
            return []  # the chunk's markers show where it really is
        depth = None if trace is None else self._depths.at(conversions.seconds(trace.header.stamp))
        k = np.asarray(self._info.k).reshape(3, 3)
        if trace is None or depth is None or not k.any() or not np.isfinite(k).all():
            return []
        points = lift(self._points, conversions.metres(deserialize_message(depth, self._depth_kind)), k)
        return markers.trace_markers(points, trace.source == Trace.HUMAN, trace.header)

    def _chunk_in_space(self, message: ActionChunk, pending: bool) -> Iterator[Marker]:
        """The hands' targets, from where the hands were when the plan's image was taken."""
        positions = self._joints_at(conversions.seconds(message.header.stamp))
        if not positions:
            return
        space = ActionSpace(message.action_space)
        chunk = Chunk(conversions.chunk_actions(message), message.dt, 0.0, message.plan_id, space)
        targets = hand_targets(chunk, self._arms, self._links, positions)
        for number, (arm, (_, *after)) in enumerate(zip(self._arms, targets, strict=True)):
            yield from markers.chunk_markers(number, after, pending, conversions.header(0.0, arm.base_frame))

    def _joints_at(self, stamp: float) -> dict[str, float]:
        """Each joint's position, rad or m, in the message nearest to a time, s, that has it."""
        positions: dict[str, float] = {}
        for data in self._joints.around(stamp)[:MOST_PARTS]:
            positions = conversions.joint_positions(deserialize_message(data, JointState)) | positions
            if set(self._links.joints) <= set(positions):
                break
        return positions

    def _state_text(self) -> str:
        engine, safety = self._engine, self._safety
        lines = [f"{name_of(STATES, safety.state)} {safety.reason}".strip(), engine.instruction or "no instruction"]
        if engine.plan_id:
            lines.append(f"plan {engine.plan_id}, {engine.mode}, {engine.step_seconds:.2f} s")
        if engine.pending_plan_id:
            lines.append(f"plan {engine.pending_plan_id} waits for approval")
        if engine.message:
            lines.append(engine.message)
        return "\n".join(line[:LONGEST] for line in lines)


class _Recent:
    """Serialised messages of the last seconds, as few are read, with their time of arrival."""

    def __init__(self) -> None:
        self._messages: deque[tuple[float, bytes]] = deque()

    def add(self, now: float, data: bytes) -> None:
        """Store one that arrived at `now`, s. When the clock was set back, those from before it are dropped."""
        if self._messages and now < self._messages[-1][0] - TAKE:
            self._messages.clear()
        self._messages.append((now, data))
        while self._messages[0][0] < now - KEPT:
            self._messages.popleft()

    def at(self, stamp: float) -> bytes | None:
        """The one that arrived nearest to a time, s; None where none has arrived."""
        return min(self._messages, key=lambda one: abs(one[0] - stamp), default=(0.0, None))[1]

    def around(self, stamp: float) -> list[bytes]:
        """All of them, the one that arrived nearest to a time, s, first."""
        return [data for _, data in sorted(self._messages, key=lambda one: abs(one[0] - stamp))]


class _Picture:
    """An image's topic, raw and compressed; the image is made only where either has a subscriber."""

    def __init__(self, node: Node, topic: str, quality: int) -> None:
        self._raw = node.create_publisher(Image, topic, qos.RELIABLE)
        self._compressed = node.create_publisher(CompressedImage, f"{topic}/compressed", qos.RELIABLE)
        self._quality = quality

    @property
    def wanted(self) -> bool:
        """Whether there is a subscriber."""
        return bool(self._raw.get_subscription_count() or self._compressed.get_subscription_count())

    def publish(self, make: Callable[[], np.ndarray], head: conversions.Header) -> None:
        """Make the image, uint8 [H, W, 3] RGB, and publish it where there are subscribers."""
        if not self.wanted:
            return
        picture = make()
        if self._raw.get_subscription_count():
            self._raw.publish(conversions.image_message(picture, "rgb8", head))
        if self._compressed.get_subscription_count():
            data = jpeg(picture, self._quality)
            self._compressed.publish(CompressedImage(header=head, format="jpeg", data=data))


def main() -> None:
    """Start the node."""
    run(ViewNode)


if __name__ == "__main__":
    main()
