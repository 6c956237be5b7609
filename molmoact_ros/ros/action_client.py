"""An action client for nodes with more threads than the executor's."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.action import ActionClient
from rclpy.task import Future


class ThreadsafeActionClient(ActionClient):
    """One whose goals may be sent and cancelled on any thread; answers come on the executor's.

    rclpy (Jazzy's 7.1) sends a goal before it notes whose it is, so an answer may come before that on another thread.
    It is then taken for nobody's and dropped, and the goal's future is never done.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sending = threading.Lock()
        super().__init__(*args, **kwargs)

    def send_goal_async(self, *args: Any, **kwargs: Any) -> Future:
        """As ActionClient's."""
        with self._sending:
            return super().send_goal_async(*args, **kwargs)

    def _cancel_goal_async(self, *args: Any, **kwargs: Any) -> Future:
        """What a goal's handle cancels it with."""
        with self._sending:
            return super()._cancel_goal_async(*args, **kwargs)

    async def execute(self, taken_data: dict[str, Any]) -> None:
        """As ActionClient's, once the goals that are being sent have been noted."""
        with self._sending:
            pass  # not while callbacks run, which may send another goal
        await super().execute(taken_data)
