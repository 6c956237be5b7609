"""Exports the vision tower and its connector to ONNX with fixed shapes, and locates the export of a checkpoint.

An export belongs to the weights it was made from: its folder's name has their hash, the shapes and the precision.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from torch import Tensor, nn

from molmoact_ros.engine.model.checkpoint import CheckpointFolder, cache_folder
from molmoact_ros.engine.model.config import RunConfig
from molmoact_ros.engine.model.image_processor import ImageInputs, ImageProcessor
from molmoact_ros.engine.model.molmoact import VisionBackbone
from molmoact_ros.engine.model.weight_files import CheckpointError, fill, read_headers

Precision = Literal["float32", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
GRAPH_DTYPE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.float32}
"""dtype of the weights in the graph. For bfloat16 the graph is float32 and TensorRT's builder chooses the precision:
ONNX Runtime's own kernels lack several bfloat16 operators."""
TOWER = "model.vision_backbone."
GRAPH, ABOUT = "vision.onnx", "about.json"
OPSET = 20
DEFAULT_CAMERAS = 2  # if run.json does not set it


class Exported(BaseModel):
    """Metadata of an export, stored as `about.json` next to it. crops, patches, patch_dim, tokens, hidden: its shapes.

    weights: hash of the vision weights. torch, onnx: versions that made it.
    """

    model_config = ConfigDict(extra="forbid")
    weights: str
    precision: Precision
    crops: int
    patches: int
    patch_dim: int
    tokens: int
    hidden: int
    torch: str
    onnx: str

    @property
    def name(self) -> str:
        """The name of the export's folder."""
        return f"{self.weights}-{self.crops}x{self.patches}x{self.patch_dim}-{self.tokens}-{self.precision}"


@dataclass(frozen=True)
class Tower:
    """A checkpoint's vision tower and connector in float32, its preprocessing, and the hash of its weights."""

    backbone: VisionBackbone
    processor: ImageProcessor
    run: RunConfig
    hidden: int
    weights: str

    @staticmethod
    def read(folder: Path, frame_size: str = "") -> Tower:
        """Load only the vision weights of a folder, never the decoder's. Raises CheckpointError, ValueError."""
        files = CheckpointFolder(folder)
        config, run, processor = files.config, files.run.with_frame_size(frame_size), ImageProcessor(files.processor)
        with torch.device("meta"):
            backbone = VisionBackbone(config.vit_config, config.adapter_config)
        whole = nn.Module()  # gives its tensors the checkpoint's names
        whole.model = nn.Module()
        whole.model.vision_backbone = backbone
        fill(whole, read_headers(folder).below(TOWER), "cpu", torch.float32)
        return Tower(backbone.eval(), processor, run, config.adapter_config.text_hidden_size, weights_hash(folder))

    def pictures(self, seed: int) -> ImageInputs:
        """See `sample_pictures`."""
        return sample_pictures(self.processor, self.run, seed)

    def exported(self, pictures: ImageInputs, precision: Precision) -> Exported:
        """Metadata of the export for images of this shape."""
        import onnx

        (crops, patches, patch_dim), tokens = pictures.crops.shape, len(pictures.indices)
        return Exported(
            weights=self.weights, precision=precision, crops=crops, patches=patches, patch_dim=patch_dim, tokens=tokens,
            hidden=self.hidden, torch=torch.__version__, onnx=onnx.__version__,
        )  # fmt: skip


def sample_pictures(processor: ImageProcessor, run: RunConfig, seed: int) -> ImageInputs:
    """Smooth random images from `seed`, one per camera, as inputs of the model: crops [C, P, patch_dim]."""
    rng = np.random.default_rng(seed)
    width, height = run.frame_size or processor.base[::-1]
    return processor([_smooth(rng, height, width) for _ in range(run.cameras or DEFAULT_CAMERAS)])


def _smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random image uint8 [height, width, 3] of soft blobs: more like a camera's than noise, to which a tower hardly
    responds."""
    import cv2

    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    result: np.ndarray = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return result


class _FixedTower(nn.Module):
    """Crops float32 [C, P, patch_dim] and indices int64 [T, 4] to features float32 [T, hidden], without a batch."""

    def __init__(self, backbone: VisionBackbone, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone, self.dtype = backbone.to(dtype), dtype

    def forward(self, crops: Tensor, indices: Tensor) -> Tensor:
        result: Tensor = self.backbone(crops.to(self.dtype)[None], indices[None])[0].float()
        return result


def export(tower: Tower, precision: Precision, folder: Path | None = None) -> Path:
    """Export a tower; return the export's folder, which is `folder` or below the cache.

    An existing export stays as it is. Raises CheckpointError if ONNX is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CheckpointError(f"{error}; the export needs `pip install 'molmoact_ros[onnx]'`") from None
    pictures = tower.pictures(0)
    about = tower.exported(pictures, precision)
    target = folder or cache_folder() / "vision" / about.name
    if (target / ABOUT).is_file():
        return target
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_graph(tower.backbone, pictures, precision, partial / GRAPH)
    (partial / ABOUT).write_text(about.model_dump_json(indent=1))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def write_graph(backbone: VisionBackbone, pictures: ImageInputs, precision: Precision, path: Path) -> None:
    """Write a tower's graph for images of this shape, with its weights in a file next to it (`PATH.data`)."""
    inputs = (torch.from_numpy(pictures.crops), torch.from_numpy(pictures.indices))
    with warnings.catch_warnings(), _quiet("torch.onnx"), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            _FixedTower(backbone, GRAPH_DTYPE[precision]).eval(), inputs, path, dynamo=True, external_data=True,
            input_names=["crops", "indices"], output_names=["features"], opset_version=OPSET, verbose=False,
        )  # fmt: skip


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Context that limits a logger to errors: the exporter logs about missing packages that are not needed."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def weights_hash(folder: Path) -> str:
    """First 12 hexadecimal digits of a SHA-256 over every byte of a folder's vision weights."""
    total = hashlib.sha256()
    for name, tensor in _tensors(folder):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:12]


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    headers = read_headers(folder).below(TOWER)
    for name in sorted(headers.shapes):
        with safe_open(headers.file_of[name], framework="pt") as file:
            yield name, file.get_tensor(name).flatten()


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference of two arrays of the same shape [...], divided by the largest absolute value of `wanted`."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
