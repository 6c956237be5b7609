"""The configuration files of a MolmoAct 2 folder. Fields that affect the model's numbers have no defaults."""

from __future__ import annotations

from math import ceil
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from molmoact_ros.engine.model.config import AdapterConfig, LlmConfig, VitConfig
from molmoact_ros.reasoning.action_convention import RELEASED, UNSTATED, ActionConvention


class SiglipConfig(VitConfig):
    """`vit_config`: a SigLIP2 tower, whose fields do not say what no other kind of tower has."""

    fused_attention: ClassVar[bool] = True
    use_cls_token: Literal[False] = False
    patch_bias: Literal[True] = True
    pre_layernorm: Literal[False] = False


class ConnectorConfig(AdapterConfig):
    """`adapter_config`: attention pooling, with or without its mask of missing patches, and projector."""

    fused_attention: ClassVar[bool] = True
    image_padding_embed: None = None
    pooling_attention_mask: bool


class ActionExpertConfig(BaseModel):
    """`action_expert_config`: the transformer that turns noise to actions; one block for each decoder layer."""

    model_config = ConfigDict(extra="allow")
    hidden_size: int
    num_heads: int
    num_layers: int
    mlp_ratio: float
    ffn_multiple_of: int
    timestep_embed_dim: int
    qk_norm: Literal[True]
    qk_norm_eps: float
    rope: Literal[True]
    context_layer_norm: Literal[True]
    causal_attn: Literal[False]

    @property
    def inner_size(self) -> int:
        """Width of the MLP: a multiple of `ffn_multiple_of`."""
        return ceil(int(self.hidden_size * self.mlp_ratio) / self.ffn_multiple_of) * self.ffn_multiple_of

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @model_validator(mode="after")
    def _check(self) -> ActionExpertConfig:
        if self.hidden_size % self.num_heads or self.head_dim % 2 or self.timestep_embed_dim % 2:
            raise ValueError("hidden_size must be heads of an even width, and timestep_embed_dim even")
        return self


class MolmoAct2Config(BaseModel):
    """A folder's `config.json`. Raises pydantic.ValidationError that names the invalid field.

    action_mode: "both" hides the end tokens from the expert, "continuous" nothing; a "discrete" checkpoint has no
    expert. Ids are those of the folder's tokenizer. flow_matching_time_*, flow_matching_beta_*: how training
    draws flow times; inference does not read them.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    model_type: Literal["molmoact2"]
    vit_config: SiglipConfig
    adapter_config: ConnectorConfig
    llm_config: LlmConfig = Field(alias="text_config")
    action_expert_config: ActionExpertConfig
    add_action_expert: Literal[True]
    action_mode: Literal["continuous", "both"]
    max_action_dim: int = Field(ge=1)
    max_action_horizon: int = Field(ge=1)
    n_obs_steps: Literal[1]
    state_format: Literal["discrete"]
    flow_matching_num_steps: int = Field(ge=1, le=100)
    flow_matching_time_offset: float = 0.001
    flow_matching_time_scale: float = 0.999
    flow_matching_beta_alpha: float = Field(default=1.0, gt=0)
    flow_matching_beta_beta: float = Field(default=1.5, gt=0)
    mask_action_dim_padding: Literal[True]
    enable_depth_reasoning: bool
    num_depth_codes: int
    num_depth_tokens: int
    action_expert_depth_gate: bool
    action_expert_depth_gate_per_layer: bool
    add_setup_tokens: bool
    add_control_tokens: bool
    norm_stats_filename: str = "norm_stats.json"
    tie_word_embeddings: Literal[False]
    bos_token_id: int
    eos_token_id: int
    image_patch_id: int
    image_start_token_id: int
    image_end_token_id: int
    image_col_id: int
    image_low_res_id: int
    low_res_image_start_token_id: int
    frame_start_token_id: int
    frame_end_token_id: int
    action_start_token_id: int
    action_end_token_id: int
    state_token_start_id: int
    num_state_tokens: Literal[256]
    depth_output_token_id: int | None
    depth_start_token_id: int | None
    depth_end_token_id: int | None
    depth_token_start_id: int | None

    @field_validator("action_mode", "add_action_expert", mode="before")
    @classmethod
    def _has_expert(cls, value: Any) -> Any:
        if value in ("discrete", False):
            raise ValueError("this checkpoint answers in discrete action tokens, which are not read; take one with an "
                             "action expert, such as MolmoAct2-DROID")  # fmt: skip
        return value

    @model_validator(mode="after")
    def _check(self) -> MolmoAct2Config:
        vit, layers = self.vit_config.num_hidden_layers, self.adapter_config.vit_layers
        if not layers or any(not -vit <= layer < vit for layer in layers):
            raise ValueError(f"adapter_config.vit_layers {layers} are not among the {vit} layers of vit_config")
        if self.adapter_config.text_hidden_size != self.llm_config.hidden_size:
            raise ValueError("adapter_config.text_hidden_size and text_config.hidden_size differ")
        if self.llm_config.norm_after or not self.llm_config.use_qk_norm:
            raise ValueError("text_config is of another kind than Qwen3's decoder")
        if self.action_expert_config.num_layers != self.llm_config.num_hidden_layers:
            raise ValueError("action_expert_config needs as many layers as text_config: a block reads one layer each")
        if self.thinks and None in self._depth_ids:
            raise ValueError("enable_depth_reasoning is true, but not all depth tokens have an id")
        if self.thinks and (self.num_depth_codes != 100 or self.num_depth_tokens < 1):
            raise ValueError("depth is 100 codes out of num_depth_tokens; this checkpoint has another grid")
        return self

    @property
    def _depth_ids(self) -> tuple[int | None, ...]:
        return (
            self.depth_output_token_id, self.depth_start_token_id, self.depth_end_token_id, self.depth_token_start_id,
        )  # fmt: skip

    @property
    def thinks(self) -> bool:
        """Whether the model can predict a depth map before it acts."""
        return self.enable_depth_reasoning

    @property
    def depth_ids(self) -> tuple[int, int, int]:
        """Ids of the tokens that start and end a depth map, and of its first code. Raises ValueError without them."""
        _, start, end, first = self._depth_ids
        if start is None or end is None or first is None:
            raise ValueError("this checkpoint has no depth tokens")
        return start, end, first

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Ids of the image tokens, all of which read each other."""
        return (
            self.image_patch_id, self.image_col_id, self.image_start_token_id, self.image_end_token_id,
            self.low_res_image_start_token_id, self.image_low_res_id, self.frame_start_token_id,
            self.frame_end_token_id,
        )  # fmt: skip


class SquareSize(BaseModel):
    """Rows and columns of a crop, pixels."""

    height: int
    width: int


class RobotImageConfig(BaseModel):
    """`image_processor` of `processor_config.json`: each image is one crop, stretched to `size`."""

    model_config = ConfigDict(extra="allow")
    crop_mode: Literal["resize"]
    size: SquareSize
    patch_size: int
    pooling_size: tuple[Literal[2], Literal[2]]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    resample: Literal[2]  # bilinear

    @model_validator(mode="after")
    def _check(self) -> RobotImageConfig:
        if {*self.image_mean, *self.image_std} != {0.5}:
            raise ValueError("image_mean and image_std are 0.5 in MolmoAct 2")
        if self.size.height % self.patch_size or self.size.width % self.patch_size:
            raise ValueError(f"size is no multiple of patch_size {self.patch_size}")
        return self


class RobotProcessorConfig(BaseModel):
    """`processor_config.json`."""

    model_config = ConfigDict(extra="allow")
    image_processor: RobotImageConfig
    use_single_crop_col_tokens: Literal[False]


class TagRunConfig(BaseModel):
    """`run.json` of a MolmoAct 2 folder: what the numbers of states and actions mean, by norm_tag. The format is ours.

    Released folders have none; for their tags the table RELEASED says it.
    """

    model_config = ConfigDict(extra="forbid")
    conventions: dict[str, ActionConvention] = {}

    def convention(self, tag: str) -> ActionConvention:
        """What the numbers of a tag mean: as stated here, as released, or assumed."""
        return self.conventions.get(tag) or RELEASED.get(tag, UNSTATED)
