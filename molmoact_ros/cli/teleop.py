"""`molmoact-ros teleop`: a keyboard, joystick, SpaceMouse or leader arm takes over from the policy."""

from __future__ import annotations

import argparse
from typing import Final

from molmoact_ros.cli.run_node import ARMS, run_node

TOPICS: Final = {"joystick": "joy", "spacemouse": "twist", "leader": "topic"}
"""The parameter of each device's node that names its topic."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument(
        "device", choices=["keyboard", *TOPICS],
        help="joystick: what ros joy_node publishes at joy; spacemouse: spacenav's twist; leader: another arm's joints",
    )  # fmt: skip
    parser.add_argument("--topic", help="of the device, where it is not the driver's own")
    parser.add_argument("--arm", choices=["left", "right", "both"], help="of two arms; both: one after the other")
    parser.add_argument("--controller", default="controller", help="node name of the controller")
    parser.add_argument("--in-tool", action="store_true", help="directions are the hand's own, not the base's")


def run(args: argparse.Namespace) -> int:
    """Run the device's node in the foreground."""
    parameters = {"controller": args.controller, "arms": ARMS[args.arm], "in_tool": args.in_tool}
    if args.topic and args.device not in TOPICS:
        raise ValueError("a keyboard has no topic; leave --topic out")
    topic = {TOPICS[args.device]: args.topic} if args.topic else {}
    return run_node(args.device, parameters | topic)
