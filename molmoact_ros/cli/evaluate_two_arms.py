"""TwoArmLift of robosuite by the scripted expert for two arms, through the controller."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from molmoact_ros.cli.evaluate_suite import keep_record, open_record
from molmoact_ros.evaluation.suite_report import SuiteEpisode, SuiteSettings
from molmoact_ros.evaluation.two_arm_rollout import run_two_arm_lift
from molmoact_ros.sim.two_arm_cell import TwoArmCell
from molmoact_ros.utils.paths import robot_model

SUITE: Final = "two_arm_lift"


def run(args: argparse.Namespace) -> int:
    """Run the episodes that are not recorded yet, and print the table. Raises ValueError for other ways."""
    if not (args.expert and args.deployed) or args.tasks:
        raise ValueError(f"{SUITE} is one task, by the expert and through the controller: add --expert and --deployed")
    record = open_record(
        args.out or Path("runs") / SUITE, SuiteSettings(SUITE, "deployed", "scripted expert", args.latency)
    )
    missing = [trial for trial in range(args.trials) if not record.has(0, trial)]
    keep_record(record, _episodes(missing, args.latency), len(missing))
    return 0


def _episodes(trials: Sequence[int], latency: float) -> Iterator[SuiteEpisode]:
    if not trials:
        return
    cell = TwoArmCell()
    for trial in trials:
        yield run_two_arm_lift(cell, trial, robot_model(), latency)
    cell.close()
