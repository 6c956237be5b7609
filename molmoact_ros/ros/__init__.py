"""rclpy helpers that several nodes share: QoS, parameters, polling, lifecycle, conversions."""
