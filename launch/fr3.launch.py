"""`ros2 launch molmoact_ros fr3.launch.py robot_address:=172.16.0.2`: a real FR3, as the profile fr3 has it."""

from launch import LaunchDescription

from molmoact_ros.bringup.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe("fr3")
