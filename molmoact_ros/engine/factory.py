"""Selects and opens the back end that runs the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from molmoact_ros.engine.act_backend.client import ActEngine
from molmoact_ros.engine.act_backend.robots import ServedRobot, served_robot
from molmoact_ros.engine.base import choose_key
from molmoact_ros.engine.model.checkpoint import CheckpointFolder, torch_dtype
from molmoact_ros.engine.model.folder_kind import family
from molmoact_ros.engine.model.weight_files import CheckpointError, digest
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.engine.torch_engine import Engine, TorchEngine
from molmoact_ros.engine.vllm_backend.engine import VllmEngine, served_name
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.utils.secret import server_key


class EngineOptions(BaseModel):
    """Options of an engine; they are also parameters of the policy node."""

    backend: str = Field(
        "torch",
        description="torch, vllm (in processes of its own here), server (vLLM elsewhere) or act (MolmoAct 2's server)",
    )
    checkpoint: str = Field("", description="folder of the checkpoint; empty: the nano model")
    device: str = Field("cpu", description="torch device, such as cpu or cuda")
    dtype: str = Field("", description="float32, bfloat16 or float16; empty: bfloat16 on a GPU, float32 on a CPU")
    unnorm_key: str = Field(
        "", description="normalisation key (of MolmoAct 2: norm_tag); empty: the only one that the checkpoint has"
    )
    flow_steps: int = Field(
        0, ge=0, le=100, description="of MolmoAct 2: steps from noise to actions; 0: as the checkpoint says, 10"
    )
    frame_size: str = Field("", description='scale frames to WIDTHxHEIGHT first, or "camera"; empty: as trained')
    threads: int = Field(1, ge=0, le=256, description="CPU threads of torch; 0: as many as it takes")
    vision: str = Field(
        "auto",
        description="of torch: what runs the vision tower: compiled, onnx (`molmoact-ros export`) or torch; auto: the "
        "fastest of them that is usable",
    )
    vision_precision: str = Field("", description="of onnx: float32, float16 or bfloat16; empty: by the device")
    quantization: str = Field(
        "", description="of torch: the decoder's weights in fp8 or int4; of vllm: a method of vLLM's, such as fp8"
    )
    tensor_parallel: int = Field(1, ge=1, le=64, description="of vllm: GPUs that share each layer")
    server: str = Field("http://127.0.0.1:8000", description="of server and act: its address")
    server_key_file: str = Field(
        "",
        description="of server and act: file with its key; empty: the environment's MOLMOACT_API_KEY, if there is one",
    )
    answer_timeout: float = Field(
        5.0, gt=0, le=120, description="of vllm, server and act: a whole answer by then, or none, s"
    )


@dataclass(frozen=True)
class ActionMeaning:
    """What the actions of an engine mean: key of its statistics, and their convention.

    dimensions: values of one action. state_dimensions: of the robot's state that it reads; 0: none.
    """

    key: str
    convention: ActionConvention
    dimensions: int
    state_dimensions: int = 0


def read_meaning(options: EngineOptions, folder: Path) -> ActionMeaning:
    """What the actions of the engine that `options` selects will mean; reads no weights.

    Raises CheckpointError for the folder's files, RefusedStep for the normalisation key.
    """
    if options.backend == "act" or family(folder) == "molmoact2":
        robot = _robot(options, folder)
        return ActionMeaning(robot.tag, robot.convention, robot.action_shape[1], robot.state_dimensions)
    files = CheckpointFolder(folder)
    key = choose_key(list(files.config.norm_stats), options.unnorm_key or None)
    return ActionMeaning(key, files.run.convention(key), files.config.norm_stats[key].action.dimensions)


def _robot(options: EngineOptions, folder: Path) -> ServedRobot:
    """The robot of a MolmoAct 2 folder, or of a server, which needs no folder if its norm_tag is a released one."""
    return served_robot(options.unnorm_key, None if options.backend == "act" and not options.checkpoint else folder)


def open_engine(options: EngineOptions, folder: Path) -> Engine:
    """Open the engine selected by `options` on a checkpoint folder. Raises CheckpointError, RefusedStep, ValueError."""
    key = options.unnorm_key or None
    if options.backend in ("torch", "vllm", "server") and family(folder) == "molmoact2":
        return _open_molmoact2(options, folder)
    if options.backend == "torch":
        return TorchEngine.load(
            folder, options.device, options.threads or None, torch_dtype(options.dtype), key, options.frame_size,
            options.vision, options.vision_precision, options.quantization,
        )  # fmt: skip
    if options.backend == "vllm":
        from molmoact_ros.engine.vllm_backend.local import LocalStream, engine_arguments

        torch_dtype(options.dtype)  # raises before anything is loaded
        arguments = engine_arguments(folder, options.quantization, options.tensor_parallel, dtype=options.dtype)
        local = LocalStream(arguments)
        return VllmEngine(folder, local, digest(folder), options.answer_timeout, key, options.frame_size)
    if options.backend == "server":
        from molmoact_ros.engine.vllm_backend.client import ServerStream

        name = served_name(folder)
        stream = ServerStream(options.server, name, server_key(options.server_key_file))
        return VllmEngine(folder, stream, name, options.answer_timeout, key, options.frame_size)
    if options.backend == "act":
        return ActEngine(
            options.server, _robot(options, folder), options.answer_timeout, server_key(options.server_key_file),
            options.flow_steps,
        )  # fmt: skip
    raise CheckpointError(f"there is no back end {options.backend!r}; choose one of: torch, vllm, server, act")


def _open_molmoact2(options: EngineOptions, folder: Path) -> Engine:
    if options.backend != "torch":
        raise CheckpointError(
            f"{folder} is a MolmoAct 2 checkpoint, which vLLM does not run; choose the back end torch"
        )
    return MolmoAct2Engine.load(
        folder, options.device, options.threads or None, torch_dtype(options.dtype), options.unnorm_key,
        options.flow_steps, options.quantization, options.vision,
    )  # fmt: skip
