"""Ratio of a forward pass to one read of the weights: a model of any shape with random weights, on any device.

Neither the duration of a pass nor its memory traffic depends on the weights' values. The number of passes of an answer
does: it is counted elsewhere, on recorded answers, and is an argument here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from molmoact_ros.benchmarks.engine_step import copy_rate, median_seconds, memory
from molmoact_ros.benchmarks.flow_roofline import bench_flow_floor, flow_baseline
from molmoact_ros.benchmarks.hf_baseline import greedy, transformers_model
from molmoact_ros.benchmarks.random_weights import (
    COPIED,
    Case,
    Figures,
    check_case,
    device_name,
    possible,
    random_model,
    random_pictures,
)
from molmoact_ros.engine.base import BaseEngine
from molmoact_ros.engine.decoding.constrained import DecodeCounts, decode
from molmoact_ros.engine.decoding.cuda_graphs import WIDTHS, CudaGraphRunner
from molmoact_ros.engine.decoding.decoder import CachedDecoder
from molmoact_ros.engine.decoding.speculative import WIDE, AnswerCache, Tree
from molmoact_ros.engine.model.checkpoint import CheckpointFolder, default_dtype, torch_dtype
from molmoact_ros.engine.model.folder_kind import family
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.quantization import quantise, stored
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.utils.arguments import above_zero, add_dtype, add_json
from molmoact_ros.utils.paths import default_checkpoint, shape
from molmoact_ros.utils.progress import Progress, progress_bar
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

ROOM = 400
"""Cache positions behind a prompt: an answer by the nano model's grammar, and drafts behind its last token."""
VIEWS = 2
"""Each image stands twice in a prompt of MolmoAct 1: whole, and as its one tile."""
PROMPTS = {"molmoact": 988, "molmoact2": 490}
"""Tokens of a prompt with two images, by family."""


WHAT = {
    "transformers": "a prompt of {case.prompt} tokens and {case.tokens} more",
    "reference": "a step: vision, the whole prefill and a loop of eager steps",
}
"""What a baseline does."""


def nano_grammar(folder: Path) -> AnswerGrammar:
    """The grammar of a checkpoint, for its decoding loop; a random model can answer by any."""
    files = CheckpointFolder(folder)
    return BaseEngine(files.config, files.processor, files.run, files.tokenizer, None, None).grammars[False]


def bench_floor(grammar: AnswerGrammar, case: Case, progress: Progress) -> Figures:
    """One quantization. GB: weights: read by a pass; device or host: peak. GB/s: copy: read and written while a large
    buffer is copied. ms: vision, prefill; floor: weights, and the cache of the prompt, read once at that bandwidth;
    pass N: over N tokens behind the prompt, and `share N`, floor / pass; loop: a pass of a whole answer with drafts, by
    `grammar`, including all of the host's work; step P: vision + prefill + P * loop.

    Raises CheckpointError for a device that does not support such weights, and for what does not fit into the model.
    """
    _check(case, grammar)
    rate = copy_rate(case.device, COPIED, case.repeats)
    if case.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(case.device)
    model = _model(case)
    if case.quantization:
        quantise(model, case.quantization)
    passes = CudaGraphRunner(model, case.config.llm_config.max_position_embeddings, grammar.ids)
    decoder = CachedDecoder(passes)
    passes.prepare(decoder.cache, progress)
    return _measure(case, rate, model, decoder, grammar)


def _check(case: Case, grammar: AnswerGrammar) -> None:
    llm = case.config.llm_config
    check_case(case)
    if case.prompt + max(case.tokens, ROOM) > llm.max_position_embeddings:
        raise CheckpointError(
            f"{case.prompt} tokens and an answer do not fit into the model's {llm.max_position_embeddings}; "
            "give a shorter --prompt"
        )
    if grammar.ids[-1] >= llm.vocab_size:
        raise CheckpointError(f"the shape has {llm.vocab_size} words, fewer than the nano's {grammar.ids[-1] + 1}")


@torch.inference_mode()
def _measure(case: Case, rate: float, model: MolmoAct, decoder: CachedDecoder, grammar: AnswerGrammar) -> Figures:
    read = _read(model, len(grammar.ids))
    cache = case.prompt * 2 * decoder.cache.keys[:, :, 0].numel() * case.dtype.itemsize
    floor = (read + cache) / rate
    figures = {"weights": read / 1e9, "copy": rate / 1e9, "floor": floor * 1e3}

    def time(work: Callable[[], object]) -> float:
        return median_seconds(work, case.repeats, case.device) * 1e3

    prompt = _prompt(case, model)
    crops, indices = random_pictures(case, VIEWS)
    figures["vision"] = time(lambda: model.image_features(crops, indices))
    figures["prefill"] = time(lambda: _begin(decoder, prompt))
    for width in WIDTHS:
        chain = Tree([0] * (width - 1), list(range(-1, width - 2)))
        figures[f"pass {width}"] = time(partial(_again, decoder, chain, case.prompt))
        figures[f"share {width}"] = floor * 1e3 / figures[f"pass {width}"]
    figures["loop"] = _loop(decoder, grammar, prompt, max(1, case.repeats // 10))
    for count in case.passes:
        figures[f"step {count:g}"] = figures["vision"] + figures["prefill"] + count * figures["loop"]
    return figures | memory()


def _model(case: Case) -> MolmoAct:
    model = random_model(case)
    assert isinstance(model, MolmoAct)
    return model


def _read(model: MolmoAct, ids: int) -> int:
    """Bytes of weights that a pass reads: the layers', and of the head the rows of the grammar's ids."""
    layers = sum(stored(p) for block in model.layers for p in block.parameters())
    row = model.lm_head.weight[0]
    return layers + ids * row.numel() * row.element_size()


def _prompt(case: Case, model: MolmoAct) -> Tensor:
    ids = torch.arange(case.prompt, device=case.device) % case.config.llm_config.vocab_size
    return model.embed(ids[None], None)[0]


def _begin(decoder: CachedDecoder, prompt: Tensor) -> None:
    decoder.rewind(0)
    decoder.append(prompt)


def _again(decoder: CachedDecoder, tree: Tree, length: int) -> None:
    decoder.rewind(length)
    decoder.feed([0], tree)


def _loop(decoder: CachedDecoder, grammar: AnswerGrammar, prompt: Tensor, answers: int) -> float:
    """Milliseconds of a pass in whole answers, each drafted from the one before it."""
    lasts: list[AnswerCache] = []
    seconds, passes = 0.0, 0
    for answer in range(answers + 1):
        counts = DecodeCounts()
        _begin(decoder, prompt.roll(answer, dims=0))
        for _, _, said in decode(decoder, grammar, lasts, counts, WIDE):
            lasts = [said]
        if answer:  # the first one warms up
            seconds += sum(spent.seconds for spent in counts.segments.values())
            passes += counts.passes
    return 1e3 * seconds / passes


@torch.inference_mode()
def baseline(case: Case) -> Figures:
    """ms: `transformers`: prompt and answer by Hugging Face's greedy generate, over weights of that shape, without the
    images."""
    model = _model(case)
    twin, prompt = transformers_model(model), _prompt(case, model)
    return {"transformers": 1e3 * median_seconds(lambda: greedy(twin, prompt, case.tokens), 1, case.device, warm=1)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    parser.add_argument(
        "--shape", default="7b-d", help="7b-d, or a checkpoint folder, of which only config.json is read"
    )
    parser.add_argument("--device", default="cuda", help="torch device; on a cpu choose a small shape: models/nano")
    parser.add_argument(
        "--quantization",
        nargs="+",
        choices=["none", "fp8", "int4"],
        help="weights; default: all that the device does",
    )
    parser.add_argument(
        "--prompt", type=above_zero(int), help="tokens of the prompt; default: of two images, 988 (MolmoAct 2: 490)"
    )
    parser.add_argument(
        "--tokens", type=above_zero(int), default=453, help="tokens of an answer, for the baseline; default 453"
    )
    parser.add_argument(
        "--passes", type=above_zero(float), nargs="+", default=[79.1],
        help="for how many passes a step's time is said; default 79.1: of recorded answers with the released "
        "vocabulary (test/engine/decoding/test_recorded_passes.py)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=above_zero(int), default=30, help="of each measurement; default 30")
    parser.add_argument("--no-baseline", action="store_true", help="without transformers' generate")
    add_dtype(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""
    folder, device, console = shape(args.shape), torch.device(args.device), Console()
    kind = family(folder)
    config = RobotCheckpointFolder(folder).config if kind == "molmoact2" else CheckpointFolder(folder).config
    case = Case(
        config, device, torch_dtype(args.dtype) or default_dtype(args.device), "", args.prompt or PROMPTS[kind],
        args.tokens, args.passes, args.repeats,
    )  # fmt: skip
    rows: dict[str, Figures] = {}
    bench_answers = partial(bench_floor, nano_grammar(default_checkpoint()))
    measure: Callable[[Case, Progress], Figures] = bench_flow_floor if kind == "molmoact2" else bench_answers
    for quantization in args.quantization or possible(case):
        with progress_bar(f"{quantization}: recording passes") as progress:
            rows[quantization] = measure(replace(case, quantization=quantization.replace("none", "")), progress)
    other = {} if args.no_baseline else flow_baseline(case) if kind == "molmoact2" else baseline(case)
    dtype = str(case.dtype).removeprefix("torch.")
    table = Table("", *rows, title=f"{args.shape} on {device_name(device)}, in {dtype}")
    for name in next(iter(rows.values())):
        table.add_row(name, *(f"{row[name]:.0%}" if "share" in name else f"{row[name]:.2f}" for row in rows.values()))
    console.print(table, "times in ms; weights and memory in GB; copy in GB/s; product in TFLOP/s", sep="\n")
    for name, value in other.items():
        console.print(f"{name} takes {value:.0f} ms for {WHAT[name].format(case=case)}")
    if args.json:
        about = {name: getattr(args, name) for name in ("shape", "tokens", "passes", "repeats")}
        about |= machine("") | {"prompt": case.prompt, "device": device_name(device), "dtype": dtype}
        write_whole(args.json, json.dumps(about | {"figures": rows, "baseline": other}, indent=1))
    return 0
