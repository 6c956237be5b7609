"""`molmoact-ros label`: what the model has to reason about demonstrations, as labels that `finetune` reads."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from molmoact_ros.cli.episode_options import add_episode_options, episode_source, with_notes
from molmoact_ros.datasets.arrow_writer import import_datasets
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.given_statistics import given_statistics
from molmoact_ros.datasets.labelling.click_page import click_page
from molmoact_ros.datasets.labelling.depth_labels import DEPTH_ANYTHING, GuessedDepth, MeasuredDepth
from molmoact_ros.datasets.labelling.labelling import EpisodeLabelling, Labellers, select_episodes, write_labels
from molmoact_ros.datasets.labelling.trace_labels import (
    InferredTraces,
    MakeLabeller,
    PathTraces,
    ProjectedTraces,
    TraceLabeller,
    TracePoints,
    TrackedTraces,
    first_that_fits,
)
from molmoact_ros.datasets.labelling.tracking import read_clicks
from molmoact_ros.datasets.staging import refuse_inside
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.checkpoint import find_depth_vq, load_depth_vq
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.utils.arguments import add_checkpoint, add_seed, output_file, whole_number
from molmoact_ros.utils.paths import checkpoint_of
from molmoact_ros.utils.progress import progress_bar
from molmoact_ros.utils.whole_file import write_whole

ABOUT = """For each frame of a demonstration the model learns to say how deep the scene is (100 depth tokens), where the
gripper will go in the first camera's image (the trace, up to five points) and what to do (eight actions). This command
makes these labels, and writes them with the images in the layout that `molmoact-ros finetune --data` and MolmoAct's own
fine-tuning code read. What the episodes are read from is never written to.

Depth tokens are those of the checkpoint's depth decoder, of the depth that the camera measured; small holes are filled.
Traces are the hand's path by the arm's kinematics, projected through the front camera's calibration, which the bags of
`collect` hold (camera_info and /tf_static). Without calibration a person clicks the gripper in a few frames of each
episode, on a page that --click-page writes, and a tracker follows it in between; or the checkpoint's own traces are
learnt again (--trace model). Frames in which nothing moves are cut at both ends.

Look at labels.html in the folder before you train: twenty random labels, histograms, and what looks wrong."""
EXAMPLES = """examples:
  molmoact-ros label runs/collect-put_the_cup_in_the_sink --out cup-in-sink
  molmoact-ros label bags/* --out cup-in-sink --checkpoint MolmoAct-7B-D-0812
  molmoact-ros label my-lerobot-dataset --click-page clicks.html          (open it, click, save clicks.json)
  molmoact-ros label my-lerobot-dataset --clicks clicks.json --depth depth-anything
  molmoact-ros label runs/corrections --out corrections --statistics my-policy     (few episodes: its action tokens)
  molmoact-ros finetune --checkpoint MolmoAct-7B-D-0812 --data cup-in-sink --out my-policy
"""
SUFFIX: Final = "-labels"
"""Of the default folder's name, behind that of the episodes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.description, parser.epilog = ABOUT, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_episode_options(parser)
    parser.add_argument("--out", type=Path, help=f"a new folder for the labels; default: EPISODES{SUFFIX}, beside")
    parser.add_argument("--key", default="", help="un-normalisation key of fine-tunes; default: the folder's name")
    parser.add_argument(
        "--statistics", type=Path, metavar="SOURCE",
        help="normalise actions by those of a checkpoint's folder or of a dataset_statistics.json, and keep its key; "
        "default: by the data's own",
    )  # fmt: skip
    add_checkpoint(parser)
    parser.add_argument(
        "--depth", choices=["measured", "depth-anything"], default="measured",
        help="depth tokens from measured depth, or from what Depth Anything V2 guesses, as in MolmoAct's own data",
    )  # fmt: skip
    parser.add_argument("--depth-model", default=DEPTH_ANYTHING, help="folder or name; default: %(default)s")
    parser.add_argument(
        "--trace", choices=["auto", "calibration", "clicks", "model"], default="auto",
        help="where traces come from; auto: an episode's calibration, else its clicks",
    )  # fmt: skip
    parser.add_argument(
        "--trace-points", choices=[points.value for points in TracePoints], default="even",
        help="even: five in even time, as in MolmoAct's own data; gripper: three, here, where it closes and where it "
        "opens, as the small model of the workcell has learnt; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--clicks", type=Path, metavar="FILE", help="clicks.json, as the page saves it")
    parser.add_argument(
        "--click-page", type=output_file, metavar="FILE", help="only write a page, such as clicks.html, to click on"
    )
    parser.add_argument("--click-frames", type=whole_number(2, 100), default=6, help="of each episode; default 6")
    parser.add_argument("--with-failures", action="store_true", help="label the episodes too that failed")
    parser.add_argument(
        "--unnorm-key", default="", help="of --statistics, or of --trace model, where there are several"
    )
    parser.add_argument("--device", default="cpu", help="torch device of what is inferred, such as cuda")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Write the labels, or the page to click on."""
    source = episode_source(args)
    if args.click_page is not None:
        return _write_page(args, source)
    import_datasets()
    given = None if args.statistics is None else given_statistics(args.statistics, args.unnorm_key)
    folder, labellers = _folder(args), _labellers(args)
    measured = args.depth == "measured"
    selection = select_episodes(with_notes(source), labellers.trace, args.with_failures, measured)
    selection.left_out.update(source.left_out)
    key, statistics = given or (folder.resolve().name, selection.statistics)
    with progress_bar("labelling") as progress:
        labelling = EpisodeLabelling(source, selection, labellers, args.seed, progress)
        report = write_labels(folder, args.key or key, statistics, selection, labelling)
    print(*report.lines, sep="\n")
    if report.problems:
        print("what looks wrong:", *(f"  {line}" for line in report.problems), sep="\n")
    print(f"labels in {folder}; look at {report.sheet}")
    return 0


def _write_page(args: argparse.Namespace, source: Iterable[Demonstration]) -> int:
    def later(demonstration: Demonstration, frames: slice) -> TraceLabeller:
        return TrackedTraces([], PathTraces(TracePoints.EVEN, demonstration))

    selection = select_episodes(source, later, args.with_failures, measured_depth=False)
    write_whole(args.click_page, click_page(source, selection.parts, args.click_frames))
    print(f"open {args.click_page} in a browser, click, save, and label with --clicks clicks.json")
    return 0


def _folder(args: argparse.Namespace) -> Path:
    """The folder to write. Raises ValueError where it would be among what is read, FileExistsError if it exists."""
    if args.out is None and len(args.bags) > 1:
        raise ValueError("name the folder for the labels with --out")
    folder = args.out or args.bags[0].with_name(f"{args.bags[0].resolve().name}{SUFFIX}")
    refuse_inside(folder, args.bags)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new folder with --out")
    return Path(folder)


def _labellers(args: argparse.Namespace) -> Labellers:
    checkpoint = checkpoint_of(args)
    weights = find_depth_vq(checkpoint)
    if weights is None:
        raise ValueError(f"{checkpoint} has no depth decoder, which makes depth tokens; give --checkpoint with one")
    vq: DepthVq = load_depth_vq(weights)
    measured = args.depth == "measured"
    depth = MeasuredDepth(vq) if measured else GuessedDepth(vq, args.depth_model, args.device)
    return Labellers(vq, depth, _traces(args, checkpoint))


def _traces(args: argparse.Namespace, checkpoint: Path) -> MakeLabeller:
    points = TracePoints(args.trace_points)
    clicks = [TrackedTraces.maker(read_clicks(args.clicks), points)] if args.clicks is not None else []
    if args.trace == "clicks" and not clicks:
        raise ValueError("--trace clicks needs --clicks FILE; --click-page writes the page that makes it")
    if args.trace == "model":
        options = EngineOptions(device=args.device, threads=0, unnorm_key=args.unnorm_key)
        return InferredTraces.maker(open_engine(options, checkpoint))
    if args.trace == "clicks":
        return clicks[0]
    return first_that_fits([ProjectedTraces.maker(points), *(clicks if args.trace == "auto" else [])])
