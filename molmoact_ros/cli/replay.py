"""The command `replay`: a bag into the engine, the controller or the nodes, compared, reported, and an exit status."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from rich.console import Console
from rich.progress import track

from molmoact_ros.bags.bag_files import about
from molmoact_ros.bags.plans import Answer, Answers, pairs
from molmoact_ros.bags.recorded_parameters import parameters
from molmoact_ros.bags.recording import SAME, Names, Recording, namespace_rules, parse_remap
from molmoact_ros.replay.compare import Comparison, Thresholds, compare_answers, compare_control
from molmoact_ros.replay.report import Pictures, Report, answers_report, control_report
from molmoact_ros.utils.checks import Verdict
from molmoact_ros.utils.paths import default_checkpoint, robot_model, share
from molmoact_ros.utils.provenance import machine

COLOURS = {Verdict.OK: "green", Verdict.NOTE: "dim", Verdict.FAIL: "red"}


def replay(args: argparse.Namespace) -> int:
    """0 where what was done again is near enough to what was recorded, 2 where it is not."""
    console = Console()
    if args.namespace:  # the player is given the same rules
        args.remap = [*namespace_rules(args.bag, args.namespace), *args.remap]
    names = Names(
        cameras=tuple(args.cameras.split(",")), remap=parse_remap(args.remap), slop=args.slop,
        joint_states=args.joint_states, policy=args.policy, namespace=args.namespace,
    )  # fmt: skip
    thresholds = Thresholds.read(args.thresholds or share() / "config" / "replay.yaml")
    with Recording(args.bag, names) as recording:
        comparison, report = WAYS[args.way](args, recording, thresholds, console)
        for note in recording.notes:
            console.print(f"[dim]{note}[/]", highlight=False, soft_wrap=True)
    for finding in comparison.findings:
        colour = COLOURS[finding.verdict]
        line = f"[{colour}]{finding.verdict.value:4}[/] {finding.name}: {finding.text}"
        console.print(line, highlight=False, soft_wrap=True)
    if comparison.first:
        console.print(f"first divergence: {comparison.first}", highlight=False, soft_wrap=True)
    if args.report:
        report.save(args.report, comparison)
        console.print(f"report in {args.report}", highlight=False, soft_wrap=True)
    if args.json:
        findings = [{"name": f.name, "verdict": f.verdict.value, "text": f.text} for f in comparison.findings]
        figures = {"good": comparison.good, "first": comparison.first, "findings": findings} | comparison.figures
        args.json.write_text(json.dumps(figures, indent=1, default=str))
    return 0 if comparison.good else 2


Outcome = tuple[Comparison, Report]


def _engine(args: argparse.Namespace, recording: Recording, thresholds: Thresholds, console: Console) -> Outcome:
    from molmoact_ros.engine.model.checkpoint import torch_dtype
    from molmoact_ros.engine.torch_engine import Mode, TorchEngine
    from molmoact_ros.replay.engine import replay_engine

    steps = recording.steps(args.instruction, args.period)
    checkpoint = (args.checkpoint or default_checkpoint()).resolve()
    with console.status("loading the checkpoint"):
        engine = TorchEngine.load(
            checkpoint, args.device, 1 if args.device == "cpu" else None, torch_dtype(args.dtype), args.unnorm_key,
            args.frame_size,
        )  # fmt: skip
    mode, pictures = Mode(args.mode) if args.mode else None, Pictures(len(steps))
    again = list(
        track(
            replay_engine(engine, recording, steps, mode, pictures), "steps", len(steps), console=console,
            transient=True,
        )
    )  # fmt: skip
    now = Answers(machine(engine.digest), again)
    if args.save:
        now.save(args.save)
    then = Answers.load(args.against) if args.against else _of_bag(recording)
    both = pairs(then.answers, now.answers, within=SAME)
    why_not = inexact(then, now, recording, args.mode)
    comparison = compare_answers(both, not why_not, thresholds, why_not)
    title = f"{recording.bag.name} into the engine"
    words = f"recorded by {_name(then)}, replayed by {_name(now)}, {len(now.answers)} steps"
    return comparison, answers_report(recording, both, pictures, comparison, thresholds, title, words)


def _of_bag(recording: Recording) -> Answers:
    """The answers that were recorded, and what they were made by."""
    answers = recording.answers()
    digests = sorted({answer.checkpoint for answer in answers})
    return Answers(about(recording.bag) | {"checkpoint": ", ".join(digests)}, answers)


def _name(answers: Answers) -> str:
    return answers.about.get("checkpoint") or "a checkpoint that is not known"


def inexact(then: Answers, now: Answers, recording: Recording, mode: str = "") -> str:
    """Why tokens cannot be asked to be equal; empty: they can."""
    if any(answer.tokens is None for answer in then.answers):
        return "the bag holds no tokens"
    if then.about.get("checkpoint") != now.about["checkpoint"]:
        return f"the checkpoint is {now.about['checkpoint']}, recorded was {_name(then)}"
    if not recording.lossless:
        return "the recorded pictures are JPEG, not what the policy saw"
    if mode and any(answer.mode != mode for answer in then.answers):
        return f"the mode is {mode}, not the recorded one"
    for what in ("processor", "torch"):
        if then.about.get(what) != now.about[what]:
            return f"another {what}, whose rounding differs: {now.about[what]}, recorded {then.about.get(what)}"
    return ""


def _control(args: argparse.Namespace, recording: Recording, thresholds: Thresholds, console: Console) -> Outcome:
    from molmoact_ros.nodes.control.config import ControllerNodeConfig
    from molmoact_ros.replay.control import replay_control

    settings = ControllerNodeConfig.model_validate(parameters(recording, recording.names.controller))
    with console.status("replaying"):
        again = replay_control(recording, robot_model(), settings.control, settings.robots)
    comparison = compare_control(again, thresholds)
    title = f"{recording.bag.name} into the controller"
    versions = about(recording.bag).get("molmoact-ros", "unknown")
    words = f"recorded with molmoact-ros {versions}, replayed with {machine('')['molmoact-ros']}"
    return comparison, control_report(recording, again, thresholds, title, words)


def _graph(args: argparse.Namespace, recording: Recording, thresholds: Thresholds, console: Console) -> Outcome:
    from molmoact_ros.cli.replay_graph import play_through_graph

    again = play_through_graph(args, recording, console)
    with Recording(again) as anew:
        now = Answers(machine(""), anew.answers())
    then = _of_bag(recording)
    both = pairs(then.answers, now.answers, within=args.within)
    comparison = compare_answers(both, False, thresholds, "the nodes choose their pictures by the clock")
    title, words = f"{recording.bag.name} through the nodes", f"{len(now.answers)} plans, recorded: {len(then.answers)}"
    pictures = Pictures(len(both))
    _note_pictures(recording, both, pictures)
    return comparison, answers_report(recording, both, pictures, comparison, thresholds, title, words)


def _note_pictures(recording: Recording, both: list[tuple[Answer, Answer]], pictures: Pictures) -> None:
    from dataclasses import replace

    by_stamp = {then.plan_id: now for then, now in both}
    steps = [step for step in recording.steps("-") if step.answer.plan_id in by_stamp]
    for step, observation in recording.observations(steps):
        now = by_stamp[step.answer.plan_id]
        pictures(replace(observation, stamp=now.stamp), now)


WAYS: dict[str, Callable[[argparse.Namespace, Recording, Thresholds, Console], Outcome]] = {
    "engine": _engine, "control": _control, "graph": _graph,
}  # fmt: skip
