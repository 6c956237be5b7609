"""Labelled data in Ai2's Arrow layout: what is read, what is left out and counted, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact_ros.reasoning.action_tokens import bins_from_values
from molmoact_ros.training.finetuning.arrow_data import ArrowData
from molmoact_ros.training.finetuning.samples import DataError, TrainingSample, hold_out

from .conftest import make_samples

Write = Callable[..., Path]


def test_samples_come_back_as_they_were(arrow: Write) -> None:
    samples = make_samples(6)
    samples[2] = replace(samples[2], depth_codes=None)
    samples[3].actions[:] = np.where(samples[3].actions > 0, 1.0, -1.0)  # symbols at both ends
    data = ArrowData(arrow(samples))
    assert (len(data), data.name, data.cameras, data.notes) == (6, "data", ["image", "wrist_image"], [])
    assert data.identity["samples"] == 6 and data.identity["episodes"] == 2
    for row, wanted in enumerate(samples):
        found = data.sample(row)
        assert found.instruction == wanted.instruction
        for one, other in zip(found.images, wanted.images, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(found.trace, wanted.trace)
        if wanted.depth_codes is None:
            assert found.depth_codes is None
        else:
            np.testing.assert_array_equal(found.depth_codes, wanted.depth_codes)
        np.testing.assert_array_equal(bins_from_values(found.actions), bins_from_values(wanted.actions))


def changed(values: Sequence[Any], row: int, value: Any) -> list[Any]:
    return [*values[:row], value, *values[row + 1 :]]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("trace", "[]", "no trace"),
        ("trace", "[[1, 300]]", "malformed label"),
        ("trace", "[[1, 2]", "malformed label"),
        ("depth", "<DEPTH_START><DEPTH_1><DEPTH_END>", "depth tokens that are not 100"),
        ("processed_action", "{}", "no actions"),
        ("processed_action", json.dumps({"chunked_action": "[[a, b]]"}), "malformed label"),
        ("processed_action", "", "no actions"),
    ],
)
def test_a_broken_row_is_left_out_and_counted(arrow: Write, column: str, value: str, reason: str) -> None:
    samples = make_samples(6)
    whole = ArrowData(arrow(samples))
    values = whole._table[column].to_pylist()
    (whole.folder / "data-00000-of-00001.arrow").unlink()
    whole.folder.rename(whole.folder.with_name("before"))
    data = ArrowData(arrow(samples, **{column: changed(values, 1, value)}))
    assert len(data) == 5 and list(data.notes) == [f"1 of 6 rows left out: 1 with {reason}"]
    np.testing.assert_array_equal(data.sample(1).actions, whole.sample(2).actions)
    np.testing.assert_array_equal(data.episodes, [0, 0, 0, 1, 1])


def test_a_point_alone_is_for_reasoning_only(arrow: Write) -> None:
    samples = [replace(sample, trace=np.array([[3, 4]])) for sample in make_samples(4)]
    samples[0] = replace(samples[0], depth_codes=None)
    data = ArrowData(arrow(samples))
    assert list(data.notes) == ["1 of 4 rows left out: 1 with neither depth nor a trace that can be drawn"]
    assert data.sample(0).can_reason and not data.sample(0).can_steer


def test_what_is_not_such_a_folder_is_named(arrow: Write, tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(DataError) as caught:
            ArrowData(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "state.json" in refused(tmp_path)
    folder = arrow(make_samples(2), trace=None)
    assert "no column 'trace'; label it first" in refused(folder)
    folder.rename(tmp_path / "no-trace")
    folder = arrow(make_samples(2), processed_action=["{}", "{}"])
    assert "no row to train on: 2 with no actions" in refused(folder)
    statistics = folder / "dataset_statistics.json"
    known = json.loads(statistics.read_text())
    statistics.write_text(json.dumps({"a": known["data"], "b": known["data"]}))
    assert "the keys a, b" in refused(folder)
    statistics.write_text("{")
    assert "dataset_statistics.json" in refused(folder)
    (folder / "data-00000-of-00001.arrow").write_bytes(b"not arrow")
    assert "copy the data set again" in refused(folder)


def test_whole_episodes_are_held_out() -> None:
    episodes = np.repeat(np.arange(10), 7)
    train, held = hold_out(episodes, 0.2, seed=1)
    assert len(np.unique(episodes[held])) == 2 and not set(episodes[train]) & set(episodes[held])
    assert len(train) + len(held) == 70
    np.testing.assert_array_equal(held, hold_out(episodes, 0.2, seed=1)[1])
    assert len(hold_out(episodes, 0.0, seed=1)[1]) == 0
    with pytest.raises(DataError, match="--validation 0"):
        hold_out(np.zeros(5, np.int64), 0.1, seed=1)


def test_images_are_rgb(arrow: Write) -> None:
    red = np.zeros((12, 16, 3), np.uint8)
    red[..., 0] = 200
    sample = make_samples(1)[0]
    one = TrainingSample((red, red), sample.instruction, sample.depth_codes, sample.trace, sample.actions)
    assert ArrowData(arrow([one])).sample(0).images[0][0, 0].tolist() == [200, 0, 0]
