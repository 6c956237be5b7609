"""Messages that are asked for, and nodes with a thread of their own, over real ROS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import rclpy
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message
from std_msgs.msg import String

from molmoact_ros.bringup.profiles import environment
from molmoact_ros.nodes.recorder import ros_time
from molmoact_ros.ros import qos
from molmoact_ros.ros.background_node import BackgroundNode
from molmoact_ros.ros.polling import LazyPollingSubscription, PollingSubscription, Taken

from .conftest import PATIENCE, Peer


def said(taken: list[Taken]) -> list[str]:
    return [deserialize_message(data, String).data for data, _, _ in taken]


def test_messages_wait_until_they_are_asked_for_and_wake_nobody(peer: Peer) -> None:
    out = peer.node.create_publisher(String, "/words", qos.RELIABLE)
    polled = PollingSubscription(peer.node, String, "/words", qos.RELIABLE)
    assert peer.until(lambda: out.get_subscription_count() == 1)
    began = time.time_ns()
    for word in "one", "two", "three":
        out.publish(String(data=word))
    peer.spin(0.5)  # an executor that were woken would have taken them
    now, taken = time.time_ns(), polled.take_serialized()
    assert said(taken) == ["one", "two", "three"]
    stamps = [heard for _, heard, _ in taken]
    assert began <= stamps[0] <= stamps[1] <= stamps[2] <= now - 0.3e9, "stamped when heard, not when taken"
    assert polled.take_serialized() == []
    polled.close()
    assert peer.until(lambda: out.get_subscription_count() == 0)


@given(st.lists(st.integers(0, 10**8), min_size=2), st.integers(1, 10**15), st.floats(0, 100))
def test_a_simulated_clocks_stamps_keep_the_order(steps: list[int], first: int, rate: float) -> None:
    """Whatever the simulated clock's rate, messages of one take and of the next come out in the order of hearing."""
    machine, clock, out = 1_700_000_000_000_000_000, first, list[int]()
    for step in steps:
        since, machine, clock = (machine, clock), machine + step, clock + round(rate * step)
        between = (since[0], (since[0] + machine) // 2, machine)
        out += [ros_time(heard, since, (machine, clock)) for heard in between]
    assert out == sorted(out) and out[0] == first and out[-1] == clock
    assert ros_time(5, (0, 0), (10, 77)) == 77, "there was no clock yet"


def test_one_that_nobody_wants_is_not_there(peer: Peer) -> None:
    out = peer.node.create_publisher(String, "/more_words", qos.SENSOR)
    polled = LazyPollingSubscription(peer.node, String, "/more_words", qos.SENSOR)
    assert polled.take_serialized() == [] and out.get_subscription_count() == 0
    polled.want(True)
    assert peer.until(out.get_subscription_count)
    for word in "old", "new":
        out.publish(String(data=word))
    assert peer.until(lambda: "new" in said(polled.take_serialized()))
    polled.want(False)
    assert peer.until(lambda: out.get_subscription_count() == 0) and polled.take_serialized() == []


def test_m6_a_message_that_is_too_large_is_left_out_unread(peer: Peer) -> None:
    out = peer.node.create_publisher(String, "/long_words", qos.RELIABLE)
    polled = PollingSubscription(peer.node, String, "/long_words", qos.RELIABLE, largest=1000)
    assert peer.until(lambda: out.get_subscription_count() == 1)
    for word in ("one", "x" * 1_000_000, "two"):
        out.publish(String(data=word))
    heard: list[str] = []

    def all_heard() -> bool:
        heard.extend(message.data for message in polled.messages())
        return len(heard) > 1

    assert peer.until(all_heard) and heard == ["one", "two"]
    assert polled.refusal.endswith("bytes on /long_words are refused; at most 1000 are read")
    polled.close()


def test_a_node_with_a_thread_of_its_own_hears_while_its_user_sleeps(peer: Peer) -> None:
    out, heard = peer.node.create_publisher(String, "/call", qos.STATE), list[str]()
    context = rclpy.Context()
    rclpy.init(context=context)
    node = BackgroundNode("background", context)
    node.create_subscription(String, "/call", lambda message: heard.append(message.data), qos.STATE)
    node.begin()
    out.publish(String(data="hello"))
    deadline = time.monotonic() + PATIENCE
    while not heard and time.monotonic() < deadline:
        time.sleep(0.01)
    node.close()
    context.try_shutdown()
    assert heard == ["hello"]


def test_what_destroys_something_runs_between_callbacks_and_on_their_thread(domain: int) -> None:
    """Elsewhere rclpy's executor may be waiting for what is destroyed, and ends by InvalidHandle."""
    context, threads = rclpy.Context(), list[int]()
    rclpy.init(context=context)
    node = BackgroundNode("background", context)
    node.create_timer(0.001, lambda: threads.append(threading.get_ident()))
    node.begin()
    try:
        publisher, where = node.create_publisher(String, "/words", qos.RELIABLE), list[int]()
        node.between_callbacks(lambda: node.destroy_publisher(publisher))
        node.between_callbacks(lambda: where.append(threading.get_ident()))
        with pytest.raises(ZeroDivisionError):
            node.between_callbacks(lambda: 1 / 0)
        before, deadline = len(threads), time.monotonic() + PATIENCE
        while len(threads) == before and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        node.close()
        context.try_shutdown()
    assert len(threads) > before
    assert set(threads) == set(where)


def test_a_signal_ends_an_episodes_client_as_it_ends_any_program(domain: int, tmp_path: Path) -> None:
    """Not by an error of rclpy's in the midst of what it does."""
    program = "\n".join(
        (
            "from molmoact_ros.bringup.episode_client import Session",
            "with Session() as client:",
            "    print('up', flush=True)",
            "    while True:",
            "        client._spin(0.1)",
        )
    )
    for number in signal.SIGTERM, signal.SIGINT:
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=environment(dict(os.environ)), cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == -number and "ExternalShutdown" not in error
