"""The model's configuration, in the layout of the released `config.json` (Hugging Face)."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from molmoact_ros.reasoning.actions import NormStats


class VitConfig(BaseModel):
    """The vision transformer (SigLIP2 family): `vit_config`. Sizes in features, pixels or counts as named."""

    model_config = ConfigDict(extra="allow")
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    layer_norm_eps: float
    image_default_input_size: tuple[int, int]  # rows, columns
    image_patch_size: int
    image_num_pos: int
    hidden_act: str = "gelu_pytorch_tanh"
    use_cls_token: bool = False
    patch_bias: bool = True
    pre_layernorm: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns)."""
        rows, columns = self.image_default_input_size
        return rows // self.image_patch_size, columns // self.image_patch_size

    @property
    def patch_dim(self) -> int:
        """Values in one flattened RGB patch."""
        return 3 * self.image_patch_size**2


class AdapterConfig(BaseModel):
    """Attention pooling and projector: `adapter_config`."""

    model_config = ConfigDict(extra="allow")
    vit_layers: tuple[int, ...]
    hidden_size: int
    num_attention_heads: int
    head_dim: int
    intermediate_size: int
    text_hidden_size: int
    image_padding_embed: str | None = None


class LlmConfig(BaseModel):
    """The decoder (Qwen2 family): `llm_config`."""

    model_config = ConfigDict(extra="allow")
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    additional_vocab_size: int
    num_hidden_layers: int
    intermediate_size: int
    max_position_embeddings: int
    rope_theta: float
    layer_norm_eps: float
    qkv_bias: bool = True
    use_qk_norm: bool = False
    norm_after: bool = False


class MolmoActConfig(BaseModel):
    """A whole checkpoint's `config.json`. Raises pydantic.ValidationError, naming the field, when one does not fit."""

    model_config = ConfigDict(extra="allow")
    model_type: str = "molmoact"
    vit_config: VitConfig
    adapter_config: AdapterConfig
    llm_config: LlmConfig
    image_patch_id: int
    n_action_bins: int = 256
    initializer_range: float = 0.02
    norm_stats: dict[str, dict[str, NormStats]] = {}
    crop_mode: str = "overlap-and-resize-c2"
    cameras: int = 2
    chunk_steps: int = 8

    @model_validator(mode="after")
    def _supported(self) -> MolmoActConfig:
        vit, llm = self.vit_config, self.llm_config
        if vit.use_cls_token or vit.pre_layernorm or llm.norm_after or llm.use_qk_norm:
            raise ValueError("this is a 7B-O style checkpoint (CLIP tower, OLMo2 decoder), which is not supported yet")
        return self

    @staticmethod
    def read(path: Path) -> MolmoActConfig:
        """Read and check a `config.json`."""
        return MolmoActConfig.model_validate_json(path.read_text())
