"""Passes of fixed shapes say what torch's own passes say, padded or not, with guesses or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from molmoact_ros.engine.decoding import cuda_graphs
from molmoact_ros.engine.decoding.cuda_graphs import WIDTHS, CudaGraphRunner
from molmoact_ros.engine.decoding.decoder import CachedDecoder, ModelRunner, SequenceSlice, TorchModelRunner
from molmoact_ros.engine.decoding.speculative import WIDE, DraftConfig, Tree
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.utils.paths import default_checkpoint

from ...benchmarks.test_engine_step import look
from ...conftest import released_config
from .test_decoder import CAPACITY, VOCABULARY, ids, kept_and_said, model, trees

ALL = np.arange(VOCABULARY)
MODELS = {"qwen": model(), "olmo": model(num_key_value_heads=6, norm_after=True, use_qk_norm=True, qkv_bias=False)}
NO_GUESSES = DraftConfig(0, around=False, patient=False, measured=False)


@pytest.fixture(autouse=True, scope="module")
def short_lengths() -> Iterator[None]:
    """Lengths that so short sequences meet, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs, "LENGTHS", (64, 128))
        yield


@pytest.fixture(scope="module")
def static(short_lengths: None) -> dict[str, CudaGraphRunner]:
    return {kind: CudaGraphRunner(made, CAPACITY, ALL) for kind, made in MODELS.items()}


def scores(made: MolmoAct, passes: ModelRunner, prompt: Sequence[int], said: Sequence[int], tree: Tree) -> np.ndarray:
    """Scores of all ids after the prompt, after each token that was said behind it, and of the tree behind that."""
    decoder, found = CachedDecoder(passes), []
    for grow in (lambda: decoder.append(made.embed(torch.tensor(prompt), None)), lambda: decoder.feed(said, tree)):
        grow()
        found.append(decoder._after if isinstance(passes, CudaGraphRunner) else made.logits(decoder._after).numpy())
    return np.concatenate(found)


@torch.inference_mode()
@pytest.mark.parametrize("kind", MODELS)
@given(ids, ids, trees())
def test_fixed_shapes_give_what_torch_gives(
    static: dict[str, CudaGraphRunner], kind: str, prompt: list[int], said: list[int], tree: Tree
) -> None:
    wanted = scores(MODELS[kind], TorchModelRunner(MODELS[kind], CAPACITY), prompt, said, tree)
    found = scores(MODELS[kind], static[kind], prompt, said, tree)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine.load(default_checkpoint(), threads=1)


def by(
    engine: TorchEngine, passes: Callable[[], ModelRunner], width: DraftConfig, seeds: Sequence[int] = (1, 1, 2)
) -> list[list[int]]:
    """Answers to the images of seeds in a row, by passes and with guesses of a width."""
    usual = engine.decoder, engine.draft
    engine.decoder, engine.draft, said = CachedDecoder(passes()), width, []
    engine.forget()
    for seed in seeds:
        list(engine.reason(look(seed)))
        said.append(engine.tokens)
    engine.decoder, engine.draft = usual
    return said


@pytest.mark.parametrize("width", [WIDE, NO_GUESSES], ids=["wide", "none"])
def test_answers_are_those_of_torchs_passes(engine: TorchEngine, width: DraftConfig) -> None:
    grammar_ids = np.union1d(*(grammar.ids for grammar in engine.grammars.values()))
    assert 128 < len(grammar_ids) < engine.config.llm_config.vocab_size
    found = by(engine, lambda: CudaGraphRunner(engine.model, 512, grammar_ids), width)
    assert found == by(engine, lambda: TorchModelRunner(engine.model, 512), NO_GUESSES)
    assert engine.timings.counts.tokens > 150


def test_answers_with_the_released_vocabulary_are_equal_too(released: Path) -> None:
    engine = TorchEngine.load(released, threads=1, unnorm_key="molmoact")
    every = np.union1d(*(grammar.ids for grammar in engine.grammars.values()))
    assert len(every) == 293  # rows of the head, instead of 152,064
    found = by(engine, lambda: CudaGraphRunner(engine.model, 2048, every), WIDE, (1, 1))
    assert found == by(engine, lambda: TorchModelRunner(engine.model, 2048), WIDE, (1, 1))


@torch.inference_mode()
@pytest.mark.parametrize("kind", MODELS)
def test_a_kept_branch_is_as_if_it_had_been_said(static: dict[str, CudaGraphRunner], kind: str) -> None:
    kept, plain = kept_and_said(static[kind])
    np.testing.assert_allclose(kept._after, plain._after, rtol=1e-4, atol=1e-3)
    assert kept.length == plain.length == 5


@torch.inference_mode()
def test_what_has_no_fixed_shape_is_computed_all_the_same(static: dict[str, CudaGraphRunner]) -> None:
    passes, made = static["qwen"], MODELS["qwen"]
    rng = np.random.default_rng(0)
    said = [rng.integers(0, VOCABULARY, n).tolist() for n in (1, 7, 3)]
    alone = [scores(made, passes, [5] * n, tokens, Tree())[1:] for n, tokens in enumerate(said, start=1)]
    parts = []
    for n, tokens in enumerate(said, start=1):
        cache = passes.cache()
        passes.run([SequenceSlice(cache, 0, passes.embed([5] * n), range(-1, n - 1))])
        parts.append(SequenceSlice(cache, n, passes.embed(tokens), range(-1, len(tokens) - 1)))
    for together, by_itself in zip(passes.run(parts), alone, strict=True):  # several sequences
        np.testing.assert_allclose(together, by_itself, rtol=1e-4, atol=1e-3)
    long = CudaGraphRunner(made, WIDTHS[-1] + 40, ALL)
    many = rng.integers(0, VOCABULARY, WIDTHS[-1] + 20).tolist()
    whole, halves = CachedDecoder(long), CachedDecoder(long)
    whole.feed(many, Tree())  # wider than any
    halves.feed(many[:100], Tree())
    halves.feed(many[100:], Tree())
    np.testing.assert_allclose(whole._after[100:], halves._after, rtol=1e-3, atol=1e-2)


class Watch(TorchDispatchMode):
    """Notes the operators that are run, and the devices of all that they take and give."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self.names.append(func.name())
        self.devices |= {t.device.type for t in tree_leaves((args, kwargs, given)) if isinstance(t, torch.Tensor)}
        return given


@torch.inference_mode()
def test_passes_of_the_whole_7b_touch_nothing_but_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "LENGTHS", (1024, 1536, 2048))
    with torch.device("meta"):  # where there are shapes and no numbers, so none can be waited for
        made = MolmoAct(released_config(olmo=False, tiny=False)).to(torch.bfloat16)
    passes = CudaGraphRunner(made, 4096, np.arange(293))
    cache, prompt = passes.cache(), torch.zeros(988, 3584, dtype=torch.bfloat16, device="meta")
    assert len(passes.shapes) == 20
    with Watch() as watch:
        for width, length in passes.shapes:
            found = passes._scores(cache, passes._tables[width].given, length, cuda_graphs.layer)
            assert found.shape == (width, 293) and found.dtype == torch.float32
        assert passes._prompt(SequenceSlice(cache, 0, prompt, range(-1, 987), 987)).shape == (1, 3584)
        passes.move(cache, 1000, 998)
        cache.clear()
    assert watch.devices == {"meta"}


@torch.inference_mode()
def test_nothing_in_a_pass_waits_for_a_number(static: dict[str, CudaGraphRunner]) -> None:
    passes = static["qwen"]
    cache, tables = passes.cache(), passes._tables[32]
    tables.send(np.arange(5), 3, [-1, 0, 0, 1, 2])
    with Watch() as watch:
        passes._scores(cache, tables.given, 64, cuda_graphs.layer)
    assert "aten::index_copy_" in watch.names
    waiting = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::item", "aten::equal"}
    assert not waiting & set(watch.names)
    decoder = CachedDecoder(passes)
    decoder.feed([1], Tree([3, 4], [-1, -1], {}))
    with Watch() as watch:
        for node in (-1, 0, 1):  # what was fetched with the pass
            decoder.choose(node, ALL[3:9])
    assert not watch.names


@torch.inference_mode()
def test_a_layer_is_traced_whole_and_once_for_all_layers(static: dict[str, CudaGraphRunner]) -> None:
    passes, graphs = static["qwen"], []

    def note(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    traced = torch.compile(cuda_graphs.layer, fullgraph=True, dynamic=False, backend=note)
    shapes = passes.shapes[:3]
    for width, length in shapes:
        tables, cache = passes._tables[width], passes.cache()
        tables.send(np.arange(width) % VOCABULARY, 3, range(-1, width - 1))
        ours, filled = passes._scores(cache, tables.given, length, traced), cache.keys.clone()
        cache.clear()
        torch.testing.assert_close(ours, passes._scores(cache, tables.given, length, cuda_graphs.layer))
        torch.testing.assert_close(filled, cache.keys)
    assert len(graphs) == len(shapes)  # and no more for the other layers


@torch.inference_mode()
def test_nan_of_one_answer_does_not_spoil_the_next(static: dict[str, CudaGraphRunner]) -> None:
    decoder = CachedDecoder(static["qwen"])
    prompt = MODELS["qwen"].embed(torch.tensor([3, 1, 4]), None)
    for embeddings, tokens in ((torch.full_like(prompt, torch.nan), 60), (prompt, 1)):
        decoder.rewind(0)
        decoder.append(embeddings)
        decoder.feed([1] * tokens, Tree())
    assert np.isfinite(decoder._after).all()


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(CheckpointError, match="apt-get install gcc"):
        cuda_graphs.need_compiler()
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    cuda_graphs.need_compiler()


@torch.inference_mode()
def test_what_is_too_long_unknown_or_not_finite_is_refused(static: dict[str, CudaGraphRunner]) -> None:
    decoder = CachedDecoder(static["qwen"])
    decoder.feed([1] * CAPACITY, Tree())
    with pytest.raises(RefusedStep, match=f"needs {CAPACITY + 1} tokens"):
        decoder.feed([1], Tree())
    few = CachedDecoder(CudaGraphRunner(MODELS["qwen"], CAPACITY, ALL[::2]))
    few.feed([1], Tree())
    assert few.choose(-1, ALL[:20:4]) in ALL[:20:4]
    with pytest.raises(ValueError, match="no scores"):
        few.choose(-1, ALL[:4])
    broken = model()
    with torch.no_grad():
        broken.layers[1].mlp.ff_out.weight[0, 0] = torch.nan
    decoder = CachedDecoder(CudaGraphRunner(broken, CAPACITY, ALL))
    decoder.feed([1], Tree())
    with pytest.raises(RefusedStep, match="NaN or infinity"):
        decoder.choose(-1, ALL[:4])
