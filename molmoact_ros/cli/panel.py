"""`molmoact-ros panel`: the web page."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.cli.run_node import ARMS, run_node
from molmoact_ros.utils.arguments import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--host", help="address to serve on, default 127.0.0.1; any other one asks for a token")
    parser.add_argument("--port", type=whole_number(0, 65535), help="TCP port, default 8088")
    parser.add_argument("--token-file", help="file that holds the token; default: one in ~/.config/molmoact_ros")
    parser.add_argument("--profile", help="take the parameters of this profile's panel, such as its suggestions")
    parser.add_argument("--arm", choices=["left", "right", "both"], help="of two arms, those that are jogged")


def run(args: argparse.Namespace) -> int:
    """Serve the page in the foreground."""
    if find_spec("aiohttp") is None:
        raise RuntimeError("the panel needs aiohttp; run: pip install 'molmoact_ros[panel]'")
    parameters = Profile.read(args.profile).nodes.get("panel", {}) if args.profile else {}
    chosen = {"host": args.host, "port": args.port, "arms": ARMS[args.arm] if args.arm else None}
    if args.token_file:
        chosen["token_file"] = str(Path(args.token_file).resolve())
    return run_node("panel", parameters | {name: value for name, value in chosen.items() if value is not None})
