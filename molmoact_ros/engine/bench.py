"""How long a reasoning step takes, stage by stage, beside a plain greedy loop over the same weights in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.engine import STAGES, TorchEngine
from molmoact_ros.engine.model import DecoderAttention, rope_tables
from molmoact_ros.reasoning.observation import Observation


@torch.inference_mode()
def plain_greedy(engine: TorchEngine, observation: Observation, tokens: int) -> list[int]:
    """The usual loop: one token a pass, a cache that grows by concatenation, the whole vocabulary scored each time.

    Runs for `tokens` tokens (the length of the constrained answer) and returns them.
    """
    model = engine.model
    asked = engine.ask(observation)
    x = engine.embed(asked, engine.see(asked.pictures)).unsqueeze(0)
    cache: list[tuple[Tensor, Tensor]] = []
    said: list[int] = []
    cos, sin = (table.to(x) for table in rope_tables(model.config.llm_config, len(asked.ids) + tokens))
    start = 0

    def attend(x: Tensor, layer: int, attention: DecoderAttention) -> Tensor:
        end = start + x.shape[1]
        q, k, v = attention.heads(x, cos[start:end], sin[start:end])
        if start:
            k, v = torch.cat([cache[layer][0], k], dim=2), torch.cat([cache[layer][1], v], dim=2)
            cache[layer] = (k, v)
        else:
            cache.append((k, v))
        return attention.output(q, k, v, causal=start == 0)

    for _ in range(tokens):
        fed = x.shape[1]
        for layer, block in enumerate(model.layers):
            x = block(x, partial(attend, layer=layer, attention=block.self_attn))
        start += fed
        said.append(int(model.logits(model.model.transformer.ln_f(x[:, -1])).argmax()))
        x = model.embed(torch.tensor([said[-1:]], device=x.device), None)
    return said


def bench(
    engine: TorchEngine, observations: Sequence[Observation], tick: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float]]:
    """Milliseconds (median, p99) of each stage and the whole, passes and tokens, and the plain loop's, interleaved."""
    samples: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        samples.setdefault(name, []).append(value)

    for observation in observations:
        began = time.perf_counter()
        for _ in engine.reason(observation):
            pass
        note("step", (time.perf_counter() - began) * 1e3)
        for stage in STAGES:
            note(stage, engine.timings.stages[stage] * 1e3)
        counts = engine.timings.counts
        note("passes", counts.passes)
        note("tokens", counts.tokens)
        began = time.perf_counter()
        plain_greedy(engine, observation, counts.tokens)
        note("plain greedy", (time.perf_counter() - began) * 1e3)
        tick()
    return {
        name: {"median": float(np.median(values)), "p99": float(np.percentile(values, 99))}
        for name, values in samples.items()
    }
