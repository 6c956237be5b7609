"""`molmoact-ros trials`: policies on a real robot, in a random order and blind, scored by a person."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from molmoact_ros.bringup.collector import CollectorConfig
from molmoact_ros.bringup.episode_recorder import EpisodeRecorder
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.bringup.sealed_policies import POLICY, SealedPolicies
from molmoact_ros.bringup.security import enclave_arguments
from molmoact_ros.bringup.trial_collector import TrialCollector
from molmoact_ros.cli.run_node import ARMS
from molmoact_ros.cli.status_line import StatusLine, TypedNote
from molmoact_ros.datasets.collection import CollectionState
from molmoact_ros.evaluation.trial_order import Trial, sealed_labels
from molmoact_ros.evaluation.trial_report import write_report
from molmoact_ros.evaluation.trial_session import TrialSession
from molmoact_ros.evaluation.trial_sheet import SheetError, TrialSheet, TrialTask, read_sheet, sheet_file
from molmoact_ros.nodes.keyboard import GONE, keys_at_once, read_keys
from molmoact_ros.nodes.recorder import RecorderConfig
from molmoact_ros.nodes.teleop.client import TeleopClientConfig
from molmoact_ros.utils.arguments import whole_number

ABOUT = """A sheet says which tasks, under which conditions, how progress is scored, and which policies. The order of
the trials is drawn from its seed, and nobody sees which policy is at work until the end, when a page (report.html) and
results.json say it. Run the robot's graph without a policy (`molmoact-ros up` with a profile of your own);
the command starts the policies itself, one at a time. Nothing moves before the operator's go: the arm then moves to its
start position, the policy begins, and it holds when the operator or the time ends the trial. Each trial is a bag with a
record, as for collect. The same command goes on with a session that was interrupted (docs/trials.md)."""
EXAMPLES = """examples:
  molmoact-ros trials single_arm --checkpoint ours=my-policy --checkpoint base=MolmoAct-7B-D-0812 --profile mine.yaml
  molmoact-ros trials sheet.yaml --out runs/trials-monday
  molmoact-ros trials --out runs/trials-monday              (goes on)
  molmoact-ros trials --out runs/trials-monday --reveal     (ends the session early, and reports)
"""
HELP = """\
  Enter  begin, and end, the trial      c  cancel      h  home      n  a note (ends with Enter)      q  quit
  1..9  what of the rubric is done       s  store the score      d  discard: the trial is repeated"""
KEYS: Final = {"\n": "next", "\r": "next", "d": "discard", "h": "home", "c": "cancel", "s": "score"}
WAIT: Final = 0.05
"""s between looks at the keys."""
S = CollectionState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.description, parser.epilog = ABOUT, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sheet", nargs="?", default="", help="a sheet of config/trials, or a .yaml file of your own")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FOLDER", help="a policy; repeat")
    parser.add_argument("--trials", type=whole_number(1, 1000), help="of each policy, task and condition")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), help="of the order; default: the sheet's")
    parser.add_argument("--out", type=Path, help="folder of the session; default: runs/trials-<sheet>")
    parser.add_argument("--reveal", action="store_true", help="end the session now, and report")
    parser.add_argument("--profile", default="realsense", help="its parameters of the policy (default: realsense)")
    parser.add_argument("--countdown", type=float, default=3.0, help="s before a trial begins (default: 3)")
    parser.add_argument("--no-home", action="store_true", help="begin where the arm is, not at its start position")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras (default: front,wrist)")
    parser.add_argument("--image-transport", choices=["raw", "compressed"], default="raw", help="of the cameras")
    parser.add_argument("--joint-states", default="joint_states", metavar="TOPIC", help="default: joint_states")
    parser.add_argument("--arm", choices=["left", "right", "both"], help="of two arms, those that move home")
    parser.add_argument("--controller", default="controller", help="node name of the controller")
    parser.add_argument("--images", choices=["raw", "png", "jpeg"], default="jpeg", help="in the bags, as for record")


def run(args: argparse.Namespace) -> int:
    """Run the trials that are left, and report when all are scored; returns 1 where some are left."""
    try:
        session = _open_session(args)
    except SheetError as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)
        return 1
    cameras = tuple(args.cameras.split(","))
    if session.next is not None and not args.reveal:
        _serve(args, session)
    if session.next is None or args.reveal:
        page = write_report(session, cameras[0])
        print(f"\r\033[Kall that was scored is in {page}, with the names of the policies")
    else:
        print(f"\r\033[K{len(session.scores)} of {len(session.order)} trials are scored; "
              f"go on with molmoact-ros trials --out {session.folder}")  # fmt: skip
    return 0 if len(session.scores) == len(session.order) else 1


def _open_session(args: argparse.Namespace) -> TrialSession:
    if not args.sheet:
        if args.out is None:
            raise ValueError("name a sheet, or say which session goes on with --out")
        if args.checkpoint or args.trials or args.seed is not None:
            raise ValueError("--checkpoint, --trials and --seed belong to a sheet; a session that goes on has its own")
        return TrialSession(args.out, None)
    file = sheet_file(args.sheet)
    overrides = {name: getattr(args, name) for name in ("trials", "seed") if getattr(args, name) is not None}
    sheet = read_sheet(file, dict(map(_named_folder, args.checkpoint)), overrides)
    return TrialSession(args.out or Path("runs") / f"trials-{file.stem}", sheet)


def _named_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise ValueError(f"--checkpoint {text!r} is not of the form NAME=FOLDER")
    return name, Path(folder)


def _serve(args: argparse.Namespace, session: TrialSession) -> None:
    config = CollectorConfig(
        teleop=TeleopClientConfig(controller=args.controller, arms=ARMS[args.arm]), countdown=args.countdown,
        home=not args.no_home, cameras=args.cameras.split(","), image_transport=args.image_transport,
        joint_states=args.joint_states, policy=POLICY,
    )  # fmt: skip
    policies = SealedPolicies(sealed_labels(session.sheet), Profile.read(args.profile), session.folder)
    parameters = {"images": args.images, "exclude": RecorderConfig().exclude, "awaited": config.streams}
    recorder = EpisodeRecorder(parameters, session.folder / "logs")
    use_environment()
    rclpy.init(args=["--ros-args", *enclave_arguments("collector")], signal_handler_options=SignalHandlerOptions.NO)
    screen = StatusLine()
    collector = TrialCollector(config, session, policies, recorder, screen.print_line)
    executor = SingleThreadedExecutor()
    executor.add_node(collector)
    try:
        with ExitStack() as stack:
            if is_typed := sys.stdin.isatty():
                stack.enter_context(keys_at_once())
            terminal = TrialTerminal(collector, screen)
            while session.next is not None or collector.collection.state is S.REVIEW:
                executor.spin_once(timeout_sec=WAIT)
                if is_typed and terminal.quits():
                    break
                terminal.show()
    finally:
        executor.shutdown()
        collector.close()
        rclpy.try_shutdown()


def announcement(trial: Trial, sheet: TrialSheet, of: int) -> str:
    """What the operator reads before a trial."""
    task = sheet.task(trial.task)
    return (
        f"trial {trial.number + 1} of {of}: {task.scene(trial.condition)}\n"
        f"  instruction: {task.words(trial.condition)}"
    )  # fmt: skip


class TrialTerminal:
    """The keys of a terminal to commands, and what stands there meanwhile."""

    def __init__(self, collector: TrialCollector, screen: StatusLine) -> None:
        self._collector, self._screen = collector, screen
        self._note = TypedNote()
        self._announced: Trial | None = None
        self._before = S.WAITING
        self._screen.print_line(HELP)

    def quits(self) -> bool:
        """Process what was typed; whether the operator quits."""
        for key in read_keys(0.0):
            if self._note.text is not None:
                if note := self._note.type(key):
                    self._command("", notes=note)
            elif key in ("q", GONE):
                return True
            else:
                self._press(key)
        return False

    def _press(self, key: str) -> None:
        done = list(self._collector.done)
        if key.isdigit() and 1 <= int(key) <= len(done):
            done[int(key) - 1] ^= True
            self._command("", done=done)
        elif key == "n":
            self._note.begin()
        elif key in KEYS:
            self._command(KEYS[key])

    def _command(self, name: str, **texts: Any) -> None:
        if refusal := self._collector.command(name, **texts):
            self._screen.print_line(refusal)

    def show(self) -> None:
        """Announce the trial that is due, list the rubric of one that is to be scored, and show the state."""
        trials, state = self._collector.trials, self._collector.collection.state
        trial, before, self._before = trials.next, self._before, state
        if trial is None:
            return
        if trial != self._announced and state is S.WAITING:
            self._announced = trial
            self._screen.print_line(announcement(trial, trials.sheet, len(trials.order)))
        task = trials.sheet.task(trial.task)
        if state is S.REVIEW and before is not state:
            for number, step in enumerate(task.rubric, 1):
                self._screen.print_line(f"  {number}  {step.text} ({step.points:g})")
        self._screen.show(f"note: {self._note.text}" if self._note.text is not None else self._state(trial, task))

    def _state(self, trial: Trial, task: TrialTask) -> str:
        collector, done = self._collector, self._collector.done
        state = collector.collection.state
        if state is S.REVIEW:
            marked = " ".join(str(number) for number, is_done in enumerate(done, 1) if is_done)
            return f"done: {marked or 'nothing'} = {task.progress(done):.0%} | 1..9, then s stores; d discards"
        seconds = {S.COUNTDOWN: f" {collector.left:.0f} s", S.RECORDING: f" {collector.elapsed:.0f} s"}.get(state, "")
        where = f"{trial.number + 1} of {len(collector.trials.order)}"
        return f"{where} | {state.value}{seconds}: {collector.line}"
