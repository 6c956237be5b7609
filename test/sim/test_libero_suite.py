"""LIBERO's suites: limits, and the words in which tasks are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from molmoact_ros.sim.libero_suite import LIMITS, instruction_of, libero_environment, plain_suite, read_suite

installed = pytest.mark.skipif(not libero_environment().exists(), reason="`make libero` sets up LIBERO")
NAMED = "pick up the milk and place it in the basket"


def bddl(folder: Path, language: str) -> Path:
    folder.mkdir(parents=True)
    file = folder / "pick_up_the_milk_and_place_it_in_the_basket.bddl"
    file.write_text(f"(define (problem LIBERO)\n  (:domain robosuite)\n  (:language {language})\n    (:regions ))")
    return file


def test_a_variant_has_the_limit_of_its_suite_and_an_unknown_suite_is_refused() -> None:
    assert plain_suite("libero_object") == plain_suite("libero_object_swap") == "libero_object"
    assert LIMITS[plain_suite("libero_10_lan")] == 520
    with pytest.raises(ValueError, match="libero_spatial, libero_object"):
        plain_suite("libero_objects")


def test_a_task_is_asked_for_in_the_words_of_its_files_name(tmp_path: Path) -> None:
    """What the plain suite's file says differs from its name, and a variant repeats it where the task is the same."""
    plain = bddl(tmp_path / "libero_object", "Pick the milk and place it in the basket")
    swapped = bddl(tmp_path / "libero_object_swap", "Pick the milk and place it in the basket")
    assert instruction_of(plain, plain, NAMED) == instruction_of(swapped, plain, NAMED) == NAMED


def test_a_variant_with_other_words_is_asked_for_in_those(tmp_path: Path) -> None:
    plain = bddl(tmp_path / "libero_object", "Pick the milk and place it in the basket")
    worded = bddl(tmp_path / "libero_object_lan", "grab milk and put into basket ")
    other = bddl(tmp_path / "libero_object_task", "Pick the ketchup and place it in the basket")
    assert instruction_of(worded, plain, NAMED) == "grab milk and put into basket"
    assert instruction_of(other, plain, NAMED) == "pick the ketchup and place it in the basket"


def test_a_file_without_words_is_refused(tmp_path: Path) -> None:
    plain = bddl(tmp_path / "libero_object", "Pick the milk and place it in the basket")
    empty = tmp_path / "empty.bddl"
    empty.write_text("(define (problem LIBERO))")
    with pytest.raises(ValueError, match="no instruction"):
        instruction_of(empty, plain, NAMED)


@installed
def test_liberos_own_suites_and_variants() -> None:
    plain, swapped, worded, other = (read_suite(f"libero_object{kind}") for kind in ("", "_swap", "_lan", "_task"))
    named = [task.name.replace("_", " ") for task in plain]
    assert [task.instruction for task in plain] == [task.instruction for task in swapped] == named
    for variant in (worded, other):
        said = [task.instruction for task in variant]
        assert len(set(said)) == 10 and not set(said) & set(named)
    assert all(task.states.shape[0] == 50 for task in plain)
