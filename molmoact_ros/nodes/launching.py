"""A profile as a launch description, for workstations that have `launch` (apt package ros-jazzy-launch-ros)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from launch import LaunchDescription
from launch.actions import SetEnvironmentVariable
from launch_ros.actions import Node

from molmoact_ros.nodes.bringup import Profile, environment, write_parameters


def describe(profile: str) -> LaunchDescription:
    """The nodes of a profile with their parameters, and the environment they need."""
    read = Profile.read(profile)
    variables = [SetEnvironmentVariable(name, value) for name, value in environment(read.environment).items()]
    # As files: launch would read the text "031422250347", a serial number, as a number.
    folder = Path(tempfile.mkdtemp(prefix="molmoact-"))
    files = {name: str(write_parameters(folder, name, parameters)) for name, parameters in read.nodes.items()}
    nodes = [
        Node(package="molmoact_ros", executable=name, name=name, parameters=[file], output="screen")
        for name, file in files.items()
    ]
    return LaunchDescription([*variables, *nodes])
