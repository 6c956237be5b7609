"""Action tokens and normalisation: physical actions <-> [-1, 1] <-> 256 bins <-> symbols that the model generates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from molmoact_ros.reasoning.answer import RefusedStep

ACTION_SYMBOLS: tuple[str, ...] = tuple(
    json.loads((Path(__file__).parent / "action_symbols.json").read_text(encoding="utf-8"))
)
"""Symbol of each bin: the byte-to-unicode spelling of Qwen2 token 151642 - bin (MolmoAct's own table)."""

N_BINS = len(ACTION_SYMBOLS)
_BIN_OF_SYMBOL = {symbol: k for k, symbol in enumerate(ACTION_SYMBOLS)}
# 256 edges enclose 255 bins; the 256th symbol encodes only +1 and decodes to the last bin.
_EDGES = np.linspace(-1.0, 1.0, N_BINS)
_CENTRES = (_EDGES[:-1] + _EDGES[1:]) / 2


def bins_from_values(values: np.ndarray) -> np.ndarray:
    """Quantise normalised `values` (any shape; clipped to [-1, 1]) to bins, int64 in 0..255.

    Raises RefusedStep for NaN or infinity.
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise RefusedStep("actions hold NaN or infinity; give finite numbers")
    bins: np.ndarray = np.digitize(np.clip(values, -1.0, 1.0), _EDGES) - 1
    return bins


def values_from_bins(bins: np.ndarray) -> np.ndarray:
    """Normalised values, float64 in [-0.996, 0.996], at the centres of `bins` (integers 0..255, any shape)."""
    bins = np.asarray(bins)
    if bins.dtype.kind not in "iu" or (bins.size and (bins.min() < 0 or bins.max() >= N_BINS)):
        raise RefusedStep(f"action bins must be integers 0..{N_BINS - 1}")
    values: np.ndarray = _CENTRES[np.minimum(bins, len(_CENTRES) - 1)]
    return values


def bin_from_symbol(symbol: str) -> int:
    """Bin 0..255 of one symbol. Raises RefusedStep for an unknown symbol, so that it never becomes a motion."""
    try:
        return _BIN_OF_SYMBOL[symbol]
    except KeyError:
        raise RefusedStep(f"{symbol!r} is not an action symbol; the step is dropped, ask again") from None


def _grippers(dimensions: int) -> int:
    """Number of gripper dimensions at the end of an action: one, or two for two arms (14 values, or 16 with joints)."""
    return 2 if dimensions in (14, 16) else 1


class NormStats(BaseModel):
    """Statistics of the D action dimensions in the training data, as `norm_stats[key]["action"]` of config.json.

    q01, q99: 1 % and 99 % quantiles in the action's own units, mapped to -1 and +1. mask: which dimensions are
    normalised. The gripper dimensions, which come last, never are: they keep their range, 1 open .. 0 closed.
    mean, std, min, max: further statistics in the same units, stored but not used for normalisation. Raises ValueError
    (pydantic's ValidationError) for lists of different lengths, infinite quantiles, or q01 above q99.

        stats = NormStats.from_actions(actions)  # float [M, D]
        values_from_bins(bins_from_values(stats.normalise(actions)))  # float [M, D] in [-0.996, 0.996]
    """

    model_config = ConfigDict(frozen=True)

    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    min: tuple[float, ...] = ()
    max: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fill_mask(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping) and "q01" in fields:
            mask = list(fields.get("mask") or [True] * len(fields["q01"]))
            grippers = _grippers(len(mask))
            return {**fields, "mask": (*mask[:-grippers], *[False] * grippers)}
        return fields

    @model_validator(mode="after")
    def _check(self) -> NormStats:
        if not len(self.q01) == len(self.q99) == len(self.mask) or not self.q01:
            raise ValueError("q01, q99 and mask must have one entry per action dimension")
        if not np.isfinite([self.q01, self.q99]).all() or any(a > b for a, b in zip(self.q01, self.q99, strict=True)):
            raise ValueError("q01 and q99 must be finite, and q01 not above q99")
        return self

    @classmethod
    def from_actions(cls, actions: np.ndarray) -> NormStats:
        """Statistics of `actions`, float [M, D] in their own units, gripper last."""
        actions = np.asarray(actions, dtype=np.float64)
        q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0)
        return cls.model_validate(
            {
                "q01": q01.tolist(),
                "q99": q99.tolist(),
                "mean": actions.mean(0).tolist(),
                "std": actions.std(0).tolist(),
                "min": actions.min(0).tolist(),
                "max": actions.max(0).tolist(),
            }
        )

    @property
    def dimensions(self) -> int:
        """D, the number of action dimensions."""
        return len(self.q01)

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """`actions`, float [..., D] in their own units, as float64 in [-1, 1]. RefusedStep on NaN or a wrong D."""
        actions = self._checked(actions)
        low, span = np.array(self.q01), np.array(self.q99) - np.array(self.q01)
        # A constant dimension carries no information and becomes 0; the released data script adds the 1e-8.
        scaled = np.where(span > 0, 2 * (actions - low) / (span + 1e-8) - 1, 0.0)
        return np.clip(np.where(self.mask, scaled, actions), -1.0, 1.0)

    def unnormalise(self, values: np.ndarray) -> np.ndarray:
        """Normalised `values`, float [..., D], as float64 in their own units. RefusedStep on NaN or a wrong D.

        The quantiles are rounded to float32 as in the released model, which reproduces its numbers to the last digit.
        """
        values = self._checked(values)
        low, high = np.array(self.q01, np.float32), np.array(self.q99, np.float32)
        return np.where(self.mask, 0.5 * (values + 1) * (high - low) + low, values)

    def _checked(self, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] != self.dimensions:
            raise RefusedStep(f"actions must have {self.dimensions} dimensions; got shape {list(array.shape)}")
        if not np.isfinite(array).all():
            raise RefusedStep("actions hold NaN or infinity; give finite numbers")
        return array
