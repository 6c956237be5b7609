"""The action expert: a flow-matching transformer that reads the decoder's keys and values of every layer.

Shapes: B batch, S context tokens, H actions of a chunk (horizon), A action dimensions, E width, L layers. Its norms
have no weights; shifts, scales and gates come from the flow time instead (adaLN).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molmoact_ros.engine.model.molmoact import rotate
from molmoact_ros.engine.molmoact2.config import ActionExpertConfig

LONGEST_PERIOD = 10_000.0
"""Of the sinusoids of the flow time, and base of the rotary embedding of a chunk's rows."""
Context = tuple[Tensor, Tensor]
"""Keys and values of one layer as the expert's block reads them, [B, heads, S, head_dim] each."""


def rms(x: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of [..., width] without a weight, computed in float32."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


class TimeSinusoid(nn.Module):
    """Sines, then cosines, of a flow time in 0..1, float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.waves = width // 2

    def forward(self, times: Tensor) -> Tensor:
        """Times [T] to [T, width]."""
        steps = torch.arange(self.waves, device=times.device, dtype=torch.float32) / (self.waves - 1)
        angles = times.float().unsqueeze(-1) * torch.exp(-log(LONGEST_PERIOD) * steps)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _Modulation(nn.Module):
    """Shifts, scales and gates from the condition of a flow time."""

    def __init__(self, width: int, chunks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, chunks * width)
        self.chunks = chunks

    def forward(self, condition: Tensor) -> Tensor:
        """Conditions [T, E] to [T, chunks, E]."""
        result: Tensor = self.linear(F.silu(condition)).unflatten(-1, (self.chunks, -1))
        return result


class _SelfAttention(nn.Module):
    def __init__(self, c: ActionExpertConfig) -> None:
        super().__init__()
        self.heads, self.eps = c.num_heads, c.qk_norm_eps
        self.qkv, self.out_proj = nn.Linear(c.hidden_size, 3 * c.hidden_size), nn.Linear(c.hidden_size, c.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, H, E] to the same; every action reads every action."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (rotate(rms(t, self.eps), cos, sin) for t in (q, k))
        result: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return result


class _CrossAttention(nn.Module):
    def __init__(self, c: ActionExpertConfig) -> None:
        super().__init__()
        self.heads, self.eps = c.num_heads, c.qk_norm_eps
        self.q_proj, self.out_proj = (nn.Linear(c.hidden_size, c.hidden_size) for _ in range(2))

    def forward(self, x: Tensor, context: Context, mask: Tensor | None) -> Tensor:
        """[B n, H, E] to the same. context: of B samples, each read by n in a row. mask: bool [B, 1, 1, S], what may
        be read; None: all."""
        q = rms(self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2), self.eps)
        count, heads, rows, width = q.shape
        each = count // len(context[0])
        # Rows do not read each other here, so those of all samples that read one context can be one sample's.
        folded = q.reshape(-1, each, heads, rows, width).transpose(1, 2).reshape(-1, heads, each * rows, width)
        read = F.scaled_dot_product_attention(folded, *context, attn_mask=mask)
        read = read.reshape(-1, heads, each, rows, width).transpose(1, 2).reshape(count, heads, rows, width)
        result: Tensor = self.out_proj(read.transpose(1, 2).flatten(2))
        return result


class _GatedMlp(nn.Module):
    def __init__(self, c: ActionExpertConfig) -> None:
        super().__init__()
        self.up_proj, self.gate_proj = (nn.Linear(c.hidden_size, c.inner_size) for _ in range(2))
        self.down_proj = nn.Linear(c.inner_size, c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class ExpertBlock(nn.Module):
    """One layer: self-attention, attention to the context, MLP, each modulated by the flow time."""

    def __init__(self, c: ActionExpertConfig) -> None:
        super().__init__()
        self.self_attn, self.cross_attn, self.mlp = _SelfAttention(c), _CrossAttention(c), _GatedMlp(c)
        self.modulation = _Modulation(c.hidden_size, 9)
        self.eps = c.qk_norm_eps

    def forward(
        self, x: Tensor, modulation: Tensor, context: Context, mask: Tensor | None, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """x [B, H, E] to the same. modulation: [B or 1, 9, 1, E], shift, scale and gate of each of the three parts."""
        shift_s, scale_s, gate_s, shift_c, scale_c, gate_c, shift_m, scale_m, gate_m = modulation.unbind(1)
        x = x + gate_s * self.self_attn(rms(x, self.eps) * (1 + scale_s) + shift_s, cos, sin)
        x = x + gate_c * self.cross_attn(rms(x, self.eps) * (1 + scale_c) + shift_c, context, mask)
        result: Tensor = x + gate_m * self.mlp(rms(x, self.eps) * (1 + scale_m) + shift_m)
        return result


class _FinalLayer(nn.Module):
    def __init__(self, c: ActionExpertConfig, actions: int) -> None:
        super().__init__()
        self.modulation, self.linear = _Modulation(c.hidden_size, 2), nn.Linear(c.hidden_size, actions)
        self.eps = c.qk_norm_eps

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = modulation.unbind(1)
        result: Tensor = self.linear(rms(x, self.eps) * (1 + scale) + shift)
        return result


@dataclass(frozen=True)
class Modulations:
    """Of T flow times: blocks [L, T, 9, 1, E], final [T, 2, 1, E]. They depend on the times alone."""

    blocks: Tensor
    final: Tensor

    def at(self, step: int) -> Modulations:
        """Those of one time, for all samples of a batch."""
        return Modulations(self.blocks[:, step : step + 1], self.final[step : step + 1])


class ActionExpert(nn.Module):
    """Predicts the velocity of noisy actions, given a flow time and the decoder's keys and values.

    context = expert.context(keys, values)  # once a prompt
    modulations = expert.modulations(torch.tensor([0.0]))
    velocity = expert(noise, modulations, context)
    """

    def __init__(self, c: ActionExpertConfig, key_width: int, actions: int) -> None:
        """key_width: of the decoder's keys, all heads side by side. actions: padded dimensions of an action."""
        super().__init__()
        self.config, self.head_dim = c, c.head_dim
        self.time_embed = nn.Sequential(
            TimeSinusoid(c.timestep_embed_dim), nn.Linear(c.timestep_embed_dim, c.hidden_size), nn.SiLU(),
            nn.Linear(c.hidden_size, c.hidden_size),
        )  # fmt: skip
        self.action_embed = nn.Linear(actions, c.hidden_size)
        self.context_k_proj, self.context_v_proj = (
            nn.Linear(key_width, c.hidden_size, bias=False) for _ in range(2)
        )  # fmt: skip
        self.blocks = nn.ModuleList(ExpertBlock(c) for _ in range(c.num_layers))
        self.final_layer = _FinalLayer(c, actions)

    @property
    def layers(self) -> list[ExpertBlock]:
        """The blocks in order."""
        return [block for block in self.blocks if isinstance(block, ExpertBlock)]

    def context(self, keys: Tensor, values: Tensor) -> list[Context]:
        """What each block reads, from the decoder's keys (rotated) and values, [L, B, S, key_width] each."""
        eps, heads = self.config.qk_norm_eps, self.config.num_heads
        k, v = rms(self.context_k_proj(keys), eps), rms(self.context_v_proj(values), eps)
        k, v = (t.view(*t.shape[:3], heads, self.head_dim).transpose(2, 3) for t in (k, v))
        return list(zip(rms(k, eps).unbind(0), v.unbind(0), strict=True))

    def condition(self, times: Tensor) -> Tensor:
        """Conditions [T, E] of flow times float [T], 0 (noise) to 1 (actions)."""
        x: Tensor = self.time_embed[0](times).to(self.action_embed.weight.dtype)
        for layer in list(self.time_embed)[1:]:
            x = layer(x)
        return x

    def modulations(self, times: Tensor) -> Modulations:
        """Shifts, scales and gates of flow times float [T]."""
        condition = self.condition(times)
        blocks = torch.stack([block.modulation(condition) for block in self.layers])
        return Modulations(blocks.unsqueeze(-2), self.final_layer.modulation(condition).unsqueeze(-2))

    def rope(self, horizon: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [horizon, head_dim] of the rows of a chunk."""
        weight = self.action_embed.weight
        place = torch.arange(0, self.head_dim, 2, device=weight.device, dtype=torch.float32) / self.head_dim
        angle = torch.arange(horizon, device=weight.device, dtype=torch.float32)[:, None] / LONGEST_PERIOD**place
        sin = angle.sin()
        return (
            torch.cat([angle.cos()] * 2, dim=-1).to(weight.dtype), torch.cat([-sin, sin], dim=-1).to(weight.dtype),
        )  # fmt: skip

    def forward(
        self, x: Tensor, modulations: Modulations, context: list[Context], mask: Tensor | None = None
    ) -> Tensor:
        """Velocity [B, H, A] of actions x [B, H, A] at the time of each sample (T = B), or at one for all (T = 1).

        A context of fewer samples than B is read by as many samples in a row each. mask: bool [B, 1, 1, S] of the
        context's samples, which tokens of it may be read; None: all.
        """
        velocity: Tensor = self.final_layer(self.hidden(x, modulations, context, mask)[-1], modulations.final)
        return velocity

    def hidden(
        self, x: Tensor, modulations: Modulations, context: list[Context], mask: Tensor | None = None
    ) -> list[Tensor]:
        """What each block gives, [B, H, E]; see `forward`."""
        x, (cos, sin), out = self.action_embed(x), self.rope(x.shape[1]), []
        for block, modulation, read in zip(self.layers, modulations.blocks, context, strict=True):
            x = block(x, modulation, read, mask, cos, sin)
            out.append(x)
        return out
