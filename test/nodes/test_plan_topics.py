"""What a plan's chunk says of itself is true: the frame of its actions, the key of their statistics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.nodes.planning.inference_thread import ReasonedPlan
from molmoact_ros.nodes.planning.plan_publisher import PlanPublisher
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation

from .conftest import Peer


@pytest.mark.parametrize(("values", "frame"), [(7, "left_fr3_link0"), (14, "")])
def test_h8_a_chunk_names_the_frame_of_its_actions(peer: Peer, values: int, frame: str) -> None:
    """A single arm's base, as it is configured; of two arms each has its own, and the frame is empty."""
    engine: Any = SimpleNamespace(unnorm_key="a_key")
    timings: Any = SimpleNamespace(mode=ReasoningMode.FULL)
    topics = PlanPublisher(peer.node, engine, "front", "left_fr3_link0", 0.1)
    seen = Observation((np.zeros((4, 4, 3), np.uint8),), "wave", 12.5)
    said = Reasoning(None, None, np.full((8, values), 0.25), True)
    chunk = topics.chunk(ReasonedPlan(3, seen, said, 0.1, timings))
    assert chunk is not None and chunk.header.frame_id == frame and chunk.header.stamp.sec == 12
    assert (chunk.plan_id, chunk.unnorm_key, chunk.dt, chunk.mode) == (3, "a_key", 0.1, "full")
    assert (chunk.steps, chunk.dimensions, len(chunk.actions)) == (8, values, 8 * values)
    assert topics.chunk(ReasonedPlan(3, seen, Reasoning(None, None, None, False), 0.1, timings)) is None
