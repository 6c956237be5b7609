"""Actions that are sampled from noise are sampled again by the seed in the bag; those without a seed are not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.cli.main import main
from molmoact_ros.control.action_conversion import convert_actions
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.replay.answer_difference import SAMPLED
from molmoact_ros.robots.franka import HOME_Q
from molmoact_ros.utils.provenance import machine

TASK, STEPS = "put the cup away", 4


@pytest.fixture(scope="module")
def engine(droid_folder: Path) -> MolmoAct2Engine:
    """Of a policy with another number of Euler steps than the folder's."""
    return MolmoAct2Engine.load(droid_folder, threads=1, flow_steps=STEPS)


def recorded(folder: Path, engine: MolmoAct2Engine, without: int = 0, shift: float = 0.0) -> str:
    """A bag of three plans as the recorder stores it. without: how many have no seed. shift: of an action, rad."""
    rng, state = np.random.default_rng(0), np.append(HOME_Q, 0.2)
    with BagWriter(folder, about=machine(engine.digest)) as bag:
        out = EpisodeWriter(bag, "raw")
        for number in (1, 2, 3):
            at, images = 10.0 + number, [rng.integers(0, 256, (60, 80, 3), np.uint8) for _ in range(2)]
            for camera, image in zip(("front", "wrist"), images, strict=True):
                out.image(f"/{camera}/color/image_raw", image, "rgb8", at)
            *_, said = engine.reason(Observation(tuple(images), TASK, at, state=RobotState(state, at)))
            assert said.actions is not None
            actions = convert_actions(said.actions, engine.convention)
            actions[3, 5] += shift
            out.chunk(actions, 1 / 15, at, number, at, "full", 2)
            seed = {"seeded": True, "seed": engine.seed, "flow_steps": STEPS} if number > without else {}
            out.write(
                "/policy/answer_tokens", "molmoact_ros/msg/AnswerTokens", at, header=at, plan_id=number, mode="full",
                checkpoint=engine.digest, instruction=TASK, frames=[out.time(at)] * 2, unnorm_key=engine.unnorm_key,
                state=state, tokens=np.zeros(0, np.uint32), **seed,
            )  # fmt: skip
    return str(folder)


def replay(bag: str, checkpoint: Path, figures: Path) -> tuple[int, dict[str, Any]]:
    status = main(["replay", bag, "--engine", "--checkpoint", str(checkpoint), "--json", str(figures)])
    return status, json.loads(figures.read_text())


def test_the_same_seeds_give_the_same_actions(
    engine: MolmoAct2Engine, droid_folder: Path, tmp_path: Path
) -> None:  # fmt: skip
    status, said = replay(recorded(tmp_path / "bag", engine), droid_folder, tmp_path / "figures.json")
    assert status == 0 and said["exact"] and said["first"] == "" and said["plans"] == 3
    assert said["sampled"] <= 1e-6, "the same processor and torch"
    assert {"joints_rad", "gripper"} <= set(said) and "translation_m" not in said
    other = recorded(tmp_path / "other", engine, shift=3 * SAMPLED)
    status, said = replay(other, droid_folder, tmp_path / "figures.json")
    assert status == 2 and "value 6 of action 4" in said["first"]
    failed = [finding["name"] for finding in said["findings"] if finding["verdict"] == "FAIL"]
    assert failed == ["actions: sampled again"]


@pytest.mark.parametrize(("without", "status"), [(1, 0), (3, 1)])
def test_answers_without_a_seed_are_not_compared(
    engine: MolmoAct2Engine, droid_folder: Path, tmp_path: Path, without: int, status: int
) -> None:
    found, said = replay(recorded(tmp_path / "bag", engine, without), droid_folder, tmp_path / "figures.json")
    (text,) = [finding["text"] for finding in said["findings"] if "no seed" in finding["text"]]
    assert found == status and f"{without} of 3 answers have no seed" in text and "\n" not in text
    assert said.get("plans", 0) == 3 - without
