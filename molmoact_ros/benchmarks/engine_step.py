"""Latency of a reasoning step, stage by stage, beside transformers' greedy loop over the same weights."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from molmoact_ros.benchmarks.hf_baseline import greedy, transformers_model
from molmoact_ros.engine.decoding.speculative import Tree
from molmoact_ros.engine.model.quantization import stored
from molmoact_ros.engine.torch_engine import STAGES, TorchEngine
from molmoact_ros.reasoning.answer import Segment
from molmoact_ros.reasoning.observation import Observation

BASELINE, FLOOR = "transformers", "floor"
SEGMENTS = (Segment.DEPTH, Segment.TRACE, Segment.ACTION)
Figures = dict[str, dict[str, float]]


def bench(engine: TorchEngine, observations: Sequence[Observation], tick: Callable[[], None] = lambda: None) -> Figures:
    """Median and p99 over `observations` of the step and its stages (ms), the decoder's forward passes, tokens and the
    acceptance rate of drafts, by segment, the step's floor and what it is made of (ms), and the baseline's step (ms).

    All alternate, so that each meets the machine as the others do. The floor is the time of as many passes over one
    token as the step took, of the tower and of the prefill, each timed apart, with nothing between them.
    """
    twin = transformers_model(engine.model)
    samples: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        samples.setdefault(name, []).append(value)

    for observation in observations:
        began = time.perf_counter()
        for _ in engine.reason(observation):
            pass
        note("step", (time.perf_counter() - began) * 1e3)
        _note_step(engine, note)
        _note_floor(engine, observation, note)
        note(BASELINE, _baseline(engine, twin, observation, engine.timings.counts.tokens))
        tick()
    return {
        name: {"median": float(np.median(values)), "p99": float(np.percentile(values, 99))}
        for name, values in samples.items()
    }


def _note_step(engine: TorchEngine, note: Callable[[str, float], None]) -> None:
    for stage in STAGES:
        note(stage, engine.timings.stages[stage] * 1e3)
    counts = engine.timings.counts
    note("passes", counts.passes)
    note("tokens", counts.tokens)
    for segment in SEGMENTS:
        spent = counts.segments[segment]
        note(f"passes, {segment.value}", spent.passes)
        note(f"guesses that held, {segment.value}, %", 100 * spent.held / max(1, spent.guessed))


@torch.inference_mode()
def _note_floor(engine: TorchEngine, observation: Observation, note: Callable[[str, float], None]) -> None:
    asked = engine.ask(observation)
    embeddings = engine.embed(asked, engine.vision(asked.pictures))

    def prefill() -> None:
        engine.decoder.rewind(0)
        engine.decoder.append(embeddings)

    counts = engine.timings.counts
    middle = len(embeddings) + counts.tokens // 2

    def passes() -> None:
        for _ in range(counts.passes):
            _pass(engine, middle)

    parts = {"vision": lambda: engine.vision(asked.pictures), "prefill": prefill, "passes": passes}
    spent = {name: 1e3 * median_seconds(part, 1, engine.device, warm=0) for name, part in parts.items()}
    for name, milliseconds in spent.items():
        note(f"{FLOOR}, {name}", milliseconds)
    note(FLOOR, sum(spent.values()))


def _pass(engine: TorchEngine, length: int) -> None:
    engine.decoder.rewind(length)
    engine.decoder.feed([engine.end], Tree())


def _baseline(engine: TorchEngine, twin: torch.nn.Module, observation: Observation, tokens: int) -> float:
    """Milliseconds of the same step with transformers generating the answer, and torch encoding the images."""
    began = time.perf_counter()
    asked = engine.ask(observation)
    greedy(twin, engine.embed(asked, engine.torch_features(asked.pictures)), tokens)
    return (time.perf_counter() - began) * 1e3


@torch.inference_mode()
def floor(engine: TorchEngine, repeats: int = 30) -> dict[str, float]:
    """Lower bound of a forward pass: the decoder's weights read once at this machine's own copy bandwidth.

    weights: MB a pass reads (blocks and head); copy: GB/s, read and written, measured on a buffer of that size; floor:
    ms; pass: ms of a pass over one token at the middle of an answer, measured; share: floor / pass.
    """
    parts = [p for block in engine.model.layers for p in block.parameters()] + [engine.model.lm_head.weight]
    size = sum(map(stored, parts))
    rate = copy_rate(engine.device, size, repeats)
    middle = min(512, engine.decoder.passes.capacity) // 2
    passing, reading = median_seconds(partial(_pass, engine, middle), repeats, engine.device), size / rate
    return {
        "weights": size / 1e6, "copy": rate / 1e9, "floor": reading * 1e3, "pass": passing * 1e3,
        "share": reading / passing,
    }  # fmt: skip


def copy_rate(device: torch.device, size: int, repeats: int) -> float:
    """Bandwidth of a device, bytes/s read and written, while it copies `size` bytes."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), repeats, device)


def median_seconds(work: Callable[[], object], repeats: int, device: torch.device, warm: int = 3) -> float:
    """Median duration of `work`, s, until the device is done; the first `warm` runs do not count."""
    times = []
    for _ in range(repeats + warm):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return float(np.median(times[warm:]))


def memory() -> dict[str, float]:
    """Peak memory of this process, GB: on the host, and on the GPU where there is one."""
    held = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    if torch.cuda.is_available():
        held["gpu"] = torch.cuda.max_memory_allocated() / 1e9
    return held
