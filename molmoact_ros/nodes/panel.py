"""The web panel: forwards a browser's buttons, instructions and drawings to the robot, and its state to the browser."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

import numpy as np
from pydantic import Field
from rclpy.subscription import Subscription
from rclpy.task import Future as RosFuture
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.control.teleop_devices import AGAIN, Speeds
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus, Trace
from molmoact_ros.nodes.teleop.client import STATES, TeleopClient, TeleopClientConfig, name_of
from molmoact_ros.nodes.visualization import panel_images
from molmoact_ros.nodes.visualization.collection_view import CollectionView
from molmoact_ros.panel.auth import token
from molmoact_ros.panel.image_stream import Encoder, View
from molmoact_ros.panel.protocol import DrawnStroke, PanelReply
from molmoact_ros.panel.server import PanelServer
from molmoact_ros.robots.franka import OPENING_MAX
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.action_client import ThreadsafeActionClient
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.contained import contained, settle
from molmoact_ros.ros.image_transport import IMAGE_TRANSPORT, ImageTransport, colour_topic, depth_topic
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.polling import PollingSubscription
from molmoact_ros.ros.spin import run
from molmoact_ros.sim.scene import OBJECTS, PREPOSITION
from molmoact_ros.srv import ApprovePlan, CollectCommand, EditTrace
from molmoact_ros.utils.secret import is_loopback

ENGINE: Final = {
    getattr(EngineStatus, name): name.lower() for name in ("IDLE", "RUNNING", "WAITING", "FAULT", "PENDING")
}
"""Names of the engine's states."""
SPACES: Final = {getattr(ActionChunk, name): name.lower() for name in ("DELTA_EE_POSE", "EE_POSE", "JOINT_POSITION")}
"""Names of a chunk's action spaces."""
RATE: Final = 10.0
"""Rate of the state that browsers receive, Hz."""
PRESENCE_RATE: Final = 5.0
"""Rate of `presence` while an operator's page is open, Hz."""
LONGEST: Final = 500
"""Characters of a text, and points of a trace, that browsers receive; no node of ours has more."""
MOST: Final = 64
"""Stages and limits of a message, and actions of a chunk, that browsers receive."""
KNOWN: Final = [f"put the {name} {at} the {target}" for name in OBJECTS for target, at in PREPOSITION.items()] + [
    f"pick up the {name}" for name in OBJECTS
]
"""Instructions that the nano model was trained on."""


class PanelConfig(TeleopClientConfig, Speeds):
    """Parameters of the panel. The token is no parameter: anybody on the graph could read it."""

    host: str = Field("127.0.0.1", min_length=1, description="address to serve on; 0.0.0.0: to the whole network")
    port: int = Field(8088, ge=0, lt=65536, description="TCP port; 0: any that is free, named in the log")
    token_file: str = Field("", description="file with the token; empty: ~/.config/molmoact_ros/panel_token, if needed")
    policy: str = Field("policy", description="node name of the policy")
    collector: str = Field("collector", description="node name of what collects demonstrations")
    cameras: list[str] = Field(["front", "wrist"], min_length=1, description="names of the cameras, front first")
    image_transport: ImageTransport = IMAGE_TRANSPORT
    suggestions: list[str] = Field(KNOWN, min_length=1, description="instructions to offer")
    timeout: float = Field(120.0, gt=0, description="time for one instruction, s")


class PanelNode(TeleopClient):
    """Callbacks run on the executor's thread; a browser's requests arrive on the web server's."""

    def __init__(self) -> None:
        super().__init__("panel")
        self.config = config = declare(self, PanelConfig)
        self.connect(config)
        self.connect_home()
        self._instruction = self.create_publisher(String, f"{config.policy}/instruction", qos.RELIABLE)
        self._execute = ThreadsafeActionClient(self, ExecuteInstruction, f"{config.policy}/execute")
        self._edit = self.create_client(EditTrace, f"{config.policy}/edit_trace")
        self._triggers["hold"] = self.create_client(Trigger, f"{config.controller}/hold")
        self._triggers["veto"] = self.create_client(Trigger, f"{config.policy}/veto")
        self._approvals = [  # the controller first: where it requires approval, it plays only approved plans
            self.create_client(ApprovePlan, f"{node}/approve_plan") for node in (config.controller, config.policy)
        ]
        self._collect = self.create_client(CollectCommand, f"{config.collector}/command")
        self._collection = CollectionView(self, config.collector)
        self._engine, self._trace, self._chunk = EngineStatus(), None, None
        self._traces, self._goals = 0, 0  # counts: traces received, goals sent
        self._ended: dict[str, Any] = {}  # the last goal's result
        self._received_at = {"safety": -math.inf, "engine": -math.inf}
        self._plans: list[tuple[PollingSubscription, Callable[[Any], None]]] = [
            (PollingSubscription(self, EngineStatus, f"{config.policy}/engine_status", qos.RELIABLE), self._on_engine),
            (PollingSubscription(self, Trace, f"{config.policy}/trace", qos.RELIABLE), self._on_trace),
            (PollingSubscription(self, ActionChunk, f"{config.policy}/action_chunk", qos.RELIABLE), self._on_chunk),
        ]
        self._image_subscriptions: dict[View, Subscription] = {}
        self._encoder = Encoder(panel_images.encode, panel_images.begin)
        self._open()
        self.create_timer(1.0 / RATE, self._show, clock=STEADY)
        self.create_timer(1.0 / PRESENCE_RATE, self._publish_presence, clock=STEADY)

    def _open(self) -> None:
        config = self.config
        secret, file = token(config.host, config.token_file)
        about = {"arms": config.arms, "suggestions": config.suggestions}
        self._server = PanelServer(self, views(config), about, secret)
        port = self._server.start(config.host, port=config.port)
        name = config.host if is_loopback(config.host) else socket.gethostname()
        at = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
        self.get_logger().info(f"ready: {at}" + (f", with the token in {file}" if file else ""))

    def destroy_node(self) -> None:
        """Release the arm, end the web server, then destroy the node."""
        self._server.close()
        self._encoder.close()
        super().destroy_node()

    # State from the robot

    def _on_safety(self, message: SafetyStatus) -> None:
        changed = message.state != self.safety.state or message.reason != self.safety.reason
        super()._on_safety(message)
        self._received_at["safety"] = time.monotonic()
        if changed:
            self._show()

    def _on_engine(self, message: EngineStatus) -> None:
        if message.instruction != self._engine.instruction:
            self._trace = None  # of another task
        self._engine, self._received_at["engine"] = message, time.monotonic()

    def _on_trace(self, message: Trace) -> None:
        self._trace, self._traces = message, self._traces + 1

    def _on_chunk(self, message: ActionChunk) -> None:
        self._chunk = message

    def _show(self) -> None:
        """Send browsers the state, and subscribe to the images that they view."""
        for polled, hear in self._plans:
            contained(self, lambda polled=polled, hear=hear: [hear(message) for message in polled.messages()])()
        if self._server.watched():
            self._server.show_state(self._state())
        wanted = self._server.looked_at()
        for view in wanted - set(self._image_subscriptions):
            take = lambda data, view=view: self._on_image(view, data)  # noqa: E731
            kind = CompressedImage if view.compressed else Image
            self._image_subscriptions[view] = self.create_subscription(kind, view.topic, take, qos.SENSOR, raw=True)
        for view in set(self._image_subscriptions) - wanted:
            self.destroy_subscription(self._image_subscriptions.pop(view))

    def _publish_presence(self) -> None:
        if self._server.has_operator():
            self.say_present()

    def _on_image(self, view: View, data: bytes) -> None:
        if self._server.waited_for(view):
            self._encoder.offer(view, data, self._server.show_picture)

    def _state(self) -> dict[str, Any]:
        now = time.monotonic()
        there = {name: now - at < 1.0 for name, at in self._received_at.items()}
        there["engine"] &= self._execute.server_is_ready()  # without its action server it accepts no goal
        return {
            "safety": safety_state(self.safety) if there["safety"] else None,
            "engine": engine_state(self._engine) if there["engine"] else None,
            "trace": None if self._trace is None else trace_state(self._trace) | {"count": self._traces},
            "chunk": None if self._chunk is None else chunk_state(self._chunk),
            "ended": self._ended, "collect": self._collection.state,
        }  # fmt: skip

    # Requests from the browser

    def press(self, name: str) -> Future[PanelReply]:
        """Call a Trigger service, or `end`."""
        if name == "end":
            self._instruction.publish(String())
            return _now(PanelReply(ok=True))
        if name in ("reset", "resume") and (refusal := self._why_not(name)):
            return _now(PanelReply(ok=False, message=refusal))
        if name == "stop":
            self.say_stop()
        return self._call(self._triggers["resume" if name == "reset" else name], Trigger.Request())

    def _why_not(self, name: str) -> str:
        """Why a reset or a resume is not forwarded; empty where it is. Both are the controller's `resume`.

        The page names which of them it displayed, so that a stop that was pressed elsewhere meanwhile is not lifted,
        and a double click does not lead from STOPPED to motion.
        """
        stopped = self.safety.state == SafetyStatus.STOPPED
        if name == "resume" and stopped:
            return "the arm has been stopped meanwhile; look why, then press Reset"
        if name == "reset" and not stopped:
            return "the stop was reset already; press Resume to go on"
        if not self._resumes.press(time.monotonic()):
            return f"pressed again within {AGAIN:g} s; wait a moment, and press once"
        return ""

    def approve(self, plan: int) -> Future[PanelReply]:
        """Approve the plan that an operator has inspected: at the controller, where it requires approval, then the
        policy.

        Where another plan waits by now, both refuse with that reason.
        """
        asked = [client for client in self._approvals if client.service_is_ready()]
        if not asked or asked[-1] is not self._approvals[-1]:
            return _now(PanelReply(ok=False, message=f"nobody answers at {self._approvals[-1].service_name}"))
        answer: Future[PanelReply] = Future()
        self._approve_at(asked, ApprovePlan.Request(plan_id=plan), answer)
        return answer

    def _approve_at(self, clients: list[Any], request: ApprovePlan.Request, answer: Future[PanelReply]) -> None:
        def take(done: RosFuture) -> None:
            reply = done.result()
            if reply.success and clients[1:]:
                self._approve_at(clients[1:], request, answer)
            else:
                settle(answer, PanelReply(ok=reply.success, message=reply.message[:LONGEST]))

        self.when_done(clients[0].call_async(request), take)

    def instruct(self, text: str, stroke: DrawnStroke | None, move: bool) -> Future[PanelReply]:
        """Send an instruction: as a goal, which starts the controller, or on the topic, which does not."""
        self._trace = None  # of another task
        if not move:
            if not self._instruction.get_subscription_count():
                return _now(
                    PanelReply(ok=False, message=f"no policy hears {self._instruction.topic_name}; is it running?")
                )
            self._instruction.publish(String(data=text))
            return _now(PanelReply(ok=True))
        if not self._execute.server_is_ready():
            return _now(
                PanelReply(ok=False, message=f"no policy answers at {self.config.policy}/execute; is it running?")
            )
        goal = ExecuteInstruction.Goal(instruction=text, timeout=self.config.timeout)
        if stroke is not None:
            goal.trace = self._drawn(stroke)
        self._goals += 1
        number, answer = self._goals, Future[PanelReply]()
        self.when_done(self._execute.send_goal_async(goal), lambda sent: self._on_goal(number, sent, answer))
        return answer

    def _on_goal(self, number: int, sent: RosFuture, answer: Future[PanelReply]) -> None:
        handle = sent.result()
        if not handle.accepted:
            settle(answer, PanelReply(ok=False, message="the policy did not accept it; see its log"))
            return
        settle(answer, PanelReply(ok=True))
        self.when_done(handle.get_result_async(), lambda result: self._on_result(number, result))

    def _on_result(self, number: int, result: RosFuture) -> None:
        if number == self._goals:  # else a newer one has begun
            self._ended = {"goal": number, "message": result.result().result.message[:LONGEST]}

    def draw(self, stroke: DrawnStroke | None) -> Future[PanelReply]:
        """Send an operator's trace, or clear it."""
        if stroke is None:
            return self._call(self._edit, EditTrace.Request(clear=True))
        return self._call(self._edit, EditTrace.Request(trace=self._drawn(stroke)))

    def _drawn(self, stroke: DrawnStroke) -> Trace:
        x, y = np.array(stroke.points).T.tolist()
        trace = Trace(source=Trace.HUMAN, x=x, y=y)
        trace.header.frame_id = f"{self.config.cameras[0]}_color_optical_frame"
        trace.header.stamp.sec, trace.header.stamp.nanosec = stroke.sec, stroke.nanosec
        return trace

    def collect(self, command: str, notes: str, task: str, done: Sequence[bool]) -> Future[PanelReply]:
        """Begin, end or judge an episode of the node that collects demonstrations, or that runs trials."""
        request = CollectCommand.Request(command=command, notes=notes, task=task, done=list(done))
        return self._call(self._collect, request)

    def jog(self, arm: int, twist: np.ndarray) -> None:
        """Move a hand, `twist` [6] in fractions of full speed."""
        if arm < len(self.config.arms):
            self.say_twist(arm, twist * np.repeat([self.config.linear, self.config.angular], 3))

    def home(self, arm: int) -> None:
        """Move an arm to its home position while this is repeated."""
        if arm < len(self.config.arms):
            self.say_home(arm)

    def let_go(self, arm: int) -> None:
        """Stop the motion, and release the dead-man's switch."""
        if arm < len(self.config.arms):
            super().let_go(arm)

    def grip(self, arm: int, wide: bool) -> PanelReply:
        """Open or close a gripper."""
        if arm >= len(self.config.arms):
            return PanelReply(ok=False, message="there is no such arm")
        self.say_gripper(arm, OPENING_MAX if wide else 0.0)
        return PanelReply(ok=True)

    def _call(self, client: Any, request: Any) -> Future[PanelReply]:
        if not client.service_is_ready():
            return _now(PanelReply(ok=False, message=f"nobody answers at {client.service_name}; is the node running?"))
        answer: Future[PanelReply] = Future()

        def take(done: RosFuture) -> None:
            reply = done.result()
            settle(answer, PanelReply(ok=reply.success, message=reply.message[:LONGEST]))

        self.when_done(client.call_async(request), take)
        return answer


def views(config: PanelConfig) -> list[View]:
    """The image views: the front camera, its depth, the model's depth, and the other cameras."""
    front, *others = config.cameras
    compressed = config.image_transport == "compressed"
    colour = {name: colour_topic(name, config.image_transport)[1] for name in config.cameras}
    _, depth = depth_topic(front, config.image_transport)
    return [
        View("front", "Camera", colour[front], "color", True, compressed),
        View("depth", "Depth", depth, "depth", True, compressed),
        View("said", "Model’s depth", f"{config.policy}/depth_image", "said", True),
        *(View(name, name.capitalize(), colour[name], "color", False, compressed) for name in others),
    ]


def safety_state(message: SafetyStatus) -> dict[str, Any]:
    """The controller's state for browsers."""
    counts = zip(message.limits[:MOST], message.limit_counts, strict=False)
    return {
        "state": name_of(STATES, message.state), "reason": message.reason[:LONGEST], "plan": message.plan_id,
        "progress": _known(message.progress) or 0.0, "latency": _known(message.latency),
        "limits": {name[:LONGEST]: count for name, count in counts},
        "warnings": [warning[:LONGEST] for warning in message.warnings[:MOST]],
    }  # fmt: skip


def engine_state(message: EngineStatus) -> dict[str, Any]:
    """The engine's state for browsers."""
    stages = zip(message.stages[:MOST], message.stage_seconds, strict=False)
    return {
        "state": name_of(ENGINE, message.state), "message": message.message[:LONGEST],
        "instruction": message.instruction[:LONGEST], "checkpoint": message.checkpoint[:LONGEST],
        "plan": message.plan_id, "step": _known(message.step_seconds), "age": _known(message.observation_age),
        "mode": message.mode[:LONGEST], "stages": [[name[:LONGEST], _known(seconds)] for name, seconds in stages],
        "tokens": message.tokens, "passes": message.passes, "camera_age": _known(message.camera_age),
        "pending": message.pending_plan_id if message.state == EngineStatus.PENDING else 0,
        "left": _known(message.pending_seconds), "points_left": message.trace_points_left,
        "trace_message": message.trace_message[:LONGEST],
    }  # fmt: skip


def trace_state(message: Trace) -> dict[str, Any]:
    """A trace for browsers; the first points of a very long one."""
    pairs = zip(message.x[:LONGEST], message.y[:LONGEST], strict=False)
    points = [[x, y] for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    source = name_of(conversions.TRACE_SOURCES, message.source)
    return {"points": points, "person": message.source == Trace.HUMAN, "source": source, "plan": message.plan_id}


def chunk_state(message: ActionChunk) -> dict[str, Any]:
    """An action chunk for browsers; without rows where it is malformed, or not of the action space that they draw."""
    fits = message.steps <= MOST and message.dimensions in (7, 14)
    rows = np.array(message.actions) if fits and message.steps * message.dimensions == len(message.actions) else EMPTY
    sound = rows.size > 0 and np.isfinite(rows).all() and message.action_space == ActionChunk.DELTA_EE_POSE
    return {
        "plan": message.plan_id, "dt": _known(message.dt), "mode": message.mode[:LONGEST],
        "space": name_of(SPACES, message.action_space),
        "actions": np.round(rows, 5).reshape(message.steps, -1).tolist() if sound else [],
    }  # fmt: skip


EMPTY: Final = np.empty(0)


def _known(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def _now(answer: PanelReply) -> Future[PanelReply]:
    future: Future[PanelReply] = Future()
    future.set_result(answer)
    return future


def main() -> None:
    """Start the node."""
    run(PanelNode)


if __name__ == "__main__":
    main()
