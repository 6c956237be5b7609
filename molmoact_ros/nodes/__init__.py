"""ROS nodes: adapters between the packages above and parameters, topics, time and lifecycle."""
