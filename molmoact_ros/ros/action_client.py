"""An action client for nodes that run more threads than the executor's."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.action import ActionClient
from rclpy.task import Future


class ThreadsafeActionClient(ActionClient):
    """An ActionClient whose goals any thread may send and cancel; responses arrive on the executor's thread.

    rclpy (Jazzy's 7.1) sends a goal request before it registers the request's sequence number, so on another thread the
    response may arrive in between. rclpy then drops it as unknown, and the goal's future never completes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sending = threading.Lock()
        super().__init__(*args, **kwargs)

    def send_goal_async(self, *args: Any, **kwargs: Any) -> Future:
        """See ActionClient.send_goal_async."""
        with self._sending:
            return super().send_goal_async(*args, **kwargs)

    def _cancel_goal_async(self, *args: Any, **kwargs: Any) -> Future:
        """Cancel a goal; its goal handle calls this."""
        with self._sending:
            return super()._cancel_goal_async(*args, **kwargs)

    async def execute(self, taken_data: dict[str, Any]) -> None:
        """See ActionClient.execute; waits until the goals in flight are registered."""
        with self._sending:
            pass  # not while callbacks run, which may send another goal
        await super().execute(taken_data)
