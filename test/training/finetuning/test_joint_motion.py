"""Demonstrations in joints: chunks within an episode, and rows that have none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.training.finetuning.joint_motion import JointRows
from molmoact_ros.training.finetuning.samples import DataError

from .conftest import joint_motion, make_samples


def test_a_chunk_goes_on_to_the_episodes_end_and_stays_there(joints: Path) -> None:
    data = JointRows(joints, chunk=6)
    assert len(data) == 12 and data.name == "kitchen" and not data.notes
    sample = data.sample(5)  # the second frame of the second episode
    wanted = [json.loads(joint_motion(row))["action"] for row in (5, 6, 7, 7, 7, 7)]
    np.testing.assert_array_equal(sample.actions, wanted)
    np.testing.assert_array_equal(sample.state, json.loads(joint_motion(5))["state"])
    assert len(sample.images) == 2 and sample.instruction == "put the blue ball in the bowl"
    states, actions = data.motion
    assert states.shape == actions.shape == (12, 8)
    np.testing.assert_array_equal(states[5], sample.state)


def test_a_chunk_with_a_gap_is_left_out(arrow: Callable[..., Path]) -> None:
    """Frame 2 of the only episode was dropped by the labeller; frame 4 has no joints."""
    moved = [joint_motion(row) for row in (0, 1, 3, 4, 5, 6)]
    moved[3] = ""
    folder = arrow(make_samples(6), joint_motion=moved, frame_index=[0, 1, 3, 4, 5, 6], episode_index=[0] * 6)
    data = JointRows(folder, chunk=2)
    assert [data.sample(row).state[0] for row in range(len(data))] == pytest.approx([0.0, 0.5, 0.6])
    assert data.notes == ["3 of 6 rows left out: 2 with frames missing within the chunk, 1 with no joints"]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (None, "has no column 'joint_motion'; label it first"),
        ([""] * 4, "holds no joints"),
        (["{"] * 4, "malformed joint_motion '{'"),
        ([json.dumps({"state": [0] * 7, "action": [0] * 7})] * 4, r"shape \[2, 7\], expected 8 finite values an arm"),
        ([joint_motion(0), joint_motion(0, 2)] * 2, "of one arm in some rows and of two in others"),
    ],
)
def test_what_does_not_fit_is_one_line(arrow: Callable[..., Path], column: list[str] | None, said: str) -> None:
    with pytest.raises(DataError, match=said) as refusal:
        JointRows(arrow(make_samples(4), joint_motion=column), chunk=2)
    assert "\n" not in str(refusal.value)
