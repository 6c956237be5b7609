"""Integrates noise to actions: Euler steps along the expert's velocity, from time 0 (noise) to 1 (actions)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from molmoact_ros.engine.molmoact2.expert import ActionExpert, Context, Modulations


def noise_of(seed: int, horizon: int, actions: int) -> Tensor:
    """Noise float32 [1, horizon, actions] of a seed; equal on every device, since a CPU draws it."""
    return torch.randn((1, horizon, actions), generator=torch.Generator().manual_seed(seed))


def flow_times(steps: int) -> Tensor:
    """The times float32 [steps] at which the velocity is computed: 0, 1/steps, ..."""
    return torch.arange(steps, dtype=torch.float32) / steps


class FlowSampler:
    """Samples chunks with one expert; what depends on the number of steps alone is computed once.

    actions = FlowSampler(expert, 8).sample(noise, context, steps=10)  # [1, H, A], zero from dimension 8 on
    """

    def __init__(self, expert: ActionExpert, dimensions: int) -> None:
        """dimensions: of an action; the others, up to the expert's A, stay zero."""
        self.expert, self.dimensions = expert, dimensions
        self.modulations = lru_cache(maxsize=4)(self._modulations)

    def _modulations(self, steps: int) -> tuple[Modulations, ...]:
        """Of each Euler step."""
        every = self.expert.modulations(flow_times(steps).to(self.expert.action_embed.weight.device))
        return tuple(every.at(step) for step in range(steps))

    def trajectory(
        self, noise: Tensor, context: list[Context], steps: int, mask: Tensor | None = None
    ) -> list[Tensor]:  # fmt: skip
        """The noise [1, H, A] with padding dimensions zeroed, then the actions after each step; see `sample`."""
        x = noise.to(self.expert.action_embed.weight).clone()
        x[..., self.dimensions :] = 0
        out = [x]
        for modulations in self.modulations(steps):
            velocity = self.expert(x, modulations, context, mask)
            velocity[..., self.dimensions :] = 0
            x = x + velocity / steps
            out.append(x)
        return out

    def sample(self, noise: Tensor, context: list[Context], steps: int, mask: Tensor | None = None) -> Tensor:
        """Normalised actions [1, H, A] from noise [1, H, A], with `steps` Euler steps.

        mask: bool [1, 1, 1, S], which tokens of the context may be read; None: all.
        """
        return self.trajectory(noise, context, steps, mask)[-1]
