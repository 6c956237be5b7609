"""The command `replay`: a bag through the engine, the controller or the nodes, compared and reported."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from molmoact_ros.bags.bag_files import about
from molmoact_ros.bags.plans import RecordedAnswer, RecordedAnswers, pairs
from molmoact_ros.bags.recorded_parameters import parameters
from molmoact_ros.bags.recording import SAME, Recording, TopicNames, namespace_rules, parse_remap
from molmoact_ros.replay.answer_difference import by_noise
from molmoact_ros.replay.compare import Comparison, Thresholds, compare_answers, compare_control
from molmoact_ros.replay.report import Pictures, Report, answers_report, control_report
from molmoact_ros.utils.arguments import above_zero, output_file
from molmoact_ros.utils.checks import Verdict
from molmoact_ros.utils.paths import default_checkpoint, robot_model, share
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

COLOURS = {Verdict.OK: "green", Verdict.NOTE: "dim", Verdict.FAIL: "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("bag", type=Path, help="folder of a bag, or a file of it: .mcap, .db3, .bag")
    ways = parser.add_mutually_exclusive_group(required=True)
    for way, text in (
        ("engine", "its images into the engine, as fast as it goes"),
        ("control", "its chunks and joint states through the control code"),
        ("graph", "its cameras, joints and instructions onto live topics, through the nodes"),
    ):  # fmt: skip
        ways.add_argument(f"--{way}", dest="way", action="store_const", const=way, help=text)
    parser.add_argument("--report", type=output_file, help="write an HTML report with everything in it")
    parser.add_argument("--json", type=output_file, help="also write the figures here")
    parser.add_argument("--thresholds", type=Path, help="a YAML file; default: config/replay.yaml")
    parser.add_argument(
        "--remap", action="append", default=[], metavar="FROM:=TO", help="a topic of the bag by another name; repeat"
    )
    parser.add_argument("--namespace", default="", help="of the nodes whose topics are meant, such as /left")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras, front first")
    parser.add_argument("--joint-states", default="/joint_states", help="topic of the joint states")
    parser.add_argument("--policy", default="/policy", help="node name of who planned, such as /expert")
    parser.add_argument("--slop", type=above_zero(float), default=0.05, help="s between images of one moment, at most")
    parser.add_argument("--instruction", default="", help="the task, where the bag does not say it")
    engine = parser.add_argument_group("--engine")
    engine.add_argument("--checkpoint", type=Path, help="checkpoint folder; default: the nano model")
    engine.add_argument("--against", type=Path, help="compare with these answers instead of the recorded ones")
    engine.add_argument("--save", type=output_file, help="write the answers here, for --against")
    engine.add_argument("--mode", choices=["full", "grounded", "reuse"], help="instead of the recorded ones")
    engine.add_argument("--period", type=above_zero(float), default=0.75, help="s between plans of a bag without any")
    engine.add_argument("--device", default="cpu", help="torch device, such as cuda")
    engine.add_argument("--dtype", default="", help="float32, bfloat16 or float16; default: bfloat16 on a GPU")
    engine.add_argument("--unnorm-key", help="statistics that turn answers into actions")
    engine.add_argument("--frame-size", default="", help="as for infer")
    graph = parser.add_argument_group("--graph")
    graph.add_argument("--profile", default="sim", help="whose policy and controller run; its simulator does not")
    graph.add_argument("--rate", type=above_zero(float), default=1.0, help="times the recorded speed")
    graph.add_argument("--loop", type=above_zero(int), default=1, help="how often it is played, the clock going on")
    graph.add_argument("--paused", action="store_true", help="begin paused: /player/pause, /player/go_on")
    graph.add_argument("--within", type=above_zero(float), default=0.2, help="s between plans that are compared")
    graph.add_argument("--out", type=Path, help="a new folder for the new bag and logs; default: runs/replay-<time>")


def run(args: argparse.Namespace) -> int:
    """Replay; returns 0 if the result is close enough to the recording, 2 if it is not, 1 if nothing was compared."""
    console = Console()
    if args.namespace:  # the player applies the same rules
        args.remap = [*namespace_rules(args.bag, args.namespace), *args.remap]
    names = TopicNames(
        cameras=tuple(args.cameras.split(",")), remap=parse_remap(args.remap), slop=args.slop,
        joint_states=args.joint_states, policy=args.policy, namespace=args.namespace,
    )  # fmt: skip
    thresholds = Thresholds.read(args.thresholds or share() / "config" / "replay.yaml")
    with Recording(args.bag, names, "joints" if args.way == "control" else "images") as recording:
        try:
            comparison, report = WAYS[args.way](args, recording, thresholds, console)
        finally:  # an error may follow from what was left out
            for note in recording.notes:
                console.print(note, style="dim", highlight=False, soft_wrap=True, markup=False)
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
        write_whole(args.json, json.dumps(figures, indent=1, default=str))
    return 0 if comparison.good else 2 if comparison.compared else 1


Outcome = tuple[Comparison, Report]


def _engine(args: argparse.Namespace, recording: Recording, thresholds: Thresholds, console: Console) -> Outcome:
    from molmoact_ros.engine.base import ReasoningMode
    from molmoact_ros.engine.factory import EngineOptions, open_engine
    from molmoact_ros.replay.engine import replay_engine

    steps = recording.steps(args.instruction, args.period)
    flow_steps = max((step.answer.flow_steps for step in steps), default=0)  # answers without a seed have none
    checkpoint = (args.checkpoint or default_checkpoint()).resolve()
    with console.status("loading the checkpoint"):
        options = EngineOptions(
            device=args.device, threads=1 if args.device == "cpu" else 0, dtype=args.dtype,
            unnorm_key=args.unnorm_key or "", frame_size=args.frame_size, flow_steps=flow_steps,
        )  # fmt: skip
        engine = open_engine(options, checkpoint)
    mode, pictures = ReasoningMode(args.mode) if args.mode else None, Pictures(len(steps))
    again = list(
        track(
            replay_engine(engine, recording, steps, mode, pictures), "steps", len(steps), console=console,
            transient=True,
        )
    )  # fmt: skip
    now = RecordedAnswers(machine(engine.digest), again)
    if args.save:
        now.save(args.save)
    then = RecordedAnswers.load(args.against) if args.against else _of_bag(recording)
    both, other_noise = by_noise(pairs(then.answers, now.answers, within=SAME))
    why_not, saved = inexact(then, now, recording, args.mode), args.save is not None
    comparison = compare_answers(both, not why_not, thresholds, why_not, again, saved, other_noise)
    title = f"{recording.bag.name} into the engine"
    words = f"recorded by {_name(then)}, replayed by {_name(now)}, {len(now.answers)} steps"
    return comparison, answers_report(recording, both, pictures, comparison, thresholds, title, words)


def _of_bag(recording: Recording) -> RecordedAnswers:
    """The recorded answers, and the checkpoint that generated them."""
    answers = recording.answers()
    digests = sorted({answer.checkpoint for answer in answers})
    return RecordedAnswers(about(recording.bag) | {"checkpoint": ", ".join(digests)}, answers)


def _name(answers: RecordedAnswers) -> str:
    return answers.about.get("checkpoint") or "a checkpoint that is not known"


def inexact(then: RecordedAnswers, now: RecordedAnswers, recording: Recording, mode: str = "") -> str:
    """Why exact equality of tokens cannot be required; empty: it can."""
    if any(answer.tokens is None for answer in then.answers):
        return "the bag holds no tokens"
    if then.about.get("checkpoint") != now.about["checkpoint"]:
        return f"the checkpoint is {now.about['checkpoint']}, recorded was {_name(then)}"
    if not recording.lossless:
        return "the recorded images are JPEG, not what the policy saw"
    if mode and any(answer.mode != mode for answer in then.answers):
        return f"the mode is {mode}, not the recorded one"
    for what in ("processor", "torch"):
        if then.about.get(what) != now.about[what]:
            return f"another {what}, whose rounding differs: {now.about[what]}, recorded {then.about.get(what)}"
    return ""


def _control(args: argparse.Namespace, recording: Recording, thresholds: Thresholds, console: Console) -> Outcome:
    from molmoact_ros.nodes.control.config import ControllerNodeConfig
    from molmoact_ros.nodes.control.hand_config import with_recorded_hand
    from molmoact_ros.replay.control import replay_control

    recorded = parameters(recording, recording.names.controller)
    settings = ControllerNodeConfig.model_validate(recorded)
    arms = [with_recorded_hand(arm, settings.hand, settings.gripper, recorded) for arm in settings.robots]
    with console.status("replaying"):
        again = replay_control(recording, robot_model(), settings.control, arms)
    comparison = compare_control(again, thresholds)
    title = f"{recording.bag.name} into the controller"
    versions = about(recording.bag).get("molmoact-ros", "unknown")
    words = f"recorded with molmoact-ros {versions}, replayed with {machine('')['molmoact-ros']}"
    return comparison, control_report(recording, again, thresholds, title, words)


def _graph(args: argparse.Namespace, recording: Recording, thresholds: Thresholds, console: Console) -> Outcome:
    from molmoact_ros.cli.replay_graph import play_through_graph

    again = play_through_graph(args, recording, console)
    with Recording(again) as anew:
        now = RecordedAnswers(machine(""), anew.answers())
    then = _of_bag(recording)
    both = pairs(then.answers, now.answers, within=args.within)
    comparison = compare_answers(both, False, thresholds, "the nodes choose their images by the clock", now.answers)
    title, words = f"{recording.bag.name} through the nodes", f"{len(now.answers)} plans, recorded: {len(then.answers)}"
    pictures = Pictures(len(both))
    _note_pictures(recording, both, pictures)
    return comparison, answers_report(recording, both, pictures, comparison, thresholds, title, words)


def _note_pictures(recording: Recording, both: list[tuple[RecordedAnswer, RecordedAnswer]], pictures: Pictures) -> None:
    from dataclasses import replace

    by_stamp = {then.plan_id: now for then, now in both}
    steps = [step for step in recording.steps("-") if step.answer.plan_id in by_stamp]
    for step, observation in recording.observations(steps):
        now = by_stamp[step.answer.plan_id]
        pictures(replace(observation, stamp=now.stamp), now)


WAYS: dict[str, Callable[[argparse.Namespace, Recording, Thresholds, Console], Outcome]] = {
    "engine": _engine, "control": _control, "graph": _graph,
}  # fmt: skip
