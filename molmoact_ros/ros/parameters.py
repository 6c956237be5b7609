"""ROS parameters from a pydantic model, which gives their defaults and validates their values."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from molmoact_ros.utils.errors import unfit

Model = TypeVar("Model", bound=BaseModel)


def _compiled(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(
            f"{text!r} is not a regular expression ({error}); write .* for any text, as in /front/.*"
        ) from None
    return text


Regex = Annotated[str, AfterValidator(_compiled)]
"""A parameter that is a regular expression, checked when it is declared."""
ALIKE: Final = 0.85
"""Similarity, 0..1, above which an unknown parameter is a misspelt one (difflib's ratio)."""


def declare(node: Node, model: type[Model], prefix: str = "", **defaults: object) -> Model:
    """Declare each field of `model` as a parameter of `node` and read its value, as launch and the command line set it.

    Fields are str, bool, int, float or lists of these, all with defaults; `defaults` override those of the model, and
    `prefix` precedes the parameters' names. Raises ValueError, in one line that names the parameter, when a value does
    not fit.
    """
    values = {}
    for name, field in model.model_fields.items():
        descriptor = ParameterDescriptor(description=field.description or "", read_only=True, dynamic_typing=True)
        default = defaults.get(name, field.default)
        if not node.has_parameter(prefix + name):  # a node is configured again after a clean-up
            node.declare_parameter(prefix + name, default, descriptor)
        value = node.get_parameter(prefix + name).value
        values[name] = [] if value is None and isinstance(default, list) else value  # an empty list has no type in rcl
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(_reason(error, prefix, node.get_name())) from None


def _reason(error: ValidationError, prefix: str, node: str) -> str:
    first = error.errors()[0]
    if not first["loc"]:  # parameters that do not fit together
        return f"parameters of {node}: {unfit(first)}"
    return f"parameter {prefix}{'.'.join(map(str, first['loc']))} of {node}: {unfit(first)}"


def refuse_misspelt(node: Node) -> None:
    """Raise ValueError where a parameter is set that is one of `node`'s, misspelt; warn of other unknown ones.

    ROS ignores what a node does not declare. Parameters of a sink that is not in use, say, may stay in a file.
    """
    declared = sorted(node.get_parameters_by_prefix(""))
    unknown = (name for name in node._parameter_overrides if not node.has_parameter(name))
    for name in sorted(unknown):
        if name.startswith("qos_overrides."):  # declared with the topics that have them
            continue
        near = get_close_matches(name, declared, 1, ALIKE)
        if near:
            raise ValueError(f"{node.get_name()} has no parameter {name!r}; write {near[0]!r}")
        node.get_logger().warning(f"the parameter {name!r} is not used here; see docs/topics.md")
