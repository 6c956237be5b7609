"""`replay --graph`: the nodes of a profile on a bag's topics and clock, recorded into a new bag."""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from molmoact_ros.nodes.bringup import Bringup, Profile, use_environment
from molmoact_ros.nodes.controller import ControllerNodeConfig
from molmoact_ros.nodes.policy_config import PolicyConfig
from molmoact_ros.paths import default_checkpoint
from molmoact_ros.replay.recording import Recording

LONGER = 60.0  # s more than the bag that all of it may take
FOLLOWING = 7.0  # rad, which no joint can lag behind: the recorded arm follows the commands of then


def play_through_graph(args: argparse.Namespace, recording: Recording, console: Console) -> Path:
    """The new bag. Raises RuntimeError, with its last line, when a node ends; ValueError for a profile without any."""
    use_environment()
    out = (args.out or Path("runs") / f"replay-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    profile = _profile(args, recording, out)
    begin, end = recording.reader.span_ns
    seconds = args.loop * (end - begin) * 1e-9 / args.rate
    out.mkdir(parents=True)
    with Bringup(profile, out / "logs") as graph, console.status(f"playing {seconds:.0f} s"):
        deadline = time.monotonic() + seconds + LONGER
        player = graph.log("player")
        while "done: the bag is over" not in player.read_text() and (args.paused or time.monotonic() < deadline):
            graph.check()
            if "cannot be played" in player.read_text():
                raise RuntimeError(player.read_text().strip().splitlines()[-1])
            time.sleep(0.2)
    return out / "bag"


def _profile(args: argparse.Namespace, recording: Recording, out: Path) -> Profile:
    """The policy and the controller as the profile has them, but as they were where the bag knows it."""
    from molmoact_ros.nodes.replay import parameters

    nodes = {
        name: values for name, values in Profile.read(args.profile).nodes.items() if name in ("policy", "controller")
    }
    if not nodes:
        raise ValueError(f"the profile {args.profile!r} has neither a policy nor a controller to play to")
    for name, model in (("policy", PolicyConfig), ("controller", ControllerNodeConfig)):
        if name in nodes:
            then = {k: v for k, v in parameters(recording, f"/{name}").items() if k in model.model_fields}
            nodes[name] = nodes[name] | then | {"use_sim_time": True}
    if "policy" in nodes:
        nodes["policy"]["checkpoint"] = str((args.checkpoint or default_checkpoint()).resolve())
    if "controller" in nodes:
        nodes["controller"]["following"] = FOLLOWING
    player: dict[str, Any] = {
        "bag": str(args.bag.resolve()), "rate": args.rate, "loop": args.loop, "paused": args.paused,
        "remap": args.remap or [""], "wait": [*nodes, "recorder"],
    }  # fmt: skip
    recorder = {"bag": str(out / "bag"), "use_sim_time": True}
    return Profile(nodes={**nodes, "recorder": recorder, "player": player})
