"""Plays a bag onto live topics, with its clock: its sensor data, which today's nodes process.

Beside a controller it plays only where `allow_controller` permits it: its clock, its joints and the operators' recorded
input would move a live arm. It never plays commands, not even recorded ones.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, Field
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from molmoact_ros.bags.bag import BagMessage
from molmoact_ros.bags.image_codec import COMPRESSED
from molmoact_ros.bags.recorded_parameters import parameters
from molmoact_ros.bags.recording import Recording, TopicNames, parse_remap
from molmoact_ros.cameras.compressed_images import decoded
from molmoact_ros.msg import EngineStatus
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.message_types import message_class
from molmoact_ros.ros.parameters import Regex, declare
from molmoact_ros.ros.spin import run

CLOCK_RATE: Final = 200.0
"""Rate of /clock, in the machine's own time, Hz."""
GAP: Final = 1.0
"""s of the clock between the end of the bag and its beginning, when it loops."""
POLICY, HOLD, STOPPED = 1, 2, 3  # of SafetyStatus.msg
OURS = r"(/\w+)*/(policy|expert|controller|recorder|sim|player)/.*|.*_controller/.*|.*/target_(pose|joint)" \
       r"|/(left|right)_fr3.*|/clock|/rosout|/diagnostics|/parameter_events|.*/_action/.*"  # fmt: skip
"""Topics that today's nodes publish themselves, and topics that move arms."""
COMMANDS = r"molmoact_ros/.*|(trajectory_msgs|control_msgs)/.*|std_msgs/msg/Float64MultiArray" \
           r"|geometry_msgs/msg/(Twist|Pose|Wrench|Accel)(Stamped)?"  # fmt: skip
"""Types of messages that may command something, on whatever topic."""
OPERATORS = r"/policy/edit_trace|/controller/(teleop/.*|presence|stop)"
"""Operators' topics: played where a replay has a domain of its own."""
SAFETY = "molmoact_ros/msg/SafetyStatus"
DISCOVERY: Final = 3.0
"""s to discover the running nodes, even on a busy machine; nothing is published before that."""
BEGINS: Final = "begins: every node listens"
OVER: Final = "done: the bag is over"
"""What it logs before the first message, and after the last."""
LOOK: Final = 0.5
"""s between checks for a controller that was started meanwhile."""


class PlayerConfig(BaseModel):
    """Parameters of the player node."""

    bag: str = Field("", min_length=1, description="folder of the bag")
    rate: float = Field(1.0, gt=0, le=100, description="times the recorded speed")
    loop: int = Field(1, ge=1, description="how often it is played; the clock goes on in between")
    paused: bool = Field(False, description="begin paused, until ~/go_on is called")
    exclude: Regex = Field(OURS, description="topics that are not played: a regular expression")
    include: Regex = Field("", description="topics that are played all the same")
    allow_controller: bool = Field(
        False, description="play beside a controller, instruct its policy, and start and stop it as in the bag"
    )
    remap: list[str] = Field([""], description="topics of the bag by other names: from:=to")
    wait: list[str] = Field([""], description="nodes that have to listen before it begins")


@dataclass(frozen=True)
class PlaybackEvent:
    """An event at a time of the bag, ns: a message to publish, or an operator's call."""

    at: int
    message: BagMessage | None = None
    instruction: str | None = None
    service: str = ""


class PlayerNode(Node):
    """A thread plays the bag; services run on the executor's thread."""

    def __init__(self) -> None:
        super().__init__("player")
        self.config = declare(self, PlayerConfig)
        self._checked_at = -math.inf
        self._failure = ""  # why the thread ended before the bag
        self._recording = Recording(
            Path(self.config.bag),
            TopicNames(remap=parse_remap([rule for rule in self.config.remap if rule])),
            "nothing",
        )
        self._unpaused = threading.Event()
        if not self.config.paused:
            self._unpaused.set()
        self._open = True
        self._clock_topic = self.create_publisher(Clock, "/clock", qos.RELIABLE)
        self._policy_runs, self._policy_has_images = False, False  # today's policy, by its status
        self._pending_service = ""  # what is called at the controller once it does
        if self.config.allow_controller:
            self._connect()
        self._commanded = self._recorded_sinks()
        self._topics: dict[str, Any] = {}
        for topic, type_name in self._recording.topics.items():
            if self._is_played(topic, type_name):
                self._topics |= self._advertise(topic, type_name)
        self.create_service(Trigger, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/go_on", self._on_go_on)
        self.create_timer(0.1, self._end_on_failure, clock=STEADY)
        self._thread = threading.Thread(target=self._play, name="player", daemon=True)
        self._thread.start()
        for note in self._recording.notes:
            self.get_logger().warning(note)
        self.get_logger().info(f"ready: playing {len(self._topics)} topics of {self.config.bag}")

    def destroy_node(self) -> None:
        """End the thread, then destroy the node."""
        self._open = False
        self._unpaused.set()
        self._thread.join()
        self._recording.reader.close()
        super().destroy_node()

    def _connect(self) -> None:
        """Create the clients that command a policy and a controller."""
        self._instruction = self.create_publisher(String, "policy/instruction", qos.RELIABLE)
        self._triggers = {
            name: self.create_client(Trigger, f"controller/{name}") for name in ("start", "hold", "stop", "resume")
        }
        self.create_subscription(EngineStatus, "policy/engine_status", self._on_engine, qos.RELIABLE)

    def _refuse_controllers(self) -> None:
        """Raise RuntimeError where a controller runs, that is, where a node publishes SafetyStatus."""
        for topic, types in self.get_topic_names_and_types():
            if SAFETY in types and self.count_publishers(topic):
                raise RuntimeError(
                    f"the controller {topic.rpartition('/')[0]} runs in this domain, and a bag's clock and joints "
                    "would mislead it: play in another ROS_DOMAIN_ID, or set allow_controller to true"
                )

    def _is_played(self, topic: str, type_name: str) -> bool:
        if re.fullmatch(self.config.include, topic):
            return True
        commands = topic in self._commanded or re.fullmatch(COMMANDS, type_name)
        return not commands and not re.fullmatch(self.config.exclude, topic)

    def _recorded_sinks(self) -> set[str]:
        """Topics to which the recorded controller sent commands, as far as the bag holds its parameters."""
        then = parameters(self._recording, self._recording.names.controller)
        topics = (value for name, value in then.items() if name.endswith(("sink_topic", "gripper_topic")))
        return {"/" + topic.strip("/") for topic in topics}

    def _advertise(self, topic: str, type_name: str) -> dict[str, Any]:
        """A publisher for a topic of the bag; compressed images are published decompressed, as nodes need them."""
        message_type = message_class(type_name)
        if message_type is None:
            self.get_logger().warning(f"{topic} is not played: {type_name} is not installed here")
            return {}
        if type_name == COMPRESSED:
            plain = re.sub("/(compressed|compressedDepth)$", "", topic)
            return {topic: (self.create_publisher(Image, plain, qos.SENSOR), CompressedImage)}
        profile = qos.SENSOR if message_type is Image else qos.STATE if "info" in topic else qos.RELIABLE
        return {topic: (self.create_publisher(message_type, topic, profile), message_type)}

    def _end_on_failure(self) -> None:
        if self._failure:
            raise SystemExit(f"error: the bag cannot be played: {self._failure}")

    def _on_pause(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._unpaused.clear()
        response.success = True
        return response

    def _on_go_on(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._unpaused.set()
        response.success = True
        return response

    def _on_engine(self, message: EngineStatus) -> None:
        self._policy_runs = True
        self._policy_has_images = math.isfinite(message.camera_age)

    # The thread

    def _play(self) -> None:
        try:
            if not self.config.allow_controller:
                time.sleep(DISCOVERY)
            self._wait_for_listeners()
            self.get_logger().info(BEGINS)
            begin, end = self._recording.reader.span_ns
            for turn in range(self.config.loop):
                shift = turn * (end - begin + round(GAP * 1e9))
                for cue in self._playback_events():
                    self._until(cue.at + shift)
                    if not self._open:
                        return
                    self._do(cue, shift)
                self._until(end + shift + round(GAP * 1e9))
            self.get_logger().info(OVER)
        except (ValueError, RuntimeError, OSError) as error:
            self._failure = str(error)

    def _wait_for_listeners(self) -> None:
        topics = {publisher.topic_name for publisher in self.publishers}
        wanted = {node for node in self.config.wait if node}
        self._now = self._recording.reader.span_ns[0]
        while self._open:
            infos = [info for topic in topics for info in self.get_subscriptions_info_by_topic(topic)]
            if wanted <= {info.node_name for info in infos} and all(self._is_started(node) for node in wanted):
                return
            self._publish_time(self._now)
            time.sleep(0.1)

    def _is_started(self, node: str) -> bool:
        """Whether a node that listens to the clock also obeys: a policy does once its checkpoint is loaded."""
        if not self.config.allow_controller or node not in ("policy", "controller"):
            return True
        if node == "policy":
            return self._policy_runs and self._instruction.get_subscription_count() > 0
        return all(trigger.service_is_ready() for trigger in self._triggers.values())

    def _playback_events(self) -> Iterator[PlaybackEvent]:
        """All events, by time."""
        told, state = "", 0
        names = self._recording.names
        status, safety = f"{names.policy}/engine_status", f"{names.controller}/safety_status"
        watched = [topic for topic in (status, safety) if self.config.allow_controller]
        for message in self._recording.messages([*self._topics, *watched]):
            if message.topic == status:
                said = self._recording.decode(message).instruction
                if said != told:
                    told = said
                    yield PlaybackEvent(message.stamp_ns, instruction=said)
            elif message.topic == safety:
                now = self._recording.decode(message).state
                if now != state:
                    service = {POLICY: "resume" if state == STOPPED else "start", STOPPED: "stop"}.get(now, "")
                    state = now
                    yield PlaybackEvent(message.stamp_ns, service=service)
            else:
                yield PlaybackEvent(message.stamp_ns, message)

    def _until(self, at: int) -> None:
        """Publish the clock until it is `at`, ns of the bag's clock; pauses take none of it."""
        step = round(self.config.rate * 1e9 / CLOCK_RATE)
        due = time.monotonic()
        while self._open and self._now < at:
            if not self._unpaused.is_set():
                self._unpaused.wait(0.1)
                due = time.monotonic()
                continue
            part = min(step, at - self._now)
            due += part * 1e-9 / self.config.rate
            time.sleep(max(0.0, due - time.monotonic()))
            self._now += part
            self._publish_time(self._now)
            self._call_controller()

    def _publish_time(self, now: int) -> None:
        if not self.config.allow_controller and time.monotonic() - self._checked_at > LOOK:
            self._checked_at = time.monotonic()
            self._refuse_controllers()
        self._clock_topic.publish(Clock(clock=conversions.time_message(now * 1e-9)))

    def _do(self, cue: PlaybackEvent, shift: int) -> None:
        if cue.message is not None:
            publisher, kind = self._topics[cue.message.topic]
            data = cue.message.data
            if kind is CompressedImage:
                publisher.publish(self._unpacked(cue.message, shift))
            else:
                publisher.publish(restamped(data, shift) if has_header(kind) else data)
        elif cue.instruction is not None:
            self._instruction.publish(String(data=cue.instruction))
        else:
            self._pending_service = cue.service
            self._call_controller()

    def _call_controller(self) -> None:
        """Repeat the recorded call. One that starts motion waits until today's policy has images, or it would hold."""
        service, engine = self._pending_service, "policy/engine_status"
        if service and (self._policy_has_images or service == "stop" or not self.count_publishers(engine)):
            self._pending_service = ""
            if self._triggers[service].service_is_ready():
                self._triggers[service].call_async(Trigger.Request())

    def _unpacked(self, message: BagMessage, shift: int) -> Image:
        picture = self._recording.decode(message)
        pixels, encoding = decoded(picture)
        stamp = conversions.seconds(picture.header.stamp) + shift * 1e-9
        return conversions.image_message(pixels, encoding, conversions.header(stamp, picture.header.frame_id))


def has_header(kind: Any) -> bool:
    """Whether a message's type begins with a std_msgs/Header."""
    return next(iter(kind.get_fields_and_field_types().values()), "") == "std_msgs/Header"


def restamped(data: bytes, shift: int) -> bytes:
    """A CDR message that begins with a header, with its stamp shifted by `shift` ns; a stamp of zero stays."""
    order: Literal["little", "big"] = "little" if data[1] & 1 else "big"
    seconds = int.from_bytes(data[4:8], order, signed=True)
    stamp = seconds * 10**9 + int.from_bytes(data[8:12], order)
    if not shift or not stamp:
        return data
    whole, nanoseconds = divmod(stamp + shift, 10**9)
    return data[:4] + whole.to_bytes(4, order, signed=True) + nanoseconds.to_bytes(4, order) + data[12:]


def main() -> None:
    """Start the node."""
    run(PlayerNode)


if __name__ == "__main__":
    main()
