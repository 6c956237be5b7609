"""`molmoact-ros doctor`: what works here, what a checkpoint folder holds, and parity with golden numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from molmoact_ros.utils.checks import Check, Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--checkpoint", type=Path, help="check this folder instead, without loading its weights")
    parser.add_argument("--golden", type=Path, help="compare with the reference's numbers in this folder instead")


def run(args: argparse.Namespace) -> int:
    """Print a line for each check; returns 1 where one fails."""
    findings = _findings(args)
    for finding in findings:
        print(f"{finding.verdict.value:4} {finding.name}: {finding.text}")
    return 1 if any(finding.verdict is Verdict.FAIL for finding in findings) else 0


def _findings(args: argparse.Namespace) -> list[Check]:
    # Each is imported where it is used: a package that is missing here may be what another check needs.
    if args.golden:
        from molmoact_ros.doctor.parity import compare

        return compare(args.golden)
    if args.checkpoint:
        from molmoact_ros.doctor.checkpoint import inspect

        return inspect(args.checkpoint)
    from molmoact_ros.doctor.environment import examine

    return examine()
