"""A profile as a launch description, for workstations that have `launch` (apt package ros-jazzy-launch-ros)."""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import SetEnvironmentVariable
from launch_ros.actions import Node

from molmoact_ros.nodes.bringup import Profile, environment


def describe(profile: str) -> LaunchDescription:
    """The nodes of a profile with their parameters, and the environment they need."""
    read = Profile.read(profile)
    variables = [SetEnvironmentVariable(name, value) for name, value in environment(read.environment).items()]
    nodes = [
        Node(package="molmoact_ros", executable=name, name=name, parameters=[parameters], output="screen")
        for name, parameters in read.nodes.items()
    ]
    return LaunchDescription([*variables, *nodes])
