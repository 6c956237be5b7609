"""Parameters that may change while a node runs, unlike those of `parameters.declare`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter


@dataclass(frozen=True)
class LiveParameter:
    """A parameter's default and check. wrong: why a value is invalid, in one line; empty for a valid one."""

    default: Any
    description: str
    wrong: Callable[[Any], str]


class LiveParameters:
    """Declares live parameters, validates each new value, and passes it to its setter."""

    def __init__(self, node: Node, parameters: Mapping[str, LiveParameter]) -> None:
        self._node, self._parameters = node, parameters
        self._wrong: Mapping[str, Callable[[Any], str]] = {}
        self._uses: Mapping[str, Callable[[Any], None]] = {}
        for name, parameter in parameters.items():
            descriptor = ParameterDescriptor(description=parameter.description, dynamic_typing=True)
            node.declare_parameter(name, parameter.default, descriptor)
        node.add_on_set_parameters_callback(self._on_set)

    def connect_setters(
        self, uses: Mapping[str, Callable[[Any], None]], wrong: Mapping[str, Callable[[Any], str]] | None = None
    ) -> None:
        """Pass each current value, and every new one, to its setter. Raises ValueError for an invalid current value.

        wrong: by a parameter's name, what from now on says why a value is invalid, in place of `LiveParameter.wrong`.
        """
        self._wrong = {name: parameter.wrong for name, parameter in self._parameters.items()} | dict(wrong or {})
        for name, use in uses.items():
            value = self._node.get_parameter(name).value
            if reason := self._wrong[name](value):
                raise ValueError(f"parameter {name} of {self._node.get_name()}: {reason}")
            use(value)
        self._uses = uses

    def pause(self) -> None:
        """Apply no new value until the next `connect_setters`, which reads the current ones."""
        self._uses = {}

    def _on_set(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        wanted = [(parameter.name, parameter.value) for parameter in parameters if parameter.name in self._uses]
        for name, value in wanted:
            if reason := self._wrong[name](value):
                return SetParametersResult(successful=False, reason=reason)
        for name, value in wanted:
            self._uses[name](value)
        return SetParametersResult(successful=True)
