"""The configuration files of a checkpoint folder: architecture, image processing, and its use on a robot.

Fields that affect the model's numbers have no defaults: a missing one is an error that names it. Both spellings of
transformers are read, that of version 4 (`rope_theta`, `rope_scaling`) and that of version 5 (`rope_parameters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from molmoact_ros.reasoning.action_convention import RELEASED, UNSTATED, ActionConvention
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.reasoning.answer_templates import Wording

Activation = Literal["gelu_pytorch_tanh", "quick_gelu", "gelu", "silu"]
MAX_FRAME = 4096  # maximum side length of a scaled frame, pixels


class VitConfig(BaseModel):
    """`vit_config`: the vision transformer (SigLIP2 or CLIP). Sizes in features, pixels or counts as named."""

    model_config = ConfigDict(extra="allow")
    fused_attention: ClassVar[bool] = False  # in which way the reference computes it, whose rounding differs
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: Activation
    layer_norm_eps: float
    image_default_input_size: tuple[int, int]  # rows, columns
    image_patch_size: int
    image_num_pos: int
    float32_attention: bool
    use_cls_token: bool
    patch_bias: bool
    pre_layernorm: bool

    @property
    def grid(self) -> tuple[int, int]:
        """The patch grid as (rows, columns)."""
        rows, columns = self.image_default_input_size
        return rows // self.image_patch_size, columns // self.image_patch_size

    @property
    def patch_dim(self) -> int:
        """Values in one flattened RGB patch."""
        return 3 * self.image_patch_size**2

    @model_validator(mode="after")
    def _check(self) -> VitConfig:
        wanted = self.grid[0] * self.grid[1] + self.use_cls_token
        if self.image_num_pos != wanted:
            raise ValueError(f"image_num_pos is {self.image_num_pos}, but patches and class token need {wanted}")
        return self


class AdapterConfig(BaseModel):
    """`adapter_config`: attention pooling and projector."""

    model_config = ConfigDict(extra="allow")
    fused_attention: ClassVar[bool] = False
    vit_layers: tuple[int, ...]
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    float32_attention: bool
    hidden_act: Activation
    intermediate_size: int
    text_hidden_size: int
    image_padding_embed: Literal["pad_and_partial_pad"] | None
    pooling_attention_mask: bool = False  # MolmoAct 2 alone: missing patches are neither keys nor part of the query


class LlmConfig(BaseModel):
    """`llm_config`: the decoder (Qwen2, Qwen3 or OLMo2)."""

    model_config = ConfigDict(extra="allow")
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    additional_vocab_size: int
    qkv_bias: bool
    num_hidden_layers: int
    intermediate_size: int
    hidden_act: Activation
    max_position_embeddings: int
    rope_theta: float
    rope_scaling: None = None  # no released checkpoint uses RoPE scaling
    use_qk_norm: bool
    qk_norm_type: Literal["olmo", "qwen3"] | None  # over the whole projection, or over each head
    layer_norm_eps: float
    norm_after: bool

    @model_validator(mode="before")
    @classmethod
    def _read_rope(cls, fields: Any) -> Any:
        """`rope_theta` and `rope_scaling` of transformers 4 from whichever spelling there is."""
        if not isinstance(fields, Mapping):
            return fields
        fields = dict(fields)
        spelled = {name: fields.pop(name, None) for name in ("rope_parameters", "rope_scaling")}
        for name, rope in spelled.items():
            theta = _default_rope(name, rope) if rope else None
            beside = fields.get("rope_theta")
            if theta is not None and beside not in (None, theta):
                raise ValueError(f"rope_theta is {beside}, but {name}.rope_theta is {theta}")
            fields |= {} if theta is None else {"rope_theta": theta}
        return fields

    @model_validator(mode="after")
    def _check(self) -> LlmConfig:
        if self.use_qk_norm and self.qk_norm_type is None:
            raise ValueError("qk_norm_type is null, but use_qk_norm is true")
        return self


_ROPE: Final = ("rope_type", "type", "rope_theta")
"""What describes RoPE without scaling; "type" is how transformers spelled rope_type before 4.43."""


def _default_rope(name: str, rope: object) -> float | None:
    """The base of RoPE in the field `name`, where it has one. Raises ValueError unless it is RoPE without scaling."""
    if not isinstance(rope, Mapping):
        raise ValueError(f"{name} is {rope!r}, not an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"{name}.rope_type is {kind!r}; only RoPE of the type 'default' is computed")
    more = next((key for key in rope if key not in _ROPE), None)
    if more == "partial_rotary_factor" and rope[more] == 1.0:
        more = None
    if more is not None:
        raise ValueError(f"{name}.{more} is not known; only RoPE of the type 'default' is computed")
    theta = rope.get("rope_theta")
    return None if theta is None else float(theta)


class DatasetStats(BaseModel):
    """One entry of `norm_stats`; its other fields besides `action` (proprio, counts) are stored but not used."""

    model_config = ConfigDict(extra="allow")
    action: NormStats


class MolmoActConfig(BaseModel):
    """A checkpoint's `config.json`. Raises pydantic.ValidationError that names the invalid field."""

    model_config = ConfigDict(extra="allow")
    model_type: Literal["molmoact"]
    vit_config: VitConfig
    adapter_config: AdapterConfig
    llm_config: LlmConfig
    image_patch_id: int
    n_action_bins: Literal[256]
    norm_stats: dict[str, DatasetStats]

    @field_validator("norm_stats", mode="before")
    @classmethod
    def _no_stats(cls, stats: Any) -> Any:
        """Ai2's converter writes null where it was given no statistics."""
        return {} if stats is None else stats

    @model_validator(mode="after")
    def _check(self) -> MolmoActConfig:
        vit, layers = self.vit_config.num_hidden_layers, self.adapter_config.vit_layers
        if not layers or any(not -vit <= layer < vit for layer in layers):
            raise ValueError(f"adapter_config.vit_layers {layers} are not among the {vit} layers of vit_config")
        if self.adapter_config.text_hidden_size != self.llm_config.hidden_size:
            raise ValueError("adapter_config.text_hidden_size and llm_config.hidden_size differ")
        if self.llm_config.qk_norm_type == "qwen3":
            raise ValueError("llm_config.qk_norm_type is 'qwen3', which MolmoAct 1 does not have")
        return self


class ProcessorConfig(BaseModel):
    """`preprocessor_config.json`, or `image_processor` in `processor_config.json`: how images become crops.

    crop_mode: a global view and overlapping tiles, or (the nano's) one view. resize_mode: siglip stretches without
    antialiasing, default keeps the aspect ratio and pads, area (the nano's) stretches by area averaging.
    """

    model_config = ConfigDict(extra="allow")
    crop_mode: Literal["overlap-and-resize-c2", "resize"]
    resize_mode: Literal["siglip", "default", "area"]
    normalize_mode: Literal["siglip", "openai"]
    max_crops: int = Field(ge=1)
    max_multi_image_crops: int = Field(ge=1)
    overlap_margins: tuple[int, int]  # patches at a tile's left or top, and at its right or bottom
    base_image_input_size: tuple[int, int]  # rows, columns
    pad_value: float
    image_patch_size: int
    image_pooling_w: Literal[2]
    image_pooling_h: Literal[2]


class RunConfig(BaseModel):
    """`run.json`: how to run a checkpoint on a robot. The format is ours; a released folder gets the defaults.

    frame_size: width and height, pixels, to which camera frames are scaled first; null keeps them. The released robot
    training used 320x240 (paper, mid- and post-training). cameras: number of cameras in training; null: any number.
    chunk_steps: allowed numbers of actions in an answer; the model chooses. wordings: allowed wordings of an answer.
    reuse_steps: number of consecutive steps for which the mode reuse keeps depth and trace. conventions: what the
    numbers of the actions mean, by un-normalisation key.
    """

    model_config = ConfigDict(extra="forbid")
    frame_size: tuple[int, int] | None = (320, 240)
    cameras: int | None = Field(default=None, ge=1)
    chunk_steps: tuple[int, ...] = (1, 8)
    wordings: tuple[Wording, ...] = tuple(Wording)
    reuse_steps: int = Field(default=2, ge=1)
    conventions: dict[str, ActionConvention] = {}

    def convention(self, key: str) -> ActionConvention:
        """What the numbers of the un-normalisation key `key` mean: as stated here, as released, or assumed."""
        return self.conventions.get(key) or RELEASED.get(key, UNSTATED)

    def with_frame_size(self, text: str) -> RunConfig:
        """A copy with the frame size `text`: "320x240" (width x height), "camera" (unscaled), "" (no change).

        Raises ValueError for anything else.
        """
        if not text:
            return self
        sizes = None if text == "camera" else text.split("x")
        if sizes is not None and (len(sizes) != 2 or not all(n.isdecimal() and 0 < int(n) <= MAX_FRAME for n in sizes)):
            raise ValueError(f'the frame size {text!r} is not WIDTHxHEIGHT, such as 320x240, nor "camera"')
        return self.model_copy(update={"frame_size": sizes and (int(sizes[0]), int(sizes[1]))})
