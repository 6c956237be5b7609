"""Latency of a step of MolmoAct 2, stage by stage, beside the reference's way over the same weights.

The reference's way is torch's tower and a loop of eager steps: each computes the modulations of its time, and reads the
whole context under a mask.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.engine.molmoact2.expert import ActionExpert, Context
from molmoact_ros.engine.molmoact2.sampler import flow_times, noise_of
from molmoact_ros.reasoning.observation import Observation, RobotState

REFERENCE = "reference"
Spread = dict[str, dict[str, float]]


def bench_flow(engine: MolmoAct2Engine, observations: Sequence[Observation]) -> Spread:
    """Median and p99 over `observations` of a step without depth, its stages and the reference's step, ms.

    "error": largest difference of their normalised actions. All alternate, so that each meets the machine as the others
    do. The state is the middle of the training's.
    """
    stats = engine.scaling.metadata.state_stats
    state = RobotState(np.array(stats.mean or [0.0] * stats.dimensions), 0.0)
    samples: dict[str, list[float]] = {}
    for seed, seen in enumerate(observations):
        observation = replace(seen, state=state, seed=seed, depth=None)
        began = time.perf_counter()
        *_, said = engine.reason(observation, ReasoningMode.DIRECT)
        samples.setdefault("step", []).append((time.perf_counter() - began) * 1e3)
        for stage, seconds in engine.timings.stages.items():
            samples.setdefault(stage, []).append(seconds * 1e3)
        began = time.perf_counter()
        actions = reference_step(engine, observation)
        samples.setdefault(REFERENCE, []).append((time.perf_counter() - began) * 1e3)
        assert said.actions is not None
        samples.setdefault("error", []).append(float(np.abs(said.actions - actions).max()))
    return {
        name: {"median": float(np.median(values)), "p99": float(np.percentile(values, 99))}
        for name, values in samples.items()
    }


@torch.inference_mode()
def reference_step(engine: MolmoAct2Engine, observation: Observation) -> np.ndarray:
    """The chunk float32 [n_action_steps, D] of an observation with state and seed, sampled as the reference does."""
    expert, scaling, steps = engine.model.action_expert, engine.scaling, engine.flow_steps
    assert observation.seed is not None
    asked = engine.ask(observation, think=False)
    crops = np.stack([engine.images.plain_patches(image) for image in observation.images])
    asked = replace(asked, images=replace(asked.images, crops=crops))
    ids, read = engine.prefill(asked, engine.torch_features(asked.images), hidden=True)
    sequence = engine.sequence(ids, read.keys, read.values)
    context = expert.context(sequence.keys, sequence.values)
    mask = engine.model.expert_readable(ids)[:, None, None]
    noise = noise_of(observation.seed, scaling.metadata.action_horizon, engine.config.max_action_dim)
    sampled = reference_loop(expert, noise, context, mask, steps, scaling.action_dimensions)
    return scaling.actions(sampled[0].float().cpu().numpy())


def reference_loop(
    expert: ActionExpert, noise: Tensor, context: list[Context], mask: Tensor, steps: int, dimensions: int
) -> Tensor:
    """Normalised actions [1, H, A] from noise [1, H, A], as the reference samples them; see FlowSampler.sample."""
    x = noise.to(expert.action_embed.weight, copy=True)
    x[..., dimensions:] = 0
    for at in flow_times(steps).to(x.device):
        velocity = expert(x, expert.modulations(at[None]), context, mask)
        velocity[..., dimensions:] = 0
        x = x + velocity / steps
    return x
