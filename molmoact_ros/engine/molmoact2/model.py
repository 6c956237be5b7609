"""MolmoAct 2 in torch: MolmoAct's tower and decoder, and beside them the action expert and its depth gates.

Tensor names are the released checkpoint's. Shapes: B batch, S sequence, L layers, N images, T image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from molmoact_ros.engine.model.molmoact import DecoderBlock, Transformer, VisionBackbone, add_features, rope_tables
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.expert import ActionExpert

IGNORED = (".cross_attn.kv_proj.", ".state_encoder.")
"""Parts of the names of tensors that the released converter drops, should a folder hold them all the same."""
COMPUTED = "model.transformer.rotary_emb.inv_freq"
"""A released tensor that follows from the configuration."""


@dataclass(frozen=True)
class PrefilledContext:
    """The decoder after a prompt: keys, rotated, and values [L, B, kv_heads, S, head_dim]; hidden states
    [B, S, hidden] after the final norm, if they were wanted."""

    keys: Tensor
    values: Tensor
    hidden: Tensor | None = None


class _Backbones(nn.Module):
    def __init__(self, config: MolmoAct2Config) -> None:
        super().__init__()
        c = config.llm_config
        width = c.num_key_value_heads * c.head_dim
        self.transformer = Transformer(c)
        self.vision_backbone = VisionBackbone(config.vit_config, config.adapter_config)
        self.action_expert = ActionExpert(config.action_expert_config, width, config.max_action_dim)
        self.action_expert_depth_gate: nn.Module | None = None
        if config.action_expert_depth_gate:
            per_layer = config.action_expert_depth_gate_per_layer
            gates = nn.ModuleList(nn.Linear(width, 1) for _ in range(c.num_hidden_layers if per_layer else 1))
            self.action_expert_depth_gate = gates if per_layer else gates[0]


class MolmoAct2(nn.Module):
    """The whole model, from a nano's few million parameters to the released 5.4 billion.

    features = model.image_features(crops, pooled_idx)  # [B, T, hidden]
    read = model.prefill(model.embed(ids, features), model.readable(ids))
    context = model.action_expert.context(*map(side_by_side, (read.keys, read.values)))
    """

    def __init__(self, config: MolmoAct2Config) -> None:
        super().__init__()
        self.config = config
        self.model = _Backbones(config)
        self.lm_head = nn.Linear(config.llm_config.hidden_size, config.llm_config.vocab_size, bias=False)

    @property
    def layers(self) -> list[DecoderBlock]:
        """The decoder's layers in order."""
        return [block for block in self.model.transformer.blocks if isinstance(block, DecoderBlock)]

    @property
    def action_expert(self) -> ActionExpert:
        """The expert."""
        return self.model.action_expert

    def image_features(self, crops: Tensor, pooled_idx: Tensor) -> Tensor:
        """Crops float [B, N, P, patch_dim] with indices int64 [B, T, 4] (-1 missing) to features [B, T, hidden]."""
        result: Tensor = self.model.vision_backbone(crops, pooled_idx)
        return result

    def embed(self, ids: Tensor, features: Tensor) -> Tensor:
        """Embeddings [B, S, hidden] of ids int64 [B, S]; features [B, T, hidden] are ADDED to the patch tokens."""
        x: Tensor = self.model.transformer.wte(ids)
        return add_features(x, ids == self.config.image_patch_id, features)

    def is_image(self, ids: Tensor) -> Tensor:
        """Which of ids int64 [...] are image tokens, bool [...]: patches, and what frames them."""
        return torch.isin(ids, torch.tensor(self.config.image_ids, device=ids.device))

    def readable(self, ids: Tensor) -> Tensor:
        """Which tokens each token of a prompt reads, bool [B, S, S]: those before it; of image tokens all images."""
        image, length = self.is_image(ids), ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        return causal | (image.unsqueeze(1) & image.unsqueeze(2))

    def prefill(self, x: Tensor, readable: Tensor, hidden: bool = False) -> PrefilledContext:
        """Run embeddings [B, S, hidden] through the decoder. readable: bool [B, S, S].

        hidden: whether hidden states are wanted. Else the last layer ends with its keys and values: the expert reads no
        more, and a depth map begins with a token that is known.
        """
        cos, sin = (t.to(x) for t in rope_tables(self.config.llm_config, x.shape[1]))
        mask, keys, values = readable.unsqueeze(1), [], []

        def attend(block: DecoderBlock, normed: Tensor) -> Tensor:
            q, k, v = block.self_attn.heads(normed, cos, sin)
            keys.append(k)
            values.append(v)
            return block.self_attn.output(q, k, v, mask)

        *blocks, last = self.layers
        for block in [*blocks, last] if hidden else blocks:
            x = block(x, partial(attend, block))
        if not hidden:
            _, k, v = last.self_attn.heads(last.attn_norm(x), cos, sin)
            keys.append(k)
            values.append(v)
        after = self.model.transformer.ln_f(x) if hidden else None
        return PrefilledContext(torch.stack(keys), torch.stack(values), after)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., vocab] of the next token."""
        result: Tensor = self.lm_head(hidden)
        return result

    def gates(self, values: Tensor, plain: Tensor) -> Tensor | None:
        """The factor of depth tokens in each layer, [L, B, 1, 1]; None where the model has no gate.

        values: [L, B, S, width]. plain: bool [B, S], readable tokens that are no depth tokens, whose mean opens it.
        """
        gate = self.model.action_expert_depth_gate
        if gate is None:
            return None
        share = plain.to(values.dtype) / plain.sum(-1, keepdim=True).clamp(min=1)
        mean = torch.einsum("lbsw,bs->lbw", values, share)  # [L, B, width]
        if isinstance(gate, nn.ModuleList):
            opened = torch.stack([linear(layer) for linear, layer in zip(gate, mean, strict=True)])
        else:
            opened = gate(mean[-1:]).expand(len(mean), -1, -1)
        return opened.sigmoid().unsqueeze(-1)

    def gated(self, ids: Tensor, keys: Tensor, values: Tensor, readable: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [L, B, S, width] with those of depth tokens scaled. readable: bool [B, S], by the expert."""
        depth = self.is_depth(ids)
        gates = self.gates(values, readable & ~depth)
        if gates is None:
            return keys, values
        factor = torch.where(depth.unsqueeze(-1), gates, torch.ones_like(gates))
        return keys * factor, values * factor

    def is_depth(self, ids: Tensor) -> Tensor:
        """Which of ids int64 [...] are depth tokens, bool [...]."""
        c = self.config
        marks = [i for i in (c.depth_output_token_id, c.depth_start_token_id, c.depth_end_token_id) if i is not None]
        found = torch.isin(ids, torch.tensor(marks, dtype=ids.dtype, device=ids.device))
        if c.depth_token_start_id is None:
            return found
        return found | ((ids >= c.depth_token_start_id) & (ids < c.depth_token_start_id + c.num_depth_tokens))

    def expert_readable(self, ids: Tensor) -> Tensor:
        """Which of a sequence's ids int64 [B, S] the expert may read, bool [B, S].

        With action_mode "both" the end tokens are hidden, and any span of discrete actions.
        """
        c = self.config
        if c.action_mode == "continuous":
            return torch.ones_like(ids, dtype=torch.bool)
        opened = (ids == c.action_start_token_id).cumsum(1) > 0
        # A span ends with its own end token, which is hidden too; one without an end reaches to the last token.
        inside, hidden = torch.zeros(len(ids), dtype=torch.bool, device=ids.device), []
        if not bool(opened.any()):
            return ids != c.eos_token_id
        for column in ids.unbind(1):
            inside = inside | (column == c.action_start_token_id)
            hidden.append(inside)
            inside = inside & (column != c.action_end_token_id)
        return (ids != c.eos_token_id) & ~torch.stack(hidden, dim=1)


def side_by_side(heads: Tensor) -> Tensor:
    """Keys or values [L, B, kv_heads, S, head_dim] with their heads side by side, [L, B, S, kv_heads * head_dim]."""
    return heads.transpose(2, 3).flatten(3)
