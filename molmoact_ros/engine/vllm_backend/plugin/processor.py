"""Image preprocessing for vLLM: this package's image processor (numpy and torch only), and the image tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.image_processor import ImageInputs, ImageProcessor
from molmoact_ros.reasoning.tokens import IMAGE_TOKENS, ImageTokens

DEFAULT_CAMERAS = 4
"""Maximum images of a request, if run.json does not set the number of cameras in training."""


class PictureInfo(BaseProcessingInfo):
    """The model's image properties that vLLM queries."""

    @property
    def files(self) -> CheckpointFolder:
        """The checkpoint's small files, parsed once."""
        if not hasattr(self, "_files"):
            self._files = CheckpointFolder(Path(self.ctx.model_config.model))
        return self._files

    @property
    def processor(self) -> ImageProcessor:
        """The checkpoint's image processor."""
        if not hasattr(self, "_processor"):
            self._processor = ImageProcessor(self.files.processor)
        return self._processor

    @property
    def vocabulary(self) -> int:
        """Rows of the head; the image tokens' ids follow them."""
        return int(self.get_hf_config().llm_config["vocab_size"])

    @property
    def placeholder(self) -> int:
        """The placeholder token of an image in a request."""
        return self.vocabulary + IMAGE_TOKENS.index("<|image|>")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of an input frame, pixels."""
        rows, columns = self.processor.base
        return self.files.run.frame_size or (columns, rows)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Maximum images of a request."""
        return {"image": self.files.run.cameras or DEFAULT_CAMERAS}


class DummyPictures(BaseDummyInputsBuilder[PictureInfo]):
    """Dummy requests with which vLLM profiles its memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """A prompt with this many images."""
        return "<|image|>" * mm_counts.get("image", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        """The same number of blank images."""
        width, height = self.info.size
        images = self._get_dummy_images(width=width, height=height, num_images=mm_counts.get("image", 0))
        return {"image": images}


class PictureProcessor(BaseMultiModalProcessor[PictureInfo]):
    """Processes all images of a request together: in the released processor an image's padding refers to the previous
    image."""

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        images = [np.asarray(image.convert("RGB")) for image in hf_data["images"]]
        parts = [*each_picture(self.info.processor(images))]
        crops, indices, grids = (list(column) for column in zip(*parts, strict=True))
        return BatchFeature({"crops": crops, "indices": indices, "grids": grids})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {name: MultiModalFieldConfig.batched("image") for name in ("crops", "indices", "grids")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        tokens = ImageTokens.after(self.info.vocabulary)

        def views(item: int) -> PromptUpdateDetails:
            grids = out_mm_kwargs["image"][item]["grids"].data.tolist()
            ids = [token for rows, columns in grids for token in tokens.view((rows, columns))]
            return PromptUpdateDetails.select_token_id(ids, tokens.patch)

        return [PromptReplacement(modality="image", target=[self.info.placeholder], replacement=views)]

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """Hashes of all inputs of an image's features: the image itself and the images before it."""
        hashes = super()._get_mm_hashes(inputs)
        seen = hashlib.sha256()
        chained = []
        for name in hashes.get("image", []):
            seen.update(name.encode())
            chained.append(seen.hexdigest())
        return {**hashes, "image": chained} if chained else hashes

    def _cached_apply_hf_processor(self, inputs: Any, timing_ctx: Any) -> Any:
        """Bypass vLLM's cache of processed images, which would process some images of a request without the others."""
        return self._apply_hf_processor(inputs, timing_ctx)


def each_picture(inputs: ImageInputs) -> Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Split inputs by image: the crops [C, P, patch_dim] that its tokens use, indices [T, 4] into these, and the grids
    of its views, int64 [views, 2]."""
    patches, start, parts = inputs.crops.shape[1], 0, []
    for grids in inputs.grids:
        count = sum(rows * columns for rows, columns in grids)
        indices = inputs.indices[start : start + count]
        present = indices >= 0
        used = np.unique(indices[present] // patches)
        local = np.searchsorted(used, np.maximum(indices, 0) // patches) * patches + np.maximum(indices, 0) % patches
        parts.append(
            (
                torch.from_numpy(inputs.crops[used]),
                torch.from_numpy(np.where(present, local, -1)),
                torch.tensor(grids, dtype=torch.int64),
            )
        )
        start += count
    return parts
