"""The nano model: the released architecture, text format and tensor names at a few million parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from molmoact_ros.engine.model.checkpoint import save_checkpoint
from molmoact_ros.engine.model.config import (
    AdapterConfig,
    DatasetStats,
    LlmConfig,
    MolmoActConfig,
    ProcessorConfig,
    RunConfig,
    VitConfig,
)
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.model.image_processor import normalise, patches
from molmoact_ros.engine.model.molmoact import DecoderAttention, MolmoAct
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.reasoning.action_convention import ActionConvention, GripperPolarity
from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, NormStats
from molmoact_ros.reasoning.answer_templates import NEXT_VALUE, Wording
from molmoact_ros.reasoning.tokens import IMAGE_TOKENS
from molmoact_ros.reasoning.trace import MAX_COORDINATE
from molmoact_ros.training.demonstrations import VIEW
from molmoact_ros.training.expert import STEP
from molmoact_ros.training.tokenizer import base_vocab_size

NORM_KEY = "nano_workcell"
PATCH = 8  # pixels


def nano_config(
    tokenizer: Tokenizer, stats: NormStats, key: str = NORM_KEY, view: tuple[int, int] = VIEW
) -> MolmoActConfig:
    """The nano's configuration for a tokenizer and the statistics of its training actions, whose name is `key`.

    view: rows and columns of an input image, multiples of twice PATCH.
    """
    vocab = base_vocab_size(tokenizer)
    return MolmoActConfig(
        model_type="molmoact",
        vit_config=VitConfig(
            hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
            head_dim=32, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, image_default_input_size=view,
            image_patch_size=PATCH, image_num_pos=(view[0] // PATCH) * (view[1] // PATCH), float32_attention=True,
            use_cls_token=False, patch_bias=True, pre_layernorm=False,
        ),
        adapter_config=AdapterConfig(
            vit_layers=(-1, -3), hidden_size=128, num_attention_heads=4, num_key_value_heads=4, head_dim=32,
            float32_attention=True, hidden_act="silu", intermediate_size=384, text_hidden_size=192,
            image_padding_embed=None,
        ),
        llm_config=LlmConfig(
            hidden_size=192, num_attention_heads=6, num_key_value_heads=2, head_dim=32, vocab_size=vocab,
            additional_vocab_size=64, qkv_bias=True, num_hidden_layers=4, intermediate_size=512, hidden_act="silu",
            max_position_embeddings=512, rope_theta=1e6, rope_scaling=None, use_qk_norm=False, qk_norm_type="olmo",
            layer_norm_eps=1e-6, norm_after=False,
        ),
        image_patch_id=vocab + IMAGE_TOKENS.index("<im_patch>"),
        n_action_bins=256,
        norm_stats={key: DatasetStats(action=stats)},
    )  # fmt: skip


def view_processor(view: tuple[int, int]) -> ProcessorConfig:
    """One view of each image, scaled by area averaging to `view`, rows and columns."""
    return ProcessorConfig(
        crop_mode="resize", resize_mode="area", normalize_mode="siglip", max_crops=1, max_multi_image_crops=1,
        overlap_margins=(0, 0), base_image_input_size=view, pad_value=0.0, image_patch_size=PATCH, image_pooling_w=2,
        image_pooling_h=2,
    )  # fmt: skip


def two_camera_run(key: str, convention: ActionConvention) -> RunConfig:
    """What run.json says of a model with the nano's answers, whose actions have the convention of its only key."""
    return RunConfig(
        frame_size=None, cameras=2, chunk_steps=(8,), wordings=(Wording.SEVERAL_CAMERAS,), conventions={key: convention}
    )


PROCESSOR = view_processor(VIEW)
RUN = two_camera_run(
    NORM_KEY,
    ActionConvention(
        robot="franka", space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw",
        gripper=GripperPolarity(open=1, closed=0), dt=STEP, cameras=("front", "wrist"),
    ),
)  # fmt: skip


def save_nano(folder: Path, model: MolmoAct, tokenizer: Tokenizer, depth_vq: DepthVq) -> None:
    """Write a checkpoint folder of the nano model."""
    save_checkpoint(folder, model, tokenizer, depth_vq, PROCESSOR, RUN)


def view_patches(images: np.ndarray) -> np.ndarray:
    """Convert views uint8 [N, rows, columns, 3] to normalised patches float32 [N, P, patch_dim]."""
    return patches(normalise(images.astype(np.float32) / 255), PATCH)


BLOCK_OUTPUTS = ("attn_out.weight", "ff_out.weight", "wo.weight", "feed_forward.w2.weight")
EMBEDDING_STD = 0.3
WAVES = 8
SHARPNESS = 1.5
FEATURE_SIZE = 16.0
"""Mean square of the image features at first, and what `restraint` holds it at; at 0.7 training is slower."""
RESTRAINT = 1.0


def smooth_rows(count: int, width: int, std: float) -> Tensor:
    """Random rows float32 [count, width] with standard deviation `std` that vary smoothly over the rows.

    They are random mixtures of the lowest `WAVES` cosine and sine waves over the rows.
    """
    angle = torch.pi * torch.arange(count)[:, None] / count * torch.arange(WAVES)
    waves = torch.cat([angle.cos(), angle.sin()], dim=1) / (1 + torch.arange(WAVES)).sqrt().repeat(2)
    rows = waves @ torch.randn(2 * WAVES, width)
    return rows * (std / rows.std())


def ordered_tokens(tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each kind of numeric token in numeric order: x and y of trace points; first and later values of an
    action."""
    numbers = [[str(n) for n in range(MAX_COORDINATE + 1)], list(ACTION_SYMBOLS)]
    vocabulary = tokenizer.get_vocab()
    return [[vocabulary[lead + text] for text in texts] for texts in numbers for lead in ("", NEXT_VALUE)]


def look_for_likes(attention: DecoderAttention) -> None:
    """Initialise attention so that each token attends to similar tokens and copies their content.

    Query weights are nearly the key weights, and the output projection inverts the value projection ("mimetic
    initialisation", Trockman and Kolter 2023, for language models). From random weights, training does not learn that a
    name token attends to its object.
    """
    head, width = attention.head_dim, attention.att_proj.in_features
    queries, keys, values = attention.att_proj.weight.split(attention.split)
    nn.init.orthogonal_(keys, gain=SHARPNESS)
    nn.init.orthogonal_(values)
    repeats = len(queries) // len(keys)
    alike = keys.unflatten(0, (-1, head)).repeat_interleave(repeats, 0).flatten(0, 1)
    queries.copy_(alike + 0.3 * SHARPNESS * width**-0.5 * torch.randn_like(alike))
    undone = values.unflatten(0, (-1, head)).repeat_interleave(repeats, 0).flatten(0, 1).T
    attention.attn_out.weight.copy_(undone + 0.05 * torch.randn_like(undone))


@torch.no_grad()
def scale_by_inputs(model: nn.Module, outputs: tuple[str, ...] = BLOCK_OUTPUTS) -> None:
    """Initialise matrices by their fan-in, half as large where a block's output is made; embeddings alike; no biases.

    outputs: how the names of the matrices that make a block's output end.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name.endswith("embedding"):
            nn.init.normal_(parameter, std=EMBEDDING_STD)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=(0.5 if name.endswith(outputs) else 1.0) * parameter.shape[1] ** -0.5)


@torch.no_grad()
def initialise(model: MolmoAct, tokenizer: Tokenizer) -> None:
    """Initialise the weights randomly with torch's generator.

    Matrices are scaled by their fan-in (a released model's 0.02 is far too small at this width). Neighbouring numbers
    and neighbouring patches start with similar embeddings: otherwise, a few thousand steps do not teach localisation.
    """
    scale_by_inputs(model)
    for layer in model.layers:
        look_for_likes(layer.self_attn)
    embedding, head = model.model.transformer.wte.embedding, model.lm_head.weight
    for ids in ordered_tokens(tokenizer):
        embedding[ids] = smooth_rows(len(ids), embedding.shape[1], EMBEDDING_STD)
        head[ids] = smooth_rows(len(ids), head.shape[1], head.shape[1] ** -0.5)
    places = model.model.vision_backbone.image_vit.positional_embedding
    rows, columns = (smooth_rows(n, places.shape[1], EMBEDDING_STD) for n in model.config.vit_config.grid)
    places.copy_((rows[:, None] + columns[None]).flatten(0, 1))


@torch.no_grad()
def feature_size(model: MolmoAct | MolmoAct2, crops: Tensor, pooled: Tensor) -> float:
    """Mean square of the image features of crops [B, N, P, patch_dim]; pooled: int64 [B, T, 4]."""
    return float(model.image_features(crops, pooled).square().mean())


@torch.no_grad()
def size_features(
    model: MolmoAct | MolmoAct2, crops: Tensor, pooled: Tensor, size: float = FEATURE_SIZE
) -> None:  # fmt: skip
    """Scale the projector so that image features of crops [B, N, P, patch_dim] have a size; pooled: int64 [B, T, 4]."""
    factor = (size / feature_size(model, crops, pooled)) ** 0.5
    model.model.vision_backbone.image_projector.w2.weight.mul_(factor)


def restraint(features: Tensor, size: float = FEATURE_SIZE) -> Tensor:
    """A penalty, a scalar, for image features [B, T, hidden] whose mean square is not `size`.

    Every later layer norms them, so that no other loss sees their size: it drifts, up to where gradients in bfloat16
    are noise.
    """
    return RESTRAINT * (features.float().square().mean() / size).log().square()
