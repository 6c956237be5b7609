"""`ros2 launch molmoact_ros franka_ros2.launch.py robot_ip:=172.16.0.2`: the profile franka_ros2, and franka_bringup.

Without franka_bringup here, only our nodes start: the robot is then brought up elsewhere, as docs/sinks.md says.
"""

from launch import LaunchDescription

from molmoact_ros.bringup.launch_description import describe, driver
from molmoact_ros.utils.paths import share


def generate_launch_description() -> LaunchDescription:
    arguments = {
        "robot_ip": ("172.16.0.2", "the robot's address in its own network"),
        "joint_state_rate": ("100", "joint states/s on joint_states, which the view shows"),
        "load_gripper": ("true", "whether the Franka Hand is mounted"),
        "use_fake_hardware": ("false", "ros2_control's mock components in place of a robot"),
    }
    fixed = {"robot_type": "fr3", "controllers_yaml": str(share() / "config" / "franka_ros2" / "controllers.yaml")}
    robot = driver("franka_bringup", "franka.launch.py", arguments, fixed, ["fr3_arm_controller"])
    return describe("franka_ros2", robot)
