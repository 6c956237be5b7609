"""The engine of MolmoAct 2: what it refuses, what its modes do, and that equal seeds give equal actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from molmoact_ros.doctor.robot_parity import compare_robot
from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.decoding.constrained import CancelledStep, SegmentCounts
from molmoact_ros.engine.decoding.speculative import NARROW
from molmoact_ros.engine.model.image_processor import read_picture
from molmoact_ros.engine.molmoact2.depth import CELLS, UNKNOWN, DepthDecoder
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.engine.molmoact2.sampler import FlowSampler
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep
from molmoact_ros.reasoning.observation import Observation, RobotState

THINK = Path(__file__).parents[2] / "golden" / "think_like"
TASK = "open the top drawer and put the bowl inside"
STATE = RobotState(np.array([-0.05, 0.1, 0.9, 3.1, -0.2, 0.05, 0.03, -0.03]), 0.0)
DIRECT = ReasoningMode.DIRECT


@pytest.fixture(scope="module")
def engine() -> MolmoAct2Engine:
    return MolmoAct2Engine.load(THINK, threads=1)


@pytest.fixture(scope="module")
def seen() -> Observation:
    images = tuple(read_picture(THINK / "images" / f"{name}_256x256.png") for name in ("agentview", "hand"))
    return Observation(images, TASK, 0.0, state=STATE, seed=7)


def answer(engine: MolmoAct2Engine, seen: Observation, mode: ReasoningMode = DIRECT) -> Reasoning:
    *_, last = engine.reason(seen, mode)
    assert last.complete
    return last


def act(engine: MolmoAct2Engine, seen: Observation, mode: ReasoningMode = DIRECT) -> np.ndarray:
    actions = answer(engine, seen, mode).actions
    assert actions is not None
    return actions


def test_equal_seeds_give_equal_actions_and_others_do_not(engine: MolmoAct2Engine, seen: Observation) -> None:
    first, again = (act(engine, seen) for _ in range(2))
    assert engine.seed == 7 and engine.tokens == []
    np.testing.assert_array_equal(first, again)
    assert np.abs(act(engine, replace(seen, seed=8)) - first).max() > 1e-3
    drawn = act(engine, replace(seen, seed=None))
    seed = engine.seed
    np.testing.assert_array_equal(drawn, act(engine, replace(seen, seed=seed)))
    assert first.shape == engine.action_shape == (8, 7) and first.dtype == np.float64


def test_the_state_is_read(engine: MolmoAct2Engine, seen: Observation) -> None:
    moved = replace(seen, state=RobotState(STATE.values + 0.2, 0.0))
    assert np.abs(act(engine, seen) - act(engine, moved)).max() > 1e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": None}, "needs the robot's state"),
        ({"state": RobotState(np.zeros(7), 0.0)}, "shape [7]; this model needs 8 values"),
        ({"state": RobotState(np.full(8, np.nan), 0.0)}, "state holds NaN or infinity"),
        ({"images": ()}, "needs 2 camera images"),
        ({"images": (np.zeros((4, 4, 3), np.uint8),)}, "needs 2 camera images (front, wrist), not 1"),
        ({"images": (np.zeros((4, 4), np.uint8),) * 2}, "RGB uint8 [H, W, 3]"),
        ({"images": (np.zeros((4, 4, 3)),) * 2}, "RGB uint8 [H, W, 3]"),
        ({"instruction": "put <depth_0>"}, "brackets or bars"),
        ({"instruction": " task: ..."}, "the instruction is empty"),
        ({"instruction": "put " * 200}, "has 800 characters"),
        ({"trace": np.zeros((2, 2), int)}, "no trace"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    engine: MolmoAct2Engine, seen: Observation, change: dict[str, object], said: str
) -> None:
    with pytest.raises(RefusedStep) as refusal:
        answer(engine, replace(seen, **change))  # type: ignore[arg-type]
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_modes_that_need_what_it_lacks_are_refused(engine: MolmoAct2Engine, seen: Observation) -> None:
    for mode in (ReasoningMode.GROUNDED, ReasoningMode.STEERED):
        with pytest.raises(RefusedStep, match="choose one of: direct, full, reuse"):
            answer(engine, seen, mode)


def test_numbers_that_are_not_finite_never_become_actions(engine: MolmoAct2Engine, seen: Observation) -> None:
    weight = engine.model.action_expert.context_v_proj.weight  # the compiled kernel has copies of the others
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.inf
    try:
        with pytest.raises(RefusedStep, match="NaN or infinity; check the weights"):
            answer(engine, seen)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_a_step_that_is_no_longer_wanted_ends(engine: MolmoAct2Engine, seen: Observation) -> None:
    calls = iter(range(100))
    with pytest.raises(CancelledStep):
        list(engine.reason(seen, ReasoningMode.FULL, wanted=lambda: next(calls) < 4))
    assert engine.memory is None and engine.tokens == []


def test_drafts_change_the_speed_and_no_code(engine: MolmoAct2Engine, seen: Observation) -> None:
    engine.forget()
    first = answer(engine, seen, ReasoningMode.FULL)
    slow = engine.timings.counts.passes
    second = answer(engine, seen, ReasoningMode.FULL)
    assert engine.timings.counts.passes < slow / 5
    np.testing.assert_array_equal(first.depth_codes, second.depth_codes)
    assert first.actions is not None and second.actions is not None
    np.testing.assert_allclose(first.actions, second.actions, atol=1e-6)
    assert engine.memory is not None
    engine.memory = replace(engine.memory, codes=np.where(np.arange(CELLS) % 7 == 0, 5, engine.memory.codes))
    third = answer(engine, seen, ReasoningMode.FULL)  # some drafts are wrong
    np.testing.assert_array_equal(first.depth_codes, third.depth_codes)
    assert len(engine.tokens) == CELLS + 2


class _Script:
    """A decoder that says given tokens, whatever it is fed; it notes what it was fed."""

    def __init__(self, said: list[int], stray: int) -> None:
        self.said, self.stray, self.fed = said, stray, list[int]()
        self.base = 0

    def feed(self, ids: list[int], tree: object) -> None:
        self.fed += ids

    def choose(self, node: int, allowed: np.ndarray) -> int:
        return self.said[len(self.fed) + node]

    def keep(self, nodes: range) -> None:
        self.fed += self.said[len(self.fed) - 1 : len(self.fed) - 1 + len(nodes)]


@pytest.mark.parametrize(("stray", "ends"), [(0, True), (3, True), (15, True), (16, False)])
def test_stray_tokens_behind_the_codes_stay_and_are_limited(engine: MolmoAct2Engine, stray: int, ends: bool) -> None:
    start, end, first = engine.config.depth_ids
    codes = [first + k % 128 for k in range(CELLS)]
    script = _Script([*codes, *[3] * stray, end], stray)
    nothing = np.full(CELLS, UNKNOWN)
    decoder = DepthDecoder(engine.config, NARROW)
    if not ends:
        with pytest.raises(RefusedStep, match="does not end"):
            decoder.decode(script, nothing, nothing, SegmentCounts())  # type: ignore[arg-type]
        return
    found, tokens = decoder.decode(script, nothing, nothing, SegmentCounts())  # type: ignore[arg-type]
    assert tokens == [start, *codes, *[3] * stray, end] == script.fed
    assert (found == np.arange(CELLS) % 128).all()


def test_the_expert_is_kept_from_end_tokens_and_discrete_actions(engine: MolmoAct2Engine) -> None:
    c = engine.config
    end, a, z = c.eos_token_id, c.action_start_token_id, c.action_end_token_id
    ids = torch.tensor([[end, 5, a, 6, z, 7, end, a, 8]])
    readable = [0, 1, 0, 0, 0, 1, 0, 0, 0]
    assert engine.model.expert_readable(ids)[0].int().tolist() == readable
    c.action_mode, before = "continuous", c.action_mode
    try:
        assert engine.model.expert_readable(ids).all()
    finally:
        c.action_mode = before


def test_dimensions_that_the_robot_lacks_stay_zero(engine: MolmoAct2Engine, seen: Observation) -> None:
    asked = engine.ask(seen, False)
    with torch.inference_mode():
        ids, read = engine.prefill(asked, engine.see(asked.images))
        context = engine.context(engine.sequence(ids, read.keys, read.values))
        path = FlowSampler(engine.model.action_expert, 7).trajectory(torch.ones(1, 10, 32), context, 4)
    assert len(path) == 5 and all((x[..., 7:] == 0).all() and (x[..., :7] != 0).all() for x in path)


def test_parity_says_what_differs(tmp_path: Path) -> None:
    data = dict(np.load(THINK / "golden.npz"))
    data["state_bins"][2] += 1
    data["velocity"][3, 0, 0] += 1e-3
    for file in THINK.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "golden.npz").unlink()
    np.savez(tmp_path / "golden.npz", **data)
    wrong = [check.name for check in compare_robot(tmp_path, "it") if check.verdict.value != "ok"]
    assert wrong == ["it state_bins", "it velocity 3"]
