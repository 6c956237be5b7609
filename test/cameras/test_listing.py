"""What `doctor` and `cameras` say of the cameras that are plugged in."""

from __future__ import annotations

import sys

import pyrealsense2 as rs
import pytest
import yaml

from molmoact_ros.cli.main import main
from molmoact_ros.doctor.environment import cameras
from molmoact_ros.utils.checks import Verdict

from .software_camera import SoftwareCamera


def plug(monkeypatch: pytest.MonkeyPatch, *plugged: SoftwareCamera) -> None:
    """A context lists no software devices, so the list is put in its place."""
    monkeypatch.setattr(rs.context, "query_devices", lambda _: [camera.device for camera in plugged])


def test_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plug(monkeypatch)
    assert cameras().verdict is Verdict.NOTE and "no RealSense camera is plugged in" in cameras().text
    assert main(["cameras"]) == 1 and "docs/cameras.md" in capsys.readouterr().out


def test_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrist = SoftwareCamera("031422250347", "Intel RealSense D405")
    plug(monkeypatch, wrist, SoftwareCamera("234", usb="2.1"))
    said = cameras()
    assert said.verdict is Verdict.NOTE and "234 (Intel RealSense D435, USB 2.1)" in said.text
    assert "into USB 3" in said.text
    plug(monkeypatch, wrist, SoftwareCamera("234"))
    assert cameras().verdict is Verdict.OK
    assert main(["cameras"]) == 0
    part = yaml.safe_load(capsys.readouterr().out)["nodes"]["realsense"]
    assert part == {"cameras": ["front", "wrist"], "front": {"serial": "234"}, "wrist": {"serial": "031422250347"}}


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    assert cameras().verdict is Verdict.NOTE and "pip install 'molmoact_ros[realsense]'" in cameras().text
