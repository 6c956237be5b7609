"""Parses an answer's text. The parser is strict: it rejects text that does not match a known form exactly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molmoact_ros.reasoning.action_tokens import NormStats, bin_from_symbol, values_from_bins
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep
from molmoact_ros.reasoning.answer_templates import NEXT_GROUP, NEXT_VALUE, Phrasing
from molmoact_ros.reasoning.depth_tokens import DEPTH_TOKENS, GRID
from molmoact_ros.reasoning.trace import MAX_COORDINATE, MAX_POINTS

_CODE_OF_TOKEN = {token: code for code, token in enumerate(DEPTH_TOKENS)}


def _one_of(texts: Sequence[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, sorted(texts, key=len, reverse=True)))})"


_CODE = _one_of(DEPTH_TOKENS)
_SYMBOL = "[^\x00-\x7f]+"  # looked up afterwards, so that the error names an unknown symbol
_NUMBER = _one_of([str(n) for n in range(MAX_COORDINATE + 1)])
_CODES = f"((?:{_CODE}){{{GRID[0] * GRID[1]}}})"
_POINT = f"{_NUMBER}{re.escape(NEXT_VALUE)}{_NUMBER}"
# A trace that may still continue is not complete, hence the lookahead for the closing brackets of the text after it.
_TRACE = rf"({_POINT}(?:{re.escape(NEXT_GROUP)}{_POINT}){{0,{MAX_POINTS - 1}}})(?=\]\])"


@dataclass(frozen=True)
class _Form:
    """The regular expressions of one answer form, in order."""

    depth: re.Pattern[str] | None
    trace: re.Pattern[str] | None
    second_trace: re.Pattern[str] | None
    actions: re.Pattern[str]

    @classmethod
    def of(cls, form: Phrasing, dimensions: int) -> _Form:
        row = f"{_SYMBOL}(?:{re.escape(NEXT_VALUE)}{_SYMBOL}){{{dimensions - 1}}}"
        rows = f"{row}(?:{re.escape(NEXT_GROUP)}{row}){{{form.steps - 1}}}"
        pieces = ((form.to_depth, _CODES), (form.to_trace, _TRACE), (form.to_second_trace, _TRACE))
        depth, trace, second = (before and re.compile(re.escape(before) + pattern) for before, pattern in pieces)
        actions = re.compile(f"{re.escape(form.to_actions)}({rows}){re.escape(form.end)}")
        return cls(depth or None, trace or None, second or None, actions)


class AnswerReader:
    """Parses answers in the given forms; `stats` gives the action dimensions and un-normalises the actions."""

    def __init__(self, forms: Sequence[Phrasing], stats: NormStats) -> None:
        self._stats = stats
        self._forms = [_Form.of(form, stats.dimensions) for form in forms]

    def read(self, text: str) -> Reasoning:
        """Parse a whole answer (without its end token). Raises RefusedStep for anything else."""
        for form in self._forms:
            reasoning, end = self._read(form, text)
            if reasoning.actions is not None and end == len(text):
                return Reasoning(**(vars(reasoning) | {"complete": True}))
        raise RefusedStep("the answer is not in a form that the model was trained to give; the step is dropped")

    def read_beginning(self, text: str) -> Reasoning:
        """Parse the complete parts of an answer's prefix. Raises RefusedStep for an unknown action symbol."""
        return max((self._read(form, text) for form in self._forms), key=lambda found: found[1])[0]

    def _read(self, form: _Form, text: str) -> tuple[Reasoning, int]:
        """The parts, in order, up to the first missing one, and the offset where that one would begin."""
        groups: list[str | None] = []
        end, missing = 0, False
        for pattern in (form.depth, form.trace, form.second_trace, form.actions):
            match = None if missing or pattern is None else pattern.match(text, end)
            missing = missing or (pattern is not None and match is None)
            end = end if match is None else match.end()
            groups.append(None if match is None else match[1])
        depth, trace, second, actions = groups
        return Reasoning(
            depth_codes=None if depth is None else _codes(depth),
            trace=None if trace is None else _points(trace),
            second_trace=None if second is None else _points(second),
            actions=None if actions is None else self._actions(actions),
            complete=False,
        ), end

    def _actions(self, text: str) -> np.ndarray:
        bins = [[bin_from_symbol(symbol) for symbol in row.split(NEXT_VALUE)] for row in text.split(NEXT_GROUP)]
        return self._stats.unnormalise(values_from_bins(np.array(bins)))


def _codes(text: str) -> np.ndarray:
    codes = [_CODE_OF_TOKEN[token] for token in re.findall(_CODE, text)]
    return np.array(codes, dtype=np.uint8).reshape(GRID)


def _points(text: str) -> np.ndarray:
    return np.array([[int(n) for n in point.split(NEXT_VALUE)] for point in text.split(NEXT_GROUP)], dtype=np.int64)
