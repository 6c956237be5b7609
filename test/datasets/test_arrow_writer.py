"""What the released fine-tuning code reads of a labelled episode: its questions and answers, to the byte."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from molmoact_ros.control.action_conversion import convert_actions
from molmoact_ros.datasets.arrow_writer import write_arrow
from molmoact_ros.datasets.episode import DamagedEpisode, Demonstration
from molmoact_ros.datasets.labelled_episode import LabelledEpisode
from molmoact_ros.engine.model.config import DatasetStats, RunConfig
from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, NormStats
from molmoact_ros.reasoning.answer_parser import AnswerReader
from molmoact_ros.reasoning.answer_templates import Wording, answer_text, forms
from molmoact_ros.reasoning.prompts import prompt

FRAMES, TASK = 10, "put the cup in the sink"
STEPS = NormStats(q01=(-0.02,) * 6 + (0.0,), q99=(0.02,) * 6 + (1.0,), mask=(True,) * 7)
LOW, ZERO, HIGH = "\u00e2\u00bd\u0139", ACTION_SYMBOLS[127], "\u00f0\u0141\u0130\u0133"
"""Symbols of -1, 0 and +1 (Tables 5 and 6 of the paper)."""


def image(frame: int, which: int) -> np.ndarray:
    return np.full((12, 16, 3), (10 * frame, 40, 60 + 120 * which), np.uint8)


def images(which: int) -> Iterator[np.ndarray]:
    return (image(frame, which) for frame in range(FRAMES))


def episode(hands: int = 1, name: str = "one") -> LabelledEpisode:
    """Open for five frames, then closed; x moves by the 1 % quantile, z by more than the 99 %, the rest stands."""
    arm = np.zeros((FRAMES, 7), np.float32)
    arm[:, 0], arm[:, 2], arm[:5, 6] = -0.02, 0.03, 1.0
    columns = [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 6] if hands == 2 else list(range(7))
    cameras = ("front", "wrist", "right_wrist")[: hands + 1]
    shown: dict[str, Callable[[], Iterator[np.ndarray]]] = {
        camera: partial(images, k) for k, camera in enumerate(cameras)
    }
    of = Demonstration(
        [f"{TASK[0].upper()}{TASK[1:]}."] * FRAMES, 10.0, shown, arm[:, columns], arm[:, columns], None,
        arms=("left_", "right_") if hands == 2 else ("",), name=name, outcome="success",
    )  # fmt: skip
    codes = [np.full((10, 10), k, np.uint8) for k in range(FRAMES)]
    traces = [np.array([[10 * k, 20], [200, 255]]) for k in range(FRAMES)]
    return LabelledEpisode(of, codes, traces)


class ReleasedLoader:
    """What olmo/data/custom_lerobot_dataset.py does with a row, in our words: columns, sentences, images."""

    def __init__(self, folder: Path) -> None:
        self.rows = datasets.load_from_disk(str(folder))

    def get(self, row: int, reasoning: bool) -> tuple[str, str, list[Any] | None, list[np.ndarray]]:
        example = self.rows[row]
        task, depth, trace = example["language_instruction"], example["depth"], example["trace"]
        chunk = json.loads(example["processed_action"])["chunked_action"]
        shown = [np.asarray(example[name].convert("RGB")) for name in ("image", "wrist_image")]
        if reasoning:
            question = (
                f"The task is {task}. What is the action that the robot should take. To figure out the action that "
                f"the robot should take to {task}, let's think through it step by step. First, what is the depth map "
                "for the first image? Second, what is the trajectory of the end effector in the first image? Based on "
                "the depth map of the first image and the trajectory of the end effector in the first image, along "
                "with other images from different camera views as additional information, what is the action that the "
                "robot should take?"
            )
            answer = (
                f"The depth map of the image is {depth}. The trajectory of the left end effector is {trace}. The "
                f"trajectory of the right end effector is {trace}. Based on this information, the action that the "
                f"robot should take is {chunk}."
            )
            return question, answer, None, shown
        question = (
            f"The task is {task}. Notice that the trajectory of the end effector is annotated on the first image. "
            "Based on the trajectory annotated on the image, along with other images from different camera views as "
            "additional information, what is the action that the robot should take?"
        )
        answer = (
            "Based on the image and the annotated trajectory of the end effector, the action that the robot should "
            f"take is {chunk}."
        )
        return question, answer, ast.literal_eval(trace), shown


def chunk_text(frame: int) -> str:
    rows = [f"[{LOW}, {ZERO}, {HIGH}, {ZERO}, {ZERO}, {ZERO}, {HIGH if k < 5 else ZERO}]"
            for k in (min(frame + step, FRAMES - 1) for step in range(8))]  # fmt: skip
    return f"[{', '.join(rows)}]"


def test_the_released_loader_reads_our_questions_and_answers_to_the_byte(tmp_path: Path) -> None:
    report = write_arrow(tmp_path / "mine", "mine", STEPS, [episode()])
    assert (report.episodes, report.frames) == (1, FRAMES) and not report.dropped and not report.left_out
    loader = ReleasedLoader(tmp_path / "mine")
    for k in (0, 3, 9):
        question, answer, drawn, seen = loader.get(k, reasoning=True)
        depth = f"<DEPTH_START>{f'<DEPTH_{k}>' * 100}<DEPTH_END>"
        trace = f"[[{10 * k}, 20], [200, 255]]"
        assert answer == (
            f"The depth map of the image is {depth}. The trajectory of the left end effector is {trace}. The "
            f"trajectory of the right end effector is {trace}. Based on this information, the action that the robot "
            f"should take is {chunk_text(k)}."
        )
        assert f"User: {question} Assistant:" == prompt(TASK, cameras=2) and drawn is None
        normalised = STEPS.normalise(episode().demonstration.actions)[np.minimum(k + np.arange(8), FRAMES - 1)]
        codes, points = episode().depth[k], episode().traces[k]
        assert f" {answer}" == answer_text(codes, points, normalised, Wording.TWO_ARMS)
        for which, shown in enumerate(seen):
            np.testing.assert_array_equal(shown, image(k, which))
        question, answer, drawn, _ = loader.get(k, reasoning=False)
        assert f"User: {question} Assistant:" == prompt(TASK, cameras=2, steered=True)
        assert drawn == [[10 * k, 20], [200, 255]] and f" {answer}" == answer_text(None, None, normalised)
    assert set(loader.rows["episode_index"]) == {0} and set(loader.rows["outcome"]) == {"success"}


def test_open_is_open_from_the_demonstration_to_the_arm(tmp_path: Path) -> None:
    """The answer that is trained on, read as the policy reads it, by the statistics and the meaning in the folder."""
    write_arrow(tmp_path / "mine", "mine", STEPS, [episode()])
    about = json.loads((tmp_path / "mine" / "dataset_statistics.json").read_text())["mine"]
    assert (about["num_transitions"], about["num_trajectories"]) == (FRAMES, 1)
    assert about["action"]["mask"] == [True] * 6 + [False] and len(about["proprio"]["q99"]) == 7
    run = RunConfig.model_validate_json((tmp_path / "mine" / "run.json").read_text())
    statistics, convention = DatasetStats.model_validate(about).action, run.convention("mine")
    assert convention.stated and convention.dt == 0.1 and convention.cameras == ("front", "wrist")
    loader, read = ReleasedLoader(tmp_path / "mine"), AnswerReader(forms(True, [8], []), statistics).read
    wanted = np.clip(episode().demonstration.actions, statistics.q01, statistics.q99)
    for k in range(FRAMES):
        actions = read(f" {loader.get(k, reasoning=False)[1]}").actions
        assert actions is not None
        played = convert_actions(actions, convention)
        np.testing.assert_allclose(played[0], wanted[k], atol=0.005)
        flipped = convention.model_copy(update={"gripper": replace(convention.gripper, open=0.0, closed=1.0)})
        assert abs(convert_actions(actions, flipped)[0, 6] - wanted[k, 6]) > 0.9, "a flipped sign is seen"


def test_two_arms_are_normalised_by_name(tmp_path: Path) -> None:
    both = NormStats(q01=(-0.02,) * 12 + (0.0,) * 2, q99=(0.02,) * 12 + (1.0,) * 2, mask=(True,) * 14)
    write_arrow(tmp_path / "mine", "mine", both, [episode(2)])
    loader = ReleasedLoader(tmp_path / "mine")
    action = json.loads(loader.rows[0]["processed_action"])
    assert action["normalized_action"] == pytest.approx([-1, 0, 1, -1, 0, 1, *[0] * 6, 1, 1], abs=1e-6)
    assert action["tokenized_action"] == f"[{', '.join([LOW, ZERO, HIGH] * 2 + [ZERO] * 6 + [HIGH] * 2)}]"
    assert {"image", "wrist_image", "wrist_image_2"} < set(loader.rows.column_names)


def test_what_has_no_label_is_dropped_and_counted_and_a_broken_episode_named(tmp_path: Path) -> None:
    def broken() -> Any:
        yield image(0, 0)
        raise DamagedEpisode("an image cannot be decoded")

    whole, partly, bad = episode(), episode(name="partly"), episode(name="the bad one")
    partly.depth[2], partly.traces[3] = None, None  # type: ignore[index]
    bad.demonstration.pictures["front"] = broken
    odd = episode(name="odd")
    odd.demonstration.tasks[0] = "put <it> there"
    report = write_arrow(tmp_path / "mine", "mine", STEPS, [whole, bad, partly, odd])
    assert report.left_out == {"the bad one": "an image cannot be decoded"} and report.frames == 3 * FRAMES - 3
    assert set(report.dropped.values()) == {1} and {"it has no depth tokens", "it has no trace"} < set(report.dropped)
    rows = ReleasedLoader(tmp_path / "mine").rows
    assert rows["episode_index"][FRAMES] == 1 and len(rows) == report.frames
    assert [row for row, of in zip(rows["frame_index"], rows["episode_index"], strict=True) if of == 1] == [
        0, 1, 4, 5, 6, 7, 8, 9
    ]  # fmt: skip
    # The chunk of a frame before a dropped one still holds its action.
    assert json.loads(rows[FRAMES + 1]["processed_action"])["chunked_action"] == chunk_text(1)
    with pytest.raises(ValueError, match="nothing to write: an image cannot be decoded"):
        write_arrow(tmp_path / "none", "mine", STEPS, [bad])
    with pytest.raises(ValueError, match="differ in their arms, cameras or rates"):
        write_arrow(tmp_path / "none", "mine", STEPS, [whole, episode(2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
