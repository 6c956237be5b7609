"""The small MolmoAct 2: the released architecture and tensor names at a few million parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from molmoact_ros.engine.model.checkpoint import CONFIG, RUN, TOKENIZER, WHOLE_PROCESSOR, Checkpoint
from molmoact_ros.engine.model.weight_files import WEIGHTS
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config, RobotProcessorConfig, TagRunConfig
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.reasoning.action_convention import RELEASED, GripperPolarity
from molmoact_ros.reasoning.robot_stats import NormStatsFile, RobotStats, TagMetadata
from molmoact_ros.reasoning.state_prompt import END_OF_TURN
from molmoact_ros.training.demonstrations import VIEW
from molmoact_ros.training.expert import CHUNK_STEPS, STEP
from molmoact_ros.training.molmoact2.robot_tokenizer import CONTROL, IMAGE_FAMILY, SETUP, STATES
from molmoact_ros.training.nano_model import (
    BLOCK_OUTPUTS,
    EMBEDDING_STD,
    PATCH,
    look_for_likes,
    scale_by_inputs,
    smooth_rows,
)

TAG = "nano2_workcell"
CAMERAS = ("front", "wrist")
ACTION_DIM = 32  # padded, as in every released checkpoint
SHARPNESS = 2.0  # of the norms of queries: a token begins by attending to tokens like it
CONVENTION = RELEASED["franka_droid"].model_copy(
    update={"gripper": GripperPolarity(open=1, closed=0), "dt": STEP, "cameras": CAMERAS}
)


def small_config(tokenizer: Tokenizer) -> MolmoAct2Config:
    """The configuration for a tokenizer. The tower has the nano's shapes, so that it can begin as the nano's."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    image = [ids[token] for token in IMAGE_FAMILY]
    return MolmoAct2Config.model_validate(
        {
            "model_type": "molmoact2",
            "vit_config": {
                "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
                "num_key_value_heads": 4, "head_dim": 32, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
                "image_default_input_size": VIEW, "image_patch_size": PATCH,
                "image_num_pos": (VIEW[0] // PATCH) * (VIEW[1] // PATCH), "float32_attention": True,
            },
            "adapter_config": {
                "vit_layers": (-1, -3), "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4,
                "head_dim": 32, "float32_attention": True, "hidden_act": "silu", "intermediate_size": 384,
                "text_hidden_size": 192, "pooling_attention_mask": True,
            },
            "text_config": {
                "hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32,
                "vocab_size": tokenizer.get_vocab_size(with_added_tokens=False), "additional_vocab_size": 64,
                "qkv_bias": False, "num_hidden_layers": 4, "intermediate_size": 512, "hidden_act": "silu",
                "max_position_embeddings": 512, "rope_theta": 1e6, "use_qk_norm": True, "qk_norm_type": "qwen3",
                "layer_norm_eps": 1e-6, "norm_after": False, "rope_scaling": None,
            },
            "action_expert_config": {
                "hidden_size": 192, "num_heads": 6, "num_layers": 4, "mlp_ratio": 2.0, "ffn_multiple_of": 64,
                "timestep_embed_dim": 128, "qk_norm": True, "qk_norm_eps": 1e-6, "rope": True,
                "context_layer_norm": True, "causal_attn": False,
            },
            "add_action_expert": True, "action_mode": "both", "max_action_dim": ACTION_DIM,
            "max_action_horizon": CHUNK_STEPS, "n_obs_steps": 1, "state_format": "discrete",
            "flow_matching_num_steps": 10, "mask_action_dim_padding": True, "enable_depth_reasoning": False,
            "num_depth_codes": 100, "num_depth_tokens": 0, "action_expert_depth_gate": False,
            "action_expert_depth_gate_per_layer": False, "add_setup_tokens": True, "add_control_tokens": True,
            "tie_word_embeddings": False, "bos_token_id": ids[END_OF_TURN], "eos_token_id": ids[END_OF_TURN],
            **dict(zip(("image_start_token_id", "image_end_token_id", "image_patch_id", "image_col_id",
                        "low_res_image_start_token_id"), image, strict=False)),
            "image_low_res_id": image[6], "frame_start_token_id": image[7], "frame_end_token_id": image[8],
            "action_start_token_id": ids["<action_start>"], "action_end_token_id": ids["<action_end>"],
            "state_token_start_id": ids[STATES[0]], "num_state_tokens": len(STATES),
            "depth_output_token_id": None, "depth_start_token_id": None, "depth_end_token_id": None,
            "depth_token_start_id": None,
        }
    )  # fmt: skip


PROCESSOR = RobotProcessorConfig.model_validate(
    {
        "image_processor": {
            "crop_mode": "resize", "size": {"height": VIEW[0], "width": VIEW[1]}, "patch_size": PATCH,
            "pooling_size": (2, 2), "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3, "resample": 2,
        },
        "use_single_crop_col_tokens": False,
    }
)  # fmt: skip


def small_stats(states: RobotStats, actions: RobotStats) -> NormStatsFile:
    """norm_stats.json: all of the range that was seen counts, since an arm has to be moved to the millimetre there."""
    metadata = TagMetadata(
        camera_keys=CAMERAS, action_horizon=CHUNK_STEPS, n_action_steps=CHUNK_STEPS, setup_type=SETUP,
        control_mode=CONTROL, action_stats=actions, state_stats=states,
    )  # fmt: skip
    return NormStatsFile(format="molmoact2_norm_stats.v1", norm_mode="min_max", metadata_by_tag={TAG: metadata})


def save_small(folder: Path, model: MolmoAct2, tokenizer: Tokenizer, stats: NormStatsFile) -> None:
    """Write a checkpoint folder in the released layout; config.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    (folder / model.config.norm_stats_filename).write_text(stats.model_dump_json(indent=1))
    (folder / WHOLE_PROCESSOR).write_text(PROCESSOR.model_dump_json(indent=1))
    (folder / RUN).write_text(TagRunConfig(conventions={TAG: CONVENTION}).model_dump_json(indent=1))
    (folder / CONFIG).write_text(model.config.model_dump_json(indent=1, by_alias=True))


@torch.no_grad()
def initialise_small(model: MolmoAct2, tokenizer: Tokenizer) -> None:
    """Initialise the weights randomly with torch's generator.

    Matrices are scaled by their fan-in. Neighbouring states start with similar embeddings. A decoder's token begins by
    attending to tokens like it. The expert's modulations begin as if it had none: no shift, no scale, open gates.
    """
    scale_by_inputs(model, (*BLOCK_OUTPUTS, "out_proj.weight", "down_proj.weight"))
    for layer in model.layers:
        look_for_likes(layer.self_attn)
        assert layer.self_attn.q_norm is not None
        layer.self_attn.q_norm.weight.fill_(SHARPNESS)
    for block in model.action_expert.layers:
        nn.init.zeros_(block.modulation.linear.weight)
        block.modulation.linear.bias.unflatten(0, (3, 3, -1))[:, 2] = 1.0
    nn.init.zeros_(model.action_expert.final_layer.modulation.linear.weight)
    nn.init.zeros_(model.action_expert.final_layer.linear.weight)
    embedding, first = model.model.transformer.wte.embedding, model.config.state_token_start_id
    embedding[first : first + len(STATES)] = smooth_rows(len(STATES), embedding.shape[1], EMBEDDING_STD)
    places = model.model.vision_backbone.image_vit.positional_embedding
    rows, columns = (smooth_rows(n, places.shape[1], EMBEDDING_STD) for n in model.config.vit_config.grid)
    places.copy_((rows[:, None] + columns[None]).flatten(0, 1))


@torch.no_grad()
def begin_from(model: MolmoAct2, tokenizer: Tokenizer, nano: Checkpoint) -> list[str]:
    """Take over from a MolmoAct 1 what has the same shape: tower and connector, and the embeddings of tokens that both
    vocabularies have. Returns the names of the tensors that were taken over whole.

    Its image tokens were trained to resemble the words for what they show.
    """
    known: Mapping[str, Tensor] = nano.model.state_dict()
    mine = model.state_dict()
    same = [n for n in mine if "vision_backbone" in n and n in known and mine[n].shape == known[n].shape]
    for name in same:
        mine[name].copy_(known[name])
    theirs, table = nano.tokenizer.get_vocab(with_added_tokens=True), nano.model.model.transformer.wte
    both = torch.cat([table.embedding, table.new_embedding])
    wte = model.model.transformer.wte
    if both.shape[1] == wte.embedding.shape[1]:
        for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
            if token in theirs and theirs[token] < len(both):
                row = number - len(wte.embedding)
                (wte.embedding[number] if row < 0 else wte.new_embedding[row]).copy_(both[theirs[token]])
    return same
