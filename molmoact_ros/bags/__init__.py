"""Recorded episodes: MCAP bags of all published messages, written and read without ROS."""
