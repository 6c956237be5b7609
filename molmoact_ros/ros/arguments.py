"""A node's arguments and parameter files as rcl can read them.

rcl refuses a list that mixes whole numbers and floats, such as `[0, 0.5]`, and with it every parameter of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml


def with_uniform_lists(value: Any) -> Any:
    """A copy of parameters in which the numbers of a list are all floats where one of them is."""
    if isinstance(value, dict):
        return {name: with_uniform_lists(of) for name, of in value.items()}
    if isinstance(value, list) and {type(of) for of in value} == {int, float}:
        return [float(of) for of in value]
    return value


def readable_arguments(arguments: Sequence[str], folder: Path) -> list[str]:
    """The `arguments` of a process, with the lists of its parameters uniform. What cannot be read stays as it is.

    folder: files that replace parameter files are written into it.
    """
    out = list(arguments)
    for number, (option, value) in enumerate(pairwise(arguments), 1):
        if option == "--params-file" and (text := _rewritten(value)):
            file = folder / f"{number}.yaml"
            file.write_text(text)
            out[number] = str(file)
        elif option in ("-p", "--param"):
            name, given, text = value.partition(":=")
            out[number] = name + given + _uniform_text(text)
    return out


def _rewritten(file: str) -> str:
    """The contents of a parameter file that has to be written anew; empty for one that can stay."""
    try:
        read = yaml.safe_load(Path(file).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    text = yaml.safe_dump(with_uniform_lists(read), allow_unicode=True)
    return text if text != yaml.safe_dump(read, allow_unicode=True) else ""


def _uniform_text(text: str) -> str:
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    uniform = with_uniform_lists(read)
    return text if repr(uniform) == repr(read) else yaml.safe_dump(uniform, default_flow_style=True).strip()
