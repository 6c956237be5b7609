"""Which computers' nodes DDS discovers: only those of this one, unless the user has configured it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DISCOVERY: Final = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER")
"""Environment variables by which a user configures discovery."""


def default_discovery(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that limit discovery to this computer; empty where `environ` already sets any of DISCOVERY."""
    chosen = any(name in environ for name in DISCOVERY)
    return {} if chosen else {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
