"""`molmoact-ros teleop`: a keyboard or a joystick takes over from the policy."""

from __future__ import annotations

import argparse

from molmoact_ros.cli.run_node import ARMS, run_node


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("device", choices=["keyboard", "joystick"], help="joystick: what ros joy_node publishes at joy")
    parser.add_argument("--arm", choices=["left", "right", "both"], help="of two arms; both: one after the other")
    parser.add_argument("--controller", default="controller", help="node name of the controller")
    parser.add_argument("--in-tool", action="store_true", help="directions are the hand's own, not the base's")


def run(args: argparse.Namespace) -> int:
    """Run the device's node in the foreground."""
    parameters = {"controller": args.controller, "arms": ARMS[args.arm], "in_tool": args.in_tool}
    return run_node(args.device, parameters)
