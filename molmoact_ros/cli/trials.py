"""`molmoact-ros trials`: policies on a real robot, in a random order and blind, scored by a person."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

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
from molmoact_ros.datasets.collection import CollectionState
from molmoact_ros.datasets.episode_record import SessionFolder
from molmoact_ros.evaluation.trial_order import Trial, sealed_labels
from molmoact_ros.evaluation.trial_report import write_report
from molmoact_ros.evaluation.trial_session import TrialSession
from molmoact_ros.evaluation.trial_sheet import SheetError, TrialSheet, TrialTask, read_sheet, sheet_file
from molmoact_ros.nodes.keyboard import GONE, keys_at_once, read_keys
from molmoact_ros.nodes.recorder import RecorderConfig
from molmoact_ros.nodes.teleop.client import TeleopClientConfig
from molmoact_ros.utils.arguments import whole_number

ABOUT = """A sheet says which tasks, under which conditions, how progress is scored, and which policies. The order of
the trials is drawn from its seed, and policies are called A, B, ... until the end, when a page (report.html) and
results.json say which is which. Run the robot's graph without a policy (`molmoact-ros up` with a profile of your own);
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
  then   1..9  what of the rubric was done      s  store the score      d  discard: the trial is repeated"""
KEYS: Final = {"\n": "next", "\r": "next", "d": "discard", "h": "home", "c": "cancel"}
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
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), help="of order and letters; default: the sheet's")
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
        print(f"\r\033[Kall that was scored is in {page}, with what each letter stands for")
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
    episodes = SessionFolder(session.folder, session.sheet.tasks[0].instruction, len(session.order))
    session.write()
    policies = SealedPolicies(sealed_labels(session.sheet), Profile.read(args.profile), session.folder)
    parameters = {"images": args.images, "exclude": RecorderConfig().exclude}
    recorder = EpisodeRecorder(parameters, session.folder / "logs")
    use_environment()
    rclpy.init(args=["--ros-args", *enclave_arguments("collector")], signal_handler_options=SignalHandlerOptions.NO)
    screen = TrialScreen()
    collector = TrialCollector(config, episodes, recorder, screen.print_line, policies.veiled)
    executor = SingleThreadedExecutor()
    executor.add_node(collector)
    try:
        with ExitStack() as stack:
            if sys.stdin.isatty():
                stack.enter_context(keys_at_once())
            operator = TrialOperator(session, collector, policies, screen)
            while not operator.quits():
                executor.spin_once(timeout_sec=WAIT)
    finally:
        collector.close()
        policies.stop()
        rclpy.try_shutdown()


class TrialScreen:
    """Lines of a terminal that stay, and one below them that says where the trial stands."""

    def __init__(self) -> None:
        self._shown = ""

    def print_line(self, line: str) -> None:
        """Print a line that stays."""
        print(f"\r\033[K{line}", flush=True)
        self._shown = ""

    def show(self, state: str) -> None:
        """Show the last line, if it has changed."""
        if state != self._shown:
            print(f"\r\033[K{state}", end="", flush=True)
            self._shown = state


def announcement(trial: Trial, sheet: TrialSheet, of: int) -> str:
    """What the operator reads before a trial."""
    task = sheet.task(trial.task)
    condition = task.condition(trial.condition)
    lines = [
        f"trial {trial.number + 1} of {of}: policy {trial.label}, {task.name}, {condition.name}",
        f"  instruction: {condition.instruction or task.instruction}",
        *(f"  scene: {text.strip()}" for text in (task.setup, condition.setup) if text),
    ]
    return "\n".join(lines)


class TrialOperator:
    """The keys of a terminal to commands and scores, trial by trial."""

    def __init__(
        self, session: TrialSession, collector: TrialCollector, policies: SealedPolicies, screen: TrialScreen
    ) -> None:
        self._session, self._collector, self._policies, self._screen = session, collector, policies, screen
        self._done: list[bool] = []  # of the rubric
        self._note: str | None = None  # what is being typed
        self._before = S.WAITING
        self._screen.print_line(HELP)
        self._prepare()

    def _prepare(self) -> None:
        trial = self._session.next
        if trial is None:
            return
        sheet, task = self._session.sheet, self._task
        self._done = [False] * len(task.rubric)
        words = task.condition(trial.condition).instruction or task.instruction
        node = self._policies.start(trial.label)
        refusal = self._collector.prepare_trial(words, task.limit, node)
        self._screen.print_line(announcement(trial, sheet, len(self._session.order)))
        if refusal:
            self._screen.print_line(refusal)

    @property
    def _task(self) -> TrialTask:
        trial = self._session.next
        assert trial is not None
        return self._session.sheet.task(trial.task)

    def quits(self) -> bool:
        """Process what was typed; whether the operator quits, or all trials are scored."""
        self._keep_scored_before()
        self._follow_state()
        self._watch_policy()
        for key in read_keys(0.0):
            if self._note is not None:
                self._type_note(key)
            elif key in ("q", GONE):
                return True
            else:
                self._press(key)
        self._follow_state()  # before a message can begin the next trial with this one's policy
        self._show()
        return self._session.next is None

    def _follow_state(self) -> None:
        """Show the rubric when a trial is to be scored, and prepare the next one after it was stored or discarded."""
        before, self._before = self._before, self._collector.collection.state
        if self._session.next is None or before is self._before:
            return
        if self._before is S.REVIEW:
            for number, step in enumerate(self._task.rubric, 1):
                self._screen.print_line(f"  {number}  {step.text} ({step.points:g})")
        elif before is S.REVIEW:
            self._prepare()

    def _keep_scored_before(self) -> None:
        """A process that was killed between a score and its episode's verdict left that verdict to this one."""
        number, scored = self._collector.collection.number, {score.episode for score in self._session.scores}
        if self._collector.collection.state is S.REVIEW and number in scored:
            self._collector.keep_scored()

    def _watch_policy(self) -> None:
        ended = self._policies.ended
        if not ended:
            return
        if self._collector.collection.state is S.RECORDING:
            self._collector.command("end")
        elif self._collector.collection.state is S.WAITING:
            raise RuntimeError(f"the policy has ended: {ended}; the same command goes on")

    def _press(self, key: str) -> None:
        review = self._collector.collection.state is S.REVIEW
        if review and key.isdigit() and 1 <= int(key) <= len(self._done):
            self._done[int(key) - 1] ^= True
        elif review and key == "s":
            self._store()
        elif key == "n":
            self._note = ""
        elif key in KEYS and (refusal := self._collector.command(KEYS[key])):
            self._screen.print_line(refusal)

    def _store(self) -> None:
        record = self._collector.record
        assert record is not None
        try:
            self._session.store_score(
                self._done, record.number, record.end - record.begin, record.notes, record.ended_by,
                len(record.interventions),
            )  # fmt: skip
        except OSError as error:
            self._screen.print_line(
                f"{error.filename} cannot be written: {error.strerror}; free some space, then store it again"
            )
            return
        if refusal := self._collector.keep_scored():
            self._screen.print_line(refusal)

    def _type_note(self, key: str) -> None:
        assert self._note is not None
        if key not in "\r\n":
            self._note = self._note[:-1] if key in "\b\x7f" else self._note + key
            return
        note, self._note = self._note, None
        if note and (refusal := self._collector.command("", notes=note)):
            self._screen.print_line(refusal)

    def _show(self) -> None:
        self._screen.show(self._state() if self._note is None else f"note: {self._note}")

    def _state(self) -> str:
        collector, trial = self._collector, self._session.next
        if trial is None:
            return "all trials are scored"
        state = collector.collection.state
        if state is S.REVIEW:
            done = " ".join(str(k) for k, is_done in enumerate(self._done, 1) if is_done)
            share = f"{self._task.progress(self._done):.0%}"
            return f"done: {done or 'nothing'} = {share} | 1..9, then s stores; d discards"
        seconds = {S.COUNTDOWN: f" {collector.left:.0f} s", S.RECORDING: f" {collector.elapsed:.0f} s"}.get(state, "")
        where = f"{trial.number + 1} of {len(self._session.order)}, {trial.label}"
        if state is S.WAITING and not collector.is_policy_ready:
            return f"{where} | policy {trial.label} is not ready yet"
        return f"{where} | {state.value}{seconds}: {collector.line}"
