"""Goals sent on another thread than the one that takes the answers."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from rclpy.action import ActionServer

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.ros.action_client import ThreadsafeActionClient

from .conftest import PATIENCE, Peer


class Slow:
    """The middleware's side of a client, which returns from sending only after the answer has come."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def send_goal_request(self, request: Any) -> Any:
        number = self._handle.send_goal_request(request)
        time.sleep(0.3)
        return number


def test_an_answer_that_comes_before_sending_returns_is_heard(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(goal: Any) -> ExecuteInstruction.Result:
        goal.succeed()
        return ExecuteInstruction.Result(message="done")

    server = ActionServer(peer.node, ExecuteInstruction, "/answers", execute)
    client = ThreadsafeActionClient(peer.node, ExecuteInstruction, "/answers")
    assert peer.until(client.server_is_ready)
    monkeypatch.setattr(client, "_client_handle", Slow(client._client_handle))
    heard: list[str] = []

    def accepted(sent: Any) -> None:
        sent.result().get_result_async().add_done_callback(lambda done: heard.append(done.result().result.message))

    def send() -> None:
        client.send_goal_async(ExecuteInstruction.Goal(instruction="put")).add_done_callback(accepted)

    sender = threading.Thread(target=send)
    sender.start()
    assert peer.until(lambda: heard == ["done"], PATIENCE)
    sender.join()
    client.destroy()
    server.destroy()
