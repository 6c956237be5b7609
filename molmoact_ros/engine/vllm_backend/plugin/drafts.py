"""Drafts for vLLM's speculative decoding (`method="custom_class"`): forced tokens and the last answers.

They are those of the torch back end (engine/decoding/speculative.py), as a chain. vLLM verifies them, so no token
changes.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from molmoact_ros.engine.base import REMEMBERED
from molmoact_ros.engine.decoding.speculative import AnswerCache, DraftConfig, Tracker, grow
from molmoact_ros.engine.model.checkpoint import CheckpointFolder, text_codec
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.answer_templates import forms
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.prompts import prompt_template
from molmoact_ros.reasoning.tokens import END_OF_TEXT

TAIL = 8  # number of a prompt's last tokens by which its end is found


class AnswerDrafts:
    """Drafts the continuation of each running answer."""

    def __init__(self, vllm_config: Any) -> None:
        folder = Path(vllm_config.model_config.model)
        self._config = DraftConfig(
            nodes=vllm_config.speculative_config.num_speculative_tokens, around=False, patient=True, measured=False
        )
        files = CheckpointFolder(folder)
        config, run, codec = files.config, files.run, text_codec(files.tokenizer)
        (end,) = codec.encode(END_OF_TEXT)
        # If a checkpoint has several statistics, only their dimensions matter to the grammar.
        stats = next(iter(config.norm_stats.values())).action
        self._grammars = {
            steered: AnswerGrammar(codec, end, stats, forms(steered, run.chunk_steps, run.wordings))
            for steered in (False, True)
        }
        self._lasts: dict[bool, deque[AnswerCache]] = {steered: deque(maxlen=REMEMBERED) for steered in (False, True)}
        self._tails = {
            tuple(codec.encode(prompt_template(cameras, steered).rpartition("{T}")[2])[-TAIL:]): steered
            for cameras in (1, 2)
            for steered in (False, True)
        }

    def load_model(self, *_: object, **__: object) -> None:
        """Nothing to load: there is no draft model."""

    def propose(
        self, sampled_token_ids: list[list[int]], num_tokens_no_spec: np.ndarray, token_ids_cpu: np.ndarray,
        slot_mappings: object = None,
    ) -> list[list[int]]:  # fmt: skip
        """A draft for each sequence. num_tokens_no_spec: int [B]; token_ids_cpu: int [B, length].

        A sequence still in prefill has sampled no token and gets no draft.
        """
        return [
            self._draft(token_ids_cpu[row, : num_tokens_no_spec[row]]) if sampled else []
            for row, sampled in enumerate(sampled_token_ids)
        ]

    def _draft(self, tokens: np.ndarray) -> list[int]:
        start, steered = self._answer_of(tokens)
        grammar = self._grammars[steered]
        tracker, state = Tracker(grammar, list(self._lasts[steered])), grammar.start
        try:
            for token in tokens[start:].tolist():
                tracker.note(state, token)
                state = grammar.advance(state, token)
        except RefusedStep:  # not an answer of this format: someone chats with the model
            return []
        rest = grammar.forced_run(state)
        if rest and rest[-1] == grammar.eos_id:
            # The answer is complete up to forced tokens. vLLM does not report an answer's end, so store it now.
            self._lasts[steered].appendleft(tracker.said)
            return rest
        return grow(tracker, state, self._config, self._config.nodes).tokens[: self._config.nodes]

    def _answer_of(self, tokens: np.ndarray) -> tuple[int, bool]:
        """The index at which the answer begins in a sequence int [T], and whether it follows a drawn trace."""
        found = (-1, False)
        for tail, steered in self._tails.items():
            windows = (
                np.lib.stride_tricks.sliding_window_view(tokens, len(tail)) if len(tokens) >= len(tail) else tokens[:0]
            )
            (places,) = np.nonzero((windows == tail).all(axis=-1)) if len(windows) else (windows,)
            if len(places):
                found = max(found, (int(places[-1]) + len(tail), steered))
        return (len(tokens), False) if found[0] < 0 else found
