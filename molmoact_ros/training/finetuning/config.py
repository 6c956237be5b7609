"""Settings of a fine-tuning run. The defaults are those of Ai2's released fine-tuning commands, one for each family."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from math import cos, pi
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from molmoact_ros.reasoning.answer_templates import Wording


class Method(Enum):
    """What is trained: low-rank adapters beside the frozen weights, or all weights."""

    LORA = "lora"
    FULL = "full"


class ModelPart(Enum):
    """A part of the model that can be trained or left as it is."""

    DECODER = "decoder"
    CONNECTOR = "connector"
    TOWER = "tower"
    EXPERT = "expert"


PREFIXES: Final = {
    ModelPart.DECODER: ("model.transformer.", "lm_head."),
    ModelPart.CONNECTOR: (
        "model.vision_backbone.image_pooling_2d.", "model.vision_backbone.image_projector.",
        "model.vision_backbone.pad_embed",
    ),
    ModelPart.TOWER: ("model.vision_backbone.image_vit.",),
    ModelPart.EXPERT: ("model.action_expert",),
}  # fmt: skip
"""How the names of each part's tensors begin."""
ANSWERING: Final = (ModelPart.DECODER, ModelPart.CONNECTOR, ModelPart.TOWER)
"""The parts of a MolmoAct."""
_FULL: Final = {ModelPart.DECODER: 1e-5, ModelPart.CONNECTOR: 5e-6, ModelPart.TOWER: 5e-6, ModelPart.EXPERT: 5e-5}
FamilyName = Literal["molmoact", "molmoact2"]
RATES: Final[dict[FamilyName, dict[Method, dict[ModelPart, float]]]] = {
    "molmoact": {Method.LORA: dict.fromkeys(ANSWERING, 5e-4), Method.FULL: _FULL},
    "molmoact2": {Method.LORA: dict.fromkeys(ModelPart, 5e-5), Method.FULL: _FULL},
}
"""Learning rates of the released commands (MolmoAct 2: its README for adapters, its paper for whole weights)."""
ROBOT_DEFAULTS: Final = {"parts": (ModelPart.DECODER, ModelPart.EXPERT), "rank": 64}
"""What is different by default for MolmoAct 2."""
BETAS, EPSILON = (0.9, 0.95), 1e-6
WARM_UP, LEAST_RATE = 200, 0.1  # steps; fraction of the rate at the end


class FinetuneConfig(BaseModel):
    """Settings of a run; `of` has those of a family.

    family: of the checkpoint. flow_times: of MolmoAct 2, moments between noise and actions at which each example is
    learnt. steer_share, targets, wording, z_weight: of MolmoAct.
    batch: examples of one step over all devices. micro_batch: examples of one forward pass on a device; 0: as many as
    memory is estimated to hold. rate: of all parts; 0: those of the released command. warm_up: steps; 0: 200, but at
    most a tenth of `steps`. recompute: gradient checkpointing, which keeps the input of each layer alone and computes
    the rest again. steer_share: fraction of examples with the trace drawn on the image. rehearse_share: fraction of
    examples from the rehearsal data. dtype: of the computation, and of frozen weights. validation: fraction of the
    episodes that are held out. validation_samples: of them, how many are decoded in each validation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    family: FamilyName = "molmoact"
    method: Method = Method.LORA
    parts: tuple[ModelPart, ...] = Field(ANSWERING, min_length=1)
    rank: int = Field(32, ge=1)
    alpha: float = Field(16.0, gt=0)
    quantize: Literal["", "nf4"] = ""
    steps: int = Field(10_000, ge=1)
    batch: int = Field(16, ge=1)
    micro_batch: int = Field(0, ge=0)
    rate: float = Field(0.0, ge=0)
    warm_up: int = Field(0, ge=0)
    clip: float = Field(1.0, gt=0)
    z_weight: float = Field(1e-4, ge=0)
    flow_times: int = Field(8, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    augment: bool = True
    recompute: bool = True
    steer_share: float = Field(0.5, ge=0, le=1)
    rehearse_share: float = Field(0.3, ge=0, lt=1)
    targets: Literal["hard", "soft"] = "hard"
    wording: Wording | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0)
    validation: float = Field(0.1, ge=0, lt=1)
    validation_samples: int = Field(32, ge=1)
    validate_every: int = Field(500, ge=1)
    save_every: int = Field(500, ge=1)
    workers: int = Field(0, ge=0)

    @classmethod
    def of(cls, family: FamilyName, given: Mapping[str, Any]) -> FinetuneConfig:
        """The settings `given`, and a family's defaults for the others."""
        return cls.model_validate({"family": family, **(ROBOT_DEFAULTS if family == "molmoact2" else {}), **given})

    @model_validator(mode="after")
    def _check(self) -> FinetuneConfig:
        if self.family == "molmoact" and ModelPart.EXPERT in self.parts:
            raise ValueError("only a MolmoAct 2 has the part expert")
        return self

    def rates(self) -> dict[ModelPart, float]:
        """The highest learning rate of each trained part."""
        return {part: self.rate or RATES[self.family][self.method][part] for part in self.parts}

    def rate_factor(self, step: int) -> float:
        """The fraction of the learning rate at a step: linear warm-up from 0, then a cosine down to a tenth."""
        warm_up = self.warm_up or min(WARM_UP, self.steps // 10)
        if step < warm_up:
            return step / warm_up
        progress = min(1.0, (step - warm_up) / max(1, self.steps - warm_up))
        return LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + cos(pi * progress))

    def fixed(self) -> dict[str, Any]:
        """The settings that must be the same when training is resumed."""
        free = {"steps", "rate", "warm_up", "micro_batch", "recompute", "workers", "validate_every", "save_every"}
        return self.model_dump(mode="json", exclude=free)


def part_of(name: str) -> ModelPart:
    """The part of the model that a tensor or module belongs to, by its name in the checkpoint."""
    return next(part for part, prefixes in PREFIXES.items() if name.startswith(prefixes))
