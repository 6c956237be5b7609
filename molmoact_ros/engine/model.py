"""The MolmoAct architecture in torch: vision transformer, attention pooling, projector, decoder.

Tensor names are the released checkpoint's. Shapes: B batch, S sequence, N images, P patches, T image tokens.
Source of every detail: the released model's code as described in arXiv 2508.07917 and its repository.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molmoact_ros.engine.config import AdapterConfig, LlmConfig, MolmoActConfig, VitConfig


class _VitAttention(nn.Module):
    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        width = c.num_attention_heads * c.head_dim
        self.heads = c.num_attention_heads
        self.wq, self.wk, self.wv = (nn.Linear(c.hidden_size, width) for _ in range(3))
        self.wo = nn.Linear(width, c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        return self.wo(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _VitMlp(nn.Module):
    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(c.hidden_size, c.intermediate_size)
        self.w2 = nn.Linear(c.intermediate_size, c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.gelu(self.w1(x), approximate="tanh"))


class _VitBlock(nn.Module):
    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        self.attention, self.feed_forward = _VitAttention(c), _VitMlp(c)
        self.attention_norm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.ffn_norm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class _VitBlocks(nn.Module):
    def __init__(self, c: VitConfig, count: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_VitBlock(c) for _ in range(count))


class VisionTransformer(nn.Module):
    """SigLIP2-style tower. Blocks after the last one whose features are used do not exist."""

    def __init__(self, c: VitConfig, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.taps = tuple(t % c.num_hidden_layers for t in taps)
        self.patch_embedding = nn.Linear(c.patch_dim, c.hidden_size, bias=c.patch_bias)
        self.positional_embedding = nn.Parameter(torch.zeros(c.image_num_pos, c.hidden_size))
        self.transformer = _VitBlocks(c, max(self.taps) + 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches float [N, P, patch_dim] in -1..1 to features [N, P, taps * hidden]."""
        x = self.patch_embedding(patches) + self.positional_embedding
        outputs = []
        for block in self.transformer.resblocks:
            x = block(x)
            outputs.append(x)
        return torch.cat([outputs[t] for t in self.taps], dim=-1)


class AttentionPooling(nn.Module):
    """Four patch features become one: the query is their mean (missing ones count as zeros)."""

    def __init__(self, c: AdapterConfig, features: int) -> None:
        super().__init__()
        width = c.num_attention_heads * c.head_dim
        self.heads = c.num_attention_heads
        self.wq, self.wk, self.wv = (nn.Linear(features, width) for _ in range(3))
        self.wo = nn.Linear(width, c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[M, 4, features] to [M, hidden]."""
        query = self.wq(x.mean(1, keepdim=True))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, self.wk(x), self.wv(x)))
        return self.wo(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).squeeze(1)


class Projector(nn.Module):
    """SwiGLU from pooled features to the decoder's width, no biases."""

    def __init__(self, c: AdapterConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.w3 = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.w2 = nn.Linear(c.intermediate_size, c.text_hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] to [..., text_hidden]."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class VisionBackbone(nn.Module):
    """Tower, pooling and projector: crops to the features that are added to the image tokens."""

    def __init__(self, vit: VitConfig, adapter: AdapterConfig) -> None:
        super().__init__()
        self.image_vit = VisionTransformer(vit, adapter.vit_layers)
        self.image_pooling_2d = AttentionPooling(adapter, vit.hidden_size * len(adapter.vit_layers))
        self.image_projector = Projector(adapter)

    def forward(self, crops: Tensor, pooled_idx: Tensor) -> Tensor:
        """Crops [B, N, P, patch_dim] and indices int64 [B, T, 4] into N*P (-1 missing) to features [B, T, hidden]."""
        batch = crops.shape[0]
        patches = self.image_vit(crops.flatten(0, 1)).unflatten(0, (batch, -1)).flatten(1, 2)
        present = (pooled_idx >= 0).unsqueeze(-1)
        index = pooled_idx.clamp(min=0).flatten(1).unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        windows = patches.gather(1, index).unflatten(1, (-1, 4)) * present
        pooled = self.image_pooling_2d(windows.flatten(0, 1))
        return self.image_projector(pooled).unflatten(0, (batch, -1))


class RmsNorm(nn.Module):
    """Root-mean-square norm in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width], normalised."""
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype) * self.weight


def rope_tables(c: LlmConfig, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines float32 [positions, head_dim] for half-split rotary embedding."""
    frequency = c.rope_theta ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float32) / c.head_dim)
    angle = torch.arange(positions, dtype=torch.float32)[:, None] * frequency
    return torch.cat([angle.cos()] * 2, dim=-1), torch.cat([angle.sin()] * 2, dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., S, head_dim] (half-split layout)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class DecoderAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.head_dim = c.head_dim
        self.split = [c.num_attention_heads * c.head_dim] + [c.num_key_value_heads * c.head_dim] * 2
        self.att_proj = nn.Linear(c.hidden_size, sum(self.split), bias=c.qkv_bias)
        self.attn_out = nn.Linear(self.split[0], c.hidden_size, bias=False)

    def heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [B, heads, S, head_dim], rotated keys and values [B, kv_heads, S, head_dim]."""
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in self.att_proj(x).split(self.split, -1))
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def output(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """What the queries read, projected: [B, S, hidden]. `mask` bool, True where a key may be read."""
        grouped = k.shape[1] != q.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
        return self.attn_out(out.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, S, hidden] to the same, causal."""
        return self.output(*self.heads(x, cos, sin), causal=True)


class _Mlp(nn.Module):
    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.ff_proj = nn.Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.ff_out = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.ff_proj(x).chunk(2, dim=-1)
        return self.ff_out(F.silu(gate) * value)


class DecoderBlock(nn.Module):
    """One layer of the decoder."""

    self_attn: DecoderAttention
    mlp: _Mlp
    attn_norm: RmsNorm
    ff_norm: RmsNorm

    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = DecoderAttention(c), _Mlp(c)
        self.attn_norm, self.ff_norm = (RmsNorm(c.hidden_size, c.layer_norm_eps) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, S, hidden] to the same, causal."""
        x = x + self.self_attn(self.attn_norm(x), cos, sin)
        return x + self.mlp(self.ff_norm(x))


class _Embedding(nn.Module):
    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(c.vocab_size, c.hidden_size))
        self.new_embedding = nn.Parameter(torch.zeros(c.additional_vocab_size, c.hidden_size))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids.clamp(min=0), torch.cat([self.embedding, self.new_embedding]))


class _Transformer(nn.Module):
    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.wte = _Embedding(c)
        self.blocks = nn.ModuleList(DecoderBlock(c) for _ in range(c.num_hidden_layers))
        self.ln_f = RmsNorm(c.hidden_size, c.layer_norm_eps)


class _Backbones(nn.Module):
    def __init__(self, config: MolmoActConfig) -> None:
        super().__init__()
        self.transformer = _Transformer(config.llm_config)
        self.vision_backbone = VisionBackbone(config.vit_config, config.adapter_config)


class MolmoAct(nn.Module):
    """The whole model, from the nano's few million parameters to the released 7B by its configuration."""

    def __init__(self, config: MolmoActConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Backbones(config)
        self.lm_head = nn.Linear(config.llm_config.hidden_size, config.llm_config.vocab_size, bias=False)

    @property
    def layers(self) -> list[DecoderBlock]:
        """The decoder's layers in order."""
        return [block for block in self.model.transformer.blocks if isinstance(block, DecoderBlock)]

    def image_features(self, crops: Tensor, pooled_idx: Tensor) -> Tensor:
        """Crops float [B, N, P, patch_dim] in -1..1, indices int64 [B, T, 4] (-1 missing) to [B, T, hidden]."""
        return self.model.vision_backbone(crops, pooled_idx)

    def embed(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        """Token embeddings [B, S, hidden]; image features are ADDED to the patch tokens, in order."""
        x = self.model.transformer.wte(input_ids)
        if features is None:
            return x
        where = (input_ids == self.config.image_patch_id).unsqueeze(-1).expand_as(x)
        return x.masked_scatter(where, x[where] + features.flatten().to(x.dtype))

    def forward(self, input_ids: Tensor, features: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Hidden states [B, S, hidden] after the final norm for int64 ids [B, S]; causal.

        positions: int64 [B, S], where each token stands in the full sequence; 0..S-1 when not given.
        """
        x = self.embed(input_ids, features)
        length = x.shape[1] if positions is None else self.config.llm_config.max_position_embeddings
        cos, sin = (t.to(x) for t in rope_tables(self.config.llm_config, length))
        if positions is not None:
            cos, sin = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
        for block in self.layers:
            x = block(x, cos, sin)
        return self.model.transformer.ln_f(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., vocab] of the next token."""
        return self.lm_head(hidden)
