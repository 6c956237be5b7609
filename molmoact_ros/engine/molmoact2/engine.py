"""The engine of MolmoAct 2: images, robot state and an instruction in; depth codes and a chunk of actions out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.base import UNKNOWN as UNKNOWN_WORD
from molmoact_ros.engine.base import EngineTimings, ReasoningMode
from molmoact_ros.engine.decoding.constrained import CancelledStep
from molmoact_ros.engine.decoding.decoder import CachedDecoder, TorchModelRunner
from molmoact_ros.engine.decoding.speculative import NARROW, WIDE
from molmoact_ros.engine.model.checkpoint import default_dtype
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.model.image_processor import ImageInputs
from molmoact_ros.engine.model.quantization import check, quantise
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpoint, RobotCheckpointFolder, load_robot_checkpoint
from molmoact_ros.engine.molmoact2.depth import CELLS, GRID, UNKNOWN, DepthDecoder, DepthMemory, kept_codes, scaled
from molmoact_ros.engine.molmoact2.expert import Context
from molmoact_ros.engine.molmoact2.model import PrefilledContext, side_by_side
from molmoact_ros.engine.molmoact2.prompt import ROOM, RobotPrompt, RobotPromptMaker
from molmoact_ros.engine.molmoact2.sampler import noise_of
from molmoact_ros.engine.molmoact2.selection import Tower, open_robot_tower, open_sampler
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep, Segment
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.reasoning.robot_stats import TagScaling, only_tag
from molmoact_ros.reasoning.state_prompt import check_task, normalise_task
from molmoact_ros.reasoning.tokens import refuse_unknown_words
from molmoact_ros.utils.progress import Progress, ignore

FLOW_STAGES = ("preprocess", "vision", "prefill", "depth", "actions")
BLOCK = 256  # tokens by which a cache grows


@dataclass(frozen=True)
class ReadSequence:
    """A sequence that the decoder has read: ids int64 [1, S]; keys and values [L, 1, S, width], depth gated."""

    ids: Tensor
    keys: Tensor
    values: Tensor


class MolmoAct2Engine:
    """Runs a MolmoAct 2 checkpoint in torch, on CPU or GPU. Not thread-safe.

    Public state: `timings`, `tokens` (of the depth map) and `seed` (of the noise) of the last step. An observation
    needs the robot's state; equal observations with equal seeds give equal actions.

        engine = MolmoAct2Engine.load(Path("MolmoAct2-DROID"))
        *_, answer = engine.reason(Observation(images, "put the cup away", stamp, state=RobotState(joints, stamp)))
        answer.actions  # float64 [15, 8], each a target of seven joints and the gripper, engine.convention.dt apart
    """

    def __init__(
        self, checkpoint: RobotCheckpoint, tag: str = "", flow_steps: int = 0, vision: str = "auto"
    ) -> None:  # fmt: skip
        """tag: norm_tag; "": the only one. flow_steps: Euler steps; 0: as the checkpoint says. vision: see
        `open_robot_tower`.

        Raises RefusedStep that lists the tags for one that is unknown, or for none where there are several.
        """
        self.checkpoint, self.config, self.model = checkpoint, checkpoint.config, checkpoint.model
        self.digest, self.tokenizer = checkpoint.digest, checkpoint.tokenizer
        self.unnorm_key = only_tag(checkpoint.stats.metadata_by_tag, tag)
        self.scaling = TagScaling(checkpoint.stats, self.unnorm_key)
        self.convention: ActionConvention = checkpoint.run.convention(self.unnorm_key)
        self.flow_steps = flow_steps or self.config.flow_matching_num_steps
        self.prompts = RobotPromptMaker(self.config, checkpoint.processor, self.tokenizer, self.scaling)
        self.codec, self.images = self.prompts.codec, self.prompts.images
        weight = self.model.lm_head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.vision: Tower
        self.vision_by, self.vision = open_robot_tower(vision, self.model, self.torch_features, self.images)
        horizon = self.scaling.metadata.action_horizon
        self.sampler = open_sampler(self.model, self.scaling.action_dimensions, horizon)
        self.depth_vq: DepthVq | None = None  # no folder of this family holds a depth decoder
        self.codebook = ""
        self._decoder: CachedDecoder | None = None
        draft = WIDE if self.device.type == "cuda" else NARROW
        self._depth = DepthDecoder(self.config, draft) if self.config.thinks else None
        self.timings = EngineTimings()
        self.tokens: list[int] = []
        self.seed: int | None = None
        self.memory: DepthMemory | None = None

    @staticmethod
    def load(
        folder: Path, device: str = "cpu", threads: int | None = None, dtype: torch.dtype | None = None, tag: str = "",
        flow_steps: int = 0, quantization: str = "", vision: str = "auto",
    ) -> MolmoAct2Engine:  # fmt: skip
        """Load a folder; see `__init__` and TorchEngine.load. Raises CheckpointError, and RefusedStep for the tag."""
        if threads:
            torch.set_num_threads(threads)
        files = RobotCheckpointFolder(folder)
        only_tag(files.stats.metadata_by_tag, tag)  # what needs no weights is refused before they are read
        check(quantization, torch.device(device), dtype or default_dtype(device))
        checkpoint = load_robot_checkpoint(files, device, dtype)
        if quantization:
            quantise(checkpoint.model, quantization)
        return MolmoAct2Engine(checkpoint, tag, flow_steps, vision)

    @property
    def modes(self) -> frozenset[ReasoningMode]:
        """The modes that `reason` answers in."""
        always = {ReasoningMode.FULL, ReasoningMode.DIRECT}
        return frozenset(always | {ReasoningMode.REUSE} if self.config.thinks else always)

    @property
    def state_dimensions(self) -> int:
        """Values of a state."""
        return self.scaling.state_dimensions

    @property
    def action_shape(self) -> tuple[int, int]:
        """Actions of a chunk, and values of each."""
        return self.scaling.metadata.n_action_steps, self.scaling.action_dimensions

    def frame(self, image: np.ndarray) -> np.ndarray:
        """A camera image uint8 [H, W, 3] RGB, unchanged: the processor takes any size."""
        return image

    def close(self) -> None:
        """Release resources outside this process; here there are none."""

    def forget(self) -> None:
        """Forget the last step's depth map: reuse none, and draft from none."""
        self.memory = None

    def blank(self) -> Observation:
        """An observation of the usual shape with black images and a state of zeros."""
        count = len(self.convention.cameras) or len(self.scaling.metadata.camera_keys) or 1
        picture = np.zeros((*self.images.size, 3), np.uint8)
        return Observation((picture,) * count, "put", 0.0, state=RobotState(np.zeros(self.state_dimensions), 0.0))

    def warm_up(self, progress: Progress = ignore) -> None:
        """Run one step on a blank observation."""
        for _ in self._steps(self.blank(), ReasoningMode.DIRECT):
            pass
        self.forget()

    def reason(
        self, observation: Observation, mode: ReasoningMode = ReasoningMode.FULL,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[Reasoning]:  # fmt: skip
        """Yield the reasoning once depth is complete, if the mode has it, and once the actions are.

        FULL of a Think checkpoint decodes all depth codes, REUSE those of changed cells, DIRECT none. wanted: is called
        before every pass. Raises CancelledStep once it returns False, and RefusedStep, in one line that says what to
        do, for an observation that does not fit and for a result that is not finite.
        """
        self.check(observation, mode)
        yield from self._steps(observation, mode, wanted)

    def check(self, observation: Observation, mode: ReasoningMode = ReasoningMode.FULL) -> None:
        """Raise RefusedStep, in one line that says what to do, for what does not fit the model."""
        if observation.trace is not None:
            raise RefusedStep("MolmoAct 2 has no trace and cannot be steered by one; clear the drawing")
        if mode not in self.modes:
            names = ", ".join(sorted(known.value for known in self.modes))
            raise RefusedStep(f"this checkpoint has no mode {mode.value}; choose one of: {names}")
        self._check_images(observation.images)
        check_task(observation.instruction)
        unknown = self.tokenizer.token_to_id(UNKNOWN_WORD)
        if unknown is not None:  # only a small vocabulary has it
            refuse_unknown_words(normalise_task(observation.instruction), self.codec.encode, unknown)
        if observation.state is None:
            raise RefusedStep(
                f"this model needs the robot's state ({self.state_dimensions} values), and there is none; check the "
                "joint states, or give --state"
            )

    def _check_images(self, images: tuple[np.ndarray, ...]) -> None:
        wanted, known = self.convention.cameras, self.scaling.metadata.camera_keys
        least, most = (len(wanted), len(wanted)) if wanted else (1, len(known) or len(images))
        if not least <= len(images) <= most or not images:
            names = ", ".join(wanted or known) or "the main one first"
            some = f"{most}" if least == most else f"{least} to {most}"
            raise RefusedStep(f"this model needs {some} camera images ({names}), not {len(images)}; check the cameras")
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise RefusedStep(f"images must be RGB uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}")

    @torch.inference_mode()
    def _steps(
        self, observation: Observation, mode: ReasoningMode, wanted: Callable[[], bool] = lambda: True
    ) -> Iterator[Reasoning]:
        think = self._depth is not None and mode is not ReasoningMode.DIRECT
        self.timings, self.tokens = EngineTimings(mode=mode), []
        seed = secrets.randbits(63) if observation.seed is None else observation.seed
        asked = self.ask(observation, think)
        features = self.see(asked.images)
        if not wanted():
            raise CancelledStep
        ids, prefilled = self.prefill(asked, features)
        codes = None
        if think:
            decoder, codes, tokens = self._think(ids, prefilled, observation.images[0], mode, wanted)
            sequence = self.sequence_of(decoder, ids, tokens)
            yield Reasoning(codes.reshape(GRID, GRID).astype(np.uint8), None, None, complete=False)
            self.tokens = tokens
        else:
            sequence = self.sequence(ids, prefilled.keys, prefilled.values)
        if not wanted():
            raise CancelledStep
        actions = self.act(sequence, seed)
        self.seed = seed
        depth = None if codes is None else codes.reshape(GRID, GRID).astype(np.uint8)
        yield Reasoning(depth, None, actions, complete=True)

    def ask(self, observation: Observation, think: bool) -> RobotPrompt:
        """Build the prompt of an observation with a state; timed. think: ask for a depth map first."""
        began = time.perf_counter()
        asked = self.prompts.ask(observation, think)
        self.timings.stages["preprocess"] = time.perf_counter() - began
        return asked

    def see(self, images: ImageInputs) -> Tensor:
        """Encode images to features [1, T, hidden]; timed."""
        began = time.perf_counter()
        features = self.vision(images)
        self._note("vision", began)
        return features

    @torch.inference_mode()
    def torch_features(self, images: ImageInputs) -> Tensor:
        """Encode images to features [1, T, hidden] with torch."""
        crops = torch.from_numpy(images.crops).to(self.device, self.dtype).unsqueeze(0)
        return self.model.image_features(crops, torch.from_numpy(images.indices).to(self.device).unsqueeze(0))

    def prefill(
        self, asked: RobotPrompt, features: Tensor, hidden: bool = False
    ) -> tuple[Tensor, PrefilledContext]:  # fmt: skip
        """Read a prompt whose images have `features` [1, T, hidden]: its ids int64 [1, S] and what was read; timed.

        hidden: see `MolmoAct2.prefill`.
        """
        began = time.perf_counter()
        ids = torch.from_numpy(asked.ids).to(self.device).unsqueeze(0)
        read = self.model.prefill(self.model.embed(ids, features), self.model.readable(ids), hidden)
        self._note("prefill", began)
        return ids, read

    def _think(
        self, ids: Tensor, read: PrefilledContext, image: np.ndarray, mode: ReasoningMode, wanted: Callable[[], bool]
    ) -> tuple[CachedDecoder, np.ndarray, list[int]]:
        """Decode a depth map; timed. Its codes int64 [100] are remembered with the image that they are of."""
        assert self._depth is not None
        began, small, before = time.perf_counter(), scaled(image), self.memory
        self.memory = None  # a step that fails leaves nothing to reuse
        kept = kept_codes(small, before if mode is ReasoningMode.REUSE else None)
        guess = np.full(CELLS, UNKNOWN) if before is None else before.codes
        decoder, counts = self.decoder_behind(read), self.timings.counts
        codes, tokens = self._depth.decode(decoder, kept, guess, counts.segments[Segment.DEPTH], wanted)
        counts.tokens = len(tokens)
        self.memory = DepthMemory(small, codes)
        self._note("depth", began)
        return decoder, codes, tokens

    def decoder_behind(self, read: PrefilledContext) -> CachedDecoder:
        """A decoder whose cache holds a prompt that was prefilled."""
        length = read.keys.shape[3]
        needed = length + ROOM + self.config.max_action_horizon + WIDE.nodes
        if self._decoder is None or self._decoder.passes.capacity < needed:
            self._decoder = CachedDecoder(TorchModelRunner(self.model, -(-needed // BLOCK) * BLOCK))
        decoder = self._decoder
        decoder.cache.keys[:, :, :length] = read.keys[:, 0]
        decoder.cache.values[:, :, :length] = read.values[:, 0]
        decoder.rewind(length)
        return decoder

    def sequence_of(self, decoder: CachedDecoder, ids: Tensor, tokens: list[int]) -> ReadSequence:
        """The prompt ids int64 [1, S] and the tokens behind it, which are all in a decoder's cache."""
        whole = torch.cat([ids, torch.tensor([tokens], device=ids.device)], dim=1)
        keys, values = (cached[:, None, :, : decoder.length] for cached in (decoder.cache.keys, decoder.cache.values))
        return self.sequence(whole, keys, values)

    def sequence(self, ids: Tensor, keys: Tensor, values: Tensor) -> ReadSequence:
        """Ids int64 [1, S] with keys and values [L, 1, kv_heads, S, head_dim], those of depth tokens gated."""
        flat_keys, flat_values = side_by_side(keys), side_by_side(values)
        return ReadSequence(ids, *self.model.gated(ids, flat_keys, flat_values, self.model.expert_readable(ids)))

    def context(self, sequence: ReadSequence) -> list[Context]:
        """What the expert reads of a sequence: without hidden tokens, which it then need not be kept from reading."""
        read = self.model.expert_readable(sequence.ids)[0].nonzero().squeeze(1)
        return self.model.action_expert.context(sequence.keys[:, :, read], sequence.values[:, :, read])

    def act(self, sequence: ReadSequence, seed: int) -> np.ndarray:
        """The chunk float64 [n_action_steps, D] in the robot's units; timed. Raises RefusedStep if it is not finite."""
        began = time.perf_counter()
        noise = noise_of(seed, self.scaling.metadata.action_horizon, self.config.max_action_dim)
        sampled = self.sampler.sample(noise.to(self.device), self.context(sequence), self.flow_steps)
        values = sampled[0].float().cpu().numpy()
        if not np.isfinite(values).all():
            raise RefusedStep("the model computed NaN or infinity; check the weights with `molmoact-ros doctor`")
        self._note("actions", began)
        return self.scaling.actions(values).astype(np.float64)

    def _note(self, stage: str, began: float) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.timings.stages[stage] = time.perf_counter() - began
