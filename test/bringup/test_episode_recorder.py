"""What the collector reads in the recorder's status: when an episode may begin, and what was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray

from molmoact_ros.bringup import episode_recorder
from molmoact_ros.bringup.episode_recorder import STATUS, EpisodeRecorder
from molmoact_ros.ros.diagnostics import status


class NoProcess:
    """In place of the recorder's process, which other tests run."""

    def __init__(self, *unused: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EpisodeRecorder:
    monkeypatch.setattr(episode_recorder, "Bringup", NoProcess)
    made = EpisodeRecorder({}, tmp_path / "logs")
    made.start(tmp_path / "episode_000")
    return made


def reported(text: str, name: str = STATUS, **values: Any) -> DiagnosticArray:
    figures = {"messages": 0, "pictures_lost": 0, "others_lost": 0, "awaited": ""} | values
    return DiagnosticArray(status=[status(name, False, text, figures)])


def test_an_episode_may_begin_once_each_stream_has_reached_its_recorder(
    recorder: EpisodeRecorder, tmp_path: Path
) -> None:
    into = f"into {tmp_path / 'episode_000'}"
    recorder.observe_diagnostics(reported(into, awaited="/joint_states /wrist/color/image_raw"))
    recorder.observe_diagnostics(reported(into, messages=40, awaited="/joint_states"))
    assert not recorder.is_recording and recorder.awaited == "/joint_states"
    recorder.observe_diagnostics(reported(into))
    recorder.observe_diagnostics(reported(f"into {tmp_path / 'another'}", messages=90))
    recorder.observe_diagnostics(reported(into, "another: bag", messages=90))
    assert not recorder.is_recording, "nothing is in its bag yet"
    recorder.observe_diagnostics(reported(into, messages=90))
    assert recorder.is_recording and not recorder.loss


def test_a_loss_is_one_line(recorder: EpisodeRecorder) -> None:
    recorder.observe_diagnostics(reported("the disk is full", messages=90, pictures_lost=2, others_lost=1))
    assert recorder.loss == "the disk is full (2 images and 1 other messages are lost)"
