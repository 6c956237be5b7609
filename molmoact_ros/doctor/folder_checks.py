"""What the checks of a checkpoint's folder share, whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Final

from torch import nn

from molmoact_ros.engine.model.weight_files import CheckpointError, Weights, misfits
from molmoact_ros.utils.checks import Check, Verdict

SHOWN: Final = 8
"""Mismatches of tensors that are listed; the rest is counted."""


def ok(name: str, text: str) -> Check:
    """A finding that is as it should be."""
    return Check(name, Verdict.OK, text)


def read_files(looks: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], list[Check]]:
    """Contents of files by name, and a failed check for each that cannot be read."""
    read: dict[str, Any] = {}
    failed: list[Check] = []
    for name, look in looks.items():
        try:
            read[name] = look()
        except CheckpointError as error:
            failed.append(Check.check(name, False, str(error)))
    return read, failed


def failed_tensors(model: nn.Module, weights: Weights) -> list[Check]:
    """A failed check for each of the first tensors that do not fit the model; empty: all do."""
    lines = misfits(model, weights)
    if len(lines) > SHOWN:
        lines = [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]
    return [Check.check("tensors", False, line) for line in lines]


def parameters(weights: Weights) -> int:
    """How many numbers the weights are."""
    return sum(map(prod, weights.shapes.values()))
