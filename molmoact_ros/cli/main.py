"""The command `molmoact-ros`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from molmoact_ros.cli.bench import PARTS
from molmoact_ros.cli.commands import Command, add_commands
from molmoact_ros.utils import child_process
from molmoact_ros.utils.errors import one_line

EXAMPLES = """examples:
  molmoact-ros demo --instruction "put the red cube in the bowl" --seed 7
  molmoact-ros demo --profile bimanual_sim
  molmoact-ros eval --episodes 40 --seed 1000 --json figures.json
  molmoact-ros eval --steer --episodes 30     (strokes drawn on the front image)
  molmoact-ros bench engine
  molmoact-ros bench roofline     (7B's shape on a GPU: how near its passes come to the memory's speed)
  molmoact-ros bench seams        (control, faults, fuzz, teleop: the controller's)
  molmoact-ros bench libfranka --seconds 60
  molmoact-ros teleop keyboard    (joystick, spacemouse, leader; --arm left, right or both)
  molmoact-ros home               (to the start position, slowly; Ctrl-C stops it)
  molmoact-ros collect --task "put the cup in the sink" --episodes 50
  molmoact-ros label runs/collect-put_the_cup_in_the_sink --out cup-in-sink
  molmoact-ros trials single_arm --checkpoint ours=my-policy --checkpoint base=MolmoAct-7B-D-0812
  molmoact-ros infer --image front.png --image wrist.png --instruction "pick up the blue ball"
  molmoact-ros up sim             (or realsense, or a profile of your own: mine.yaml)
  molmoact-ros cameras
  molmoact-ros calibrate --print-board board.pdf; molmoact-ros calibrate --camera wrist
  molmoact-ros up sim --record bag
  molmoact-ros record --out bag --images jpeg
  molmoact-ros replay bag --engine --report report.html     (--control, --graph)
  molmoact-ros panel              (then open http://127.0.0.1:8088)
  molmoact-ros doctor
  molmoact-ros fetch allenai/MolmoAct-7B-D-0812
  molmoact-ros doctor --checkpoint MolmoAct-7B-D-0812
  molmoact-ros merge my-adapter --base MolmoAct-7B-D-0812 --out merged
  molmoact-ros finetune --checkpoint MolmoAct-7B-D-0812 --data cup-in-sink --out my-policy
  molmoact-ros export --checkpoint MolmoAct-7B-D-0812 --precision float16
  molmoact-ros serve --checkpoint MolmoAct2-DROID --device cuda
"""
COMMANDS: Final = {
    "demo": Command("one episode in the simulated workcell: a video, a bag and a summary", "molmoact_ros.cli.demo"),
    "eval": Command("many episodes through the ROS graph, and a table of how they went", "molmoact_ros.cli.evaluate"),
    "bench": Command("how fast the parts are, beside a baseline in the same run", parts=PARTS),
    "to-lerobot": Command("bags as one LeRobot dataset, an episode each", "molmoact_ros.cli.to_lerobot"),
    "from-lerobot": Command("episodes of a LeRobot dataset as bags, to be replayed", "molmoact_ros.cli.from_lerobot"),
    "teleop": Command("move an arm by hand, over the policy", "molmoact_ros.cli.teleop"),
    "home": Command("the arm moves to its start position, slowly, while the command runs", "molmoact_ros.cli.home"),
    "collect": Command(
        "demonstrations and corrections, an episode after the other, each a bag with a record",
        "molmoact_ros.cli.collect",
    ),
    "label": Command(
        "depth tokens and traces for demonstrations, as `finetune --data` reads them", "molmoact_ros.cli.label"
    ),
    "trials": Command(
        "policies on a real robot, in a random order and blind, scored by a person; a page at the end",
        "molmoact_ros.cli.trials",
    ),
    "foxglove": Command(
        "show the running nodes' topics in Foxglove, without a ROS installation", "molmoact_ros.cli.foxglove"
    ),
    "panel": Command(
        "a web page: live images, the trace to redraw, instruction, jog and STOP", "molmoact_ros.cli.panel"
    ),
    "infer": Command("one reasoning step on images: depth codes, trace and actions", "molmoact_ros.cli.infer"),
    "up": Command("start the nodes of a profile until Ctrl-C", "molmoact_ros.cli.up"),
    "record": Command(
        "everything that is published, into a bag, until Ctrl-C; or repair a bag", "molmoact_ros.cli.record"
    ),
    "replay": Command(
        "a bag again by today's code, compared with what was recorded; 2: it differs too much",
        "molmoact_ros.cli.replay",
    ),
    "train": Command("train the nano model from nothing; goes on where it stopped", "molmoact_ros.cli.train"),
    "finetune": Command(
        "train a checkpoint on your own labelled demonstrations; goes on where it stopped", "molmoact_ros.cli.finetune"
    ),
    "rehearse": Command(
        "labelled samples of what the nano model knows already, for `finetune --rehearse`", "molmoact_ros.cli.rehearse"
    ),
    "doctor": Command(
        "what works here, what a checkpoint folder holds, and what to do about what does not fit",
        "molmoact_ros.cli.doctor",
    ),
    "export": Command(
        "the vision tower as ONNX, for ONNX Runtime with TensorRT, CUDA or the processor", "molmoact_ros.cli.export"
    ),
    "cameras": Command(
        "the RealSense cameras that are plugged in, and their part of a profile", "molmoact_ros.cli.cameras"
    ),
    "calibrate": Command(
        "where a camera is, on the hand or beside the arm, by a printed ChArUco board", "molmoact_ros.cli.calibrate"
    ),
    "serve": Command(
        "a server with a checkpoint, for policies on other computers: vLLM, or `/act` of MolmoAct 2",
        "molmoact_ros.cli.serve",
    ),
    "keys": Command("keys and permissions of each node for SROS2 (docs/security.md)", "molmoact_ros.cli.keys"),
    "merge": Command("merge a LoRA adapter into its checkpoint, as a new folder", "molmoact_ros.cli.merge"),
    "fetch": Command("download a released checkpoint; a second call fetches what is missing", "molmoact_ros.cli.fetch"),
}


def make_parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser for `argv`; None: for every command, which imports all of their modules."""
    parser = argparse.ArgumentParser(
        "molmoact-ros", description="Robot control on ROS 2 by MolmoAct: depth, trace, action.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_commands(parser, COMMANDS, "command", argv)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 1, with one line on standard error, when it fails."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = make_parser(argv).parse_args(argv)
        with child_process.ended_by_signals():
            status: int = args.run(args)
            return status
    except child_process.Ended as ended:
        return 128 + ended.number
    except KeyboardInterrupt:
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
