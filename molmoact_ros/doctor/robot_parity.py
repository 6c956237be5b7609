"""Numerical parity of MolmoAct 2 with the released model's reference implementation, in the order of the data's road.

Golden arrays are compared as far as a folder holds them, so that the first line that fails is where to look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.decoding.constrained import SegmentCounts
from molmoact_ros.engine.model.image_processor import denormalise, read_picture
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.molmoact2.checkpoint import load_robot_checkpoint
from molmoact_ros.engine.molmoact2.depth import CELLS, SIMILAR, UNKNOWN, cell_similarity, scaled
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine, ReadSequence
from molmoact_ros.engine.molmoact2.expert import ActionExpert
from molmoact_ros.engine.molmoact2.model import PrefilledContext, side_by_side
from molmoact_ros.engine.molmoact2.sampler import FlowSampler, noise_of
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.utils.checks import Check

REQUEST: Final = "request.json"
EXACT, ACTIONS, DECODER, FEATURES = 0.0, 1e-5, 1e-4, 1e-3
"""Limits: of ids, bins and codes; of the expert's numbers; of the decoder's; of image features, which reach 22."""


def is_robot_golden(folder: Path) -> bool:
    """Whether a folder of golden numbers is of this family: it says what was requested."""
    return (folder / REQUEST).is_file()


@torch.inference_mode()
def compare_robot(folder: Path, name: str) -> Iterator[Check]:
    """Compare everything that a golden folder holds. Raises what loading a checkpoint raises."""
    yield from _Comparison(folder, name).checks()


class _Comparison:
    """A golden folder: its checkpoint, request and arrays."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.folder = name, folder
        self.data: dict[str, np.ndarray] = dict(np.load(folder / "golden.npz"))
        self.request: dict[str, Any] = json.loads((folder / REQUEST).read_text())
        checkpoint = load_robot_checkpoint(folder, "cpu", torch.float32)
        self.engine = MolmoAct2Engine(checkpoint, self.request["norm_tag"], self.request["num_steps"])
        self.think = bool(self.request["enable_depth_reasoning"])

    def checks(self) -> Iterator[Check]:
        """All comparisons, in the order of the data's road."""
        observation = self._observation("images", "state", "noise_seed")
        asked = self.engine.ask(observation, self.think)
        crops = np.round(denormalise(asked.images.crops, "siglip") * 255).astype(np.uint8)
        yield from self._same("crops_u8", crops, EXACT)
        yield from self._same("pooled_idx_all", asked.images.pooled_idx, EXACT)
        stats = self.engine.scaling
        yield from self._same("state_norm", stats.metadata.state_stats.normalise(_state(observation), stats.mode), 1e-6)
        yield from self._same("state_bins", stats.bins(_state(observation)), EXACT)
        yield from self._same("input_ids", asked.ids, EXACT)
        ids, read = yield from self._decoder(observation, asked.ids)
        sequence = self.engine.sequence(ids, read.keys, read.values)
        if self.think:
            sequence = yield from self._depth(ids, read)
        yield from self._expert(sequence)
        yield from self._answers(observation)

    def _observation(self, images: str, state: str, seed: str) -> Observation:
        pictures = tuple(read_picture(self._image(file)) for file in self.request[images])
        values = RobotState(np.array(self.request[state]), 0.0)
        return Observation(pictures, self.request["task"], 0.0, state=values, seed=self.request[seed])

    def _image(self, name: str) -> Path:
        """An image of the request: in the golden folder, or in `images` beside it."""
        for path in (self.folder / name, self.folder / "images" / name, self.folder.parent / "images" / name):
            if path.is_file():
                return path
        raise CheckpointError(f"{self.folder} lacks the image {name}, also in the folder images beside it")

    def _same(self, array: str, found: np.ndarray | Tensor, limit: float) -> Iterator[Check]:
        """One check, where the folder holds the array."""
        if array not in self.data:
            return
        wanted = self.data[array]
        found = found.float().numpy() if isinstance(found, Tensor) and found.is_floating_point() else np.asarray(found)
        if found.shape != wanted.shape:
            yield Check.check(f"{self.name} {array}", False, f"shape {list(found.shape)}, not {list(wanted.shape)}")
            return
        apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
        what = f"largest difference {apart.max(initial=0):.1e}, limit {limit:.0e}" if limit else (
            f"{int((apart == 0).sum())} of {apart.size} equal"
        )  # fmt: skip
        yield Check.check(f"{self.name} {array}", bool((apart <= limit).all()), what)

    def _decoder(self, observation: Observation, ids: np.ndarray) -> Any:
        """Vision, then the decoder over the prompt; returns its ids [1, S] and what was read."""
        engine, data = self.engine, self.data
        asked = engine.ask(observation, self.think)
        crops = torch.from_numpy(asked.images.crops)
        if "patch_probe" in data:
            patches = engine.model.model.vision_backbone.image_vit(crops)[:, torch.from_numpy(data["patch_probe"])]
            yield from self._same("vit_features_at", patches, DECODER)
        features = engine.see(asked.images)
        yield from self._same("image_features", features[0], FEATURES)
        tensor_ids, read = engine.prefill(asked, features, hidden=True)
        assert read.hidden is not None
        yield from self._same("token_type_ids", engine.model.is_image(tensor_ids)[0].to(torch.uint8), EXACT)
        allowed = np.packbits(engine.model.readable(tensor_ids)[0].numpy(), axis=-1)
        yield from self._same("allowed_bits", allowed, EXACT)
        last = self.data["hidden_last"].shape[0] if "hidden_last" in data else 1
        yield from self._same("hidden_last", read.hidden[0, -last:], DECODER)
        yield from self._same("logits_last", engine.model.logits(read.hidden[0, -last:]), DECODER)
        keys, values = side_by_side(read.keys)[:, 0], side_by_side(read.values)[:, 0]
        places = self._places("kv_positions")
        yield from self._same("k_at", keys[:, places], DECODER)
        yield from self._same("v_at", values[:, places], DECODER)
        sums = [[[float(t.double().sum()), float(t.double().abs().sum())] for t in layer]
                for layer in zip(keys, values, strict=True)]  # fmt: skip
        yield from self._same("kv_sums", np.array(sums), 0.1)  # sums of tens of thousands of numbers
        return tensor_ids, read

    def _depth(self, ids: Tensor, read: PrefilledContext) -> Any:
        """Decode the depth map afresh; returns the sequence with it."""
        engine = self.engine
        assert engine._depth is not None
        decoder, nothing = engine.decoder_behind(read), np.full(CELLS, UNKNOWN)
        codes, tokens = engine._depth.decode(decoder, nothing, nothing, SegmentCounts())
        yield from self._same("depth_bins", codes, EXACT)
        yield from self._same("depth_tokens", np.array(tokens), EXACT)
        yield from self._depth_scores(ids, read, tokens)
        sequence, places = engine.sequence_of(decoder, ids, tokens), self._places("kv_positions_full")
        model = engine.model
        yield from self._same("depth_mask", model.is_depth(sequence.ids)[0].to(torch.uint8), EXACT)
        flat = side_by_side(decoder.cache.values[:, None, :, : decoder.length])
        gates = model.gates(flat, model.expert_readable(sequence.ids) & ~model.is_depth(sequence.ids))
        if gates is not None:
            yield from self._same("depth_gate", gates.flatten()[: self.data.get("depth_gate", gates).size], 1e-6)
        yield from self._same("k_gated_at", sequence.keys[:, 0, places], DECODER)
        yield from self._same("v_gated_at", sequence.values[:, 0, places], DECODER)
        return sequence

    def _depth_scores(self, ids: Tensor, read: PrefilledContext, tokens: list[int]) -> Iterator[Check]:
        """The scores of the codes, of a decoder that is fed the answer without drafts."""
        engine, length = self.engine, ids.shape[1]
        decoder = engine.decoder_behind(read)
        hidden = decoder.append(decoder.passes.embed(tokens[: CELLS + 1]), first=0)
        scores, first = engine.model.logits(hidden), engine.config.depth_ids[2]
        codes = scores[:CELLS, first : first + engine.config.num_depth_tokens]
        yield from self._same("depth_logits", codes, DECODER)
        yield from self._same("end_logits", scores[CELLS], DECODER)
        decoder.append(decoder.passes.embed(tokens[CELLS + 1 :]))
        decoder.rewind(length + len(tokens))

    def _expert(self, sequence: ReadSequence) -> Iterator[Check]:
        """Context, conditions, velocities and the whole trajectory."""
        engine, data = self.engine, self.data
        expert = engine.model.action_expert
        yield from self._same("final_input_ids", sequence.ids[0], EXACT)
        mask = engine.model.expert_readable(sequence.ids)
        yield from self._same("encoder_mask", mask[0].to(torch.uint8), EXACT)
        whole = expert.context(sequence.keys, sequence.values)
        places = self._places("kv_positions_full" if self.think else "kv_positions")
        for name, part in (("context_k_at", 0), ("context_v_at", 1)):
            yield from self._same(name, torch.stack([c[part][0][:, places].transpose(0, 1) for c in whole]), DECODER)
        yield from self._conditions(expert)
        context = engine.context(sequence)
        for k, (at, x) in enumerate(zip(data.get("velocity_t", []), data.get("velocity_x", []), strict=True)):
            modulations, noisy = expert.modulations(torch.tensor([at])), torch.from_numpy(x)[None]
            velocity = expert(noisy, modulations, context)[0].numpy()
            yield from self._part("velocity", k, velocity, ACTIONS)
            if k == 1 and "velocity_blocks" in data:
                yield from self._same("velocity_blocks", torch.cat(expert.hidden(noisy, modulations, context)), DECODER)
        horizon = engine.scaling.metadata.action_horizon
        noise = noise_of(self.request["noise_seed"], horizon, engine.config.max_action_dim)
        yield from self._same("noise", noise[0], EXACT)
        sampler = FlowSampler(expert, engine.scaling.action_dimensions)
        path = torch.cat(sampler.trajectory(noise, context, engine.flow_steps))
        yield from self._same("trajectory", path, ACTIONS)
        yield from self._same("actions_normalised", self._cut(path[-1]), ACTIONS)
        few = sampler.sample(noise, context, 5)[0].numpy()
        yield from self._same("actions_5_steps", engine.scaling.actions(few), ACTIONS)

    def _places(self, array: str) -> Tensor:
        return torch.from_numpy(self.data.get(array, np.zeros(0, np.int64)))

    def _cut(self, values: Tensor) -> Tensor:
        scaling = self.engine.scaling
        return values[: scaling.metadata.n_action_steps, : scaling.action_dimensions]

    def _part(self, array: str, index: int, found: np.ndarray, limit: float) -> Iterator[Check]:
        apart = float(np.abs(found - self.data[array][index]).max())
        text = f"largest difference {apart:.1e}, limit {limit:.0e}"
        yield Check.check(f"{self.name} {array} {index}", apart <= limit, text)

    def _conditions(self, expert: ActionExpert) -> Iterator[Check]:
        if "time_values" not in self.data:
            return
        times = torch.from_numpy(self.data["time_values"])
        every = expert.modulations(times)
        yield from self._same("time_sinusoid", expert.time_embed[0](times), ACTIONS)
        yield from self._same("time_condition", expert.condition(times), ACTIONS)
        yield from self._same("modulation_first", every.blocks[0].flatten(1), ACTIONS)
        yield from self._same("modulation_final", every.final.flatten(1), ACTIONS)

    def _answers(self, observation: Observation) -> Iterator[Check]:
        """Whole steps of the engine, in each mode, with what they remember of each other."""
        engine = self.engine
        engine.forget()
        yield from self._same("actions", _actions(engine, observation, ReasoningMode.FULL), ACTIONS)
        if not self.think:
            return
        direct = _actions(engine, observation, ReasoningMode.DIRECT)
        yield from self._same("actions_without_depth", direct, ACTIONS)
        if "images_next" not in self.request:
            return
        following = self._observation("images_next", "state_next", "noise_seed_next")
        similarity = cell_similarity(scaled(following.images[0]), scaled(observation.images[0]))
        yield from self._same("cell_similarity", similarity, 1e-5)
        yield from self._same("cell_update", (similarity < SIMILAR).astype(np.uint8), EXACT)
        yield from self._step("next", following, ReasoningMode.REUSE)
        yield from self._step("next_fresh", replace(following), ReasoningMode.FULL)

    def _step(self, which: str, observation: Observation, mode: ReasoningMode) -> Iterator[Check]:
        kind, _, fresh = which.partition("_")
        suffix = f"_{fresh}" if fresh else ""
        actions = _actions(self.engine, observation, mode)
        assert self.engine.memory is not None
        yield from self._same(f"{kind}_depth_bins{suffix}", self.engine.memory.codes, EXACT)
        yield from self._same(f"{kind}_actions{suffix}", actions, ACTIONS)


def _actions(engine: MolmoAct2Engine, observation: Observation, mode: ReasoningMode) -> np.ndarray:
    """The actions of one step. The number of images is not checked: it is the request's."""
    *_, said = engine._steps(observation, mode)
    assert said.actions is not None
    return said.actions


def _state(observation: Observation) -> np.ndarray:
    assert observation.state is not None
    return np.asarray(observation.state.values, np.float32)
