"""Command-line options shared by several commands."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)


def above_zero(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """A type of options: a finite number of `kind`, int or float, above 0, such as a rate, a period or a count."""
    return _checked(kind, lambda number: 0 < number < math.inf, "a number above 0")


def not_negative(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """A type of options: a finite number of `kind`, int or float, from 0 on, such as a seed."""
    return _checked(kind, lambda number: 0 <= number < math.inf, "0 or a number above it")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A type of options: a whole number from `least` to `most`, such as a port."""
    return _checked(int, lambda number: least <= number <= most, f"a whole number from {least} to {most}")


def output_file(text: str) -> Path:
    """A type of options: a file to write at the end, refused at the beginning where it cannot be one."""
    file = Path(text)
    if file.is_dir():
        raise ArgumentTypeError(f"{text} is a folder; name a file in it")
    if not file.absolute().parent.is_dir():
        raise ArgumentTypeError(f"there is no folder {file.absolute().parent} to write {file.name} into; create it")
    return file


output_file.__name__ = "Path"


def _checked(kind: Callable[[str], Number], fits: Callable[[Number], bool], wanted: str) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        number = kind(text)
        if not fits(number):
            raise ArgumentTypeError(f"give {wanted}, not {text}")
        return number

    read.__name__ = getattr(kind, "__name__", "number")  # argparse names it where a text is no number
    return read


def add_json(parser: ArgumentParser) -> None:
    """--json FILE."""
    parser.add_argument("--json", type=output_file, help="also write the figures here")


def add_seed(parser: ArgumentParser) -> None:
    """--seed N."""
    parser.add_argument("--seed", type=not_negative(int), default=0, help="which scene is looked at, or what is drawn")


def add_steps(parser: ArgumentParser) -> None:
    """--steps N."""
    parser.add_argument("--steps", type=above_zero(int), default=40, help="reasoning steps")


def add_seconds(parser: ArgumentParser, default: float) -> None:
    """--seconds S."""
    help_ = f"of each measurement; default {default:g}"
    parser.add_argument("--seconds", type=above_zero(float), default=default, help=help_)


def add_times(parser: ArgumentParser, default: int) -> None:
    """--times N."""
    parser.add_argument(
        "--times", type=above_zero(int), default=default, help=f"how often each is done; default {default}"
    )


def add_checkpoint(parser: ArgumentParser) -> None:
    """--checkpoint FOLDER."""
    parser.add_argument("--checkpoint", type=Path, help="checkpoint folder; default: the nano model")


def add_dtype(parser: ArgumentParser) -> None:
    """--dtype TYPE."""
    parser.add_argument("--dtype", default="", help="float32, bfloat16 or float16; default: bfloat16 on a GPU")


def add_images(parser: ArgumentParser) -> None:
    """--images FORM: how a bag stores images."""
    parser.add_argument("--images", choices=["raw", "png", "jpeg"], default="raw",
                        help="how the bag keeps images (docs/record.md)")  # fmt: skip
