"""What LIBERO's scenes can be asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.engine.model.checkpoint import text_codec
from molmoact_ros.reasoning.tokens import refuse_unknown_words
from molmoact_ros.sim.libero_suite import LiberoTask, libero_environment, read_suite
from molmoact_ros.training.libero_errands import WORDS, ErrandBook, LiberoErrand, read_scene
from molmoact_ros.training.tokenizer import build_tokenizer

installed = pytest.mark.skipif(not libero_environment().exists(), reason="`make libero` sets up LIBERO")


def task(folder: Path, number: int, words: str, objects: str, init: str, goal: str) -> LiberoTask:
    file = folder / f"{number}.bddl"
    file.write_text(
        f"(define (problem P)\n (:language x)\n (:regions )\n (:objects\n {objects}\n )\n"
        f" (:init\n {init}\n )\n (:goal\n (And ({goal}))\n )\n)"
    )
    return LiberoTask("libero_spatial", number, str(number), words, file, 220, np.zeros((1, 1)))


@pytest.fixture
def bowls(tmp_path: Path) -> ErrandBook:
    objects = "bowl_1 bowl_2 - bowl\n plate_1 - plate\n box_1 - box"
    there, here = "(On bowl_1 stove)\n (On bowl_2 box_1) (On plate_1 table)", "(On bowl_1 box_1) (On bowl_2 shelf)"
    words = "pick up the bowl on the {} and place it on the plate"
    return ErrandBook(
        [
            task(tmp_path, 0, words.format("stove"), objects, there, "On bowl_1 plate_1"),
            task(tmp_path, 1, words.format("box"), objects, here, "On bowl_1 plate_1"),
        ]
    )


def test_of_equal_things_the_place_says_which_is_meant(bowls: ErrandBook) -> None:
    own, other = bowls.errands(bowls.tasks[0])
    assert own == LiberoErrand("bowl on the stove", "plate", ("on", "bowl_1", "plate_1"))
    assert other == LiberoErrand("bowl on the box", "plate", ("on", "bowl_2", "plate_1"))
    assert bowls.errands(bowls.tasks[1]) == [LiberoErrand("bowl on the box", "plate", ("on", "bowl_1", "plate_1"))]
    assert bowls.names == ("bowl on the box", "bowl on the stove", "plate")
    assert own.instruction == bowls.tasks[0].instruction


def test_other_wordings_are_known_to_the_vocabulary(bowls: ErrandBook) -> None:
    encode, rng = text_codec(build_tokenizer(WORDS, bowls.names)).encode, np.random.default_rng(0)
    errands = [*bowls.errands(bowls.tasks[0]), LiberoErrand("bowl on the box", "plate", ("in", "a", "b"))]
    texts = {errand.reworded(rng) for errand in errands for _ in range(200)}
    assert len(texts) > 100
    for text in texts:
        refuse_unknown_words(text, encode, encode("?")[0])


@pytest.mark.parametrize(
    ("words", "goal"), [("open the drawer", "On a b"), ("pick up the a and place it on the b", "Open a")]
)
def test_tasks_of_another_kind_are_refused(tmp_path: Path, words: str, goal: str) -> None:
    with pytest.raises(ValueError, match=r"none of the errands|not one thing in or on another"):
        ErrandBook([task(tmp_path, 0, words, "a - a\n b - b", "(On a t)", goal)])


@installed
def test_every_scene_of_both_suites_can_be_asked_for() -> None:
    book = ErrandBook([*read_suite("libero_object"), *read_suite("libero_spatial")])
    assert len(book.names) == 22
    counts = [len(book.errands(task)) for task in book.tasks]
    assert set(counts[:10]) == {6} and sum(count > 1 for count in counts[10:]) >= 8
    for one in book.tasks:
        assert book.errands(one)[0].instruction == one.instruction
        assert read_scene(one.bddl).goal[1] == book.errands(one)[0].goal[1]
