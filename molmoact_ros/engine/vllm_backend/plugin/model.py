"""MolmoAct in vLLM's layers: vLLM shards and quantises the decoder of both families; the vision tower is the torch one.

Tensor names are the released checkpoint's (engine/model/molmoact.py). Shapes: S is the number of tokens of all
sequences of a batch together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import CacheConfig, VllmConfig
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    split_tensor_along_last_dim,
    tensor_model_parallel_all_gather,
)
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from molmoact_ros.engine.model.config import LlmConfig, MolmoActConfig
from molmoact_ros.engine.model.molmoact import VisionBackbone
from molmoact_ros.engine.vllm_backend.plugin.processor import DummyPictures, PictureInfo, PictureProcessor

VISION, DECODER = "model.vision_backbone.", "model.transformer."
RENAMED = {
    ".self_attn.attn_out.": ".self_attn.o_proj.", ".mlp.ff_out.": ".mlp.down_proj.", "blocks.": "layers.",
    "ln_f.": "norm.",
}  # fmt: skip


class _Attention(nn.Module):
    def __init__(self, c: LlmConfig, cache: CacheConfig | None, quant: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.shards, self.rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
        heads, kv_heads = c.num_attention_heads // self.shards, max(1, c.num_key_value_heads // self.shards)
        self.split = [heads * c.head_dim, kv_heads * c.head_dim, kv_heads * c.head_dim]
        self.qkv_proj = QKVParallelLinear(
            c.hidden_size, c.head_dim, c.num_attention_heads, c.num_key_value_heads, bias=c.qkv_bias,
            quant_config=quant, prefix=f"{prefix}.qkv_proj",
        )  # fmt: skip
        self.o_proj = RowParallelLinear(
            c.num_attention_heads * c.head_dim, c.hidden_size, bias=False, quant_config=quant, prefix=f"{prefix}.o_proj"
        )
        whole = [c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim]
        self.q_norm = RMSNorm(whole[0], eps=c.layer_norm_eps) if c.use_qk_norm else None
        self.k_norm = RMSNorm(whole[1], eps=c.layer_norm_eps) if c.use_qk_norm else None
        rope = {"rope_type": "default", "rope_theta": c.rope_theta}
        self.rotary_emb = get_rope(c.head_dim, c.max_position_embeddings, rope_parameters=rope)
        self.attn = Attention(
            heads, c.head_dim, c.head_dim**-0.5, num_kv_heads=kv_heads, cache_config=cache, quant_config=quant,
            prefix=f"{prefix}.attn",
        )  # fmt: skip

    def _norm(self, norm: RMSNorm, x: Tensor) -> Tensor:
        """Norm over all heads together; with tensor parallelism this process has only some of them."""
        whole: Tensor = norm(x if self.shards == 1 else tensor_model_parallel_all_gather(x.contiguous()))
        if self.shards > 1:
            whole = split_tensor_along_last_dim(whole, self.shards)[self.rank]
        return whole

    def forward(self, positions: Tensor, x: Tensor) -> Tensor:
        q, k, v = self.qkv_proj(x)[0].split(self.split, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self._norm(self.q_norm, q), self._norm(self.k_norm, k)
        q, k = self.rotary_emb(positions, q, k)
        result: Tensor = self.o_proj(self.attn(q, k, v))[0]
        return result


class _Mlp(nn.Module):
    def __init__(self, c: LlmConfig, quant: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(
            c.hidden_size, [c.intermediate_size] * 2, bias=False, quant_config=quant, prefix=f"{prefix}.gate_up_proj"
        )
        self.down_proj = RowParallelLinear(
            c.intermediate_size, c.hidden_size, bias=False, quant_config=quant, prefix=f"{prefix}.down_proj"
        )
        self.act = SiluAndMul()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(self.act(self.gate_up_proj(x)[0]))[0]
        return result


class _Block(nn.Module):
    """Norms before attention and MLP (Qwen2), or after them (OLMo2)."""

    def __init__(self, c: LlmConfig, cache: CacheConfig | None, quant: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.norm_after = c.norm_after
        self.self_attn = _Attention(c, cache, quant, f"{prefix}.self_attn")
        self.mlp = _Mlp(c, quant, f"{prefix}.mlp")
        self.attn_norm, self.ff_norm = (RMSNorm(c.hidden_size, eps=c.layer_norm_eps) for _ in range(2))

    def forward(self, positions: Tensor, x: Tensor) -> Tensor:
        if self.norm_after:
            x = x + self.attn_norm(self.self_attn(positions, x))
            x = x + self.ff_norm(self.mlp(x))
        else:
            x = x + self.self_attn(positions, self.attn_norm(x))
            x = x + self.mlp(self.ff_norm(x))
        return x


@support_torch_compile(
    dynamic_arg_dims={"input_ids": 0, "positions": -1, "intermediate_tensors": 0, "inputs_embeds": 0}
)
class _Decoder(nn.Module):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        c: LlmConfig = vllm_config.model_config.hf_config.checked.llm_config
        cache, quant = vllm_config.cache_config, vllm_config.quant_config
        # The vocabulary, then the input-only tokens.
        self.embed_tokens = VocabParallelEmbedding(c.vocab_size + c.additional_vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(_Block(c, cache, quant, f"{prefix}.layers.{i}") for i in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(
        self, input_ids: Tensor | None, positions: Tensor, intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        for layer in self.layers:
            x = layer(positions, x)
        result: Tensor = self.norm(x)
        return result


class _Language(nn.Module):
    """Decoder and head: the language model in vLLM's terms."""

    model: _Decoder

    def __init__(self, vllm_config: VllmConfig, c: LlmConfig) -> None:
        super().__init__()
        self.model = _Decoder(vllm_config=vllm_config, prefix="language.model")
        self.lm_head = ParallelLMHead(
            c.vocab_size, c.hidden_size, quant_config=vllm_config.quant_config, prefix="language.lm_head"
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Embeddings [S, hidden] of ids [S]."""
        result: Tensor = self.model.embed_tokens(input_ids)
        return result


@MULTIMODAL_REGISTRY.register_processor(PictureProcessor, info=PictureInfo, dummy_inputs=DummyPictures)
class ServedMolmoAct(nn.Module, SupportsMultiModal):
    """The whole model, as vLLM runs it."""

    allow_patterns_overrides = ("model*.safetensors",)  # excludes the depth VQ-VAE next to them

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config: MolmoActConfig = vllm_config.model_config.hf_config.checked
        with SupportsMultiModal._mark_tower_model(self, vllm_config, "image"):
            self.vision = VisionBackbone(self.config.vit_config, self.config.adapter_config)
        with SupportsMultiModal._mark_language_model(self, vllm_config):
            self.language = _Language(vllm_config, self.config.llm_config)
        self.logits_processor = LogitsProcessor(self.config.llm_config.vocab_size)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """The placeholder of an image in a chat; our chat template inserts it itself."""
        return "<|image|>" if modality == "image" else None

    def get_language_model(self) -> nn.Module:
        """The decoder with its head."""
        return self.language

    def embed_multimodal(self, crops: object = None, indices: object = None, **_: object) -> MultiModalEmbeddings:
        """Encode each image to features [T, hidden] from its crops [C, P, patch_dim] and indices [T, 4]."""
        if not isinstance(crops, (Tensor, list)) or not isinstance(indices, (Tensor, list)):
            return []
        dtype = self.vision.image_projector.w2.weight.dtype
        return [self.vision(c.to(dtype)[None], i[None])[0] for c, i in zip(crops, indices, strict=True)]

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: MultiModalEmbeddings | None = None, *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Token embeddings [S, hidden] of ids [S]; image features are ADDED to the patch tokens, in order."""
        embeddings = self.language.embed_input_ids(input_ids)
        if multimodal_embeddings is None or not len(multimodal_embeddings) or is_multimodal is None:
            return embeddings
        features = torch.cat(tuple(multimodal_embeddings)).to(embeddings.dtype)
        where = is_multimodal.to(embeddings.device).unsqueeze(-1).expand_as(embeddings)
        return embeddings.masked_scatter(where, embeddings[where] + features.flatten())

    def forward(
        self, input_ids: Tensor | None, positions: Tensor, intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None, **_: object,
    ) -> Tensor:  # fmt: skip
        """Hidden states [S, hidden] after the final norm."""
        result: Tensor = self.language.model(input_ids, positions, intermediate_tensors, inputs_embeds)
        return result

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Scores [S, vocab] of the next token."""
        result: Tensor | None = self.logits_processor(self.language.lm_head, hidden_states)
        return result

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load a checkpoint's tensors [...] by name; return the names of the parameters set."""
        parameters = dict(self.named_parameters())
        loaded = set()
        for name, shard, tensor in _parts(weights, self.config.llm_config):
            parameter = parameters[name]
            load = getattr(parameter, "weight_loader", default_weight_loader)
            load(parameter, tensor) if shard is None else load(parameter, tensor, shard)
            loaded.add(name)
        return loaded


def _parts(weights: Iterable[tuple[str, Tensor]], c: LlmConfig) -> Iterator[tuple[str, str | int | None, Tensor]]:
    """The parameter, shard and values for each tensor; tensors that vLLM fuses differently are split."""
    tables: dict[str, Tensor] = {}
    for name, tensor in weights:
        if name.startswith(VISION):
            yield f"vision.{name.removeprefix(VISION)}", None, tensor
        elif name.startswith(f"{DECODER}wte."):
            tables[name.rpartition(".")[2]] = tensor
            if len(tables) == 2:
                both = torch.cat([tables["embedding"], tables["new_embedding"]])
                yield "language.model.embed_tokens.weight", None, both
        elif name.startswith(DECODER):
            yield from _decoder_parts(f"language.model.{name.removeprefix(DECODER)}", tensor, c)
        else:
            yield f"language.{name}", None, tensor


def _decoder_parts(name: str, tensor: Tensor, c: LlmConfig) -> Iterator[tuple[str, str | int | None, Tensor]]:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    if ".att_proj." in name:
        sizes = [c.num_attention_heads * c.head_dim] + [c.num_key_value_heads * c.head_dim] * 2
        for shard, part in zip("qkv", torch.split(tensor, sizes), strict=True):
            yield name.replace(".att_proj.", ".qkv_proj."), shard, part
    elif ".ff_proj." in name:
        value, gate = tensor.chunk(2)  # vLLM has them in the opposite order
        for index, part in enumerate((gate, value)):
            yield name.replace(".ff_proj.", ".gate_up_proj."), index, part
    else:
        yield name, None, tensor
