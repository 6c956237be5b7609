"""The order of an evaluation's trials, and the letters that stand for its policies until the end."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from molmoact_ros.evaluation.trial_sheet import TrialPolicy, TrialSheet


@dataclass(frozen=True)
class Trial:
    """One trial. number: from 0, in order. round: which repetition of the task and condition. label: the policy's."""

    number: int
    round: int
    task: str
    condition: str
    label: str


def sealed_labels(sheet: TrialSheet) -> dict[str, TrialPolicy]:
    """Which policy each letter stands for, drawn from the seed; nobody shows it before the end."""
    drawn = np.random.default_rng([sheet.seed, 0]).permutation(len(sheet.policies))
    return dict(zip(string.ascii_uppercase, (sheet.policies[int(k)] for k in drawn), strict=False))


def trial_order(sheet: TrialSheet) -> list[Trial]:
    """All trials in order.

    Each round has every task and condition once, shuffled; the scene is then set once for each policy in turn, so that
    what changes over a day (light, a battery, the operator) meets all of them alike. Which policy comes first, second
    and so on is a Latin square of random rows: in as many rounds as there are policies each has every place once.
    """
    rng, labels = np.random.default_rng([sheet.seed, 1]), list(sealed_labels(sheet))
    scenes = [(task.name, condition.name) for task in sheet.tasks for condition in task.conditions]
    rows = {scene: _rows(labels, sheet.trials, rng) for scene in scenes}
    order: list[Trial] = []
    for number in range(sheet.trials):
        for k in rng.permutation(len(scenes)):
            task, condition = scenes[int(k)]
            for label in rows[task, condition][number]:
                order.append(Trial(len(order), number, task, condition, label))
    return order


def _rows(labels: list[str], rounds: int, rng: np.random.Generator) -> list[list[str]]:
    """The policies' order in each round."""
    rows: list[list[str]] = []
    while len(rows) < rounds:
        drawn = [labels[int(k)] for k in rng.permutation(len(labels))]
        rows += [drawn[int(k) :] + drawn[: int(k)] for k in rng.permutation(len(labels))]
    return rows[:rounds]
