"""A chart of the figures of `bench engine`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # renders to a file, whatever display there is
import matplotlib.pyplot as plt

from molmoact_ros.benchmarks.engine_step import BASELINE, SEGMENTS, Figures
from molmoact_ros.engine.torch_engine import STAGES


def draw_engine(figures: Figures, title: str, picture: Path) -> None:
    """Draw the medians of a step's stages beside the baseline's step, and the forward passes of each segment, into a
    PNG or SVG file. `figures`: those of engine_step.bench.
    """
    drawing, (steps, passes) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(2, 1), layout="constrained")
    left = 0.0
    for stage in STAGES:
        steps.barh("ours", figures[stage]["median"], left=left, label=stage)
        left += figures[stage]["median"]
    for name, at in (("step", "ours"), (BASELINE, BASELINE)):
        median, p99 = figures[name]["median"], figures[name]["p99"]
        if name == BASELINE:
            steps.barh(at, median, color="0.7")
        steps.plot([p99, p99], [at, at], "k|", markersize=28)
        steps.annotate(f" p99 {p99:.0f} ms", (p99, at), va="center")
        steps.annotate(f"{median:.0f} ms", (2, at), va="center", color="white", weight="bold")
    steps.invert_yaxis()
    steps.set_xlim(0, 1.25 * figures[BASELINE]["p99"])
    steps.set(title=title, xlabel="ms a reasoning step; bars: medians")
    steps.legend(loc="upper right", fontsize="small", ncols=2)
    for segment in SEGMENTS:
        spent = figures[f"passes, {segment.value}"]
        passes.bar(segment.value, spent["median"], color="tab:blue")
        passes.plot(segment.value, spent["p99"], "k_", markersize=28)
    passes.set(title=f"passes, for {figures['tokens']['median']:.0f} tokens", ylabel="passes; lines: p99")
    drawing.savefig(picture, dpi=120)
    plt.close(drawing)
