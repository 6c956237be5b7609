"""The engine whose model runs in vLLM, on this machine or on a server. Every answer is validated by the grammar."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from molmoact_ros.engine.base import BaseEngine, ReasoningMode, Wanted
from molmoact_ros.engine.decoding.speculative import AnswerCache, Tracker, given_ids
from molmoact_ros.engine.model.checkpoint import (
    CONFIG,
    TOKENIZER,
    CheckpointFolder,
    find_depth_vq,
    load_depth_vq,
)
from molmoact_ros.engine.model.weight_files import short_hash
from molmoact_ros.engine.remote import AnswerStreamReader
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep, Segment
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.lark_grammar import lark
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.progress import Progress, ignore

STAGE = {Segment.DEPTH: "depth", Segment.TRACE: "trace", Segment.ACTION: "actions"}


@dataclass(frozen=True)
class Request:
    """One request. text: the prompt. frames: input images uint8 [H, W, 3] RGB. grammar: of the answer, in Lark.
    end: id of the token that ends the answer."""

    text: str
    frames: Sequence[np.ndarray]
    grammar: str
    end: int


class Stream(Protocol):
    """Interface of a source of answers: a server or a local vLLM engine."""

    def answer(self, request: Request) -> AsyncIterator[Sequence[int]]:
        """Yield the answer's tokens as they are decoded. Raises RefusedStep. Closing the iterator ends the request."""
        ...

    def close(self) -> None:
        """Release its resources."""
        ...


class VllmEngine(BaseEngine):
    """Requests answers from a stream and rejects those that do not follow the grammar.

    An answer that is incomplete after `timeout` s, or breaks off, is dropped entirely: none of its actions is returned.

        stream = ServerStream("http://gpu:8000", served_name(folder))
        engine = VllmEngine(folder, stream, served_name(folder), timeout=5.0)
    """

    def __init__(self, folder: Path, stream: Stream, digest: str, timeout: float, unnorm_key: str | None = None,
                 frame_size: str = "") -> None:  # fmt: skip
        """Load a checkpoint folder except its weights. timeout: for a whole answer, s.

        Raises CheckpointError, RefusedStep for the normalisation key, ValueError for the frame size.
        """
        files, depth = CheckpointFolder(folder), find_depth_vq(folder)
        super().__init__(
            files.config, files.processor, files.run.with_frame_size(frame_size), files.tokenizer,
            load_depth_vq(depth) if depth else None, unnorm_key,
        )  # fmt: skip
        self.codebook, self.digest = short_hash(depth) if depth else "", digest
        self._stream, self._reader = stream, AnswerStreamReader(timeout)
        self._texts: dict[tuple[bool, tuple[int, ...]], str] = {}

    def warm_up(self, progress: Progress = ignore) -> None:
        """Run one step on blank images; a refusal is ignored, since a server may start later."""
        with suppress(RefusedStep):
            for _ in self.reason(self.blank()):
                pass
        self.forget()

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def reason(
        self, observation: Observation, mode: ReasoningMode = ReasoningMode.FULL, wanted: Wanted = lambda: True
    ) -> Iterator[Reasoning]:
        """Yield the reasoning as its parts complete; see `InferenceEngine.reason`."""
        self.check(observation, mode)
        steered = observation.trace is not None
        _, given = self.given(observation, mode, guess=False)
        began = time.perf_counter()
        grammar = self.grammars[steered]
        text = self._grammar_text(steered, known_beginning(grammar, given))
        request = Request(self.text(observation), self.frames(observation), text, self.end)
        self.timings.stages["preprocess"] = time.perf_counter() - began
        yield from self._follow(request, grammar, steered, wanted)

    def _grammar_text(self, steered: bool, beginning: list[int]) -> str:
        key = (steered, tuple(beginning))
        if key not in self._texts:
            if len(self._texts) > 2:  # the plain ones come first and stay; prefilled ones change with every frame
                self._texts.popitem()
            self._texts[key] = lark(self.grammars[steered], beginning)
        return self._texts[key]

    def _follow(self, request: Request, grammar: AnswerGrammar, steered: bool, wanted: Wanted) -> Iterator[Reasoning]:
        tracker, state, tokens = Tracker(grammar, []), grammar.start, list[int]()
        counts, stages = self.timings.counts, self.timings.stages
        stages |= dict.fromkeys(("prefill", *STAGE.values()), 0.0)
        began = time.perf_counter()
        for ids in self._reader.parts(self._stream.answer(request), wanted):
            segment = grammar.segment(state)
            for token in ids:
                tracker.note(state, token)
                state = grammar.advance(state, token)
                tokens.append(token)
            now = time.perf_counter()
            stages[STAGE.get(segment, "prefill")] += now - began
            counts.segments[segment].passes += 1
            began = now
            if grammar.segment(state) is not segment and not grammar.ended(state):
                yield grammar.parse_partial(tokens)
        counts.tokens = len(tokens)
        said = grammar.parse(tokens)
        self.tokens = tokens
        self.lasts[steered].appendleft(tracker.said)
        yield said


def known_beginning(grammar: AnswerGrammar, given: AnswerCache) -> list[int]:
    """The known start of an answer: the tokens that are forced or prefilled, up to the first choice."""
    state, tokens = grammar.start, list[int]()
    while ids := grammar.forced_run(state) or given_ids(grammar, state, given):
        for token in ids:
            if token == grammar.eos_id:
                return tokens
            state = grammar.advance(state, token)
            tokens.append(token)
    return tokens


def served_name(folder: Path) -> str:
    """The model name under which a server offers a checkpoint.

    It contains a hash of config, processor and tokenizer, so that client and server agree on text and statistics.
    """
    total = hashlib.sha256()
    for path in (folder / CONFIG, CheckpointFolder(folder).processor_file, folder / TOKENIZER):
        total.update(path.read_bytes())
    return f"molmoact-{total.hexdigest()[:12]}"
