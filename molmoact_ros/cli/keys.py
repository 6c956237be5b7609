"""`molmoact-ros keys`: keys and permissions of each node for SROS2."""

from __future__ import annotations

import argparse
from pathlib import Path

from molmoact_ros.bringup.security import make_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("keystore", type=Path, help="folder of the keystore; a new one, or one to add to")
    parser.add_argument("--namespace", default="/", help="of the robot's nodes, such as /left")


def run(args: argparse.Namespace) -> int:
    """Create the keystore."""
    enclaves = make_keys(args.keystore, args.namespace)
    print(f"keystore {args.keystore} with the enclaves {', '.join(enclaves)}; docs/security.md says how to start nodes")
    return 0
