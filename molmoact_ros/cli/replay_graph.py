"""`replay --graph`: the nodes of a profile on a bag's topics and clock, recorded into a new bag.

They run in a ROS domain of their own and command no robot, whatever else runs on this computer.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from molmoact_ros.bags.recording import Recording
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Parameters, Profile, use_environment
from molmoact_ros.nodes.control.config import ControllerNodeConfig
from molmoact_ros.nodes.planning.config import PolicyConfig
from molmoact_ros.nodes.player import BEGINS, OPERATORS, OVER
from molmoact_ros.utils.paths import default_checkpoint

LONGER: Final = 60.0
"""s that the replay may take beyond the bag's length."""
CANNOT_APPLY: Final[dict[str, dict[str, Any]]] = {
    "policy": {"autostart": True, "approve": "", "image_transport": "raw"},  # the player publishes decoded images
    "controller": {
        "autostart": True, "approve": False, "presence_timeout": 0.0, "sink": "null", "gripper": "null",
        "following": 7.0,  # rad, more than a joint can lag behind: the recorded arm follows the recorded commands
    },
}  # fmt: skip
"""Parameters that override those of the bag and the profile: there is no robot, and no operator to approve."""
DOMAINS: Final = range(1, 101)
"""Domains whose UDP ports are below those that Linux hands out to clients."""
DISCOVERY: Final = 5.0
"""s to discover the running nodes, even on a busy machine."""


def play_through_graph(args: argparse.Namespace, recording: Recording, console: Console) -> Path:
    """Run the replay and return the new bag. Raises RuntimeError, with its last line, when a node ends; ValueError for
    a profile without any."""
    use_environment()
    out = (args.out or Path("runs") / f"replay-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    profile = _profile(args, recording, out)
    domain = random.choice(free_domains())
    refuse_company(domain)
    begin, end = recording.reader.span_ns
    seconds = args.loop * (end - begin) * 1e-9 / args.rate
    out.mkdir(parents=True)
    console.print(f"playing {seconds:.0f} s in the ROS domain {domain}, beside no robot")
    with Bringup(Profile(nodes=profile, environment=isolated(domain)), out / "logs") as graph:
        with console.status("the nodes start"):  # a checkpoint of 7B takes minutes to load
            _await(graph, BEGINS, math.inf)
        _await(graph, OVER, math.inf if args.paused else seconds + LONGER)
    return out / "bag"


def _await(graph: Bringup, line: str, patience: float) -> None:
    """Wait until the player logs `line`. Raises RuntimeError where a node ends, or after `patience` s."""
    player, deadline = graph.log("player"), time.monotonic() + patience
    while line not in player.read_text():
        graph.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the bag is not over {LONGER:.0f} s after its time; see {player}")
        time.sleep(0.2)


def isolated(domain: int) -> dict[str, str]:
    """Variables that isolate nodes: in `domain`, on this computer, without the user's discovery servers."""
    alone = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": "", "ROS_DISCOVERY_SERVER": ""}
    return {"ROS_DOMAIN_ID": str(domain), **alone}


def free_domains() -> list[int]:
    """The domains without a node on this computer, except the user's own. Raises RuntimeError where there is none."""
    tables = [Path("/proc/net") / name for name in ("udp", "udp6")]
    lines = [line for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    # The ports of domain d begin at 7400 + 250 d: the RTPS standard, 9.6.1.1.
    taken = {(int(line.split()[1].rpartition(":")[2], 16) - 7400) // 250 for line in lines}
    taken.add(int(os.environ.get("ROS_DOMAIN_ID") or 0))
    if free := [domain for domain in DOMAINS if domain not in taken]:
        return free
    raise RuntimeError("nodes run in every ROS domain of this computer; end some of them")


def refuse_company(domain: int) -> None:
    """Raise RuntimeError where a controller or a policy runs in `domain`: a replay would command it."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("replay", context=context)
    try:
        until = time.monotonic() + DISCOVERY
        while time.monotonic() < until:
            if there := sorted({"controller", "policy"} & set(node.get_node_names())):
                raise RuntimeError(f"a {there[0]} runs in the ROS domain {domain}: a bag is not replayed beside it")
            time.sleep(0.1)
    finally:
        node.destroy_node()
        context.try_shutdown()


def _profile(args: argparse.Namespace, recording: Recording, out: Path) -> dict[str, Parameters]:
    """The policy and the controller of the profile, with their recorded parameters where the bag has them."""
    from molmoact_ros.bags.recorded_parameters import parameters

    there = Profile.read(args.profile).nodes
    nodes: dict[str, Parameters] = {}
    for name, model in (("policy", PolicyConfig), ("controller", ControllerNodeConfig)):
        if name in there:
            then = {k: v for k, v in parameters(recording, f"/{name}").items() if k in model.model_fields}
            nodes[name] = there[name] | then | CANNOT_APPLY[name] | {"use_sim_time": True}
    if not nodes:
        raise ValueError(f"the profile {args.profile!r} has neither a policy nor a controller to play to")
    if "policy" in nodes:
        nodes["policy"]["checkpoint"] = str((args.checkpoint or default_checkpoint()).resolve())
    nodes["recorder"] = {"bag": str(out / "bag"), "use_sim_time": True}
    nodes["player"] = {
        "bag": str(args.bag.resolve()), "rate": args.rate, "loop": args.loop, "paused": args.paused,
        "remap": args.remap or [""], "wait": list(nodes), "include": OPERATORS, "allow_controller": True,
    }  # fmt: skip
    return nodes
