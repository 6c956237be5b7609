"""`molmoact-ros cameras`: the RealSense cameras that are plugged in."""

from __future__ import annotations

import argparse

from molmoact_ros.cameras.realsense import import_pyrealsense2, list_devices, profile_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""


def run(args: argparse.Namespace) -> int:
    """List the cameras, and print their part of a profile; returns 1 where there are none."""
    cameras = list_devices(import_pyrealsense2().context().query_devices())
    for camera in cameras:
        print(f"# {camera}" + (": USB 2 is slow, plug it into USB 3" if camera.is_slow else ""))
    print(profile_of(cameras) if cameras else "no RealSense camera is plugged in; docs/cameras.md says what to check")
    return 0 if cameras else 1
