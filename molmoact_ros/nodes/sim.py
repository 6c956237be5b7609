"""A simulated workcell at the topics of real cameras and real arms."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Final, Literal

import mujoco
import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion
from pydantic import BaseModel, Field
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.robots.franka import HOME_Q, Arm
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.camera_publisher import CameraPublisher
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.polling import PollingSubscription
from molmoact_ros.ros.spin import run
from molmoact_ros.ros.transforms import transform_message
from molmoact_ros.sim.base_workcell import SimArm
from molmoact_ros.sim.camera_renderer import D405_WRIST, D435_FRONT, CameraRenderer
from molmoact_ros.sim.scene import SHAPES, Shape
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.sim.trajectory_follower import TrajectoryFollower
from molmoact_ros.sim.tray_workcell import TrayCell
from molmoact_ros.srv import ResetScene, SceneTruth
from molmoact_ros.utils.paths import robot_model

OPEN: Final = 0.04
"""Position of one finger when the hand is open, m."""
TICK: Final = 0.004
"""Time step of the physics between two new position targets, s."""
LARGEST: Final = 1 << 20
"""Largest trajectory message, bytes: some ten thousand points."""
Pixels = Annotated[int, Field(ge=16, le=4096)]
CATCH_UP: Final = 0.1
"""When the process was kept from running for longer than this, s, the simulation skips the rest."""


class SimConfig(BaseModel):
    """Parameters of the simulator node."""

    workcell: Literal["table", "tray"] = Field("table", description="table: one arm, objects; tray: two arms, a tray")
    seed: int = Field(7, ge=0, lt=2**32, description="seed of the first scene")
    instruction: str = Field("", description="task of the first scene; empty: drawn from the seed")
    distractors: int = Field(-1, ge=-1, le=9, description="objects beside the task's; -1: drawn from the seed")
    shapes: list[Shape] = Field(
        list(SHAPES), min_length=1, description="of the table's objects; bars and rods are longer than the fingers open"
    )
    camera_rate: float = Field(15.0, gt=0, le=60, description="frames/s of all cameras")
    joint_rate: float = Field(100.0, ge=10, le=250, description="joint states/s")
    front_size: list[Pixels] = Field([640, 480], min_length=2, max_length=2, description="width and height in pixels")
    wrist_size: list[Pixels] = Field([424, 240], min_length=2, max_length=2, description="width and height in pixels")

    def make_cell(self) -> Workcell | TrayCell:
        """The workcell, with cameras of the configured sizes."""
        front, wrist = D435_FRONT.scaled(*self.front_size), D405_WRIST.scaled(*self.wrist_size)
        if self.workcell == "tray":
            return TrayCell(robot_model(), front, wrist)
        return Workcell(robot_model(), front, wrist, self.shapes)


class SimNode(Node):
    """Physics in one thread and cameras in another, both in real time; commands and services on the executor's."""

    def __init__(self) -> None:
        super().__init__("sim")
        self.config = declare(self, SimConfig)
        self._cell = self.config.make_cell()
        self._lock = threading.Lock()  # guards the workcell and what follows
        self._drives = [_Drive(arm) for arm in self._cell.arms]
        self._seed, self._since_reset = 0, 0.0
        self._reset(self.config.seed, self.config.instruction, self.config.distractors)

        self._joint_states = self.create_publisher(JointState, "joint_states", qos.RELIABLE)
        self._tf_static = self.create_publisher(TFMessage, "/tf_static", qos.TF_STATIC)
        self._tf_static.publish(self._camera_frames())
        self._commands: list[tuple[PollingSubscription, tuple[str, ...], TrajectoryFollower]] = []
        self._joint_names = [name for drive in self._drives for name in (*drive.arm.joints, *drive.arm.fingers)]
        for drive in self._drives:
            self._listen(drive.arm, "arm", drive.arm.joints, drive.joints)
            self._listen(drive.arm, "gripper", drive.arm.fingers[:1], drive.finger)
        self.create_service(ResetScene, "~/reset_scene", self._on_reset)
        self.create_service(SceneTruth, "~/scene_truth", self._on_truth)
        self._running = threading.Event()
        self._running.set()
        self._threads = [threading.Thread(target=work) for work in (self._simulate, self._film)]
        for thread in self._threads:
            thread.start()
        self.get_logger().info(f"ready: scene {self._seed}, task: {self._cell.instruction}")

    def _camera_frames(self) -> TFMessage:
        """Each camera's pose on the hand or in the workcell, as a calibration would publish it."""
        poses = []
        for camera in self._cell.cameras:
            frame, pose = self._cell.camera_mount(camera)
            head = conversions.header(self._now(), frame)
            poses.append(transform_message(head, conversions.optical_frame(camera), pose))
        return TFMessage(transforms=poses)

    def _listen(self, arm: Arm, part: str, joints: tuple[str, ...], follower: TrajectoryFollower) -> None:
        topic = f"{arm.prefix}{arm.robot}_{part}_controller/joint_trajectory"
        self._commands.append(
            (PollingSubscription(self, JointTrajectory, topic, qos.RELIABLE, LARGEST), joints, follower)
        )

    def destroy_node(self) -> None:
        """Stop both threads, then destroy the node."""
        self._running.clear()
        for thread in self._threads:
            thread.join()
        super().destroy_node()

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    # Physics

    def _simulate(self) -> None:
        period = 1.0 / self.config.joint_rate
        done = due = time.monotonic()
        while self._running.is_set():
            done = max(done, time.monotonic() - CATCH_UP)
            with self._lock:
                self._take_commands()
                while done < time.monotonic():
                    self._advance(TICK)
                    done += TICK
            self._publish_joints()
            due = _sleep_until(due + period)

    def _advance(self, seconds: float) -> None:
        now = time.monotonic()
        for drive in self._drives:
            drive.advance(now)
        self._cell.step(seconds)
        self._since_reset += seconds

    def _publish_joints(self) -> None:
        with self._lock:
            positions = np.concatenate([arm.positions for arm in self._cell.arms])
            velocities = np.concatenate([arm.velocities for arm in self._cell.arms])
        self._joint_states.publish(
            JointState(
                header=conversions.header(self._now(), self._cell.frame), name=self._joint_names,
                position=positions.tolist(), velocity=velocities.tolist(),
            )
        )  # fmt: skip

    def _take_commands(self) -> None:
        for polled, joints, follower in self._commands:
            for data, heard, _ in polled.take_serialized():
                self._command(deserialize_message(data, JointTrajectory), heard * 1e-9, joints, follower)
            if polled.refusal:
                self.get_logger().error(polled.refusal, throttle_duration_sec=1.0)
                polled.refusal = ""

    def _command(
        self, message: JointTrajectory, heard: float, joints: tuple[str, ...], follower: TrajectoryFollower
    ) -> None:
        """Follow a trajectory as joint_trajectory_controller: a stamp of zero means now, a malformed one is refused.

        It runs by the steady clock from then on, so that nobody moves the arm by setting a clock. heard: s since 1970.
        """
        try:
            order = [message.joint_names.index(joint) for joint in joints]
            times = np.array([p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in message.points])
            positions = np.array([p.positions for p in message.points])[:, order]
            moving = bool(message.points) and all(len(p.velocities) for p in message.points)
            velocities = np.array([p.velocities for p in message.points])[:, order] if moving else None
            stamp = conversions.seconds(message.header.stamp)
            age = self._now() - stamp if stamp else max(time.time() - heard, 0.0)
            follower.follow(time.monotonic() - age, times, positions, velocities)
        except (ValueError, IndexError) as error:
            self.get_logger().error(f"trajectory for {', '.join(joints)} refused: {error}", throttle_duration_sec=1.0)

    # Cameras

    def _film(self) -> None:
        """Render a copy of the state, so that physics goes on meanwhile. The renderers belong to this thread."""
        model, state = self._cell.model, mujoco.MjData(self._cell.model)
        cameras = [_Camera(self, name, k) for name, k in self._cell.cameras.items()]
        renderers = [CameraRenderer(model, camera.name, camera.intrinsics) for camera in cameras]
        period = 1.0 / self.config.camera_rate
        due = time.monotonic()
        while self._running.is_set():
            with self._lock:
                mujoco.mj_copyData(state, model, self._cell.data)
                stamp = self._now()
            depths = []
            for camera, renderer in zip(cameras, renderers, strict=True):
                rgb, depth = renderer.render(state)
                camera.publish_color(rgb, stamp)
                depths.append(depth)
            for camera, depth in zip(cameras, depths, strict=True):  # after all colour images, which plans are made of
                camera.publish_depth(depth, stamp)
            due = _sleep_until(due + period)
        for renderer in renderers:
            renderer.close()

    # Services

    def _reset(self, seed: int, instruction: str, distractors: int) -> None:
        """Reset the scene. Raises ValueError for an unknown task."""
        with self._lock:
            self._cell.begin(seed, None if distractors < 0 else distractors, instruction or None)
            for drive in self._drives:
                drive.home()
            self._seed, self._since_reset = seed, 0.0

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        if not -1 <= request.distractors <= 9:
            response.message = f"{request.distractors} distractors do not fit on the table; give 0..9, or -1"
            return response
        try:
            self._reset(request.seed, request.instruction, request.distractors)
        except ValueError as error:
            response.message = str(error)
            return response
        response.success, response.instruction, response.objects = True, self._cell.instruction, self._cell.names
        self.get_logger().info(f"scene {request.seed}, task: {response.instruction}")
        return response

    def _on_truth(self, _: SceneTruth.Request, response: SceneTruth.Response) -> SceneTruth.Response:
        with self._lock:
            cell, progress = self._cell, self._cell.progress()
            bodies = [cell.data.body(name) for name in cell.names]
            response.poses = [_pose(body.xpos, body.xquat) for body in bodies]
            response.grippers = [_hand(arm) for arm in cell.arms]
            response.openings = [arm.opening for arm in cell.arms]
            response.header = conversions.header(self._now(), cell.frame)
            response.elapsed, response.seed = self._since_reset, self._seed
        response.success, response.names, response.instruction = True, cell.names, cell.instruction
        response.first_lifted, response.done = progress.first_touched or "", progress.success
        return response


class _Drive:
    """The trajectories that one arm and its gripper follow."""

    def __init__(self, arm: SimArm) -> None:
        self.arm, self._sim = arm.arm, arm
        self.joints, self.finger = TrajectoryFollower(HOME_Q), TrajectoryFollower(np.array([OPEN]))

    def home(self) -> None:
        """Stay at home, with the hand open."""
        self.joints.hold(HOME_Q)
        self.finger.hold(np.array([OPEN]))

    def advance(self, now: float) -> None:
        """Set the servos' targets at `now`, s."""
        self._sim.command(self.joints.at(now)[0])
        self._sim.grip(2.0 * float(self.finger.at(now)[0][0]))


class _Camera:
    """A rendered camera. No sensor gives the same frame twice, and one that does counts as frozen: a bit of noise."""

    def __init__(self, node: Node, name: str, intrinsics: CameraIntrinsics) -> None:
        self.name, self.intrinsics, self._frame_count = name, intrinsics, 0
        self._topics = CameraPublisher(node, name)

    def publish_color(self, rgb: np.ndarray, stamp: float) -> None:
        """Publish colour uint8 [H, W, 3] of time `stamp`, s, and the camera's intrinsics."""
        self._frame_count += 1
        rgb = rgb.copy()
        rgb[0, self._frame_count % rgb.shape[1]] ^= 1
        self._topics.publish_color(rgb, self.intrinsics, stamp)

    def publish_depth(self, depth: np.ndarray, stamp: float) -> None:
        """Publish depth float [H, W] m of time `stamp`, s, where it is subscribed."""
        if self._topics.wants_depth:
            self._topics.publish_depth(conversions.millimetres(depth), stamp)


def _sleep_until(due: float) -> float:
    """Sleep until `due` on the monotonic clock, s; returns `due`, or now where it has already passed."""
    now = time.monotonic()
    time.sleep(max(0.0, due - now))
    return max(due, now)


def _pose(position: np.ndarray, quaternion: np.ndarray) -> Pose:
    x, y, z = map(float, position)
    qw, qx, qy, qz = map(float, quaternion)  # MuJoCo puts w first
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def _hand(arm: SimArm) -> Pose:
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, arm.tcp_rotation.ravel())
    return _pose(arm.tcp_position, quaternion)


def main() -> None:
    """Start the node."""
    run(SimNode)


if __name__ == "__main__":
    main()
