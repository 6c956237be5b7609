"""The command `molmoact-ros`. Every command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

EXAMPLES = """examples:
  molmoact-ros demo --instruction "put the red cube in the bowl" --seed 7
  molmoact-ros demo --profile bimanual_sim
  molmoact-ros eval --episodes 40 --seed 1000 --json figures.json
  molmoact-ros bench engine
  molmoact-ros bench seams        (control, faults, fuzz, teleop: the controller's)
  molmoact-ros teleop keyboard    (joystick; --arm left, right or both)
  molmoact-ros infer --image front.png --image wrist.png --instruction "pick up the blue ball"
  molmoact-ros up sim
  molmoact-ros doctor
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "molmoact-ros", description="Robot control on ROS 2 by MolmoAct: depth, trace, action.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    demo = add("demo", "one episode in the simulated workcell: a video, a bag and a summary")
    demo.add_argument("--instruction", default="", help="what to do; default: what the scene asks for")
    demo.add_argument("--profile", default="sim", help="a file of config/profiles: sim, or bimanual_sim for two arms")
    demo.add_argument("--seed", type=int, default=7, help="which scene")
    demo.add_argument("--out", type=Path, help="a new folder for the results; default: runs/demo-<time>")
    run = add("eval", "many episodes through the ROS graph, and a table of how they went")
    run.add_argument("--episodes", type=int, default=40)
    run.add_argument("--seed", type=int, default=1000, help="the first scene; training uses seeds from a million on")
    run.add_argument("--swap", action="store_true", help="ask for another object of the same table")
    bench = add("bench", "how fast the parts are, beside a baseline in the same run")
    bench.add_argument("part", choices=["engine", "seams", "control", "faults", "fuzz", "teleop"])
    bench.add_argument("--steps", type=int, default=40, help="engine: reasoning steps to time")
    bench.add_argument("--seed", type=int, default=0, help="which scene is looked at, or what is drawn")
    bench.add_argument("--seconds", type=float, default=20.0, help="seams, control: how long each is measured")
    bench.add_argument("--load", type=int, default=2, help="control: busy processes beside it")
    bench.add_argument("--times", type=int, default=10, help="faults, teleop: how often each is done")
    bench.add_argument("--only", default="", help="faults: those whose name holds this")
    bench.add_argument("--actions", type=int, default=1_000_000, help="fuzz: how many at least")
    bench.add_argument("--arms", type=int, choices=[1, 2], default=1, help="fuzz: how many arms")
    bench.add_argument("--alone", action="store_true", help="without the simulator and the controller beside it")
    teleop = add("teleop", "move an arm by hand, over the policy")
    teleop.add_argument(
        "device", choices=["keyboard", "joystick"], help="joystick: what ros joy_node publishes at /joy"
    )
    teleop.add_argument("--arm", choices=["left", "right", "both"], help="of two arms; both: one after the other")
    teleop.add_argument("--controller", default="/controller", help="node name of the controller")
    teleop.add_argument("--in-tool", action="store_true", help="directions are the hand's own, not the base's")
    infer = add("infer", "one reasoning step on pictures")
    infer.add_argument("--image", type=Path, action="append", required=True, help="a camera's picture, front first")
    infer.add_argument("--instruction", required=True)
    infer.add_argument("--out", type=Path, default=Path("infer"), help="folder for the overlay and depth pictures")
    up = add("up", "start the nodes of a profile until Ctrl-C")
    up.add_argument("profile", help="a file of config/profiles, without .yaml")
    up.add_argument("--logs", type=Path, default=Path("runs/logs"))
    train = add("train", "train the nano model from nothing; goes on where it stopped")
    train.add_argument("--out", type=Path, default=Path("runs/nano"), help="demonstrations, progress and result")
    train.add_argument("--samples", type=int, default=48_000, help="moments to demonstrate")
    train.add_argument("--start", type=Path, help="a nano checkpoint to train on: its weights, the last stage only")
    train.add_argument("--config", type=Path, help="a JSON file that changes the recipe (learn/train.py: TrainConfig)")
    add("doctor", "what works here, and what to do about what does not")
    for command in (demo, run, bench, infer):
        command.add_argument("--checkpoint", type=Path, help="checkpoint folder; default: the nano model")
    for command in (run, bench):
        command.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def _checkpoint(args: argparse.Namespace) -> Path:
    from molmoact_ros.paths import default_checkpoint

    return (args.checkpoint or default_checkpoint()).resolve()


def _demo(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.nodes.demo import demo

    console = Console()
    out = (args.out or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    episode = demo(args.instruction, args.seed, out, _checkpoint(args), console, args.profile)
    verdict = "[green]done[/]" if episode.success else f"[red]not done[/] ({episode.message})"
    console.print(f"{episode.instruction}: {verdict} after {episode.seconds:.1f} s; video, bag and summary in {out}")
    return 0 if episode.success else 2


def _eval(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.engine.checkpoint import WEIGHTS, digest
    from molmoact_ros.learn.figures import report
    from molmoact_ros.nodes.evaluate import evaluate, show

    console, rows, checkpoint = Console(), [], _checkpoint(args)
    for row in evaluate(args.episodes, args.seed, checkpoint, args.swap):
        rows.append(row)
        mark = "[green]yes[/]" if row.success else "[red]no[/] "
        console.print(f"{row.seed} {mark} {row.instruction}; first lifted: {row.first_lifted or 'nothing'}")
        if args.json:
            args.json.write_text(json.dumps(report(rows, digest(checkpoint / WEIGHTS), args.seed), indent=1))
    show(rows, console)
    return 0


def _bench(args: argparse.Namespace) -> int:
    if args.part == "engine":
        return _bench_engine(args)
    from molmoact_ros.nodes import bench_controller

    return bench_controller.show(args)


def _bench_engine(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from molmoact_ros.learn.figures import machine
    from molmoact_ros.nodes.bench_engine import bench_engine

    figures, digest = bench_engine(_checkpoint(args), args.steps, args.seed, args.alone)
    beside = "alone" if args.alone else "beside the simulator and the controller"
    table = Table("stage", "median", "p99", title=f"{args.steps} steps {beside}, checkpoint {digest}")
    for name, f in figures.items():
        unit = "" if name in ("passes", "tokens") else " ms"
        table.add_row(name, f"{f['median']:.1f}{unit}", f"{f['p99']:.1f}{unit}")
    console = Console()
    console.print(table)
    ratio = figures["plain greedy"]["median"] / figures["step"]["median"]
    console.print(f"{ratio:.1f} times the speed of the plain greedy loop over the same weights")
    if args.json:
        about = {"seed": args.seed, "beside": beside, **machine(digest)}
        args.json.write_text(json.dumps(about | {"ratio": ratio, "figures": figures}, indent=1))
    return 0


def _infer(args: argparse.Namespace) -> int:
    import cv2
    import torch

    from molmoact_ros.engine.engine import TorchEngine
    from molmoact_ros.reasoning.observation import Observation
    from molmoact_ros.reasoning.trace import draw_for_people
    from molmoact_ros.record.video import colour_depth

    pictures = []
    for path in args.image:
        picture = cv2.imread(str(path))
        if picture is None:
            raise ValueError(f"{path} is not a picture that can be read")
        pictures.append(picture[..., ::-1].copy())
    engine = TorchEngine.load(_checkpoint(args))
    *_, said = engine.reason(Observation(tuple(pictures), args.instruction, 0.0))
    assert said.trace is not None and said.depth_codes is not None
    print("depth codes\n", said.depth_codes, "\ntrace\n", said.trace, "\nactions\n", said.actions, sep="")
    args.out.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out / "trace.png"), draw_for_people(pictures[0], said.trace)[..., ::-1])
    depth = engine.depth_vq.decode(torch.from_numpy(said.depth_codes.astype("int64"))[None])[0, 0].numpy()
    cv2.imwrite(str(args.out / "depth.png"), colour_depth(depth, 320)[..., ::-1])
    print(f"pictures in {args.out}")
    return 0


def _up(args: argparse.Namespace) -> int:
    from molmoact_ros.nodes.bringup import up

    print(f"starting {args.profile}; logs in {args.logs}; Ctrl-C ends it")
    up(args.profile, args.logs.resolve())
    return 0


def _teleop(args: argparse.Namespace) -> int:
    import tempfile

    from molmoact_ros.nodes.bringup import command, environment, write_parameters

    arms = {None: [""], "left": ["left_"], "right": ["right_"], "both": ["left_", "right_"]}[args.arm]
    parameters = {"controller": args.controller, "arms": arms, "in_tool": args.in_tool}
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder:
        file = write_parameters(Path(folder), args.device, parameters)
        return subprocess.run(command(args.device, file), env=environment(), cwd=folder).returncode


def _train(args: argparse.Namespace) -> int:
    from molmoact_ros.learn.train import TrainConfig, train_nano
    from molmoact_ros.paths import robot_model

    config = TrainConfig.model_validate_json(args.config.read_text()) if args.config else TrainConfig()
    train_nano(robot_model(), args.out, args.samples, config, args.start)
    print(f"checkpoint in {args.out / 'checkpoint'}; use it with --checkpoint, or copy it to models/nano")
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from molmoact_ros.doctor import examine

    findings = examine()
    for name, fine, text in findings:
        print(f"{'ok  ' if fine else 'FAIL'} {name}: {text}")
    return 0 if all(fine for _, fine, _ in findings) else 1


COMMANDS = {
    "demo": _demo, "eval": _eval, "bench": _bench, "infer": _infer, "up": _up, "teleop": _teleop, "train": _train,
    "doctor": _doctor,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run a command; 1 and one line on standard error when it cannot."""
    args = _parser().parse_args(argv)
    try:
        return COMMANDS[args.command](args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
