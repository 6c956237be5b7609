"""A profile as a launch description, for workstations that have `launch` (apt package ros-jazzy-launch-ros)."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from molmoact_ros.bringup.processes import write_parameters
from molmoact_ros.bringup.profiles import SHOWING, Profile, environment
from molmoact_ros.bringup.security import enclave_arguments

ARGUMENTS: dict[str, tuple[str, list[str] | None, str]] = {
    "checkpoint": ("policy", None, "folder of the checkpoint; empty: the nano model"),
    "backend": ("policy", ["torch", "vllm", "server"], "what runs the model"),
    "server": ("policy", None, "with backend:=server, its address"),
    "robot_address": ("controller", None, "the robot's address in its own network"),
}
"""Launch arguments: for each, the node whose parameter it sets, its permitted values, and its description. A profile
offers those that it names."""

RESPAWN_DELAY: Final = 2.0
"""s after which a display node is restarted."""


def driver(
    package: str,
    file: str,
    arguments: Mapping[str, tuple[str, str]],
    fixed: Mapping[str, str],
    controllers: Sequence[str],
) -> list[Any]:
    """A robot's bringup by another package: its launch file, and spawners of ros2_control's `controllers`.

    arguments: default and description of each argument that is passed on; fixed: arguments of the launch file that are
    not the user's. Where the package is not installed, a line says so in its place.
    """
    try:
        launch_file = Path(get_package_share_directory(package)) / "launch" / file
    except (PackageNotFoundError, OSError):  # OSError: no ROS installation is sourced
        return [LogInfo(msg=f"{package} is not installed here: bring the robot up elsewhere (docs/sinks.md)")]
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=about)
        for name, (default, about) in arguments.items()
    ]
    given = {**{name: LaunchConfiguration(name) for name in arguments}, **fixed}
    include = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(launch_file)), launch_arguments=given.items())
    spawners = [
        Node(package="controller_manager", executable="spawner", arguments=[name], output="screen")
        for name in controllers
    ]
    return [*declared, include, *spawners]


def describe(profile: str, robot: Sequence[Any] = ()) -> LaunchDescription:
    """The nodes of a profile with their parameters, its launch arguments, and their environment; robot: as `driver`."""
    read = Profile.read(profile)
    variables = [SetEnvironmentVariable(name, value) for name, value in environment(read.environment).items()]
    arguments = {
        name: DeclareLaunchArgument(
            name, default_value=str(read.nodes[node][name]), description=about, **({"choices": among} if among else {})
        )
        for name, (node, among, about) in ARGUMENTS.items()
        if name in read.nodes.get(node, {})
    }
    # As files: launch would parse the text "031422250347", a serial number, as a number.
    folder = Path(tempfile.mkdtemp(prefix="molmoact-"))

    def parameters(node: str) -> list[Any]:
        asked = {name: ParameterValue(LaunchConfiguration(name), value_type=str) for name in arguments}
        of_node = {name: value for name, value in asked.items() if ARGUMENTS[name][0] == node}
        return [str(write_parameters(folder, node, read.nodes[node])), *([of_node] if of_node else [])]

    # The nodes end with `ros2 launch`, however that ends.
    tied = f"{shlex.quote(sys.executable)} -m molmoact_ros.utils.child_process"
    nodes = [
        Node(
            package="molmoact_ros", executable=name, name=name, parameters=parameters(name), output="screen",
            ros_arguments=enclave_arguments(name), prefix=tied, respawn=name in SHOWING, respawn_delay=RESPAWN_DELAY,
        )
        for name in read.nodes
    ]  # fmt: skip
    return LaunchDescription([*arguments.values(), *robot, *variables, *nodes])
