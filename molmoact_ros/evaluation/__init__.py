"""Rollouts and their metrics, without ROS."""
