"""Watch the plans of a running graph: the trace on the front image, and the actions, until Ctrl-C.

    molmoact-ros up sim                          # in another terminal
    python examples/2_watch_a_plan.py
    python examples/3_send_an_instruction.py     # in a third one

Without an instruction there are no plans.
"""

from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException

from molmoact_ros.msg import ActionChunk, Trace


def show_trace(trace: Trace) -> None:
    """The points are fractions of the image's width and height; the first is the gripper now."""
    points = " -> ".join(f"({x:.2f}, {y:.2f})" for x, y in zip(trace.x, trace.y, strict=True))
    drawn_by = "an operator" if trace.source == Trace.HUMAN else "the model"
    print(f"plan {trace.plan_id}: trace by {drawn_by}: {points}")


def show_chunk(chunk: ActionChunk) -> None:
    """The actions of a chunk are one list, action after action: dx dy dz, droll dpitch dyaw, gripper."""
    print(f"plan {chunk.plan_id}: {chunk.steps} actions of {chunk.dt:.2f} s")
    for step in range(chunk.steps):
        values = chunk.actions[step * chunk.dimensions : (step + 1) * chunk.dimensions]
        print("  " + " ".join(f"{value:8.4f}" for value in values))


rclpy.init()
node = rclpy.create_node("watcher")
node.create_subscription(Trace, "policy/trace", show_trace, 10)
node.create_subscription(ActionChunk, "policy/action_chunk", show_chunk, 10)
with suppress(KeyboardInterrupt, ExternalShutdownException):  # Ctrl-C, or a signal
    rclpy.spin(node)
