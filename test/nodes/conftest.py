"""Real processes over real ROS: each test has a domain of its own, and a small real checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor

from molmoact_ros.engine.depth_vq import DepthVq
from molmoact_ros.engine.model import MolmoAct
from molmoact_ros.learn.nano import nano_config, save_nano
from molmoact_ros.learn.tokenizer import build_tokenizer
from molmoact_ros.nodes.bringup import environment
from molmoact_ros.reasoning.actions import ACTION_SYMBOLS, N_BINS, NormStats
from molmoact_ros.reasoning.phrasing import NEXT_VALUE

PATIENCE = 30.0
"""Seconds after which something that should happen has not; far longer than it takes."""

DOMAINS = (1 + (os.getpid() + i) % 100 for i in range(100))
"""1..100, begun at a place that differs between runs at the same time."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano's architecture with seeded random weights: it says well-formed nonsense, with small motions.

    Symbols of negative values get the score 0, so that one of the 128 others wins and the gripper's value is in 0..1.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    small, turn = 0.004, 0.01
    high = (small, small, small, turn, turn, turn, 1.0)
    low = tuple(-value for value in high[:6]) + (0.0,)
    config = nano_config(tokenizer, NormStats(q01=low, q99=high, mask=(True,) * 7))
    folder, model = tmp_path_factory.mktemp("checkpoint"), MolmoAct(config)
    symbols = [lead + symbol for symbol in ACTION_SYMBOLS[: N_BINS // 2] for lead in ("", NEXT_VALUE)]
    negative = [tokenizer.encode(symbol).ids[-1] for symbol in symbols]
    with torch.no_grad():
        model.lm_head.weight[negative] = 0.0
    save_nano(folder, model, tokenizer, DepthVq(hidden=4, dim=16))
    return folder


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    """A ROS domain that no other module of tests uses, set for this process and its children."""
    number = next(DOMAINS)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment({"ROS_DOMAIN_ID": str(number)}).items():
            patch.setenv(name, value)
        yield number


class Peer:
    """A node of the test's own."""

    def __init__(self) -> None:
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


@pytest.fixture(scope="module")
def peer(domain: int) -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()
