"""`ros2 launch molmoact_ros crisp.launch.py robot_ip:=172.16.0.2`: the profile crisp, and the bringup of crisp's demos.

Without crisp_controllers_robot_demos here, only our nodes start: the robot is then brought up elsewhere.
"""

from launch import LaunchDescription

from molmoact_ros.bringup.launch_description import describe, driver


def generate_launch_description() -> LaunchDescription:
    arguments = {
        "robot_ip": ("172.16.0.2", "the robot's address in its own network"),
        "load_gripper": ("true", "whether the Franka Hand is mounted"),
        "use_fake_hardware": ("false", "ros2_control's mock components in place of a robot"),
    }
    robot = driver("crisp_controllers_robot_demos", "franka.launch.py", arguments, {"arm_id": "fr3"}, [])
    return describe("crisp", robot)
