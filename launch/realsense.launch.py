"""`ros2 launch molmoact_ros realsense.launch.py`: cameras, policy and controller, as the profile realsense has them."""

from launch import LaunchDescription

from molmoact_ros.bringup.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe("realsense")
