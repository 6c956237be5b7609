"""Flow matching: what MolmoAct 2's action expert is trained on, at random moments between noise and actions.

Shapes: B samples, T flow times of each, H actions of a chunk, A action dimensions with padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.expert import ActionExpert, Context
from molmoact_ros.reasoning.robot_stats import RobotStats


@dataclass(frozen=True)
class FlowDraw:
    """noise: float32 [..., T, H, A], zero in padding dimensions. times: float32 [..., T], 0 (noise) to 1 (actions)."""

    noise: np.ndarray
    times: np.ndarray

    @classmethod
    def draw(
        cls, rng: np.random.Generator, config: MolmoAct2Config, shape: tuple[int, ...], dimensions: int
    ) -> FlowDraw:  # fmt: skip
        """Draw for a `shape` [..., T, H]. dimensions: of an action, without padding.

        Times follow the checkpoint's beta distribution, by which early moments, near the noise, are drawn more often.
        """
        times = rng.beta(config.flow_matching_beta_alpha, config.flow_matching_beta_beta, shape[:-1])
        noise = rng.standard_normal((*shape, config.max_action_dim), np.float32)
        noise[..., dimensions:] = 0
        scaled = config.flow_matching_time_offset + config.flow_matching_time_scale * times
        return cls(noise, scaled.astype(np.float32))


def squared_errors(
    expert: ActionExpert, context: list[Context], mask: Tensor | None, actions: Tensor, noise: Tensor, times: Tensor
) -> Tensor:  # fmt: skip
    """Squared errors float32 [B, T, H, A] of the velocity that the expert predicts, which should be actions - noise.

    context: of the B samples. mask: bool [B, 1, 1, S], which of its tokens may be read; None: all. actions: [B, H, A],
    normalised, zero in padding dimensions. noise: [B, T, H, A]. times: [B, T].
    """
    goal = actions.unsqueeze(1)
    share = times[..., None, None]
    mixed = ((1 - share) * noise + share * goal).flatten(0, 1)
    velocity = expert(mixed, expert.modulations(times.flatten()), context, mask).unflatten(0, times.shape)
    errors: Tensor = (velocity.float() - (goal - noise)).square()
    return errors


def motion_statistics(values: np.ndarray) -> RobotStats:
    """Statistics of values float [n, 8 a]; grippers, the last of each arm's eight, are not to be normalised."""
    quantiles = {f"q{q:02}": tuple(np.quantile(values, q / 100, axis=0).tolist()) for q in (1, 10, 50, 90, 99)}
    plain = {name: tuple(getattr(values, name)(axis=0).tolist()) for name in ("min", "max", "mean", "std")}
    mask = tuple(k % 8 != 7 for k in range(values.shape[1]))
    return RobotStats.model_validate({**plain, **quantiles, "mask": mask, "count": (len(values),)})
