"""A training run in stages, whatever the model: seeded, saved every few minutes, resumed as if never interrupted.

FOLDER/progress.pt    modules, optimiser, stage, step and history
FOLDER/history.json   losses by stage and step, and what stages note; curves.png shows the losses
FOLDER/times.json     seconds that each stage took, over all interruptions
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.utils.whole_file import write_whole

CLIP = 1.0  # largest norm of a step's gradient
LAST_RATE = 0.05  # learning rate at a stage's end, as a share of its highest
REPORT_EVERY = 20  # steps
SMOOTHING = 10  # reports that a point of a curve averages


class DivergedTraining(RuntimeError):
    """The loss or its gradient is not finite. The message says which weights remain, and what to do."""


class StageConfig(BaseModel):
    """Hyperparameters of one stage. rate: the highest learning rate. warm_up: steps until then."""

    steps: int
    batch: int
    rate: float
    warm_up: int = 100

    def rate_at(self, step: int) -> float:
        """The learning rate at a step: linear warm-up, then cosine decay to `LAST_RATE`."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        progress = min(1.0, (step - self.warm_up) / max(1, self.steps - self.warm_up))
        return float(self.rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + np.cos(np.pi * progress))))


class TrainingRunConfig(BaseModel):
    """What all stages share. save_every: s. ahead: whether a process of its own makes the next batches meanwhile."""

    seed: int = 0
    weight_decay: float = 0.05
    save_every: float = 180.0
    ahead: bool = True


@dataclass
class Stage:
    """One stage of a run: what it trains, on which batches, by which loss.

    trained: holds the parameters that are trained. batches: the endless batches from a number on; a number always gives
    the same batch, and nothing but numpy or torch on the CPU is needed for it. loss: a batch to a scalar. prepare:
    called once before the stage's first batch, also after an interruption; it keeps what it has finished itself.
    finish: called after the last step; the figures that it returns are noted.
    """

    config: StageConfig
    trained: nn.Module
    batches: Callable[[int], Iterator[Any]]
    loss: Callable[[Any], Tensor]
    prepare: Callable[[], None] = lambda: None
    finish: Callable[[], dict[str, Any]] = dict


class StageTimes:
    """Seconds that each stage of a run took, over all interruptions; kept in a JSON file.

    Example:
        times = StageTimes(Path("runs/nano/times.json"))
        with times.measured("demonstrations"):
            ...
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
        self._running: tuple[str, float] | None = None

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Context whose time is added to the stage's; a context that ends well prints the sum."""
        self._running = name, time.monotonic()
        try:
            yield
        finally:
            self.save()
            self._running = None
        print(f"{name}: {self.said(name)}", flush=True)

    def save(self) -> None:
        """Write the times, with the running stage's until now."""
        if self._running is not None:
            name, since = self._running
            self._running = name, time.monotonic()
            self.seconds[name] = self.seconds.get(name, 0.0) + self._running[1] - since
        write_whole(self.file, json.dumps({name: round(s, 1) for name, s in self.seconds.items()}, indent=1))

    def said(self, name: str) -> str:
        """A stage's time as hours, minutes and seconds."""
        return str(timedelta(seconds=round(self.seconds.get(name, 0.0))))

    def total(self) -> str:
        """The time of all stages as hours, minutes and seconds."""
        return str(timedelta(seconds=round(sum(self.seconds.values()))))


class TrainingRun:
    """Holds modules, optimiser and progress; `run` trains all stages and saves regularly.

    Example:
        run = TrainingRun(folder, TrainingRunConfig(), {"model": model, "head": head}, {"vision": Stage(...)})
        run.resume()
        run.run()

    A step's randomness depends on the seed, the stage and the step's number alone, so a resumed run gives the weights
    of one that was never interrupted.
    """

    def __init__(
        self, folder: Path, config: TrainingRunConfig, modules: dict[str, nn.Module], stages: dict[str, Stage]
    ) -> None:
        """folder: receives everything. modules: all that is trained, by name. stages: by name, in order."""
        self.folder, self.config, self.stages = folder, config, stages
        self.modules, self.names = nn.ModuleDict(modules), list(stages)
        self.finished, self.step = 0, 0
        self.history: list[dict[str, Any]] = []
        self.times = StageTimes(folder / "times.json")
        self.optimiser = self._optimiser()

    @property
    def stage(self) -> str | None:
        """The stage that the run is in; None when all are finished."""
        return self.names[self.finished] if self.finished < len(self.names) else None

    def save(self) -> None:
        """Write everything that a later run needs to resume; what was there before remains until this is whole."""
        state = {
            "modules": self.modules.state_dict(), "finished": self.finished, "step": self.step,
            "history": self.history, "optimiser": self.optimiser.state_dict() if self.optimiser else None,
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / "progress.tmp"
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.folder / "progress.pt")
        write_whole(self.folder / "history.json", json.dumps(self.history))
        draw_curves(self.history, self.folder / "curves.png")
        self.times.save()

    def resume(self) -> bool:
        """Load the run saved in the folder; False if there is none."""
        path = self.folder / "progress.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.modules.load_state_dict(state["modules"])
        self.finished, self.step, self.history = state["finished"], state["step"], state["history"]
        self.optimiser = self._optimiser()
        if self.optimiser and state["optimiser"]:
            self.optimiser.load_state_dict(state["optimiser"])
        return True

    def skip_to(self, stage: str) -> None:
        """Go to the beginning of a stage."""
        self.finished, self.step = self.names.index(stage), 0
        self.optimiser = self._optimiser()

    def run(self) -> None:
        """Train from the current step to the end of the last stage. Raises DivergedTraining."""
        while self.stage is not None:
            name = self.stage
            with self.times.measured(name):
                self.stages[name].prepare()
                self._run_stage(name, self.stages[name])
                if figures := self.stages[name].finish():
                    self.note(figures)
                self.finished, self.step = self.finished + 1, 0
                self.optimiser = self._optimiser()
                self.save()

    def note(self, entry: dict[str, Any]) -> None:
        """Add an entry about the current stage to the history, which `save` writes."""
        self.history.append({"stage": self.stage, **entry})

    def _optimiser(self) -> torch.optim.Optimizer | None:
        if self.stage is None:
            return None
        parameters = list(self.stages[self.stage].trained.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), foreach=True)

    def _run_stage(self, name: str, stage: Stage) -> None:
        steps, saved = stage.config.steps, time.monotonic()
        if self.step >= steps:
            return
        batches = (made_ahead if self.config.ahead else _made_here)(stage.batches, self.step)
        with tqdm(total=steps, initial=self.step, desc=name, unit="step", mininterval=5) as bar:
            while self.step < steps:
                loss = self._update(stage, next(batches))
                self.step += 1
                bar.update()
                if self.step % REPORT_EVERY == 0 or self.step == steps:
                    self.note({"step": self.step, "loss": round(loss, 5)})
                    bar.set_postfix(loss=f"{loss:.3f}")
                if time.monotonic() - saved > self.config.save_every:
                    self.save()
                    saved = time.monotonic()

    def _update(self, stage: Stage, batch: Any) -> float:
        assert self.optimiser is not None
        for group in self.optimiser.param_groups:
            group["lr"] = stage.config.rate_at(self.step)
        torch.manual_seed(
            int(np.random.SeedSequence((self.config.seed, self.finished, self.step)).generate_state(1)[0])
        )
        device = next(self.modules.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_is_fast(device)):
            loss = stage.loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(stage.trained.parameters(), CLIP)
        value = float(loss.detach())
        if not np.isfinite([value, float(norm)]).all():
            raise DivergedTraining(
                f"step {self.step + 1} of {self.stage}: the loss is {value:.4g} and its gradient {float(norm):.4g}; "
                f"{self.folder} keeps what was saved last; try a lower rate, or look at the data"
            )
        self.optimiser.step()
        return value


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; a CPU without them takes eight times as long as for float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Numbered(IterableDataset[Any]):
    """Batches from a number on, as a data set."""

    def __init__(self, batches: Callable[[int], Iterator[Any]], first: int) -> None:
        self.batches, self.first = batches, first

    def __iter__(self) -> Iterator[Any]:
        return self.batches(self.first)


def made_ahead(batches: Callable[[int], Iterator[Any]], first: int) -> Iterator[Any]:
    """The batches from number `first` on, made by a process of its own, two ahead.

    The process is forked, so that it shares the data; it ends with the iterator, or with this process.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork
    data = _Numbered(batches, first)
    return iter(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=2, multiprocessing_context="fork"))


def _made_here(batches: Callable[[int], Iterator[Any]], first: int) -> Iterator[Any]:
    return batches(first)


def begin_run(file: Path, settings: dict[str, Any]) -> None:
    """Write down what a run is begun with, where nothing is written yet; it may be resumed only with the same."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(settings, indent=1))


def check_run(file: Path, settings: dict[str, Any], out: Path) -> None:
    """Raises CheckpointError, which names `out`, where the run of `begin_run`'s file was begun with other settings."""
    before = _flat(json.loads(file.read_text()))
    for name, value in _flat(json.loads(json.dumps(settings))).items():
        if (old := before.get(name)) != value:
            raise CheckpointError(f"{out} was begun with {name} {old}, not {value}; give it, or another --out")


def _flat(settings: dict[str, Any], lead: str = "") -> dict[str, Any]:
    """Nested settings as one table, such as "data.digest"."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        out |= _flat(value, f"{lead}{name}.") if isinstance(value, dict) else {f"{lead}{name}": value}
    return out


def draw_curves(history: list[dict[str, Any]], picture: Path) -> None:
    """Plot the loss of each stage over its steps, smoothed over `SMOOTHING` reports."""
    losses: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        if "loss" in entry:
            losses.setdefault(entry["stage"], []).append((entry["step"], entry["loss"]))
    figure, axes = plt.subplots(1, max(1, len(losses)), figsize=(4 * max(1, len(losses)), 3.5), squeeze=False)
    for (stage, points), ax in zip(losses.items(), axes[0], strict=False):
        steps, values = zip(*points, strict=True)
        smooth = [np.mean(values[max(0, i - SMOOTHING + 1) : i + 1]) for i in range(len(values))]
        ax.plot(steps, values, linewidth=0.5, alpha=0.4)
        ax.plot(steps, smooth, linewidth=1.2)
        ax.set(title=stage, xlabel="step", ylabel="loss")
    figure.tight_layout()
    figure.savefig(picture)
    plt.close(figure)
