"""Statistics that were there before a data set: those of a checkpoint, or of another data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import RootModel, ValidationError

from molmoact_ros.engine.base import choose_key
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.config import DatasetStats
from molmoact_ros.reasoning.action_convention import UNSTATED
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.utils.errors import one_line

MEANING: Final = ("space", "frame", "rotation", "position_scale", "rotation_scale", "gripper")
"""The fields of a convention in which it has to agree with demonstrations, which mean what msg/ActionChunk.msg says."""


class _StatisticsByKey(RootModel[dict[str, DatasetStats]]):
    """A dataset_statistics.json."""


MARGIN: Final = 0.05
"""Fraction of the given range by which data may lie beyond it."""
LEAST: Final = 1e-3
"""m or rad of a step that are never worth mentioning: the noise of a value that does not move."""


def given_statistics(source: Path, wanted: str = "") -> tuple[str, NormStats]:
    """The un-normalisation key and the statistics of the actions in a checkpoint's folder or a dataset_statistics.json.

    wanted: the key where there are several. Raises CheckpointError, OSError, RefusedStep and ValueError, in one line,
    where the source cannot be read, or has several keys, or its actions mean something else than demonstrations do.
    """
    if source.is_dir():
        known = CheckpointFolder(source).config.norm_stats
    else:
        try:
            known = _StatisticsByKey.model_validate_json(source.read_text()).root
        except ValidationError as error:
            raise ValueError(f"{source} holds no statistics: {one_line(error)}") from None
    key = choose_key(list(known), wanted or None)
    stated = CheckpointFolder(source if source.is_dir() else source.parent).run.convention(key)
    for name in MEANING:
        theirs, ours = getattr(stated, name), getattr(UNSTATED, name)
        if theirs != ours:
            raise ValueError(
                f"the actions of {key!r} have another {name.replace('_', ' ')} than demonstrations: {_brief(theirs)}, "
                f"not {_brief(ours)}; label with the data's own statistics"
            )
    return key, known[key].action


def beyond(own: NormStats, given: NormStats, names: Sequence[str]) -> list[str]:
    """What of the data's statistics `own` lies clearly beyond the given ones and is clipped, one line each.

    names: of the values. Clearly: by `MARGIN` of their range, and by `LEAST`.
    """
    rows = zip(names, given.mask, own.q01, own.q99, given.q01, given.q99, strict=True)
    return [
        f"{name} is clipped: 98 % of it lie in {low:.3g}..{high:.3g}, and the statistics are of {least:.3g}..{most:.3g}"
        for name, scaled, low, high, least, most in rows
        if scaled and max(least - low, high - most) > max(LEAST, MARGIN * (most - least))
    ]


def _brief(value: Any) -> str:
    """A field of a convention, for people."""
    return f"{value.open:g} open and {value.closed:g} closed" if hasattr(value, "closed") else str(value)
