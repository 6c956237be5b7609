"""The soak: what it calls growth, and that it sees every node."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path

import pytest

from molmoact_ros.benchmarks.soak import Sample, judge
from molmoact_ros.cli.main import main

MB = 1_000_000


def samples(slope: float, noise: float = 0.0, minutes: int = 60) -> list[Sample]:
    """One each 10 s: 100 MB, more by `slope` MB a minute, off by up to `noise` MB."""
    rng = random.Random(0)
    return [
        Sample(10.0 * k, round((100 + slope * k / 6 + rng.uniform(-noise, noise)) * MB), 9, 40)
        for k in range(6 * minutes + 1)
    ]


def test_m9_growth_is_seen_and_noise_is_not_growth() -> None:
    assert judge(samples(0.05), 3600).grew, "5 MB more in 50 minutes"
    steady = judge(samples(0.0, noise=5.0), 3600)
    assert not steady.grew and abs(steady.growth) < 0.02
    early = [Sample(s.seconds, min(s.memory, 110 * MB), 9, 40) for s in samples(2.0)]
    assert not judge(early, 3600).grew, "what is taken before minute 10 is no growth"
    with pytest.raises(ValueError, match="too few samples"):
        judge(samples(0.0, minutes=1), 3600)


def test_a_sample_counts_memory_threads_and_descriptors_of_a_process(tmp_path: Path) -> None:
    before = Sample.of(os.getpid(), 0.0)
    held = bytearray(os.urandom(50 * MB))
    with (tmp_path / "one").open("w"), (tmp_path / "two").open("w"):
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        after = Sample.of(os.getpid(), 1.0)
        stop.set()
        thread.join()
    assert after.memory - before.memory > 0.9 * len(held)
    assert (after.threads, after.descriptors) == (before.threads + 1, before.descriptors + 2)


@pytest.mark.alone
def test_the_soak_watches_every_node_and_keeps_the_disk_small(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(["bench", "soak", "--minutes", "0.15", "--json", str(tmp_path / "soak.json")])
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert set(figures["nodes"]) == {"sim", "controller", "policy", "view", "panel", "recorder"}
    for node, of in figures["samples"].items():
        assert len(of) >= 2 and all(s["memory"] > 10 * MB and s["threads"] and s["descriptors"] for s in of), node
    grown = [node for node, of in figures["nodes"].items() if of["growth"] > 0.02]
    assert status == (1 if grown else 0), "nodes that have just begun may still grow"
    out = capsys.readouterr().out
    assert "min," in out and "recorder" in out and all(node in out for node in grown)
    assert not list(tmp_path.glob("molmoact-*"))
