"""Command-line options shared by several commands."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path


def add_json(parser: ArgumentParser) -> None:
    """--json FILE."""
    parser.add_argument("--json", type=Path, help="also write the figures here")


def add_seed(parser: ArgumentParser) -> None:
    """--seed N."""
    parser.add_argument("--seed", type=int, default=0, help="which scene is looked at, or what is drawn")


def add_steps(parser: ArgumentParser) -> None:
    """--steps N."""
    parser.add_argument("--steps", type=int, default=40, help="reasoning steps")


def add_seconds(parser: ArgumentParser, default: float) -> None:
    """--seconds S."""
    help_ = f"of each measurement; default {default:g}"
    parser.add_argument("--seconds", type=float, default=default, help=help_)


def add_times(parser: ArgumentParser, default: int) -> None:
    """--times N."""
    parser.add_argument("--times", type=int, default=default, help=f"how often each is done; default {default}")


def add_checkpoint(parser: ArgumentParser) -> None:
    """--checkpoint FOLDER."""
    parser.add_argument("--checkpoint", type=Path, help="checkpoint folder; default: the nano model")


def add_dtype(parser: ArgumentParser) -> None:
    """--dtype TYPE."""
    parser.add_argument("--dtype", default="", help="float32, bfloat16 or float16; default: bfloat16 on a GPU")


def add_images(parser: ArgumentParser) -> None:
    """--images FORM: how a bag stores images."""
    parser.add_argument("--images", choices=["raw", "png", "jpeg"], default="raw",
                        help="how the bag keeps pictures (docs/record.md)")  # fmt: skip
