"""How every node's process starts, spins and shuts down."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, Protocol, runtime_checkable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from molmoact_ros.ros.arguments import readable_arguments
from molmoact_ros.ros.discovery import default_discovery
from molmoact_ros.ros.lifecycle import ManagedNode
from molmoact_ros.ros.logging import never_wait
from molmoact_ros.ros.parameters import refuse_misspelt
from molmoact_ros.utils.child_process import ENDING
from molmoact_ros.utils.errors import one_line
from molmoact_ros.utils.ros_environment import check_environment

GIL_SWITCH_INTERVAL: Final = 0.0005
"""GIL switch interval, s. Python's default, 5 ms, is longer than a forward pass of an engine."""
PAUSE: Final = 0.001
"""s of sleep after a callback that raised, so that one that always raises leaves the processor to others."""


@runtime_checkable
class Guarded(Protocol):
    """A node that reacts when one of its callbacks raises."""

    def callback_failed(self, error: Exception) -> None:
        """Called on the executor's thread, before the error is logged. What this raises ends the process in order."""


def run(make: Callable[[], Node | Sequence[Node]], turn: float = GIL_SWITCH_INTERVAL) -> None:
    """Spin a node, or several in one process, until SIGINT, SIGTERM or SIGHUP. turn: as GIL_SWITCH_INTERVAL.

    A callback that raises ends nothing: the error is logged in one line, after nodes that send commands (`Guarded`)
    have been notified, so that they hold what moves. A node that cannot start logs why in one line; the exit status is
    then 1. Discovery covers this machine alone, unless the user has configured it.

    Example:
        run(ControllerNode)
    """
    never_wait()
    try:
        start_rclpy()
    except (ValueError, RuntimeError) as error:
        _end_with(error)
    sys.setswitchinterval(turn)
    signals = _Signals()
    nodes: Sequence[Node] = []
    try:
        made = make()
        nodes = [made] if isinstance(made, Node) else made
        for node in nodes:
            if not isinstance(node, ManagedNode):
                refuse_misspelt(node)
            elif node.config.autostart:
                node.begin()
        signals.starting = False
        _spin(nodes, signals)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if not signals.ended:  # else the error is how a signal surfaces in a library's call
            if not isinstance(error, ValueError | RuntimeError | OSError):
                raise
            _end_with(error)
    finally:
        signals.starting = False
        for node in nodes:
            node.destroy_node()
        rclpy.shutdown()


def start_rclpy() -> None:
    """Initialize rclpy for a node's process. Raises ValueError or RuntimeError where the environment or the node's
    arguments do not let it start."""
    os.environ.update(default_discovery(os.environ))
    check_environment(os.environ)
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder:
        arguments = readable_arguments(sys.argv, Path(folder))
        # rclpy's own handler would invalidate the context while a node's threads still publish.
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)


def _end_with(error: Exception) -> NoReturn:
    print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    sys.exit(1)


class _Signals:
    """Handler of the signals ENDING: it raises while the node starts, later sets a flag, so no callback is cut off."""

    def __init__(self) -> None:
        self.starting, self.ended = True, False
        for number in ENDING:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        starting, self.starting, self.ended = self.starting, False, True
        if starting:
            raise KeyboardInterrupt


def _spin(nodes: Sequence[Node], signals: _Signals) -> None:
    # Not the EventsExecutor, which jitters less: in the Jazzy wheels (rclpy 7.1.6) it never answers a service.
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    while not signals.ended:
        try:
            executor.spin_once(timeout_sec=0.2)
        except ExternalShutdownException:
            return
        except Exception as error:
            _contain(nodes, error)
            time.sleep(PAUSE)


def _contain(nodes: Sequence[Node], error: Exception) -> None:
    # All nodes: an executor does not tell whose callback it was.
    for node in nodes:
        if isinstance(node, Guarded):
            node.callback_failed(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{error!r} at {Path(place.filename).name}:{place.lineno}"
    nodes[0].get_logger().error(f"a callback failed: {what}", throttle_duration_sec=1.0)
