"""Velocities on the wire: bounded in every message, and zero in the end whatever the rest of the process does."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from molmoact_ros.nodes.control.arm_sinks import make_sink
from molmoact_ros.nodes.control.velocity_sink import ACCELERATION
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, HOME_Q, Arm
from molmoact_ros.ros import qos
from molmoact_ros.ros.polling import PollingSubscription

from .conftest import Peer
from .driven import VELOCITY, command, connected

TOPIC = "/forward_velocity_controller/commands"
PERIOD = 0.01
STEP = ACCELERATION * 10.0 * PERIOD + 1e-9
"""rad/s between two messages of one stream of 100 Hz."""
F_SETPIPE_SZ = 1031


def steps(heard: list[Any]) -> float:
    """The greatest change between two messages, from rest on."""
    return float(np.abs(np.diff([np.zeros(7), *(np.array(m.data) for m in heard)], axis=0)).max())


def test_forward_velocity_pulls_back_and_ramps_to_zero(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(Float64MultiArray, TOPIC, qos.RELIABLE)
    sink: Any = make_sink("forward_velocity", node(), Arm())

    def sent(wanted: np.ndarray) -> bool:
        sink.send(command())
        return bool(heard) and np.allclose(heard[-1].data, wanted)

    assert peer.until(lambda: sent(VELOCITY)), "nothing is measured"
    assert peer.until(lambda: heard and not np.any(heard[-1].data)), "silence"
    assert steps(heard) <= 2 * STEP, "commands every 0.02 s"

    behind = JointState(name=[*Arm().joints], position=(HOME_Q - np.eye(7)[0] * 0.02 - np.eye(7)[1]).tolist())
    publisher = peer.node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
    other = JointState(name=["another_joint"], position=[1.0])

    def pulled() -> bool:
        for said in (behind, other):  # a topic may have several speakers
            publisher.publish(said)
        return sent(VELOCITY + np.eye(7)[0] * 0.04 + np.eye(7)[1] * 0.1)

    assert peer.until(pulled)
    heard.clear()
    sink.close()
    assert peer.until(lambda: heard and not np.any(heard[-1].data))
    assert np.abs(np.diff([m.data for m in heard], axis=0)).max() <= 2 * STEP, "and not at once"
    peer.node.destroy_publisher(publisher)


@pytest.mark.parametrize("seed", range(4))
def test_h4_a_stall_of_the_sender_breaks_no_limit_on_the_wire(peer: Peer, node: Callable[..., Node], seed: int) -> None:
    """A sender that is away for 60 to 200 ms again and again; the measured joints jump, too, so that the pull does."""
    rng, controller = np.random.default_rng(seed), node()
    sink: Any = make_sink("forward_velocity", controller, Arm())
    wire = PollingSubscription(peer.node, Float64MultiArray, TOPIC, qos.KEPT)
    publisher = peer.node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
    connected(peer, controller, TOPIC)
    began, gap = time.monotonic(), 0
    while (now := time.monotonic() - began) < 3.0:
        phase = 2 * np.pi * 0.8 * now + np.arange(7)
        velocity = 1.5 * np.sin(phase)  # up to 7.5 rad/s^2
        sink.send(ArmCommand(HOME_Q, velocity, np.zeros(7), 0.08, PERIOD))
        measured = HOME_Q + rng.choice([-0.5, 0.5], 7)
        publisher.publish(JointState(name=[*Arm().joints], position=measured.tolist()))
        if rng.random() < 0.05:
            gap += 1
            time.sleep(rng.uniform(0.06, 0.2))
        time.sleep(PERIOD)
    sink.close()
    peer.spin(0.2)
    taken = wire.take_serialized()
    heard = [deserialize_message(data, Float64MultiArray) for data, _, _ in taken]
    values, at = np.array([m.data for m in heard]), np.array([sent for _, _, sent in taken]) * 1e-9
    assert gap >= 3 and len(heard) > 100 and np.abs(values).max() > 0.5, "it was driven"
    assert steps(heard) <= STEP and not np.any(values[-1])
    for i in range(len(at)):  # over a tenth of a second, in which the threads' jitter counts for little
        j = int(np.searchsorted(at, at[i] + 0.1))
        if j < len(at):
            assert np.all(np.abs(values[j] - values[i]) <= FR3.acceleration_max * (at[j] - at[i] + 2 * PERIOD))
    peer.node.destroy_publisher(publisher)
    wire.close()


def test_h5_neither_executor_nor_lock_keeps_the_velocity_from_zero(peer: Peer) -> None:
    """The thread that sent commands is stuck for good, and nobody spins the node."""
    heard = peer.listen(Float64MultiArray, TOPIC, qos.RELIABLE)
    stuck = rclpy.create_node("stuck", context=peer.context)
    sink: Any = make_sink("forward_velocity", stuck, Arm())
    lock = threading.Lock()

    def cycle() -> None:
        for _ in range(50):
            sink.send(ArmCommand(HOME_Q, VELOCITY, np.zeros(7), 0.08, PERIOD))
            time.sleep(PERIOD)
        with lock:
            pass

    connected(peer, stuck, TOPIC)
    with lock:
        loop = threading.Thread(target=cycle)
        loop.start()
        assert peer.until(lambda: heard and np.allclose(heard[-1].data, VELOCITY))
        assert peer.until(lambda: not np.any(heard[-1].data)) and loop.is_alive()
        assert sink.fault() == ""
    loop.join()
    sink.close()
    stuck.destroy_node()
    assert steps(heard) <= STEP


class Cell:
    """A controller's process with this sink, the robot behind it, and an operator who moves it."""

    def __init__(self, peer: Peer, stderr: int) -> None:
        self.q, self.velocity, self.heard = HOME_Q.copy(), np.zeros(7), []  # type: ignore[var-annotated]
        self._peer, node = peer, peer.node
        parameters = ["sink:=forward_velocity", "joints_deadline:=1.0", "speed:=0.3", "priority:=0", "keep_stop:=false"]
        options = [option for parameter in parameters for option in ("-p", parameter)]
        command = [sys.executable, "-m", "molmoact_ros.nodes.controller", "--ros-args", *options]
        self.process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL, cwd="/")
        self._listening = node.create_subscription(Float64MultiArray, TOPIC, self._on_velocity, qos.KEPT)
        self._joints = node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
        self._twists = node.create_publisher(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
        self._timer = node.create_timer(PERIOD, self._turn)
        self.moving = False

    def _on_velocity(self, message: Any) -> None:
        self.heard.append(message)
        self.velocity = np.array(message.data)

    def _turn(self) -> None:
        self.q = self.q + self.velocity * PERIOD
        stamp = self._peer.node.get_clock().now().to_msg()
        joints = JointState(name=[*Arm().joints, *Arm().fingers], position=[*self.q, 0.04, 0.04])
        joints.header.stamp = stamp
        self._joints.publish(joints)
        if self.moving:
            twist = TwistStamped()
            twist.header.stamp, twist.twist.linear.z = stamp, 0.15
            self._twists.publish(twist)

    def drive(self) -> None:
        """Until a joint moves. An operator whose stream began before the controller did has to let go once."""
        for _ in range(10):
            self.moving = True
            if self._peer.until(lambda: np.abs(self.velocity).max() > 0.05, 3.0):
                return
            self.moving = False
            self._peer.spin(0.5)
        raise AssertionError(f"the arm does not move: {self.process.poll()}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        node = self._peer.node
        node.destroy_timer(self._timer)
        node.destroy_subscription(self._listening)
        node.destroy_publisher(self._joints)
        node.destroy_publisher(self._twists)


@pytest.fixture
def full(peer: Peer) -> Iterator[tuple[Cell, Callable[[], None]]]:
    """A cell whose log nobody reads, and how to fill what is left of the pipe."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    cell = Cell(peer, writing)

    def fill() -> None:
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, b"x")
        except BlockingIOError:
            pass
        os.set_blocking(writing, True)

    yield cell, fill
    cell.close()
    os.close(reading)
    os.close(writing)


def test_h5_a_log_that_nobody_reads_keeps_neither_the_ramp_nor_stop_waiting(
    peer: Peer, full: tuple[Cell, Callable[[], None]]
) -> None:
    cell, fill = full
    cell.drive()
    fill()
    cell.moving = False  # the state changes, which is logged
    assert peer.until(lambda: not np.any(cell.velocity)), "it came to rest"
    cell.drive()
    assert peer.call(Trigger, "/controller/stop").success, "and stop is answered"
    assert peer.until(lambda: not np.any(cell.velocity))
    assert steps(cell.heard) <= STEP


def test_h5_velocities_end_in_zero_when_the_process_is_told_to_end(peer: Peer) -> None:
    cell = Cell(peer, subprocess.DEVNULL)
    try:
        cell.drive()
        cell.process.send_signal(signal.SIGTERM)  # while the person goes on
        assert peer.until(lambda: cell.process.poll() is not None) and cell.process.returncode == 0
        peer.spin(0.3)
        assert not np.any(cell.velocity) and steps(cell.heard) <= STEP
    finally:
        cell.close()
