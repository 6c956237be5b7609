"""The stages of a step of MolmoAct 2 beside the least time that their bytes and their arithmetic take.

A stage's floor is the longer of two times: to read its weights, and the keys and values that it reads, once for each
pass, at the device's own copy bandwidth; and to do its multiplications at the rate of one large product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from molmoact_ros.benchmarks.engine_step import copy_rate, median_seconds, memory
from molmoact_ros.benchmarks.flow_step import reference_loop
from molmoact_ros.benchmarks.random_weights import COPIED, Case, Figures, check_case, random_model, random_pictures
from molmoact_ros.engine.decoding.decoder import CachedDecoder, TorchModelRunner
from molmoact_ros.engine.decoding.speculative import Tree
from molmoact_ros.engine.model.quantization import quantise, stored
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.depth import CELLS
from molmoact_ros.engine.molmoact2.expert import Context
from molmoact_ros.engine.molmoact2.model import MolmoAct2, side_by_side
from molmoact_ros.engine.molmoact2.sampler import FlowSampler, noise_of
from molmoact_ros.engine.molmoact2.selection import ActionSampler, open_sampler
from molmoact_ros.utils.progress import Progress, ignore

SIDE = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrices whose product measures a device's arithmetic."""


@dataclass(frozen=True)
class _Stage:
    """A part of a step: what does one pass of it, the tensors that a pass reads, and how many passes a step has."""

    work: Callable[[], object]
    read: list[Tensor]
    passes: int = 1


def bench_flow_floor(case: Case, progress: Progress = ignore) -> Figures:
    """One quantization. Of each stage (vision, prefill, actions, and depth without drafts where the model predicts it):
    ms; `floor`, ms; `GB` that it reads; `TFLOP`; `share`, floor / ms. step: their sums. weights: GB. copy: GB/s, read
    and written while a large buffer is copied. product: TFLOP/s of one large product. device or host: peak, GB.

    Raises CheckpointError for a device that does not support such weights, and for a prompt that does not fit.
    """
    check_case(case)
    rate, product = copy_rate(case.device, COPIED, case.repeats), product_rate(case)
    if case.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(case.device)
    model = _model(case)
    with torch.inference_mode():
        c = model.config
        plain = FlowSampler(model.action_expert, c.max_action_dim)  # compiled code's arithmetic is not seen
        stages = _stages(case, model, plain)
        flops = {name: stage.passes * _flops(stage.work) for name, stage in stages.items()}
        if case.quantization:
            quantise(model, case.quantization)
        stages = _stages(case, model, open_sampler(model, c.max_action_dim, c.max_action_horizon))
        figures = {"weights": sum(map(stored, model.parameters())) / 1e9, "copy": rate / 1e9, "product": product / 1e12}
        for done, (name, stage) in enumerate(stages.items(), 1):
            size = stage.passes * sum(map(stored, stage.read))
            spent = 1e3 * stage.passes * median_seconds(stage.work, case.repeats, case.device)
            floor = 1e3 * max(size / rate, flops[name] / product)
            figures |= {name: spent, f"{name} floor": floor, f"{name} GB": size / 1e9}
            figures |= {f"{name} TFLOP": flops[name] / 1e12, f"share {name}": floor / spent}
            progress(done, len(stages))
    spent, floor = (sum(figures[name + what] for name in stages) for what in ("", " floor"))
    return figures | {"step": spent, "step floor": floor, "share step": floor / spent} | memory()


@torch.inference_mode()
def flow_baseline(case: Case) -> Figures:
    """ms: `reference`: a step without depth in the reference's way, over weights of that shape."""
    model = _model(case)
    pictures, ids = random_pictures(case, views=1), _prompt(case)
    noise, mask = _noise(case), model.expert_readable(ids)[:, None, None]
    steps, dimensions = model.config.flow_matching_num_steps, model.config.max_action_dim

    def step() -> None:
        read = model.prefill(model.embed(ids, model.image_features(*pictures)), model.readable(ids), hidden=True)
        context = model.action_expert.context(side_by_side(read.keys), side_by_side(read.values))
        reference_loop(model.action_expert, noise, context, mask, steps, dimensions)

    return {"reference": 1e3 * median_seconds(step, max(1, case.repeats // 10), case.device, warm=1)}


def product_rate(case: Case) -> float:
    """FLOP/s of one large product of matrices in the dtype of a case."""
    side = SIDE.get(case.device.type, SIDE["cpu"])
    factor = torch.randn(side, side, device=case.device).to(case.dtype)
    return 2 * side**3 / median_seconds(lambda: factor @ factor, max(3, case.repeats // 3), case.device)


def _model(case: Case) -> MolmoAct2:
    model = random_model(case)
    assert isinstance(model, MolmoAct2)
    return model


def _stages(case: Case, model: MolmoAct2, sampler: ActionSampler) -> dict[str, _Stage]:
    c, expert = model.config, model.action_expert
    pictures, ids, noise = random_pictures(case, views=1), _prompt(case), _noise(case)
    x, readable = model.embed(ids, model.image_features(*pictures)), model.readable(ids)
    read = model.prefill(x, readable)
    keys, values = side_by_side(read.keys), side_by_side(read.values)
    context, steps = expert.context(keys, values), c.flow_matching_num_steps
    *blocks, last = model.layers
    seen = [p for block in blocks for p in block.parameters()] + [last.self_attn.att_proj.weight]
    stages = {
        "vision": _Stage(lambda: model.image_features(*pictures), list(model.model.vision_backbone.parameters())),
        "prefill": _Stage(lambda: model.prefill(x, readable), seen),
        "actions": _Stage(
            lambda: sampler.sample(noise, expert.context(keys, values), steps), steps * _read_by_step(model, context)
        ),
    }
    if c.thinks:
        stages["depth"] = _depth(case, model, x[0], [read.keys, read.values])
    return stages


def _read_by_step(model: MolmoAct2, context: list[Context]) -> list[Tensor]:
    """What an Euler step reads: the expert but for what is computed once, and the keys and values of the prompt."""
    once = ("modulation", "time_embed", "context_")
    weights = [p for name, p in model.action_expert.named_parameters() if not any(part in name for part in once)]
    return weights + [part for layer in context for part in layer]


def _depth(case: Case, model: MolmoAct2, prompt: Tensor, cached: list[Tensor]) -> _Stage:
    """A depth map without drafts: a pass for each of its codes."""
    decoder, (start, _, first) = CachedDecoder(TorchModelRunner(model, case.prompt + 1)), model.config.depth_ids
    decoder.append(prompt)
    rows = model.lm_head.weight[first : first + model.config.num_depth_tokens]

    def one() -> None:
        decoder.rewind(case.prompt)
        decoder.feed([start], Tree())

    weights = [p for block in model.layers for p in block.parameters()]
    return _Stage(one, [*weights, rows, *cached], CELLS)


def _prompt(case: Case) -> Tensor:
    """Ids int64 [1, S] of a prompt of two images."""
    c = case.config
    assert isinstance(c, MolmoAct2Config)
    rows, columns = c.vit_config.grid
    images = _tokens(rows, columns) * 2
    if case.prompt <= images:
        raise CheckpointError(f"two images take {images} tokens; give a longer --prompt than {case.prompt}")
    if case.prompt + 1 > c.llm_config.max_position_embeddings:
        raise CheckpointError(f"{case.prompt} tokens do not fit into the model; give a shorter --prompt")
    ids = torch.full((1, case.prompt), c.state_token_start_id, device=case.device)
    ids[:, :images] = c.image_patch_id
    return ids


def _tokens(rows: int, columns: int) -> int:
    """Tokens of an image of so many patches: one for each window of two by two."""
    return -(-rows // 2) * -(-columns // 2)


def _noise(case: Case) -> Tensor:
    c = case.config
    assert isinstance(c, MolmoAct2Config)
    return noise_of(0, c.max_action_horizon, c.max_action_dim).to(case.device)


def _flops(work: Callable[[], object]) -> int:
    """Multiplications and additions of matrix products and attention in `work`."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which torch does not count
    with FlopCounterMode(display=False, custom_mapping={attention: _attention_flops}) as counted:
        work()
    return int(counted.get_total_flops())


def _attention_flops(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any) -> int:
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])
