"""The MolmoAct architecture in torch: vision transformer, attention pooling, projector, decoder.

Tensor names are the released checkpoint's. Shapes: B batch, S sequence, N images, P patches, T image tokens.
Source of every detail: the released model's code as described in arXiv 2508.07917 and its repository.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molmoact_ros.engine.model.attention import attention_by_products
from molmoact_ros.engine.model.config import Activation, AdapterConfig, LlmConfig, MolmoActConfig, VitConfig

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "silu": F.silu,
}


class _ImageAttention(nn.Module):
    """Attention without positions: among patches, or from a pooling window's mean to its patches.

    It keeps the released model's order of operations: the small rounding differences of a fused kernel reach the
    logits ten times as large. MolmoAct 2's is fused.
    """

    def __init__(self, c: VitConfig | AdapterConfig, features: int) -> None:
        super().__init__()
        self.head_dim, self.float32, self.fused = c.head_dim, c.float32_attention, c.fused_attention
        self.shared = c.num_attention_heads // c.num_key_value_heads
        self.wq = nn.Linear(features, c.num_attention_heads * c.head_dim)
        self.wk, self.wv = (nn.Linear(features, c.num_key_value_heads * c.head_dim) for _ in range(2))
        self.wo = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size)

    def forward(self, query: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries [N, Q, features] over keys and values [N, K, features] to [N, Q, hidden].

        mask: bool [N, 1, 1, K], the keys that count; None: all.
        """
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)) for t in (self.wq(query), self.wk(x), self.wv(x)))
        if self.shared > 1:
            k, v = k.repeat_interleave(self.shared, dim=2), v.repeat_interleave(self.shared, dim=2)
        if self.float32:
            q, k = q.float(), k.float()
        if self.fused:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v.to(k)))
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
            fused: Tensor = self.wo(read.to(query))
            return fused
        scores = torch.einsum("nqhd,nkhd->nhqk", q / self.head_dim**0.5, k)
        weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)
        result: Tensor = self.wo(torch.einsum("nhqk,nkhd->nqhd", weights.to(v.dtype), v).flatten(2))
        return result


class _VitMlp(nn.Module):
    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(c.hidden_size, c.intermediate_size)
        self.w2 = nn.Linear(c.intermediate_size, c.hidden_size)
        self.act = _ACTIVATIONS[c.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.w2(self.act(self.w1(x)))
        return result


class VitBlock(nn.Module):
    """One layer of the vision tower: attention among an image's patches, then an MLP, each after a norm."""

    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        self.attention, self.feed_forward = _ImageAttention(c, c.hidden_size), _VitMlp(c)
        self.attention_norm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.ffn_norm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Features of patches [N, P, hidden] to the same."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed)
        result: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return result


class _VitBlocks(nn.Module):
    def __init__(self, c: VitConfig, count: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(VitBlock(c) for _ in range(count))


class VisionTransformer(nn.Module):
    """SigLIP2 or CLIP tower, without the blocks after the last one whose features are used."""

    def __init__(self, c: VitConfig, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.taps = tuple(t % c.num_hidden_layers for t in taps)
        self.patch_embedding = nn.Linear(c.patch_dim, c.hidden_size, bias=c.patch_bias)
        self.class_embedding = nn.Parameter(torch.zeros(c.hidden_size)) if c.use_cls_token else None
        self.positional_embedding = nn.Parameter(torch.zeros(c.image_num_pos, c.hidden_size))
        self.pre_ln = nn.LayerNorm(c.hidden_size, c.layer_norm_eps) if c.pre_layernorm else None
        self.transformer = _VitBlocks(c, max(self.taps) + 1)

    @property
    def blocks(self) -> list[VitBlock]:
        """The tower's layers in order."""
        return [block for block in self.transformer.resblocks if isinstance(block, VitBlock)]

    def forward(self, patches: Tensor) -> Tensor:
        """Normalised patches float [N, P, patch_dim] to features [N, P, taps * hidden]."""
        x = self.patch_embedding(patches)
        if self.class_embedding is not None:
            x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = x + self.positional_embedding
        if self.pre_ln is not None:
            x = self.pre_ln(x)
        outputs = []
        for block in self.transformer.resblocks:
            x = block(x)
            outputs.append(x)
        features = torch.cat([outputs[t] for t in self.taps], dim=-1)
        return features if self.class_embedding is None else features[:, 1:]


class Projector(nn.Module):
    """Gated projection from pooled features to the decoder's width, without biases."""

    def __init__(self, c: AdapterConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.w3 = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.w2 = nn.Linear(c.intermediate_size, c.text_hidden_size, bias=False)
        self.act = _ACTIVATIONS[c.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] to [..., text_hidden]."""
        result: Tensor = self.w2(self.act(self.w1(x)) * self.w3(x))
        return result


class VisionBackbone(nn.Module):
    """Tower, pooling and projector: from crops to the features that are added to the image tokens.

    `pad_embed` (7B-O) is loaded but never used: the released model adds it only with padding masks, and passes none at
    inference.
    """

    def __init__(self, vit: VitConfig, adapter: AdapterConfig) -> None:
        super().__init__()
        self.image_vit = VisionTransformer(vit, adapter.vit_layers)
        features = vit.hidden_size * len(adapter.vit_layers)
        self.pad_embed = nn.Parameter(torch.zeros(2, features)) if adapter.image_padding_embed else None
        self.image_pooling_2d = _ImageAttention(adapter, features)
        self.image_projector = Projector(adapter)
        self.masked = adapter.pooling_attention_mask

    def forward(self, crops: Tensor, pooled_idx: Tensor) -> Tensor:
        """Crops [B, N, P, patch_dim] and indices int64 [B, T, 4] into N*P (-1 missing) to features [B, T, hidden].

        Attention pools four patch features into one. The query is their mean, with missing patches as zeros; with a
        pooling mask (MolmoAct 2) it is the mean of those present, which alone are keys.
        """
        batch = crops.shape[0]
        patches = self.image_vit(crops.flatten(0, 1)).unflatten(0, (batch, -1)).flatten(1, 2)
        present = (pooled_idx >= 0).unsqueeze(-1)
        index = pooled_idx.clamp(min=0).flatten(1).unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        windows = (patches.gather(1, index).unflatten(1, (-1, 4)) * present).flatten(0, 1)
        if self.masked:
            keys = present.flatten(0, 1)  # bool [B * T, 4, 1]
            query = windows.sum(1, keepdim=True) / keys.sum(1, keepdim=True).clamp(min=1).to(windows)
            pooled = self.image_pooling_2d(query, windows, keys.transpose(1, 2).unsqueeze(1)).squeeze(1)
        else:
            pooled = self.image_pooling_2d(windows.mean(1, keepdim=True), windows).squeeze(1)
        result: Tensor = self.image_projector(pooled).unflatten(0, (batch, -1))
        return result


class RmsNorm(nn.Module):
    """Root-mean-square norm, computed in float32 and rounded before scaling, as in the released model."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width], normalised."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def rope_tables(c: LlmConfig, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines float32 [positions, head_dim] for half-split rotary embedding.

    The first half of the sines is negated, since the first half of a head takes the negated second half.
    """
    frequency = 1.0 / c.rope_theta ** (torch.arange(0, c.head_dim, 2, dtype=torch.float32) / c.head_dim)
    angle = torch.arange(positions, dtype=torch.float32)[:, None] * frequency
    sin = angle.sin()
    return torch.cat([angle.cos()] * 2, dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embedding to x [..., S, head_dim] (half-split layout)."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


class DecoderAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.head_dim = c.head_dim
        self.counts = [c.num_attention_heads, c.num_key_value_heads]
        self.rotated = [sum(self.counts), c.num_key_value_heads]
        self.split = [c.num_attention_heads * c.head_dim] + [c.num_key_value_heads * c.head_dim] * 2
        self.att_proj = nn.Linear(c.hidden_size, sum(self.split), bias=c.qkv_bias)
        self.attn_out = nn.Linear(self.split[0], c.hidden_size, bias=False)
        self.by_head = c.qk_norm_type == "qwen3"
        widths = [c.head_dim] * 2 if self.by_head else self.split[:2]
        self.q_norm = RmsNorm(widths[0], c.layer_norm_eps) if c.use_qk_norm else None
        self.k_norm = RmsNorm(widths[1], c.layer_norm_eps) if c.use_qk_norm else None

    def heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [..., heads, S, head_dim], rotated keys and values [..., kv_heads, S, head_dim]."""
        projected = self.att_proj(x)
        if self.q_norm is not None and self.k_norm is not None and not self.by_head:
            q, k, v = projected.split(self.split, -1)
            projected = torch.cat([self.q_norm(q), self.k_norm(k), v], dim=-1)
        heads = projected.unflatten(-1, (-1, self.head_dim)).transpose(-3, -2)
        both, v = heads.split(self.rotated, dim=-3)
        if self.q_norm is not None and self.k_norm is not None and self.by_head:
            q, k = both.split(self.counts, dim=-3)
            both = torch.cat([self.q_norm(q), self.k_norm(k)], dim=-3)
        q, k = rotate(both, cos, sin).split(self.counts, dim=-3)  # type: ignore[no-untyped-call]
        return q, k, v

    def output(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """The projected attention output [B, S, hidden].

        mask: bool [S, K] or [B, 1, S, K], True where a key may be attended to.
        """
        if q.requires_grad and q.device.type == "cpu":  # the fused kernel's backward pass is slow there
            out = attention_by_products(q, k, v, mask, causal)
        else:
            grouped = k.shape[1] != q.shape[1]
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
        result: Tensor = self.attn_out(out.transpose(1, 2).flatten(2))
        return result

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Causal self-attention, [B, S, hidden] to the same."""
        return self.output(*self.heads(x, cos, sin), causal=True)


class _Mlp(nn.Module):
    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.ff_proj = nn.Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.ff_out = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)
        self.act = _ACTIVATIONS[c.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.ff_proj(x).chunk(2, dim=-1)
        result: Tensor = self.ff_out(self.act(gate) * value)
        return result


class DecoderBlock(nn.Module):
    """One layer of the decoder: norms before attention and MLP (Qwen2), or after them (OLMo2)."""

    self_attn: DecoderAttention
    mlp: _Mlp
    attn_norm: RmsNorm
    ff_norm: RmsNorm

    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.norm_after = c.norm_after
        self.self_attn, self.mlp = DecoderAttention(c), _Mlp(c)
        self.attn_norm, self.ff_norm = (RmsNorm(c.hidden_size, c.layer_norm_eps) for _ in range(2))

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """[..., S, hidden] to the same. attend: self-attention with the caller's cache and mask."""
        if self.norm_after:
            x = x + self.attn_norm(attend(x))
            x = x + self.ff_norm(self.mlp(x))
        else:
            x = x + attend(self.attn_norm(x))
            x = x + self.mlp(self.ff_norm(x))
        return x


class _Embedding(nn.Module):
    """Two tables: the vocabulary, then the input-only tokens that frame images."""

    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(c.vocab_size, c.hidden_size))
        self.new_embedding = nn.Parameter(torch.zeros(c.additional_vocab_size, c.hidden_size))

    def forward(self, ids: Tensor) -> Tensor:
        vocabulary = len(self.embedding)
        known = F.embedding(ids.clamp(0, vocabulary - 1), self.embedding)
        added = F.embedding((ids - vocabulary).clamp(min=0), self.new_embedding)
        return torch.where((ids < vocabulary).unsqueeze(-1), known, added)


class Transformer(nn.Module):
    """The decoder's embeddings, layers and final norm, under the released names."""

    def __init__(self, c: LlmConfig) -> None:
        super().__init__()
        self.wte = _Embedding(c)
        self.blocks = nn.ModuleList(DecoderBlock(c) for _ in range(c.num_hidden_layers))
        self.ln_f = RmsNorm(c.hidden_size, c.layer_norm_eps)


class _Backbones(nn.Module):
    def __init__(self, config: MolmoActConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config.llm_config)
        self.vision_backbone = VisionBackbone(config.vit_config, config.adapter_config)


def add_features(x: Tensor, patches: Tensor, features: Tensor) -> Tensor:
    """Embeddings x [B, S, hidden] with features [B, T, hidden] added, in order, where `patches`, bool [B, S], is true.

    Raises ValueError if the numbers of features and patch tokens differ.
    """
    where = patches.unsqueeze(-1).expand_as(x)
    there = x[where]
    if len(there) != features.numel():
        raise ValueError(f"{len(there) // x.shape[-1]} image tokens for {features.shape[:-1].numel()} features")
    return x.masked_scatter(where, there + features.flatten().to(x.dtype))


class MolmoAct(nn.Module):
    """The whole model, from the nano's few million parameters to the released 7B depending on its configuration.

    ids int64 [B, S] and features [B, T, hidden], one for each patch token, give the next token's scores:

        features = model.image_features(crops, pooled_idx)  # [B, T, hidden]
        scores = model.logits(model(ids, features))  # [B, S, vocab]
    """

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
        """Encode crops float [B, N, P, patch_dim], normalised, with indices int64 [B, T, 4] (-1 missing) to features
        [B, T, hidden].
        """
        result: Tensor = self.model.vision_backbone(crops, pooled_idx)
        return result

    def embed(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        """Token embeddings [B, S, hidden] for int64 ids [B, S]; image features are ADDED to the patch tokens, in order.

        Raises ValueError if the numbers of features and patch tokens differ.
        """
        x: Tensor = self.model.transformer.wte(input_ids)
        return x if features is None else add_features(x, input_ids == self.config.image_patch_id, features)

    def forward(self, input_ids: Tensor, features: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Hidden states [B, S, hidden] after the final norm for int64 ids [B, S]; causal.

        positions: int64 [B, S], the position of each token in the full sequence; None: 0..S-1.
        """
        return self.run(self.embed(input_ids, features), positions)

    def run(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Hidden states [B, S, hidden] after the final norm for embeddings [B, S, hidden]; see `forward`."""
        length = x.shape[1] if positions is None else self.config.llm_config.max_position_embeddings
        cos, sin = (t.to(x) for t in rope_tables(self.config.llm_config, length))
        if positions is not None:
            cos, sin = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
        for block in self.layers:
            x = block(x, partial(block.self_attn, cos=cos, sin=sin))
        result: Tensor = self.model.transformer.ln_f(x)
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., vocab] of the next token."""
        result: Tensor = self.lm_head(hidden)
        return result
