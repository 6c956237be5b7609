"""Policy rollouts and their metrics, without ROS."""
