"""`molmoact-ros foxglove`: the running nodes' topics in Foxglove."""

from __future__ import annotations

import argparse

from molmoact_ros.cli.run_node import run_node
from molmoact_ros.utils.arguments import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this machine's")
    parser.add_argument("--port", type=whole_number(0, 65535), default=8765)


def run(args: argparse.Namespace) -> int:
    """Run the bridge in the foreground."""
    return run_node("foxglove", {"host": args.host, "port": args.port})
