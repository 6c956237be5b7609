"""MolmoAct 2's norm_stats.json: by norm_tag, what a robot's states and actions are called and how they are scaled.

All arithmetic is float32, as in the released model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from molmoact_ros.reasoning.answer import RefusedStep

NormMode = Literal["q01_q99", "q10_q90", "min_max", "mean_std", "none"]
STATE_BINS: Final = 256
_LEAST: Final = np.float32(1e-6)  # span, or standard deviation, by which is divided at least
_BOUNDS: Final = {"q01_q99": ("q01", "q99"), "q10_q90": ("q10", "q90"), "min_max": ("min", "max")}


class RobotStats(BaseModel):
    """Statistics of the D dimensions of a state or an action, in its own units, and which of them are normalised.

    mask: false for a dimension that is written as it is, such as a gripper in 0..1. Raises ValueError (pydantic's
    ValidationError) for lists of different lengths.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    min: tuple[float, ...] = ()
    max: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    q01: tuple[float, ...] = ()
    q10: tuple[float, ...] = ()
    q90: tuple[float, ...] = ()
    q99: tuple[float, ...] = ()
    mask: tuple[bool, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def dimensions(self) -> int:
        """D."""
        known = (self.mean, self.std, self.min, self.max, self.q01, self.q99, self.q10, self.q90)
        return next((len(values) for values in known if values), 0)

    def needs(self, mode: NormMode) -> None:
        """Raise ValueError, which names the list, if one that `mode` needs is missing, too short or infinite."""
        names = ("mean", "std") if mode == "mean_std" else _BOUNDS.get(mode, ())
        if not self.dimensions:
            raise ValueError("it holds no statistics")
        for name in names:
            values = getattr(self, name)
            if len(values) != self.dimensions or not np.isfinite(values).all():
                raise ValueError(f"{name} must have {self.dimensions} finite numbers for norm_mode {mode}")
        if self.mask and len(self.mask) != self.dimensions:
            raise ValueError(f"mask has {len(self.mask)} values for {self.dimensions} dimensions")

    def normalise(self, values: np.ndarray, mode: NormMode) -> np.ndarray:
        """Values [..., D] in their own units, as float32 [..., D]; -1..1 where the mode is one of bounds."""
        x = np.asarray(values, np.float32)
        scaled, still = self._scaled(x, mode), self._still(mode)
        normalised: np.ndarray = np.where(still, np.float32(0), np.where(self._mask(), scaled, x))
        return normalised

    def _scaled(self, x: np.ndarray, mode: NormMode) -> np.ndarray:
        if mode == "none":
            return x
        if mode == "mean_std":
            spread: np.ndarray = (x - _wide(self.mean)) / np.maximum(_wide(self.std), _LEAST)
            return spread
        low, high = (_wide(getattr(self, name)) for name in _BOUNDS[mode])
        scaled: np.ndarray = np.float32(2) * (x - low) / np.maximum(high - low, _LEAST) - np.float32(1)
        return scaled.clip(-1, 1)

    def unnormalise(self, values: np.ndarray, mode: NormMode) -> np.ndarray:
        """The model's values [..., D] in their own units, float32 [..., D]. Bounds clip them to -1..1 first."""
        x = np.asarray(values, np.float32)
        if mode == "none":
            return x
        if mode == "mean_std":
            whole: np.ndarray = np.where(self._mask(), x * _wide(self.std) + _wide(self.mean), x)
            return whole
        x = np.clip(x, -1, 1)
        low, high = (_wide(getattr(self, name)) for name in _BOUNDS[mode])
        meant: np.ndarray = np.where(self._mask(), low + (x + np.float32(1)) * (high - low) / np.float32(2), x)
        return meant

    def _mask(self) -> np.ndarray:
        return np.array(self.mask or [True] * self.dimensions)

    def _still(self, mode: NormMode) -> np.ndarray:
        """Dimensions that never moved in training: they are 0, and say nothing."""
        if mode not in _BOUNDS or not self.min or not self.max:
            return np.zeros(self.dimensions, bool)
        same: np.ndarray = _wide(self.min) == _wide(self.max)
        return same


def _wide(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32)


def state_bins(normalised: np.ndarray) -> np.ndarray:
    """Normalised values float32 [...] as numbers int64 [...] of `<state_i>`, 0..255; rounded half to even."""
    x = np.clip(np.nan_to_num(np.asarray(normalised, np.float32), nan=0.0, posinf=1.0, neginf=-1.0), -1, 1)
    bins: np.ndarray = np.rint((x + np.float32(1)) / np.float32(2) * np.float32(STATE_BINS - 1)).astype(np.int64)
    return bins


class TagMetadata(BaseModel):
    """What a norm_tag says of its robot: words for the prompt, cameras, lengths of a chunk, statistics."""

    model_config = ConfigDict(extra="allow", frozen=True)
    camera_keys: tuple[str, ...] = ()
    action_horizon: int = Field(ge=1)
    n_action_steps: int = Field(ge=1)
    setup_type: str
    control_mode: str
    action_stats: RobotStats
    state_stats: RobotStats

    @model_validator(mode="after")
    def _check(self) -> TagMetadata:
        if self.n_action_steps > self.action_horizon:
            raise ValueError(f"n_action_steps {self.n_action_steps} is more than action_horizon {self.action_horizon}")
        return self


class NormStatsFile(BaseModel):
    """A folder's norm_stats.json. Raises pydantic.ValidationError that names the tag and the field."""

    model_config = ConfigDict(extra="allow", frozen=True)
    format: Literal["molmoact2_norm_stats.v1"]
    norm_mode: NormMode = "min_max"
    metadata_by_tag: dict[str, TagMetadata]

    @model_validator(mode="after")
    def _check(self) -> NormStatsFile:
        for tag, metadata in self.metadata_by_tag.items():
            for name, stats in (("state_stats", metadata.state_stats), ("action_stats", metadata.action_stats)):
                try:
                    stats.needs(self.norm_mode)
                except ValueError as error:
                    raise ValueError(f"metadata_by_tag.{tag}.{name}: {error}") from None
        return self


class TagScaling:
    """A tag's scaling of states and actions, by the file's norm_mode."""

    def __init__(self, file: NormStatsFile, tag: str) -> None:
        """Raises KeyError for a tag that the file lacks."""
        self.metadata, self.mode = file.metadata_by_tag[tag], file.norm_mode
        self.state_dimensions = self.metadata.state_stats.dimensions
        self.action_dimensions = self.metadata.action_stats.dimensions

    def bins(self, state: np.ndarray) -> np.ndarray:
        """A state float [D] in its own units as bins int64 [D]. Raises RefusedStep, in one line, for one that does not
        fit."""
        if state.shape != (self.state_dimensions,):
            names = ", ".join(self.metadata.state_stats.names)
            raise RefusedStep(
                f"the state has shape {list(state.shape)}; this model needs {self.state_dimensions} values"
                f"{f' ({names})' if names else ''}"
            )
        if not np.isfinite(state).all():
            raise RefusedStep("the robot's state holds NaN or infinity; check the joint states")
        return state_bins(self.metadata.state_stats.normalise(state, self.mode))

    def normalised_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions float [..., D] in the robot's units as the model's values, float32 [..., D], clipped by bounds."""
        return self.metadata.action_stats.normalise(actions, self.mode)

    def actions(self, values: np.ndarray) -> np.ndarray:
        """The model's chunk float32 [H, >= D] as float32 [n_action_steps, D] in the robot's units."""
        kept = values[: self.metadata.n_action_steps, : self.action_dimensions]
        return self.metadata.action_stats.unnormalise(kept, self.mode)


def only_tag(tags: Mapping[str, Any], wanted: str) -> str:
    """The tag `wanted`, or the only one: a wrong one gives plausible garbage.

    Raises RefusedStep that lists the tags.
    """
    if not wanted and len(tags) == 1:
        return next(iter(tags))
    if wanted not in tags:
        known = ", ".join(tags) or "none: this checkpoint was not trained to act"
        raise RefusedStep(f"the norm_tag (unnorm_key) is {wanted or None!r}; choose one of: {known}")
    return wanted
