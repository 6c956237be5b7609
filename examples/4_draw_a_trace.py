"""Draw a trace, as an operator does in the panel: the next plan follows it.

    molmoact-ros up sim        # in another terminal
    python examples/4_draw_a_trace.py

The arm stands, since nobody tells the controller to start.
"""

import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String

from molmoact_ros.msg import EngineStatus, Trace
from molmoact_ros.srv import EditTrace

rclpy.init()
node = rclpy.create_node("drawer")
newest = {"image": None, "status": EngineStatus(), "trace": Trace()}
node.create_subscription(Image, "front/color/image_raw", lambda m: newest.update(image=m), qos_profile_sensor_data)
node.create_subscription(EngineStatus, "policy/engine_status", lambda m: newest.update(status=m), 10)
node.create_subscription(Trace, "policy/trace", lambda m: newest.update(trace=m), 10)
instruct = node.create_publisher(String, "policy/instruction", 10)
edit_trace = node.create_client(EditTrace, "policy/edit_trace")
edit_trace.wait_for_service()
# An instruction on the topic makes plans and moves nothing. A trace belongs to an instruction.
while not newest["status"].instruction or newest["image"] is None:
    instruct.publish(String(data="pick up the red cube"))
    rclpy.spin_once(node)
# Points are fractions of the front image's width and height; the header says on which image they were drawn.
trace = Trace(header=newest["image"].header, x=[0.5, 0.6, 0.7], y=[0.5, 0.55, 0.5])
answer = edit_trace.call_async(EditTrace.Request(trace=trace))
rclpy.spin_until_future_complete(node, answer)
while answer.result().success and newest["trace"].source != Trace.HUMAN:
    rclpy.spin_once(node)
print(answer.result().message or f"plan {newest['trace'].plan_id} follows the drawn trace")
while newest["status"].instruction:  # an empty instruction ends the task
    instruct.publish(String())
    rclpy.spin_once(node)
rclpy.shutdown()
