"""A node whose callbacks run on a thread of its own, so that its caller may wait, sleep and start processes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


class BackgroundNode(Node):
    """Subclasses call `begin` once they are fully constructed."""

    def __init__(self, name: str, context: Context | None = None) -> None:
        super().__init__(name, context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)

    def begin(self) -> None:
        """Start the thread that runs the callbacks."""
        self._thread.start()

    def between_callbacks(self, action: Callable[[], object]) -> None:
        """Run `action` on the thread of the callbacks, and wait for it.

        Whatever destroys a publisher, subscription, client or timer goes through it: rclpy's executor raises
        InvalidHandle, and ends, where one vanishes while it waits. Raises what `action` raises.
        """
        done, errors = threading.Event(), list[Exception]()

        def contained() -> None:  # an error would end the executor, too
            try:
                action()
            except Exception as error:
                errors.append(error)
            done.set()

        self._executor.create_task(contained)
        while not done.wait(0.1) and self._thread.is_alive():
            pass
        if errors:
            raise errors[0]

    def close(self) -> None:
        """End the thread and destroy the node."""
        self._executor.shutdown()
        self._thread.join()
        self.destroy_node()
