"""ROS adapters: parameters, topics, time, life cycle. All of rclpy is here."""
