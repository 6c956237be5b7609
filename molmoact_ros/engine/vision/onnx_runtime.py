"""Runs an exported vision tower with ONNX Runtime on TensorRT, CUDA or the CPU, whichever is available."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.model.checkpoint import cache_folder
from molmoact_ros.engine.model.image_processor import ImageInputs
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.vision.onnx_export import ABOUT, GRAPH, PRECISIONS, Exported, Precision, Tower, relative_error
from molmoact_ros.reasoning.answer import RefusedStep

LIMITS: dict[str, float] = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Maximum relative error of an export against torch; if torch's own dtype is coarser, that dtype's limit applies."""
CHECKED = 2  # input sets on which the error is measured before use
TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
NVINFER = ("libnvinfer.so.10", "libnvonnxparser.so.10")
"""Libraries that ONNX Runtime's TensorRT provider is linked with (onnxruntime-gpu 1.31)."""
Options = dict[str, str]
Features = Callable[[ImageInputs], Tensor]
"""From images to features [1, T, hidden]."""


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime. usable: whether it runs here. about: its version, or what is missing."""

    name: str
    usable: bool
    about: str


def providers() -> list[Provider]:
    """The candidate providers, fastest first, and what each lacks here; empty without ONNX Runtime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    built_in = onnxruntime.get_available_providers()
    version = tensorrt_version()
    gpu = torch.cuda.is_available()
    no_gpu = "torch finds no GPU"
    found = []
    for name, lacks in ((TENSORRT, version is None and f"{' and '.join(NVINFER)} are not found"), (CUDA, False)):
        if name not in built_in:
            found.append(Provider(name, False, "install onnxruntime-gpu in place of onnxruntime"))
        elif lacks or not gpu:
            found.append(Provider(name, False, lacks or no_gpu))
        else:
            found.append(Provider(name, True, f"TensorRT {version}" if name == TENSORRT else "CUDA"))
    return [*found, Provider(CPU, CPU in built_in, f"ONNX Runtime {onnxruntime.__version__}")]


def tensorrt_version() -> str | None:
    """The version of the TensorRT library that the dynamic loader finds, or None."""
    try:
        libraries = [ctypes.CDLL(name) for name in NVINFER]
    except OSError:
        return None
    number = int(libraries[0].getInferLibVersion())  # 101300 is 10.13.0
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def options(provider: str, precision: Precision, export: Path) -> Options:
    """A provider's options. TensorRT caches its engine on disk: building one takes minutes."""
    if provider != TENSORRT:
        return {}
    folder = str(engine_cache(export))
    return {
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": folder, "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder, "trt_fp16_enable": "1" if precision == "float16" else "0",
        "trt_bf16_enable": "1" if precision == "bfloat16" else "0", "trt_layer_norm_fp32_fallback": "1",
    }  # fmt: skip


def engine_cache(export: Path) -> Path:
    """The cache folder of an export's TensorRT engines. They are specific to a GPU and to all versions.

    The export's own name identifies the weights, the shapes and the precision.
    """
    import onnxruntime

    major, minor = torch.cuda.get_device_capability()
    gpu = f"{torch.cuda.get_device_name().replace(' ', '_')}-sm{major}{minor}"
    folder = cache_folder() / "tensorrt" / export.name / f"{gpu}-trt{tensorrt_version()}-ort{onnxruntime.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class OnnxVision:
    """An exported vision tower, ready for inference."""

    def __init__(self, export: Path, like: Tensor) -> None:
        """export: a folder written by `onnx_export.export`. like: a tensor with the device and dtype of the features.

        Raises CheckpointError, in one line.
        """
        self.about = read_about(export)
        self._session, self.provider = _open(export, self.about.precision)
        self._like = like

    def __call__(self, pictures: ImageInputs) -> Tensor:
        """Encode images to features [1, T, hidden]. Raises RefusedStep for images of another shape."""
        wanted = (self.about.crops, self.about.tokens)
        if (len(pictures.crops), len(pictures.indices)) != wanted:
            raise RefusedStep(
                f"the vision tower was exported for {wanted[0]} crops and {wanted[1]} image tokens, the images have "
                f"{len(pictures.crops)} and {len(pictures.indices)}; export it for their "
                "frame size, and say the cameras in run.json"
            )
        (found,) = self._session.run(None, {"crops": pictures.crops, "indices": pictures.indices})
        return torch.from_numpy(found).to(self._like).unsqueeze(0)


def read_about(export: Path) -> Exported:
    """Read an export's metadata. Raises CheckpointError."""
    if not (export / ABOUT).is_file() or not (export / GRAPH).is_file():
        raise CheckpointError(f"there is no exported vision tower in {export}; make it with `molmoact-ros export`")
    try:
        return Exported.model_validate_json((export / ABOUT).read_text())
    except ValueError as error:
        raise CheckpointError(
            f"{export / ABOUT}: {str(error).splitlines()[0]}; delete {export}, export again"
        ) from None


def _open(export: Path, precision: Precision) -> tuple[Any, str]:
    """Open a session on the first usable provider that accepts the graph; return it and the provider's name."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if not torch.cuda.is_available():  # share the cores with the decoder's torch threads
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    usable = [provider.name for provider in providers() if provider.usable]
    if precision == "bfloat16":
        usable = [name for name in usable if name == TENSORRT]
    reason = (
        "bfloat16 needs TensorRT; choose float16" if precision == "bfloat16" else "ONNX Runtime has no provider here"
    )
    for name in usable:
        chosen = [(name, options(name, precision, export)), *([] if name == CPU else [(CPU, {})])]
        try:
            session = onnxruntime.InferenceSession(str(export / GRAPH), settings, providers=chosen)
        except Exception as error:  # the library raises its own exception types
            reason = str(error).splitlines()[0]
            continue
        if session.get_providers()[0] == name:  # else it fell back silently
            return session, name
        reason = f"{name} could not be started"
    raise CheckpointError(f"ONNX Runtime cannot run {export / GRAPH}: {reason}")


def open_vision(folder: Path, torchs: Features, like: Tensor, precision: str = "", frame_size: str = "") -> OnnxVision:
    """Open a checkpoint's exported tower and check it against torch.

    torchs: the tower in torch, images to features [1, T, hidden]. like: a tensor with the dtype and device of the
    features. precision: empty for float32 on a CPU and float16 on a GPU. Raises CheckpointError if ONNX Runtime is not
    installed, no export exists, or the two differ by more than LIMITS.
    """
    if not providers():
        raise CheckpointError("ONNX Runtime is not installed; `pip install 'molmoact_ros[onnx]'`, or see with torch")
    chosen = checked_precision(precision or ("float16" if like.is_cuda else "float32"))
    tower = Tower.read(folder, frame_size)
    export = _folder(tower, chosen)
    if not export.is_dir():
        raise CheckpointError(
            f"the vision tower has not been exported in {chosen}; run `molmoact-ros export --checkpoint {folder} "
            f"--precision {chosen}` first"
        )
    vision = OnnxVision(export, like)
    limit = max(LIMITS[chosen], LIMITS[str(like.dtype).removeprefix("torch.")])
    error = error_against(vision, torchs, [tower.pictures(seed) for seed in range(CHECKED)])
    if not error <= limit:
        raise CheckpointError(
            f"the exported vision tower differs from torch's by {error:.1e} of the largest feature, more than "
            f"{limit:.0e} ({vision.provider}, {chosen}); delete {export} and export again, or see with torch"
        )
    return vision


def find_export(folder: Path, precision: Precision, frame_size: str = "") -> Path:
    """Where a checkpoint's exported tower lies, if it has been exported. Raises CheckpointError, ValueError."""
    return _folder(Tower.read(folder, frame_size), precision)


def _folder(tower: Tower, precision: Precision) -> Path:
    return cache_folder() / "vision" / tower.exported(tower.pictures(0), precision).name


def checked_precision(name: str) -> Precision:
    """The precision with this name. Raises CheckpointError for an unknown name."""
    for known in PRECISIONS:
        if known == name:
            return known
    raise CheckpointError(f"the vision tower cannot be exported in {name!r}; choose one of: {', '.join(PRECISIONS)}")


def error_against(vision: Features, torchs: Features, samples: Sequence[ImageInputs]) -> float:
    """The largest relative error on sample images; infinite if a feature is not finite."""
    worst = 0.0
    for pictures in samples:
        found, wanted = (see(pictures).float().cpu().numpy() for see in (vision, torchs))
        if not np.isfinite(found).all():
            return float("inf")
        worst = max(worst, relative_error(found, wanted))
    return worst
