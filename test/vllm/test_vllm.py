"""What needs vLLM or its grammar engine: `make test-vllm` runs these in an environment of their own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from molmoact_ros.engine.model.checkpoint import CONFIG, read_config, read_tokenizer, text_codec
from molmoact_ros.engine.model.config import MolmoActConfig
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.reasoning.answer_templates import Wording, forms
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.lark_grammar import lark
from molmoact_ros.reasoning.tokens import END_OF_TEXT
from molmoact_ros.utils.paths import default_checkpoint

llguidance = pytest.importorskip("llguidance", reason="make test-vllm")
pytest.importorskip("vllm", reason="make test-vllm")

STATS = NormStats(q01=(-0.02,) * 7, q99=(0.02,) * 7, mask=(True,) * 7)


def matcher(tokenizer: Tokenizer, grammar: AnswerGrammar, beginning: list[int]) -> Any:
    from llguidance.hf import from_tokenizer

    from molmoact_ros.engine.vllm_backend.plugin.config import PlainTokenizer

    plain = PlainTokenizer(tokenizer_object=tokenizer)
    text = llguidance.LLMatcher.grammar_from_lark(lark(grammar, beginning))
    return llguidance.LLMatcher(from_tokenizer(plain, len(plain)), text)


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("family", ["nano", "released"])
def test_lark_allows_what_the_automaton_allows(family: str, steered: bool, qwen: Tokenizer) -> None:
    tokenizer = qwen if family == "released" else read_tokenizer(default_checkpoint())
    steps, wordings = ((1, 8), tuple(Wording)) if family == "released" else ((8,), (Wording.SEVERAL_CAMERAS,))
    (end,) = text_codec(tokenizer).encode(END_OF_TEXT)
    grammar = AnswerGrammar(text_codec(tokenizer), end, STATS, forms(steered, steps, wordings))
    rng = np.random.default_rng(0)
    for beginning in ([], grammar.forced_run(grammar.start)):
        checked, state = matcher(tokenizer, grammar, beginning), grammar.start
        while list(grammar.allowed(state)) != [end]:
            ahead, taken = state, 0
            for _ in range(rng.integers(25)):  # drafts are looked at and taken back
                allowed = grammar.allowed(ahead)
                if list(allowed) == [end]:
                    break
                token = int(rng.choice(allowed))
                assert checked.consume_token(token)
                ahead, taken = grammar.advance(ahead, token), taken + 1
            assert not taken or checked.rollback(taken)
            bits = np.unpackbits(np.frombuffer(checked.compute_bitmask(), np.uint8), bitorder="little")
            assert np.flatnonzero(bits).tolist() == grammar.allowed(state).tolist()
            token = int(rng.choice(grammar.allowed(state)))
            assert checked.consume_token(token), checked.get_error()
            state = grammar.advance(state, token)
        assert checked.is_accepting()


def test_drafts_are_the_last_answer_and_what_is_forced() -> None:
    from molmoact_ros.engine.vllm_backend.plugin.drafts import AnswerDrafts

    folder = default_checkpoint()
    config = SimpleNamespace(
        model_config=SimpleNamespace(model=str(folder)), speculative_config=SimpleNamespace(num_speculative_tokens=24)
    )
    drafts = AnswerDrafts(config)
    codec = text_codec(read_tokenizer(folder))
    grammar = drafts._grammars[False]
    prompt = [0, *codec.encode("User: The task is put the red cube in the bowl. What is the action that the robot "
              "should take. To figure out the action that the robot should take to put the red cube in the bowl, let's "
              "think through it step by step. First, what is the depth map for the first image? Second, what is the "
              "trajectory of the end effector in the first image? Based on the depth map of the first image and the "
              "trajectory of the end effector in the first image, along with other images from different camera views "
              "as additional information, what is the action that the robot should take? Assistant:")]  # fmt: skip
    rng, state, answer = np.random.default_rng(1), grammar.start, []
    while not grammar.ended(state):
        answer.append(int(rng.choice(grammar.allowed(state))))
        state = grammar.advance(state, answer[-1])

    def propose(known: int) -> list[int]:
        tokens = np.array([prompt + answer[:known]])
        return drafts.propose([[1]], np.array([tokens.shape[1]]), tokens)[0]

    depth = len(grammar.forced_run(grammar.start))
    assert propose(0) == answer[:depth]  # forced, and nothing to guess by yet
    assert propose(len(answer) - 2) == answer[-2:]  # the end of an answer: it is remembered
    assert propose(depth) == answer[depth : depth + 24]
    assert drafts.propose([[]], np.array([1]), np.zeros((1, 1), np.int64)) == [[]]


def test_every_tensor_of_both_families_has_its_place() -> None:
    import torch

    from molmoact_ros.engine.model.molmoact import MolmoAct
    from molmoact_ros.engine.vllm_backend.plugin.model import _parts

    golden = Path(__file__).parents[1] / "golden"
    for case in ("d_like", "o_like_two_cameras"):
        config = read_config(golden / case, CONFIG, MolmoActConfig)
        with torch.device("meta"):
            tensors = MolmoAct(config).state_dict()
        names = [(name, shard) for name, shard, _ in _parts(tensors.items(), config.llm_config)]
        assert len(set(names)) == len(names)
        layers = config.llm_config.num_hidden_layers
        biases = config.llm_config.qkv_bias
        # Two tables become one, a fused projection three, a gate two.
        assert len(names) == len(tensors) - 1 + layers * (2 * (1 + biases) + 1)


def test_both_spellings_of_rope_size_the_same_decoder() -> None:
    from molmoact_ros.engine.vllm_backend.plugin.config import ServedConfig

    raw = json.loads((Path(__file__).parents[1] / "golden" / "d_like" / CONFIG).read_text())
    raw.pop("model_type")
    theta = raw["llm_config"]["rope_theta"]
    fives = {name: value for name, value in raw["llm_config"].items() if not name.startswith("rope")}
    fives["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    of_4, of_5 = ServedConfig(**raw), ServedConfig(**raw | {"llm_config": fives})
    assert of_4.text_config.to_dict() == of_5.text_config.to_dict()
    assert of_4.checked.llm_config.rope_theta == of_5.checked.llm_config.rope_theta == theta
