"""The baseline: the same weights in Hugging Face's transformers, decoded by its own greedy `generate`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from molmoact_ros.engine.model.molmoact import MolmoAct


def transformers_model(model: MolmoAct) -> nn.Module:
    """A `Qwen2ForCausalLM` with the decoder's weights. Raises RuntimeError where transformers is not installed, and
    ValueError for a decoder of another architecture than Qwen2's."""
    try:
        from transformers import Qwen2Config, Qwen2ForCausalLM
    except ImportError as error:
        raise RuntimeError(f"{error}; the baseline needs: pip install molmoact_ros[bench]") from None
    c = model.config.llm_config
    if c.norm_after or c.use_qk_norm or not c.qkv_bias:
        raise ValueError("the baseline is for decoders of Qwen2's kind (7B-D, nano)")
    config = Qwen2Config(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers, num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads, head_dim=c.head_dim, rms_norm_eps=c.layer_norm_eps,
        max_position_embeddings=c.max_position_embeddings, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
    )  # fmt: skip
    with torch.device("meta"):
        twin = Qwen2ForCausalLM(config)
    weights = _renamed(model)
    # Buffers that are computed, not stored (the rotary frequencies), are the same in a model without layers and words.
    empty = deepcopy(config)
    empty.num_hidden_layers, empty.layer_types, empty.vocab_size = 0, [], 1
    buffers = {name: buffer for name, buffer in Qwen2ForCausalLM(empty).named_buffers() if name not in weights}
    twin.load_state_dict(weights, assign=True)
    for name, buffer in buffers.items():
        owner, _, attribute = name.rpartition(".")
        setattr(twin.get_submodule(owner), attribute, buffer.to(model.lm_head.weight.device))
    return twin.eval()


def _renamed(model: MolmoAct) -> dict[str, Tensor]:
    """The decoder's weights under transformers' names; fused matrices are split into views, nothing is copied."""
    parts = model.model.transformer
    weights = {
        "model.embed_tokens.weight": parts.wte.embedding, "model.norm.weight": parts.ln_f.weight,
        "lm_head.weight": model.lm_head.weight,
    }  # fmt: skip
    for i, block in enumerate(model.layers):
        attention, name = block.self_attn, f"model.layers.{i}"
        for kind in ("weight", "bias"):
            split = getattr(attention.att_proj, kind).split(attention.split)
            weights |= {f"{name}.self_attn.{p}_proj.{kind}": t for p, t in zip("qkv", split, strict=True)}
        up, gate = block.mlp.ff_proj.weight.chunk(2)
        weights |= {
            f"{name}.self_attn.o_proj.weight": attention.attn_out.weight,
            f"{name}.mlp.up_proj.weight": up, f"{name}.mlp.gate_proj.weight": gate,
            f"{name}.mlp.down_proj.weight": block.mlp.ff_out.weight,
            f"{name}.input_layernorm.weight": block.attn_norm.weight,
            f"{name}.post_attention_layernorm.weight": block.ff_norm.weight,
        }  # fmt: skip
    return {name: weight.detach() for name, weight in weights.items()}


@torch.inference_mode()
def greedy(twin: nn.Module, embeddings: Tensor, tokens: int) -> list[int]:
    """`tokens` ids that `generate` returns for a prompt's embeddings [S, hidden]; without a grammar, so no answer."""
    generate: Callable[..., Tensor] = twin.generate  # type: ignore[assignment]  # nn.Module's attributes are any
    said = generate(
        inputs_embeds=embeddings.unsqueeze(0), attention_mask=torch.ones(1, len(embeddings), device=embeddings.device),
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0,
    )  # fmt: skip
    return said[0].tolist()
