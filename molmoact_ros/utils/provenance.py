"""Provenance of measurements and recordings."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path


def machine(digest: str) -> dict[str, str]:
    """Processor, package versions, and the checkpoint's digest ("" without one)."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": f"{len(names)} x {names[0]}" if names else platform.processor(),
        "python": platform.python_version(),
        "checkpoint": digest,
        **{name: version(name) for name in ("molmoact-ros", "torch", "mujoco", "numpy")},
    }
