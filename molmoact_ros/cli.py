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
  molmoact-ros eval --steer --episodes 30     (strokes drawn on the front picture)
  molmoact-ros bench engine
  molmoact-ros bench seams        (control, faults, fuzz, teleop: the controller's)
  molmoact-ros bench libfranka --seconds 60
  molmoact-ros teleop keyboard    (joystick; --arm left, right or both)
  molmoact-ros infer --image front.png --image wrist.png --instruction "pick up the blue ball"
  molmoact-ros up sim
  molmoact-ros doctor
  molmoact-ros fetch allenai/MolmoAct-7B-D-0812
  molmoact-ros doctor --checkpoint MolmoAct-7B-D-0812
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
    asked = run.add_mutually_exclusive_group()
    asked.add_argument("--swap", action="store_true", help="ask for another object of the same table")
    asked.add_argument(
        "--steer",
        action="store_true",
        help="draw a stroke to an object that the instruction does not name; in lock-step, without ROS, so that a busy "
        "machine changes nothing",
    )
    bench = add("bench", "how fast the parts are, beside a baseline in the same run")
    parts = "engine, exact, load: the model; seams, control, faults, fuzz, teleop: the controller; libfranka: 1 kHz"
    bench.add_argument("part", choices=list(BENCHES), help=parts)
    bench.add_argument("--steps", type=int, default=40, help="engine, exact: reasoning steps")
    bench.add_argument("--seed", type=int, default=0, help="which scene is looked at, or what is drawn")
    bench.add_argument("--seconds", type=float, help="seams, control: of each measurement, 20; libfranka: 60")
    bench.add_argument("--load", type=int, default=2, help="control: busy processes beside it")
    bench.add_argument("--times", type=int, default=10, help="faults, teleop: how often each is done")
    bench.add_argument("--only", default="", help="faults: those whose name holds this")
    bench.add_argument("--actions", type=int, default=1_000_000, help="fuzz: how many at least")
    bench.add_argument("--arms", type=int, choices=[1, 2], default=1, help="fuzz: how many arms")
    bench.add_argument("--alone", action="store_true", help="engine: without simulator and controller beside it")
    bench.add_argument("--chart", type=Path, help="engine: also draw the figures into this PNG or SVG file")
    teleop = add("teleop", "move an arm by hand, over the policy")
    teleop.add_argument(
        "device", choices=["keyboard", "joystick"], help="joystick: what ros joy_node publishes at /joy"
    )
    teleop.add_argument("--arm", choices=["left", "right", "both"], help="of two arms; both: one after the other")
    teleop.add_argument("--controller", default="/controller", help="node name of the controller")
    teleop.add_argument("--in-tool", action="store_true", help="directions are the hand's own, not the base's")
    infer = add("infer", "one reasoning step on pictures: depth codes, trace and actions")
    infer.add_argument("--image", type=Path, action="append", required=True, help="a camera's picture, front first")
    infer.add_argument("--instruction", required=True)
    infer.add_argument("--edit-trace", metavar='"X,Y;X,Y"', help="a trace to follow, 0..255 of the front picture")
    infer.add_argument("--out", type=Path, default=Path("infer"), help="folder for the trace and depth pictures")
    infer.add_argument("--unnorm-key", help="statistics that turn answers into actions; needed where there are several")
    infer.add_argument("--frame-size", default="", help='scale pictures to, such as 320x240; or "camera": as they are')
    infer.add_argument("--device", default="cpu", help="torch device, such as cuda")
    up = add("up", "start the nodes of a profile until Ctrl-C")
    up.add_argument("profile", help="a file of config/profiles, without .yaml")
    up.add_argument("--logs", type=Path, default=Path("runs/logs"))
    train = add("train", "train the nano model from nothing; goes on where it stopped")
    train.add_argument("--out", type=Path, default=Path("runs/nano"), help="demonstrations, progress and result")
    train.add_argument("--samples", type=int, default=48_000, help="moments to demonstrate")
    train.add_argument("--start", type=Path, help="a nano checkpoint to train on: its weights, the last stage only")
    train.add_argument("--config", type=Path, help="a JSON file that changes the recipe (learn/train.py: TrainConfig)")
    doctor = add("doctor", "what works here, what a checkpoint folder holds, and what to do about what does not fit")
    doctor.add_argument("--checkpoint", type=Path, help="check this folder instead, without loading its weights")
    doctor.add_argument("--golden", type=Path, help="compare with the reference's numbers in this folder instead")
    fetch = add("fetch", "download a released checkpoint; a second call fetches what is missing")
    fetch.add_argument("repository", help="such as allenai/MolmoAct-7B-D-0812")
    fetch.add_argument("--out", type=Path, help="folder; default: the repository's name, here")
    fetch.add_argument("--revision", help="branch, tag or commit")
    for command in (demo, run, bench, infer):
        command.add_argument("--checkpoint", type=Path, help="checkpoint folder; default: the nano model")
    for command in (bench, infer):
        command.add_argument("--dtype", default="", help="float32, bfloat16 or float16; default: bfloat16 on a GPU")
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
    return _eval_steered(args) if args.steer else _eval_asked(args)


def _eval_steered(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from molmoact_ros.engine.engine import TorchEngine
    from molmoact_ros.learn.figures import machine
    from molmoact_ros.learn.steering import follow_strokes, report
    from molmoact_ros.paths import robot_model

    engine, results = TorchEngine.load(_checkpoint(args), threads=1), []
    strokes = follow_strokes(robot_model(), engine, args.episodes, args.seed)
    for result in tqdm(strokes, total=args.episodes, unit="stroke", mininterval=5):
        results.append(result)
        tqdm.write(f"{result.seed} {result}")
        figures = report(results)
        if args.json:
            args.json.write_text(json.dumps({"seed": args.seed, **machine(engine.digest), **figures}, indent=1))
    for name, value in figures["summary"].items():
        print(f"{name:12} {value:.3g}")
    return 0


def _eval_asked(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.engine.checkpoint import digest
    from molmoact_ros.learn.figures import report
    from molmoact_ros.nodes.evaluate import evaluate, show

    console, rows, checkpoint = Console(), [], _checkpoint(args)
    for row in evaluate(args.episodes, args.seed, checkpoint, args.swap):
        rows.append(row)
        mark = "[green]yes[/]" if row.success else "[red]no[/] "
        console.print(f"{row.seed} {mark} {row.instruction}; first lifted: {row.first_lifted or 'nothing'}")
        if args.json:
            args.json.write_text(json.dumps(report(rows, digest(checkpoint), args.seed), indent=1))
    show(rows, console)
    return 0


def _bench(args: argparse.Namespace) -> int:
    return BENCHES[args.part](args)


def _bench_controller(args: argparse.Namespace) -> int:
    from molmoact_ros.nodes import bench_controller

    args.seconds = args.seconds or 20.0
    return bench_controller.show(args)


def _bench_libfranka(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from molmoact_ros.nodes.bench_libfranka import bench
    from molmoact_ros.paths import robot_model

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    result = bench(robot_model(), args.seconds or 60.0, args.seed, tell)
    for name, value in asdict(result).items():
        print(f"{name:18} {value:.6g}" if isinstance(value, float) else f"{name:18} {value}")
    for failure in result.failures:
        print(f"FAILED: {failure}")
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, **asdict(result)}, indent=1))
    return 1 if result.failures else 0


def _bench_engine(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from molmoact_ros.engine.bench import BASELINE
    from molmoact_ros.learn.figures import machine
    from molmoact_ros.nodes.bench_engine import bench_engine

    figures, costs, digest = bench_engine(_checkpoint(args), args.steps, args.seed, args.alone)
    beside = "alone" if args.alone else "beside the simulator and the controller"
    table = Table("stage", "median", "p99", title=f"{args.steps} steps {beside}, checkpoint {digest}")
    for name, f in figures.items():
        unit = "" if name.startswith(("passes", "tokens", "guesses")) else " ms"
        table.add_row(name, f"{f['median']:.1f}{unit}", f"{f['p99']:.1f}{unit}")
    console = Console()
    console.print(table)
    ratio = figures[BASELINE]["median"] / figures["step"]["median"]
    console.print(f"{ratio:.1f} times the speed of transformers' generate, greedy, over the same weights")
    console.print(
        "a pass over one token takes {pass:.2f} ms; reading its {weights:.0f} MB of weights takes {floor:.2f} ms "
        "at the measured {copy:.0f} GB/s".format(**costs["floor"])
    )
    if args.json:
        about = {"seed": args.seed, "beside": beside, **machine(digest)}
        args.json.write_text(json.dumps(about | {"ratio": ratio, "figures": figures, **costs}, indent=1))
    if args.chart:
        from molmoact_ros.engine.bench_chart import draw_engine

        draw_engine(figures, f"{args.steps} steps {beside}", args.chart)
    return 0


def _bench_exact(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from tqdm import tqdm

    from molmoact_ros.engine.engine import TorchEngine
    from molmoact_ros.learn.exactness import Exactness, exactness
    from molmoact_ros.learn.figures import machine
    from molmoact_ros.paths import robot_model

    engine = TorchEngine.load(_checkpoint(args), threads=1)
    with tqdm(total=args.steps, unit="step", mininterval=5) as bar:

        def tick(found: Exactness) -> None:
            bar.update()
            bar.set_postfix(unequal=found.unequal)

        found = exactness(robot_model(), engine, args.steps, args.seed, tick)
    print(
        f"{found.steps} answers in closed loop, {found.unequal} unequal with and without guesses ({found.wide} with "
        f"wide ones too); {found.passes:.1f} passes an answer instead of {found.plain_passes:.1f}; "
        f"memory grew by {found.grown:.1f} MB"
    )
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, **machine(engine.digest), **asdict(found)}, indent=1))
    return 1 if found.unequal else 0


def _bench_load(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.engine.bench_load import bench_load

    figures = bench_load(_checkpoint(args), args.dtype)
    Console().print(
        f"{figures['seconds']:.1f} s; {figures['result']:.2f} GB stay, {figures['above']:.2f} GB more at the peak; "
        f"largest file {figures['largest']:.2f} GB"
    )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def _infer(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.engine.checkpoint import torch_dtype
    from molmoact_ros.engine.engine import TorchEngine
    from molmoact_ros.inference import infer
    from molmoact_ros.reasoning.trace import trace_from_text

    console, trace = Console(), None if args.edit_trace is None else trace_from_text(args.edit_trace)
    with console.status("loading the checkpoint"):
        engine = TorchEngine.load(
            _checkpoint(args), args.device, None, torch_dtype(args.dtype), args.unnorm_key, args.frame_size
        )
    infer(engine, args.image, args.instruction, trace, args.out, console)
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


def _doctor(args: argparse.Namespace) -> int:
    from molmoact_ros.engine.findings import Verdict

    if args.golden:
        from molmoact_ros.engine.golden import compare

        findings = compare(args.golden)
    elif args.checkpoint:
        from molmoact_ros.engine.inspection import inspect

        findings = inspect(args.checkpoint)
    else:
        from molmoact_ros.doctor import examine

        findings = examine()
    for finding in findings:
        print(f"{finding.verdict.value:4} {finding.name}: {finding.text}")
    return 1 if any(finding.verdict is Verdict.FAIL for finding in findings) else 0


def _fetch(args: argparse.Namespace) -> int:
    from molmoact_ros.fetch import fetch

    folder = fetch(args.repository, args.out or Path(args.repository.split("/")[-1]), args.revision)
    print(f"checkpoint in {folder}; look at it with: molmoact-ros doctor --checkpoint {folder}")
    return 0


BENCHES = {
    "engine": _bench_engine, "exact": _bench_exact, "load": _bench_load, "libfranka": _bench_libfranka,
    **dict.fromkeys(("seams", "control", "faults", "fuzz", "teleop"), _bench_controller),
}  # fmt: skip
COMMANDS = {
    "demo": _demo, "eval": _eval, "bench": _bench, "infer": _infer, "up": _up, "teleop": _teleop, "train": _train,
    "doctor": _doctor, "fetch": _fetch,
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
