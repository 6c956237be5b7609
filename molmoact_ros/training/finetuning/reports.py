"""What a run shows: a progress bar, TensorBoard's events, and a picture of the curves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from molmoact_ros.training.finetuning.saved_run import RunProgress
from molmoact_ros.training.finetuning.validation import UNITS, summary


class RunReporter:
    """Reports the entries of a run's history as they come; with `tensorboard` as its events too."""

    def __init__(self, folder: Path, steps: int, tensorboard: bool) -> None:
        """Raises RuntimeError where TensorBoard is wanted and not installed."""
        self.folder, self.writer = folder, _writer(folder / "tensorboard") if tensorboard else None
        # A log, too, shows how far a run of hours is; a line a minute fills none.
        self.bar = tqdm(total=steps, unit="step", mininterval=2 if sys.stderr.isatty() else 60)

    def __call__(self, entry: dict[str, Any]) -> None:
        """Report one entry of the history."""
        self.bar.update(entry["step"] - self.bar.n)
        if figures := entry.get("validation"):
            tqdm.write(f"step {entry['step']}: held out: {summary(figures)}")
        else:
            self.bar.set_postfix(loss=f"{entry['loss']:.3f}")
        if self.writer is not None:
            values = {f"validation/{name}": value for name, value in (figures or {}).items()}
            values |= {} if figures else {f"training/{k}": v for k, v in entry.items() if k not in ("step", "tokens")}
            for name, value in values.items():
                self.writer.add_scalar(name, value, entry["step"])

    def close(self, progress: RunProgress | None) -> None:
        """End the bar and the events; draw the curves of the run so far."""
        self.bar.close()
        if self.writer is not None:
            self.writer.close()
        if progress is not None and progress.history:
            draw_curves(progress.history, self.folder / "curves.png")


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RuntimeError(f"{error}; install it with: pip install 'molmoact_ros[tensorboard]'") from None
    return SummaryWriter(str(folder))


def draw_curves(history: list[dict[str, Any]], picture: Path) -> None:
    """Plot the losses and every figure of the validations over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    validations = [entry for entry in history if "validation" in entry]
    names = [name for name in UNITS if any(name in entry["validation"] for entry in validations)]
    panels = ["loss", *(name for name in names if name != "loss")]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2), squeeze=False)
    for name, ax in zip(panels, axes[0], strict=True):
        steps = [entry for entry in history if "loss" in entry]
        if name == "loss" and steps:
            ax.plot(
                [e["step"] for e in steps],
                [e.get("cross_entropy", e["loss"]) for e in steps],
                linewidth=0.8,
                label="training",
            )
        held = [(e["step"], e["validation"][name]) for e in validations if name in e["validation"]]
        if held:
            ax.plot(*zip(*held, strict=True), marker="o", markersize=3, label="held out")
        ax.set(title=name.replace("_", " "), xlabel="step", ylabel=UNITS.get(name, ""))
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(picture)
    plt.close(figure)
