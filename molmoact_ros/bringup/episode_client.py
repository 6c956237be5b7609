"""A client of the running graph: resets the scene, sends the instruction, and waits until the task is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import Image

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.msg import DepthTokens, EngineStatus, SafetyStatus, Trace
from molmoact_ros.ros import conversions, qos
from molmoact_ros.srv import ResetScene, SceneTruth

READY_TIMEOUT = 60.0  # s for all nodes to respond after they were started
SETTLE = 0.5  # s after a reset, so that no camera frame of the old scene is in flight


class GraphError(RuntimeError):
    """The graph does not do what was requested. One line says what failed and where to look."""


@dataclass
class EpisodeMoment:
    """The newest message of each topic of the graph; images by camera."""

    images: dict[str, Image] = field(default_factory=dict)
    depth: Image | None = None
    trace: Trace | None = None
    codes: DepthTokens | None = None
    engine: EngineStatus = field(default_factory=EngineStatus)
    safety: SafetyStatus = field(default_factory=SafetyStatus)


@dataclass
class Episode:
    """Outcome of an episode. step_seconds: of each reasoning step; trace, codes: of the first plan, with its frames."""

    instruction: str
    seed: int
    success: bool = False
    first_lifted: str = ""
    seconds: float = 0.0
    message: str = ""
    step_seconds: list[float] = field(default_factory=list)
    trace: np.ndarray | None = None
    codes: np.ndarray | None = None
    measured_depth: np.ndarray | None = None


class EpisodeClient(Node):
    """A client of `sim`, `controller` and the planner; call it from one thread.

    Raises GraphError, in one line, where a node does not respond or refuses a request.

    Example:
        with Session() as client:
            client.wait_until_ready(["sim", "controller", "policy"], bringup.check)
            instruction = client.reset(seed=0)
            episode = client.run(instruction, 0, timeout=60.0, check=bringup.check)
    """

    def __init__(self, planner: str = "policy", cameras: Iterable[str] = ("front",)) -> None:
        """planner: the node that plans, policy or expert; cameras: whose images are stored."""
        super().__init__("episode")
        self._planner, self._cameras = planner, list(cameras)
        self.now = EpisodeMoment()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._reset = self.create_client(ResetScene, "sim/reset_scene")
        self._truth = self.create_client(SceneTruth, "sim/scene_truth")
        self._execute = ActionClient(self, ExecuteInstruction, f"{planner}/execute")
        self._steps: list[float] = []
        self._depths: dict[float, Image] = {}
        for kind, topic, name, profile in (
            (DepthTokens, f"{planner}/depth_tokens", "codes", qos.RELIABLE),
            (SafetyStatus, "controller/safety_status", "safety", qos.STATE),
        ):
            self.create_subscription(kind, topic, lambda m, n=name: setattr(self.now, n, m), profile)
        self.create_subscription(Trace, f"{planner}/trace", self._on_trace, qos.RELIABLE)
        for camera in self._cameras:
            keep = partial(self.now.images.__setitem__, camera)
            self.create_subscription(Image, f"{camera}/color/image_raw", keep, qos.SENSOR)
        self.create_subscription(Image, "front/aligned_depth_to_color/image_raw", self._on_depth, qos.SENSOR)
        self.create_subscription(EngineStatus, f"{planner}/engine_status", self._on_engine, qos.RELIABLE)

    def _on_trace(self, message: Trace) -> None:
        self.now.trace = message if len(message.x) else None  # without points: of actions whose way is not known

    def _on_depth(self, message: Image) -> None:
        self.now.depth = message
        self._depths[conversions.seconds(message.header.stamp)] = message
        while len(self._depths) > 30:
            del self._depths[min(self._depths)]

    def _on_engine(self, message: EngineStatus) -> None:
        if message.plan_id != self.now.engine.plan_id and message.step_seconds > 0:
            self._steps.append(message.step_seconds)
        self.now.engine = message

    def wait_until_ready(self, nodes: Iterable[str], check: Callable[[], None]) -> None:
        """Wait for `nodes` among sim, controller and planner; `check` raises when one has ended. Raises GraphError."""
        deadline = time.monotonic() + READY_TIMEOUT
        answers = {
            "sim": lambda: self._reset.service_is_ready() and all(c in self.now.images for c in self._cameras),
            "controller": lambda: self.now.safety.joints_age > 0,
            self._planner: self._execute.server_is_ready,
        }
        waiting = [name for name in answers if name in nodes]
        while missing := [name for name in waiting if not answers[name]()]:
            check()
            self._spin(0.05)
            if time.monotonic() > deadline:
                raise GraphError(f"no answer from {', '.join(missing)} in {READY_TIMEOUT:g} s; see their logs")

    def reset(self, seed: int, instruction: str = "", distractors: int = -1) -> str:
        """Reset the scene and return its instruction. Raises GraphError with the simulator's reason."""
        request = ResetScene.Request(seed=seed, instruction=instruction, distractors=distractors)
        reply = self._wait(self._reset.call_async(request), "the simulator")
        if not reply.success:
            raise GraphError(str(reply.message))
        self.now.trace = self.now.codes = None
        self._steps.clear()
        self._spin(SETTLE)
        return str(reply.instruction)

    def run(
        self, instruction: str, seed: int, timeout: float, check: Callable[[], None],
        watch: Callable[[Episode, EpisodeMoment], None] = lambda episode, moment: None,
    ) -> Episode:  # fmt: skip
        """Send the instruction and wait until the task is done or ended. `watch` is called some 30 times a second."""
        episode, began = Episode(instruction, seed), time.monotonic()
        goal = ExecuteInstruction.Goal(instruction=instruction, timeout=timeout)
        handle = self._wait(self._execute.send_goal_async(goal), f"the {self._planner}")
        if not handle.accepted:
            raise GraphError(f"the {self._planner} did not accept {instruction!r}; see its log")
        result = handle.get_result_async()
        while not result.done() and not episode.success:
            check()
            self._spin(0.03)
            self._note_first_plan(episode)
            watch(episode, self.now)
            self._judge(episode)
        if not result.done():
            self._wait(handle.cancel_goal_async(), f"the {self._planner}")
        ended = self._wait(result, f"the {self._planner}").result
        episode.message, episode.seconds = ended.message, time.monotonic() - began
        episode.step_seconds = list(self._steps)
        return episode

    def truth(self) -> SceneTruth.Response:
        """The simulator's ground truth."""
        return self._wait(self._truth.call_async(SceneTruth.Request()), "the simulator")

    def _judge(self, episode: Episode) -> None:
        truth = self.truth()
        episode.success, episode.first_lifted = truth.done, truth.first_lifted

    def _note_first_plan(self, episode: Episode) -> None:
        trace = self.now.trace
        if episode.trace is None and trace is not None and trace.source == Trace.MODEL:
            episode.trace = conversions.trace_points(trace)
        if episode.codes is None and self.now.codes is not None:
            stamp = conversions.seconds(self.now.codes.header.stamp)
            depth = self._depths.get(stamp)
            if depth is not None:
                episode.codes = np.array(self.now.codes.codes).reshape(self.now.codes.rows, self.now.codes.columns)
                pixels = np.frombuffer(bytes(depth.data), np.uint16).reshape(depth.height, depth.width)
                episode.measured_depth = pixels * np.float32(1e-3)

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def _wait(self, future: Future, whom: str, patience: float = 15.0):  # type: ignore[no-untyped-def]
        end = time.monotonic() + patience
        while not future.done():
            self._executor.spin_once(timeout_sec=0.05)
            if time.monotonic() > end:
                raise GraphError(f"{whom} gave no answer in {patience:g} s; see its log")
        return future.result()


class Session:
    """An rclpy context and one EpisodeClient, with its arguments, as a `with` block."""

    def __init__(self, planner: str = "policy", cameras: Iterable[str] = ("front",)) -> None:
        self._planner, self._cameras = planner, cameras

    def __enter__(self) -> EpisodeClient:
        # rclpy's handlers would shut the context down during a spin: Ctrl-C, or a time limit, would raise in its midst.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._client = EpisodeClient(self._planner, self._cameras)
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.destroy_node()
        rclpy.try_shutdown()
