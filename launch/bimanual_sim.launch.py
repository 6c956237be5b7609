"""`ros2 launch molmoact_ros bimanual_sim.launch.py`: two simulated arms, as the profile bimanual_sim has it."""

from launch import LaunchDescription

from molmoact_ros.bringup.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe("bimanual_sim")
