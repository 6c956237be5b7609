"""One reasoning step on image files: prints the model's answer, and draws it into images."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.image_processor import read_picture
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.engine.vision.selection import VISIONS
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.reasoning.trace import draw_training_overlay, trace_from_text
from molmoact_ros.utils.arguments import add_checkpoint, add_dtype, not_negative
from molmoact_ros.utils.paths import checkpoint_of
from molmoact_ros.visualization.overlay import colour_depth, draw_for_people

DEPTH_SIDE = 320  # pixels


def infer(
    engine: Engine, files: list[Path], instruction: str, trace: np.ndarray | None, out: Path, console: Console,
    state: np.ndarray | None = None, seed: int = 0,
) -> Reasoning:  # fmt: skip
    """Reason about `files`, front camera first, and print each part once it is complete; images go to `out`.

    trace: an operator's, int [n, 2] in 0..255 of the front image, which the model then follows; None: the model plans
    its own. state: of the robot, float [D] as the checkpoint's norm_tag has it, and seed: of the noise; for MolmoAct 2.
    Raises RefusedStep.
    """
    images = tuple(read_picture(file) for file in files)
    said = None
    measured = None if state is None else RobotState(state, 0.0)
    for said in engine.reason(Observation(images, instruction, 0.0, trace, state=measured, seed=seed)):
        console.print(_progress(said))
    assert said is not None and said.actions is not None
    _print(said, console)
    out.mkdir(parents=True, exist_ok=True)
    drawn = said.trace if trace is None else trace
    if drawn is not None:
        Image.fromarray(draw_for_people(images[0], drawn)).save(out / "trace.png")
    if trace is not None:  # the image that the model received
        Image.fromarray(draw_training_overlay(engine.frame(images[0]), trace)).save(out / "overlay.png")
    if said.depth_codes is not None and engine.depth_vq is not None:
        Image.fromarray(colour_depth(engine.depth_vq.picture(said.depth_codes), DEPTH_SIDE)).save(out / "depth.png")
    counts, total = engine.timings.counts, engine.timings.total
    console.print(f"{counts.tokens} tokens in {counts.passes} passes, {total:.2f} s; images in {out}")
    return said


def _progress(said: Reasoning) -> str:
    parts = (("depth", said.depth_codes), ("trace", said.trace), ("actions", said.actions))
    return "complete: " + (", ".join(name for name, part in parts if part is not None) or "nothing yet")


def _print(said: Reasoning, console: Console) -> None:
    assert said.actions is not None
    if said.depth_codes is not None:
        console.print("depth codes, row by row, as indices into the codebook", str(said.depth_codes), sep="\n")
    for name, trace in (("trace", said.trace), ("trace of the right arm", said.second_trace)):
        if trace is not None:
            console.print(f"{name}, x and y in 0..255 of the front image: {trace.tolist()}")
    with np.printoptions(precision=6, suppress=True, linewidth=120):
        console.print(f"actions {list(said.actions.shape)}", str(said.actions), sep="\n", highlight=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--image", type=Path, action="append", required=True, help="a camera's image, front first")
    parser.add_argument("--instruction", required=True)
    parser.add_argument("--edit-trace", metavar='"X,Y;X,Y"', help="a trace to follow, 0..255 of the front image")
    parser.add_argument(
        "--state", metavar="X,X", help="of MolmoAct 2: the state as its norm_tag has it: --state=X,X,..."
    )
    parser.add_argument("--seed", type=not_negative(int), default=0, help="of MolmoAct 2: of the noise; default: 0")
    parser.add_argument("--out", type=Path, default=Path("infer"), help="folder for the trace and depth images")
    parser.add_argument("--unnorm-key", help="statistics that turn answers into actions, where there are several")
    parser.add_argument("--frame-size", default="", help='scale images to, such as 320x240; or "camera": as they are')
    parser.add_argument("--precision", default="", help="of the exported vision tower; default: by the device")
    add_checkpoint(parser)
    parser.add_argument("--vision", choices=VISIONS, default="auto", help="what runs the vision tower; default: auto")
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda")
    parser.add_argument(
        "--quantization", default="", help="the decoder's weights in fp8 or int4; default: as --dtype says"
    )
    add_dtype(parser)


def run(args: argparse.Namespace) -> int:
    """Run one reasoning step on image files."""
    console, trace = Console(), None if args.edit_trace is None else trace_from_text(args.edit_trace)
    with console.status("loading the checkpoint"):
        options = EngineOptions(
            device=args.device, threads=0, dtype=args.dtype, unnorm_key=args.unnorm_key or "",
            frame_size=args.frame_size, vision=args.vision, vision_precision=args.precision,
            quantization=args.quantization,
        )  # fmt: skip
        engine = open_engine(options, checkpoint_of(args))
    infer(engine, args.image, args.instruction, trace, args.out, console, _state(args.state), args.seed)
    return 0


def _state(text: str | None) -> np.ndarray | None:
    """The numbers of --state, float64 [D]. Raises ValueError for anything else."""
    if text is None:
        return None
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError:
        raise ValueError(f"--state {text!r} is not a list of numbers, such as 0,-0.8,0,-2.4,0,1.6,0.8,0") from None
