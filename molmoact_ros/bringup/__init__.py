"""Profiles, node processes, the launch description and a client that runs episodes."""

from molmoact_ros import ros as ros  # looks at the middleware, before the first import of rclpy
