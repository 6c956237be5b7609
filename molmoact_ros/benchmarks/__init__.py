"""The benchmarks of `molmoact-ros bench`, one file for each."""

from molmoact_ros import ros as ros  # looks at the middleware, before the first import of rclpy
