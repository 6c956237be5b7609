"""How every node's process starts and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.experimental import EventsExecutor
from rclpy.node import Node


def run(make_node: Callable[[], Node]) -> None:
    """Spin one node until SIGINT or SIGTERM. A node that cannot start says so in one line; the exit status is then 1."""
    rclpy.init()
    node = None
    try:
        node = make_node()
        # Jitters less than the other executors, and does not poll.
        executor = EventsExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
