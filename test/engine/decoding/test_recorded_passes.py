"""How many passes an answer takes with the released vocabulary, on recorded answers: no weights are needed to count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.engine.decoding.constrained import DecodeCounts, decode
from molmoact_ros.engine.decoding.speculative import NARROW, WIDE, AnswerCache, DraftConfig, Tree, cache_of_depth
from molmoact_ros.reasoning.action_tokens import NormStats, values_from_bins
from molmoact_ros.reasoning.answer import Segment
from molmoact_ros.reasoning.answer_templates import Wording, answer_text, forms
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.tokens import TextCodec

EOS, ALL = 151_643, 453  # tokens of an average answer, each of them a pass in the plain loop
RECORDED = Path(__file__).parents[2] / "recorded" / "closed_loop.npz"


class Recorded:
    """Says what was recorded, and holds the caller to asking only where the answer really goes."""

    def __init__(self, answer: Sequence[int]) -> None:
        self.answer, self.known, self.tree = answer, 0, Tree()

    def feed(self, ids: Sequence[int], tree: Tree) -> None:
        assert list(ids) == list(self.answer[self.known : self.known + len(ids)])
        self.known, self.tree = self.known + len(ids), tree

    def choose(self, node: int, allowed: np.ndarray) -> int:
        ids = []
        while node >= 0:
            ids.append(self.tree.tokens[node])
            node = self.tree.parents[node]
        at = self.known + len(ids)
        assert ids[::-1] == list(self.answer[self.known : at]) and self.answer[at] in allowed
        return self.answer[at]

    def keep(self, nodes: Sequence[int]) -> None:
        self.known += len(nodes)


@pytest.fixture(scope="module")
def grammar(qwen_codec: TextCodec) -> AnswerGrammar:
    stats = NormStats(q01=(-1.0,) * 6 + (0.0,), q99=(1.0,) * 7, mask=(True,) * 7)
    return AnswerGrammar(qwen_codec, EOS, stats, forms(False, (1, 8), tuple(Wording)))


def answers(grammar: AnswerGrammar, episodes: range) -> Iterator[tuple[bool, list[int], AnswerCache]]:
    """Whether an episode begins, the answer's ids, and what the measured depth would have said."""
    data = np.load(RECORDED)
    before = -1
    for row, episode in enumerate(data["episode"].tolist()):
        if episode in episodes:
            trace = data["trace"][row]
            text = answer_text(
                data["depth"][row], trace[trace[:, 0] >= 0].astype(int), values_from_bins(data["bins"][row])
            )
            yield episode != before, [*grammar.codec.encode(text), EOS], cache_of_depth(data["measured"][row])
        before = episode


def count(grammar: AnswerGrammar, width: DraftConfig, episodes: range) -> dict[str, list[int]]:
    """Passes of each answer, in all and by segment; each answer comes out as it was recorded."""
    passes: dict[str, list[int]] = {}
    lasts: list[AnswerCache] = []
    for begins, ids, measured in answers(grammar, episodes):
        lasts = [] if begins else lasts
        counts, guides = DecodeCounts(), [*lasts, measured] if width.measured else lasts
        *_, (_, tokens, said) = decode(Recorded(ids), grammar, guides, counts, width)
        assert tokens == ids
        lasts = [said, *lasts][:3]
        passes.setdefault("all", []).append(counts.passes)
        for segment, spent in counts.segments.items():
            passes.setdefault(segment.value, []).append(spent.passes)
    return passes


def test_a_gpu_takes_at_most_120_passes_for_an_answer(grammar: AnswerGrammar) -> None:
    passes = count(grammar, WIDE, range(8))
    for name, values in passes.items():
        low, middle, high = np.percentile(values, [5, 50, 95])
        print(f"{name}: mean {np.mean(values):.1f}, median {middle:.0f}, 5 % to 95 %: {low:.0f} to {high:.0f} passes")
    assert np.mean(passes["all"]) <= 120 < ALL


def test_fewer_guesses_take_more_passes_for_the_same_answer(grammar: AnswerGrammar) -> None:
    narrow, none = count(grammar, NARROW, range(4, 5)), count(grammar, DraftConfig(0, False, False, False), range(4, 5))
    wide = count(grammar, WIDE, range(4, 5))
    assert np.mean(wide["all"]) < np.mean(narrow["all"]) < np.mean(none["all"]) < ALL
    assert np.mean(none[Segment.DEPTH.value]) == 100
