"""Real processes over real ROS: each test has a domain of its own, and a small real checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from molmoact_ros.engine.checkpoint import save_checkpoint
from molmoact_ros.engine.depth_vq import DepthVq
from molmoact_ros.engine.model import MolmoAct
from molmoact_ros.learn.nano import nano_config
from molmoact_ros.learn.tokenizer import build_tokenizer
from molmoact_ros.nodes.bringup import environment
from molmoact_ros.reasoning.actions import NormStats

PATIENCE = 30.0
"""Seconds after which something that should happen has not; far longer than it takes."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano's architecture with seeded random weights: it says well-formed nonsense, with small motions."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    small, turn = 0.004, 0.01
    high = (small, small, small, turn, turn, turn, 1.0)
    low = tuple(-value for value in high[:6]) + (0.0,)
    config = nano_config(tokenizer, NormStats(q01=low, q99=high, mask=(True,) * 7))
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, MolmoAct(config), tokenizer, DepthVq(hidden=4, dim=16))
    return folder


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch, worker_domains: Iterator[int]) -> int:
    """A ROS domain that no other test uses, set for this process and its children."""
    number = next(worker_domains)
    for name, value in environment({"ROS_DOMAIN_ID": str(number)}).items():
        monkeypatch.setenv(name, value)
    return number


@pytest.fixture(scope="session")
def worker_domains() -> Iterator[int]:
    """Domains 1..100, begun at a place that differs between runs at the same time."""
    first = os.getpid()
    return (1 + (first + i) % 100 for i in range(100))


class Peer:
    """A node of the test's own."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def until(self, happened: Callable[[], Any], patience: float = PATIENCE) -> bool:
        """Spin until `happened()` is true; False when it never was."""
        deadline = time.monotonic() + patience
        while not happened():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def spin(self, seconds: float) -> None:
        """Let messages come in for a while."""
        self.until(lambda: False, seconds)

    def listen(self, kind: type, topic: str, qos: Any) -> list[Any]:
        """A list to which each message of a topic will be added."""
        heard: list[Any] = []
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def call(self, kind: Any, name: str, **request: Any) -> Any:
        """The answer of a service, which must come."""
        client = self.node.create_client(kind, name)
        assert self.until(client.service_is_ready), f"no service {name}"
        future = client.call_async(kind.Request(**request))
        assert self.until(future.done), f"{name} did not answer"
        self.node.destroy_client(client)
        return future.result()

    def now(self) -> float:
        return float(self.node.get_clock().now().nanoseconds * 1e-9)


@pytest.fixture
def peer(domain: int) -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()
