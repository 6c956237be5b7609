"""Send an instruction to a running graph, and wait until it has ended. The arm moves.

    molmoact-ros up sim        # in another terminal
    python examples/3_send_an_instruction.py ["pick up the blue ball" [20.0]]

The instruction, and the seconds after which it ends. Whether the task is done is for you to see.
"""

import sys
from typing import Any

import rclpy
from rclpy.action import ActionClient

from molmoact_ros.action import ExecuteInstruction

instruction = sys.argv[1] if len(sys.argv) > 1 else "put the red cube in the bowl"
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0


def show(message: Any) -> None:
    """Several times a second: which plan is being played, and how far it is."""
    feedback = message.feedback
    print(f"{feedback.elapsed:5.1f} s: plan {feedback.plan_id}, {feedback.progress:4.0%} played")


rclpy.init()
node = rclpy.create_node("instructor")
client = ActionClient(node, ExecuteInstruction, "policy/execute")
client.wait_for_server()
# The policy starts the controller when it accepts a goal; the controller holds when the goal ends.
sending = client.send_goal_async(ExecuteInstruction.Goal(instruction=instruction, timeout=seconds), show)
rclpy.spin_until_future_complete(node, sending)
if not sending.result().accepted:
    sys.exit("the policy did not accept the instruction; its log says why")
waiting = sending.result().get_result_async()
rclpy.spin_until_future_complete(node, waiting)
result = waiting.result().result
print(f"ended after {result.elapsed:.1f} s and {result.plans} plans (code {result.code}): {result.message}")
rclpy.shutdown()
