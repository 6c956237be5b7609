"""How a training run ends: the checkpoint, and a report of what each stage did, how long it took and where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from molmoact_ros.engine.model.weight_files import digest
from molmoact_ros.training.training_run import TrainingRun
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

NAME = "report.md"


def finish_run(run: TrainingRun, save: Callable[[Path], None], settings: dict[str, Any]) -> None:
    """Train to the end of the last stage, then write checkpoint and report. save: writes the checkpoint's folder.

    Raises DivergedTraining.
    """
    run.run()
    checkpoint = run.folder / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)
    save(checkpoint)
    write_report(run, settings, digest(checkpoint))


def write_report(run: TrainingRun, settings: dict[str, Any], weights: str) -> None:
    """Write `report.md` into the run's folder: its stages, times, figures, machine and settings.

    weights: digest of the checkpoint that came out.
    """
    times = [f"| {name} | {run.times.said(name)} |" for name in run.times.seconds if name not in run.stages]
    lines = [
        "# Training run", "",
        "| stage | time | steps | batch | highest rate | loss at first | at last | figures |",
        "|---|---|---|---|---|---|---|---|", *(_row(run, name) for name in run.stages), "",
        "| before them | time |", "|---|---|", *times, "",
        f"In all: {run.times.total()}. Losses are in history.json:", "", "![The loss of each stage](curves.png)", "",
        "Machine and versions:", "", *(f"- {name}: {value}" for name, value in machine(weights).items()), "",
        "Settings:", "", "```json", json.dumps(settings, indent=1), "```", "",
    ]  # fmt: skip
    write_whole(run.folder / NAME, "\n".join(lines))


def _row(run: TrainingRun, name: str) -> str:
    config, entries = run.stages[name].config, [entry for entry in run.history if entry["stage"] == name]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    first, last = (f"{losses[i]:.3f}" if losses else "" for i in (0, -1))
    known = {key: value for entry in entries for key, value in entry.items() if key not in ("stage", "step", "loss")}
    told = ", ".join(f"{key} {value:g}" for key, value in known.items())
    return (
        f"| {name} | {run.times.said(name)} | {config.steps} | {config.batch} | {config.rate:g} | {first} | {last} | "
        f"{told} |"
    )
