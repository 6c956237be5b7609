"""rclpy helpers that several nodes share: QoS, parameters, polling, lifecycle, conversions.

To import it, or another room that imports rclpy, ends the process in one line where the middleware is not installed.
"""

from molmoact_ros.utils.ros_environment import stop_without_middleware

stop_without_middleware()
