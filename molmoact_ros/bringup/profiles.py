"""Profiles: which nodes run with which parameters, and the environment that they run in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict

from molmoact_ros.ros.arguments import with_uniform_lists
from molmoact_ros.ros.discovery import default_discovery
from molmoact_ros.utils.errors import one_line
from molmoact_ros.utils.paths import fastdds_profile, profile
from molmoact_ros.utils.ros_environment import check_environment

NODES: Final = (
    "sim", "realsense", "controller", "policy", "policies", "expert", "view", "foxglove", "joystick", "spacemouse",
    "leader", "recorder", "player", "panel", "benchmark_server",
)  # fmt: skip

SHOWING: Final = ("view", "panel", "foxglove")
"""Nodes that display state and take operators' input; motion does not depend on them."""

Parameters = dict[str, Any]
"""ROS parameters of one node, by name."""


def _text(value: object) -> object:
    """YAML reads the domain in `ROS_DOMAIN_ID: 7` as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _parameters(value: object) -> object:
    """The parameters of a node, none for `view:`. Raises ValueError for one that ROS has no type for."""
    if value is None:
        return {}
    for name, given in value.items() if isinstance(value, dict) else ():
        if given is None:
            raise ValueError(f"{name} has no value; give one, or leave the line out")
        if isinstance(given, dict):
            _parameters(given)  # those of a camera, say
        elif isinstance(given, list) and len({type(of) for of in with_uniform_lists(given)}) > 1:
            raise ValueError(f"{name} is a list of several types; a parameter has one, such as text in quotes")
    return value


class Profile(BaseModel):
    """The contents of a file in config/profiles.

    Args of `__init__`:
        nodes: parameters of each node to start, in that order.
        environment: variables for all of them, beside those of `environment()`.

    Raises:
        ValueError: for an unknown field or a wrong type (pydantic), and in `read` for an unknown node.
        FileNotFoundError: `read` without a profile of that name.

    Example:
        profile = Profile.read("sim").with_parameters({"controller": {"speed": 0.3}}).without("view")
    """

    model_config = ConfigDict(extra="forbid")
    nodes: dict[str, Annotated[Parameters, BeforeValidator(_parameters)]]
    environment: dict[str, Annotated[str, BeforeValidator(_text)]] = {}

    @staticmethod
    def read(name: str) -> Profile:
        """Read the profile `name`. Raises FileNotFoundError, naming the existing ones, or ValueError, in one line."""
        file = profile(name)
        try:
            contents = yaml.safe_load(file.read_text())
            if not isinstance(contents, dict):
                raise ValueError("it has no fields; write `nodes:`, and below it each node with its parameters")
            read = Profile.model_validate(contents)
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{file} is not a profile: {one_line(error)}") from None
        if unknown := sorted(set(read.nodes) - set(NODES)):
            raise ValueError(f"{file} names the node {unknown[0]!r}; there are {', '.join(NODES)}")
        return read

    def with_parameters(self, overrides: Mapping[str, Parameters]) -> Profile:
        """A copy with `overrides` applied; nodes that it lacks are added."""
        names = dict.fromkeys((*self.nodes, *overrides))
        nodes = {name: self.nodes.get(name, {}) | overrides.get(name, {}) for name in names}
        return Profile(nodes=nodes, environment=self.environment)

    def without(self, name: str) -> Profile:
        """A copy without a node."""
        rest = {node: parameters for node, parameters in self.nodes.items() if node != name}
        return Profile(nodes=rest, environment=self.environment)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The nodes' environment: this process', plus shared memory for images and discovery on this machine only.

    Variables that the user has set win over these defaults, and `extra` wins over both. Raises ValueError, in one line,
    where ROS cannot start with them.
    """
    defaults = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(fastdds_profile()),
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "OMP_NUM_THREADS": "1",
        **default_discovery(os.environ),
    }
    variables = defaults | dict(os.environ) | dict(extra or {})
    check_environment(variables)
    return variables


def use_environment() -> None:
    """Apply the nodes' environment to this process; call it before the first use of rclpy."""
    os.environ.update(environment())
