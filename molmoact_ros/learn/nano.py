"""The nano model: the released architecture, text format and tensor names at a few million parameters."""

from __future__ import annotations

from tokenizers import Tokenizer

from molmoact_ros.engine.config import AdapterConfig, LlmConfig, MolmoActConfig, VitConfig
from molmoact_ros.learn.demonstrations import VIEW
from molmoact_ros.learn.tokenizer import base_vocab_size
from molmoact_ros.reasoning.actions import NormStats
from molmoact_ros.reasoning.tokens import IMAGE_TOKENS

NORM_KEY = "nano_workcell"
PATCH = 8  # pixels


def nano_config(tokenizer: Tokenizer, stats: NormStats) -> MolmoActConfig:
    """The nano's configuration for a tokenizer and the statistics of its training actions."""
    vocab = base_vocab_size(tokenizer)
    return MolmoActConfig(
        vit_config=VitConfig(
            hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, head_dim=32,
            layer_norm_eps=1e-6, image_default_input_size=VIEW, image_patch_size=PATCH,
            image_num_pos=(VIEW[0] // PATCH) * (VIEW[1] // PATCH),
        ),
        adapter_config=AdapterConfig(
            vit_layers=(-1, -3), hidden_size=128, num_attention_heads=4, head_dim=32, intermediate_size=384,
            text_hidden_size=192,
        ),
        llm_config=LlmConfig(
            hidden_size=192, num_attention_heads=6, num_key_value_heads=2, head_dim=32, vocab_size=vocab,
            additional_vocab_size=64, num_hidden_layers=4, intermediate_size=512, max_position_embeddings=512,
            rope_theta=1e4, layer_norm_eps=1e-6,
        ),
        image_patch_id=vocab + IMAGE_TOKENS.index("<im_patch>"),
        norm_stats={NORM_KEY: {"action": stats}},
        crop_mode="resize",
    )  # fmt: skip
