"""Passes in torch and compiled: the same numbers, and compiled the same bits whatever else is in the pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from molmoact_ros.engine.decoding.cpu_kernel import CpuKernelRunner, can_run
from molmoact_ros.engine.decoding.decoder import CachedDecoder, ModelRunner, SequenceSlice, TorchModelRunner
from molmoact_ros.engine.decoding.speculative import Tree
from molmoact_ros.engine.model.config import LlmConfig
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.training.nano_model import nano_config
from molmoact_ros.training.tokenizer import build_tokenizer

CAPACITY, VOCABULARY = 96, 50
STATS = NormStats(q01=(-1.0,) * 7, q99=(1.0,) * 7, mask=(True,) * 7)


def model(seed: int = 0, **changed: object) -> MolmoAct:
    """A small random model whose widths fill neither lanes nor panels evenly."""
    config = nano_config(build_tokenizer(), STATS)
    llm = {
        "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY,
        "num_hidden_layers": 3, "intermediate_size": 80, "max_position_embeddings": CAPACITY,
    }  # fmt: skip
    torch.manual_seed(seed)
    made = MolmoAct(
        config.model_copy(update={"llm_config": LlmConfig(**(config.llm_config.model_dump() | llm | changed))})
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


MODEL = model()
NATIVE, TORCH = CpuKernelRunner(MODEL, CAPACITY), TorchModelRunner(MODEL, CAPACITY)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Trees of up to a dozen tokens, in any shape that a guess may have."""
    tree = Tree()
    for _ in range(draw(st.integers(0, 12))):
        tree.add_node(draw(st.integers(-1, len(tree.tokens) - 1)), draw(st.integers(0, VOCABULARY - 1)))
    return tree


ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40)


def states(passes: ModelRunner, prompt: Sequence[int], said: Sequence[int], tree: Tree) -> np.ndarray:
    """Hidden states of what was said behind a prompt, and of the tree behind that."""
    decoder = CachedDecoder(passes)
    decoder.append(MODEL.embed(torch.tensor(prompt), None))
    decoder.feed(said, tree)
    return torch.as_tensor(decoder._after).numpy()


@torch.inference_mode()
@given(ids, ids, trees())
def test_compiled_passes_give_what_torch_gives(prompt: list[int], said: list[int], tree: Tree) -> None:
    ours, wanted = states(NATIVE, prompt, said, tree), states(TORCH, prompt, said, tree)
    np.testing.assert_allclose(ours, wanted, atol=2e-4)


@torch.inference_mode()
@given(ids, ids, trees(), st.data())
def test_what_is_guessed_changes_no_bit_of_what_is_said(
    prompt: list[int], said: list[int], tree: Tree, data: st.DataObject
) -> None:
    node = data.draw(st.integers(-1, len(tree.tokens) - 1))
    branch: list[int] = []
    at = node
    while at >= 0:
        branch.insert(0, tree.tokens[at])
        at = tree.parents[at]
    plain = CachedDecoder(NATIVE)
    for token in [*prompt, *said, *branch]:
        plain.feed([token], Tree())
    assert plain._after is not None
    np.testing.assert_array_equal(states(NATIVE, prompt, said, tree)[len(said) + node], plain._after[0])


def kept_and_said(passes: ModelRunner) -> tuple[CachedDecoder, CachedDecoder]:
    """Two sequences of the same five tokens: a kept branch of a tree stands in the one, all was said in the other."""
    tree = Tree()
    first, side = tree.add_node(-1, 3), tree.add_node(-1, 4)
    tree.add_node(first, 5)
    last = tree.add_node(side, 6)
    kept, plain = CachedDecoder(passes), CachedDecoder(passes)
    kept.feed([1, 2], tree)
    kept.keep([side, last])
    for token in (1, 2, 4, 6):
        plain.feed([token], Tree())
    for decoder in (kept, plain):
        decoder.feed([7], Tree())
    return kept, plain


@torch.inference_mode()
@pytest.mark.parametrize("passes", [NATIVE, TORCH], ids=["native", "torch"])
def test_a_kept_branch_is_as_if_it_had_been_said(passes: ModelRunner) -> None:
    kept, plain = kept_and_said(passes)
    np.testing.assert_allclose(torch.as_tensor(kept._after), torch.as_tensor(plain._after), atol=1e-5)
    assert kept.length == plain.length == 5


@torch.inference_mode()
@pytest.mark.parametrize("passes", [NATIVE, TORCH], ids=["native", "torch"])
def test_sequences_share_a_pass(passes: ModelRunner) -> None:
    rng = np.random.default_rng(0)
    said = [rng.integers(0, VOCABULARY, n).tolist() for n in (1, 7, 3)]
    alone = [states(passes, [5] * n, tokens, Tree()) for n, tokens in enumerate(said, start=1)]
    parts = []
    for n, tokens in enumerate(said, start=1):
        cache = passes.cache()
        passes.run([SequenceSlice(cache, 0, passes.embed([5] * n), range(-1, n - 1))])
        parts.append(SequenceSlice(cache, n, passes.embed(tokens), range(-1, len(tokens) - 1)))
    full = SequenceSlice(passes.cache(), 0, passes.embed([5] * CAPACITY), range(-1, CAPACITY - 1))
    *others, last = passes.run([*parts, full])  # more than there is room for at once
    assert len(last) == CAPACITY and len(others) == len(parts)
    for together, by_itself in zip(passes.run(parts), alone, strict=True):
        if passes is NATIVE:
            np.testing.assert_array_equal(together, by_itself)
        np.testing.assert_allclose(torch.as_tensor(together).numpy(), by_itself, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("passes", [CpuKernelRunner, TorchModelRunner])
def test_what_is_too_long_or_not_finite_is_refused(passes: type[CpuKernelRunner] | type[TorchModelRunner]) -> None:
    decoder = CachedDecoder(passes(MODEL, CAPACITY))
    decoder.feed([1] * CAPACITY, Tree())
    with pytest.raises(RefusedStep, match=f"needs {CAPACITY + 1} tokens"):
        decoder.feed([1], Tree())
    broken = model()
    with torch.no_grad():
        broken.layers[1].mlp.ff_out.weight[0, 0] = torch.nan
    decoder = CachedDecoder(passes(broken, CAPACITY))
    decoder.feed([1], Tree())
    with pytest.raises(RefusedStep, match="NaN or infinity"):
        decoder.choose(-1, np.arange(4))


def test_only_what_was_compiled_for_is_run_compiled() -> None:
    assert can_run(MODEL)
    assert not can_run(model(norm_after=True)) and not can_run(model(use_qk_norm=True, qk_norm_type="olmo"))
    assert not can_run(model(hidden_size=54)) and not can_run(model().to(torch.bfloat16))
    assert not can_run(model(intermediate_size=160_000, num_hidden_layers=4))
