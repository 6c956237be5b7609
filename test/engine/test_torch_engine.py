"""Decoding, checkpoints and refusals on a small random model of the nano's kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.decoding.constrained import CancelledStep, DecodeCounts, decode
from molmoact_ros.engine.decoding.speculative import NARROW, WIDE, AnswerCache, DraftConfig
from molmoact_ros.engine.model.checkpoint import load_checkpoint, load_depth_vq
from molmoact_ros.engine.model.depth_vq import DepthVq, depth_in_metres, inverse_span, relative_depth
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.reasoning.answer import RefusedStep, Segment
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.training.nano_model import initialise, nano_config, save_nano
from molmoact_ros.training.tokenizer import build_tokenizer

STATS = NormStats(q01=(-0.02,) * 3 + (0.0,) * 4, q99=(0.02,) * 3 + (0.0,) * 3 + (1.0,), mask=(True,) * 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    model = MolmoAct(nano_config(tokenizer, STATS))
    initialise(model, tokenizer)
    path = tmp_path_factory.mktemp("checkpoint")
    save_nano(path, model, tokenizer, DepthVq(4, 16))
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> TorchEngine:
    return TorchEngine.load(folder, threads=1)


def look(seed: int, instruction: str = "put the red cube in the bowl") -> Observation:
    rng = np.random.default_rng(seed)
    front, wrist = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((480, 640, 3), (240, 424, 3)))
    return Observation((front, wrist), instruction, 0.0)


WIDTHS = [NARROW, WIDE, DraftConfig(4, around=True, patient=False, measured=False)]


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width", WIDTHS, ids=["narrow", "wide", "tight"])
def test_guesses_change_the_passes_and_never_the_answer(engine: TorchEngine, seed: int, width: DraftConfig) -> None:
    grammar, rng = engine.grammars[False], np.random.default_rng(seed)
    asked = engine.ask(look(seed))
    embeddings = engine.embed(asked, engine.see(asked.pictures))

    def answer(lasts: list[AnswerCache]) -> tuple[list[int], AnswerCache, DecodeCounts]:
        counts = DecodeCounts()
        engine.decoder.rewind(0)
        engine.decoder.append(embeddings)
        *_, (_, tokens, said) = decode(engine.decoder, grammar, lasts, counts, width)
        return tokens, said, counts

    plain, said, plain_counts = answer([])
    same, _, same_counts = answer([said])
    values = {k: v if rng.random() < 0.7 else int(rng.integers(128)) for k, v in said.values.items()}
    turns = {k: v for k, v in said.turns.items() if rng.random() < 0.9}
    wrong, _, _ = answer([AnswerCache(values, set(values), turns), said])
    assert plain == same == wrong
    assert same_counts.passes < plain_counts.passes < len(plain)  # what is forced costs no pass
    assert (
        0 < sum(c.held for c in same_counts.segments.values()) <= sum(c.guessed for c in same_counts.segments.values())
    )
    assert same_counts.tokens == len(plain)


def test_measured_depth_may_stand_for_the_depth_codes(engine: TorchEngine) -> None:
    seen = look(5)
    depth = np.linspace(0.4, 2.0, 240 * 320, dtype=np.float32).reshape(240, 320)
    with pytest.raises(RefusedStep, match="grounded needs a front camera with depth"):
        list(engine.reason(seen, ReasoningMode.GROUNDED))
    *_, said = engine.reason(Observation(seen.images, seen.instruction, 0.0, depth=depth), ReasoningMode.GROUNDED)
    assert engine.depth_vq is not None and said.depth_codes is not None and said.actions is not None
    wanted = engine.depth_vq.encode(torch.from_numpy(relative_depth(depth))[None, None])[0]
    np.testing.assert_array_equal(said.depth_codes, wanted)
    assert engine.timings.mode is ReasoningMode.GROUNDED and engine.timings.counts.segments[Segment.DEPTH].passes == 0


def test_reasoning_is_reused_for_some_steps(engine: TorchEngine) -> None:
    engine.forget()
    *_, first = engine.reason(look(6), ReasoningMode.REUSE)
    for seed in range(engine.run.reuse_steps):
        *_, said = engine.reason(look(seed), ReasoningMode.REUSE)
        np.testing.assert_array_equal(said.depth_codes, first.depth_codes)
        np.testing.assert_array_equal(said.trace, first.trace)
        counts = engine.timings.counts.segments
        assert counts[Segment.DEPTH].passes == counts[Segment.TRACE].passes == 0
    *_, again = engine.reason(look(8), ReasoningMode.REUSE)
    assert engine.timings.counts.segments[Segment.DEPTH].passes > 0
    plain = TorchEngine.reason(engine, look(8))
    np.testing.assert_array_equal(again.depth_codes, [*plain][-1].depth_codes)


def test_a_step_that_is_not_wanted_any_more_ends_within_a_pass(engine: TorchEngine) -> None:
    asked = 0

    def wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked < 5

    with pytest.raises(CancelledStep):
        list(engine.reason(look(7), wanted=wanted))
    assert asked == 5 and engine.timings.counts.passes == 4
    *_, after = engine.reason(look(7))
    engine.forget()
    *_, fresh = engine.reason(look(7))
    np.testing.assert_array_equal(after.actions, fresh.actions)


def test_reasoning_comes_in_parts_and_the_last_is_whole(engine: TorchEngine) -> None:
    parts = list(engine.reason(look(3)))
    assert parts[0].depth_codes is not None and parts[0].actions is None
    last = parts[-1]
    assert last.complete and last.actions is not None and last.trace is not None
    assert last.actions.shape == (8, 7) and 1 <= len(last.trace) <= 5
    assert set(engine.timings.stages) == {"preprocess", "vision", "prefill", "depth", "trace", "actions"}


def test_a_steered_step_gives_actions_only(engine: TorchEngine) -> None:
    seen = look(4)
    steered = Observation(seen.images, seen.instruction, 0.0, trace=np.array([[10, 10], [200, 100]]))
    *_, last = engine.reason(steered)
    assert last.depth_codes is None and last.trace is None and last.actions is not None


@pytest.mark.parametrize(
    ("observation", "why"),
    [
        (Observation(look(0).images[:1], "put the red cube in the bowl", 0.0), "needs 2 camera images"),
        (Observation((), "put the red cube in the bowl", 0.0), "needs 2 camera images"),
        (look(0, ""), "empty"),
        (look(0, "juggle the red cube"), "'juggle'"),
        (Observation((np.zeros((4, 4), np.uint8),) * 2, "pick up the red cube", 0.0), "RGB uint8"),
        (Observation((np.zeros((4, 4, 3)),) * 2, "pick up the red cube", 0.0), "RGB uint8"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(engine: TorchEngine, observation: Observation, why: str) -> None:
    with pytest.raises(RefusedStep, match=why) as refusal:
        list(engine.reason(observation))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_or_corrupt_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(b"{ not this")
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(copy)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("change", ["renamed", "missing", "reshaped", "nan"])
def test_a_tensor_that_does_not_fit_is_named(folder: Path, tmp_path: Path, change: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    name = "model.transformer.blocks.1.mlp.ff_out.weight"
    tensor = tensors.pop(name)
    if change == "renamed":
        tensors["surprise"] = tensor
    elif change == "reshaped":
        tensors[name] = tensor.T.contiguous()
    elif change == "nan":
        tensors[name] = tensor * float("nan")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(copy)


def test_relative_depth_is_larger_when_nearer_and_survives_no_depth() -> None:
    depth = np.full((48, 64), 2.0, np.float32)
    depth[:24], depth[0] = 0.5, 0.0
    picture = relative_depth(depth)
    assert picture.shape == (320, 320)
    assert picture[100, 10] == pytest.approx(1.0) and picture[300, 10] == 0.0 and picture[0, 0] == 0.0
    assert not relative_depth(np.zeros((4, 4))).any()


def test_depth_codes_go_to_a_picture() -> None:
    torch.manual_seed(0)
    model = DepthVq(4, 16)
    codes = model.encode(torch.rand(4, 1, 320, 320))
    assert codes.shape == (4, 10, 10) and model.decode(codes).shape == (4, 1, 320, 320)
    picture = model.picture(codes[0].numpy())
    assert picture.shape == (320, 320) and (picture.min(), picture.max()) == (0.0, 1.0)


def test_a_decoder_with_a_span_reads_the_same_depth_as_the_same_number_in_every_image(tmp_path: Path) -> None:
    depth, near = np.full((48, 64), 1.0, np.float32), np.full((48, 64), 1.0, np.float32)
    near[:10] = 0.2
    span = (0.5, 1.5)
    assert relative_depth(depth, span)[-1, 0] == relative_depth(near, span)[-1, 0] == pytest.approx(0.5)
    assert relative_depth(near, span)[0, 0] == 1.0 and relative_depth(depth, span).max() == pytest.approx(0.5)
    assert relative_depth(np.full((4, 4), 5.0), span).max() == 0.0
    np.testing.assert_allclose(depth_in_metres(relative_depth(depth, span), span), 1.0, rtol=1e-6)
    model, file = DepthVq(4, 16, span=span), tmp_path / "depth_vq.safetensors"
    save_file(model.state_dict(), file)
    loaded = load_depth_vq(file)
    assert loaded.span == span and DepthVq(4, 16).span is None
    np.testing.assert_array_equal(loaded.encode_depth(near), model.encode_depth(near))
    assert loaded.picture(loaded.encode_depth(near)).min() >= 0.0


def test_an_images_own_range_gives_its_depth_back() -> None:
    depth = np.random.default_rng(0).uniform(0.4, 2.0, (320, 320)).astype(np.float32)
    np.testing.assert_allclose(depth_in_metres(relative_depth(depth), inverse_span(depth)), depth, rtol=1e-4)
