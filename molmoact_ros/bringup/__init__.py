"""Profiles, node processes, the launch description and a client that runs episodes."""
