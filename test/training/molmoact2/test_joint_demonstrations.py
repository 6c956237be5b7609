"""Demonstrations in joints: the joints of the expert's path, and what is stored of it."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from molmoact_ros.engine.model.image_processor import stretch
from molmoact_ros.training.demonstrations import TRAIN_SEED, VIEW, save_rows
from molmoact_ros.training.expert import CHUNK_STEPS, Expert, ExpertPlan
from molmoact_ros.training.molmoact2.joint_demonstrations import JointDemonstrations, JointSampler
from molmoact_ros.utils.paths import robot_model


@pytest.fixture(scope="module")
def sampler() -> JointSampler:
    return JointSampler(robot_model())


def hand_at(sampler: JointSampler, q: np.ndarray) -> np.ndarray:
    data = mujoco.MjData(sampler.cell.model)
    data.qpos[:7] = q
    mujoco.mj_kinematics(sampler.cell.model, data)
    return np.array(data.site_xpos[sampler.poser.site])


def test_a_chunk_of_joints_follows_the_experts_path(sampler: JointSampler) -> None:
    scene, state, q, _ = sampler.moment(TRAIN_SEED + 3)
    plan = Expert(scene).plan(state)
    chunk = sampler.joint_chunk(plan, q)
    for step, row in enumerate(chunk):
        wanted = plan.positions[min(step + 1, len(plan.positions) - 1)]
        assert np.linalg.norm(hand_at(sampler, row[:7]) - wanted) < 2e-3
    np.testing.assert_array_equal(chunk[:, 7], plan.chunk()[:, 6])


def test_a_position_out_of_reach_keeps_the_joints_before_it(sampler: JointSampler) -> None:
    q = np.arange(7) / 10
    far = ExpertPlan(np.array([[0.4, 0.0, 0.2], [2.0, 0.0, 0.2], [2.0, 0.0, 0.2]]), np.array([1.0, 0.0]), np.zeros(3))
    chunk = sampler.joint_chunk(far, q)
    np.testing.assert_array_equal(chunk[:, :7], np.tile(q, (CHUNK_STEPS, 1)))
    assert chunk[:, 7].tolist() == [1.0] + [0.0] * (CHUNK_STEPS - 1)


def test_samples_are_stored_and_read_again(sampler: JointSampler, tmp_path: Path) -> None:
    samples = [sampler.sample(TRAIN_SEED + number) for number in range(3)]
    for name, part in (("a", samples[:2]), ("b", samples[2:])):
        save_rows(part, tmp_path / f"{name}.npz", sampler.kind)
    data = JointDemonstrations.load([tmp_path / "a.npz", tmp_path / "b.npz"])
    assert data.images.shape == (3, 2, *VIEW, 3) and data.chunks.shape == (3, 4, CHUNK_STEPS, 8)
    for row, (arrays, texts) in enumerate(samples):
        assert [data.texts[k] for k in data.instructions[row]] == texts
        np.testing.assert_array_equal(data.chunks[row], arrays["chunks"])
    state = data.state[0]
    assert np.linalg.norm(hand_at(sampler, state[:7]) - data.hand[0]) < 2e-3 and 0 <= state[7] <= 1
    again, _ = sampler.sample(TRAIN_SEED)
    seen = stretch(sampler.cell.render("front")[0], VIEW).round()
    np.testing.assert_array_equal(again["images"][0], seen)
