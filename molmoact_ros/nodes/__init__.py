"""ROS nodes: adapters between the packages above and parameters, topics, time and lifecycle."""

from molmoact_ros import ros as ros  # looks at the middleware, before the first import of rclpy
