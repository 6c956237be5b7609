"""The sheet of an evaluation on a real robot: tasks, what counts as progress, conditions, policies, trials and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.prompts import validate_instruction
from molmoact_ros.utils.errors import one_line, unfit
from molmoact_ros.utils.paths import share

MOST_POLICIES: Final = 26
"""As many as there are letters."""
LONGEST: Final = 590.0
"""s: a trial ends before the policy's goal does (bringup/policy_goal.py)."""


class SheetError(ValueError):
    """A sheet with mistakes. lines: one for each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = list(lines)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _validated(instruction: str) -> str:
    try:
        return validate_instruction(instruction)
    except RefusedStep as refusal:
        raise ValueError(str(refusal)) from None


Text = Annotated[str, Field(min_length=1)]
Instruction = Annotated[str, AfterValidator(_validated)]


class RubricStep(_Part):
    """Something that can be seen to be done, and the points that it gives."""

    text: Text
    points: float = Field(1.0, gt=0, le=1000)


class TrialCondition(_Part):
    """A variation of a task. setup: what the scene is like. instruction: other words; empty: the task's."""

    name: Text
    setup: str = ""
    instruction: Instruction | None = None


class TrialTask(_Part):
    """A task with its rubric. setup: how the scene is set, for the operator. limit: s, after which a trial ends."""

    name: Text
    instruction: Instruction
    setup: str = ""
    limit: float = Field(60.0, gt=0, le=LONGEST)
    rubric: list[RubricStep] = Field(min_length=1, max_length=9)
    conditions: list[TrialCondition] = Field([TrialCondition(name="as trained")], min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_names("condition", [condition.name for condition in self.conditions])
        _check_names("step of the rubric", [step.text for step in self.rubric])
        return self

    def condition(self, name: str) -> TrialCondition:
        """The condition of this name."""
        return next(condition for condition in self.conditions if condition.name == name)

    def words(self, condition: str) -> str:
        """The instruction under this condition."""
        return self.condition(condition).instruction or self.instruction

    def scene(self, condition: str) -> str:
        """What the operator reads of the scene, one line."""
        setups = (text.strip() for text in (self.setup, self.condition(condition).setup))
        return " ".join([f"{self.name}, {condition}:", *filter(None, setups)]).removesuffix(":")

    def progress(self, done: Sequence[bool]) -> float:
        """Points of the steps that are done, as a fraction of all, 0..1."""
        points = [step.points for step in self.rubric]
        return sum(p for p, is_done in zip(points, done, strict=True) if is_done) / sum(points)


class TrialPolicy(_Part):
    """What is evaluated, under a name that only the report shows.

    checkpoint: a folder; the policy node is started with it. node: or the name of a node that runs already and offers
    `execute`.
    """

    name: Text
    checkpoint: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    node: str = ""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.checkpoint is None) == (not self.node):
            raise ValueError(f"policy {self.name!r} needs either a checkpoint (a folder) or a node (that runs already)")
        return self


class TrialSheet(_Part):
    """What is evaluated: `trials` of each policy under each condition of each task, in an order drawn from the seed."""

    about: str = ""
    seed: int = Field(0, ge=0, lt=2**32)
    trials: int = Field(25, ge=1, le=1000)
    tasks: list[TrialTask] = Field(min_length=1)
    policies: list[TrialPolicy] = Field(min_length=1, max_length=MOST_POLICIES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_names("task", [task.name for task in self.tasks])
        _check_names("policy", [policy.name for policy in self.policies])
        return self

    def task(self, name: str) -> TrialTask:
        """The task of this name."""
        return next(task for task in self.tasks if task.name == name)


def _check_names(what: str, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"there are two of the {what} {twice[0]!r}; give each a name of its own")


def sheet_file(name: str) -> Path:
    """The file of a sheet in config/trials; `name` may also be the path of your own. Raises FileNotFoundError."""
    folder = share() / "config" / "trials"
    file = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in folder.glob("*.yaml")))
        raise FileNotFoundError(f"there is no sheet {name!r}; choose one of: {known}, or a .yaml file of your own")
    return file


def read_sheet(file: Path, checkpoints: Mapping[str, Path], overrides: Mapping[str, int]) -> TrialSheet:
    """Read a sheet, with checkpoints by name beside its own policies, and with other trials or seed.

    Raises SheetError with a line for each mistake.
    """
    try:
        contents = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SheetError([f"{file} is not YAML: {one_line(error)}"]) from None
    if not isinstance(contents, dict):
        raise SheetError([f"{file} has no fields; see docs/trials.md for what a sheet holds"])
    policies = contents.get("policies") or []
    if isinstance(policies, list):
        given = [{"name": name, "checkpoint": folder} for name, folder in checkpoints.items()]
        contents = contents | {"policies": [*policies, *given]} | dict(overrides)
        if not contents["policies"]:
            line = f"{file} names no policies; add them there, or give --checkpoint NAME=FOLDER for each"
            raise SheetError([*_mistakes(file, contents, but="policies"), line])
    if lines := _mistakes(file, contents):
        raise SheetError(lines)
    sheet = TrialSheet.model_validate(contents)
    folders = [policy.checkpoint for policy in sheet.policies if policy.checkpoint is not None]
    if gone := [folder for folder in folders if not (folder / "config.json").is_file()]:
        what = "give the folder of its config.json"
        raise SheetError([f"{file}: there is no checkpoint at {folder}; {what}" for folder in gone])
    return sheet


def _mistakes(file: Path, contents: dict[str, Any], but: str = "") -> list[str]:
    try:
        TrialSheet.model_validate(contents)
    except ValidationError as error:
        return [f"{file}: {_place(e['loc'])}{unfit(e)}" for e in error.errors() if not but or e["loc"][:1] != (but,)]
    return []


def _place(loc: Sequence[str | int]) -> str:
    """`tasks 2, rubric 1, points: `: counted from 1, as people do."""
    words: list[str] = []
    for part in loc:
        if isinstance(part, int) and words:
            words[-1] += f" {part + 1}"
        else:
            words.append(str(part))
    return f"{', '.join(words)}: " if words else ""
