"""`molmoact-ros collect`: demonstrations and corrections, an episode after the other, in a session that is resumed."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from molmoact_ros.bringup.collector import CollectorConfig, CollectorNode
from molmoact_ros.bringup.episode_recorder import EpisodeRecorder
from molmoact_ros.bringup.profiles import use_environment
from molmoact_ros.bringup.scripted_operator import ScriptedOperator
from molmoact_ros.bringup.security import enclave_arguments
from molmoact_ros.cli.run_node import ARMS
from molmoact_ros.cli.status_line import StatusLine, TypedNote
from molmoact_ros.datasets.collection import CollectionState, Outcome
from molmoact_ros.datasets.episode_record import SessionFolder
from molmoact_ros.nodes.keyboard import GONE, keys_at_once, read_keys
from molmoact_ros.nodes.recorder import RecorderConfig
from molmoact_ros.nodes.teleop.client import TeleopClientConfig
from molmoact_ros.utils.arguments import whole_number

ABOUT = """An operator moves the arm by whatever device is there (keyboard, joystick, SpaceMouse, leader arm, the
panel's buttons, a teleoperation of their own, or their hand on an arm in its guiding mode) and says when an episode
begins and ends, and what becomes of it: by key here, on the panel, by joystick or through the service ~/command. Each
episode is a bag with a record (episode.json) in the session's folder. The same command goes on with a session that was
interrupted. With --policy the policy does the task, the operator takes over where it errs, and these stretches are
marked."""
EXAMPLES = """examples:
  molmoact-ros collect --task "put the cup in the sink" --episodes 50
  molmoact-ros collect --out runs/collect-put_the_cup_in_the_sink         (goes on; task and number are known)
  molmoact-ros collect --task "put the cup in the sink" --episodes 15 --policy policy --out runs/corrections
  molmoact-ros collect --task "open the drawer" --episodes 20 --no-home   (guided by hand)
  molmoact-ros collect --task "put the red cube in the bowl" --episodes 5 --scripted     (beside `up sim`)
  molmoact-ros collect --task "pick up the red cube" --episodes 5 --scripted --policy policy --out runs/corrections
"""
HELP = """\
  Enter  next: begin, end, keep      f  failed      d  discard     r  redo
  h  home        c  cancel           p  the policy goes on          n  a note (ends with Enter)      q  quit"""
KEYS: Final = {
    "\n": "next", "\r": "next", "f": "fail", "d": "discard", "r": "redo", "h": "home", "c": "cancel", "p": "policy"
}  # fmt: skip
WAIT: Final = 0.05
"""s between looks at the keys."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.description, parser.epilog = ABOUT, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--task", default="", help="what the episodes show, in words")
    parser.add_argument("--episodes", type=whole_number(1, 100_000), default=0, help="how many are to be kept")
    parser.add_argument("--out", type=Path, help="folder of the session; default: runs/collect-<task>")
    parser.add_argument("--countdown", type=float, default=3.0, help="s before an episode begins (default: 3)")
    parser.add_argument("--no-home", action="store_true", help="begin where the arm is, not at its start position")
    parser.add_argument("--policy", default="", metavar="NODE", help="node of the policy that is corrected")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras (default: front,wrist)")
    parser.add_argument("--image-transport", choices=["raw", "compressed"], default="raw", help="of the cameras")
    parser.add_argument("--joint-states", default="joint_states", metavar="TOPIC", help="default: joint_states")
    parser.add_argument("--arm", choices=["left", "right", "both"], help="of two arms, those that move home")
    parser.add_argument("--controller", default="controller", help="node name of the controller")
    parser.add_argument("--images", choices=["raw", "png", "jpeg"], default="raw", help="in the bags, as for record")
    parser.add_argument("--quality", type=whole_number(1, 100), default=95, help="of JPEG, 1..100")
    parser.add_argument("--exclude", action="append", default=[], metavar="REGEX", help="topics left out; repeat")
    parser.add_argument("--joy", default="joy", metavar="TOPIC", help="joystick whose buttons begin, end and keep")
    parser.add_argument("--joy-next", type=whole_number(0, 63), default=6, metavar="BUTTON", help="default: 6")
    parser.add_argument("--scripted", action="store_true", help="the simulated workcell's expert is the operator")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=2_000_000, help="of its first scene")
    parser.add_argument("--distractors", type=int, default=-1, help="objects in its scenes; -1: drawn from the seed")


def run(args: argparse.Namespace) -> int:
    """Collect until the operator quits, or the scripted one has finished; returns 0 if all episodes were kept."""
    config = CollectorConfig(
        teleop=TeleopClientConfig(controller=args.controller, arms=ARMS[args.arm]), countdown=args.countdown,
        home=not args.no_home, cameras=args.cameras.split(","), image_transport=args.image_transport,
        joint_states=args.joint_states, policy=args.policy, joy=args.joy,
        joy_buttons={"next": args.joy_next} if args.joy != "joy" else {"next": args.joy_next, "fail": 9, "discard": 10},
    )  # fmt: skip
    if not args.task and args.out is None:
        raise ValueError("say what the episodes show with --task, or which session goes on with --out")
    session = SessionFolder(args.out or Path("runs") / f"collect-{_slug(args.task)}", args.task, args.episodes)
    left_out = [*RecorderConfig().exclude, *args.exclude]
    recorder = EpisodeRecorder(
        {"images": args.images, "quality": args.quality, "exclude": left_out, "awaited": config.streams},
        session.folder / "logs",
    )  # fmt: skip
    use_environment()
    rclpy.init(args=["--ros-args", *enclave_arguments("collector")], signal_handler_options=SignalHandlerOptions.NO)
    screen = StatusLine()
    collector = CollectorNode(config, session, recorder, screen.print_line)
    try:
        print(f"session {session.folder}: {_summary(collector)}")
        return _serve(collector, screen, args)
    finally:
        collector.close()
        rclpy.try_shutdown()
        print(f"\r\033[Ksession {session.folder}: {_summary(collector)}")


def _serve(collector: CollectorNode, screen: StatusLine, args: argparse.Namespace) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(collector)
    operator = None
    if args.scripted:
        teleop, corrects = collector.config.teleop, bool(args.policy)
        executor.add_node(operator := ScriptedOperator(teleop, args.seed, args.distractors, corrects))
    try:
        with ExitStack() as stack:
            typist = None
            if sys.stdin.isatty() and operator is None:
                stack.enter_context(keys_at_once())
                typist = _Typist(collector, screen)
            while operator is None or not operator.finished:
                executor.spin_once(timeout_sec=WAIT)
                if typist is not None and typist.quits():
                    break
    finally:
        executor.shutdown()
        if operator is not None:
            operator.destroy_node()
    if operator is not None and operator.refusal:
        raise RuntimeError(operator.refusal)
    return 0 if collector.collection.is_complete else 1


class _Typist:
    """Keys of a terminal to commands, and a line that says where the collection stands."""

    def __init__(self, collector: CollectorNode, screen: StatusLine) -> None:
        self._collector, self._screen, self._note = collector, screen, TypedNote()
        self._screen.print_line(HELP)

    def quits(self) -> bool:
        """Process what was typed; whether the operator quits."""
        for key in read_keys(0.0):
            if self._note.text is not None:
                if note := self._note.type(key):
                    self._command("", note)
            elif key in ("q", GONE):
                return True
            elif key == "n":
                self._note.begin()
            elif key in KEYS:
                self._command(KEYS[key])
        self._screen.show(_state(self._collector) if self._note.text is None else f"note: {self._note.text}")
        return False

    def _command(self, name: str, notes: str = "") -> None:
        if refusal := self._collector.command(name, notes=notes):
            self._screen.print_line(refusal)


def _state(collector: CollectorNode) -> str:
    state = collector.collection.state
    seconds = collector.left if state is CollectionState.COUNTDOWN else collector.elapsed
    timed = f" {seconds:.0f} s" if state in (CollectionState.COUNTDOWN, CollectionState.RECORDING) else ""
    return f"{_summary(collector)} | {state.value}{timed}: {collector.line}"


def _summary(collector: CollectorNode) -> str:
    of = collector.collection
    counts = f"{of.count(Outcome.KEPT)} of {of.wanted} kept, {of.count(Outcome.FAILED)} failed"
    return f"{counts}, {of.count(Outcome.DISCARDED)} discarded"


def _slug(task: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", task.lower()).strip("_")[:60] or "session"
