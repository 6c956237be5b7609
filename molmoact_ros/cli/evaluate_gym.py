"""Episodes in a Gymnasium environment that the user has installed: SimplerEnv's or ManiSkill 3's."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from molmoact_ros.cli.evaluate_suite import engine_options, save_video, show
from molmoact_ros.engine.factory import open_engine
from molmoact_ros.evaluation.gym_rollout import GymEnginePolicy, GymPolicy, PickCubePolicy, run_gym_episode
from molmoact_ros.evaluation.suite_report import PlanLog, SuiteRecord, SuiteSettings
from molmoact_ros.sim.gym_cell import GymCell
from molmoact_ros.utils.paths import checkpoint_of
from molmoact_ros.utils.provenance import machine


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
    out.mkdir(parents=True, exist_ok=True)
    settings = SuiteSettings(args.gym, "gym", policy.name, 0.0)
    record = SuiteRecord(out / "results.json", settings, machine(policy.name.partition(" ")[0]))
    missing = [trial for trial in range(args.trials) if not record.has(0, trial)]
    if missing:
        with GymCell(args.gym, images=policy.needs_cameras) as cell:
            for trial in tqdm(missing, unit="episode", mininterval=5):
                log = PlanLog()
                result = run_gym_episode(cell, policy, trial, args.instruction, log)
                if not result.success and log.frames:
                    save_video(out / "failures" / f"trial{trial}.mp4", log)
                record.append(result)
                tqdm.write(f"{trial} {'yes' if result.success else 'no '} {result.steps} steps")
    console = Console()
    show(record, console)
    console.print(f"the record is {out / 'results.json'}", soft_wrap=True)
    return 0
