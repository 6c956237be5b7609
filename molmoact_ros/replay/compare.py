"""Comparison of a replay with its recording against thresholds, with the first divergence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from molmoact_ros.bags.plans import RecordedAnswer
from molmoact_ros.control.action_chunk import ActionSpace
from molmoact_ros.control.supervisor import State
from molmoact_ros.replay.answer_difference import SAMPLED, Difference, difference
from molmoact_ros.replay.control import ControlReplay, ReplayedMotion
from molmoact_ros.utils.checks import Check, Verdict

JOINTS: Final = ActionSpace.JOINT.dimensions
_MORE: Final = 20  # additional activations of a limit that are tolerated, for limits that were hardly ever active


class Thresholds(BaseModel):
    """Thresholds of the comparison; config/replay.yaml describes each."""

    model_config = ConfigDict(extra="forbid")
    tokens: int = Field(0, ge=0)
    depth_agreement: float = Field(0.8, ge=0, le=1)
    trace_px: float = Field(40.0, ge=0)
    translation_m: float = Field(0.004, ge=0)
    rotation_rad: float = Field(0.04, ge=0)
    gripper: float = Field(0.25, ge=0)
    command_rad: float = Field(0.1, ge=0)
    following_rad: float = Field(0.2, ge=0)
    jerk_ratio: float = Field(1.25, ge=0)
    limit_hits_ratio: float = Field(1.5, ge=0)
    step_time_ratio: float = Field(0.0, ge=0)

    @staticmethod
    def read(file: Path) -> Thresholds:
        """Read a YAML file. Raises ValueError, in one line with the offending key, if it is invalid."""
        try:
            return Thresholds.model_validate(yaml.safe_load(file.read_text()) or {})
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (yaml.YAMLError, OSError) as error:
            raise ValueError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None


@dataclass
class Comparison:
    """Result of a comparison.

    findings: one check each, FAIL if a threshold is exceeded. first: description of the first divergence; empty: none.
    figures: metrics by name, for JSON and the report. compared: False if there was nothing to compare.
    """

    findings: list[Check] = field(default_factory=list)
    first: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    compared: bool = True

    @property
    def good(self) -> bool:
        """Whether no check fails."""
        return not any(finding.verdict is Verdict.FAIL for finding in self.findings)


def compare_answers(
    pairs: Sequence[tuple[RecordedAnswer, RecordedAnswer]], exact: bool, thresholds: Thresholds, why_not: str = "",
    replayed: Sequence[RecordedAnswer] = (), saved: bool = False, other_noise: int = 0,
) -> Comparison:  # fmt: skip
    """Compare recorded and new answers.

    exact: tokens must be equal; else `why_not` is why only distances count. replayed: all new answers, and saved:
    whether they were asked for by themselves; both for a replay without pairs. other_noise: how many answers are left
    out by `by_noise`.
    """
    if not pairs:
        return _nothing_compared(replayed, saved, other_noise)
    rows = [difference(then, now) for then, now in pairs]
    out = Comparison(figures={"plans": len(rows)})
    begin = rows[0].stamp
    for k, row in enumerate(rows):
        if row.first:
            out.first = f"step {k + 1} of {len(rows)} (plan {row.plan_id}, {row.stamp - begin:.2f} s): {row.first}"
            break
    refused = [now.refused for _, now in pairs if now.refused]
    text = (
        f"{len(refused)} of {len(rows)} steps are refused{_most(refused)}" if refused else f"{len(rows)} of {len(rows)}"
    )
    out.findings.append(Check.check("answers", not refused, text))
    compared = [row.tokens for row in rows if row.tokens is not None]
    unequal = sum(compared)
    if exact:
        text = f"{unequal} of {sum(len(then.tokens or ()) for then, _ in pairs)} differ, in {len(rows)} answers"
        out.findings.append(Check.check("tokens", unequal <= thresholds.tokens, text))
    else:
        out.findings.append(Check("tokens", Verdict.NOTE, f"not compared one by one: {why_not}"))
    out.figures |= {"unequal_tokens": unequal, "tokens_compared": bool(compared), "exact": exact}
    _note_sampled(rows, exact, other_noise, out)
    _distances(rows, thresholds, out)
    _times(pairs, thresholds, out)
    out.figures["rows"] = [
        {**vars(row), "actions": row.actions.tolist(), "seconds": now.seconds, "recorded_seconds": then.seconds}
        for row, (then, now) in zip(rows, pairs, strict=True)
    ]
    return out


def _note_sampled(rows: Sequence[Difference], exact: bool, other_noise: int, out: Comparison) -> None:
    """Actions of one seed are equal to rounding, where all else is."""
    apart = [row.farthest for row in rows if row.sampled and not np.isnan(row.farthest)]
    if exact and apart:
        text = f"{max(apart):.1e} apart at most by the same seeds, allowed {SAMPLED:g}, in {len(apart)} answers"
        out.findings.append(Check.check("actions: sampled again", max(apart) <= SAMPLED, text))
        out.figures["sampled"] = max(apart)
    if other_noise:
        out.findings.append(Check("seeds", Verdict.NOTE, _unseeded(other_noise, other_noise + len(rows))))


def _unseeded(count: int, every: int) -> str:
    return (
        f"{count} of {every} answers have no seed, as those of a server (backend act): they cannot be sampled again, "
        "and are not compared"
    )


def _nothing_compared(replayed: Sequence[RecordedAnswer], saved: bool, other_noise: int = 0) -> Comparison:
    refused = [answer.refused for answer in replayed if answer.refused]
    if saved and replayed and not refused:
        text = f"{len(replayed)} are saved; there is nothing to compare with"
        return Comparison([Check("plans", Verdict.NOTE, text)])
    if other_noise:
        text = f"nothing was compared: {_unseeded(other_noise, len(replayed))}"
        return Comparison([Check("plans", Verdict.FAIL, text)], compared=False)
    text = f"nothing was compared: {len(refused)} of {len(replayed)} steps were refused{_most(refused)}"
    if len(refused) < len(replayed):
        text += "; the others have no recorded plan: --save keeps them, and --against compares with such a file"
    return Comparison([Check("plans", Verdict.FAIL, text)], compared=False)


def _most(refused: Sequence[str]) -> str:
    return f"; refused most often because {Counter(refused).most_common(1)[0][0]}" if refused else ""


def _distances(rows: Sequence[Difference], t: Thresholds, out: Comparison) -> None:
    depth, trace = _mean([row.depth for row in rows]), _mean([row.trace for row in rows])
    actions = np.array([row.actions for row in rows])
    known = actions[np.isfinite(actions).all(axis=1)]
    if not np.isnan(depth):
        text = f"{depth:.1%} agree, at least {t.depth_agreement:.0%}"
        out.findings.append(Check.check("depth codes", depth >= t.depth_agreement, text))
    if not np.isnan(trace):
        out.findings.append(
            Check.check("trace", trace <= t.trace_px, f"{trace:.1f} px apart, at most {t.trace_px:g} px")
        )  # fmt: skip
    figures: dict[str, Any] = {"depth_agreement": depth, "trace_px": trace}
    if len(known):
        each = known.mean(axis=0)
        for name, (value, limit, unit) in _kinds(each, t).items():
            text = f"{value:.5f} {unit} apart in the worst dimension, at most {limit:g}"
            out.findings.append(Check.check(f"actions: {name.split('_')[0]}", bool(value <= limit), text))
            figures[name] = float(value)
        figures["actions"] = each.tolist()
    out.figures |= figures


def _kinds(each: np.ndarray, t: Thresholds) -> dict[str, tuple[float, float, str]]:
    """Of each kind of an action's values [D]: the greatest of `each`, its limit, and its unit."""
    if len(each) % JOINTS == 0:  # seven joints and the gripper of each arm
        joints = len(each) // JOINTS * (JOINTS - 1)
        return {
            "joints_rad": (each[:joints].max(), t.rotation_rad, "rad"),
            "gripper": (each[joints:].max(), t.gripper, "of its way"),
        }
    arms = max(1, len(each) // 7)
    return {
        "translation_m": (each[: 3 * arms].max(), t.translation_m, "m"),
        "rotation_rad": (each[3 * arms : 6 * arms].max(), t.rotation_rad, "rad"),
        "gripper": (each[6 * arms :].max(), t.gripper, "of its way"),
    }


def _times(pairs: Sequence[tuple[RecordedAnswer, RecordedAnswer]], t: Thresholds, out: Comparison) -> None:
    both = [(then.seconds, now.seconds) for then, now in pairs if then.seconds and now.seconds]
    if not both:
        return
    then, now = (float(np.median(column)) for column in zip(*both, strict=True))
    ratio = now / then
    text = f"{now * 1e3:.0f} ms at the median, recorded {then * 1e3:.0f} ms: {ratio:.2f} times"
    fine = not t.step_time_ratio or ratio <= t.step_time_ratio
    verdict = (Verdict.OK if fine else Verdict.FAIL) if t.step_time_ratio else Verdict.NOTE
    out.findings.append(Check("step time", verdict, text))
    out.figures |= {"step_seconds": now, "recorded_step_seconds": then}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def compare_control(replay: ControlReplay, t: Thresholds) -> Comparison:
    """Compare recorded and new commands."""
    out = Comparison()
    broken = {name: count for name, count in replay.broken.items() if count}
    text = ", ".join(f"{name} in {count} cycles" for name, count in broken.items()) or "none"
    out.findings.append(Check.check("limits broken", not broken, text))
    out.figures |= {"broken": replay.broken}
    firsts: list[tuple[float, str]] = []
    for arm, then, now, measured in zip(replay.arms, replay.recorded, replay.again, replay.measured, strict=True):
        _compare_motion(f"{arm.prefix}commands", then, now, measured, t, out, firsts)
    then, now = replay.recorded[0], replay.again[0]
    if not then.states and not any(len(of.times) for of in replay.recorded):
        text = "nothing was compared: the bag has neither commands nor states of a controller, so none was started"
        out.findings.append(Check("states", Verdict.FAIL, text))
        out.compared = False
    _compare_states(then, now, out, firsts)
    hits = {name: (then.limits.get(name, 0), count) for name, count in now.limits.items()}
    over = {n: (a, b) for n, (a, b) in hits.items() if n != "refused" and b > a * t.limit_hits_ratio + _MORE}
    text = ", ".join(f"{name} {b} instead of {a} times" for name, (a, b) in over.items())
    if then.limits:
        out.findings.append(Check.check("limits that bit", not over, text or "about as often"))
    out.figures["limit_hits"] = hits
    fine = len(now.refused) <= then.limits.get("refused", 0) + 1
    text = now.refused[0] if now.refused else "none"
    if not then.limits:
        out.findings.append(Check("chunks refused", Verdict.NOTE, text))
    else:
        out.findings.append(Check.check("chunks refused", fine, f"{len(now.refused)}: {text}" if now.refused else text))
    if firsts:
        out.first = min(firsts)[1]
    return out


def _compare_motion(
    name: str,
    then: ReplayedMotion,
    now: ReplayedMotion,
    measured: tuple[np.ndarray, np.ndarray],
    t: Thresholds,
    out: Comparison,
    firsts: list[tuple[float, str]],
) -> None:
    if not len(now.times):
        out.findings.append(Check(name, Verdict.FAIL, "the controller never knew the joints"))
        return
    begin = now.times[0]
    if len(then.times):
        apart = np.abs(then.joints - _at(now, then.times))
        worst = float(apart.max())
        text = f"{worst:.4f} rad from the recorded ones at most, allowed {t.command_rad:g}"
        out.findings.append(Check.check(name, worst <= t.command_rad, text))
        out.figures[f"{name}_rad"] = worst
        if worst > t.command_rad:
            row, joint = np.argwhere(apart > t.command_rad)[0].tolist()
            at = then.times[row] - begin
            firsts.append((at, f"at {at:.2f} s joint {joint + 1} is commanded {apart[row, joint]:.3f} rad beside"))
        jerk, before = _jerk(now), _jerk(then)
        text = f"jerk {jerk:.1f} rad/s^3 at the 90th percentile, recorded {before:.1f}"
        fine = jerk <= t.jerk_ratio * before + 1.0
        out.findings.append(Check.check(f"{name}: smoothness", fine, text))
        out.figures |= {f"{name}_jerk": jerk, f"{name}_recorded_jerk": before}
    else:
        out.findings.append(Check(name, Verdict.NOTE, "none were recorded; compared with the measured joints alone"))
    times, joints = measured
    started = next((at for at, state, _ in now.states if state is not State.IDLE), now.times[-1])
    times, joints = times[times >= started], joints[times >= started]  # before that, something else may move the arm
    if not len(times):
        return
    apart = np.abs(joints - _at(now, times))
    worst, allowed = float(apart.max()), t.following_rad
    if len(then.times):  # an arm that lagged farther in the recording may do so again
        inside = (times >= then.times[0]) & (times <= then.times[-1])
        if inside.any():
            before = float(np.abs(joints[inside] - _at(then, times[inside])).max())
            allowed = max(allowed, before + t.command_rad)
    text = f"{worst:.3f} rad from the measured joints at most, allowed {allowed:.3g}"
    out.findings.append(Check.check(f"{name}: following", worst <= allowed, text))
    out.figures[f"{name}_following_rad"] = worst
    if worst > allowed:
        row, joint = np.argwhere(apart > allowed)[0].tolist()
        at = times[row] - begin
        firsts.append((at, f"at {at:.2f} s joint {joint + 1} is measured {apart[row, joint]:.3f} rad beside"))


def _compare_states(
    then: ReplayedMotion, now: ReplayedMotion, out: Comparison, firsts: list[tuple[float, str]]
) -> None:
    if not then.states:
        return
    before, later = [s for _, s, _ in then.states], now.states
    if before[0] is not State.IDLE and later and later[0][1] is State.IDLE:
        later = later[1:]  # the recording began after the controller was started
    after = [s for _, s, _ in later]
    at = next((k for k, (a, b) in enumerate(zip(before, after, strict=False)) if a is not b), None)
    if at is None and len(before) == len(after):
        out.findings.append(Check("states", Verdict.OK, " > ".join(state.value for state in after)))
        return
    at = min(len(before), len(after)) if at is None else at
    when = later[min(at, len(after) - 1)][0] - now.times[0] if later and len(now.times) else 0.0
    said = f"{after[at].value} ({later[at][2]})" if at < len(after) else "no other state any more"
    was = before[at].value if at < len(before) else f"still {before[-1].value}"
    text = f"at {when:.2f} s the controller is in {said}, recorded: {was}"
    out.findings.append(Check("states", Verdict.FAIL, text))
    firsts.append((when, text))


def _at(motion: ReplayedMotion, times: np.ndarray) -> np.ndarray:
    """The commanded joints [t, 7] at other times, linearly interpolated."""
    return np.stack([np.interp(times, motion.times, column) for column in motion.joints.T], axis=1)


def _jerk(motion: ReplayedMotion) -> float:
    """The 90th percentile of the greatest joint jerk, rad/s^3, by third differences.

    It is a percentile since messages that the recorder missed look like jumps.
    """
    if len(motion.times) < 4:
        return 0.0
    period = float(np.median(np.diff(motion.times)))
    thirds = np.diff(motion.joints, 3, axis=0) / period**3
    even = np.abs(motion.times[3:] - motion.times[:-3] - 3 * period) < 0.3 * period  # windows without a missing cycle
    return float(np.percentile(np.abs(thirds[even]).max(axis=1), 90)) if even.any() else 0.0
