"""The command `bench`, each part with its own options. What it needs it imports when it runs, so help is instant."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from molmoact_ros.utils.paths import checkpoint_of
from molmoact_ros.utils.progress import progress_bar

FLOOR = (
    "how near a pass comes to reading its weights once, in bfloat16, fp8 and int4, by a model of any shape with random "
    "weights; and what a step takes with it, beside transformers' generate"
)


def add_benches(bench: argparse.ArgumentParser) -> None:
    """Give the command its parts; each sets `run`, which takes the parsed arguments and gives the exit status."""
    parts = bench.add_subparsers(dest="part", required=True, metavar="PART")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        part = parts.add_parser(name, help=text, description=text)
        part.set_defaults(run=run)
        part.add_argument("--json", type=Path, help="also write the figures here")
        return part

    def seeded(part: argparse.ArgumentParser) -> argparse.ArgumentParser:
        part.add_argument("--seed", type=int, default=0, help="which scene is looked at, or what is drawn")
        return part

    engine = seeded(add("engine", "a reasoning step, stage by stage, beside transformers' generate", _bench_engine))
    engine.add_argument("--alone", action="store_true", help="without simulator and controller beside it")
    engine.add_argument("--chart", type=Path, help="also draw the figures into this PNG or SVG file")
    engine.add_argument("--vision", choices=["torch", "onnx"], default="torch", help="what runs the vision tower")
    exact = seeded(add("exact", "answers with guesses, without, and by torch alone, in closed loop", _bench_exact))
    batch = seeded(add("batch", "answers a second to several robots by one engine", _bench_batch))
    batch.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4, 8], help="how many at once")
    batch.add_argument("--device", default="cpu", help="torch device, such as cuda")
    batch.add_argument("--quantization", default="", help="the decoder's weights in fp8 or int4")
    floor = add("floor", FLOOR, _bench_floor)
    floor.add_argument(
        "--shape", default="7b-d", help="7b-d, or a checkpoint folder, of which only config.json is read"
    )
    floor.add_argument("--device", default="cuda", help="torch device; on a cpu choose a small shape: models/nano")
    floor.add_argument(
        "--quantization",
        nargs="+",
        choices=["none", "fp8", "int4"],
        help="weights; default: all that the device does",
    )
    floor.add_argument("--prompt", type=int, default=988, help="tokens of the prompt; default: of two 320x240 pictures")
    floor.add_argument("--tokens", type=int, default=453, help="tokens of an answer, for the baseline; default 453")
    floor.add_argument(
        "--passes", type=float, nargs="+", default=[79.1], help="for how many passes a step's time is said; "
        "default 79.1: of recorded answers with the released vocabulary (test/engine/decoding/test_recorded_passes.py)",
    )  # fmt: skip
    floor.add_argument("--repeats", type=int, default=30, help="of each measurement; default 30")
    floor.add_argument("--no-baseline", action="store_true", help="without transformers' generate")
    vllm = seeded(add("vllm", "answers by vLLM and by torch, in closed loop", _bench_vllm))
    for part in (engine, exact, batch, vllm):
        part.add_argument("--steps", type=int, default=40, help="reasoning steps")
    load = add("load", "time and memory of loading a checkpoint", _bench_load)
    for part in (batch, load, floor):
        part.add_argument("--dtype", default="", help="float32, bfloat16 or float16; default: bfloat16 on a GPU")

    seams = seeded(add("seams", "joining chunks at several latencies, beside the naive way", _bench_controller))
    control = seeded(add("control", "jitter of commands on a busy machine, beside rclpy's timer", _bench_controller))
    control.add_argument("--load", type=int, default=2, help="busy processes beside it")
    faults = add("faults", "every fault that must hold the arm, and how soon it does", _bench_controller)
    faults.add_argument("--only", default="", help="those whose name holds this")
    fuzz = seeded(add("fuzz", "nonsense at the controller, its commands checked", _bench_controller))
    fuzz.add_argument("--actions", type=int, default=1_000_000, help="how many at least")
    fuzz.add_argument("--arms", type=int, choices=[1, 2], default=1, help="how many arms")
    hand = add("teleop", "a person takes over in mid-motion", _bench_controller)
    franka = seeded(add("libfranka", "1 kHz to the simulated robot behind libfranka's protocol", _bench_libfranka))

    record = seeded(add("record", "what a recorder costs the control loop, and what the disk takes", _bench_record))
    record.add_argument("--kills", type=int, default=0, help="instead, kill a recorder at random so often")
    soak = seeded(add("soak", "whether any node's memory grows while tasks are repeated", _bench_soak))
    soak.add_argument("--minutes", type=float, default=60.0, help="how long; the base is at a sixth of it; default 60")
    panel = add("panel", "what panel and recorder cost between camera and command", _bench_panel)
    steer = seeded(add("steer", "strokes drawn in the panel, and how near the hand follows", _bench_steer))
    for part, seconds in ((seams, 20.0), (control, 20.0), (franka, 60.0), (record, 10.0), (panel, 20.0)):
        part.add_argument("--seconds", type=float, default=seconds, help=f"of each measurement; default {seconds:g}")
    for part, times in ((faults, 10), (hand, 10), (steer, 10), (record, 3), (panel, 4)):
        part.add_argument("--times", type=int, default=times, help=f"how often each is done; default {times}")
    for part in (engine, exact, batch, vllm, load, steer):
        part.add_argument("--checkpoint", type=Path, help="checkpoint folder; default: the nano model")


def _bench_controller(args: argparse.Namespace) -> int:
    from molmoact_ros.benchmarks import controller_reports

    return controller_reports.show(args)


def _bench_panel(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.benchmarks.panel_latency import ARMS, bench_panel
    from molmoact_ros.utils.provenance import machine

    console = Console()
    figures = bench_panel(args.times, args.seconds, console.print)
    for name, f in figures.items():
        console.print(
            f"{name:18} camera to command {f['p50']:.0f} ms at the median, {f['p99']:.0f} ms at the 99th percentile, "
            f"{f['plans']} plans, {f['pictures']:.1f} pictures/s, {f['cores']:.2f} cores"
        )
    for name in ARMS[1:]:
        low, high = figures[name]["p99_ratio_range"]
        console.print(
            f"p99 with {name}: {figures[name]['p99_ratio']:.2f} times that with neither ({low:.2f} to {high:.2f} in "
            "nine of ten resamplings)"
        )
    if args.json:
        args.json.write_text(json.dumps(machine("") | {"figures_ms": figures}, indent=1))
    return 0


def _bench_steer(args: argparse.Namespace) -> int:
    from dataclasses import asdict
    from statistics import median

    from molmoact_ros.benchmarks.stroke_following import NEAR, bench_steer
    from molmoact_ros.engine.model.checkpoint import digest
    from molmoact_ros.utils.provenance import machine

    checkpoint = checkpoint_of(args)
    done = bench_steer(
        args.times, args.seed, checkpoint,
        lambda f: print(f"{f.off:.0f} px off the stroke, {f.end:.0f} px from its end, {f.seconds:.1f} s", flush=True),
    )  # fmt: skip
    off, reached = median(f.off for f in done), sum(f.end <= NEAR for f in done)
    print(f"{len(done)} strokes: {off:.1f} px of 640x480 off at the median; {reached} ends reached")
    if args.json:
        about = machine(digest(checkpoint)) | {"seed": args.seed, "off_px": off, "reached": reached}
        args.json.write_text(json.dumps(about | {"strokes": [asdict(f) for f in done]}, indent=1))
    return 0


def _bench_libfranka(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from molmoact_ros.benchmarks.libfranka import bench
    from molmoact_ros.utils.paths import robot_model

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    result = bench(robot_model(), args.seconds, args.seed, tell)
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

    from molmoact_ros.benchmarks.engine_live import bench_engine
    from molmoact_ros.benchmarks.engine_step import BASELINE
    from molmoact_ros.utils.provenance import machine

    figures, costs, digest = bench_engine(checkpoint_of(args), args.steps, args.seed, args.alone, args.vision)
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
        about = {"seed": args.seed, "beside": beside, "vision": args.vision, **machine(digest)}
        args.json.write_text(json.dumps(about | {"ratio": ratio, "figures": figures, **costs}, indent=1))
    if args.chart:
        from molmoact_ros.benchmarks.engine_chart import draw_engine

        draw_engine(figures, f"{args.steps} steps {beside}", args.chart)
    return 0


def _bench_exact(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from tqdm import tqdm

    from molmoact_ros.benchmarks.speculation_exactness import Exactness, exactness
    from molmoact_ros.engine.torch_engine import TorchEngine
    from molmoact_ros.utils.paths import robot_model
    from molmoact_ros.utils.provenance import machine

    engine = TorchEngine.load(checkpoint_of(args), threads=1)
    with tqdm(total=args.steps, unit="step", mininterval=5) as bar:

        def tick(found: Exactness) -> None:
            bar.update()
            bar.set_postfix(unequal=found.unequal)

        found = exactness(robot_model(), engine, args.steps, args.seed, tick)
    print(
        f"{found.steps} answers in closed loop, {found.unequal} unequal with and without guesses ({found.wide} with "
        f"wide ones too), {found.apart} unequal to torch's own passes; {found.passes:.1f} passes an answer instead of "
        f"{found.plain_passes:.1f}; memory grew by {found.grown:.1f} MB"
    )
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, **machine(engine.digest), **asdict(found)}, indent=1))
    return 1 if found.unequal else 0


def _bench_batch(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from molmoact_ros.benchmarks.throughput import bench_batch
    from molmoact_ros.engine.model.checkpoint import torch_dtype
    from molmoact_ros.engine.torch_engine import TorchEngine
    from molmoact_ros.evaluation.rollout import film
    from molmoact_ros.utils.paths import robot_model
    from molmoact_ros.utils.provenance import machine

    sys.setswitchinterval(0.0005)  # as in the policy's process
    engine = TorchEngine.load(
        checkpoint_of(args), args.device, 1, torch_dtype(args.dtype), quantization=args.quantization
    )
    with progress_bar("recording passes") as progress:
        engine.warm_up(progress)
    films = [film(robot_model(), args.steps, args.seed + i) for i in range(max(args.robots))]
    rows = bench_batch(engine, films, args.robots)
    table = Table(
        "robots", "answers/s", "in turns", "median step", "sequences a pass", title="one engine, several robots"
    )
    for row in rows:
        cells = row["rate"], row["turns"], row["median"], row["together"]
        table.add_row(f"{row['robots']}", *(f"{cell:.1f}" for cell in cells))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, **machine(engine.digest), "rows": rows}, indent=1))
    return 0


def _bench_floor(args: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.table import Table

    from molmoact_ros.benchmarks.roofline import Case, baseline, bench_floor, device_name, nano_grammar, possible
    from molmoact_ros.engine.model.checkpoint import CONFIG, default_dtype, read_config, torch_dtype
    from molmoact_ros.engine.model.config import MolmoActConfig
    from molmoact_ros.utils.paths import default_checkpoint, shape
    from molmoact_ros.utils.provenance import machine

    config, device = read_config(shape(args.shape), CONFIG, MolmoActConfig), torch.device(args.device)
    case = Case(
        config, device, torch_dtype(args.dtype) or default_dtype(args.device), "", args.prompt, args.tokens,
        args.passes, args.repeats,
    )  # fmt: skip
    grammar, console, rows = nano_grammar(default_checkpoint()), Console(), {}
    for kind in args.quantization or possible(case):
        with progress_bar(f"{kind}: recording passes") as progress:
            rows[kind] = bench_floor(replace(case, quantization=kind.replace("none", "")), grammar, progress)
    other = {} if args.no_baseline else baseline(case)
    table = Table(
        "", *rows, title=f"{args.shape} on {device_name(device)}, in {str(case.dtype).removeprefix('torch.')}"
    )
    for name in next(iter(rows.values())):
        table.add_row(name, *(f"{row[name]:.0%}" if "share" in name else f"{row[name]:.2f}" for row in rows.values()))
    console.print(table, "times in ms; weights and memory in GB; copy in GB/s", sep="\n")
    for name, value in other.items():
        console.print(f"{name} takes {value:.0f} ms for a prompt of {args.prompt} tokens and {args.tokens} more")
    if args.json:
        about = {name: getattr(args, name) for name in ("shape", "prompt", "tokens", "passes", "repeats")}
        about |= machine("") | {"device": device_name(device), "dtype": str(case.dtype).removeprefix("torch.")}
        args.json.write_text(json.dumps(about | {"figures": rows, "baseline": other}, indent=1))
    return 0


def _bench_vllm(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from tqdm import tqdm

    from molmoact_ros.benchmarks.backend_agreement import TIE, Agreement, agreement
    from molmoact_ros.engine.factory import EngineOptions, open_engine
    from molmoact_ros.engine.torch_engine import TorchEngine
    from molmoact_ros.engine.vllm_backend.engine import ServedEngine
    from molmoact_ros.utils.paths import robot_model
    from molmoact_ros.utils.provenance import machine

    engine = TorchEngine.load(checkpoint_of(args), threads=1)
    other = open_engine(EngineOptions(backend="vllm", answer_timeout=120.0), checkpoint_of(args))
    assert isinstance(other, ServedEngine)
    try:
        other.warm_up()
        with tqdm(total=args.steps, unit="step", mininterval=5) as bar:

            def tick(found: Agreement) -> None:
                bar.update()
                bar.set_postfix(unequal=len(found.differences))

            found = agreement(robot_model(), engine, other, args.steps, args.seed, tick)
    finally:
        other.close()
    real = [difference for difference in found.differences if not 0 <= difference.gap <= TIE]
    print(
        f"{found.steps} answers by vLLM and by torch: {found.steps - len(found.differences)} equal, "
        f"{len(found.differences) - len(real)} part at a tie, {len(real)} unequal; {found.seconds / found.steps:.2f} s "
        f"an answer by vLLM ({found.events / found.steps:.0f} passes), {found.torch_seconds / found.steps:.2f} s by "
        "torch"
    )
    for difference in found.differences:
        print(asdict(difference))
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, **machine(engine.digest), **asdict(found)}, indent=1))
    return 1 if real else 0


def _bench_load(args: argparse.Namespace) -> int:
    from rich.console import Console

    from molmoact_ros.benchmarks.checkpoint_load import bench_load

    figures = bench_load(checkpoint_of(args), args.dtype)
    Console().print(
        f"{figures['seconds']:.1f} s; {figures['result']:.2f} GB stay, {figures['above']:.2f} GB more at the peak; "
        f"largest file {figures['largest']:.2f} GB"
    )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def _bench_record(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from molmoact_ros.benchmarks.recording import bench_record, disk_rate, kill_recorder
    from molmoact_ros.utils.provenance import machine

    console = Console()
    if args.kills:
        kills = kill_recorder(args.kills, args.seed, lambda kill: console.print(f"{kill}", highlight=False))
        whole = sum(not kill.missing for kill in kills)
        last = max(kill.last for kill in kills)
        console.print(
            f"{whole} of {len(kills)} bags hold all but the last second; the last message was {last:.2f} s old"
        )
        figures: dict[str, Any] = {"kills": [vars(kill) for kill in kills], "whole": whole}
    else:
        figures = bench_record(args.seconds, args.times, console.print) | {"disk": disk_rate(3.0)}
        table = Table(
            "recorder", "p50", "p99", "max", "of a core", "stolen", "pictures", "lost", title="cycles off their time",
            caption="stolen: by the host of a virtual machine, of all its processors' time",
        )  # fmt: skip
        for name, row in figures["costs"].items():
            table.add_row(
                name, *(f"{row[key]:.2f} ms" for key in ("p50", "p99", "max")), f"{row['recorder_core']:.0%}",
                f"{row['stolen']:.1%}", f"{row['pictures']:.0f}", f"{row['lost']:.0f}",
            )  # fmt: skip
        console.print(table)
        low, high = min(figures["p99_of_turns"]["none"]), max(figures["p99_of_turns"]["none"])
        console.print(f"p99 of the turns without a recorder: {low:.2f} to {high:.2f} ms")
        for name, ratio in figures["ratio_of_p99"].items():
            chance = f"{figures['chance'][name]:.2g}"
            console.print(f"p99 with a recorder ({name}) over p99 without: {ratio:.2f}; so or more by chance: {chance}")
        for name, row in figures["disk"].items():
            console.print(f"{name}: {row['MB_s']:.0f} MB/s, {row['pictures_s']:.0f} pictures/s of 640x480")
    if args.json:
        args.json.write_text(json.dumps(machine("") | figures, indent=1))
    return 0 if not args.kills or whole == len(kills) else 1


def _bench_soak(args: argparse.Namespace) -> int:
    from molmoact_ros.benchmarks import soak

    return soak.show(args)
