"""How every node's process starts and ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from molmoact_ros.nodes.managed import ManagedNode

TURN: Final = 0.0005
"""s after which a thread that waits for Python is let in. The default, 5 ms, is longer than a pass of an engine."""


def run(make: Callable[[], Node | Sequence[Node]], turn: float = TURN) -> None:
    """Spin a node, or several in one process, until SIGINT or SIGTERM. turn: as TURN.

    A node that cannot start says why in one line; the exit status is then 1.
    """
    # rclpy's own handler would invalidate the context while a node's threads still publish.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    sys.setswitchinterval(turn)
    nodes: Sequence[Node] = []
    try:
        made = make()
        nodes = [made] if isinstance(made, Node) else made
        for node in nodes:
            if isinstance(node, ManagedNode) and node.config.autostart:
                node.begin()
        _spin(nodes)
    except KeyboardInterrupt:
        pass
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        for node in nodes:
            node.destroy_node()
        rclpy.shutdown()


def _spin(nodes: Sequence[Node]) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    # Not the EventsExecutor, which jitters less: in the Jazzy wheels (rclpy 7.1.6) it never answers a service.
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    while not ended.is_set():
        executor.spin_once(timeout_sec=0.2)
