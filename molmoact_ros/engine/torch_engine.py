"""The torch engine, and the interface of all engines: an observation in, reasoning out, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.base import BaseEngine, EngineTimings, Prompt, ReasoningMode, choose_key
from molmoact_ros.engine.decoding.batching import BatchingRunner
from molmoact_ros.engine.decoding.constrained import decode
from molmoact_ros.engine.decoding.cpu_kernel import CpuKernelRunner, can_run
from molmoact_ros.engine.decoding.cuda_graphs import CudaGraphRunner
from molmoact_ros.engine.decoding.decoder import CachedDecoder, ModelRunner, TorchModelRunner
from molmoact_ros.engine.decoding.speculative import NARROW, WIDE, AnswerCache
from molmoact_ros.engine.model.checkpoint import Checkpoint, CheckpointFolder, default_dtype, load_checkpoint
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.model.image_processor import ImageInputs
from molmoact_ros.engine.model.quantization import check, quantise
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.vision.selection import VISIONS, open_tower
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.reasoning.answer import Reasoning, Segment
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.progress import Progress, ignore

STAGES = ("preprocess", "vision", "prefill", "depth", "trace", "actions")


class InferenceEngine(Protocol):
    """Interface for running reasoning steps. convention: what the numbers of its actions mean."""

    timings: EngineTimings
    convention: ActionConvention

    @property
    def state_dimensions(self) -> int:
        """Values of a robot's state; 0: none is read."""
        ...

    def reason(
        self,
        observation: Observation,
        mode: ReasoningMode = ReasoningMode.FULL,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[Reasoning]:
        """Run one step: yield the reasoning each time a part completes; the last one is complete.

        wanted: called before every forward pass. Raises CancelledStep once it returns False, and RefusedStep for an
        invalid observation or result.
        """
        ...


class Engine(InferenceEngine, Protocol):
    """Interface of every back end. digest: of the checkpoint. codebook: of its depth decoder, "" without one.

    seed: of the last answer's noise; None where there is none. flow_steps: in which noise became actions; 0 without.
    """

    digest: str
    tokens: list[int]  # of the last whole answer
    codebook: str
    unnorm_key: str
    depth_vq: DepthVq | None
    seed: int | None
    flow_steps: int

    @property
    def modes(self) -> frozenset[ReasoningMode]:
        """The modes that `reason` answers in."""
        ...

    def forget(self) -> None:
        """Clear the cache of previous answers: draft from none and reuse none."""
        ...

    def frame(self, image: np.ndarray) -> np.ndarray:
        """Scale a camera image, uint8 [H, W, 3] RGB, to the model's input frame size."""
        ...

    def warm_up(self, progress: Progress = ignore) -> None:
        """Do the one-time work that would slow down the first steps, then one step on a blank observation."""
        ...

    def close(self) -> None:
        """Release resources outside this process."""
        ...


class TorchEngine(BaseEngine):
    """Runs a checkpoint in torch, on CPU or GPU.

    `vision` maps images to features (`vision_by`: which of VISIONS it is) and `decoder` runs the forward passes: CUDA
    graphs on a GPU, a compiled kernel for small models on a CPU, plain torch else. Not thread-safe; `together` makes
    one engine per thread.

        engine = TorchEngine.load(Path("models/nano"))
        engine.warm_up()
        for reasoning in engine.reason(observation):
            print(reasoning.trace)  # None, then int64 [n, 2] once complete
    """

    def __init__(self, checkpoint: Checkpoint, unnorm_key: str | None = None) -> None:
        """Raises RefusedStep, listing the keys, when the normalisation key is unknown, or None is ambiguous."""
        super().__init__(
            checkpoint.config,
            checkpoint.processor,
            checkpoint.run,
            checkpoint.tokenizer,
            checkpoint.depth_vq,
            unnorm_key,
        )
        self.model, self.digest, self.codebook = checkpoint.model, checkpoint.digest, checkpoint.codebook
        self.device, self.dtype = self.model.lm_head.weight.device, self.model.lm_head.weight.dtype
        self.vision: Callable[[ImageInputs], Tensor] = self.torch_features
        self.vision_by = "torch"
        self.decoder = CachedDecoder(self._passes())
        self.draft = WIDE if self.device.type == "cuda" else NARROW

    @staticmethod
    def load(
        folder: Path, device: str = "cpu", threads: int | None = None, dtype: torch.dtype | None = None,
        unnorm_key: str | None = None, frame_size: str = "", vision: str = "auto", precision: str = "",
        quantization: str = "",
    ) -> TorchEngine:  # fmt: skip
        """Load a checkpoint folder.

        Args:
            folder: the checkpoint.
            device: a torch device, such as cpu or cuda.
            threads: CPU threads of torch; None keeps torch's setting.
            dtype: of the weights; None: bfloat16 on a GPU, float32 on a CPU.
            unnorm_key: key of the action statistics; None: the only one.
            frame_size: see `RunConfig.with_frame_size`.
            vision: what runs the vision tower, one of VISIONS.
            precision: of the exported tower (see `open_vision`).
            quantization: of the decoder's weights, fp8 or int4 (see `quantise`).

        Raises CheckpointError, RefusedStep for the normalisation key, ValueError for the frame size.
        """
        if vision not in VISIONS:
            raise CheckpointError(f"images cannot be read by {vision!r}; choose one of: {', '.join(VISIONS)}")
        if threads:
            torch.set_num_threads(threads)
        # What needs no weights is refused before they are read.
        files = CheckpointFolder(folder)
        run = files.run.with_frame_size(frame_size)
        choose_key(list(files.config.norm_stats), unnorm_key)
        check(quantization, torch.device(device), dtype or default_dtype(device))
        checkpoint = load_checkpoint(files, device, dtype)
        if quantization:
            quantise(checkpoint.model, quantization)
        engine = TorchEngine(replace(checkpoint, run=run), unnorm_key)
        engine.vision_by, engine.vision = open_tower(
            vision, folder, engine.model, engine.torch_features, engine.processor, run, precision, frame_size
        )
        return engine

    def _passes(self) -> ModelRunner:
        capacity = self.config.llm_config.max_position_embeddings
        if self.device.type == "cuda":
            ids = np.union1d(*(grammar.ids for grammar in self.grammars.values()))
            return CudaGraphRunner(self.model, capacity, ids)
        return CpuKernelRunner(self.model, capacity) if can_run(self.model) else TorchModelRunner(self.model, capacity)

    def together(self, count: int) -> list[TorchEngine]:
        """`count` engines that share these weights, one per robot and thread; their forward passes are batched."""
        passes, engines = self.decoder.passes, [copy(self) for _ in range(count)]
        gathered = BatchingRunner(passes)
        for engine in engines:
            engine.decoder = CachedDecoder(gathered)
            if isinstance(passes, CudaGraphRunner) and self.decoder.cache.recorded:  # this engine was warmed up
                passes.prepare(engine.decoder.cache, ignore)
            engine.forget()
        return engines

    def warm_up(self, progress: Progress = ignore) -> None:
        """On a GPU, capture all CUDA graphs (see CudaGraphRunner.prepare); then run one step on blank images."""
        if isinstance(self.decoder.passes, CudaGraphRunner):
            self.decoder.passes.prepare(self.decoder.cache, progress)
        for _ in self._steps(self.blank()):
            pass
        self.forget()

    def reason(
        self,
        observation: Observation,
        mode: ReasoningMode = ReasoningMode.FULL,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[Reasoning]:
        """Yield the reasoning as depth codes, trace and actions complete; `mode` selects which the model generates.

        wanted: called before every forward pass. Raises CancelledStep once it returns False, and RefusedStep, in one
        line that says what to do, for an observation that does not fit and for a result that is not finite.
        """
        self.check(observation, mode)
        yield from self._steps(observation, mode, wanted)

    @torch.inference_mode()
    def _steps(
        self,
        observation: Observation,
        mode: ReasoningMode = ReasoningMode.FULL,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[Reasoning]:
        measured, given = self.given(observation, mode, self.draft.measured)
        asked = self.ask(observation)
        features = self.see(asked.pictures)
        began = time.perf_counter()
        embeddings = self.embed(asked, features)
        with self.decoder.passes.answering():
            self.decoder.rewind(0)
            self.decoder.append(embeddings)
            self.timings.stages["prefill"] = time.perf_counter() - began
            yield from self._say(observation.trace is not None, measured, given, wanted)

    def see(self, pictures: ImageInputs) -> Tensor:
        """Encode images to features [1, T, hidden]; timed."""
        began = time.perf_counter()
        features = self.vision(pictures)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else its time would count for the next stage that synchronises
        self.timings.stages["vision"] = time.perf_counter() - began
        return features

    @torch.inference_mode()
    def torch_features(self, pictures: ImageInputs) -> Tensor:
        """Encode images to features [1, T, hidden] with torch."""
        crops = torch.from_numpy(pictures.crops).to(self.device, self.dtype).unsqueeze(0)
        return self.model.image_features(crops, torch.from_numpy(pictures.indices).to(self.device).unsqueeze(0))

    def embed(self, asked: Prompt, features: Tensor) -> Tensor:
        """Embeddings [S, hidden] of a prompt whose images have `features` [1, T, hidden]."""
        return self.model.embed(torch.from_numpy(asked.ids).to(self.device).unsqueeze(0), features)[0]

    def _say(
        self, steered: bool, measured: AnswerCache | None, given: AnswerCache, wanted: Callable[[], bool]
    ) -> Iterator[Reasoning]:
        grammar, lasts, counts = self.grammars[steered], self.lasts[steered], self.timings.counts
        guides = [*lasts, *([] if measured is None else [measured])]
        for segment, tokens, said in decode(self.decoder, grammar, guides, counts, self.draft, given, wanted):
            if segment is not Segment.END:
                yield grammar.parse_partial(tokens)
                continue
            lasts.appendleft(said)
            self.tokens = tokens
        for name, part in (("depth", Segment.DEPTH), ("trace", Segment.TRACE), ("actions", Segment.ACTION)):
            self.timings.stages[name] = counts.segments[part].seconds
        yield grammar.parse(self.tokens)
