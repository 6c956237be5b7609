"""Episodes in a Gymnasium environment that the user has installed: SimplerEnv's or ManiSkill 3's."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from molmoact_ros.cli.evaluate_suite import engine_options, keep_record, open_record, save_video
from molmoact_ros.engine.factory import open_engine
from molmoact_ros.evaluation.gym_rollout import GymEnginePolicy, GymPolicy, PickCubePolicy, run_gym_episode
from molmoact_ros.evaluation.suite_report import PlanLog, SuiteEpisode, SuiteSettings
from molmoact_ros.sim.gym_cell import GymCell
from molmoact_ros.utils.paths import checkpoint_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of Gymnasium environments to the command `eval`; others are those of suites."""
    gym = parser.add_argument_group("a Gymnasium environment (docs/benchmarks.md)")
    gym.add_argument(
        "--gym", metavar="MODULE:ID",
        help="such as mani_skill.envs:PickCube-v1, with --trials, --expert, --out, --unnorm-key, --device, --dtype",
    )  # fmt: skip
    gym.add_argument("--instruction", default="", help="for environments that have none")


def run(args: argparse.Namespace) -> int:
    """Run the episodes that are not recorded yet, and print the table. Raises ValueError, in one line, for options that
    do not belong here."""
    if args.deployed or args.tasks:
        raise ValueError("--deployed and --tasks are of --suite; a Gymnasium environment is one task, by protocol")
    policy: GymPolicy = (
        PickCubePolicy() if args.expert else GymEnginePolicy(open_engine(engine_options(args), checkpoint_of(args)))
    )
    out: Path = args.out or Path("runs") / args.gym.rpartition(":")[2]
    record = open_record(out, SuiteSettings(args.gym, "gym", policy.name, 0.0))
    missing = [trial for trial in range(args.trials) if not record.has(0, trial)]
    keep_record(record, _episodes(args, policy, missing, out / "failures"), len(missing))
    return 0


def _episodes(args: argparse.Namespace, policy: GymPolicy, trials: list[int], videos: Path) -> Iterator[SuiteEpisode]:
    if not trials:
        return
    with GymCell(args.gym, images=policy.needs_cameras) as cell:
        for trial in trials:
            log = PlanLog()
            result = run_gym_episode(cell, policy, trial, args.instruction, log)
            if not result.success and log.frames:
                save_video(videos / f"trial{trial}.mp4", log)
            yield result
