"""`ros2 launch molmoact_ros sim.launch.py`: the simulated workcell, as config/profiles/sim.yaml has it."""

from launch import LaunchDescription

from molmoact_ros.bringup.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe("sim")
