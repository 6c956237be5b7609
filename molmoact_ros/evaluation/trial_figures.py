"""Figures of an evaluation's trials: rates of success and progress with 95 % intervals, and differences of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from molmoact_ros.evaluation.intervals import mean_interval, rate_interval
from molmoact_ros.evaluation.trial_order import Trial, sealed_labels
from molmoact_ros.evaluation.trial_session import TrialScore, TrialSession

Scored = tuple[Trial, TrialScore]


def figures(session: TrialSession) -> dict[str, Any]:
    """The content of results.json, with the names of the policies: call it after `reveal`.

    `policies` by name: label, what it is, figures over all trials, how many of these a fault ended, and how many
    attempts were discarded and repeated. `conditions`: the figures for each task, condition and policy. `differences`:
    of progress, policy against policy, over the pairs of one round of one scene.
    """
    if not session.is_revealed:
        raise ValueError("the labels are sealed until the session has ended")
    labels, sheet = sealed_labels(session.sheet), session.sheet
    scored = [(session.order[score.trial], score) for score in session.scores]
    names = {label: policy.name for label, policy in labels.items()}
    scenes = [(task.name, condition.name) for task in sheet.tasks for condition in task.conditions]
    return {
        "format": 1, "about": sheet.about, "seed": sheet.seed, "planned": len(session.order), "scored": len(scored),
        "policies": {
            policy.name: {
                "label": label, "checkpoint": str(policy.checkpoint or ""), "node": policy.node,
                **_summary([of for of in scored if of[0].label == label], sheet.seed),
                "faults": sum(trial.label == label and bool(score.ended_by) for trial, score in scored),
                "repeats": sum(session.order[of.trial].label == label for of in session.repeats),
            }
            for label, policy in labels.items()
        },
        "conditions": [
            {"task": task, "condition": condition, "policy": name}
            | _summary([of for of in scored if (of[0].task, of[0].condition, of[0].label) == (task, condition, label)],
                       sheet.seed)
            for task, condition in scenes
            for label, name in names.items()
        ],
        "differences": [
            {"policy": names[a], "against": names[b]} | _difference(scored, a, b, sheet.seed)
            for a, b in combinations(labels, 2)
        ],
        "trials": [
            asdict(trial)
            | {"policy": names[trial.label], "success": score.success}
            | score.model_dump(exclude={"trial"})
            for trial, score in scored
        ],
        "repeats": [
            {"policy": names[session.order[of.trial].label]} | of.model_dump() for of in session.repeats
        ],
    }  # fmt: skip


def _summary(scored: Sequence[Scored], seed: int) -> dict[str, Any]:
    progress = [score.progress for _, score in scored]
    successes = sum(score.success for _, score in scored)
    some = bool(scored)
    return {
        "trials": len(scored), "successes": successes, "success": successes / len(scored) if some else None,
        "success_interval": rate_interval(successes, len(scored)) if some else None,
        "progress": float(np.mean(progress)) if some else None, "progress_interval": mean_interval(progress, seed),
    }  # fmt: skip


def _difference(scored: Sequence[Scored], a: str, b: str, seed: int) -> dict[str, Any]:
    """Of the progress of `a` over that of `b`: both met the same scene one after the other, so pairs are resampled."""
    by = {((t.task, t.condition, t.round), t.label): score.progress for t, score in scored}
    pairs = [value - by[place, b] for (place, label), value in by.items() if label == a and (place, b) in by]
    mean = float(np.mean(pairs)) if pairs else None
    return {"pairs": len(pairs), "progress": mean, "progress_interval": mean_interval(pairs, seed)}
