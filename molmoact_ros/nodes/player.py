"""Plays a bag onto live topics, with its clock: what cameras and arms published; nodes of today do the rest.

Beside a controller it plays only where `allow_controller` says so: its clock, its joints and what operators did then
would move a live arm. Commands, the recorded ones too, are never played.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
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
from molmoact_ros.bags.message_arrays import unpacked
from molmoact_ros.bags.recorded_parameters import parameters
from molmoact_ros.bags.recording import Recording, TopicNames, parse_remap
from molmoact_ros.msg import EngineStatus
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import run

CLOCK_RATE: Final = 200.0
"""Hz of /clock, of the machine's own time."""
GAP: Final = 1.0
"""s of the clock between the end of the bag and its beginning, when it is played again."""
POLICY, HOLD, STOPPED = 1, 2, 3  # of SafetyStatus.msg
OURS = r"(/\w+)*/(policy|expert|controller|recorder|sim|player)/.*|.*_controller/.*|.*/target_(pose|joint)" \
       r"|/(left|right)_fr3.*|/clock|/rosout|/diagnostics|/parameter_events|.*/_action/.*"  # fmt: skip
"""What the nodes of today publish themselves, and what moves arms."""
COMMANDS = r"molmoact_ros/.*|(trajectory_msgs|control_msgs)/.*|std_msgs/msg/Float64MultiArray" \
           r"|geometry_msgs/msg/(Twist|Pose|Wrench|Accel)(Stamped)?"  # fmt: skip
"""Types of messages that may command something, on whatever topic."""
OPERATORS = r"/policy/edit_trace|/controller/(teleop/.*|presence|stop)"
"""What operators published: played where a replay has a domain of its own."""
SAFETY = "molmoact_ros/msg/SafetyStatus"
DISCOVERY: Final = 3.0
"""s in which the nodes that run already are found, on a busy machine, too; before nothing is published."""
LOOK: Final = 0.5
"""s between looks for a controller that was started meanwhile."""


class PlayerConfig(BaseModel):
    """Parameters of the player."""

    bag: str = Field("", min_length=1, description="folder of the bag")
    rate: float = Field(1.0, gt=0, le=100, description="times the recorded speed")
    loop: int = Field(1, ge=1, description="how often it is played; the clock goes on in between")
    paused: bool = Field(False, description="begin paused, until ~/go_on is called")
    exclude: str = Field(OURS, description="topics that are not played: a regular expression")
    include: str = Field("", description="topics that are played all the same")
    allow_controller: bool = Field(
        False, description="play beside a controller, instruct its policy, and start and stop it as in the bag"
    )
    remap: list[str] = Field([""], description="topics of the bag by other names: from:=to")
    wait: list[str] = Field([""], description="nodes that have to listen before it begins")


@dataclass(frozen=True)
class PlaybackEvent:
    """Something to be done at a time of the bag, ns: a message to publish, or what a person said then."""

    at: int
    message: BagMessage | None = None
    instruction: str | None = None
    service: str = ""


class PlayerNode(Node):
    """The bag is played by a thread of its own; services on the executor's."""

    def __init__(self) -> None:
        super().__init__("player")
        self.config = declare(self, PlayerConfig)
        self._looked = -math.inf
        self._failure = ""  # why the thread has ended before the bag
        self._recording = Recording(
            Path(self.config.bag), TopicNames(remap=parse_remap([rule for rule in self.config.remap if rule]))
        )
        self._going = threading.Event()
        if not self.config.paused:
            self._going.set()
        self._open = True
        self._clock_topic = self.create_publisher(Clock, "/clock", qos.RELIABLE)
        self._sees = False  # today's policy has pictures
        self._awaited = ""  # what is asked of the controller once it does
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
        self.get_logger().info(f"ready: playing {len(self._topics)} topics of {self.config.bag}")

    def destroy_node(self) -> None:
        """End the thread, then the node."""
        self._open = False
        self._going.set()
        self._thread.join()
        self._recording.reader.close()
        super().destroy_node()

    def _connect(self) -> None:
        """Create what a policy and a controller are commanded by."""
        self._instruction = self.create_publisher(String, "policy/instruction", qos.RELIABLE)
        self._triggers = {
            name: self.create_client(Trigger, f"controller/{name}") for name in ("start", "hold", "stop", "resume")
        }
        self.create_subscription(EngineStatus, "policy/engine_status", self._on_engine, qos.RELIABLE)

    def _refuse_controllers(self) -> None:
        """Raise RuntimeError where a controller runs: whoever publishes SafetyStatus."""
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
        """Where the recorded controller sent commands, as far as the bag holds its parameters."""
        then = parameters(self._recording, self._recording.names.controller)
        topics = (value for name, value in then.items() if name.endswith(("sink_topic", "gripper_topic")))
        return {"/" + topic.strip("/") for topic in topics}

    def _advertise(self, topic: str, type_name: str) -> dict[str, Any]:
        """A publisher for a topic of the bag; compressed pictures are published as pictures, since nodes want those."""
        package, _, kind = type_name.split("/")
        try:
            message_type = getattr(import_module(f"{package}.msg"), kind)
        except (ImportError, AttributeError):
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
        self._going.clear()
        response.success = True
        return response

    def _on_go_on(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._going.set()
        response.success = True
        return response

    def _on_engine(self, message: EngineStatus) -> None:
        self._sees = math.isfinite(message.camera_age)

    # The thread

    def _play(self) -> None:
        try:
            if not self.config.allow_controller:
                time.sleep(DISCOVERY)
            self._wait_for_listeners()
            begin, end = self._recording.reader.span_ns
            for turn in range(self.config.loop):
                shift = turn * (end - begin + round(GAP * 1e9))
                for cue in self._cues():
                    self._until(cue.at + shift)
                    if not self._open:
                        return
                    self._do(cue, shift)
                self._until(end + shift + round(GAP * 1e9))
            self.get_logger().info("done: the bag is over")
        except (ValueError, RuntimeError, OSError) as error:
            self._failure = str(error)

    def _wait_for_listeners(self) -> None:
        topics = {publisher.topic_name for publisher in self.publishers}
        wanted = {node for node in self.config.wait if node}
        self._now = self._recording.reader.span_ns[0]
        while self._open:
            infos = [info for topic in topics for info in self.get_subscriptions_info_by_topic(topic)]
            if wanted <= {info.node_name for info in infos}:
                return
            self._tell_time(self._now)
            time.sleep(0.1)

    def _cues(self) -> Iterator[PlaybackEvent]:
        """Everything that is to be done, by time."""
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
        """Tell the time until it is `at`, ns of the bag's clock; pauses take none of it."""
        step = round(self.config.rate * 1e9 / CLOCK_RATE)
        due = time.monotonic()
        while self._open and self._now < at:
            if not self._going.is_set():
                self._going.wait(0.1)
                due = time.monotonic()
                continue
            part = min(step, at - self._now)
            due += part * 1e-9 / self.config.rate
            time.sleep(max(0.0, due - time.monotonic()))
            self._now += part
            self._tell_time(self._now)
            self._ask_controller()

    def _tell_time(self, now: int) -> None:
        if not self.config.allow_controller and time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
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
            self._awaited = cue.service
            self._ask_controller()

    def _ask_controller(self) -> None:
        """What was asked of it then; to move only once the policy of today has pictures, or it would hold at once."""
        service, engine = self._awaited, "policy/engine_status"
        if service and (self._sees or service == "stop" or not self.count_publishers(engine)):
            self._awaited = ""
            if self._triggers[service].service_is_ready():
                self._triggers[service].call_async(Trigger.Request())

    def _unpacked(self, message: BagMessage, shift: int) -> Image:
        picture = self._recording.decode(message)
        pixels, encoding = unpacked(picture)
        stamp = conversions.seconds(picture.header.stamp) + shift * 1e-9
        return conversions.image_message(pixels, encoding, conversions.header(stamp, picture.header.frame_id))


def has_header(kind: Any) -> bool:
    """Whether a message's type begins with a std_msgs/Header."""
    return next(iter(kind.get_fields_and_field_types().values()), "") == "std_msgs/Header"


def restamped(data: bytes, shift: int) -> bytes:
    """A message that begins with a header, as CDR bytes, with its stamp moved by `shift` ns; a stamp of zero stays."""
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
