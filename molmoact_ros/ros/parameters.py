"""ROS parameters from a pydantic model, which gives their defaults and validates their values."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

Model = TypeVar("Model", bound=BaseModel)


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
        values[name] = node.get_parameter(prefix + name).value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = prefix + ".".join(map(str, first["loc"]))
        raise ValueError(f"parameter {name} of {node.get_name()}: {first['msg']}") from None
