"""A benchmark's harness in front of the policy that is deployed: vla-eval's protocol on one side, topics on the other.

In lock-step: an observation becomes one image of each camera and the instruction, the policy's chunk answers it and the
observations after it, and only then is another image published. The harness' simulation stands while the model thinks.
No controller takes part: the harness moves its own robot.
"""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import Future
from typing import Final

import numpy as np
from aiohttp import WSMsgType, web
from pydantic import BaseModel, Field
from sensor_msgs.msg import Image
from std_msgs.msg import String

from molmoact_ros.control.action_chunk import ActionSpace
from molmoact_ros.control.osc_pose import ROBOT, osc_inputs
from molmoact_ros.evaluation.harness_protocol import (
    ACTION,
    END,
    ERROR,
    HELLO,
    LARGEST,
    OBSERVATION,
    START,
    HarnessMessage,
    HarnessObservation,
    hello,
    observation,
    pack,
    unpack,
)  # fmt: skip
from molmoact_ros.evaluation.libero_images import released_image
from molmoact_ros.msg import ActionChunk, EngineStatus
from molmoact_ros.panel.serving import Serving
from molmoact_ros.reasoning.action_convention import ActionConvention, GripperPolarity
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.contained import ContainedNode, settle
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import run

IN_METRES: Final = ActionConvention(
    robot=ROBOT,
    space="delta_ee_pose",
    frame="base",
    rotation="roll_pitch_yaw",
    gripper=GripperPolarity(open=1, closed=0),
)
"""What a chunk of the policy's means: msg/ActionChunk.msg, for a checkpoint of LIBERO's robot."""


STALE: Final = 0.5
"""s after an image in which what the policy reports may still be about an earlier one."""
MISSED: Final = (EngineStatus.IDLE, EngineStatus.WAITING)
"""States of a policy that has not had the instruction, or the images."""


class BenchmarkServerConfig(BaseModel):
    """Parameters of the benchmark server."""

    host: str = Field("127.0.0.1", description="address to serve at; anybody who reaches it may use the policy")
    port: int = Field(8000, ge=0, le=65535, description="port of the websocket; 0: any that is free")
    policy: str = Field("policy", description="node name of the policy; a relative one: in this namespace")
    cameras: list[str] = Field(["front", "wrist"], min_length=1, description="names of the policy's cameras")
    images: list[str] = Field(["agentview", "wrist"], min_length=1, description="the harness' names of their images")
    released: bool = Field(True, description="treat images as the released evaluation on LIBERO: JPEG and centre crop")
    timeout: float = Field(25.0, gt=0, le=600, description="s for a plan; then the harness gets an error")


class BenchmarkServerNode(ContainedNode):
    """Serves one harness at a time. Topics are the executor's, the websocket has a thread of its own."""

    def __init__(self) -> None:
        super().__init__("benchmark_server")
        self.config = config = declare(self, BenchmarkServerConfig)
        if len(config.cameras) != len(config.images):
            raise ValueError("the parameters cameras and images differ in length; name an image for each camera")
        self._cameras = [self.create_publisher(Image, f"{name}/color/image_raw", qos.SENSOR) for name in config.cameras]
        self._instructions = self.create_publisher(String, f"{config.policy}/instruction", qos.RELIABLE)
        self._wanted: Future[np.ndarray] | None = None  # the inputs of the plan that is awaited, [N, 7]
        self._seen = HarnessObservation((), "")  # what it is made of
        self._stamp = 0.0  # of the images as they were last published, s
        self.create_subscription(ActionChunk, f"{config.policy}/action_chunk", self._on_chunk, qos.RELIABLE)
        self.create_subscription(EngineStatus, f"{config.policy}/engine_status", self._on_status, qos.STATE)
        app = web.Application()
        app.router.add_get("/", self._on_connection)
        app.router.add_get("/health", self._on_health)
        self._busy, self._serving = False, Serving("benchmark server")
        port = self._serving.start(app, config.host, config.port)
        self.get_logger().info(f"ready: vla-eval's harness connects to ws://{config.host}:{port}")

    def destroy_node(self) -> None:
        """End the server, then destroy the node."""
        self._serving.close(asyncio.sleep(0))
        super().destroy_node()

    # Topics, on the executor's thread

    def _on_chunk(self, chunk: ActionChunk) -> None:
        wanted = self._wanted
        if wanted is None or not math.isclose(conversions.seconds(chunk.header.stamp), self._stamp, abs_tol=1e-6):
            return
        if chunk.action_space != ActionSpace.DELTA_EE or chunk.dimensions != ActionSpace.DELTA_EE.dimensions:
            wanted.set_exception(ValueError("the policy's actions are no displacements of one hand"))
        else:
            settle(wanted, osc_inputs(conversions.chunk_actions(chunk), IN_METRES))

    def _on_status(self, status: EngineStatus) -> None:
        wanted, news = self._wanted, conversions.seconds(status.header.stamp) > self._stamp + STALE
        if wanted is None or wanted.done() or not news:
            return
        if status.state == EngineStatus.FAULT:
            wanted.set_exception(ValueError(f"the policy refuses: {status.message}"))
        elif status.state in MISSED:  # lost, before it was found or by a best-effort topic, or too late
            self._publish()

    def _publish(self) -> None:
        """Publish the instruction and an image of each camera, stamped now."""
        self._stamp = conversions.seconds(conversions.time_message(self.get_clock().now().nanoseconds * 1e-9))
        self._instructions.publish(String(data=self._seen.instruction))
        for publisher, name, image in zip(self._cameras, self.config.cameras, self._seen.images, strict=True):
            head = conversions.header(self._stamp, conversions.optical_frame(name))
            publisher.publish(conversions.image_message(image, "rgb8", head))

    # The harness, on the server's thread

    async def _on_health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _on_connection(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=LARGEST)
        await socket.prepare(request)
        if self._busy:
            refusal = {"error": "another harness is connected; one at a time"}
            await socket.send_bytes(pack(HarnessMessage(ERROR, refusal, 0)))
            return socket
        self._busy, queue = True, list[np.ndarray]()
        try:
            async for frame in socket:
                if frame.type is WSMsgType.BINARY:
                    answer = await self._answer(frame.data, queue)
                    if answer is not None:
                        await socket.send_bytes(pack(answer))
        finally:
            self._busy = False
            self._instructions.publish(String(data=""))
        return socket

    async def _answer(self, data: bytes, queue: list[np.ndarray]) -> HarnessMessage | None:
        """The answer to a message, None without one. queue: inputs of the last plan that are not sent yet."""
        seq = 0
        try:
            message = unpack(data)
            seq = message.seq
            if message.kind == HELLO:
                return hello(seq)
            if message.kind in (START, END):
                queue.clear()
                self._instructions.publish(String(data=""))  # a plan of the episode before is of no use
            if message.kind != OBSERVATION:
                return None
            if not queue:
                queue.extend(await self._plan(observation(message.payload, self.config.images)))
            return HarnessMessage(ACTION, {"actions": queue.pop(0).tolist()}, seq)
        except (ValueError, TimeoutError) as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            self._instructions.publish(String(data=""))  # the next observation begins anew
            return HarnessMessage(ERROR, {"error": str(error)}, seq)

    async def _plan(self, seen: HarnessObservation) -> np.ndarray:
        """Inputs float64 [N, 7] of the policy's plan for an observation. Raises ValueError and TimeoutError."""
        images = tuple(released_image(image) if self.config.released else image for image in seen.images)
        self._seen = HarnessObservation(images, seen.instruction)
        self._stamp = math.inf  # until they are published, the policy reports nothing about them
        wanted = self._wanted = Future[np.ndarray]()
        try:
            self._publish()
            return await asyncio.wait_for(asyncio.wrap_future(wanted), self.config.timeout)
        except TimeoutError:
            after = f"no plan came within {self.config.timeout:g} s"
            raise TimeoutError(f"{after}; look at the policy's log, or raise the parameter timeout") from None
        finally:
            self._wanted = None


def main() -> None:
    """Start the node."""
    run(BenchmarkServerNode)


if __name__ == "__main__":
    main()
