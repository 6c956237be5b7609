"""`molmoact-ros home`: the arm moves to its start position, slowly, while the command runs."""

from __future__ import annotations

import argparse

import rclpy
from rclpy.signals import SignalHandlerOptions

from molmoact_ros.bringup.profiles import use_environment
from molmoact_ros.bringup.security import enclave_arguments
from molmoact_ros.cli.run_node import ARMS
from molmoact_ros.nodes.teleop.client import TeleopClientConfig
from molmoact_ros.nodes.teleop.home import HomeClient

ABOUT = """The arm moves in a straight line in joint space to the controller's parameter `home_position`, slowly
(`home_speed`, a fraction of its velocity limits) and inside every limit of the controller. It moves only while this
command runs: Ctrl-C, a closed terminal, STOP and every fault stop it. Look first whether the way is free: the
controller knows the arm and the table, and nothing else. It is refused, with the reason, while the policy or somebody
else moves the arm, and after a stop until that is reset."""
EXAMPLES = """examples:
  molmoact-ros home
  molmoact-ros home --arm both
  ros2 param get /controller home_position      (rad; set it in your profile: controller: {home_position: [...]})
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.description, parser.epilog = ABOUT, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--arm", choices=["left", "right", "both"], help="of two arms; both: at the same time")
    parser.add_argument("--controller", default="controller", help="node name of the controller")
    parser.add_argument("--timeout", type=float, default=120.0, help="time for the way, s (default: 120)")


def run(args: argparse.Namespace) -> int:
    """Send the arm home; returns 0 once it is there. Whatever ends this lets go of it."""
    use_environment()
    rclpy.init(args=["--ros-args", *enclave_arguments("home")], signal_handler_options=SignalHandlerOptions.NO)
    client = HomeClient(TeleopClientConfig(controller=args.controller, arms=ARMS[args.arm]))
    try:
        print(client.run(args.timeout, lambda line: print(line, flush=True)))
    finally:
        client.release()
        client.destroy_node()
        rclpy.try_shutdown()
    return 0
