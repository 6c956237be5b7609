"""What the command `replay` takes. Nothing heavy is imported here, so that help is instant."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `molmoact-ros replay` takes."""
    parser.add_argument("bag", type=Path, help="folder of a bag, or its .mcap or .db3 file")
    ways = parser.add_mutually_exclusive_group(required=True)
    for way, text in (
        ("engine", "its pictures into the engine, as fast as it goes"),
        ("control", "its chunks and joint states through the control code"),
        ("graph", "its cameras, joints and instructions onto live topics, through the nodes"),
    ):  # fmt: skip
        ways.add_argument(f"--{way}", dest="way", action="store_const", const=way, help=text)
    parser.add_argument("--report", type=Path, help="write an HTML report with everything in it")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--thresholds", type=Path, help="a YAML file; default: config/replay.yaml")
    parser.add_argument(
        "--remap", action="append", default=[], metavar="FROM:=TO", help="a topic of the bag by another name; repeat"
    )
    parser.add_argument("--namespace", default="", help="of the nodes whose topics are meant, such as /left")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras, front first")
    parser.add_argument("--joint-states", default="/joint_states", help="topic of the joint states")
    parser.add_argument("--policy", default="/policy", help="node name of who planned, such as /expert")
    parser.add_argument("--slop", type=float, default=0.05, help="s between pictures of one moment, at most")
    parser.add_argument("--instruction", default="", help="the task, where the bag does not say it")
    engine = parser.add_argument_group("--engine")
    engine.add_argument("--checkpoint", type=Path, help="checkpoint folder; default: the nano model")
    engine.add_argument("--against", type=Path, help="compare with these answers instead of the recorded ones")
    engine.add_argument("--save", type=Path, help="write the answers here, for --against")
    engine.add_argument("--mode", choices=["full", "grounded", "reuse"], help="instead of the recorded ones")
    engine.add_argument("--period", type=float, default=0.75, help="s between plans of a bag without any")
    engine.add_argument("--device", default="cpu", help="torch device, such as cuda")
    engine.add_argument("--dtype", default="", help="float32, bfloat16 or float16; default: bfloat16 on a GPU")
    engine.add_argument("--unnorm-key", help="statistics that turn answers into actions")
    engine.add_argument("--frame-size", default="", help="as for infer")
    graph = parser.add_argument_group("--graph")
    graph.add_argument("--profile", default="sim", help="whose policy and controller run; its simulator does not")
    graph.add_argument("--rate", type=float, default=1.0, help="times the recorded speed")
    graph.add_argument("--loop", type=int, default=1, help="how often it is played, the clock going on")
    graph.add_argument("--paused", action="store_true", help="begin paused: /player/pause, /player/go_on")
    graph.add_argument("--within", type=float, default=0.2, help="s between plans that are compared")
    graph.add_argument("--out", type=Path, help="a new folder for the new bag and logs; default: runs/replay-<time>")
