"""Which computers' nodes are discovered: this one's alone, unless the user has chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DISCOVERY: Final = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER")
"""Variables by which a user chooses which computers' nodes are discovered."""


def default_discovery(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that limit discovery to this computer; none where `environ` has any of DISCOVERY."""
    chosen = any(name in environ for name in DISCOVERY)
    return {} if chosen else {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
